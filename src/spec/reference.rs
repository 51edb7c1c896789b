//! Published figures of another machine, for a report to show beside an experiment's own: a TOML file that a spec names.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SpecError;
use super::resolve::{Checked, at_most, limits, real, refuse};
use crate::precision::Policy;
use crate::store;

/// Units of a column by its key.
const UNITS: [(&str, &[&str]); 3] = [
    ("time", &["ms", "s", "min", "h"]),
    ("memory", &["MB", "MiB", "GB", "GiB"]),
    ("accuracy", &["%"]),
];

/// Figures that were published, and what they are of. No verdict uses them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// What was trained.
    pub title: String,
    /// Where the figures were published.
    pub source: String,
    /// The hardware and software that they were measured on.
    pub machine: String,
    /// How it was trained.
    pub settings: String,
    /// What else to know, a sentence each.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The columns that there are.
    pub columns: ReferenceColumns,
    /// The rows, in the order of the table.
    pub rows: Vec<ReferenceRow>,
}

/// The columns of published figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReferenceColumns {
    /// The time of training, in ms, s, min or h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<ReferenceColumn>,
    /// The peak memory of training, in MB, MiB, GB or GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<ReferenceColumn>,
    /// The test accuracy, in %.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<ReferenceColumn>,
}

/// What the values of a column are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReferenceColumn {
    /// Their unit.
    pub unit: String,
    /// What was measured.
    pub measured: String,
}

/// One row of published figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReferenceRow {
    /// What it was published as.
    pub label: String,
    /// The policy whose variants it stands beside; none where no policy does the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub policy: Option<Policy>,
    /// The time of training, in the column's unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<f64>,
    /// The peak memory of training, in the column's unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<f64>,
    /// The test accuracy in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// What to know of this row, in a few words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Reference {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// When it cannot be read, or as [`Reference::read`].
    pub fn load(path: &Path) -> Result<Self, SpecError> {
        let text = store::read_to_string(path).map_err(|error| SpecError {
            place: "reference".to_owned(),
            what: error.to_string(),
        })?;
        Self::read(&path.display().to_string(), &text)
    }

    /// The first value that cannot be.
    pub(super) fn check(&self) -> Checked<()> {
        for (key, text) in [
            ("title", &self.title),
            ("source", &self.source),
            ("machine", &self.machine),
            ("settings", &self.settings),
        ] {
            if text.trim().is_empty() {
                return refuse(key, "is empty; say it in a few words");
            }
        }
        self.columns.check()?;
        if self.rows.is_empty() {
            return refuse("rows", "is empty; give at least one row");
        }
        at_most("rows", self.rows.len(), limits::VARIANTS, "rows")?;
        for (i, row) in self.rows.iter().enumerate() {
            let before = &self.rows[..i];
            if let Some(other) = before.iter().find(|other| other.label == row.label) {
                let what =
                    format!("a second row with the label {:?}; give each its own", other.label);
                return refuse(format!("rows[{i}].label"), what);
            }
            let is_same =
                |other: &&ReferenceRow| row.policy.is_some() && other.policy == row.policy;
            if let Some(other) = before.iter().find(is_same) {
                let what =
                    format!("is that of the row {:?}; give a policy to one row only", other.label);
                return refuse(format!("rows[{i}].policy"), what);
            }
            self.columns.check_row(i, row)?;
        }
        Ok(())
    }
}

impl ReferenceColumns {
    /// Each key, and its column.
    fn by_key(&self) -> [(&'static str, Option<&ReferenceColumn>); 3] {
        [
            ("time", self.time.as_ref()),
            ("memory", self.memory.as_ref()),
            ("accuracy", self.accuracy.as_ref()),
        ]
    }

    fn check(&self) -> Checked<()> {
        if self.by_key().iter().all(|(_, column)| column.is_none()) {
            return refuse("columns", "is empty; give at least one of time, memory and accuracy");
        }
        for ((key, column), (_, units)) in self.by_key().into_iter().zip(UNITS) {
            if let Some(ReferenceColumn { unit, .. }) = column
                && !units.contains(&unit.as_str())
            {
                let what = format!("unknown unit {unit:?}; known: {}", units.join(", "));
                return refuse(format!("columns.{key}.unit"), what);
            }
        }
        Ok(())
    }

    /// Whether each value of a row has its column, and can be.
    fn check_row(&self, index: usize, row: &ReferenceRow) -> Checked<()> {
        let values = [row.time, row.memory, row.accuracy];
        for ((name, column), value) in self.by_key().into_iter().zip(values) {
            let Some(value) = value else { continue };
            let key = format!("rows[{index}].{name}");
            if column.is_none() {
                let what = format!("has no column; add columns.{name}, or remove the value");
                return refuse(key, what);
            }
            if name == "accuracy" {
                real(&key, value, "0 to 100", |v| (0.0..=100.0).contains(&v))?;
            } else {
                real(&key, value, "over 0 and at most 1e9", |v| v > 0.0 && v <= 1e9)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
