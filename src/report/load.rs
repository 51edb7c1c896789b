//! Reading a results folder: the results file whole or a clear error; run records where they are.

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde_json::error::Category;

use crate::record::{Results, RunRecord, SCHEMA};
use crate::store;

use super::ReportError;

/// A results folder in memory.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The results file.
    pub results: Results,
    /// The run records that could be read, by variant in the order of the results, then by seed as listed there.
    pub records: Vec<RunRecord>,
    /// One sentence for each run record that could not be read.
    pub notes: Vec<String>,
}

impl Loaded {
    /// The records of one variant.
    pub fn records_of(&self, variant: &str) -> impl Iterator<Item = &RunRecord> {
        self.records.iter().filter(move |record| record.variant == variant)
    }
}

/// Reads `dir/results.json` and the record of every run it lists.
///
/// # Errors
/// When the results file is missing, cut short, of a newer schema or not a results file. A run record that is missing
/// or broken is only noted.
pub fn load(dir: &Path) -> Result<Loaded, ReportError> {
    let results = load_results(&dir.join("results.json"))?;
    let mut records = Vec::new();
    let mut notes = Vec::new();
    for variant in &results.variants {
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
    Ok(Loaded { results, records, notes })
}

/// The part of a results file that every schema has.
#[derive(Deserialize)]
struct Header {
    schema: u64,
}

fn load_results(path: &Path) -> Result<Results, ReportError> {
    if !path.is_file() {
        return Err(ReportError::Missing(path.to_owned()));
    }
    let bytes = store::read(path)?;
    let header: Header = serde_json::from_slice(&bytes).map_err(|error| explain(path, &error))?;
    if header.schema > u64::from(SCHEMA) {
        return Err(ReportError::Newer { path: path.to_owned(), schema: header.schema });
    }
    serde_json::from_slice(&bytes).map_err(|error| explain(path, &error))
}

fn explain(path: &Path, error: &serde_json::Error) -> ReportError {
    let (path, detail) = (path.to_owned(), error.to_string());
    match error.classify() {
        Category::Eof => ReportError::CutShort { path, detail },
        Category::Io | Category::Syntax | Category::Data => {
            ReportError::NotResults { path, detail }
        }
    }
}

fn load_record(dir: &Path, variant: &str, seed: u64) -> Result<RunRecord, String> {
    let folder = run_folder(variant, seed).ok_or("its variant's name cannot be a folder")?;
    let place = Path::new("runs").join(folder).join("record.json");
    let path = dir.join(&place);
    if !path.is_file() {
        return Err(format!("{} is missing", place.display()));
    }
    let bytes = store::read(&path).map_err(|error| error.to_string())?;
    let record: RunRecord = serde_json::from_slice(&bytes)
        .map_err(|error| format!("{} cannot be read: {error}", place.display()))?;
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
