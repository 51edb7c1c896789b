//! Times on several kinds of machine, one below the other. The rest of a report has those of the first.

use crate::claims::wording;
use crate::record::{ClaimResult, Environment, KindTimes, Results, VariantTimes};

use super::load::Loaded;
use super::section::{Section, SectionRow};
use super::table::{Line, time_cell};
use super::{sentences, text};

/// The heading of these tables.
const HEADING: &str = "Times on kinds of machine";

/// The titles of the columns. The last two are claims.
const TITLES: [&str; 7] =
    ["kind", "variant", "step time", "training", "inference time", "train-time", "infer-time"];

/// The tables of the experiments that were timed on several.
pub(super) fn on_kinds(experiments: &[Loaded]) -> Vec<Section> {
    let timed = experiments.iter().filter(|loaded| !loaded.results.other_kinds.is_empty());
    let section = |loaded: &Loaded| Section {
        heading: HEADING,
        experiment: sentences::label(experiments, loaded),
        titles: TITLES.map(str::to_owned).to_vec(),
        rows: rows(&loaded.results),
        about: about(&loaded.results),
    };
    timed.map(section).collect()
}

/// A row for each kind and variant.
fn rows(results: &Results) -> Vec<SectionRow> {
    let first: Vec<VariantTimes> = results.variants.iter().cloned().map(VariantTimes::of).collect();
    let of = |kind: &str, variants: &[VariantTimes], claims: &[ClaimResult]| {
        let row = |times| row(kind, times, (claims, &results.plan.baseline));
        variants.iter().map(row).collect::<Vec<_>>()
    };
    let mut rows = of(first_kind(results), &first, &results.claims);
    for KindTimes { kind, variants, claims, .. } in &results.other_kinds {
        rows.extend(of(kind, variants, claims));
    }
    rows
}

/// The name of the kind that the rest of the report is about.
fn first_kind(results: &Results) -> &str {
    results.machine_kind.as_deref().unwrap_or(text::NOT_MEASURED)
}

fn row(kind: &str, times: &VariantTimes, (claims, baseline): (&[ClaimResult], &str)) -> SectionRow {
    let is_baseline = times.name == baseline;
    let mut name = vec![Line::value(text::printable(&times.name))];
    name.extend(is_baseline.then(|| Line::detail("baseline")));
    name.extend(times.emulated.then(|| Line::detail("emulated")));
    let step = times.train.as_ref().map(|train| train.step_seconds);
    let inference = times.inference.as_ref().and_then(|inference| inference.batch_seconds);
    let speed = times.train_time_ratio.map(|ratio| wording::speed(ratio, baseline));
    let claim = |id: &str| {
        let judged = claims.iter().find(|claim| claim.id == id && claim.variant == times.name);
        judged.map(|claim| text::claim_verdict(claim.verdict).to_owned())
    };
    let words = |words: Option<String>| {
        let words = words.unwrap_or_else(|| text::NOT_MEASURED.to_owned());
        vec![Line::value(text::printable(&words))]
    };
    let [.., train_claim, inference_claim] = TITLES;
    let cells = vec![
        vec![Line::value(text::printable(kind))],
        name,
        time_cell(times.emulated, step, times.train_time_ratio),
        words(speed),
        time_cell(times.emulated, inference, times.inference_time_ratio),
        words(claim(train_claim)),
        words(claim(inference_claim)),
    ];
    SectionRow { is_baseline, cells }
}

/// How to read the table.
fn about(results: &Results) -> Vec<String> {
    let first = first_kind(results);
    let mut said = vec![
        "All variants took turns on one machine of each kind. × is variant ÷ baseline, paired by block, with its 95% interval. Times of two \
         kinds are of two machines: compare their ratios."
            .to_owned(),
        format!("The rest of this report has the times of {first}."),
    ];
    let machine =
        |kind: &str, on: &Environment| format!("{kind}: {}.", text::origin(on).join(", "));
    said.push(machine(first, &results.environment));
    for KindTimes { kind, environment, .. } in &results.other_kinds {
        said.push(machine(kind, environment));
        said.extend(environment.notes.iter().map(|note| format!("{kind}: {note}")));
    }
    said.iter().map(|sentence| text::printable(sentence)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::loaded;
    use super::*;
    use crate::record::{ClaimVerdict, Estimate};
    use crate::units::Ratio;

    fn words(cell: &[Line]) -> Vec<&str> {
        cell.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn every_kind_has_a_row_for_each_variant() {
        let mut loaded = loaded();
        let results = &mut loaded.results;
        let mut variants: Vec<VariantTimes> =
            results.variants.iter().cloned().map(VariantTimes::of).collect();
        let [low, value, high] = [0.4, 0.5, 0.64].map(Ratio);
        variants[1].train_time_ratio = Some(Estimate { value, low, high });
        let claim = ClaimResult {
            id: "train-time".to_owned(),
            variant: variants[1].name.clone(),
            verdict: ClaimVerdict::Inconclusive,
            measured: None,
            threshold: String::new(),
            missing: None,
        };
        let environment =
            Environment { notes: vec!["It was busy.".to_owned()], ..Environment::default() };
        results.machine_kind = Some("h100".to_owned());
        results.other_kinds = vec![KindTimes {
            kind: "cpu".to_owned(),
            environment,
            other_load: None,
            variants,
            claims: vec![claim],
        }];
        let number = results.variants.len();
        let [section] = &on_kinds(&[loaded])[..] else { panic!("one table") };
        let kinds: Vec<Vec<&str>> = section.rows.iter().map(|row| words(&row.cells[0])).collect();
        assert_eq!(kinds[..number], vec![vec!["h100"]; number]);
        assert_eq!(kinds[number..], vec![vec!["cpu"]; number]);
        // By hand: 1 ÷ 0.5, 1 ÷ 0.64 and 1 ÷ 0.4.
        let row = &section.rows[number + 1];
        assert_eq!(words(&row.cells[3]), ["2.00× as fast as fp32 (1.56–2.50×)"]);
        assert_eq!(words(&row.cells[2])[1..], ["0.50×", "(0.40–0.64×)"]);
        assert_eq!([&row.cells[5], &row.cells[6]].map(|cell| words(cell)), [["open"], ["—"]]);
        assert!(section.rows[number].is_baseline && !row.is_baseline);
        assert_eq!(section.about[1], "The rest of this report has the times of h100.");
        assert_eq!(section.about.last().unwrap(), "cpu: It was busy.");
    }

    #[test]
    fn one_kind_has_no_table_of_its_own() {
        assert_eq!(on_kinds(&[loaded()]), []);
    }
}
