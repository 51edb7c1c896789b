//! Metrics that may fail, each with its reason: `--allow METRIC=REASON`.

use std::fmt;
use std::str::FromStr;

use super::judge::Judgement;
use super::metric::{Key, Metric};

/// What may fail. Text form: `METRIC=REASON`, with the metric of all variants (`lost_updates`), of one variant
/// (`bf16-mixed/lost_updates`) or of one seed (`bf16-mixed/test_accuracy/seed-0`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// The variant; none for all.
    variant: Option<String>,
    metric: Metric,
    /// The seed; none for all.
    seed: Option<u64>,
    /// Why it may.
    pub reason: String,
}

/// An allowance that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllowanceError {
    /// It lacks its reason.
    #[error("--allow {0}: expected METRIC=REASON, such as lost_updates=\"new optimizer, see #12\"")]
    NoReason(String),
    /// There is no such metric.
    #[error(
        "--allow {given}: no such metric; known: {known}, each also as VARIANT/METRIC, and those of a run as VARIANT/METRIC/seed-N",
        known = known()
    )]
    Unknown {
        /// What was typed before the `=`.
        given: String,
    },
    /// The metric is not one of what was judged.
    #[error("--allow {given}: no such variant or seed; judged are, among others: {some}")]
    Absent {
        /// What was typed before the `=`.
        given: String,
        /// Keys of the metric that were judged.
        some: String,
    },
}

fn known() -> String {
    Metric::all().map(Metric::name).collect::<Vec<_>>().join(", ")
}

impl FromStr for Allowance {
    type Err = AllowanceError;

    fn from_str(text: &str) -> Result<Self, AllowanceError> {
        let split = text.split_once('=').map(|(name, reason)| (name.trim(), reason.trim()));
        let Some((name, reason)) = split.filter(|(_, reason)| !reason.is_empty()) else {
            return Err(AllowanceError::NoReason(text.to_owned()));
        };
        let unknown = || AllowanceError::Unknown { given: name.to_owned() };
        let reason = reason.to_owned();
        let parts: Vec<&str> = name.split('/').collect();
        let (variant, metric, seed) = match parts.as_slice() {
            [metric] => (None, *metric, None),
            [variant, metric] => (Some(*variant), *metric, None),
            [..] => {
                let Key { variant, metric, seed } = name.parse().map_err(|()| unknown())?;
                return Ok(Self { variant: Some(variant), metric, seed, reason });
            }
        };
        let metric = metric.parse().map_err(|()| unknown())?;
        Ok(Self { variant: variant.map(str::to_owned), metric, seed, reason })
    }
}

impl fmt::Display for Allowance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}={}", self.name(), self.reason))
    }
}

impl Allowance {
    fn name(&self) -> String {
        let Self { variant, metric, seed, .. } = self;
        let variant = variant.as_ref().map(|variant| format!("{variant}/")).unwrap_or_default();
        let seed = seed.map(|seed| format!("/seed-{seed}")).unwrap_or_default();
        format!("{variant}{}{seed}", metric.name())
    }

    /// Whether a metric is meant.
    pub fn covers(&self, key: &Key) -> bool {
        self.metric == key.metric
            && self.variant.as_ref().is_none_or(|variant| *variant == key.variant)
            && (self.seed.is_none() || self.seed == key.seed)
    }

    /// Makes sure that something of what was judged is meant: a name with a slip in it would allow nothing, and say so too
    /// late.
    ///
    /// # Errors
    /// When nothing is.
    pub fn check(&self, judgement: &Judgement) -> Result<(), AllowanceError> {
        /// Keys that there are.
        const SOME: usize = 5;
        let findings = &judgement.findings;
        if findings.is_empty() || findings.iter().any(|finding| self.covers(&finding.key)) {
            return Ok(());
        }
        let same = findings.iter().filter(|finding| finding.key.metric == self.metric);
        let some: Vec<String> = same.take(SOME).map(|finding| finding.key.to_string()).collect();
        let some = if some.is_empty() { "none of this metric".to_owned() } else { some.join(", ") };
        Err(AllowanceError::Absent { given: self.name(), some })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_means_a_metric_of_all_of_one_variant_or_of_one_seed() {
        let key = |text: &str| text.parse::<Key>().unwrap();
        for (text, covered, not) in [
            ("test_accuracy=why", "a/test_accuracy/seed-1", "a/final_loss/seed-1"),
            ("a/test_accuracy=why", "a/test_accuracy/seed-1", "b/test_accuracy/seed-1"),
            ("a/test_accuracy/seed-1=why", "a/test_accuracy/seed-1", "a/test_accuracy/seed-2"),
            ("a/lost_updates=why", "a/lost_updates", "a/step_seconds"),
        ] {
            let allowance: Allowance = text.parse().unwrap();
            assert_eq!(allowance.to_string(), text);
            assert!(allowance.covers(&key(covered)), "{text}");
            assert!(!allowance.covers(&key(not)), "{text}");
        }
    }

    #[test]
    fn what_is_no_allowance_is_told() {
        for text in ["lost_updates", "lost_updates=", "lost_updates= ", "", "=x"] {
            assert!(text.parse::<Allowance>().is_err(), "{text}");
        }
        for text in ["lost_update=x", "a/b=x", "a/lost_updates/seed-1=x", "a/b/c/d=x"] {
            let error = text.parse::<Allowance>().unwrap_err().to_string();
            assert!(error.contains("no such metric; known: diverged, test_accuracy"), "{error}");
        }
    }
}
