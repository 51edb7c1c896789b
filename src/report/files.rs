//! The files that a report is made of: whether they are there, and whose they are.

use std::path::{Path, PathBuf};

use crate::record::Results;
use crate::store::{self, StoreError};

use super::figure::FILES;
use super::theme::Theme;
use super::{event_file, remove_earlier};

/// The texts of a report, in the order in which they are written: a page that is there says that all the rest is.
const TEXTS: [&str; 6] = [
    "results.csv",
    "results.tex",
    "results-compact.tex",
    "pull-request.md",
    "summary.md",
    "report.html",
];

/// The page, by which a report is known as one of this program's.
pub const PAGE: &str = "report.html";

/// What stands near the beginning of every page.
const MARK: &[u8] = br#"<meta name="generator" content="mantissa">"#;

/// [`MARK`] ends before this many bytes.
const START: u64 = 200;

/// The summary, which names every figure of its report.
const SUMMARY: &str = "summary.md";

/// The four files of a figure.
fn drawings(figure: &str) -> impl Iterator<Item = String> {
    [Theme::Light, Theme::Dark].into_iter().flat_map(move |theme| {
        let name = format!("figures/{figure}{}", theme.suffix());
        ["png", "svg"].map(|ending| format!("{name}.{ending}"))
    })
}

/// Every file that a report may have, but for event files, by its name in the folder.
fn names() -> impl Iterator<Item = String> {
    TEXTS.map(str::to_owned).into_iter().chain(FILES.into_iter().flat_map(drawings))
}

/// Whether this program wrote a page.
pub(super) fn is_page(page: &Path) -> Result<bool, StoreError> {
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
    for name in names() {
        let path = dir.join(name);
        if store::exists(&path)? {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Whether the report of the experiment in `dir` is there as a whole, and was written after the results.
///
/// # Errors
/// When the file system does not say.
pub fn is_current(dir: &Path) -> Result<bool, StoreError> {
    let results = store::modified(&dir.join("results.json"))?;
    if store::modified(&dir.join(PAGE))? < results {
        return Ok(false);
    }
    for name in TEXTS {
        if !store::is_file(&dir.join(name))? {
            return Ok(false);
        }
    }
    let summary = String::from_utf8_lossy(&store::read(&dir.join(SUMMARY))?).into_owned();
    let shown = FILES.into_iter().filter(|name| summary.contains(&format!("(figures/{name}.png)")));
    for drawing in shown.flat_map(drawings) {
        if !store::is_file(&dir.join(drawing))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether every run of the experiment in `dir` has its event file.
///
/// # Errors
/// When the file system does not say.
pub fn has_events(dir: &Path, results: &Results) -> Result<bool, StoreError> {
    let started = &results.environment.started;
    let controls = results.controls.iter().map(|control| &control.result);
    for variant in results.variants.iter().chain(controls) {
        for run in &variant.runs {
            let place = event_file(&variant.name, run.seed, started);
            if let Some(place) = place
                && !store::is_file(&dir.join(place))?
            {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Removes the report in `dir` with its figures and its event files, and the folders that are empty then. Links are not followed.
///
/// # Errors
/// When a folder in there is a symbolic link, or a file cannot be removed.
pub fn clear(dir: &Path) -> Result<(), StoreError> {
    let figures = Path::new("figures");
    store::refuse_links(dir, figures)?;
    for name in names() {
        let path = dir.join(name);
        if store::exists(&path)? {
            store::remove(&path)?;
        }
    }
    store::remove_if_empty(&dir.join(figures));
    remove_earlier(dir, &std::collections::BTreeSet::new())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{self, loaded};
    use super::super::{render, tensorboard};
    use super::*;

    #[test]
    fn every_file_of_a_report_is_known() {
        let dir = tempfile::tempdir().unwrap();
        fixture::save(dir.path(), &loaded());
        assert!(!is_current(dir.path()).unwrap());
        let written = render(dir.path()).unwrap();
        let expected: Vec<PathBuf> = names().map(|name| dir.path().join(name)).collect();
        let sorted = |mut paths: Vec<PathBuf>| {
            paths.sort();
            paths
        };
        assert_eq!(sorted(written), sorted(expected));
    }

    #[test]
    fn a_report_is_current_until_one_of_its_files_is_gone_or_the_results_are_newer() {
        let dir = tempfile::tempdir().unwrap();
        let loaded = loaded();
        fixture::save(dir.path(), &loaded);
        let files = render(dir.path()).unwrap();
        assert!(is_current(dir.path()).unwrap());
        for file in &files {
            let contents = store::read(file).unwrap();
            store::remove(file).unwrap();
            assert!(!is_current(dir.path()).unwrap(), "{}", file.display());
            store::write(file, &contents).unwrap();
        }
        assert!(is_current(dir.path()).unwrap());
        let page = std::fs::File::options().append(true).open(dir.path().join(PAGE)).unwrap();
        page.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        assert!(!is_current(dir.path()).unwrap());

        assert!(!has_events(dir.path(), &loaded.results).unwrap());
        let events = tensorboard(dir.path()).unwrap();
        assert!(has_events(dir.path(), &loaded.results).unwrap());
        store::remove(&events[3]).unwrap();
        assert!(!has_events(dir.path(), &loaded.results).unwrap());
    }

    #[test]
    fn only_a_file_that_nobody_knows_to_be_ours_is_foreign() {
        for name in names() {
            let dir = tempfile::tempdir().unwrap();
            assert_eq!(foreign(dir.path()).unwrap(), None);
            store::write(&dir.path().join("notes.txt"), b"theirs").unwrap();
            assert_eq!(foreign(dir.path()).unwrap(), None);
            let path = dir.path().join(&name);
            store::write(&path, b"theirs").unwrap();
            assert_eq!(foreign(dir.path()).unwrap(), Some(path));
        }
        let dir = tempfile::tempdir().unwrap();
        fixture::save(dir.path(), &loaded());
        render(dir.path()).unwrap();
        assert_eq!(foreign(dir.path()).unwrap(), None);
    }

    #[test]
    fn a_report_that_is_cleared_leaves_what_others_put_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        fixture::save(dir.path(), &loaded());
        render(dir.path()).unwrap();
        tensorboard(dir.path()).unwrap();
        for theirs in ["figures/theirs.png", "tensorboard/fp32/theirs"] {
            store::write(&dir.path().join(theirs), b"").unwrap();
        }
        clear(dir.path()).unwrap();
        let left = store::list(dir.path()).unwrap();
        let expected = ["figures", "results.json", "runs", "tensorboard"];
        assert_eq!(left, expected.map(|name| dir.path().join(name)));
        for folder in ["figures", "tensorboard/fp32"] {
            assert_eq!(store::list(&dir.path().join(folder)).unwrap().len(), 1, "{folder}");
        }
    }
}
