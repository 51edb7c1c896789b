//! `matrix.json`: the cells of a spec with a matrix. Each is an experiment in a folder of its own, and their units are numbered one
//! cell after the other.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::frozen::{Frozen, difference_of_kinds};
use super::session::json;
use super::units::{UnitStatus, read_plan, refuse, status};
use super::{ExperimentError, kept};
use crate::record::SCHEMA;
use crate::record::files::{CELLS, MATRIX};
use crate::spec::Cell;
use crate::store::{self, Folder, FolderError};

/// The cells of a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[doc(hidden)] // for the program
pub struct Matrix {
    schema: u32,
    /// The names of the cells.
    cells: Vec<String>,
    /// The kinds of machine on which each is timed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    kinds: Vec<String>,
}

/// A unit by its place: the folder of its experiment, and its number there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[doc(hidden)] // for the program
pub struct UnitPlace {
    /// The folder of the experiment.
    pub folder: PathBuf,
    /// The number of the unit in it.
    pub index: usize,
}

impl Matrix {
    /// That of these cells, each timed on these kinds of machine.
    pub fn of(cells: &[Cell], kinds: &[String]) -> Self {
        let cells = cells.iter().map(|cell| cell.name.clone()).collect();
        Self { schema: SCHEMA, cells, kinds: kinds.to_vec() }
    }

    /// What a folder holds; none where it is that of one experiment, or of none.
    ///
    /// # Errors
    /// When the file cannot be read, or is none of this program's.
    pub fn find(folder: &Path) -> Result<Option<Self>, ExperimentError> {
        let path = folder.join(MATRIX);
        if !store::exists(&path)? {
            return Ok(None);
        }
        let unreadable = |error: serde_json::Error| ExperimentError::NoPlan {
            path: path.clone(),
            reason: format!("is not a matrix of this version ({error})"),
        };
        serde_json::from_slice(&store::read(&path)?).map(Some).map_err(unreadable)
    }

    /// Writes it into a folder, in which cells that are there stay. With `force` what this matrix lacks is removed.
    ///
    /// # Errors
    /// When the folder holds one experiment, cells that this matrix lacks, or those of other kinds of machine, and without `force`.
    pub fn write(&self, folder: &Folder, force: bool) -> Result<(), ExperimentError> {
        let out = folder.path();
        kept::refuse_foreign(out)?;
        let old = Self::find(out)?;
        let kinds = old.as_ref().and_then(|old| difference_of_kinds(&old.kinds, &self.kinds));
        let old = old.map(|old| old.cells).unwrap_or_default();
        let dropped: Vec<String> =
            old.into_iter().filter(|cell| !self.cells.contains(cell)).collect();
        if force {
            kept::remove(out)?;
            remove_cells(folder, &dropped)?;
        } else if Frozen::find(out)?.is_some() {
            refuse(out, &["it is the folder of one experiment".to_owned()])?;
        } else {
            let cell = dropped.first().map(|cell| format!("this matrix is without {cell}"));
            refuse(out, &cell.into_iter().chain(kinds).collect::<Vec<_>>())?;
        }
        store::write_below(out, Path::new(MATRIX), &json(self))?;
        Ok(())
    }

    /// The folders of the cells in a folder, in their order.
    pub fn folders(&self, folder: &Path) -> Vec<PathBuf> {
        self.cells.iter().map(|cell| cell_folder(folder, cell)).collect()
    }
}

/// Where the units of a folder are, by their numbers: those of its cells, or of its one experiment.
///
/// # Errors
/// When the plan of an experiment is missing or cannot be read.
#[doc(hidden)] // for the program
pub fn unit_places(folder: &Path) -> Result<Vec<UnitPlace>, ExperimentError> {
    let matrix = Matrix::find(folder)?;
    let folders = matrix.map_or_else(|| vec![folder.to_owned()], |matrix| matrix.folders(folder));
    let mut places = Vec::new();
    for folder in folders {
        let units = 0..read_plan(&folder)?.units().len();
        places.extend(units.map(|index| UnitPlace { folder: folder.clone(), index }));
    }
    Ok(places)
}

/// Makes way for one experiment in a folder: a matrix that is there is removed with `force`.
///
/// # Errors
/// When there is one, and without `force`.
pub(super) fn make_way(folder: &Folder, force: bool) -> Result<(), ExperimentError> {
    let out = folder.path();
    let Some(Matrix { cells, .. }) = Matrix::find(out)? else { return Ok(()) };
    if !force {
        return refuse(out, &["it is the folder of a matrix".to_owned()]);
    }
    remove_cells(folder, &cells)?;
    Ok(store::remove(&out.join(MATRIX))?)
}

/// Removes the experiments of cells. What is in their folders and none of this program's stays.
fn remove_cells(folder: &Folder, cells: &[String]) -> Result<(), ExperimentError> {
    let out = folder.path();
    let all = Path::new(CELLS);
    store::refuse_links(out, all)?;
    for cell in store::real_folders(&out.join(all))? {
        let is_named = |named: &String| cell.file_name().is_some_and(|name| name == &**named);
        if cells.iter().any(is_named) {
            let lock = Folder::lock(&cell, folder.holder()).map_err(|error| match error {
                FolderError::Store(error) => ExperimentError::Store(error),
                FolderError::Held { path, holder } => {
                    ExperimentError::Held { folder: path, what: "the cell".to_owned(), holder }
                }
            })?;
            kept::remove(&cell)?;
            drop(lock);
            store::remove_if_empty(&cell);
        }
    }
    store::remove_if_empty(&out.join(all));
    Ok(())
}

/// The folder of a cell.
#[doc(hidden)] // for the program
pub fn cell_folder(folder: &Path, name: &str) -> PathBuf {
    folder.join(CELLS).join(name)
}

/// The units of a folder by their numbers: those of its cells, or of its one experiment. Each with the name of its cell.
///
/// # Errors
/// As [`status`], of any cell.
#[doc(hidden)] // for the program
pub fn status_of_all(folder: &Path) -> Result<Vec<(Option<String>, UnitStatus)>, ExperimentError> {
    let Some(matrix) = Matrix::find(folder)? else {
        return Ok(status(folder)?.into_iter().map(|status| (None, status)).collect());
    };
    let mut all = Vec::new();
    for cell in &matrix.cells {
        let name = Some(cell.clone());
        let statuses = status(&cell_folder(folder, cell))?;
        all.extend(statuses.into_iter().map(|status| (name.clone(), status)));
    }
    Ok(all)
}
