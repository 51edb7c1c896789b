//! `customSmallerIsBetter` of github-action-benchmark: a list of entries, where less is better. Accuracies stand as errors,
//! 1 − accuracy. The last entry is the number of metrics that failed.

use serde_json::{Value, json};

use crate::regression::judge::{Finding, Judgement};
use crate::regression::metric::{Better, Metric};

pub(super) fn render(judgement: &Judgement) -> String {
    let mut entries: Vec<Value> = judgement.findings.iter().filter_map(entry).collect();
    entries.push(json!({
        "name": "metrics failed",
        "unit": "metrics",
        "value": judgement.counts().failed,
        "extra": judgement.summary(),
    }));
    let lines: Vec<String> = entries.iter().map(|entry| format!("  {entry}")).collect();
    format!("[\n{}\n]\n", lines.join(",\n"))
}

fn entry(finding: &Finding) -> Option<Value> {
    let key = &finding.key;
    let value = finding.measured.as_ref()?.value()?;
    let (name, value) = match key.metric.better() {
        Better::Higher => {
            (key.to_string().replace(key.metric.name(), error(key.metric)), 1.0 - value)
        }
        Better::Lower | Better::Neither => (key.to_string(), value),
    };
    let unit = match key.metric {
        Metric::TestAccuracy | Metric::TokenAgreement => "share",
        Metric::FinalLoss => "loss",
        metric if metric.unit().is_empty() => "count",
        metric => metric.unit(),
    };
    let extra = format!("{}: {}", finding.verdict.name(), finding.sentence());
    Some(json!({ "name": name, "unit": unit, "value": value, "extra": extra }))
}

/// What stands for a share of which more is better.
fn error(metric: Metric) -> &'static str {
    if metric == Metric::TokenAgreement { "token_disagreement" } else { "test_error" }
}
