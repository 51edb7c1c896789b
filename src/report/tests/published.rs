//! Published figures beside an experiment's own.

use super::super::fixture::regression;
use super::{HOSTILE, Verbosity, loaded, render_together, rendered, summary, terminal, text};
use crate::report::Loaded;
use crate::spec::Reference;

/// The page's heading.
const HEADING: &str = "Published figures";

/// An experiment whose variants have the policies that their names say, and the published table.
fn with_reference() -> Loaded {
    let mut loaded = loaded();
    for (variant, policy) in loaded.results.variants.iter_mut().zip([
        "params=f32,compute=f32,reduce=f32,scale=none",
        "params=f32,compute=f16,reduce=f32,scale=dynamic",
        "params=f32,compute=bf16,reduce=f32,scale=none",
        "params=f16,compute=f16,reduce=f32,scale=none",
        "params=f32,compute=e5m2,reduce=f32,scale=none",
    ]) {
        variant.policy = policy.to_owned();
    }
    let text = include_str!("../../../experiments/references/distilbert-imdb.toml");
    loaded.results.reference = Some(Reference::read("distilbert-imdb.toml", text).unwrap());
    loaded
}

/// The section of the summary.
fn section(loaded: &Loaded) -> String {
    let summary = summary(loaded);
    let (_, section) = summary.split_once("## Published figures\n").unwrap();
    section.split_once("\n## ").unwrap().0.to_owned()
}

#[test]
fn published_figures_stand_beside_those_of_the_same_policy() {
    insta::assert_snapshot!(section(&with_reference()), @r##"
    | variant | published as | training time, here | training time, another machine's | training memory, here | training memory, another machine's | test accuracy, here | test accuracy, another machine's |
    | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |
    | fp32<br>baseline | 32-true, matmul "highest" | 4.20 ms | 21.75 min | 4.42 MiB | 5.37 GB | 96.08% ± 0.23 | 89.92% |
    | — | 32-true, matmul "high" (TF32) | — | 8.11 min<br>0.37× | — | 5.37 GB<br>1.00× | — | 92.50%<br>+2.58 pp |
    | fp16-true | 16-true<br>the loss was NaN | 4.70 ms<br>1.12× | 5.23 min<br>0.24× | 3.81 MiB<br>0.86× | 2.87 GB<br>0.53× | 82.38% ± 18.17<br>−13.70 pp | 50.08%<br>−39.84 pp |
    | fp16-mixed | 16-mixed | 5.75 ms<br>1.37× | 7.25 min<br>0.33× | 3.81 MiB<br>0.86× | 4.31 GB<br>0.80× | 96.08% ± 0.15<br>±0.00 pp | 92.15%<br>+2.23 pp |
    | bf16-mixed | bf16-mixed | 2.18 ms<br>0.52× | 7.45 min<br>0.34× | 3.81 MiB<br>0.86× | 4.46 GB<br>0.83× | 96.04% ± 0.22<br>−0.04 pp | 92.61%<br>+2.69 pp |
    | — | bf16-true | — | 5.22 min<br>0.24× | — | 2.87 GB<br>0.53× | — | 92.69%<br>+2.77 pp |

    - Another machine's: one NVIDIA A100, PyTorch 2.0. None of its figures was measured here.
    - Source: github.com/rasbt/LLM-finetuning-scripts, conventional/distilbert-movie-review/mixed-precision-experiment.
    - There: DistilBERT-base-uncased, fine-tuned on IMDb. 35,000 reviews to train on, 5,000 to validate and 10,000 to test, batch 12, 3 epochs, Adam with a learning rate of 5e-5, seed 123.
    - One run of each row.
    - Training time: there the whole training; here the median time of a training step.
    - Training memory: there the maximum that the allocator reserved; here the peak memory of training.
    - Test accuracy: there on the test split, once; here the mean over the seeds ± standard deviation.
    - Second line: the ratio to fp32 of the same machine, of an accuracy the difference. Values of two machines cannot be compared, and no verdict is drawn from published figures.
    "##);
}

#[test]
fn the_page_and_the_whole_table_of_the_terminal_show_them() {
    let loaded = with_reference();
    // From the folder alone: the file that the plan names is not there.
    let (_dir, page) = rendered(&loaded);
    for words in [
        "<a href=\"#published-figures\">",
        "<h2 id=\"published-figures-title\">Published figures</h2>",
        "<th scope=\"col\">training time, another machine&#39;s</th>",
        "<span>21.75 min</span>",
        "<span class=\"detail\">the loss was NaN</span>",
        "<li>Another machine&#39;s: one NVIDIA A100, PyTorch 2.0.",
    ] {
        assert!(page.contains(words), "{words}");
    }
    let full = terminal(&loaded.results, Verbosity::Full, 140);
    for words in [HEADING, "7.45 min", "0.34×", "one NVIDIA A100"] {
        assert!(full.contains(words), "{words}\n{full}");
    }
    assert!(!terminal(&loaded.results, Verbosity::Summary, 140).contains(HEADING));
}

#[test]
fn a_report_without_published_figures_does_not_speak_of_them() {
    let loaded = loaded();
    let (_dir, page) = rendered(&loaded);
    let full = terminal(&loaded.results, Verbosity::Full, 140);
    for text in [page, summary(&loaded), full] {
        assert!(!text.contains(HEADING) && !text.contains("published"));
    }
    assert!(!serde_json::to_string(&loaded.results).unwrap().contains("reference"));
}

#[test]
fn what_neither_side_has_is_a_dash_and_has_no_ratio() {
    // No row of the baseline: nothing to divide by.
    let mut without_base = with_reference();
    let reference = without_base.results.reference.as_mut().unwrap();
    reference.rows.remove(0);
    reference.rows[1].time = None;
    reference.columns.memory = None;
    let section = section(&without_base);
    let row = "| fp16-true | 16-true<br>the loss was NaN | 4.70 ms<br>1.12× | — | 82.38% ± 18.17<br>−13.70 pp | 50.08% |";
    assert!(section.contains(row), "{section}");
    assert!(!section.contains("memory"), "{section}");

    let mut error = regression();
    error.results.reference = with_reference().results.reference;
    assert!(self::section(&error).contains(" | — | 89.92% |"), "{}", self::section(&error));
}

#[test]
fn side_by_side_each_experiment_has_its_own() {
    let ((without, _), (with, _)) = (rendered(&loaded()), rendered(&with_reference()));
    let folders = [&without, &with].map(|dir| dir.path().to_owned());
    let out = without.path().join("together");
    render_together(&folders, &out).unwrap();
    let summary = text(&out.join("summary.md"));
    let [without, with] = folders.map(|dir| dir.file_name().unwrap().display().to_string());
    let start = format!("## Published figures\n\n### {with}\n\n| variant |");
    assert!(summary.contains(&start), "{summary}");
    assert!(!summary.contains(&format!("### {without}\n")));
}

#[test]
fn published_texts_stay_text() {
    let mut hostile = with_reference();
    let reference = hostile.results.reference.as_mut().unwrap();
    let column = reference.columns.time.as_mut().unwrap();
    for text in [
        &mut reference.title,
        &mut reference.source,
        &mut reference.machine,
        &mut reference.settings,
        &mut reference.rows[0].label,
        &mut column.unit,
        &mut column.measured,
    ] {
        *text = format!("{HOSTILE}\u{1b}[2J\u{202e}");
    }
    reference.rows[0].note = Some(HOSTILE.to_owned());
    let (_dir, page) = rendered(&hostile);
    let full = terminal(&hostile.results, Verbosity::Full, 140);
    for text in [page, summary(&hostile)] {
        assert!(!text.contains("<script>alert"));
        assert!(!text.contains(['\u{1b}', '\u{202e}']));
    }
    assert!(full.chars().all(|c| c == '\n' || !c.is_control()));
}
