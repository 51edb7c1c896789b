//! OpenMetrics 1.0 text. The last family before `# EOF` is the number of metrics by what became of them: the form has no
//! comments.

use crate::regression::judge::Judgement;
use crate::regression::metric::Metric;

pub(super) fn render(judgement: &Judgement) -> String {
    let mut text = String::new();
    let experiment = label("experiment", &judgement.experiment);
    for metric in Metric::all() {
        let samples: Vec<String> = judgement
            .findings
            .iter()
            .filter(|finding| finding.key.metric == metric)
            .filter_map(|finding| {
                let value = finding.measured.as_ref()?.value()?;
                let seed = finding.key.seed.map(|seed| label("seed", &seed.to_string()));
                let variant = label("variant", &finding.key.variant);
                let labels = [Some(experiment.clone()), Some(variant), seed];
                let labels = labels.into_iter().flatten().collect::<Vec<_>>().join(",");
                Some(format!("mantissa_{}{{{labels}}} {value}\n", metric.name()))
            })
            .collect();
        if samples.is_empty() {
            continue;
        }
        text += &format!("# TYPE mantissa_{} gauge\n", metric.name());
        if !metric.unit().is_empty() {
            text += &format!("# UNIT mantissa_{} {}\n", metric.name(), metric.unit());
        }
        text += &samples.concat();
    }
    let counts = judgement.counts();
    text += "# TYPE mantissa_metrics gauge\n# HELP mantissa_metrics Metrics by what became of them in a check.\n";
    for (verdict, count) in [
        ("judged", counts.judged()),
        ("passed", counts.passed),
        ("failed", counts.failed),
        ("inconclusive", counts.inconclusive),
        ("allowed", counts.allowed),
        ("not judged", counts.not_judged),
    ] {
        let verdict = label("verdict", verdict);
        text += &format!("mantissa_metrics{{{experiment},{verdict}}} {count}\n");
    }
    text + "# EOF\n"
}

/// A label with its value escaped.
fn label(name: &str, value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{name}=\"{value}\"")
}
