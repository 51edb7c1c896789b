//! The report: from a results folder to figures, tables and pages. Reads records, computes no measurement.

use std::path::{Path, PathBuf};

use crate::record::Results;
use crate::store::StoreError;

/// A report that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The folder holds no results file.
    #[error("{}: not found; give the folder that `mantissa experiment` wrote with --out", .0.display())]
    Missing(PathBuf),
    /// The results file ends before its JSON does.
    #[error("{}: cut short ({detail})", path.display())]
    CutShort {
        /// The results file.
        path: PathBuf,
        /// Where it ends.
        detail: String,
    },
    /// The file is something else, or was changed by hand.
    #[error("{}: not a results file of mantissa ({detail})", path.display())]
    NotResults {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        detail: String,
    },
    /// A newer program wrote the file.
    #[error("{}: schema {schema} is newer than this program's", path.display())]
    Newer {
        /// The results file.
        path: PathBuf,
        /// The schema it declares.
        schema: u64,
    },
    /// A part of the report could not be drawn or filled in.
    #[error("{}: cannot be made: {detail}", path.display())]
    Make {
        /// The file that is missing now.
        path: PathBuf,
        /// The cause.
        detail: String,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Writes the report of the results in `dir`.
///
/// # Errors
/// When there are none.
pub fn render(dir: &Path) -> Result<Vec<PathBuf>, ReportError> {
    Err(ReportError::Missing(dir.join("results.json")))
}

/// The comparison of an experiment's variants as text.
pub fn terminal_table(_results: &Results) -> String {
    String::new()
}
