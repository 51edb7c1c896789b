//! A spec with a matrix: an experiment for each of its cells, and one report on all.

use std::path::{Path, PathBuf};

use super::units::{freeze, this_program};
use super::{
    ExperimentArguments, Failure, StudyArguments, holder, one_experiment, print, printable, say,
    side_by_side, signals,
};
use crate::experiment::{Matrix, cell_folder};
use crate::record::files::PAGE;
use crate::spec::Cell;
use crate::store::Folder;

/// Does the experiments of all cells, one after the other, each in its folder, and makes one report on all.
pub(super) fn experiment(
    cells: Vec<Cell>,
    out: &Path,
    arguments: &ExperimentArguments,
) -> Result<(), Failure> {
    if !arguments.dry_run {
        write_matrix(&cells, out, &arguments.study, &[])?;
    }
    let (stop, all) = (signals::stop_flag()?, cells.len());
    let (mut folders, mut failed) = (Vec::new(), None);
    for (index, Cell { name, plan }) in cells.into_iter().enumerate() {
        if !arguments.quiet {
            say(&format!("cell {} of {all}: {name}", index + 1));
        }
        let folder = cell_folder(out, &name);
        match one_experiment(plan, &folder, arguments, &stop) {
            Ok(()) => {}
            // The other cells have results all the same.
            Err(failure @ Failure::Machine(_)) => failed = failed.or(Some(failure)),
            Err(failure) => return Err(failure),
        }
        folders.push(folder);
    }
    if !arguments.dry_run {
        report_on_all(&folders, out)?;
    }
    failed.map_or(Ok(()), Err)
}

/// Fixes the plans of all cells, and returns the units of all in words.
pub(super) fn plan(
    cells: Vec<Cell>,
    out: &Path,
    asked: &StudyArguments,
    kinds: &[String],
    quiet: bool,
) -> Result<Vec<String>, Failure> {
    write_matrix(&cells, out, asked, kinds)?;
    let mut all = Vec::new();
    for Cell { name, plan } in cells {
        let units = freeze(plan, &cell_folder(out, &name), asked, kinds, quiet)?;
        all.extend(units.iter().map(|unit| format!("{name}: {unit}")));
    }
    Ok(all)
}

/// Collects every cell, and makes one report on all. The first complaint about a cell is the outcome.
pub(super) fn collect(
    matrix: &Matrix,
    out: &Path,
    collect_cell: impl Fn(&Path) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let folders = matrix.folders(out);
    let mut outcome = Ok(());
    for folder in &folders {
        match collect_cell(folder) {
            Err(failure @ (Failure::Machine(_) | Failure::Interrupted(_))) => {
                outcome = outcome.and(Err(failure));
            }
            done => done?,
        }
    }
    report_on_all(&folders, out)?;
    outcome
}

fn write_matrix(
    cells: &[Cell],
    out: &Path,
    asked: &StudyArguments,
    kinds: &[String],
) -> Result<(), Failure> {
    let environment = this_program()?;
    let folder = Folder::lock(out, &holder(&environment)).map_err(Failure::input)?;
    Ok(Matrix::of(cells, kinds).write(&folder, asked.force)?)
}

fn report_on_all(folders: &[PathBuf], out: &Path) -> Result<(), Failure> {
    side_by_side(folders, Some(out.to_owned()))?;
    print(&printable(&format!("report on all cells: {}", out.join(PAGE).display())))
}
