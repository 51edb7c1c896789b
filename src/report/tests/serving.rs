//! Serving of a language model in a report.

use super::{Loaded, Verbosity, loaded, rendered, summary, terminal, text};
use crate::record::{Agreement, Estimate, ServedAgainst, ServedBatch, Serving};
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
fn with_serving() -> Loaded {
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
    | variant | prefill, tokens/s, 1 sequence | decode, tokens/s, 1 sequence | peak memory, 1 sequence | prefill, tokens/s, 8 sequences | decode, tokens/s, 8 sequences | peak memory, 8 sequences | equal tokens | divergence from FP32 |
    | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
    | fp32<br>baseline | 16,000 | 250 | 3.00 MiB<br>cache 64.0 KiB | 128,000 | 2,000 | 3.00 MiB<br>cache 64.0 KiB | 100.00%<br>(99.00% to 100.00%) | 0<br>(0 to 0) |
    | fp16-mixed | 32,000<br>0.75× the time<br>(0.68–0.83×) | 500<br>0.50× the time<br>(0.45–0.55×) | 3.00 MiB<br>0.62×<br>cache 64.0 KiB | 256,000<br>0.75× the time<br>(0.68–0.83×) | 4,000<br>0.50× the time<br>(0.45–0.55×) | 3.00 MiB<br>0.62×<br>cache 64.0 KiB | 50.00%<br>(49.00% to 50.00%) | — |
    | bf16-mixed | — | — | — | — | — | — | 98.44%<br>(97.44% to 98.44%) | 0.00125<br>(0.00113 to 0.00138) |
    | fp16-true | — | — | — | — | — | — | — | — |
    | e5m2<br>emulated | — | — | — | — | — | — | — | — |

    - Prompts of 64 tokens of the test split pass through the model at once (prefill); then it generates 16 tokens, the most probable one each time, one by one (decode). Weights, and the keys and values of earlier positions, are in the compute format.
    - Tokens per second of all sequences together: the median over blocks. Below: the time, as a ratio to fp32's, with its 95% interval; the blocks of two variants are pairs.
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
