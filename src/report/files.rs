//! Whether the files that a report is made of are there.

use std::path::Path;

use crate::record::Results;
use crate::record::files::{FIGURES, PAGE, RESULTS, SUMMARY, TEXTS, drawings};
use crate::store::{self, StoreError};

use super::event_file;

/// Whether the report of the experiment in `dir` is there as a whole, and was written after the results.
///
/// # Errors
/// When the file system does not say.
pub(crate) fn is_current(dir: &Path) -> Result<bool, StoreError> {
    let results = store::modified(&dir.join(RESULTS))?;
    if store::modified(&dir.join(PAGE))? < results {
        return Ok(false);
    }
    for name in TEXTS {
        if !store::is_file(&dir.join(name))? {
            return Ok(false);
        }
    }
    let summary = String::from_utf8_lossy(&store::read(&dir.join(SUMMARY))?).into_owned();
    let is_shown = |name: &&str| summary.contains(&format!("(figures/{name}.png)"));
    let shown = FIGURES.into_iter().filter(is_shown);
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
pub(crate) fn has_events(dir: &Path, results: &Results) -> Result<bool, StoreError> {
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

#[cfg(test)]
mod tests {
    use super::super::fixture::{self, loaded};
    use super::super::{render, tensorboard};
    use super::*;
    use crate::record::files::{foreign, remove_report, report_files};
    use std::path::PathBuf;

    #[test]
    fn every_file_of_a_report_is_known() {
        let dir = tempfile::tempdir().unwrap();
        fixture::save(dir.path(), &loaded());
        assert!(!is_current(dir.path()).unwrap());
        let written = render(dir.path()).unwrap();
        let drawn = report_files().filter(|name| !name.starts_with("figures/serving"));
        let expected: Vec<PathBuf> = drawn.map(|name| dir.path().join(name)).collect();
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
    fn a_report_of_ours_is_not_foreign() {
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
        remove_report(dir.path()).unwrap();
        let left = store::list(dir.path()).unwrap();
        let expected = ["figures", "results.json", "runs", "tensorboard"];
        assert_eq!(left, expected.map(|name| dir.path().join(name)));
        for folder in ["figures", "tensorboard/fp32"] {
            assert_eq!(store::list(&dir.path().join(folder)).unwrap().len(), 1, "{folder}");
        }
    }
}
