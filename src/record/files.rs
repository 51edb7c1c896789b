//! The files of a results folder: their names, whether this program wrote them, and their removal.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::store::{self, StoreError};

/// The results file, and the mark of a folder as this program's.
pub const RESULTS: &str = "results.json";

/// What an experiment is, fixed before its first run.
pub const PLAN: &str = "plan.json";

/// The cells of an experiment that has several.
pub const MATRIX: &str = "matrix.json";

/// The folder of the cells' folders.
pub const CELLS: &str = "cells";

/// The folder of the runs' records.
pub const RUNS: &str = "runs";

/// The page of a report, by which the report is known as one of this program's.
pub const PAGE: &str = "report.html";

/// The summary of a report, which names every figure in it.
pub const SUMMARY: &str = "summary.md";

/// The texts of a report, in the order in which they are written: a page that is there says that all the rest is.
pub const TEXTS: [&str; 6] =
    ["results.csv", "results.tex", "results-compact.tex", "pull-request.md", SUMMARY, PAGE];

/// The folder of a report's figures.
pub const FIGURE_FOLDER: &str = "figures";

/// The figures of reports, by the names of their files without an ending, in their order. Serving is drawn where a language model was
/// served; what has nothing to show of inference alone is left out there.
pub const FIGURES: [&str; 12] = [
    "accuracy-difference",
    "trade-off",
    "step-time",
    "memory",
    "inference",
    "serving",
    "loss",
    "accuracy",
    "loss-scale",
    "overflow-underflow",
    "exponents",
    "exponents-by-layer",
];

/// What follows a figure's name in its files: on a light ground, and on a dark one.
pub const GROUNDS: [&str; 2] = ["", "-dark"];

/// The folder of the event files for TensorBoard.
pub const TENSORBOARD: &str = "tensorboard";

/// What stands near the beginning of every page.
const MARK: &[u8] = br#"<meta name="generator" content="mantissa">"#;

/// [`MARK`] ends before this many bytes.
const START: u64 = 200;

/// What the name of an event file begins and ends with.
const EVENTS: (&str, &str) = ("events.out.tfevents.", ".mantissa");

/// Where the weights of a run are, where they were saved.
pub fn weights_path(out: &Path, variant: &str, seed: u64) -> PathBuf {
    record_path(out, variant, seed).with_file_name("weights.safetensors")
}

/// Where a run is kept that is not over.
pub fn checkpoint_path(out: &Path, variant: &str, seed: u64) -> PathBuf {
    record_path(out, variant, seed).with_file_name("checkpoint.safetensors")
}

/// Where the record of a run is.
pub fn record_path(out: &Path, variant: &str, seed: u64) -> PathBuf {
    out.join(RUNS).join(variant).join(format!("seed-{seed}")).join("record.json")
}

/// The name of the event files of an experiment that started at this second, from 1970 on: it follows from the start alone, so
/// that writing again replaces the file.
pub fn event_file_name(seconds: u64) -> String {
    let (before, after) = EVENTS;
    format!("{before}{seconds}{after}")
}

/// Whether [`event_file_name`] gives this name at any second.
fn is_event_file(name: &str) -> bool {
    let seconds = name.strip_prefix(EVENTS.0).and_then(|rest| rest.strip_suffix(EVENTS.1));
    seconds.is_some_and(|seconds| seconds.parse::<u64>().is_ok())
}

/// The four files of a figure.
pub fn drawings(figure: &str) -> impl Iterator<Item = String> {
    GROUNDS.into_iter().flat_map(move |ground| {
        ["png", "svg"].map(|ending| format!("{FIGURE_FOLDER}/{figure}{ground}.{ending}"))
    })
}

/// Every file that a report may have, but for event files, by its name in the folder.
pub fn report_files() -> impl Iterator<Item = String> {
    TEXTS.map(str::to_owned).into_iter().chain(FIGURES.into_iter().flat_map(drawings))
}

/// Whether this program wrote a page.
///
/// # Errors
/// When the file system does not say.
pub fn is_page(page: &Path) -> Result<bool, StoreError> {
    if !store::is_file(page)? {
        return Ok(false);
    }
    let start = store::read_start(page, START)?;
    Ok(start.windows(MARK.len()).any(|bytes| bytes == MARK))
}

/// A file in `dir` that a report would replace, where nothing there says that this program wrote it: the page of a report would.
///
/// # Errors
/// When the file system does not say.
pub fn foreign(dir: &Path) -> Result<Option<PathBuf>, StoreError> {
    if is_page(&dir.join(PAGE))? {
        return Ok(None);
    }
    for name in report_files() {
        let path = dir.join(name);
        if store::exists(&path)? {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Removes the report in `dir` with its figures and its event files, and the folders that are empty then. Links are not followed.
///
/// # Errors
/// When a folder in there is a symbolic link, or a file cannot be removed.
pub fn remove_report(dir: &Path) -> Result<(), StoreError> {
    let figures = Path::new(FIGURE_FOLDER);
    store::refuse_links(dir, figures)?;
    for name in report_files() {
        let path = dir.join(name);
        if store::exists(&path)? {
            store::remove(&path)?;
        }
    }
    store::remove_if_empty(&dir.join(figures));
    remove_events(dir, &BTreeSet::new())
}

/// Removes the event files of this program below `dir` that are not in `keep`, and the folders that are empty then.
///
/// # Errors
/// As [`remove_report`].
pub fn remove_events(dir: &Path, keep: &BTreeSet<&Path>) -> Result<(), StoreError> {
    store::refuse_links(dir, Path::new(TENSORBOARD))?;
    let folder = dir.join(TENSORBOARD);
    let is_ours = |file: &Path| {
        let name = file.file_name().and_then(|name| name.to_str());
        name.is_some_and(is_event_file)
    };
    for variant in store::real_folders(&folder)? {
        for run in store::real_folders(&variant)? {
            for file in store::list(&run)? {
                if is_ours(&file) && !keep.contains(&*file) {
                    store::remove(&file)?;
                    store::remove_if_empty(&run);
                    store::remove_if_empty(&variant);
                }
            }
        }
    }
    store::remove_if_empty(&folder);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_files_are_known_by_their_names() {
        for (name, is_ours) in [
            (&*event_file_name(1_767_323_045), true),
            (&event_file_name(0), true),
            ("events.out.tfevents.1767323045.host", false),
            ("events.out.tfevents.1767323045.host.mantissa", false),
            ("events.out.tfevents.mantissa", false),
        ] {
            assert_eq!(is_event_file(name), is_ours, "{name}");
        }
    }

    #[test]
    fn only_a_file_that_nobody_knows_to_be_ours_is_foreign() {
        for name in report_files() {
            let dir = tempfile::tempdir().unwrap();
            assert_eq!(foreign(dir.path()).unwrap(), None);
            store::write(&dir.path().join("notes.txt"), b"theirs").unwrap();
            assert_eq!(foreign(dir.path()).unwrap(), None);
            let path = dir.path().join(&name);
            store::write(&path, b"theirs").unwrap();
            assert_eq!(foreign(dir.path()).unwrap(), Some(path));
        }
    }
}
