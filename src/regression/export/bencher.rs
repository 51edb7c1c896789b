//! Bencher Metric Format: benchmarks with their measures. Its last benchmark is the check itself.

use serde_json::{Value, json};

use crate::regression::judge::Judgement;
use crate::regression::metric::Measured;

pub(super) fn render(judgement: &Judgement) -> String {
    let mut benchmarks: Vec<(String, Vec<(String, Value)>)> = Vec::new();
    for finding in &judgement.findings {
        let key = &finding.key;
        let Some(value) = finding.measured.as_ref().and_then(Measured::value) else {
            continue;
        };
        let seed = key.seed.map(|seed| format!("/seed-{seed}")).unwrap_or_default();
        let name = format!("{}{seed}", key.variant);
        let measure = (key.metric.name().replace('_', "-"), json!({ "value": value }));
        match benchmarks.iter_mut().find(|(found, _)| *found == name) {
            Some((_, measures)) => measures.push(measure),
            None => benchmarks.push((name, vec![measure])),
        }
    }
    let counts = judgement.counts();
    let check = [
        ("metrics-judged", counts.judged()),
        ("metrics-passed", counts.passed),
        ("metrics-failed", counts.failed),
        ("metrics-inconclusive", counts.inconclusive),
    ];
    let check = check.map(|(measure, count)| (measure.to_owned(), json!({ "value": count })));
    benchmarks.push(("mantissa check".to_owned(), check.into()));
    let entries: Vec<String> = benchmarks
        .iter()
        .map(|(name, measures)| {
            let measures: Vec<String> = measures
                .iter()
                .map(|(measure, value)| format!("{}: {value}", json!(measure)))
                .collect();
            format!("  {}: {{{}}}", json!(name), measures.join(", "))
        })
        .collect();
    format!("{{\n{}\n}}\n", entries.join(",\n"))
}
