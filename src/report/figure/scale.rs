//! The loss scale and the skipped steps: where something happens, not over all steps alike.

use crate::record::RunRecord;
use crate::report::skips;
use crate::report::table::{Row, Table};
use crate::report::text;

use super::{
    Arrange, Axis, Choices, Figure, Key, Layer, Look, Marks, Panel, Spot, Stroke, Swatch, first_of,
    label, look, loss, room_for,
};

/// Runs whose skipped steps have a line of their own.
const MOST_RUNS: usize = 24;

/// A variant that scales its loss or skipped a step.
struct Scaled<'a> {
    series: usize,
    row: &'a Row<'a>,
    look: Look,
}

/// Runs of one variant whose loss scale was the same at every step.
struct Group<'a> {
    variant: &'a Scaled<'a>,
    runs: Vec<&'a RunRecord>,
    /// What its line is multiplied by, so that it does not hide another.
    apart: f64,
}

impl Group<'_> {
    /// `seeds 0–2 and 5`, behind the variant's name where several variants scale their loss.
    fn label(&self, named: bool) -> String {
        let seeds: Vec<u64> = self.runs.iter().map(|run| run.summary.seed).collect();
        let name = if named { format!("{}, ", label(self.variant.row)) } else { String::new() };
        format!("{name}{}", seed_words(&seeds))
    }

    /// The scale at a step.
    fn at(&self, step: f64) -> Option<f64> {
        let points = staircase(self.runs[0]);
        points.iter().take_while(|point| point.0 <= step).last().map(|point| point.1)
    }
}

/// `seed 3`, or `seeds 0–2, 5`.
fn seed_words(seeds: &[u64]) -> String {
    let runs = seeds.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [only] => only.to_string(),
        [first, .., last] => format!("{first}–{last}"),
        [] => String::new(),
    });
    let noun = if seeds.len() == 1 { "seed" } else { "seeds" };
    format!("{noun} {}", runs.collect::<Vec<_>>().join(", "))
}

/// Whether a variant scales its loss.
fn scales(row: &Row<'_>) -> bool {
    row.scales || row.records.iter().any(|record| !record.scale.is_empty())
}

/// The figure.
pub(super) fn figure(table: &Table<'_>) -> Figure {
    let rows = table.rows.iter().enumerate();
    let shown = rows.filter(|(_, row)| scales(row) || row.numerics.skipped_steps > 0);
    let scaled: Vec<Scaled<'_>> =
        shown.map(|(series, row)| Scaled { series, row, look: look(table, series) }).collect();
    let steps = table.steps();
    let legend = scaled.iter().map(|variant| Key {
        label: label(variant.row),
        swatch: Swatch::Line(variant.look),
        series: Some(variant.series),
    });
    let groups = groups(&scaled);
    let ranges = ranges(&scaled, steps);
    let nothing = if scaled.iter().any(|variant| scales(variant.row)) {
        "No run record holds a loss scale."
    } else {
        "No variant scales its loss."
    };
    let of_range = |range: &(f64, f64)| scale_panel(&groups, *range, steps, nothing);
    let mut panels: Vec<Panel> = ranges.iter().map(of_range).collect();
    let skipped = runs_with_skips(&scaled).count();
    if skipped > 0 {
        let range = if ranges.len() == 1 { ranges[0] } else { (0.0, steps as f64) };
        panels.push(skip_panel(&scaled, range, loss::window(steps) as u64));
    }
    let mut legend: Vec<Key> = legend.collect();
    if skipped > 0 {
        legend.push(Key::of_mark("skipped step", Swatch::Cross));
    }
    Figure {
        file: "loss-scale".into(),
        title: "Loss scale and skipped steps".to_owned(),
        subtitle: "Runs whose loss scale is the same are one line. Shown: the steps in which something happens."
            .to_owned(),
        alt: alt(&scaled),
        room: 180.0 * ranges.len() as f64 + room_for(skipped.min(MOST_RUNS), 20.0),
        arrange: Arrange::Stacked,
        legend,
        panels,
        notes: notes(&scaled, groups.len(), steps),
    }
}

fn notes(scaled: &[Scaled<'_>], groups: usize, steps: usize) -> Vec<String> {
    let sentence = |variant: &Scaled<'_>| {
        Some(format!("{}: {}.", label(variant.row), skips::sentence(variant.row)?))
    };
    let mut notes: Vec<String> = scaled.iter().filter_map(sentence).collect();
    if groups > 1 {
        notes.push("Lines are moved apart a little where they would hide each other.".to_owned());
    }
    let window = loss::window(steps);
    if window > 1 {
        notes.push(format!(
            "Thinned for drawing: the skipped steps among {window} in a row are one mark."
        ));
    }
    let runs = runs_with_skips(scaled).count();
    notes.extend(first_of(MOST_RUNS, runs, "runs with skipped steps", "the page lists all runs"));
    notes
}

/// The runs of each variant by their loss scale.
fn groups<'a>(scaled: &'a [Scaled<'a>]) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for variant in scaled {
        for run in variant.row.records.iter().filter(|run| known(run).next().is_some()) {
            let same = |group: &&mut Group<'_>| {
                group.variant.series == variant.series && known(group.runs[0]).eq(known(run))
            };
            match groups.iter_mut().find(same) {
                Some(group) => group.runs.push(run),
                None => groups.push(Group { variant, runs: vec![run], apart: 1.0 }),
            }
        }
    }
    let number = groups.len() as f64;
    for (place, group) in groups.iter_mut().enumerate() {
        let lane = (place as f64 - (number - 1.0) / 2.0) * (0.5 / number).min(0.1);
        group.apart = (-lane).exp2();
    }
    groups
}

/// The steps that are shown: the first ones, if the scale settles in them, and those in which something happens later; all
/// where nothing ever does.
fn ranges(scaled: &[Scaled<'_>], steps: usize) -> Vec<(f64, f64)> {
    let records = || scaled.iter().flat_map(|variant| &variant.row.records);
    let settled = |record: &RunRecord| skips::settling(record).len() as u64;
    let opening = records().map(|record| settled(record)).max().unwrap_or(0);
    let later = |record: &&RunRecord| {
        let end = settled(record);
        let scale = known(record).map(|(step, _)| *step).filter(move |step| *step > end);
        let skips = record.skips.iter().map(|skip| skip.step).filter(move |step| *step >= end);
        scale.chain(skips).collect::<Vec<_>>()
    };
    let later: Vec<u64> = records().flat_map(later).collect();
    let end = steps.max(1) as f64;
    let mut ranges = Vec::new();
    if opening > 0 {
        ranges.push((0.0, (2.0 * opening as f64 + 3.0).min(end)));
    }
    if let (Some(first), Some(last)) = (later.iter().min(), later.iter().max()) {
        let air = ((last - first) as f64 * 0.1).max(4.0);
        let near = ((*first as f64 - air).floor().max(0.0), (*last as f64 + air).ceil().min(end));
        let whole = near.1 - near.0 > 0.5 * end;
        match ranges.last_mut() {
            _ if whole => ranges.push((0.0, end)),
            // One plot of both, where they meet.
            Some((_, opening)) if near.0 <= *opening => *opening = opening.max(near.1),
            _ => ranges.push(near),
        }
    }
    if ranges.is_empty() {
        ranges.push((0.0, end));
    }
    ranges
}

fn scale_panel(
    groups: &[Group<'_>],
    range: (f64, f64),
    steps: usize,
    nothing: &'static str,
) -> Panel {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    let mut layers = Vec::new();
    let named = groups.iter().any(|group| group.variant.series != groups[0].variant.series);
    for group in groups {
        let points = staircase(group.runs[0]);
        low = points.iter().map(|point| point.1).fold(low, f64::min);
        high = points.iter().map(|point| point.1).fold(high, f64::max);
        layers.extend(group_layers(group, points, loss::window(steps) as u64));
    }
    let empty = groups.is_empty().then_some(nothing);
    let (from, to) = if low > high { (1.0, 2.0) } else { (low / 1.5, high * 1.5) };
    let mut y =
        Axis::powers("", 2.0, (from, to), |exponent| format!("2{}", text::raised(exponent)));
    if empty.is_some() {
        y.ticks.clear();
    }
    let part = (range.0 > 0.0 || range.1 < steps as f64)
        .then(|| format!(", steps {:.0}–{:.0} of {}", range.0, range.1, text::count(steps as u64)));
    Panel {
        title: format!("loss scale{}", part.unwrap_or_default()),
        x: step_axis(range),
        y: y.with(Choices { log: true, zero: false }),
        layers,
        gutter: gutter(groups, range.1, named),
        empty: empty.map(str::to_owned),
        weight: 1.0,
    }
}

/// The steps shown, and a little before them: a mark on the first is seen whole.
fn step_axis((from, to): (f64, f64)) -> Axis {
    let mut axis = Axis::step_range((from - 0.02 * (to - from), to));
    axis.ticks.retain(|tick| tick.at >= from);
    axis
}

/// At the end of the lines, whose they are.
fn gutter(groups: &[Group<'_>], end: f64, named: bool) -> Vec<(f64, String)> {
    let mut labels: Vec<(f64, Vec<String>)> = Vec::new();
    for group in groups {
        let Some(scale) = group.at(end) else { continue };
        match labels.iter_mut().find(|(known, _)| *known == scale) {
            Some((_, labels)) => labels.push(group.label(named)),
            None => labels.push((scale, vec![group.label(named)])),
        }
    }
    labels.into_iter().map(|(scale, all)| (scale, text::shorten(&all.join("; "), 36))).collect()
}

/// A group's line, its changes, and its skipped steps on it.
fn group_layers(group: &Group<'_>, points: Vec<(f64, f64)>, window: u64) -> Vec<Layer> {
    let series = group.variant.series;
    let look = Look { dash: &[], ..group.variant.look };
    let who = group.label(true);
    let moved = |(step, scale): (f64, f64)| (step, scale * group.apart);
    let changes = known(group.runs[0]).map(|(step, scale)| Spot {
        at: moved((*step as f64, *scale)),
        words: format!("{who}: {} from step {}", skips::scale(*scale), text::count(*step)),
    });
    let spots: Vec<Spot> = changes.collect();
    let skipped = group.runs.iter().flat_map(|run| {
        let name = label(group.variant.row);
        marks(run, window).into_iter().map(move |(step, words)| Spot {
            at: moved((step, group.at(step).unwrap_or(1.0))),
            words: format!("{name}, seed {}: {words}", run.summary.seed),
        })
    });
    let crosses = Marks::Crosses { spots: skipped.collect(), colour: look.colour };
    let points = points.into_iter().map(moved).collect();
    vec![
        Layer::of(series, Marks::Line { points, look, stroke: Stroke::Main }),
        Layer::of(series, Marks::Points { spots, look }),
        Layer::of(series, crosses),
    ]
}

/// The changes of a run's scale that can be: over 0, at a step that it has.
fn known(record: &RunRecord) -> impl Iterator<Item = &(u64, f64)> {
    let steps = record.loss.len() as u64;
    record
        .scale
        .iter()
        .filter(move |(step, scale)| *scale > 0.0 && scale.is_finite() && *step <= steps)
}

/// The scale over the steps of a run.
fn staircase(record: &RunRecord) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> = Vec::new();
    for &(step, scale) in known(record) {
        if let Some(&(_, before)) = points.last() {
            points.push((step as f64, before));
        }
        points.push((step as f64, scale));
    }
    if let Some(&(_, last)) = points.last() {
        points.push((record.loss.len() as f64, last));
    }
    points
}

/// The skipped steps of a run, those that would lie on each other together: the first of them, and what they are.
fn marks(record: &RunRecord, window: u64) -> Vec<(f64, String)> {
    let groups = record.skips.chunk_by(|a, b| a.step / window == b.step / window);
    let mark = |group: &[crate::record::Skip]| {
        let (first, last) = (&group[0], &group[group.len() - 1]);
        let layer = text::printable(&first.layer);
        let words = match group.len() {
            1 => format!("skipped step {}, layer {layer}", text::count(first.step)),
            number => format!(
                "skipped {number} steps from {} to {}, the first for layer {layer}",
                text::count(first.step),
                text::count(last.step)
            ),
        };
        (first.step as f64, words)
    };
    groups.map(mark).collect()
}

/// The runs that skipped a step, each with its variant.
fn runs_with_skips<'a>(
    scaled: &'a [Scaled<'a>],
) -> impl Iterator<Item = (&'a Scaled<'a>, &'a RunRecord)> {
    let runs = scaled
        .iter()
        .flat_map(|variant| variant.row.records.iter().map(move |run| (variant, *run)));
    runs.filter(|(_, run)| !run.skips.is_empty())
}

/// A line for each run that skipped a step, with the layers at its end.
fn skip_panel(scaled: &[Scaled<'_>], range: (f64, f64), window: u64) -> Panel {
    let (mut layers, mut labels, mut gutter) = (Vec::new(), Vec::new(), Vec::new());
    for (place, (variant, run)) in runs_with_skips(scaled).take(MOST_RUNS).enumerate() {
        let name = format!("{}, seed {}", label(variant.row), run.summary.seed);
        let spots = marks(run, window).into_iter().map(|(step, words)| Spot {
            at: (step, place as f64),
            words: format!("{name}: {words}"),
        });
        let crosses = Marks::Crosses { spots: spots.collect(), colour: variant.look.colour };
        layers.push(Layer::of(variant.series, crosses));
        labels.push(name);
        gutter.push((place as f64, skips::layers(run)));
    }
    Panel {
        title: "skipped steps by run, with the layer whose gradient or result was not finite"
            .to_owned(),
        x: step_axis(range),
        weight: 0.25 + 0.12 * labels.len() as f64,
        y: Axis::categories(labels),
        layers,
        gutter,
        empty: None,
    }
}

fn alt(scaled: &[Scaled<'_>]) -> String {
    if scaled.is_empty() {
        return "No variant scales its loss, and no step was skipped.".to_owned();
    }
    let variants = scaled.iter().map(|variant| {
        let last = variant.row.records.iter().filter_map(|record| record.scale.last());
        let last: Vec<String> = last.map(|(_, scale)| scale.to_string()).collect();
        let scale = match (scales(variant.row), last.is_empty()) {
            (false, _) => "no loss scale".to_owned(),
            (true, true) => "loss scale not recorded".to_owned(),
            (true, false) => format!("loss scale {} at the end", text::list(&last)),
        };
        let skipped = skips::sentence(variant.row).unwrap_or_else(|| match variant.row.steps {
            0 => "no run".to_owned(),
            steps => format!("no skipped step of {}", text::count(steps)),
        });
        format!("{}: {scale}; {skipped}", variant.row.label())
    });
    let variants: Vec<String> = variants.collect();
    format!("Loss scale and skipped steps. {}.", variants.join(". "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Skip;
    use crate::report::fixture;

    #[test]
    fn skips_that_would_lie_on_each_other_are_one_mark() {
        let mut record = fixture::loaded().records[0].clone();
        let skip = |step| Skip { step, layer: "output".to_owned() };
        record.skips = [0, 3, 4, 9, 25].map(skip).to_vec();
        let first = |window| marks(&record, window).iter().map(|mark| mark.0).collect::<Vec<_>>();
        assert_eq!(first(5), [0.0, 9.0, 25.0]);
        assert_eq!(first(1).len(), 5);
        let words = marks(&record, 5);
        assert_eq!(words[0].1, "skipped 3 steps from 0 to 4, the first for layer output");
        assert_eq!(words[1].1, "skipped step 9, layer output");
    }

    #[test]
    fn seeds_in_a_row_are_a_range() {
        assert_eq!(seed_words(&[0, 1, 2, 5]), "seeds 0–2, 5");
        assert_eq!(seed_words(&[3]), "seed 3");
    }

    /// 240 steps. In the fixture the scale falls in steps 2 and 4, after the first update, and rises at step 120.
    #[test]
    fn the_steps_shown_are_those_in_which_something_happens() {
        let shown = |change: &dyn Fn(&mut RunRecord)| {
            let mut loaded = fixture::loaded();
            loaded.records.iter_mut().for_each(change);
            let loaded = [loaded];
            let table = Table::of(&loaded);
            let row = &table.rows[1];
            ranges(&[Scaled { series: 1, row, look: Look::of(1) }], 240)
        };
        let set = |record: &mut RunRecord, skips: &[u64], scale: &[(u64, f64)]| {
            let skip = |step: &u64| Skip { step: *step, layer: "output".to_owned() };
            record.skips = skips.iter().map(skip).collect();
            record.scale = scale.to_vec();
        };
        assert_eq!(shown(&|record| set(record, &[], &[(0, 4.0)])), [(0.0, 240.0)]);
        let settles = [(0, 4.0), (1, 2.0), (2, 1.0)];
        assert_eq!(shown(&|record| set(record, &[0, 1], &settles)), [(0.0, 7.0)]);
        let rises = [(0, 4.0), (1, 2.0), (100, 4.0)];
        assert_eq!(shown(&|record| set(record, &[0], &rises)), [(0.0, 5.0), (96.0, 104.0)]);
        let soon = [(0, 4.0), (1, 2.0), (8, 1.0)];
        assert_eq!(shown(&|record| set(record, &[0, 7], &soon)), [(0.0, 12.0)]);
        assert_eq!(shown(&|record| set(record, &[3, 200], &[(0, 4.0)])), [(0.0, 240.0)]);
    }
}
