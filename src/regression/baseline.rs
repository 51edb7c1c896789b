//! A baseline: what a plan's results were when somebody accepted them, in a small file whose lines are sorted, so that a
//! review shows what changed.
//!
//! `<folder>/<experiment>/<fingerprint>.json`. The fingerprint is that of the arithmetic: exact metrics are one set a file, and
//! times one set a machine in it.

#[cfg(test)]
mod tests;
mod unique;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::record::{Environment, Results};
use crate::spec::Plan;
use crate::store::{self, StoreError};

use super::compact;
use super::fingerprint::{Arithmetic, Machine};
use super::measures::{Times, exact_metrics};
use super::metric::{Key, Measured};

/// The version of the file that this program writes and reads.
pub const SCHEMA: u32 = 1;

/// The folder of baselines where none is named.
pub const FOLDER: &str = "baselines";

/// The most bytes of a baseline: that of 100 variants with 10,000 seeds each has 300 MB.
const MOST_BYTES: u64 = 1 << 29;

/// What a baseline's file holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// [`SCHEMA`] of the program that wrote the file.
    pub schema: u32,
    /// The experiment's name.
    pub experiment: String,
    /// The program whose exact metrics these are.
    pub program: Program,
    /// Why they were accepted.
    pub reason: String,
    /// What the exact metrics depend on.
    pub arithmetic: Arithmetic,
    /// SHA-256 of the plan.
    pub plan_digest: String,
    /// The plan.
    pub plan: Plan,
    /// SHA-256 of the data.
    pub data_digest: String,
    /// The exact metrics, by [`Key`].
    #[serde(deserialize_with = "unique::map")]
    pub metrics: BTreeMap<String, Measured>,
    /// The times, by the fingerprint of the machine.
    #[serde(deserialize_with = "unique::map")]
    pub machines: BTreeMap<String, MachineTimes>,
}

/// A program: its version and commit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// The version.
    pub version: String,
    /// The commit; none outside a checkout.
    pub commit: Option<String>,
}

impl Program {
    /// The one that an environment tells of.
    pub fn of(environment: &Environment) -> Self {
        Self { version: environment.version.clone(), commit: environment.git.clone() }
    }
}

/// The times of a machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineTimes {
    /// The machine.
    pub machine: Machine,
    /// The program that was timed.
    pub program: Program,
    /// The timed blocks, by [`Key`].
    #[serde(deserialize_with = "unique::map")]
    pub blocks: BTreeMap<String, Vec<f64>>,
    /// The fastest product of each format, in operations a second.
    #[serde(deserialize_with = "unique::map")]
    pub products: BTreeMap<String, f64>,
}

/// A baseline that cannot be used: what is compared has nothing to be compared with.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    /// There is none.
    #[error(
        "{}: no baseline; make results the baseline with `mantissa baseline accept DIR`", .0.display()
    )]
    Missing(PathBuf),
    /// The file is something else, cut short, or was changed by hand.
    #[error(
        "{}: not a baseline of mantissa ({detail}); restore it, or accept one again with `mantissa baseline accept DIR`",
        path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        detail: String,
    },
    /// A newer program wrote the file.
    #[error(
        "{}: schema {schema} is newer than this program's {SCHEMA}; use the mantissa that wrote it, or a newer one",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The schema that it declares.
        schema: u64,
    },
    /// The experiment has a name that no folder can have.
    #[error("the experiment's name {0:?} cannot be a folder's; run it again under another")]
    Name(String),
    /// A file could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Baseline {
    /// Results as a baseline, accepted for `reason`.
    pub fn of(results: &Results, reason: &str) -> Self {
        let environment = &results.environment;
        let metrics =
            exact_metrics(results).into_iter().map(|(key, value)| (key.to_string(), value));
        let machine = Machine::of(environment);
        let Times { blocks, products, .. } = Times::of(results);
        let times = MachineTimes {
            program: Program::of(environment),
            blocks: blocks.into_iter().map(|(key, blocks)| (key.to_string(), blocks)).collect(),
            products,
            machine,
        };
        let machines = (!times.blocks.is_empty()).then(|| (times.machine.fingerprint(), times));
        Self {
            schema: SCHEMA,
            experiment: results.experiment.clone(),
            program: Program::of(environment),
            reason: reason.to_owned(),
            arithmetic: Arithmetic::of(environment),
            plan_digest: results.plan.digest(),
            plan: results.plan.clone(),
            data_digest: results.data.as_ref().map_or_else(String::new, |data| data.digest.clone()),
            metrics: metrics.collect(),
            machines: machines.into_iter().collect(),
        }
    }

    /// This baseline with the times that `older`, which it replaces, has of other machines, where these are times of the same
    /// plan.
    #[must_use]
    pub fn with_machines_of(mut self, older: &Self) -> Self {
        if older.plan == self.plan {
            for (fingerprint, times) in &older.machines {
                self.machines.entry(fingerprint.clone()).or_insert_with(|| times.clone());
            }
        }
        self
    }

    /// Where it belongs, below the folder of baselines.
    ///
    /// # Errors
    /// When the experiment's name cannot be a folder's: results from elsewhere could lead anywhere.
    pub fn place(&self) -> Result<PathBuf, BaselineError> {
        place(&self.experiment, &self.arithmetic)
    }

    /// The file's text: sorted keys, a line a metric, times to six digits.
    pub fn text(&self) -> String {
        let mut rounded = self.clone();
        for times in rounded.machines.values_mut() {
            let blocks = times.blocks.values_mut().flatten();
            for time in blocks.chain(times.products.values_mut()) {
                *time = six_digits(*time);
            }
        }
        compact::json(&serde_json::to_value(&rounded).unwrap_or_default())
    }

    /// Reads a baseline's file.
    ///
    /// # Errors
    /// When there is none, or it is none that this program understands.
    pub fn read(path: &Path) -> Result<Self, BaselineError> {
        if !store::exists(path)? {
            return Err(BaselineError::Missing(path.to_owned()));
        }
        let bytes = store::read_at_most(path, MOST_BYTES)?;
        Self::parse(&bytes, path)
    }

    fn parse(bytes: &[u8], path: &Path) -> Result<Self, BaselineError> {
        let malformed = |detail: String| BaselineError::Malformed { path: path.to_owned(), detail };
        let value: Value =
            serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        let schema = value.get("schema").and_then(Value::as_u64);
        let schema = schema.ok_or_else(|| malformed("it has no schema number".to_owned()))?;
        if schema > u64::from(SCHEMA) {
            return Err(BaselineError::Newer { path: path.to_owned(), schema });
        }
        // From the text again: a value has lost what stood twice.
        let mut text = serde_json::Deserializer::from_slice(bytes);
        let baseline: Self = serde_path_to_error::deserialize(&mut text)
            .map_err(|error| malformed(format!("{}: {}", error.path(), error.inner())))?;
        if let Some(key) = baseline.foreign_key() {
            return Err(malformed(format!("{key} is no metric")));
        }
        Ok(baseline)
    }

    /// A key that is none of a metric.
    fn foreign_key(&self) -> Option<&str> {
        let blocks = self.machines.values().flat_map(|times| times.blocks.keys());
        self.metrics
            .keys()
            .chain(blocks)
            .find(|key| key.parse::<Key>().is_err())
            .map(String::as_str)
    }

    /// The exact metrics by their keys.
    pub(super) fn exact(&self) -> BTreeMap<Key, Measured> {
        let parsed =
            self.metrics.iter().filter_map(|(key, value)| Some((key.parse().ok()?, value)));
        parsed.map(|(key, value)| (key, value.clone())).collect()
    }
}

impl MachineTimes {
    /// The times by their keys.
    pub(super) fn times(&self) -> Times {
        let blocks =
            self.blocks.iter().filter_map(|(key, blocks)| Some((key.parse().ok()?, blocks)));
        Times {
            blocks: blocks.map(|(key, blocks): (Key, _)| (key, blocks.clone())).collect(),
            products: self.products.clone(),
            other_load: None,
        }
    }
}

/// The nearest number with six digits, which a reviewer can read and which is finer than any clock's noise.
fn six_digits(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

/// The baseline for results: the file `at`, or of the folder `at` the one of the results' experiment and arithmetic, else the
/// first that can be read of its experiment: formats whose products run alike there are comparable. Also its path, and a
/// sentence on each file that was passed over.
///
/// # Errors
/// When there is none, or what there is cannot be read.
pub fn find(
    at: &Path,
    results: &Results,
) -> Result<(Baseline, PathBuf, Vec<String>), BaselineError> {
    if store::is_file(at)? {
        return Ok((Baseline::read(at)?, at.to_owned(), Vec::new()));
    }
    let own = at.join(place(&results.experiment, &Arithmetic::of(&results.environment))?);
    if store::exists(&own)? {
        return Ok((Baseline::read(&own)?, own, Vec::new()));
    }
    let (mut notes, mut first_error) = (Vec::new(), None);
    for path in files(own.parent().unwrap_or(at))? {
        match Baseline::read(&path) {
            Ok(baseline) => return Ok((baseline, path, notes)),
            Err(error) => {
                notes.push(error.to_string());
                first_error.get_or_insert(error);
            }
        }
    }
    Err(first_error.unwrap_or(BaselineError::Missing(own)))
}

/// The baselines below a folder of baselines: of each experiment the files, sorted.
///
/// # Errors
/// When a folder cannot be read.
pub fn list(at: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut all = Vec::new();
    for experiment in store::real_folders(at)? {
        all.extend(files(&experiment)?);
    }
    Ok(all)
}

fn place(experiment: &str, arithmetic: &Arithmetic) -> Result<PathBuf, BaselineError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if experiment.is_empty() || !experiment.chars().all(is_plain) {
        return Err(BaselineError::Name(experiment.to_owned()));
    }
    Ok(Path::new(experiment).join(format!("{}.json", arithmetic.fingerprint())))
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut paths = store::list(folder)?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    Ok(paths)
}
