//! Tests of whole reports.

use std::path::Path;

use super::draw;
use super::fixture::{self, loaded, renamed, save};
use super::table::Table;
use super::{Loaded, ReportError, csv, figure, load, markdown, reading, render, terminal_table};
use crate::record::{Numerics, Status, VariantResult};
use crate::store;

/// A name that would do harm where it is not escaped.
const HOSTILE: &str = "<script>alert(1)</script>|\"x\"";

fn text(path: &Path) -> String {
    String::from_utf8(store::read(path).unwrap()).unwrap()
}

fn summary(loaded: &Loaded) -> String {
    let table = Table::of(&loaded.results);
    let reading = reading::sentences(loaded, &table);
    let figures = figure::all(loaded, &table);
    markdown::render(loaded, &table, &reading, &figures)
}

fn sheet(loaded: &Loaded) -> String {
    String::from_utf8(csv::render(&Table::of(&loaded.results)).unwrap()).unwrap()
}

/// A folder with the experiment, and the pages that `render` makes of it.
fn rendered(loaded: &Loaded) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    save(dir.path(), loaded);
    let written = render(dir.path()).unwrap();
    assert!(written.iter().all(|path| path.is_file()));
    let page = text(&dir.path().join("report.html"));
    (dir, page)
}

#[test]
fn the_terminal_table_says_everything() {
    insta::assert_snapshot!(terminal_table(&loaded().results), @"");
}

#[test]
fn the_summary_reads_well() {
    insta::assert_snapshot!(summary(&loaded()), @"");
}

#[test]
fn the_sheet_holds_plain_numbers() {
    insta::assert_snapshot!(sheet(&loaded()), @"");
}

#[test]
fn every_file_is_written_and_listed() {
    let dir = tempfile::tempdir().unwrap();
    save(dir.path(), &loaded());
    let written = render(dir.path()).unwrap();
    let names: Vec<String> = written
        .iter()
        .map(|path| path.strip_prefix(dir.path()).unwrap().display().to_string())
        .collect();
    insta::assert_snapshot!(names.join("\n"), @"");
}

#[test]
fn pictures_decode_to_twice_the_logical_size() {
    let loaded = loaded();
    for figure in figure::all(&loaded, &Table::of(&loaded.results)) {
        let file = draw::png(&figure).unwrap();
        let reader = png::Decoder::new(file.as_slice()).read_info().unwrap();
        let expected = (1920, figure.height * 2);
        assert_eq!((reader.info().width, reader.info().height), expected, "{}", figure.file);
    }
}

#[test]
fn a_legend_names_each_variant_once() {
    let loaded = loaded();
    let figures = figure::all(&loaded, &Table::of(&loaded.results));
    for figure in figures.iter().filter(|f| ["loss", "overflow-underflow"].contains(&f.file)) {
        let svg = draw::svg(figure).unwrap();
        for variant in &loaded.results.variants {
            let text = format!(">\n{}\n</text>", variant.name);
            assert_eq!(svg.matches(&text).count(), 1, "{} in {}", variant.name, figure.file);
        }
    }
}

#[test]
fn a_hostile_name_stays_text_everywhere() {
    let hostile = renamed(HOSTILE);
    let figures = figure::all(&hostile, &Table::of(&hostile.results));
    for figure in &figures {
        let svg = draw::svg(figure).unwrap();
        assert!(!svg.contains("<script"), "{}", figure.file);
        assert!(svg.contains("&lt;script&gt;") || figure.file == "loss-scale", "{}", figure.file);
    }
    let markdown = summary(&hostile);
    assert!(!markdown.contains("<script"));
    let row = markdown.lines().find(|line| line.starts_with("| &lt;script")).unwrap();
    assert!(row.starts_with("| &lt;script&gt;alert(1)&lt;/script&gt;\\|\"x\" |"), "{row}");
    let mut reader = ::csv::Reader::from_reader(sheet(&hostile).into_bytes().leak() as &[u8]);
    let names: Vec<String> = reader.records().map(|r| r.unwrap()[0].to_owned()).collect();
    assert_eq!(names[2], HOSTILE);

    // A name with a slash is no folder: the records are looked for nowhere, and the page still stands.
    let dir = tempfile::tempdir().unwrap();
    let mut alone = hostile.clone();
    alone.records.clear();
    save(dir.path(), &alone);
    render(dir.path()).unwrap();
    let page = text(&dir.path().join("report.html"));
    assert!(!page.contains("<script"));
    assert!(page.contains("&#60;script&#62;alert(1)") || page.contains("&lt;script&gt;alert(1)"));
    assert!(page.contains("cannot be a folder"));
}

#[test]
fn a_name_cannot_command_a_terminal() {
    let table = terminal_table(&renamed("a\u{1b}]0;b\u{7}").results);
    assert!(table.chars().all(|c| c == '\n' || !c.is_control()));
}

#[test]
fn the_page_needs_nothing_from_outside() {
    let (_dir, page) = rendered(&loaded());
    for outside in ["src=\"http", "href=\"http", "url(", "@import", "<link", "<script"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert_eq!(page.matches("<svg").count(), 6);
}

/// Changes an experiment into a poorer one, renders it, and looks for what must be said.
fn check_degenerate(name: &str, change: fn(&mut Loaded), said: &[&str]) {
    let mut poor = loaded();
    change(&mut poor);
    let (dir, page) = rendered(&poor);
    let summary = text(&dir.path().join("summary.md"));
    for words in said {
        assert!(page.contains(words), "{name}: the page does not say {words:?}");
        assert!(summary.contains(words), "{name}: the summary does not say {words:?}");
    }
    assert!(!page.contains("NaN%") && !page.contains("inf%"), "{name}");
    assert!(!terminal_table(&poor.results).is_empty(), "{name}");
}

fn without_runs(variant: &mut VariantResult) {
    variant.runs.clear();
    variant.train = None;
    variant.inference = None;
    variant.memory = None;
    variant.numerics = Numerics::default();
    variant.against_baseline = None;
}

#[test]
fn one_seed_is_shown_without_a_spread() {
    let change = |loaded: &mut Loaded| {
        loaded.results.plan.seeds.truncate(1);
        loaded.records.retain(|record| record.summary.seed == 0);
        for variant in &mut loaded.results.variants {
            variant.runs.truncate(1);
            if let Some(against) = &mut variant.against_baseline {
                let difference = against.accuracy_difference.as_mut().unwrap();
                (difference.low, difference.high, difference.pairs) = (None, None, 1);
            }
        }
    };
    check_degenerate("one seed", change, &["96.10% (1 seed)", "With 1 seed no difference"]);
}

#[test]
fn an_interrupted_experiment_says_what_is_in() {
    let change = |loaded: &mut Loaded| {
        loaded.results.complete = false;
        loaded.results.variants.truncate(2);
        loaded.results.variants[1].runs.truncate(1);
        loaded.records.truncate(4);
    };
    check_degenerate("interrupted", change, &["4 of 15 runs are in", "0 of 3", "2 missing"]);
}

#[test]
fn a_baseline_without_runs_leaves_no_ratio() {
    let change = |loaded: &mut Loaded| {
        without_runs(&mut loaded.results.variants[0]);
        loaded.records.retain(|record| record.variant != "fp32");
        for variant in &mut loaded.results.variants {
            variant.against_baseline = None;
        }
    };
    check_degenerate("no baseline", change, &["The baseline fp32 has no run"]);
}

#[test]
fn runs_that_all_diverged_are_all_shown() {
    let change = |loaded: &mut Loaded| {
        for variant in &mut loaded.results.variants {
            for run in &mut variant.runs {
                (run.status, run.test_accuracy, run.final_loss) = (Status::Diverged, None, None);
            }
        }
        for record in &mut loaded.records {
            record.summary.status = Status::Diverged;
            record.loss = vec![None];
        }
    };
    let said = ["3 diverged", "fp32 diverged in 3 of 3 runs"];
    check_degenerate("all diverged", change, &said);
}

#[test]
fn an_untimed_experiment_shows_no_time() {
    let change = |loaded: &mut Loaded| {
        for variant in &mut loaded.results.variants {
            variant.train = None;
            variant.memory = None;
            variant.inference = None;
            if let Some(against) = &mut variant.against_baseline {
                against.train_time_ratio = None;
                against.train_memory_ratio = None;
                against.inference_time_ratio = None;
                against.inference_memory_ratio = None;
            }
        }
    };
    check_degenerate("untimed", change, &["step time not measured", "emulated: no time"]);
}

#[test]
fn no_runs_at_all_is_still_a_report() {
    let change = |loaded: &mut Loaded| {
        loaded.results.complete = false;
        loaded.results.variants.iter_mut().for_each(without_runs);
        loaded.records.clear();
    };
    check_degenerate("no runs", change, &["0 of 15 runs are in"]);
}

#[test]
fn no_variants_at_all_is_still_a_report() {
    let change = |loaded: &mut Loaded| {
        loaded.results.variants.clear();
        loaded.results.plan.variants.clear();
        loaded.records.clear();
    };
    check_degenerate("no variants", change, &["The plan has no variants"]);
}

#[test]
fn many_variants_fit() {
    let change = |loaded: &mut Loaded| {
        for number in 0..24 {
            let mut variant = loaded.results.variants[1].clone();
            variant.name = format!("variant-with-quite-a-long-name-{number}");
            let mut plan = loaded.results.plan.variants[1].clone();
            plan.name.clone_from(&variant.name);
            loaded.results.plan.variants.push(plan);
            loaded.results.variants.push(variant);
        }
    };
    check_degenerate("many", change, &["is missing"]);
}

#[test]
fn a_folder_is_read_as_it_was_written() {
    let (dir, _) = rendered(&loaded());
    let read = load(dir.path()).unwrap();
    assert_eq!(read.results, loaded().results);
    assert_eq!(read.records, loaded().records);
    assert_eq!(read.notes, Vec::<String>::new());
}

#[test]
fn a_missing_or_broken_record_is_noted_and_the_rest_read() {
    let dir = tempfile::tempdir().unwrap();
    save(dir.path(), &loaded());
    let record = |variant: &str, seed: u64| {
        let place = format!("runs/{variant}/seed-{seed}/record.json");
        dir.path().join(place)
    };
    std::fs::remove_file(record("fp32", 0)).unwrap();
    store::write(&record("fp32", 1), b"{\"variant\":").unwrap();
    let other = store::read(&record("bf16-mixed", 2)).unwrap();
    store::write(&record("fp32", 2), &other).unwrap();
    let read = load(dir.path()).unwrap();
    assert_eq!(read.records.len() as u64, 4 * fixture::SEEDS);
    insta::assert_snapshot!(read.notes.join("\n"), @"");
}

/// The error of a results file, without its folder.
fn refusal(contents: Option<&[u8]>) -> (ReportError, String) {
    let dir = tempfile::tempdir().unwrap();
    if let Some(contents) = contents {
        store::write(&dir.path().join("results.json"), contents).unwrap();
    }
    let error = load(dir.path()).unwrap_err();
    let shown = error.to_string();
    let shown = shown.replace(&format!("{}/", dir.path().display()), "");
    (error, shown)
}

#[test]
fn a_file_that_cannot_be_read_says_why_and_what_to_do() {
    let whole = serde_json::to_vec(&loaded().results).unwrap();
    let (error, missing) = refusal(None);
    assert!(matches!(error, ReportError::Missing(_)));
    let (error, cut) = refusal(Some(&whole[..whole.len() / 2]));
    assert!(matches!(error, ReportError::CutShort { .. }));
    let (error, empty) = refusal(Some(b""));
    assert!(matches!(error, ReportError::CutShort { .. }));
    let (error, newer) = refusal(Some(b"{\"schema\": 2, \"more\": []}"));
    assert!(matches!(error, ReportError::Newer { schema: 2, .. }));
    let (error, other) = refusal(Some(b"{\"name\": \"x\"}"));
    assert!(matches!(error, ReportError::NotResults { .. }));
    let (error, binary) = refusal(Some(b"\x89PNG\r\n"));
    assert!(matches!(error, ReportError::NotResults { .. }));
    let (error, half) = refusal(Some(b"{\"schema\": 1}"));
    assert!(matches!(error, ReportError::NotResults { .. }));
    let cut = cut.split(" at line").next().unwrap();
    let all = [&missing, cut, &empty, &newer, &other, &binary, &half];
    insta::assert_snapshot!(all.join("\n"), @"");
}

#[test]
fn zz_view() {
    let mut l = loaded();
    let dir = Path::new("/tmp/view/a");
    save(dir, &l);
    render(dir).unwrap();
    for number in 0..15 {
        let mut variant = l.results.variants[1 + number % 3].clone();
        variant.name = format!("variant-with-quite-a-long-name-{number}");
        let mut plan = l.results.plan.variants[1].clone();
        plan.name.clone_from(&variant.name);
        l.results.plan.variants.push(plan);
        l.results.variants.push(variant);
    }
    let dir = Path::new("/tmp/view/b");
    save(dir, &l);
    render(dir).unwrap();
    let mut l = renamed(HOSTILE);
    l.results.complete = false;
    l.records.clear();
    for v in &mut l.results.variants {
        without_runs(v);
    }
    let dir = Path::new("/tmp/view/c");
    save(dir, &l);
    render(dir).unwrap();
}
