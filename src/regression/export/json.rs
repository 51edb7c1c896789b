//! Everything, for programs. The last key is `summary`, the line that every form ends with.

use serde::Serialize;

use crate::record::Estimate;
use crate::regression::baseline::Program;
use crate::regression::judge::{Counts, Finding, Judgement, Outcome, Verdict};
use crate::regression::metric::Measured;
use crate::units::Ratio;

/// The version of this form.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Whole<'a> {
    schema: u32,
    experiment: &'a str,
    program: &'a Program,
    against: &'a str,
    strict: bool,
    outcome: &'static str,
    notes: &'a [String],
    metrics: Vec<Entry<'a>>,
    judged: usize,
    passed: usize,
    failed: usize,
    inconclusive: usize,
    allowed: usize,
    not_judged: usize,
    summary: String,
}

#[derive(Serialize)]
struct Entry<'a> {
    key: String,
    variant: &'a str,
    metric: &'static str,
    seed: Option<u64>,
    verdict: &'static str,
    baseline: Option<&'a Measured>,
    measured: Option<&'a Measured>,
    ratio: Option<Estimate<Ratio>>,
    why: &'a str,
    allowed_for: Option<&'a str>,
}

impl<'a> Entry<'a> {
    fn of(finding: &'a Finding) -> Self {
        let Finding { key, verdict, baseline, measured, change, why } = finding;
        Self {
            key: key.to_string(),
            variant: &key.variant,
            metric: key.metric.name(),
            seed: key.seed,
            verdict: verdict.name(),
            baseline: baseline.as_ref(),
            measured: measured.as_ref(),
            ratio: *change,
            why,
            allowed_for: match verdict {
                Verdict::Allowed(reason) => Some(reason),
                _ => None,
            },
        }
    }
}

pub(super) fn render(judgement: &Judgement) -> String {
    let counts = judgement.counts();
    let Counts { passed, failed, inconclusive, allowed, not_judged } = counts;
    let whole = Whole {
        schema: SCHEMA,
        experiment: &judgement.experiment,
        program: &judgement.program,
        against: &judgement.against,
        strict: judgement.strict,
        outcome: match judgement.outcome() {
            Outcome::Fine => "fine",
            Outcome::Regression => "regression",
            Outcome::NothingJudged => "nothing judged",
        },
        notes: &judgement.notes,
        metrics: judgement.findings.iter().map(Entry::of).collect(),
        judged: counts.judged(),
        passed,
        failed,
        inconclusive,
        allowed,
        not_judged,
        summary: judgement.summary(),
    };
    // Plain data: this cannot fail.
    serde_json::to_string_pretty(&whole).unwrap_or_default() + "\n"
}
