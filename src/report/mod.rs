//! The report: from a results folder to figures, tables and pages. Reads records, computes no measurement.
//!
//! What is said is computed once (`table`, `reading`, `figure`); how it looks is decided elsewhere (`csv`,
//! `markdown`, `terminal`, `html`, `draw`). `tensorboard` makes its files of the run records alone.

mod csv;
mod draw;
mod figure;
#[cfg(test)]
mod fixture;
mod html;
mod load;
mod markdown;
mod reading;
mod table;
mod tensorboard;
mod terminal;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::store::{self, StoreError};

pub use load::{Loaded, load};
pub use terminal::terminal_table;

use figure::Figure;
use table::Table;

/// A report that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The folder holds no results file.
    #[error(
        "{}: not found; give the folder that `mantissa experiment` wrote with --out", .0.display()
    )]
    Missing(PathBuf),
    /// The results file ends before its JSON does.
    #[error(
        "{}: cut short ({detail}); copy the file again or run the experiment again", path.display()
    )]
    CutShort {
        /// The results file.
        path: PathBuf,
        /// Where it ends.
        detail: String,
    },
    /// The file is something else, or was changed by hand.
    #[error(
        "{}: not a results file of mantissa ({detail}); give the folder that `mantissa experiment` wrote",
        path.display()
    )]
    NotResults {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        detail: String,
    },
    /// A newer program wrote the file.
    #[error(
        "{}: schema {schema} is newer than this program's {}; use the mantissa that wrote it, or a newer one",
        path.display(), crate::record::SCHEMA
    )]
    Newer {
        /// The results file.
        path: PathBuf,
        /// The schema it declares.
        schema: u64,
    },
    /// A part of the report could not be drawn or filled in.
    #[error("{}: cannot be made: {detail}; please report this as a bug", path.display())]
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

/// Writes `results.csv`, `summary.md`, `figures/*.png`, `figures/*.svg` and `report.html` beside `dir/results.json`,
/// and returns their paths in that order.
///
/// # Errors
/// When the results file cannot be read ([`load`]) or a file cannot be made or written. Files made before stay.
pub fn render(dir: &Path) -> Result<Vec<PathBuf>, ReportError> {
    let loaded = load(dir)?;
    let table = Table::of(&loaded.results);
    let reading = reading::sentences(&loaded, &table);
    let figures = figure::all(&loaded, &table);
    let mut written = Vec::new();

    save(dir, "results.csv", csv::render(&table), &mut written)?;
    let summary = markdown::render(&loaded, &table, &reading, &figures);
    save(dir, "summary.md", Ok(summary.into_bytes()), &mut written)?;
    let drawings = save_figures(dir, &figures, &mut written)?;
    let page = html::render(&loaded, &table, &reading, &drawings);
    save(dir, "report.html", page, &mut written)?;
    Ok(written)
}

/// The folder of the event files, beside the results file.
pub const TENSORBOARD: &str = "tensorboard";

/// Writes an event file for each run whose record can be read, `tensorboard/<variant>/seed-<n>/events.out.tfevents.*`
/// below `dir`, and returns their paths. Event files that an earlier call left there are replaced or removed: TensorBoard
/// reads all that it finds, as one run.
///
/// # Errors
/// When the results file cannot be read ([`load`]) or a file cannot be written or removed. Files written before stay.
pub fn tensorboard(dir: &Path) -> Result<Vec<PathBuf>, ReportError> {
    let loaded = load(dir)?;
    let started = &loaded.results.environment.started;
    let mut written = Vec::new();
    for record in &loaded.records {
        let Some(folder) = load::run_folder(&record.variant, record.summary.seed) else {
            continue;
        };
        let place = Path::new(TENSORBOARD).join(folder).join(tensorboard::file_name(started));
        save(dir, place, Ok(tensorboard::event_file(record, started)), &mut written)?;
    }
    remove_earlier(&dir.join(TENSORBOARD), &written.iter().map(PathBuf::as_path).collect())?;
    Ok(written)
}

/// Removes the event files of this program that are not in `keep`, and the folders that are empty then.
fn remove_earlier(folder: &Path, keep: &BTreeSet<&Path>) -> Result<(), StoreError> {
    let is_ours = |file: &Path| {
        let name = file.file_name().and_then(|name| name.to_str());
        name.is_some_and(tensorboard::is_ours)
    };
    for variant in store::list(folder)? {
        for run in store::list(&variant)? {
            for file in store::list(&run)? {
                if is_ours(&file) && !keep.contains(&*file) {
                    store::remove(&file)?;
                    store::remove_if_empty(&run);
                    store::remove_if_empty(&variant);
                }
            }
        }
    }
    Ok(())
}

/// A figure and its SVG text.
struct Drawing<'a> {
    figure: &'a Figure,
    svg: String,
}

fn save_figures<'a>(
    dir: &Path,
    figures: &'a [Figure],
    written: &mut Vec<PathBuf>,
) -> Result<Vec<Drawing<'a>>, ReportError> {
    let mut drawings = Vec::new();
    for figure in figures {
        let png = format!("figures/{}.png", figure.file);
        save(dir, &png, draw::png(figure), written)?;
        let path = format!("figures/{}.svg", figure.file);
        let svg = draw::svg(figure).map_err(|detail| make_error(&dir.join(&path), detail))?;
        save(dir, &path, Ok(svg.clone().into_bytes()), written)?;
        drawings.push(Drawing { figure, svg });
    }
    Ok(drawings)
}

fn save(
    dir: &Path,
    name: impl AsRef<Path>,
    contents: Result<Vec<u8>, String>,
    written: &mut Vec<PathBuf>,
) -> Result<(), ReportError> {
    let path = dir.join(name);
    let contents = contents.map_err(|detail| make_error(&path, detail))?;
    store::write(&path, &contents)?;
    written.push(path);
    Ok(())
}

fn make_error(path: &Path, detail: String) -> ReportError {
    ReportError::Make { path: path.to_owned(), detail }
}
