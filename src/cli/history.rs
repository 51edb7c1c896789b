//! `mantissa history`: metrics commit by commit.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::check::finished;
use super::{Failure, print};
use crate::experiment::ExperimentError;
use crate::formatting::{self, plural, printable};
use crate::history::{FILE, Filter, History, Series};
use crate::regression::Metric;
use crate::report::{self, Trend};
use crate::store::database::DatabaseError;

/// Where the page goes if `--out` names no folder.
const FOLDER: &str = "reports/history";

#[derive(Debug, Subcommand)]
pub(super) enum HistoryCommand {
    /// Add the results of an experiment; the same results are added once
    Add {
        /// Folder that `mantissa experiment` wrote
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        #[command(flatten)]
        at: At,
    },
    /// Print the series and where they changed; with --out, draw those that changed
    Show {
        #[command(flatten)]
        at: At,
        /// Only these metrics.
        #[arg(long = "metric", help = "Only this metric, such as step_seconds; may be repeated. With --out, it is drawn whether it changed or not", value_name = "METRIC", value_parser = metric)]
        metrics: Vec<Metric>,
        /// Only this variant; may be repeated. With --out, it is drawn whether it changed or not
        #[arg(long = "variant", value_name = "VARIANT")]
        variants: Vec<String>,
        /// Write a page, history.html, and its figures into a folder [default: reports/history]
        #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = FOLDER)]
        out: Option<PathBuf>,
    },
    /// Print every value as CSV
    Export {
        #[command(flatten)]
        at: At,
    },
}

/// Which history.
#[derive(Debug, Args)]
pub(super) struct At {
    /// File of the history, an SQLite database
    #[arg(long = "history", value_name = "FILE", default_value = FILE)]
    file: PathBuf,
}

fn metric(name: &str) -> Result<Metric, String> {
    let known = || Metric::all().map(Metric::name).collect::<Vec<_>>().join(", ");
    name.parse().map_err(|()| format!("no such metric; known: {}", known()))
}

impl From<DatabaseError> for Failure {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::Missing { .. } => {
                Self::NotComparable(format!("{error}; add results with `mantissa history add DIR`"))
            }
            DatabaseError::Newer { .. } => Self::NotComparable(error.to_string()),
            DatabaseError::Failed { .. } => Self::machine(error),
            DatabaseError::Foreign { .. }
            | DatabaseError::Damaged { .. }
            | DatabaseError::ReadOnly { .. }
            | DatabaseError::Store(_) => Self::input(error),
        }
    }
}

/// `mantissa history`.
pub(super) fn history(command: &HistoryCommand) -> Result<(), Failure> {
    match command {
        HistoryCommand::Add { folder, at } => add(folder, &at.file),
        HistoryCommand::Show { at, metrics, variants, out } => {
            let filter = Filter { metrics: metrics.clone(), variants: variants.clone() };
            show(&at.file, &filter, out.as_deref())
        }
        HistoryCommand::Export { at } => {
            let all = History::open(&at.file)?.series(&Filter::default())?;
            print(&report::history_csv(&all).map_err(Failure::machine)?)
        }
    }
}

fn add(folder: &Path, file: &Path) -> Result<(), Failure> {
    let results = finished(folder)?;
    let added = History::make(file)?.add(&results)?;
    let commit = results.environment.git.as_deref().unwrap_or("no commit");
    let mut said = match added.values {
        0 => format!("{}: has these results ({commit}); nothing added", file.display()),
        values => format!("{}: {} of {commit} added", file.display(), plural(values, "value")),
    };
    if added.left_out > 0 {
        said += &format!(
            "; {} left out, as this machine computes other values each time",
            plural(added.left_out, "exact metric")
        );
    }
    print(&printable(&said))
}

fn show(file: &Path, filter: &Filter, out: Option<&Path>) -> Result<(), Failure> {
    let all = History::open(file)?.series(filter)?;
    let is_asked = !(filter.metrics.is_empty() && filter.variants.is_empty());
    if is_asked && all.is_empty() {
        return Err(Failure::Input(nothing_meant(file)?));
    }
    let trends: Vec<Trend<'_>> = all.iter().map(Trend::of).collect();
    print(&report::history_terminal(&trends))?;
    let Some(out) = out else {
        return Ok(());
    };
    if let Some(page) = report::foreign_history(out)? {
        return Err(ExperimentError::Foreign(page).into());
    }
    report::render_history(out, &trends, is_asked)?;
    print(&printable(&format!("page: {}", out.join(report::HISTORY_PAGE).display())))
}

/// What to say where no series is of the metrics and variants that were asked for.
fn nothing_meant(file: &Path) -> Result<String, Failure> {
    let all = History::open(file)?.series(&Filter::default())?;
    let distinct = |name: fn(&Series) -> String| {
        let names: std::collections::BTreeSet<String> = all.iter().map(name).collect();
        formatting::list(&names.into_iter().collect::<Vec<_>>())
    };
    Ok(format!(
        "{}: has no such metric of such a variant; it has the variants {}, and the metrics {}",
        file.display(),
        distinct(|series| series.key.variant.clone()),
        distinct(|series| series.key.metric.name().to_owned())
    ))
}
