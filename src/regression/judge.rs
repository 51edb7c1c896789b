//! Results held against a baseline: a judgement, which is data. Reads no file, writes none, prints nothing.

use crate::formatting::plural;
use crate::record::{Estimate, Results};
use crate::spec::{MeasurePlan, Plan};
use crate::units::Ratio;

use super::allowance::Allowance;
use super::baseline::{Baseline, Program};
use super::metric::{Key, Measured};
use super::{exact, times};

pub use super::times::Second;

/// What became of a metric.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It is within its margin.
    Passed,
    /// It is not.
    Failed,
    /// It may not be, and that is not certain.
    Inconclusive,
    /// It is not, and somebody said why that is right.
    Allowed(String),
    /// There is nothing to compare it with.
    NotJudged,
}

impl Verdict {
    /// One word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Inconclusive => "inconclusive",
            Self::Allowed(_) => "allowed",
            Self::NotJudged => "not judged",
        }
    }
}

/// One metric, judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Which.
    pub key: Key,
    /// What became of it.
    pub verdict: Verdict,
    /// The baseline's value, as far as there is one; of times the median.
    pub baseline: Option<Measured>,
    /// The value now.
    pub measured: Option<Measured>,
    /// Now ÷ baseline, where that was estimated.
    pub change: Option<Estimate<Ratio>>,
    /// What was found, in a sentence without its end.
    pub why: String,
}

impl Finding {
    /// The two values as a reader sees them.
    pub fn values(&self) -> [String; 2] {
        let text = |value: &Option<Measured>| {
            value.as_ref().map_or_else(|| "—".to_owned(), |value| self.key.metric.text(value))
        };
        [text(&self.baseline), text(&self.measured)]
    }

    /// What was found, with the reason it is allowed for.
    pub fn sentence(&self) -> String {
        match &self.verdict {
            Verdict::Allowed(reason) => format!("{} — allowed: {reason}", self.why),
            _ => self.why.clone(),
        }
    }
}

/// How many metrics came to what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Within their margins.
    pub passed: usize,
    /// Beyond them.
    pub failed: usize,
    /// Perhaps beyond them.
    pub inconclusive: usize,
    /// Beyond them, and allowed.
    pub allowed: usize,
    /// With nothing to compare them with.
    pub not_judged: usize,
}

impl Counts {
    /// All that there was something to say of.
    pub fn judged(&self) -> usize {
        self.passed + self.failed + self.inconclusive + self.allowed
    }
}

/// What a check comes to as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing failed.
    Fine,
    /// Something failed; under `strict`, or was inconclusive.
    Regression,
    /// Not one metric was decided: a gate that saw nothing is no gate.
    NothingJudged,
}

/// What results come to against a baseline.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// The experiment's name.
    pub experiment: String,
    /// The program whose results are judged.
    pub program: Program,
    /// What they are held against: a file or folder, with its commit.
    pub against: String,
    /// Whether what is inconclusive counts as failed.
    pub strict: bool,
    /// What a reader must know of the whole.
    pub notes: Vec<String>,
    /// Whether a second timing phase, which there was none of, may make failures of what is inconclusive.
    pub wants_second_timing: bool,
    /// One entry a metric, in the order of their keys.
    pub findings: Vec<Finding>,
}

/// What was asked of a check.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// What to call the baseline.
    pub against: &'a str,
    /// Whether what is inconclusive counts as failed.
    pub strict: bool,
    /// Which metrics may fail.
    pub allowed: &'a [Allowance],
    /// A second timing phase, once it was tried.
    pub second: Option<&'a Second>,
}

/// Judges results by a baseline.
pub fn judge(baseline: &Baseline, results: &Results, asked: &Asked<'_>) -> Judgement {
    if let Some(difference) = of_training(&baseline.plan, &results.plan).first() {
        let reason = format!("the baseline is of another plan: {difference}");
        return refused(results, asked, reason);
    }
    let data = results.data.as_ref().map_or("", |data| &data.digest);
    if data != baseline.data_digest {
        let reason = "the baseline learnt from other data: their digests differ".to_owned();
        return refused(results, asked, reason);
    }
    let mut findings = exact::judge(baseline, results);
    let (of_times, wants_second_timing) = times::judge(baseline, results, asked);
    findings.extend(of_times);
    Judgement {
        wants_second_timing,
        ..with_allowances(empty(results, asked), findings, asked.allowed)
    }
}

/// How two plans differ in what exact metrics depend on: neither timing nor the thresholds of claims changes them.
fn of_training(old: &Plan, new: &Plan) -> Vec<String> {
    let MeasurePlan { timing_blocks, timing_steps, timing_warmup, .. } = new.measure;
    let measure = MeasurePlan { timing_blocks, timing_steps, timing_warmup, ..old.measure };
    Plan { measure, claims: new.claims, ..old.clone() }.differences(new)
}

/// A judgement with these findings, of which what fails may be allowed.
pub(super) fn with_allowances(
    judgement: Judgement,
    mut findings: Vec<Finding>,
    allowed: &[Allowance],
) -> Judgement {
    findings.sort_by(|a, b| a.key.cmp(&b.key));
    for finding in findings.iter_mut().filter(|finding| finding.verdict == Verdict::Failed) {
        let allowance = allowed.iter().find(|allowance| allowance.covers(&finding.key));
        if let Some(allowance) = allowance {
            finding.verdict = Verdict::Allowed(allowance.reason.clone());
        }
    }
    let is_needed = |allowance: &&Allowance| {
        findings.iter().any(|finding| {
            matches!(finding.verdict, Verdict::Allowed(_)) && allowance.covers(&finding.key)
        })
    };
    let unneeded = allowed.iter().filter(|allowance| !is_needed(allowance));
    let unneeded = unneeded.map(|allowance| {
        format!("--allow {allowance}: nothing failed that it names, so it can go.")
    });
    let notes = judgement.notes.into_iter().chain(unneeded).collect();
    Judgement { notes, findings, ..judgement }
}

/// The judgement where the two cannot be compared at all, for a reason that is a sentence without its end.
pub fn refused(results: &Results, asked: &Asked<'_>, reason: String) -> Judgement {
    Judgement { notes: vec![reason], ..empty(results, asked) }
}

fn empty(results: &Results, asked: &Asked<'_>) -> Judgement {
    Judgement {
        experiment: results.experiment.clone(),
        program: Program::of(&results.environment),
        against: asked.against.to_owned(),
        strict: asked.strict,
        notes: Vec::new(),
        wants_second_timing: false,
        findings: Vec::new(),
    }
}

impl Judgement {
    /// How many metrics came to what.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for finding in &self.findings {
            let count = match finding.verdict {
                Verdict::Passed => &mut counts.passed,
                Verdict::Failed => &mut counts.failed,
                Verdict::Inconclusive => &mut counts.inconclusive,
                Verdict::Allowed(_) => &mut counts.allowed,
                Verdict::NotJudged => &mut counts.not_judged,
            };
            *count += 1;
        }
        counts
    }

    /// What it comes to.
    pub fn outcome(&self) -> Outcome {
        let Counts { passed, failed, inconclusive, allowed, .. } = self.counts();
        if failed > 0 || self.strict && inconclusive > 0 {
            Outcome::Regression
        } else if passed + allowed == 0 {
            Outcome::NothingJudged
        } else {
            Outcome::Fine
        }
    }

    /// The last line of every format: `120 metrics judged: 118 passed, 1 failed, 1 inconclusive, 0 allowed; 3 not judged`.
    pub fn summary(&self) -> String {
        let counts = self.counts();
        let judged = plural(counts.judged(), "metric");
        let Counts { passed, failed, inconclusive, allowed, not_judged } = counts;
        format!(
            "{judged} judged: {passed} passed, {failed} failed, {inconclusive} inconclusive, {allowed} allowed; \
             {not_judged} not judged"
        )
    }

    /// The findings of one verdict, by its name.
    pub fn with(&self, name: &str) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.verdict.name() == name)
    }

    /// What was not judged, by the reason, with the metrics it holds for.
    pub fn not_judged(&self) -> Vec<(&str, Vec<&Key>)> {
        let mut groups: Vec<(&str, Vec<&Key>)> = Vec::new();
        for finding in self.with(Verdict::NotJudged.name()) {
            match groups.iter_mut().find(|(why, _)| *why == finding.why) {
                Some((_, keys)) => keys.push(&finding.key),
                None => groups.push((&finding.why, vec![&finding.key])),
            }
        }
        groups
    }
}
