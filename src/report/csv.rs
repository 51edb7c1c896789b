//! `results.csv`: one row a variant, plain numbers in full precision with the unit in the header, empty for null; no name
//! in it is a formula to a spreadsheet. Columns of serving are there where a variant was served.

use std::fmt::Display;

use crate::record::{Estimate, ServedBatch, TestMetric};

use super::table::{Row, Table};
use super::text;
use crate::units::Ratio;

/// A header and its field.
type Field = (&'static str, String);

/// The file's bytes.
pub(super) fn render(table: &Table<'_>) -> Result<Vec<u8>, String> {
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    let served = table.rows.iter().any(|row| row.serving.is_some());
    for (index, row) in table.rows.iter().enumerate() {
        let serving = if served { serving(row) } else { Vec::new() };
        let fields = [fields(row), serving].concat();
        if index == 0 {
            let headers = fields.iter().map(|(header, _)| header);
            writer.write_record(headers).map_err(|e| e.to_string())?;
        }
        let values = fields.iter().map(|(_, value)| value);
        writer.write_record(values).map_err(|e| e.to_string())?;
    }
    writer.into_inner().map_err(|error| error.to_string())
}

fn fields(row: &Row<'_>) -> Vec<Field> {
    [identity(row), metric(row), training(row), inference(row), numerics(row)].concat()
}

fn identity(row: &Row<'_>) -> Vec<Field> {
    vec![
        ("experiment", words(row.experiment)),
        ("variant", words(&row.name)),
        ("policy", words(&row.policy)),
        ("baseline", row.is_baseline.to_string()),
        ("emulated", row.emulated.to_string()),
        ("engine", row.engine.name().to_owned()),
        ("runs_planned", row.runs.planned.to_string()),
        ("runs_completed", row.runs.completed.to_string()),
        ("runs_diverged", row.runs.diverged.to_string()),
        ("runs_failed", row.runs.failed.to_string()),
    ]
}

/// A text of somebody else as a cell that no spreadsheet takes for a formula: behind an apostrophe where it begins like one.
/// Numbers are written elsewhere, and stay numbers below 0 too.
pub(super) fn words(text: &str) -> String {
    let text = text::printable(text);
    let is_formula = text.starts_with(['=', '+', '-', '@', '＝', '＋', '－', '＠']);
    if is_formula { format!("'{text}") } else { text }
}

/// The columns of a metric.
fn metric_columns(metric: TestMetric) -> [&'static str; 11] {
    match metric {
        TestMetric::Accuracy => [
            "test_accuracy_mean",
            "test_accuracy_sd",
            "test_accuracy_seeds",
            "accuracy_difference",
            "accuracy_difference_low",
            "accuracy_difference_high",
            "accuracy_p",
            "accuracy_p_holm",
            "accuracy_probability_better",
            "accuracy_pairs",
            "accuracy_verdict",
        ],
        TestMetric::MeanSquaredError => [
            "test_squared_error_mean",
            "test_squared_error_sd",
            "test_squared_error_seeds",
            "squared_error_difference",
            "squared_error_difference_low",
            "squared_error_difference_high",
            "squared_error_p",
            "squared_error_p_holm",
            "squared_error_probability_better",
            "squared_error_pairs",
            "squared_error_verdict",
        ],
        TestMetric::Perplexity => [
            "test_perplexity_mean",
            "test_perplexity_sd",
            "test_perplexity_seeds",
            "perplexity_difference",
            "perplexity_difference_low",
            "perplexity_difference_high",
            "perplexity_p",
            "perplexity_p_holm",
            "perplexity_probability_better",
            "perplexity_pairs",
            "perplexity_verdict",
        ],
    }
}

fn metric(row: &Row<'_>) -> Vec<Field> {
    let (spread, difference) = (row.spread, row.difference());
    let values = [
        optional(spread.map(|s| s.mean)),
        optional(spread.and_then(|s| s.deviation)),
        optional(spread.map(|s| s.seeds)),
        optional(difference.map(|d| d.value)),
        optional(difference.and_then(|d| d.low)),
        optional(difference.and_then(|d| d.high)),
        optional(difference.and_then(|d| d.p)),
        optional(difference.and_then(|d| d.p_holm)),
        optional(difference.and_then(|d| d.probability_better)),
        optional(difference.map(|d| d.pairs)),
        optional(difference.map(|d| text::verdict(d.verdict))),
    ];
    metric_columns(row.metric).into_iter().zip(values).collect()
}

fn training(row: &Row<'_>) -> Vec<Field> {
    let step = row.train.as_ref().map(|train| train.step_seconds);
    let speed = row.train.as_ref().map(|train| train.samples_per_second);
    let memory = row.memory;
    let mut fields = estimate(
        ["step_seconds", "step_seconds_low", "step_seconds_high"],
        step.map(|e| plain(e, |seconds| seconds.0)),
    );
    fields.extend(estimate(
        ["samples_per_second", "samples_per_second_low", "samples_per_second_high"],
        speed,
    ));
    let phases = row.train.as_ref().and_then(|train| train.phases);
    let phases = [
        ("data_seconds", phases.map(|p| p.data)),
        ("forward_seconds", phases.map(|p| p.forward)),
        ("backward_seconds", phases.map(|p| p.backward)),
        ("unscale_seconds", phases.map(|p| p.unscale)),
        ("update_seconds", phases.map(|p| p.update)),
    ];
    fields.extend(phases.map(|(name, value)| (name, optional(value.map(|seconds| seconds.0)))));
    fields.extend(estimate(
        ["train_time_ratio", "train_time_ratio_low", "train_time_ratio_high"],
        row.time_ratio().map(|e| plain(e, |ratio| ratio.0)),
    ));
    let bytes = [
        ("peak_memory_bytes", memory.map(|m| m.peak_bytes)),
        ("weights_bytes", memory.map(|m| m.weights)),
        ("master_weights_bytes", memory.map(|m| m.master_weights)),
        ("gradients_bytes", memory.map(|m| m.gradients)),
        ("optimizer_bytes", memory.map(|m| m.optimizer)),
        ("activations_bytes", memory.map(|m| m.activations)),
    ];
    fields.extend(bytes.map(|(name, value)| (name, optional(value.map(|bytes| bytes.0)))));
    let ratio = row.memory_ratio().map(|ratio| ratio.0);
    fields.push(("train_memory_ratio", optional(ratio)));
    let work = row.train.as_ref().and_then(|train| train.work);
    let load = row.train.as_ref().and_then(|train| train.gpu.as_ref());
    fields.extend([
        ("step_operations", optional(work.map(|w| w.operations))),
        ("operations_per_second", optional(work.map(|w| w.rate.value.0))),
        ("product_peak", optional(work.map(|w| w.peak.0))),
        ("share_of_peak", optional(work.map(|w| w.share_of_peak.value))),
        ("step_joules", optional(load.and_then(|l| l.step_joules))),
        ("power_watts", optional(load.and_then(|l| l.power_watts))),
    ]);
    fields
}

fn inference(row: &Row<'_>) -> Vec<Field> {
    let inference = row.inference.as_ref();
    let seconds = inference.and_then(|i| i.batch_seconds);
    let mut fields = vec![("inference_batch", optional(inference.map(|i| i.batch)))];
    fields.extend(estimate(
        ["inference_batch_seconds", "inference_batch_seconds_low", "inference_batch_seconds_high"],
        seconds.map(|e| plain(e, |seconds| seconds.0)),
    ));
    fields.extend(estimate(
        ["inference_time_ratio", "inference_time_ratio_low", "inference_time_ratio_high"],
        row.inference_time_ratio().map(|e| plain(e, |ratio| ratio.0)),
    ));
    let ratio = row.inference_memory_ratio().map(|ratio| ratio.0);
    fields.extend([
        ("inference_peak_bytes", optional(inference.and_then(|i| Some(i.peak_bytes?.0)))),
        ("inference_weights_bytes", optional(inference.map(|i| i.weights.0))),
        ("inference_memory_ratio", optional(ratio)),
    ]);
    fields
}

/// What of one batch is in the columns: alone, and of several sequences together.
type ServedColumns = [[&'static str; 3]; 4];

const ALONE: ServedColumns = [
    [
        "serving_alone_prefill_tokens_per_second",
        "serving_alone_prefill_tokens_per_second_low",
        "serving_alone_prefill_tokens_per_second_high",
    ],
    [
        "serving_alone_decode_tokens_per_second",
        "serving_alone_decode_tokens_per_second_low",
        "serving_alone_decode_tokens_per_second_high",
    ],
    [
        "serving_alone_prefill_time_ratio",
        "serving_alone_prefill_time_ratio_low",
        "serving_alone_prefill_time_ratio_high",
    ],
    [
        "serving_alone_decode_time_ratio",
        "serving_alone_decode_time_ratio_low",
        "serving_alone_decode_time_ratio_high",
    ],
];

const TOGETHER: ServedColumns = [
    [
        "serving_batch_prefill_tokens_per_second",
        "serving_batch_prefill_tokens_per_second_low",
        "serving_batch_prefill_tokens_per_second_high",
    ],
    [
        "serving_batch_decode_tokens_per_second",
        "serving_batch_decode_tokens_per_second_low",
        "serving_batch_decode_tokens_per_second_high",
    ],
    [
        "serving_batch_prefill_time_ratio",
        "serving_batch_prefill_time_ratio_low",
        "serving_batch_prefill_time_ratio_high",
    ],
    [
        "serving_batch_decode_time_ratio",
        "serving_batch_decode_time_ratio_low",
        "serving_batch_decode_time_ratio_high",
    ],
];

fn serving(row: &Row<'_>) -> Vec<Field> {
    let of = |alone: bool| {
        let mut batches = row.serving.iter().flat_map(|serving| &serving.batches);
        batches.find(|served| (served.batch == 1) == alone)
    };
    let (alone, together) = (of(true), of(false));
    let mut fields = served(ALONE, alone);
    let bytes = |served: Option<&ServedBatch>| optional(served.and_then(|s| Some(s.peak_bytes?.0)));
    let cache = |served: Option<&ServedBatch>| optional(served.map(|s| s.cache.0));
    fields.extend([
        ("serving_alone_peak_bytes", bytes(alone)),
        ("serving_alone_cache_bytes", cache(alone)),
        ("serving_batch", optional(together.map(|served| served.batch))),
    ]);
    fields.extend(served(TOGETHER, together));
    let agreement = row.serving.as_ref().and_then(|serving| serving.agreement);
    fields.extend([
        ("serving_batch_peak_bytes", bytes(together)),
        ("serving_batch_cache_bytes", cache(together)),
        ("token_agreement_prompts", optional(agreement.map(|found| found.prompts))),
        ("token_agreement_tokens", optional(agreement.map(|found| found.tokens))),
    ]);
    fields.extend(estimate(
        ["token_agreement", "token_agreement_low", "token_agreement_high"],
        agreement.map(|found| found.equal_tokens),
    ));
    fields.extend(estimate(
        ["token_divergence_nats", "token_divergence_nats_low", "token_divergence_nats_high"],
        agreement.and_then(|found| found.kl_divergence),
    ));
    fields
}

/// Speed of a batch, and its times against the baseline's.
fn served(columns: ServedColumns, served: Option<&ServedBatch>) -> Vec<Field> {
    let against = served.and_then(|served| served.against_baseline.as_ref());
    let ratio = |ratio: Option<Estimate<Ratio>>| ratio.map(|e| plain(e, |ratio| ratio.0));
    let values = [
        served.map(|served| served.prefill_tokens_per_second),
        served.map(|served| served.decode_tokens_per_second),
        ratio(against.and_then(|against| against.prefill_time_ratio)),
        ratio(against.and_then(|against| against.decode_time_ratio)),
    ];
    columns.into_iter().zip(values).flat_map(|(names, value)| estimate(names, value)).collect()
}

fn numerics(row: &Row<'_>) -> Vec<Field> {
    let counts = (row.counts.elements > 0).then_some(row.counts);
    let updates = (row.numerics.updates.elements > 0).then_some(row.numerics.updates);
    let gradients = (row.numerics.gradients.elements > 0).then_some(row.numerics.gradients);
    let ran = row.runs.done() > 0;
    vec![
        ("census_elements", optional(counts.map(|c| c.elements))),
        ("overflow", optional(counts.map(|c| c.overflow))),
        ("underflow", optional(counts.map(|c| c.underflow))),
        ("subnormal", optional(counts.map(|c| c.subnormal))),
        ("nan", optional(counts.map(|c| c.nan))),
        ("weight_updates", optional(updates.map(|u| u.elements))),
        ("lost_updates", optional(updates.map(|u| u.lost))),
        ("weight_gradients", optional(gradients.map(|g| g.elements))),
        ("zero_gradients", optional(gradients.map(|g| g.zero))),
        ("subnormal_gradients", optional(gradients.map(|g| g.subnormal))),
        ("infinite_gradients", optional(gradients.map(|g| g.infinite))),
        ("nan_gradients", optional(gradients.map(|g| g.nan))),
        ("steps", optional(ran.then_some(row.steps))),
        ("skipped_steps", optional(ran.then_some(row.numerics.skipped_steps))),
    ]
}

fn estimate(names: [&'static str; 3], value: Option<Estimate<f64>>) -> Vec<Field> {
    let [name, low, high] = names;
    vec![
        (name, optional(value.map(|e| e.value))),
        (low, optional(value.map(|e| e.low))),
        (high, optional(value.map(|e| e.high))),
    ]
}

/// An estimate without its unit.
pub(super) fn plain<T: Copy>(estimate: Estimate<T>, number: fn(T) -> f64) -> Estimate<f64> {
    Estimate {
        value: number(estimate.value),
        low: number(estimate.low),
        high: number(estimate.high),
    }
}

fn optional<T: Display>(value: Option<T>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// OWASP, CSV injection: cells that begin with = + - @, a tab or a carriage return, in full width too.
    #[test]
    fn no_name_is_a_formula() {
        for (name, cell) in [
            ("fp32+same-seeds", "fp32+same-seeds"),
            ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
            ("+1", "'+1"),
            ("-true", "'-true"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("\t=1", r"\u{9}=1"),
            ("\r=1", r"\u{d}=1"),
            ("\n=1", r"\u{a}=1"),
            ("＝1", "'＝1"),
            ("\u{1b}[2J", r"\u{1b}[2J"),
            ("", ""),
        ] {
            assert_eq!(words(name), cell, "{name:?}");
        }
    }
}
