//! A timed block of every variant of a plan, as `mantissa time` prints it: what two builds exchange to be compared.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::baseline::Program;
use super::fingerprint::Machine;
use super::metric::{Key, Metric};
use crate::record::Environment;
use crate::spec::Plan;
use crate::stats;

/// The version of the form that this program prints and reads.
pub const BLOCK_VERSION: u32 = 1;

/// One block of every variant. A field that this program does not know is left aside: a build of another version printed it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimedBlock {
    /// [`BLOCK_VERSION`] of the program that printed it.
    #[serde(rename = "mantissa_time")]
    pub version: u32,
    /// The experiment's name.
    pub experiment: String,
    /// The program that was timed.
    pub program: Program,
    /// Where.
    pub machine: Machine,
    /// SHA-256 of the plan.
    pub plan_digest: String,
    /// The plan as that program reads it.
    pub plan: Value,
    /// SHA-256 of the data.
    pub data_digest: String,
    /// Seconds of a training step, of its phases and of a batch of inference, by [`Key`].
    pub times: BTreeMap<String, f64>,
    /// Why a variant has no times, by its name.
    pub untimed: BTreeMap<String, String>,
}

/// What is no timed block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// It is something else.
    #[error("not a timed block of mantissa ({0})")]
    Malformed(String),
    /// A newer program printed it.
    #[error("version {0} of a timed block is newer than this program's {BLOCK_VERSION}")]
    Newer(u64),
}

impl TimedBlock {
    /// A block without times, of a plan that ran here.
    pub fn new(plan: &Plan, environment: &Environment, data_digest: &str) -> Self {
        Self {
            version: BLOCK_VERSION,
            experiment: plan.name.clone(),
            program: Program::of(environment),
            machine: Machine::of(environment),
            plan_digest: plan.digest(),
            plan: serde_json::to_value(plan).unwrap_or_default(),
            data_digest: data_digest.to_owned(),
            times: BTreeMap::new(),
            untimed: BTreeMap::new(),
        }
    }

    /// Adds what a variant took; what was not measured is none, or 0.
    pub fn put(&mut self, variant: &str, times: &[(Metric, Option<f64>)]) {
        for (metric, time) in times {
            if let Some(time) = time.filter(|time| *time > 0.0) {
                self.times.insert(Key::of(variant, *metric).to_string(), time);
            }
        }
    }

    /// Reads what a program printed.
    ///
    /// # Errors
    /// When it is no block that this program understands.
    pub fn parse(bytes: &[u8]) -> Result<Self, BlockError> {
        let malformed = |detail: String| BlockError::Malformed(detail);
        let value: Value =
            serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        let version = value.get("mantissa_time").and_then(Value::as_u64);
        let version = version.ok_or_else(|| malformed("it has no mantissa_time".to_owned()))?;
        if version > u64::from(BLOCK_VERSION) {
            return Err(BlockError::Newer(version));
        }
        let block: Self = serde_path_to_error::deserialize(value)
            .map_err(|error| malformed(format!("{}: {}", error.path(), error.inner())))?;
        for (key, time) in &block.times {
            let metric = key.parse::<Key>().map(|key| key.metric);
            if !metric.is_ok_and(Metric::moves_with_machine) {
                return Err(malformed(format!("{key} is no time")));
            }
            if !(time.is_finite() && *time > 0.0) {
                return Err(malformed(format!("{key} is {time}: a time is above 0")));
            }
        }
        Ok(block)
    }

    /// How many such blocks decide: as many as the plan's timing phase has, or the fewest that can show a change in one of all
    /// these times.
    pub fn rounds(&self) -> usize {
        let planned = self.plan["measure"]["timing_blocks"].as_u64().unwrap_or(0);
        usize::try_from(planned).unwrap_or(0).max(stats::least_pairs(self.times.len()))
    }

    /// The times by their keys.
    pub(super) fn keyed(&self) -> impl Iterator<Item = (Key, f64)> + '_ {
        self.times.iter().filter_map(|(key, time)| Some((key.parse().ok()?, *time)))
    }
}
