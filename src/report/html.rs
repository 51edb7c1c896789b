//! `report.html`: one file that needs nothing else. What stands in it is prepared here; how it looks is in
//! `report.html` and `report.css` beside this file.

use askama::Template;

use crate::record::{ClaimResult, Counts, ExponentHistogram, Role, RunRecord, RunSummary};

use super::load::Loaded;
use super::table::{LEGEND, Line, Row, TITLES, Table, variants};
use super::{Drawing, text};

#[derive(Template)]
#[template(path = "report.html")]
struct Page {
    title: String,
    origin: Vec<String>,
    complete: bool,
    titles: [&'static str; 11],
    rows: Vec<HtmlRow>,
    legend: [&'static str; 5],
    reading: Vec<String>,
    figures: Vec<HtmlFigure>,
    details: Vec<Detail>,
    claims: Vec<Claim>,
    environment: Vec<(&'static str, String)>,
    plan: String,
    css: &'static str,
}

struct HtmlRow {
    baseline: bool,
    name: Vec<Line>,
    cells: Vec<Vec<Line>>,
}

struct HtmlFigure {
    title: String,
    alt: String,
    /// Written by our own drawing code, which escapes every text.
    svg: String,
}

/// The numerics of one variant.
struct Detail {
    name: String,
    policy: String,
    runs: Vec<[String; 7]>,
    gradients: String,
    layers: Vec<[String; 8]>,
}

struct Claim {
    id: String,
    variant: String,
    verdict: &'static str,
    measured: String,
    threshold: String,
    missing: String,
}

/// The page's bytes.
pub(super) fn render(
    loaded: &Loaded,
    table: &Table,
    reading: &[String],
    drawings: &[Drawing<'_>],
) -> Result<Vec<u8>, String> {
    let results = &loaded.results;
    let environment = &results.environment;
    let page = Page {
        title: text::printable(&results.experiment),
        origin: [
            environment.device.clone(),
            environment.device_name.clone(),
            text::plural(environment.threads, "thread"),
            format!("mantissa {}", environment.version),
            environment.started.clone(),
        ]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect(),
        complete: results.complete,
        titles: TITLES,
        rows: table.rows.iter().map(html_row).collect(),
        legend: LEGEND,
        reading: reading.to_vec(),
        figures: drawings.iter().map(html_figure).collect(),
        details: table.rows.iter().map(|row| detail(loaded, row)).collect(),
        claims: results.claims.iter().map(claim).collect(),
        environment: environment_rows(loaded),
        plan: serde_json::to_string_pretty(&results.plan).map_err(|error| error.to_string())?,
        css: include_str!("report.css"),
    };
    page.render().map(String::into_bytes).map_err(|error| error.to_string())
}

fn html_row(row: &Row) -> HtmlRow {
    let [name, cells @ ..] = row.cells();
    HtmlRow { baseline: row.is_baseline, name, cells: cells.to_vec() }
}

fn html_figure(drawing: &Drawing<'_>) -> HtmlFigure {
    HtmlFigure {
        title: drawing.figure.title.clone(),
        alt: drawing.figure.alt.clone(),
        svg: drawing.svg.clone(),
    }
}

fn claim(claim: &ClaimResult) -> Claim {
    Claim {
        id: text::printable(&claim.id),
        variant: text::printable(&claim.variant),
        verdict: text::claim_verdict(claim.verdict),
        measured: text::measure(claim.measured),
        threshold: text::printable(&claim.threshold),
        missing: text::printable(claim.missing.as_deref().unwrap_or_default()),
    }
}

fn detail(loaded: &Loaded, row: &Row) -> Detail {
    let variant = variants(&loaded.results).into_iter().find(|variant| variant.name == row.name);
    let runs = variant.map(|variant| variant.runs.clone()).unwrap_or_default();
    let gradients = row.numerics.gradients;
    Detail {
        name: row.label(),
        policy: text::printable(&row.policy),
        runs: runs.iter().map(run_cells).collect(),
        gradients: format!(
            "Weight gradients over every step, after unscaling: {} values, of them {} zeros, {} subnormals, {} infinities and {} NaNs.",
            text::count(gradients.elements),
            text::count(gradients.zero),
            text::count(gradients.subnormal),
            text::count(gradients.infinite),
            text::count(gradients.nan)
        ),
        layers: layers(loaded.records_of(&row.name)),
    }
}

fn run_cells(run: &RunSummary) -> [String; 7] {
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| text::NOT_MEASURED.to_owned());
    let why = run.failure.as_ref().map(|failure| format!(" {}", text::failure(failure)));
    let status = format!("{}{}", text::status(run.status), why.unwrap_or_default());
    [
        run.seed.to_string(),
        text::printable(&status),
        or_dash(run.test_accuracy.map(text::percent)),
        or_dash(run.final_loss.map(text::decimal)),
        text::count(run.steps),
        text::count(run.skipped_steps),
        or_dash(run.weights_digest.as_ref().map(|d| text::shorten(d, 13))),
    ]
}

/// A layer, a role, its counts, and the lowest and the highest binade that holds a value.
type LayerSum<'a> = (&'a str, Role, Counts, Option<(i32, i32)>);

/// The census by layer and role, summed over the runs, in the order in which the records list them.
fn layers<'a>(records: impl Iterator<Item = &'a RunRecord>) -> Vec<[String; 8]> {
    let mut sums: Vec<LayerSum<'_>> = Vec::new();
    for entry in records.flat_map(|record| &record.census) {
        let range = binades(&entry.exponents);
        let known = sums.iter_mut().find(|s| s.0 == entry.layer && s.1 == entry.role);
        match known {
            Some(sum) => {
                sum.2 = sum.2.plus(entry.counts);
                sum.3 = match (sum.3, range) {
                    (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
                    (a, b) => a.or(b),
                };
            }
            None => sums.push((&entry.layer, entry.role, entry.counts, range)),
        }
    }
    let cells = sums.into_iter().map(|(layer, role, counts, range)| {
        let of = |number: u64| match (number, counts.elements) {
            (0, _) | (_, 0) => text::count(number),
            (_, all) => {
                format!("{} ({})", text::count(number), text::share(number as f64 / all as f64))
            }
        };
        [
            text::printable(layer),
            text::role(role).to_owned(),
            text::count(counts.elements),
            of(counts.overflow),
            of(counts.underflow),
            of(counts.subnormal),
            of(counts.nan),
            range.map_or_else(
                || text::NOT_MEASURED.to_owned(),
                |(low, high)| format!("2{} to 2{}", text::raised(low), text::raised(high)),
            ),
        ]
    });
    cells.collect()
}

/// The lowest and the highest binade that holds a value.
fn binades(histogram: &ExponentHistogram) -> Option<(i32, i32)> {
    let low = histogram.bins.iter().position(|count| *count > 0)?;
    let high = histogram.bins.iter().rposition(|count| *count > 0)?;
    let exponent = |index: usize| i32::try_from(index).map(|index| histogram.first + index);
    Some((exponent(low).ok()?, exponent(high).ok()?))
}

fn environment_rows(loaded: &Loaded) -> Vec<(&'static str, String)> {
    let environment = &loaded.results.environment;
    let memory = environment.memory_total.map(|bytes| bytes.to_string());
    let rows = [
        ("device", environment.device.clone()),
        ("processor", environment.device_name.clone()),
        ("GPU", environment.gpu.as_ref().map_or_else(String::new, ToString::to_string)),
        (
            "threads",
            format!("{} of {} logical processors", environment.threads, environment.logical_cpus),
        ),
        ("memory", memory.unwrap_or_else(|| text::NOT_MEASURED.to_owned())),
        ("instruction sets", environment.cpu_features.join(", ")),
        ("products", environment.product_paths.join("; ")),
        ("system", environment.os.clone()),
        ("mantissa", environment.version.clone()),
        ("commit", environment.git.clone().unwrap_or_else(|| text::NOT_MEASURED.to_owned())),
        ("build", environment.build.clone()),
        ("started", environment.started.clone()),
        ("notes", environment.notes.join(" ")),
    ];
    let rows = rows.into_iter().filter(|(_, value)| !value.is_empty());
    rows.map(|(name, value)| (name, text::printable(&value))).collect()
}
