//! `report.html`: one file that needs nothing else. What stands in it is prepared here; how it looks and moves is in
//! `report.html`, `report.css` and `report.js` beside this file.

use askama::Template;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::claims;
use crate::record::{ClaimVerdict, Environment, GpuLoad, RunSummary, TestMetric};

use super::figure::{FOLDED, Figure, Scale};
use super::history::Group;
use super::section::Section;
use super::sentences::{Advice, Judged};
use super::summary;
use super::table::{LayerSum, Line, Row, Table};
use super::theme::DARK;
use super::{Drawing, Report, draw, interactive, text};

/// What the page offers beside what it shows.
pub(super) struct Files {
    /// The comparison as CSV.
    pub(super) csv: Vec<u8>,
    /// The summary.
    pub(super) markdown: String,
    /// The comparison for LaTeX.
    pub(super) latex: String,
}

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    title: &'a str,
    origins: Vec<Origin>,
    advice: &'a [Advice],
    summary_titles: [&'static str; summary::COUNT],
    summary: Vec<SummaryRow>,
    summary_legend: String,
    claims: Vec<Claim<'a>>,
    tally: String,
    sections: Vec<&'a [Section]>,
    titles: Vec<Title>,
    rows: Vec<HtmlRow>,
    legend: Vec<String>,
    sentences: &'a [String],
    figures: Vec<HtmlFigure<'a>>,
    details: Vec<Detail>,
    labels: Vec<String>,
    environment: Vec<Fact>,
    plans: Vec<(String, String)>,
    downloads: Vec<Download>,
    frame: Frame,
}

/// Where an experiment ran.
struct Origin {
    label: String,
    parts: Vec<String>,
    complete: bool,
}

/// A claim, and how it fared on each variant that it speaks of.
struct Claim<'a> {
    id: &'a str,
    sentence: &'static str,
    source: &'static str,
    threshold: &'a str,
    judged: Vec<Verdict<'a>>,
}

struct Verdict<'a> {
    variant: &'a str,
    words: &'static str,
    measured: &'a str,
    missing: &'a str,
}

struct SummaryRow {
    baseline: bool,
    cells: Vec<String>,
}

struct Title {
    name: String,
    /// Whether all rows say the same below it.
    same: bool,
}

struct HtmlRow {
    baseline: bool,
    name: Vec<Line>,
    cells: Vec<(Vec<Line>, String)>,
}

struct HtmlFigure<'a> {
    file: &'a str,
    title: String,
    subtitle: String,
    /// Whether it is shown on request only.
    folded: bool,
    alt: String,
    /// Written by our own drawing code, which escapes every text.
    svg: String,
    /// For plotly.js.
    data: String,
    /// The legend: the series, if it names one, a sample drawn by our own code, and the words.
    keys: Vec<(Option<usize>, String, String)>,
    /// The axes that can be made logarithmic or linear, and those that can begin at 0, by their names in plotly.js.
    log: String,
    zero: String,
    /// Whether the first of those that can be logarithmic is.
    logged: bool,
    notes: Vec<String>,
}

/// The numerics of one variant.
struct Detail {
    id: String,
    name: String,
    policy: String,
    /// The title of the runs' third column.
    metric: &'static str,
    runs: Vec<[String; 7]>,
    gradients: String,
    load: Option<String>,
    layers: Vec<[String; 8]>,
}

/// A fact of the environment, by experiment.
struct Fact {
    name: &'static str,
    values: Vec<String>,
    differs: bool,
}

struct Download {
    file: &'static str,
    words: &'static str,
    url: String,
}

/// What is the same in every page: how it looks and moves.
struct Frame {
    css: String,
    js: &'static str,
    /// What stands for each colour on a dark ground, as JSON.
    dark: String,
    /// plotly.js, compressed, in base 64.
    plotly: String,
}

impl Frame {
    fn new() -> Result<Self, String> {
        Ok(Self {
            css: format!("{}{}", include_str!("report.css"), dark_drawings()),
            js: include_str!("report.js"),
            dark: dark_colours()?,
            plotly: BASE64_STANDARD.encode(interactive::compressed_script()?),
        })
    }
}

/// The page of a history.
#[derive(Template)]
#[template(path = "history.html")]
struct HistoryPage<'a> {
    title: &'a str,
    groups: &'a [Group],
    notes: &'a [String],
    figures: Vec<HtmlFigure<'a>>,
    frame: Frame,
}

/// The bytes of a history's page.
pub(super) fn history(
    title: &str,
    (groups, notes): (&[Group], &[String]),
    drawings: &[Drawing<'_>],
) -> Result<Vec<u8>, String> {
    let figures = drawings.iter().map(html_figure).collect::<Result<_, _>>()?;
    let page = HistoryPage { title, groups, notes, figures, frame: Frame::new()? };
    page.render().map(String::into_bytes).map_err(|error| error.to_string())
}

/// The page's bytes.
pub(super) fn render(
    report: &Report<'_>,
    drawings: &[Drawing<'_>],
    files: &Files,
) -> Result<Vec<u8>, String> {
    let rows = || report.table.rows.iter();
    let labels = report.experiments.iter().map(|e| text::printable(&e.label)).collect();
    let page = Page {
        title: &report.title,
        origins: origins(report),
        advice: &report.advice,
        summary_titles: summary::columns(&report.table).map(|column| column.title),
        summary: summary_rows(report),
        summary_legend: summary::legend(&report.table),
        claims: claim_groups(&report.claims),
        tally: tally(&report.claims),
        sections: report.sections.chunk_by(|one, next| one.heading == next.heading).collect(),
        titles: titles(report),
        rows: rows().map(|row| html_row(&report.table, row)).collect(),
        legend: report.table.legend(),
        sentences: &report.sentences,
        figures: drawings.iter().map(html_figure).collect::<Result<_, _>>()?,
        details: rows().chain(&report.table.controls).enumerate().map(detail).collect(),
        labels,
        environment: environment(report),
        plans: plans(report)?,
        downloads: downloads(report, files)?,
        frame: Frame::new()?,
    };
    page.render().map(String::into_bytes).map_err(|error| error.to_string())
}

fn origins(report: &Report<'_>) -> Vec<Origin> {
    let several = report.experiments.len() > 1;
    let origins = report.experiments.iter().map(|experiment| Origin {
        label: if several { text::printable(&experiment.label) } else { String::new() },
        parts: text::origin(&experiment.results.environment),
        complete: experiment.results.complete,
    });
    origins.collect()
}

/// The verdicts, those of one claim and threshold together.
fn claim_groups(judged: &[Judged]) -> Vec<Claim<'_>> {
    let groups = judged.chunk_by(Judged::is_of_one_claim);
    let claims = groups.map(|group| {
        let Judged { id, threshold, .. } = &group[0];
        let said = claims::statement(id);
        Claim {
            id,
            sentence: said.map_or("", |said| said.sentence),
            source: said.map_or("", |said| said.source),
            threshold,
            judged: group.iter().map(verdict).collect(),
        }
    });
    claims.collect()
}

/// How many verdicts there are of each kind: `5 held, 3 did not hold`.
fn tally(judged: &[Judged]) -> String {
    use ClaimVerdict::{Confirmed, Inconclusive, NotMeasured, Refuted};
    let kinds = [Confirmed, Refuted, Inconclusive, NotMeasured].into_iter().filter_map(|kind| {
        let number = judged.iter().filter(|judged| judged.verdict == kind).count();
        (number > 0).then(|| format!("{number} {}", text::claim_verdict(kind)))
    });
    kinds.collect::<Vec<_>>().join(", ")
}

fn verdict(judged: &Judged) -> Verdict<'_> {
    let words = text::claim_verdict(judged.verdict);
    let (measured, missing) = (&judged.measured, &judged.missing);
    Verdict { variant: &judged.variant, words, measured, missing }
}

/// The summary: a row per variant, a cell per column.
fn summary_rows(report: &Report<'_>) -> Vec<SummaryRow> {
    let columns = summary::columns(&report.table);
    let rows = report.table.rows.iter().map(|row| SummaryRow {
        baseline: row.is_baseline,
        cells: columns.iter().map(|column| (column.cell)(row)).collect(),
    });
    rows.collect()
}

fn titles(report: &Report<'_>) -> Vec<Title> {
    let cells: Vec<_> = report.table.rows.iter().map(Row::cells).collect();
    let same = |column: usize| {
        column > 0 && cells.len() > 1 && cells.iter().all(|row| row[column] == cells[0][column])
    };
    let titles = report.table.titles().into_iter().enumerate();
    let titles = titles.map(|(at, name)| Title { name: name.to_owned(), same: same(at) });
    let ratio = report.table.ratio_title().map(|name| Title { name, same: false });
    titles.chain(ratio).collect()
}

fn html_row(table: &Table<'_>, row: &Row<'_>) -> HtmlRow {
    let [name, cells @ ..] = row.cells();
    let [_, keys @ ..] = row.sort_keys();
    let ratio = table.ratio_title().map(|_| (table.ratio_cell(row), table.ratios(row)[0]));
    let ratio = ratio.map(|(cell, ratio)| (cell, ratio.map(|ratio| ratio.0)));
    let cells = cells.into_iter().zip(keys).chain(ratio);
    let key = |key: Option<f64>| key.map_or_else(String::new, |key| key.to_string());
    let cells = cells.map(|(cell, of)| (cell, key(of))).collect();
    HtmlRow { baseline: row.is_baseline, name, cells }
}

fn html_figure<'a>(drawing: &Drawing<'a>) -> Result<HtmlFigure<'a>, String> {
    let figure = drawing.figure;
    let keys = figure.legend.iter().map(|key| {
        Ok::<_, String>((key.series, draw::sample(key.swatch)?, text::printable(&key.label)))
    });
    let axes = |chosen: fn(super::figure::Choices) -> bool| {
        let panels = figure.panels.iter().enumerate().filter(|(_, panel)| panel.empty.is_none());
        let axes = panels.flat_map(|(index, panel)| {
            let number = if index == 0 { String::new() } else { (index + 1).to_string() };
            [("xaxis", panel.x.choices), ("yaxis", panel.y.choices)]
                .map(|(name, choices)| chosen(choices).then(|| format!("{name}{number}")))
        });
        axes.flatten().collect::<Vec<_>>().join(" ")
    };
    Ok(HtmlFigure {
        file: &figure.file,
        title: figure.title.clone(),
        subtitle: figure.subtitle.clone(),
        folded: FOLDED.contains(&&*figure.file),
        alt: figure.alt.clone(),
        svg: drawing.svg.clone(),
        data: interactive::json(figure),
        keys: keys.collect::<Result<_, _>>()?,
        log: axes(|choices| choices.log),
        zero: axes(|choices| choices.zero),
        logged: is_logged(figure),
        notes: figure.notes.clone(),
    })
}

/// Whether the first axis that a reader may change to a logarithmic one, or from it, is one.
fn is_logged(figure: &Figure) -> bool {
    let shown = figure.panels.iter().filter(|panel| panel.empty.is_none());
    let mut axes = shown.flat_map(|panel| [&panel.x, &panel.y]);
    axes.find(|axis| axis.choices.log).is_some_and(|axis| axis.scale == Scale::Log)
}

/// Rules that give the drawings in a dark page its colours: where a script set the theme, and where none could.
fn dark_drawings() -> String {
    let rules = |root: &str| {
        let rules = DARK.map(|(light, dark)| {
            let (light, dark) = (light.hex(), dark.hex());
            format!(
                "{root} svg [fill=\"{light}\"]{{fill:{dark}}}\
                 {root} svg [stroke=\"{light}\"]{{stroke:{dark}}}\n"
            )
        });
        rules.concat()
    };
    let (set, unset) = (rules(":root[data-theme=dark]"), rules(":root:not([data-theme])"));
    format!("{set}@media screen and (prefers-color-scheme:dark){{{unset}}}\n")
}

fn dark_colours() -> Result<String, String> {
    let colours: std::collections::BTreeMap<String, String> =
        DARK.iter().map(|(light, dark)| (light.hex(), dark.hex())).collect();
    serde_json::to_string(&colours).map_err(|error| error.to_string())
}

fn downloads(report: &Report<'_>, files: &Files) -> Result<Vec<Download>, String> {
    let results: Vec<_> = report.experiments.iter().map(|experiment| &experiment.results).collect();
    let json = match results.as_slice() {
        [only] => serde_json::to_vec_pretty(only),
        several => serde_json::to_vec_pretty(several),
    };
    let json = json.map_err(|error| error.to_string())?;
    let download = |(file, words, kind): (&'static str, &'static str, &str), bytes: &[u8]| {
        let url = format!("data:{kind};base64,{}", BASE64_STANDARD.encode(bytes));
        Download { file, words, url }
    };
    Ok(vec![
        download(("results.csv", "CSV", "text/csv"), &files.csv),
        download(("results.json", "JSON", "application/json"), &json),
        download(("summary.md", "Markdown", "text/markdown"), files.markdown.as_bytes()),
        download(("results.tex", "LaTeX", "application/x-tex"), files.latex.as_bytes()),
    ])
}

fn plans(report: &Report<'_>) -> Result<Vec<(String, String)>, String> {
    let plans = report.experiments.iter().map(|experiment| {
        let plan = serde_json::to_string_pretty(&experiment.results.plan);
        let plan = plan.map_err(|error| error.to_string())?;
        let lines: Vec<String> = plan.lines().map(text::printable).collect();
        Ok((text::printable(&experiment.label), lines.join("\n")))
    });
    plans.collect()
}

fn detail((index, row): (usize, &Row<'_>)) -> Detail {
    let gradients = row.numerics.gradients;
    Detail {
        id: format!("variant-{}", index + 1),
        name: row.label(),
        policy: text::printable(&row.policy),
        metric: row.metric.name(),
        runs: row.result.runs.iter().map(|run| run_cells(row.metric, run)).collect(),
        gradients: format!(
            "Weight gradients over every step, before unscaling: {} values, of them {} zeros, {} subnormals, {} infinities and {} NaNs.",
            text::count(gradients.elements),
            text::count(gradients.zero),
            text::count(gradients.subnormal),
            text::count(gradients.infinite),
            text::count(gradients.nan)
        ),
        load: row.train.as_ref().and_then(|train| train.gpu.as_ref()).map(load),
        layers: layers(row),
    }
}

/// How the GPU was doing.
fn load(load: &GpuLoad) -> String {
    let clocks = load.lowest_clock_mhz.zip(load.highest_clock_mhz);
    let facts = [
        load.step_joules.map(|joules| format!("{} J a step", text::decimal(joules))),
        load.power_watts.map(|watts| format!("{watts:.0} W")),
        clocks.map(|(low, high)| format!("{low} to {high} MHz")),
        load.highest_celsius.map(|celsius| format!("{celsius} °C at most")),
        (!load.throttled.is_empty()).then(|| format!("held back by {}", load.throttled.join(", "))),
    ];
    let facts: Vec<String> = facts.into_iter().flatten().collect();
    text::printable(&format!("The GPU in the timed blocks: {}.", facts.join(", ")))
}

fn run_cells(metric: TestMetric, run: &RunSummary) -> [String; 7] {
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| text::NOT_MEASURED.to_owned());
    let why = run.failure.as_ref().map(|failure| format!(" {}", text::failure(failure)));
    let status = format!("{}{}", text::status(run.status), why.unwrap_or_default());
    [
        run.seed.to_string(),
        text::printable(&status),
        or_dash(run.metric().map(|value| metric.value(value))),
        or_dash(run.final_loss.map(text::decimal)),
        text::count(run.steps),
        text::count(run.skipped_steps),
        or_dash(run.weights_digest.as_ref().map(|d| text::shorten(&text::printable(d), 13))),
    ]
}

/// The census by layer and role.
fn layers(row: &Row<'_>) -> Vec<[String; 8]> {
    let cells = row.census.iter().map(|LayerSum { layer, role, counts, settling, binades }| {
        let of = |number: u64| match (number, counts.elements) {
            (_, 0) => text::NOT_MEASURED.to_owned(),
            (0, _) => text::count(number),
            (_, all) => {
                format!("{} ({})", text::count(number), text::share(number as f64 / all as f64))
            }
        };
        let elements = counts.elements;
        let ends = binades.first_key_value().zip(binades.last_key_value());
        let range = |((low, _), (high, _)): ((&i32, &u64), (&i32, &u64))| {
            format!("2{} to 2{}", text::raised(*low), text::raised(*high))
        };
        [
            text::printable(layer),
            text::role(*role).to_owned(),
            if elements == 0 { of(0) } else { text::count(elements) },
            of(counts.overflow) + &settling_part(settling.overflow),
            of(counts.underflow) + &settling_part(settling.underflow),
            of(counts.subnormal),
            of(counts.nan),
            ends.map_or_else(|| text::NOT_MEASURED.to_owned(), range),
        ]
    });
    cells.collect()
}

/// How much of a count fell into the steps in which the loss scale settled.
fn settling_part(count: u64) -> String {
    if count == 0 { String::new() } else { format!(", {} settling", text::count(count)) }
}

/// The facts of each environment, side by side.
fn environment(report: &Report<'_>) -> Vec<Fact> {
    let columns: Vec<Vec<(&'static str, String)>> = report
        .experiments
        .iter()
        .map(|experiment| environment_rows(&experiment.results.environment))
        .collect();
    let facts = columns.first().into_iter().flatten().enumerate().map(|(index, (name, first))| {
        let values: Vec<String> = columns.iter().map(|column| column[index].1.clone()).collect();
        let differs = values.iter().any(|value| value != first);
        Fact { name, values, differs }
    });
    facts.filter(|fact| fact.values.iter().any(|value| !value.is_empty())).collect()
}

/// 0 stands for what is not known.
fn threads(environment: &Environment) -> String {
    let Environment { threads, logical_cpus, .. } = *environment;
    let known = |number: usize| match number {
        0 => text::NOT_MEASURED.to_owned(),
        number => number.to_string(),
    };
    format!("{} of {} logical processors", known(threads), known(logical_cpus))
}

fn environment_rows(environment: &Environment) -> Vec<(&'static str, String)> {
    let memory = environment.memory_total.map(|bytes| bytes.to_string());
    let rows = [
        ("device", environment.device.clone()),
        ("processor", environment.device_name.clone()),
        ("GPU", environment.gpu.as_ref().map_or_else(String::new, ToString::to_string)),
        ("threads", threads(environment)),
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
    rows.map(|(name, value)| (name, text::printable(&value))).to_vec()
}
