//! The JSON schema of the files that tools outside the project read. It follows from the types and their documentation.

use schemars::{Schema, schema_for};

use super::{Results, RunRecord};

/// The schema of `results.json`.
pub fn results() -> Schema {
    schema_for!(Results)
}

/// The schema of `runs/<variant>/seed-<n>/record.json`.
pub fn record() -> Schema {
    schema_for!(RunRecord)
}
