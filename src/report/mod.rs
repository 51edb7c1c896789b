//! The report: from results folders to figures, tables and pages. Reads records, computes no measurement.
//!
//! What is said is computed once (`table`, `published`, `sentences`, `skips`, `figure`); how it looks is decided elsewhere
//! (`csv`, `markdown`, `latex`, `terminal`, `html`, `draw`, `interactive`). `tensorboard` makes its files of the run
//! records alone, and `history` a table and a page of a history.

mod csv;
mod draw;
mod figure;
mod files;
#[cfg(test)]
mod fixture;
mod history;
mod html;
mod interactive;
mod kinds;
mod latex;
mod load;
mod markdown;
mod published;
mod section;
mod sentences;
mod serving;
mod skips;
mod summary;
mod table;
mod tensorboard;
mod terminal;
#[cfg(test)]
mod tests;
mod text;
mod theme;
mod validate;

use std::path::{Path, PathBuf};

use crate::record::files::{FIGURE_FOLDER, FIGURES, PAGE, TENSORBOARD, drawings, remove_events};
use crate::store::{self, StoreError};

pub(crate) use files::{has_events, is_current};
#[doc(hidden)] // for the program
pub use history::{
    HISTORY_PAGE, Trend, foreign_history, history_csv, history_terminal, render_history,
};
pub use load::{Loaded, load, load_results};
pub use terminal::{Verbosity, terminal};

use figure::Figure;
use section::Section;
use sentences::{Advice, Judged};
use table::Table;
use theme::Theme;

/// A report that could not be made.
///
/// ```
/// use mantissa::report::{self, ReportError};
///
/// let error = report::load("no/such/folder".as_ref()).err();
/// let Some(ReportError::Missing(path)) = error else { panic!("there is no results file") };
/// assert!(path.starts_with("no/such/folder"));
/// ```
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The folder holds no results file.
    #[error(
        "{}: not found; give the folder that `mantissa experiment` wrote with --out", .0.display()
    )]
    Missing(PathBuf),
    /// The file is something else, or is damaged.
    #[error(
        "{}: not a valid results file: {detail}; give the folder that `mantissa experiment` wrote; if this is one, delete the file and \
         run the experiment again, which keeps the runs that are there",
        path.display()
    )]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The place that is wrong, and how.
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
    /// Experiments that are judged by different metrics.
    #[error(
        "{}: judged by {other}, and {} by {first}: one report holds experiments of one metric; report on each by itself",
        path.display(), first_path.display()
    )]
    Metrics {
        /// A folder.
        first_path: PathBuf,
        /// Its metric.
        first: &'static str,
        /// The folder that differs.
        path: PathBuf,
        /// Its metric.
        other: &'static str,
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

/// Everything that a report says, whatever it is written as.
struct Report<'a> {
    experiments: &'a [Loaded],
    title: String,
    advice: Vec<Advice>,
    claims: Vec<Judged>,
    table: Table<'a>,
    sections: Vec<Section>,
    sentences: Vec<String>,
}

impl<'a> Report<'a> {
    /// One experiment, or several side by side.
    fn of(experiments: &'a [Loaded]) -> Self {
        let title = match experiments {
            [only] => text::printable(&only.results.experiment),
            several => {
                let labels: Vec<String> =
                    several.iter().map(|e| text::printable(&e.label)).collect();
                text::list(&labels)
            }
        };
        Self {
            experiments,
            title,
            advice: sentences::advice(experiments),
            claims: sentences::judged(experiments),
            table: Table::of(experiments),
            sections: section::sections(experiments),
            sentences: sentences::sentences(experiments),
        }
    }
}

/// Writes the report of the experiment in `dir` beside its results file: `results.csv`, `results.tex`, `results-compact.tex`,
/// `pull-request.md`, `summary.md`, `figures/*.png`, `figures/*.svg` and `report.html`, and returns their paths in that order. The experiment may still be
/// running.
///
/// ```no_run
/// for path in mantissa::report::render("results/default".as_ref())? {
///     println!("{}", path.display());
/// }
/// # Ok::<(), mantissa::report::ReportError>(())
/// ```
///
/// # Errors
/// When the results file cannot be read ([`load`]) or a file cannot be made or written. Files made before stay.
pub fn render(dir: &Path) -> Result<Vec<PathBuf>, ReportError> {
    write(dir, &[load(dir)?])
}

/// Writes one report on the experiments in several folders into the folder `out`, as [`render`] does on one.
///
/// ```no_run
/// use mantissa::report;
///
/// let folders = ["laptop/digits".into(), "server/digits".into()];
/// for file in report::render_together(&folders, "reports/both".as_ref())? {
///     println!("{}", file.display());
/// }
/// # Ok::<(), mantissa::report::ReportError>(())
/// ```
///
/// # Errors
/// As [`render`].
pub fn render_together(dirs: &[PathBuf], out: &Path) -> Result<Vec<PathBuf>, ReportError> {
    let mut experiments = dirs.iter().map(|dir| load(dir)).collect::<Result<Vec<_>, _>>()?;
    for (dir, experiment) in dirs.iter().zip(&experiments) {
        let [first, other] = [&experiments[0], experiment].map(|e| e.results.metric);
        if first != other {
            return Err(ReportError::Metrics {
                first_path: dirs[0].clone(),
                first: first.name(),
                path: dir.clone(),
                other: other.name(),
            });
        }
    }
    for (experiment, label) in experiments.iter_mut().zip(load::labels(dirs)) {
        experiment.label = label;
    }
    write(out, &experiments)
}

fn write(dir: &Path, experiments: &[Loaded]) -> Result<Vec<PathBuf>, ReportError> {
    store::sweep(dir)?;
    let report = Report::of(experiments);
    let figures = figure::all(&report.table);
    let mut written = Vec::new();
    let csv = csv::render(&report.table);
    let (markdown, latex) = (markdown::render(&report, &figures), latex::render(&report.table));
    save(dir, "results.csv", csv.clone(), &mut written)?;
    save(dir, "results.tex", Ok(latex.clone().into_bytes()), &mut written)?;
    let compact = latex::compact(&report.table).into_bytes();
    save(dir, "results-compact.tex", Ok(compact), &mut written)?;
    save(dir, "pull-request.md", Ok(markdown::compact(&report).into_bytes()), &mut written)?;
    save(dir, "summary.md", Ok(markdown.clone().into_bytes()), &mut written)?;
    remove_undrawn(dir, &figures)?;
    let drawings = save_figures(dir, &figures, &mut written)?;
    let files = html::Files { csv: csv.unwrap_or_default(), markdown, latex };
    save(dir, PAGE, html::render(&report, &drawings, &files), &mut written)?;
    Ok(written)
}

/// Writes an event file for each run whose record can be read, `tensorboard/<variant>/seed-<n>/events.out.tfevents.*`
/// below `dir`, and returns their paths. Event files that an earlier call left there are replaced or removed: TensorBoard
/// reads all that it finds, as one run.
///
/// ```no_run
/// use mantissa::report;
///
/// let files = report::tensorboard("reports/digits".as_ref())?;
/// println!("{} event files", files.len());
/// # Ok::<(), mantissa::report::ReportError>(())
/// ```
///
/// # Errors
/// When the results file cannot be read ([`load`]) or a file cannot be written or removed. Files written before stay.
pub fn tensorboard(dir: &Path) -> Result<Vec<PathBuf>, ReportError> {
    let loaded = load(dir)?;
    let started = &loaded.results.environment.started;
    let mut written = Vec::new();
    for record in &loaded.records {
        if let Some(place) = event_file(&record.variant, record.summary.seed, started) {
            save(dir, place, Ok(tensorboard::event_file(record, started)), &mut written)?;
        }
    }
    remove_events(dir, &written.iter().map(PathBuf::as_path).collect())?;
    Ok(written)
}

/// Where the event file of a run is; nowhere if the variant's name cannot be a folder.
fn event_file(variant: &str, seed: u64, started: &str) -> Option<PathBuf> {
    let folder = load::run_folder(variant, seed)?;
    Some(Path::new(TENSORBOARD).join(folder).join(tensorboard::file_name(started)))
}

/// A figure and its SVG text for a page, which has its title and notes as text, on a white ground.
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
        for theme in [Theme::Light, Theme::Dark] {
            let name = |ending: &str| {
                format!("{FIGURE_FOLDER}/{}{}.{ending}", figure.file, theme.suffix())
            };
            save(dir, name("png"), draw::png(figure, theme), written)?;
            let svg = draw::svg(figure, theme);
            save(dir, name("svg"), svg.map(String::into_bytes), written)?;
        }
        let svg = draw::svg_for_page(figure);
        let svg = svg.map_err(|detail| ReportError::Make { path: dir.join(PAGE), detail })?;
        drawings.push(Drawing { figure, svg });
    }
    Ok(drawings)
}

/// Removes what an earlier report drew and this one does not.
fn remove_undrawn(dir: &Path, figures: &[Figure]) -> Result<(), ReportError> {
    let is_drawn = |name: &&str| figures.iter().any(|figure| figure.file == *name);
    let undrawn = FIGURES.into_iter().filter(|name| !is_drawn(name));
    for name in undrawn.flat_map(drawings) {
        let path = dir.join(name);
        if store::exists(&path)? {
            store::refuse_links(dir, Path::new(FIGURE_FOLDER))?;
            store::remove(&path)?;
        }
    }
    Ok(())
}

fn save(
    dir: &Path,
    name: impl AsRef<Path>,
    contents: Result<Vec<u8>, String>,
    written: &mut Vec<PathBuf>,
) -> Result<(), ReportError> {
    let name = name.as_ref();
    let contents = contents.map_err(|detail| ReportError::Make { path: dir.join(name), detail })?;
    written.push(store::write_below(dir, name, &contents)?);
    Ok(())
}
