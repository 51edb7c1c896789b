//! Serving of a language model in a report.

use super::{
    Loaded, Verbosity, figures, loaded, rendered, save, sheet, summary, svg, terminal, text,
};
use crate::record::files::drawings;
use crate::record::{Agreement, Estimate, ServedAgainst, ServedBatch, Serving};
use crate::report::render;
use crate::spec::ServingPlan;
use crate::units::{Bytes, Ratio, Seconds};

fn around<T>(value: f64, of: impl Fn(f64) -> T) -> Estimate<T> {
    Estimate { value: of(value), low: of(value * 0.9), high: of(value * 1.1) }
}

/// A batch whose decode pass takes so long, and whose prompts of 64 tokens as long.
fn served(batch: usize, seconds: f64, is_compared: bool) -> ServedBatch {
    ServedBatch {
        batch,
        prefill_tokens_per_second: around(batch as f64 * 64.0 / seconds, |rate| rate),
        decode_tokens_per_second: around(batch as f64 / seconds, |rate| rate),
        peak_bytes: Some(Bytes(3 << 20)),
        cache: Bytes(1 << 16),
        prefill_blocks: vec![Seconds(seconds); 3],
        decode_blocks: vec![Seconds(seconds); 3],
        against_baseline: is_compared.then(|| ServedAgainst {
            prefill_time_ratio: Some(around(0.75, Ratio)),
            decode_time_ratio: Some(around(0.5, Ratio)),
            memory_ratio: Some(Ratio(0.625)),
        }),
    }
}

fn agreement(equal: f64, divergence: Option<f64>) -> Agreement {
    let equal_tokens = Estimate { value: equal, low: equal - 0.01, high: equal };
    let kl_divergence = divergence.map(|value| around(value, |value| value));
    Agreement { prompts: 32, tokens: 16, equal_tokens, kl_divergence }
}

/// Three variants were served: the baseline, one in f16 with logits that were not finite, and one that is not timed.
pub(super) fn with_serving() -> Loaded {
    let mut loaded = loaded();
    loaded.results.plan.measure.serving =
        Some(ServingPlan { prompt: 64, generate: 16, batch: 8, prompts: 32 });
    let batches = |seconds, compared| [1, 8].map(|batch| served(batch, seconds, compared)).to_vec();
    for (variant, serving) in loaded.results.variants.iter_mut().zip([
        Serving { batches: batches(0.004, false), agreement: Some(agreement(1.0, Some(0.0))) },
        Serving { batches: batches(0.002, true), agreement: Some(agreement(0.5, None)) },
        Serving { batches: Vec::new(), agreement: Some(agreement(0.984_375, Some(0.001_25))) },
    ]) {
        variant.serving = Some(serving);
    }
    loaded
}

#[test]
fn the_summary_has_a_table_of_serving() {
    let summary = summary(&with_serving());
    let (_, section) = summary.split_once("## Serving\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    insta::assert_snapshot!(section, @r"
    | variant | prefill, tokens/s, 1 sequence | decode, tokens/s, 1 sequence | memory, 1 sequence | prefill, tokens/s, 8 sequences | decode, tokens/s, 8 sequences | memory, 8 sequences | equal tokens | divergence, nats |
    | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
    | fp32<br>baseline | 16,000 | 250 | 3.00 MiB<br>cache 64.0 KiB | 128,000 | 2,000 | 3.00 MiB<br>cache 64.0 KiB | 100.00%<br>(99.00–100.00%) | 0<br>(0 to 0) |
    | fp16-mixed | 32,000<br>0.75× time<br>(0.68–0.83×) | 500<br>0.50× time<br>(0.45–0.55×) | 3.00 MiB<br>0.62×<br>cache 64.0 KiB | 256,000<br>0.75× time<br>(0.68–0.83×) | 4,000<br>0.50× time<br>(0.45–0.55×) | 3.00 MiB<br>0.62×<br>cache 64.0 KiB | 50.00%<br>(49.00–50.00%) | — |
    | bf16-mixed | — | — | — | — | — | — | 98.44%<br>(97.44–98.44%) | 0.00125<br>(0.00113 to 0.00138) |
    | fp16-true | — | — | — | — | — | — | — | — |
    | e5m2<br>emulated | — | — | — | — | — | — | — | — |

    - Prompts of 64 tokens of the test split pass through the model at once (prefill); then it generates 16 tokens, the most probable one each time, one by one (decode). Weights, and the keys and values of earlier positions, are in the compute format.
    - Tokens per second of all sequences together: the median over blocks. Below: the time ÷ fp32's, with its 95% interval; the blocks of two variants are pairs.
    - Memory: the peak of live bytes while a batch is served, weights and cache included.
    - Equal tokens: FP32 generates 16 tokens after each of 32 prompts with the same weights, and the compute format predicts each next token after the same tokens; the share where both find the same one the most probable. Divergence: of the distributions of the next token (Kullback–Leibler), in nats, the mean. Intervals of 95% are over prompts.
    ");
}

#[test]
fn the_page_and_the_whole_table_of_the_terminal_show_it() {
    let loaded = with_serving();
    let (dir, _) = rendered(&loaded);
    let page = text(&dir.path().join("report.html"));
    for part in [
        "<a href=\"#serving\">Serving</a>",
        "<section id=\"serving\" aria-labelledby=\"serving-title\">",
        "aria-label=\"Table of serving\"",
    ] {
        assert_eq!(page.matches(part).count(), 1, "{part}");
    }
    let full = terminal(&loaded.results, Verbosity::Full, 100);
    assert!(full.contains("\nServing\n") && full.contains("cache 64.0 KiB"), "{full}");
    assert!(!terminal(&loaded.results, Verbosity::Summary, 100).contains("Serving"));
}

#[test]
fn a_report_without_serving_does_not_speak_of_it() {
    let (dir, _) = rendered(&loaded());
    let page = text(&dir.path().join("report.html"));
    assert!(!page.contains("Serving") && !summary(&loaded()).contains("Serving"));
}

/// The columns of a row of `results.csv`, by their headers.
fn columns(loaded: &Loaded, row: usize) -> std::collections::BTreeMap<String, String> {
    let sheet = sheet(loaded);
    let mut reader = ::csv::Reader::from_reader(sheet.as_bytes());
    let headers = reader.headers().unwrap().clone();
    let record = reader.records().nth(row).unwrap().unwrap();
    headers.iter().zip(&record).map(|(name, cell)| (name.to_owned(), cell.to_owned())).collect()
}

#[test]
fn the_sheet_has_its_numbers() {
    let cells = columns(&with_serving(), 1);
    let number = |name: &str| cells[name].parse::<f64>().unwrap();
    for (name, expected) in [
        ("serving_alone_prefill_tokens_per_second", 32_000.0),
        ("serving_alone_decode_tokens_per_second", 500.0),
        ("serving_alone_decode_time_ratio", 0.5),
        ("serving_alone_peak_bytes", 3_145_728.0),
        ("serving_alone_cache_bytes", 65_536.0),
        ("serving_batch", 8.0),
        ("serving_batch_prefill_tokens_per_second", 256_000.0),
        ("serving_batch_prefill_time_ratio", 0.75),
        ("serving_batch_decode_tokens_per_second", 4_000.0),
        ("token_agreement_prompts", 32.0),
        ("token_agreement", 0.5),
        ("token_agreement_low", 0.49),
    ] {
        assert!((number(name) / expected - 1.0).abs() < 1e-12, "{name}: {}", cells[name]);
    }
    assert_eq!(cells["token_divergence_nats"], "", "its logits were not finite");
    let untimed = columns(&with_serving(), 2);
    assert_eq!(untimed["serving_batch_decode_tokens_per_second"], "");
    assert_eq!(untimed["token_divergence_nats"], "0.00125");
    assert!(!sheet(&loaded()).contains("serving"), "nothing was served");
}

#[test]
fn a_figure_shows_prefill_and_decode_of_each_batch() {
    let figures = figures(&with_serving());
    let figure = figures.iter().find(|figure| figure.file == "serving").unwrap();
    let titles: Vec<&str> = figure.panels.iter().map(|panel| &*panel.title).collect();
    let expected = [
        "prefill, 1 sequence",
        "prefill, 8 sequences",
        "decode, 1 sequence",
        "decode, 8 sequences",
    ];
    assert_eq!(titles, expected);
    assert!(svg(figure).contains("4,000/s · 0.50×"));
    let said = "fp32: prefill of 1 sequence 16,000 tokens/s (14,400 to 17,600)";
    assert!(figure.alt.contains(said), "{}", figure.alt);
}

/// The plan of [`with_serving`], without a step of training and what only that measures.
fn inference_alone() -> Loaded {
    let mut loaded = with_serving();
    loaded.results.plan.train.steps = 0;
    loaded.results.recommendation = None;
    loaded.results.controls.clear();
    for variant in &mut loaded.results.variants {
        (variant.train, variant.memory) = (None, None);
        if let Some(against) = &mut variant.against_baseline {
            (against.train_time_ratio, against.train_memory_ratio) = (None, None);
        }
    }
    loaded.records.clear();
    loaded
}

#[test]
fn without_training_the_report_says_so_and_which_format_decodes_fastest() {
    let summary = summary(&inference_alone());
    let said = "**Inference alone was measured.** Nothing was trained, so no format of training is recommended; fp16-mixed decodes \
                fastest, 2.00× as fast as fp32 (1.82–2.22×), 8 sequences together; it finds the same token as FP32 at 50.00% of \
                positions (49.00–50.00%); what each format costs in inference and how far it is from the baseline is in the tables.";
    assert!(summary.contains(said), "{summary}");
    assert!(!summary.contains("step time not measured"), "{summary}");
}

#[test]
fn without_training_no_figure_is_empty() {
    let alone = inference_alone();
    let figures = figures(&alone);
    let files: Vec<&str> = figures.iter().map(|figure| &*figure.file).collect();
    assert_eq!(files, ["accuracy-difference", "inference", "serving", "accuracy"]);
    // Drawings of a report on training that was there before are gone.
    let dir = tempfile::tempdir().unwrap();
    save(dir.path(), &Loaded { records: Vec::new(), ..with_serving() });
    render(dir.path()).unwrap();
    assert!(drawings("loss").all(|drawing| dir.path().join(drawing).is_file()));
    save(dir.path(), &alone);
    render(dir.path()).unwrap();
    assert!(drawings("loss").all(|drawing| !dir.path().join(drawing).exists()));
    assert!(drawings("serving").all(|drawing| dir.path().join(drawing).is_file()));
}
