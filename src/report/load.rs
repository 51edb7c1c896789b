//! Reading a results folder: the results file or a clear error; run records where they are.

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::record::files::{RESULTS, RUNS};
use crate::record::{Results, RunRecord, SCHEMA};
use crate::store;

use super::{ReportError, validate};

/// A results folder in memory.
///
/// ```
/// use mantissa::report::Loaded;
///
/// /// The runs that diverged, by variant and seed.
/// fn diverged(loaded: &Loaded) -> Vec<(&str, u64)> {
///     use mantissa::record::Status;
///
///     let diverged = loaded.records.iter().filter(|record| record.summary.status == Status::Diverged);
///     diverged.map(|record| (&record.variant[..], record.summary.seed)).collect()
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The folder's own name, or what tells it from others beside it.
    pub label: String,
    /// The results file.
    pub results: Results,
    /// The run records that could be read, by variant in the order of the results, then by seed as listed there.
    pub records: Vec<RunRecord>,
    /// One sentence for each thing that could not be read.
    pub notes: Vec<String>,
}

/// Reads `dir/results.json` and the record of every run it lists.
///
/// ```
/// use mantissa::report::{self, ReportError};
///
/// let folder = "no/such/folder".as_ref();
/// assert!(matches!(report::load(folder), Err(ReportError::Missing(_))));
/// ```
///
/// # Errors
/// When the results file is missing, is not a results file, is damaged, or is of a newer version. A run record that is missing or
/// damaged is only noted.
pub fn load(dir: &Path) -> Result<Loaded, ReportError> {
    let results = load_results(dir)?;
    let (mut records, mut notes) = (Vec::new(), Vec::new());
    let controls = results.controls.iter().map(|control| &control.result);
    for variant in results.variants.iter().chain(controls) {
        for run in &variant.runs {
            match load_record(dir, &variant.name, run.seed) {
                Ok(record) => records.push(record),
                Err(reason) => notes.push(format!(
                    "The record of {}, seed {}, is not shown: {reason}.",
                    variant.name, run.seed
                )),
            }
        }
    }
    Ok(Loaded { label: labels(&[dir]).concat(), results, records, notes })
}

/// For each folder its own name, with as many of those above it as tell it from the other folders.
pub(super) fn labels(dirs: &[impl AsRef<Path>]) -> Vec<String> {
    let whole = |dir: &Path| dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let whole: Vec<PathBuf> = dirs.iter().map(|dir| whole(dir.as_ref())).collect();
    let parts = |dir: &PathBuf| dir.components().count();
    let last = |dir: &PathBuf, count: usize| -> PathBuf {
        dir.components().skip(parts(dir).saturating_sub(count)).collect()
    };
    let label = |dir: &PathBuf| {
        let clear = |count: &usize| {
            let same = |other: &&PathBuf| last(other, *count) == last(dir, *count);
            whole.iter().filter(same).count() == 1
        };
        let count = (1..parts(dir)).find(clear).unwrap_or(parts(dir));
        last(dir, count).display().to_string()
    };
    whole.iter().map(label).collect()
}

/// The beginning of every results file.
#[derive(Deserialize)]
struct Header {
    schema: u64,
}

/// Reads `dir/results.json` alone.
///
/// ```
/// use mantissa::report::{self, ReportError};
///
/// # let dir = tempfile::tempdir()?;
/// # let folder = dir.path();
/// std::fs::write(folder.join("results.json"), "no results")?;
/// assert!(matches!(report::load_results(folder), Err(ReportError::Invalid { .. })));
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// When it is missing, is not a results file, is damaged, or is of a newer version.
pub fn load_results(dir: &Path) -> Result<Results, ReportError> {
    let path = &dir.join(RESULTS);
    if !store::is_file(path)? {
        return Err(ReportError::Missing(path.clone()));
    }
    let bytes = store::read_at_most(path, store::MOST_RESULTS)?;
    match serde_json::from_slice(&bytes) {
        Ok(Header { schema }) if schema > u64::from(SCHEMA) => {
            Err(ReportError::Newer { path: path.clone(), schema })
        }
        _ => parse(&bytes).map_err(|detail| ReportError::Invalid { path: path.clone(), detail }),
    }
}

fn load_record(dir: &Path, variant: &str, seed: u64) -> Result<RunRecord, String> {
    let folder = run_folder(variant, seed).ok_or("its variant's name cannot be a folder")?;
    let place = Path::new(RUNS).join(folder).join("record.json");
    let path = dir.join(&place);
    if !store::is_file(&path).map_err(|error| error.to_string())? {
        return Err(format!("{} is missing", place.display()));
    }
    let bytes = store::read(&path).map_err(|error| error.to_string())?;
    let record: RunRecord =
        parse(&bytes).map_err(|why| format!("{} cannot be read: {why}", place.display()))?;
    if record.variant != variant || record.summary.seed != seed {
        return Err(format!(
            "{} belongs to {}, seed {}",
            place.display(),
            record.variant,
            record.summary.seed
        ));
    }
    Ok(record)
}

/// A results file or a record; else which part of it is wrong, and how.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        // Where a file ends early, serde's place is that of what was to come.
        let end = error.inner().is_eof().then(|| format!("cut short: {}", error.inner()));
        end.unwrap_or_else(|| error.to_string())
    })?;
    json.end().map_err(|error| error.to_string())?;
    let mut value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    validate::numbers(&mut value)?;
    Ok(parsed)
}

/// `<variant>/seed-<n>`, where a run's files lie; none where the variant's name cannot be a folder.
pub(super) fn run_folder(variant: &str, seed: u64) -> Option<PathBuf> {
    Some(single_folder(variant)?.join(format!("seed-{seed}")))
}

/// `name` as one folder below another, so that a results file cannot point anywhere else.
fn single_folder(name: &str) -> Option<PathBuf> {
    let path = Path::new(name);
    let mut components = path.components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(only)), None) if only == path.as_os_str() => Some(path.to_owned()),
        _ => None,
    }
}
