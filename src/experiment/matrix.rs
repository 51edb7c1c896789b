//! `matrix.json`: the cells of a spec with a matrix. Each is an experiment in a folder of its own, and their units are numbered one
//! cell after the other.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::frozen::Frozen;
use super::session::json;
use super::units::{UnitStatus, status, units};
use super::{ExperimentError, kept};
use crate::record::SCHEMA;
use crate::record::files::{CELLS, MATRIX};
use crate::spec::Cell;
use crate::store::{self, Folder};

/// The cells of a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[doc(hidden)] // for the program
pub struct Matrix {
    schema: u32,
    /// The names of the cells, each with the number of its units.
    cells: Vec<CellUnits>,
}

/// A cell of a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct CellUnits {
    name: String,
    units: usize,
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
    /// That of these cells.
    pub fn of(cells: &[Cell]) -> Self {
        let cell =
            |cell: &Cell| CellUnits { name: cell.name.clone(), units: units(&cell.plan).len() };
        Self { schema: SCHEMA, cells: cells.iter().map(cell).collect() }
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

    /// Writes it into a folder, in which cells that are there stay.
    ///
    /// # Errors
    /// When the folder holds one experiment, or cells that this matrix lacks.
    pub fn write(&self, folder: &Folder) -> Result<(), ExperimentError> {
        let out = folder.path();
        kept::refuse_foreign(out)?;
        let occupied = |why: String| Err(ExperimentError::Occupied { folder: out.to_owned(), why });
        if Frozen::find(out)?.is_some() {
            return occupied("it is the folder of one experiment".to_owned());
        }
        let old = Self::find(out)?;
        let is_kept = |cell: &&CellUnits| self.cells.iter().any(|kept| kept.name == cell.name);
        let dropped = old.iter().flat_map(|old| &old.cells).find(|cell| !is_kept(cell));
        if let Some(cell) = dropped {
            return occupied(format!("this matrix is without {}", cell.name));
        }
        store::write_below(out, Path::new(MATRIX), &json(self))?;
        Ok(())
    }

    /// The folders of the cells in a folder, in their order.
    pub fn folders(&self, folder: &Path) -> Vec<PathBuf> {
        self.cells.iter().map(|cell| cell_folder(folder, &cell.name)).collect()
    }

    /// How many units there are.
    pub fn units(&self) -> usize {
        self.cells.iter().map(|cell| cell.units).sum()
    }

    /// Where a unit is, by its number among those of all cells.
    pub fn place(&self, folder: &Path, index: usize) -> Option<UnitPlace> {
        let mut index = index;
        for cell in &self.cells {
            if index < cell.units {
                return Some(UnitPlace { folder: cell_folder(folder, &cell.name), index });
            }
            index -= cell.units;
        }
        None
    }
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
    let mut all = Vec::with_capacity(matrix.units());
    for cell in &matrix.cells {
        let name = Some(cell.name.clone());
        let statuses = status(&cell_folder(folder, &cell.name))?;
        all.extend(statuses.into_iter().map(|status| (name.clone(), status)));
    }
    Ok(all)
}
