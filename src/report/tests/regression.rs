//! A report on a regression: the metric is the mean squared error, and lower is better.

use super::super::fixture::regression;
use super::{ReportError, Verbosity, figures, loaded, render_together, rendered, save, sheet};
use super::{summary, terminal, text};

#[expect(clippy::too_many_lines, reason = "a whole page")]
#[test]
fn the_page_is_about_the_error() {
    insta::assert_snapshot!(summary(&regression()), @"");
}

#[test]
fn the_terminal_is_about_the_error() {
    insta::assert_snapshot!(terminal(&regression().results, Verbosity::Summary, 100), @"");
}

/// Nothing else that is written speaks of an accuracy, but for names of claims and files.
#[test]
fn no_page_speaks_of_an_accuracy() {
    let (dir, page) = rendered(&regression());
    let visible = page.replace("id=\"accuracy", "").replace("#accuracy", "");
    let (body, _) = visible.split_once("<script").unwrap_or((&visible, ""));
    assert!(body.contains("test mean squared error"));
    for found in body.match_indices("ccuracy").map(|(at, _)| &body[at.saturating_sub(40)..at + 20])
    {
        assert!(found.contains("accuracy-kept") || found.contains("figures/"), "{found}");
    }
    let header = sheet(&regression()).lines().next().unwrap_or_default().to_owned();
    assert!(
        header.contains("test_squared_error_mean,") && !header.contains("accuracy"),
        "{header}"
    );
    assert!(!text(&dir.path().join("results.tex")).contains("accuracy"));
}

/// Better is where the figures say that it is: left of 0 in the differences, up in the trade-off.
#[test]
fn figures_point_the_right_way() {
    let loaded = regression();
    let figures = figures(&loaded);
    let of = |file: &str| figures.iter().find(|figure| figure.file == file).unwrap();
    assert!(of("accuracy-difference").subtitle.contains("Left of 0 is better"));
    let trade = of("trade-off");
    assert_eq!(trade.panels[0].title, "baseline − error");
    // fp16-true lost a run, and its errors are the largest.
    let lowest = trade.alt.split("; ").find(|row| row.contains("fp16-true")).unwrap();
    assert!(lowest.contains("+0."), "{lowest}");
}

#[test]
fn experiments_of_different_metrics_have_no_report_in_common() {
    let folders = [regression(), loaded()].map(|loaded| {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), &loaded);
        folder
    });
    let paths = folders.each_ref().map(|folder| folder.path().to_owned());
    let error = render_together(&paths, paths[0].as_path()).unwrap_err();
    assert!(matches!(error, ReportError::Metrics { .. }), "{error}");
    let [first, second] = paths.map(|path| path.display().to_string());
    assert_eq!(
        error.to_string(),
        format!(
            "{second}: judged by test accuracy, and {first} by test mean squared error: one report holds experiments of one \
             metric; report on each by itself"
        )
    );
}
