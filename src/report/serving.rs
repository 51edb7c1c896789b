//! How language models are served: tokens a second, memory, and how far the tokens are from FP32's.

use crate::record::{Estimate, Results, ServedBatch};
use crate::spec::ServingPlan;
use crate::units::Ratio;

use super::load::Loaded;
use super::section::{Section, SectionRow};
use super::table::{Line, Row, Table, memory_cell};
use super::{sentences, text};

/// The heading of these tables.
pub(super) const HEADING: &str = "Serving";

/// The tables of the experiments that measured it.
pub(super) fn served(experiments: &[Loaded]) -> Vec<Section> {
    let tables = experiments.iter().filter_map(|experiment| {
        let plan = experiment.results.plan.measure.serving?;
        let table = Table::of_one(&experiment.results, &[], None);
        table.rows.iter().any(|row| row.serving.is_some()).then(|| Section {
            heading: HEADING,
            experiment: sentences::label(experiments, experiment),
            titles: titles(plan),
            rows: table.rows.iter().map(|row| line(plan, row)).collect(),
            about: about(plan, &experiment.results, &table),
        })
    });
    tables.collect()
}

/// Sequences that are served together.
fn batches(plan: ServingPlan) -> Vec<usize> {
    let mut batches = vec![1, plan.batch];
    batches.dedup();
    batches
}

fn titles(plan: ServingPlan) -> Vec<String> {
    let of_batch = |batch: usize| {
        let together = text::plural(batch, "sequence");
        ["prefill, tokens/s", "decode, tokens/s", "memory"]
            .map(|what| format!("{what}, {together}"))
    };
    let first = std::iter::once("variant".to_owned());
    let last = ["equal tokens", "divergence, nats"].map(str::to_owned);
    first.chain(batches(plan).into_iter().flat_map(of_batch)).chain(last).collect()
}

fn line(plan: ServingPlan, row: &Row<'_>) -> SectionRow {
    let serving = row.serving.as_ref();
    let mut name = vec![Line::value(row.label())];
    name.extend(row.is_baseline.then(|| Line::detail("baseline")));
    name.extend(row.qualifiers().into_iter().map(Line::detail));
    let mut cells = vec![name];
    for batch in batches(plan) {
        let served = serving.and_then(|serving| serving.batches.iter().find(|s| s.batch == batch));
        cells.extend(batch_cells(served));
    }
    let agreement = serving.and_then(|serving| serving.agreement);
    let equal = agreement.map(|found| found.equal_tokens);
    let percent = |share: f64| format!("{:.2}%", share * 100.0);
    cells.push(estimate_cell(equal, percent, |low, high| {
        text::interval(percent(low), percent(high))
    }));
    let divergence = agreement.and_then(|found| found.kl_divergence);
    let between = |low, high| format!("{} to {}", text::decimal(low), text::decimal(high));
    cells.push(estimate_cell(divergence, text::decimal, between));
    SectionRow { is_baseline: row.is_baseline, cells }
}

/// Prefill, decode and memory of a batch.
fn batch_cells(served: Option<&ServedBatch>) -> [Vec<Line>; 3] {
    let Some(served) = served else {
        return std::array::from_fn(|_| vec![Line::value(text::NOT_MEASURED)]);
    };
    let against = served.against_baseline.as_ref();
    let rate = |rate: Estimate<f64>, ratio: Option<Estimate<Ratio>>| {
        let mut lines = vec![Line::value(text::rate(rate.value))];
        if let Some(ratio) = ratio {
            let interval = text::interval(ratio.low, ratio.high);
            lines.push(Line::value(format!("{} time", ratio.value)));
            lines.push(Line::detail(format!("({interval})")));
        }
        lines
    };
    let mut memory =
        memory_cell(served.peak_bytes, against.and_then(|against| against.memory_ratio));
    memory.push(Line::detail(format!("cache {}", served.cache)));
    [
        rate(served.prefill_tokens_per_second, against.and_then(|found| found.prefill_time_ratio)),
        rate(served.decode_tokens_per_second, against.and_then(|found| found.decode_time_ratio)),
        memory,
    ]
}

/// A number with its interval below.
fn estimate_cell(
    estimate: Option<Estimate<f64>>,
    print: impl Fn(f64) -> String,
    between: impl Fn(f64, f64) -> String,
) -> Vec<Line> {
    let Some(Estimate { value, low, high }) = estimate else {
        return vec![Line::value(text::NOT_MEASURED)];
    };
    vec![Line::value(print(value)), Line::detail(format!("({})", between(low, high)))]
}

/// How to read the table.
fn about(plan: ServingPlan, results: &Results, table: &Table<'_>) -> Vec<String> {
    let ServingPlan { prompt, generate, .. } = plan;
    let base = table.baseline().map_or_else(|| "the baseline".to_owned(), Row::label);
    let tokens = text::plural(generate, "token");
    let mut said = vec![
        format!(
            "Prompts of {prompt} tokens of the test split pass through the model at once (prefill); then it generates {tokens}, the most \
             probable one each time, one by one (decode). Weights, and the keys and values of earlier positions, are in the compute format."
        ),
        format!(
            "Tokens per second of all sequences together: the median over blocks. Below: the time ÷ {base}'s, with its 95% \
             interval; the blocks of two variants are pairs."
        ),
        "Memory: the peak of live bytes while a batch is served, weights and cache included."
            .to_owned(),
    ];
    let agreements = table.rows.iter().filter_map(|row| row.serving.as_ref()?.agreement);
    if let Some(agreement) = agreements.max_by_key(|agreement| agreement.prompts) {
        let prompts = text::plural(agreement.prompts, "prompt");
        said.push(format!(
            "Equal tokens: FP32 generates {tokens} after each of {prompts} with the same weights, and the compute format \
             predicts each next token after the same tokens; the share where both find the same one the most probable. Divergence: of the \
             distributions of the next token (Kullback–Leibler), in nats, the mean. Intervals of 95% are over prompts."
        ));
    }
    if results.environment.device.starts_with("cuda") {
        said.push(
            "Attention here uses no tensor cores of the GPU: a server made for speed is faster, most of all in prefill."
                .to_owned(),
        );
    }
    said.iter().map(|sentence| text::printable(sentence)).collect()
}
