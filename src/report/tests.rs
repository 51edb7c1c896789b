//! Tests of whole reports.

mod published;
mod regression;
mod serving;

use std::path::{Path, PathBuf};

use super::draw;
use super::figure::Figure;
use super::fixture::{self, loaded, renamed, save};
use super::table::Table;
use super::theme::Theme;
use super::{
    Loaded, Report, ReportError, Verbosity, csv, figure, interactive, latex, load, markdown,
    render, render_together, tensorboard, terminal,
};
use crate::record::files::FIGURES;
use crate::record::{
    Counts, Engine, Evidence, Failure, LayerCensus, MetricVerdict, Numerics, Role, Status,
    VariantResult,
};
use crate::store;

/// A name that would do harm where it is not escaped.
const HOSTILE: &str = "<script>alert(1)</script>|\"x\"";

fn text(path: &Path) -> String {
    String::from_utf8(store::read(path).unwrap()).unwrap()
}

fn summary(loaded: &Loaded) -> String {
    let experiments = [loaded.clone()];
    let report = Report::of(&experiments);
    markdown::render(&report, &figure::all(&report.table))
}

fn sheet(loaded: &Loaded) -> String {
    let table = Table::of_one(&loaded.results, &loaded.records, None);
    String::from_utf8(csv::render(&table).unwrap()).unwrap()
}

fn figures(loaded: &Loaded) -> Vec<Figure> {
    figure::all(&Table::of_one(&loaded.results, &loaded.records, None))
}

fn svg(figure: &Figure) -> String {
    draw::svg(figure, Theme::Light).unwrap()
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
    insta::assert_snapshot!(terminal(&loaded().results, Verbosity::Full, 140), @r##"
    Use bf16-mixed. It trains 1.92× as fast as fp32.
    Note: e5m2: emulated, so the numerics are exact and the times would say nothing of hardware; none are given.

     variant                         accuracy  speed    memory  overflow  underflow  skipped steps  step time  samples/s                runs
     fp32                              96.08%  1.00×  4.42 MiB         0          0       0 of 720    4.20 ms     30,476              3 of 3
     fp16-mixed        ±0.00 pp, inconclusive  0.73×      −14%        83      5,507       6 of 720    5.75 ms     22,245              3 of 3
     bf16-mixed        −0.04 pp, inconclusive  1.92×      −14%         0          4       0 of 720    2.18 ms     58,608              3 of 3
     fp16-true        −13.70 pp, inconclusive  0.89×      −14%     1,440    282,100       0 of 611    4.70 ms     27,211  2 of 3, 1 diverged
     e5m2 (emulated)   −1.00 pp, inconclusive      —         —        26     73,883       0 of 720          —          —              3 of 3
    Against fp32: accuracy on the test data in percentage points (pp), speed of training (above 1 is faster), and memory of training. — means
    not measured.

    ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
     variant                    test             step   training      inference   inference   overflow   underflow     updates   skipped         runs 
                            accuracy             time     memory           time      memory                            rounded     steps              
                                                                                                                          away                        
    ══════════════════════════════════════════════════════════════════════════════════════════════════════════════════════════════════════════════════
     fp32              96.08% ± 0.23          4.20 ms   4.42 MiB        1.10 ms    1.88 MiB          0           0           0         0       3 of 3 
     baseline                             286 GFLOP/s                                               0%          0%          0%        0%              
                                       71% of fastest                                                                                                 
    ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
     fp16-mixed        96.08% ± 0.15          5.75 ms   3.81 MiB        1.51 ms     965 KiB         83       5,507      28,700         6       3 of 3 
                            ±0.00 pp            1.37×      0.86×          1.37×       0.50×    3.6e-4%      0.024%      0.016%     0.83%              
                    (−0.20 to +0.15)     (1.34–1.41×)              (1.34–1.41×)                                                                       
                        inconclusive      209 GFLOP/s                                                                                                 
                                       26% of fastest                                                                                                 
    ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
     bf16-mixed        96.04% ± 0.22          2.18 ms   3.81 MiB         572 µs     965 KiB          0           4          21         0       3 of 3 
                            −0.04 pp            0.52×      0.86×          0.52×       0.50×         0%     1.8e-5%     1.2e-5%        0%              
                    (−0.24 to +0.11)     (0.51–0.54×)              (0.51–0.54×)                                                                       
                        inconclusive      549 GFLOP/s                                                                                                 
                                       69% of fastest                                                                                                 
    ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
     fp16-true        82.38% ± 18.17          4.70 ms   3.81 MiB        1.23 ms     965 KiB      1,440     282,100   1,470,000         0       2 of 3 
                           −13.70 pp            1.12×      0.86×          1.12×       0.50×    0.0063%        1.2%       0.82%        0%   1 diverged 
                  (−13.90 to −13.55)     (1.10–1.15×)              (1.10–1.15×)                                                                       
                        inconclusive      255 GFLOP/s                                                                                                 
                                       32% of fastest                                                                                                 
    ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
     e5m2              95.08% ± 0.23        emulated:          —      emulated:     965 KiB         26      73,883     385,000         0       3 of 3 
     emulated               −1.00 pp          no time                   no time       0.50×    1.1e-4%       0.32%       0.21%        0%              
                    (−1.20 to −0.85)                                                                                                                  
                        inconclusive                                                                                                                  
    ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
    ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
     claim        variant      verdict   measured                  threshold                          needed to decide  
    ════════════════════════════════════════════════════════════════════════════════════════════════════════════════════
     train-time   bf16-mixed   open      0.520× (0.499 to 0.541)   step time ÷ baseline at most 0.5   more timed blocks 
    ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
    "##);
}

#[test]
fn the_summary_has_a_line_per_variant_and_fits_the_terminal() {
    let results = loaded().results;
    let mut shown = Vec::new();
    for width in [80, 100, 140] {
        let text = terminal(&results, Verbosity::Summary, width);
        assert!(text.starts_with("Use bf16-mixed. "), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= width), "{width}: {text}");
        for variant in &results.variants {
            let start = format!(" {} ", variant.name);
            assert_eq!(text.lines().filter(|line| line.starts_with(&start)).count(), 1, "{text}");
        }
        let header = text.lines().find(|line| line.starts_with(" variant ")).unwrap().to_owned();
        shown.push(header.split("  ").filter(|title| !title.is_empty()).count());
    }
    assert!(shown.is_sorted() && shown[0] < shown[2] && shown[2] == 10, "{shown:?}");
    insta::assert_snapshot!(terminal(&results, Verbosity::Summary, 100), @r##"
    Use bf16-mixed. It trains 1.92× as fast as fp32.
    Note: e5m2: emulated, so the numerics are exact and the times would say nothing of hardware; none
    are given.

     variant                         accuracy  speed    memory  overflow  underflow                runs
     fp32                              96.08%  1.00×  4.42 MiB         0          0              3 of 3
     fp16-mixed        ±0.00 pp, inconclusive  0.73×      −14%        83      5,507              3 of 3
     bf16-mixed        −0.04 pp, inconclusive  1.92×      −14%         0          4              3 of 3
     fp16-true        −13.70 pp, inconclusive  0.89×      −14%     1,440    282,100  2 of 3, 1 diverged
     e5m2 (emulated)   −1.00 pp, inconclusive      —         —        26     73,883              3 of 3
    Against fp32: accuracy on the test data in percentage points (pp), speed of training (above 1 is
    faster), and memory of training. — means not measured. The terminal is too narrow for: skipped
    steps, step time and samples/s.
    "##);
}

#[expect(clippy::too_many_lines, reason = "a whole page")]
#[test]
fn the_summary_reads_well() {
    insta::assert_snapshot!(summary(&loaded()), @r##"
    # digits

    cpu · Example Processor 9000 · 2 threads · mantissa 0.1.0 · 2026-01-02T03:04:05Z

    **Use bf16-mixed.** It trains 1.92× as fast as fp32.

    - e5m2: emulated, so the numerics are exact and the times would say nothing of hardware; none are given.

    ## Comparison

    | variant | test accuracy | step time | training memory | inference time | inference memory | overflow | underflow | updates rounded away | skipped steps | runs |
    | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
    | fp32<br>baseline | 96.08% ± 0.23 | 4.20 ms<br>286 GFLOP/s<br>71% of fastest | 4.42 MiB | 1.10 ms | 1.88 MiB | 0<br>0% | 0<br>0% | 0<br>0% | 0<br>0% | 3 of 3 |
    | fp16-mixed | 96.08% ± 0.15<br>±0.00 pp<br>(−0.20 to +0.15)<br>inconclusive | 5.75 ms<br>1.37×<br>(1.34–1.41×)<br>209 GFLOP/s<br>26% of fastest | 3.81 MiB<br>0.86× | 1.51 ms<br>1.37×<br>(1.34–1.41×) | 965 KiB<br>0.50× | 83<br>3.6e-4% | 5,507<br>0.024% | 28,700<br>0.016% | 6<br>0.83% | 3 of 3 |
    | bf16-mixed | 96.04% ± 0.22<br>−0.04 pp<br>(−0.24 to +0.11)<br>inconclusive | 2.18 ms<br>0.52×<br>(0.51–0.54×)<br>549 GFLOP/s<br>69% of fastest | 3.81 MiB<br>0.86× | 572 µs<br>0.52×<br>(0.51–0.54×) | 965 KiB<br>0.50× | 0<br>0% | 4<br>1.8e-5% | 21<br>1.2e-5% | 0<br>0% | 3 of 3 |
    | fp16-true | 82.38% ± 18.17<br>−13.70 pp<br>(−13.90 to −13.55)<br>inconclusive | 4.70 ms<br>1.12×<br>(1.10–1.15×)<br>255 GFLOP/s<br>32% of fastest | 3.81 MiB<br>0.86× | 1.23 ms<br>1.12×<br>(1.10–1.15×) | 965 KiB<br>0.50× | 1,440<br>0.0063% | 282,100<br>1.2% | 1,470,000<br>0.82% | 0<br>0% | 2 of 3<br>1 diverged |
    | e5m2<br>emulated | 95.08% ± 0.23<br>−1.00 pp<br>(−1.20 to −0.85)<br>inconclusive | emulated:<br>no time | — | emulated:<br>no time | 965 KiB<br>0.50× | 26<br>1.1e-4% | 73,883<br>0.32% | 385,000<br>0.21% | 0<br>0% | 3 of 3 |

    ## What this shows

    - fp16-true, seed 2, diverged at step 130 in layer hidden.1: the loss is not finite.
    - fp16-true diverged in 1 of 3 runs: a rate with a 95% interval from 6.1% to 79%.
    - e5m2: emulated, so the numerics are exact and the times would say nothing of hardware; none are given.
    - bf16-mixed trains fastest on this machine: 1.92× as fast as fp32 (1.87–1.96×).
    - fp16-mixed: Test accuracy ±0.00 pp against fp32 over 3 pairs: inconclusive, which does not mean that they are the same (p = 0.250; after Holm's correction, p = 1.000). Training is 37% slower than fp32 (34–41%) and needs 14% less memory. Inference is 37% slower than fp32 (34–41%) and needs 50% less memory.
    - bf16-mixed: Test accuracy −0.04 pp against fp32 over 3 pairs: inconclusive, which does not mean that they are the same (p = 0.250; after Holm's correction, p = 1.000). Training is 1.92× as fast as fp32 (1.87–1.96×) and needs 14% less memory. Inference is 1.92× as fast as fp32 (1.87–1.96×) and needs 50% less memory.
    - fp16-true: Test accuracy −13.70 pp against fp32 over 3 pairs: inconclusive, which does not mean that they are the same (p = 0.250; after Holm's correction, p = 1.000). Training is 12% slower than fp32 (10–15%) and needs 14% less memory. Inference is 12% slower than fp32 (10–15%) and needs 50% less memory.
    - e5m2: Test accuracy −1.00 pp against fp32 over 3 pairs: inconclusive, which does not mean that they are the same (p = 0.250; after Holm's correction, p = 1.000). Inference needs 50% less memory.
    - With 3 seeds no difference of accuracy can reach p &lt; 0.05: the smallest p of a two-sided sign-flip test is then 0.25, and Holm's correction multiplies the least of 4 by 4. It takes at least 8 seeds to call a variant worse or better, and 6 to call it equivalent.
    - Control fp32+same-seeds: the baseline against itself. Test accuracy ±0.00 pp against fp32 over 3 pairs: inconclusive, which does not mean that they are the same (p = 1.000). Training was at 1.00× the speed of fp32 (0.97–1.02×).
    - Counted overflow: fp16-mixed 83, fp16-true 1,440 and e5m2 26.
    - Counted underflow: fp16-mixed 5,507, bf16-mixed 4, fp16-true 282,100 and e5m2 73,883.
    - Counted updates rounded away: fp16-mixed 28,700, bf16-mixed 21, fp16-true 1,470,000 and e5m2 385,000.
    - fp16-mixed: 6 skipped steps, in steps 2–4.
    - Weight gradients that were not finite, over every step: fp16-mixed 52 infinite, fp16-true 900 infinite and e5m2 17 infinite. The updates of these steps were skipped.

    ## Claims

    | claim | variant | verdict | measured | threshold | needed to decide |
    | --- | --- | --- | --- | --- | --- |
    | train-time | bf16-mixed | open | 0.520× (0.499 to 0.541) | step time ÷ baseline at most 0.5 | more timed blocks |

    ## Figures

    ### Test accuracy against the baseline

    ![Test accuracy, variant − baseline, in percentage points (pp). fp16-mixed: ±0.00 pp · too few seeds (3 of 6), 95% interval −0.20 to +0.15, 3 pairs, δ 0.500 pp; bf16-mixed: −0.04 pp · too few seeds (3 of 6), 95% interval −0.24 to +0.11, 3 pairs, δ 0.500 pp; fp16-true: −13.70 pp · too few seeds (3 of 6), 95% interval −13.90 to −13.55, 3 pairs, δ 0.500 pp; e5m2: −1.00 pp · too few seeds (3 of 6), 95% interval −1.20 to −0.85, 3 pairs, δ 0.500 pp; fp32+same-seeds: ±0.00 pp · too few seeds (3 of 6), 95% interval ±0.00 to ±0.00, 3 pairs, δ 0.500 pp.](figures/accuracy-difference.png)

    Equivalent: the 90% interval lies within ±δ, and would after one more seed 5 standard deviations off. Better or worse: the 95% interval excludes 0, and p &lt; 0.05 after Holm's correction. The interval drawn is the 90% one of an equivalent variant, else the 95% one.

    Below the line: the baseline against itself, trained again with the same seeds or with others; precision does not cause a difference there.

    ### Accuracy vs. cost

    ![Accuracy, speed and memory against the baseline. fp32: ±0.00 pp, speedup 1.00×, memory saved 1.00×; fp16-mixed: ±0.00 pp, speedup 0.73×, memory saved 1.16×; bf16-mixed: −0.04 pp, speedup 1.92×, memory saved 1.16×; fp16-true: −13.70 pp, speedup 0.89×, memory saved 1.16×, 1 diverged; e5m2: −1.00 pp, speedup not measured, memory saved not measured.](figures/trade-off.png)

    Whiskers: 95% intervals; one that reaches an edge goes on beyond it. On the Pareto front no other variant has both the higher gain and the higher accuracy; that says nothing of whether a difference is significant.

    A mark on the lower edge lies below it.

    ### Time of one training step

    ![Time of one training step. fp32: 4.20 ms (data 210 µs, forward 1.68 ms, backward 1.89 ms, unscale 210 µs, update 420 µs); fp16-mixed: 5.75 ms, 1.37× (1.34–1.41×) of the baseline (data 288 µs, forward 2.30 ms, backward 2.59 ms, unscale 288 µs, update 575 µs); bf16-mixed: 2.18 ms, 0.52× (0.51–0.54×) of the baseline (data 109 µs, forward 874 µs, backward 983 µs, unscale 109 µs, update 218 µs); fp16-true: 4.70 ms, 1.12× (1.10–1.15×) of the baseline (data 235 µs, forward 1.88 ms, backward 2.12 ms, unscale 235 µs, update 470 µs); e5m2: emulated: no time.](figures/step-time.png)

    Phases are measured apart from the whole step, with a wait between them, and drawing a batch (data) is not in the whole.

    ### Peak memory of training

    ![Peak memory of training. fp32: 4.42 MiB (weights 1.05 MiB, master weights 0 B, gradients 1.05 MiB, optimizer 1.05 MiB, activations and work space 1.26 MiB); fp16-mixed: 3.81 MiB · 0.86× (weights 540 KiB, master weights 1.05 MiB, gradients 540 KiB, optimizer 1.05 MiB, activations and work space 660 KiB); bf16-mixed: 3.81 MiB · 0.86× (weights 540 KiB, master weights 1.05 MiB, gradients 540 KiB, optimizer 1.05 MiB, activations and work space 660 KiB); fp16-true: 3.81 MiB · 0.86× (weights 540 KiB, master weights 1.05 MiB, gradients 540 KiB, optimizer 1.05 MiB, activations and work space 660 KiB); e5m2: not measured.](figures/memory.png)

    ### Time and memory of inference

    ![Inference. fp32: 1.10 ms; 1.88 MiB (weights 1.05 MiB, activations and work space 850 KiB); fp16-mixed: 1.51 ms, 1.37× (1.34–1.41×) of the baseline; 965 KiB · 0.50× (weights 540 KiB, activations and work space 425 KiB); bf16-mixed: 572 µs, 0.52× (0.51–0.54×) of the baseline; 965 KiB · 0.50× (weights 540 KiB, activations and work space 425 KiB); fp16-true: 1.23 ms, 1.12× (1.10–1.15×) of the baseline; 965 KiB · 0.50× (weights 540 KiB, activations and work space 425 KiB); e5m2: emulated: no time; 965 KiB · 0.50× (weights 540 KiB, activations and work space 425 KiB).](figures/inference.png)

    ### Training loss

    ![Training loss by step, smoothed, mean over the seeds. fp32: from 2.24 to 0.0770; fp16-mixed: from 2.26 to 0.0970, 0.0200 against the baseline at the end; bf16-mixed: from 2.28 to 0.117, 0.0400 against the baseline at the end; fp16-true: from 2.30 to 0.134, 0.0600 against the baseline at the end, 1 run not finite at the end; e5m2: from 2.32 to 0.157, 0.0800 against the baseline at the end.](figures/loss.png)

    Smoothed: each point is the mean of the 10 steps around it.

    Thinned for drawing: of every 2 steps, the faint line keeps the lowest and the highest.

    Wall time: steps × the median time of a step in the timing phase.

    A line breaks where a run ends early: from there it is the mean of the other seeds.

    ### Test accuracy

    ![Test accuracy, mean ± standard deviation. fp32: 96.08% ± 0.23; fp16-mixed: 96.08% ± 0.15; bf16-mixed: 96.04% ± 0.22; fp16-true: 82.38% ± 18.17 · 1 diverged; e5m2: 95.08% ± 0.23.](figures/accuracy.png)

    The model was tested at the end only; \`train.evaluate\_every\` tests it more often.

    ### Loss scale and skipped steps

    ![Loss scale and skipped steps. fp16-mixed: loss scale 32768, 32768 and 32768 at the end; 6 skipped steps, in steps 2–4.](figures/loss-scale.png)

    fp16-mixed: 6 skipped steps, in steps 2–4.

    Thinned for drawing: the skipped steps among 2 in a row are one mark.

    ### Overflow and underflow by layer and role

    ![Overflow and underflow by role. fp32: weights 0 overflow and 0 underflow of 9,000,000, activations 0 overflow and 0 underflow of 2,400,000, activation gradients 0 overflow and 0 underflow of 2,400,000, weight gradients 0 overflow and 0 underflow of 9,000,000; fp16-mixed: weights 0 overflow and 41 underflow of 9,000,000, activations 5 overflow and 0 underflow of 2,400,000, activation gradients 26 overflow and 4,100 underflow of 2,400,000, weight gradients 52 overflow and 1,366 underflow of 9,000,000; bf16-mixed: weights 0 overflow and 0 underflow of 9,000,000, activations 0 overflow and 0 underflow of 2,400,000, activation gradients 0 overflow and 3 underflow of 2,400,000, weight gradients 0 overflow and 1 underflow of 9,000,000; fp16-true: weights 0 overflow and 2,100 underflow of 9,000,000, activations 90 overflow and 0 underflow of 2,400,000, activation gradients 450 overflow and 210,000 underflow of 2,400,000, weight gradients 900 overflow and 70,000 underflow of 9,000,000; e5m2: weights 0 overflow and 550 underflow of 9,000,000, activations 1 overflow and 0 underflow of 2,400,000, activation gradients 8 overflow and 55,000 underflow of 2,400,000, weight gradients 17 overflow and 18,333 underflow of 9,000,000.](figures/overflow-underflow.png)

    W: weights, A: activations, ∂A: activation gradients, ∂W: weight gradients. A 0 is exactly none.

    No overflow on census steps: fp32, bf16-mixed and e5m2.

    No overflow in any variant: 1 other layer.

    No underflow on census steps: fp32 and bf16-mixed.

    No underflow in any variant: 1 other layer.

    ### Magnitudes by role

    ![Range of magnitudes by role. fp32: activations 2⁻¹⁹ to 2⁻¹⁷, weight gradients 2⁻¹⁹ to 2⁻¹⁷; fp16-mixed: activations 2⁻¹⁹ to 2⁻¹⁷, weight gradients 2⁻¹⁹ to 2⁻¹⁷; bf16-mixed: activations 2⁻¹⁹ to 2⁻¹⁷, weight gradients 2⁻¹⁹ to 2⁻¹⁷; fp16-true: activations 2⁻¹⁹ to 2⁻¹⁷, weight gradients 2⁻¹⁹ to 2⁻¹⁷; e5m2: activations 2⁻¹⁹ to 2⁻¹⁷, weight gradients 2⁻¹⁹ to 2⁻¹⁷.](figures/exponents.png)

    Dashed: the limits of f16, the narrowest format here. What lies left of both rounds to 0, what lies right of both to infinity.

    fp16-mixed multiplies its loss by 2¹⁴ to 2¹⁶, so its gradients lie 14 to 16 binades further right than unscaled ones.

    ### Magnitudes by layer and role

    ![Range of magnitudes by layer. fp32: hidden.0 activations 2⁻¹⁹ to 2⁻¹⁷, hidden.0 weight gradients 2⁻¹⁹ to 2⁻¹⁷, hidden.1 activations 2⁻¹⁹ to 2⁻¹⁷; fp16-mixed: hidden.0 activations 2⁻¹⁹ to 2⁻¹⁷, hidden.0 weight gradients 2⁻¹⁹ to 2⁻¹⁷, hidden.1 activations 2⁻¹⁹ to 2⁻¹⁷; bf16-mixed: hidden.0 activations 2⁻¹⁹ to 2⁻¹⁷, hidden.0 weight gradients 2⁻¹⁹ to 2⁻¹⁷, hidden.1 activations 2⁻¹⁹ to 2⁻¹⁷; fp16-true: hidden.0 activations 2⁻¹⁹ to 2⁻¹⁷, hidden.0 weight gradients 2⁻¹⁹ to 2⁻¹⁷, hidden.1 activations 2⁻¹⁹ to 2⁻¹⁷; e5m2: hidden.0 activations 2⁻¹⁹ to 2⁻¹⁷, hidden.0 weight gradients 2⁻¹⁹ to 2⁻¹⁷, hidden.1 activations 2⁻¹⁹ to 2⁻¹⁷.](figures/exponents-by-layer.png)

    ## How to read the table

    - Test accuracy: mean over the seeds ± standard deviation; below it the mean paired difference to the baseline in percentage points (pp) with its 95% interval, and the verdict.
    - Step time: median of the timed blocks of this run; machines drift, so a time in seconds has no interval. × is variant ÷ baseline, paired by block, with its 95% interval; below 1 is less. FLOP/s: operations in the matrix products of a step ÷ its time; below them their share of this program's fastest matrix multiplication of that format, which is not the hardware's peak.
    - Overflow: finite before rounding, past the format's largest value after: infinite, NaN, or held at it. Underflow: not 0 before rounding, 0 after. Counted on census steps, and overflow on rejected steps too, over weights, activations and gradients; of candle's operations, over weights alone: what these round is not known. Settling: before a run's first update, while the loss scale comes down.
    - Updates rounded away: they were not 0, and left the weight as it was. They and skipped steps are counted on every step.
    - — means not measured, never 0.
    "##);
}

// scipy.stats.binomtest(k, 3).proportion_ci(method="wilson").high is 0.5615 for k = 0 and 0.7923 for 1
#[test]
fn beside_equivalent_stands_what_few_seeds_cannot_exclude() {
    let unseen = "of all runs such a difference cannot be excluded.";
    let mut experiment = loaded();
    assert!(!summary(&experiment).contains(unseen));
    let against = experiment.results.variants[2].against_baseline.as_mut().unwrap();
    against.accuracy_difference.as_mut().unwrap().verdict = MetricVerdict::Equivalent;
    let none = format!("None of 3 seeds differ by more than ±0.50 pp; in as many as 56% {unseen}");
    assert!(summary(&experiment).contains(&none));
    let accuracy = &mut experiment.results.variants[2].runs[1].test_accuracy;
    *accuracy = accuracy.map(|accuracy| accuracy - 0.02);
    let one = format!("1 of 3 seeds differs by more than ±0.50 pp; in as many as 79% {unseen}");
    assert!(summary(&experiment).contains(&one));
}

/// 14 equal experiments gave peaks from 62 to 212 GFLOP/s, and the interval of a time covered its long-run median in 44 %.
#[test]
fn a_time_has_no_interval_where_people_read_and_the_fastest_product_is_no_peak() {
    let experiment = loaded();
    let step = experiment.results.variants[0].train.as_ref().unwrap().step_seconds;
    let interval = super::text::interval(step.low, step.high);
    let (_dir, page) = rendered(&experiment);
    for read in [terminal(&experiment.results, Verbosity::Full, 140), summary(&experiment), page] {
        assert!(read.contains(&step.value.to_string()));
        assert!(!read.contains(&interval), "{interval}");
        assert!(read.contains("0.51–0.54×"));
        assert!(!read.contains("of peak"));
    }
}

#[test]
fn the_sheet_holds_plain_numbers() {
    insta::assert_snapshot!(sheet(&loaded()), @r##"
    experiment,variant,policy,baseline,emulated,engine,runs_planned,runs_completed,runs_diverged,runs_failed,test_accuracy_mean,test_accuracy_sd,test_accuracy_seeds,accuracy_difference,accuracy_difference_low,accuracy_difference_high,accuracy_p,accuracy_p_holm,accuracy_probability_better,accuracy_pairs,accuracy_verdict,step_seconds,step_seconds_low,step_seconds_high,samples_per_second,samples_per_second_low,samples_per_second_high,data_seconds,forward_seconds,backward_seconds,unscale_seconds,update_seconds,train_time_ratio,train_time_ratio_low,train_time_ratio_high,peak_memory_bytes,weights_bytes,master_weights_bytes,gradients_bytes,optimizer_bytes,activations_bytes,train_memory_ratio,step_operations,operations_per_second,product_peak,share_of_peak,step_joules,power_watts,inference_batch,inference_batch_seconds,inference_batch_seconds_low,inference_batch_seconds_high,inference_time_ratio,inference_time_ratio_low,inference_time_ratio_high,inference_peak_bytes,inference_weights_bytes,inference_memory_ratio,census_elements,overflow,underflow,subnormal,nan,weight_updates,lost_updates,weight_gradients,zero_gradients,subnormal_gradients,infinite_gradients,nan_gradients,steps,skipped_steps
    digits,fp32,"params=f32,compute=f32,reduce=f32,scale=none",true,false,mantissa,3,3,0,0,0.9608333333333333,0.00225462487641142,3,,,,,,,,,0.0042,0.004116,0.004326,30476.190476190477,29866.666666666668,31390.47619047619,0.00021,0.00168,0.00189,0.00021,0.00042,,,,4638720,1105920,0,1105920,1105920,1320960,,1200000000,285714285714.2857,400000000000,0.7142857142857143,,,256,0.0011,0.001078,0.0011330000000000001,,,,1976320,1105920,,22800000,0,0,0,0,180000000,0,180000000,1000,0,0,0,720,0
    digits,fp16-mixed,"params=f32,compute=f16,reduce=f32,scale=static:65536",false,false,mantissa,3,3,0,0,0.9608333333333333,0.0015275252316519481,3,0.00000000000000003700743415417188,-0.001999999999999963,0.0015000000000000371,0.25,1,0.5,3,inconclusive,0.0057540000000000004,0.00563892,0.0059266200000000005,22245.39450816823,21800.486618004863,22912.756343413275,0.00028770000000000005,0.0023016000000000004,0.0025893,0.00028770000000000005,0.0005754000000000001,1.37,1.3426,1.4111000000000002,3993600,552960,1105920,552960,1105920,675840,0.8609271523178808,1200000000,208550573514.07715,800000000000,0.2606882168925964,,,256,0.0015070000000000003,0.0014768600000000002,0.0015522100000000003,1.37,1.3426,1.4111000000000002,988160,552960,0.5,22800000,83,5507,11014,0,180000000,28700,180000000,1000,4100,52,0,720,6
    digits,bf16-mixed,"params=f32,compute=bf16,reduce=f32,scale=none",false,false,mantissa,3,3,0,0,0.9604333333333334,0.0021548395145192115,3,-0.00039999999999999297,-0.002399999999999993,0.001100000000000007,0.25,1,0.5,3,inconclusive,0.0021839999999999997,0.00214032,0.0022495199999999996,58608.058608058614,57435.897435897445,60366.30036630038,0.0001092,0.0008736,0.0009827999999999998,0.0001092,0.0002184,0.52,0.5096,0.5356000000000001,3993600,552960,1105920,552960,1105920,675840,0.8609271523178808,1200000000,549450549450.5495,800000000000,0.6868131868131869,,,256,0.000572,0.00056056,0.00058916,0.52,0.5096,0.5356000000000001,988160,552960,0.5,22800000,0,4,8,0,180000000,21,180000000,1000,3,0,0,720,0
    digits,fp16-true,"params=f32,compute=f16,reduce=f32,scale=none",false,false,mantissa,3,2,1,0,0.8238333333333333,0.18173492601405306,3,-0.13699999999999998,-0.13899999999999998,-0.13549999999999998,0.25,1,0.5,3,inconclusive,0.004704,0.00460992,0.00484512,27210.884353741498,26666.666666666668,28027.210884353743,0.0002352,0.0018816,0.0021168,0.0002352,0.0004704,1.12,1.0976000000000001,1.1536000000000002,3993600,552960,1105920,552960,1105920,675840,0.8609271523178808,1200000000,255102040816.32654,800000000000,0.31887755102040816,,,256,0.0012320000000000002,0.0012073600000000002,0.0012689600000000002,1.12,1.0976000000000001,1.1536000000000002,988160,552960,0.5,22800000,1440,282100,564200,0,180000000,1470000,180000000,1000,210000,900,0,611,0
    digits,e5m2,"params=f32,compute=bf16,reduce=f32,scale=none",false,true,mantissa,3,3,0,0,0.9508333333333333,0.00225462487641142,3,-0.010000000000000009,-0.012000000000000009,-0.00850000000000001,0.25,1,0.5,3,inconclusive,,,,,,,,,,,,,,,,,,,,,,,,,,,,256,,,,,,,988160,552960,0.5,22800000,26,73883,147766,0,180000000,385000,180000000,1000,55000,17,0,720,0
    "##);
}

#[test]
fn the_compact_tables_have_one_line_per_variant() {
    let experiments = [loaded()];
    let report = Report::of(&experiments);
    insta::assert_snapshot!(markdown::compact(&report), @r##"
    **Use bf16-mixed.** It trains 1.92× as fast as fp32.

    - e5m2: emulated, so the numerics are exact and the times would say nothing of hardware; none are given.

    | variant | accuracy | speed | memory | overflow | underflow | skipped steps | runs |
    | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
    | fp32 | 96.08% | 1.00× | 4.42 MiB | 0 | 0 | 0 of 720 | 3 of 3 |
    | fp16-mixed | ±0.00 pp, inconclusive | 0.73× | −14% | 83 | 5,507 | 6 of 720 | 3 of 3 |
    | bf16-mixed | −0.04 pp, inconclusive | 1.92× | −14% | 0 | 4 | 0 of 720 | 3 of 3 |
    | fp16-true | −13.70 pp, inconclusive | 0.89× | −14% | 1,440 | 282,100 | 0 of 611 | 2 of 3, 1 diverged |
    | e5m2 (emulated) | −1.00 pp, inconclusive | — | — | 26 | 73,883 | 0 of 720 | 3 of 3 |

    cpu · Example Processor 9000 · 2 threads · mantissa 0.1.0 · 2026-01-02T03:04:05Z
    "##);
    insta::assert_snapshot!(latex::compact(&report.table), @r##"
    % \usepackage{booktabs}; needs XeLaTeX or LuaLaTeX, or pdfLaTeX since 2018.
    \begin{tabular}{lrrr}
    \toprule
    variant & accuracy & speed & memory \\
    \midrule
    {}fp32 & 96.08\% & 1.00$\times$ & 4.42 MiB \\
    {}fp16-mixed & $\pm$0.00 pp, inconclusive & 0.73$\times$ & $-$14\% \\
    {}bf16-mixed & $-$0.04 pp, inconclusive & 1.92$\times$ & $-$14\% \\
    {}fp16-true & $-$13.70 pp, inconclusive & 0.89$\times$ & $-$14\% \\
    {}e5m2 (emulated) & $-$1.00 pp, inconclusive & --- & --- \\
    \bottomrule
    \end{tabular}
    "##);
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
    insta::assert_snapshot!(names.join("\n"), @r##"
    results.csv
    results.tex
    results-compact.tex
    pull-request.md
    summary.md
    figures/accuracy-difference.png
    figures/accuracy-difference.svg
    figures/accuracy-difference-dark.png
    figures/accuracy-difference-dark.svg
    figures/trade-off.png
    figures/trade-off.svg
    figures/trade-off-dark.png
    figures/trade-off-dark.svg
    figures/step-time.png
    figures/step-time.svg
    figures/step-time-dark.png
    figures/step-time-dark.svg
    figures/memory.png
    figures/memory.svg
    figures/memory-dark.png
    figures/memory-dark.svg
    figures/inference.png
    figures/inference.svg
    figures/inference-dark.png
    figures/inference-dark.svg
    figures/loss.png
    figures/loss.svg
    figures/loss-dark.png
    figures/loss-dark.svg
    figures/accuracy.png
    figures/accuracy.svg
    figures/accuracy-dark.png
    figures/accuracy-dark.svg
    figures/loss-scale.png
    figures/loss-scale.svg
    figures/loss-scale-dark.png
    figures/loss-scale-dark.svg
    figures/overflow-underflow.png
    figures/overflow-underflow.svg
    figures/overflow-underflow-dark.png
    figures/overflow-underflow-dark.svg
    figures/exponents.png
    figures/exponents.svg
    figures/exponents-dark.png
    figures/exponents-dark.svg
    figures/exponents-by-layer.png
    figures/exponents-by-layer.svg
    figures/exponents-by-layer-dark.png
    figures/exponents-by-layer-dark.svg
    report.html
    "##);
}

/// The files below `folder`, by their paths in it.
fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![folder.to_owned()];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(store::list(&path).unwrap());
        } else {
            found.push(path.strip_prefix(folder).unwrap().display().to_string());
        }
    }
    found.sort();
    found
}

#[test]
fn each_run_has_one_event_file_after_any_number_of_calls() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("tensorboard");
    let mut experiment = loaded();
    save(dir.path(), &experiment);
    let written = tensorboard(dir.path()).unwrap();
    assert_eq!(tensorboard(dir.path()).unwrap(), written);
    let mut listed: Vec<String> = written
        .iter()
        .map(|path| path.strip_prefix(&folder).unwrap().display().to_string())
        .collect();
    listed.sort();
    assert_eq!(files_below(&folder), listed);
    assert_eq!(listed.len() as u64, 6 * fixture::SEEDS);
    assert_eq!(listed[0], "bf16-mixed/seed-0/events.out.tfevents.1767323045.mantissa");

    // Later results, of fewer runs: what was there of this program is gone, what somebody else put there is not.
    store::write(&folder.join("fp32/seed-0/events.out.tfevents.1.theirs"), b"").unwrap();
    experiment.results.environment.started = "2026-01-02T03:04:06Z".to_owned();
    experiment.results.variants.truncate(1);
    experiment.results.controls.clear();
    save(dir.path(), &experiment);
    tensorboard(dir.path()).unwrap();
    insta::assert_snapshot!(files_below(&folder).join("\n"), @r##"
    fp32/seed-0/events.out.tfevents.1.theirs
    fp32/seed-0/events.out.tfevents.1767323046.mantissa
    fp32/seed-1/events.out.tfevents.1767323046.mantissa
    fp32/seed-2/events.out.tfevents.1767323046.mantissa
    "##);
    assert_eq!(store::list(&folder).unwrap(), [folder.join("fp32")]);
}

#[test]
fn event_files_stay_in_their_folder() {
    for name in ["..", ".", "", "/", "../outside", "a/b", "fp32/", "fp32/../../../outside"] {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("a/results");
        let experiment = renamed(name);
        save(&inside, &loaded());
        let results = serde_json::to_vec(&experiment.results).unwrap();
        store::write(&inside.join("results.json"), &results).unwrap();
        let record = &experiment.records.iter().find(|record| record.variant == name).unwrap();
        let record = serde_json::to_vec(record).unwrap();
        store::write(&inside.join("runs/seed-0/record.json"), &record).unwrap();
        store::write(&inside.join("seed-0/record.json"), &record).unwrap();
        let before = files_below(dir.path());
        let written = tensorboard(&inside).unwrap();
        assert_eq!(written.len() as u64, 5 * fixture::SEEDS, "{name:?}");
        assert!(written.iter().all(|path| path.starts_with(inside.join("tensorboard"))));
        let new = files_below(dir.path()).len() - before.len();
        assert_eq!(new, written.len(), "{name:?}");
    }
}

/// Width and height that an SVG declares.
fn declared_size(svg: &str) -> (u32, u32) {
    let number = |name: &str| {
        let (_, rest) = svg.split_once(&format!(" {name}=\"")).unwrap();
        rest.split('"').next().unwrap().parse().unwrap()
    };
    (number("width"), number("height"))
}

#[test]
fn pictures_decode_to_twice_the_size_of_the_drawing() {
    for figure in figures(&loaded()) {
        let file = draw::png(&figure, Theme::Light).unwrap();
        let mut reader = png::Decoder::new(file.as_slice()).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size()];
        let info = reader.next_frame(&mut pixels).unwrap();
        let (width, height) = declared_size(&svg(&figure));
        assert_eq!((info.width, info.height), (2 * width, 2 * height), "{}", figure.file);
        assert!(width == 960 && height >= 540, "{}: {width} x {height}", figure.file);
        let dark = pixels.chunks_exact(3).filter(|pixel| pixel.iter().all(|part| *part < 100));
        assert!(dark.count() > 1000, "{} is blank", figure.file);
    }
}

#[test]
fn a_legend_names_each_variant_once() {
    let loaded = loaded();
    let figures = figures(&loaded);
    for figure in figures.iter().filter(|f| ["loss", "exponents"].contains(&&*f.file)) {
        let svg = svg(figure);
        for variant in &loaded.results.variants {
            let text = format!(">\n{}\n</text>", variant.name);
            assert_eq!(svg.matches(&text).count(), 1, "{} in {}", variant.name, figure.file);
        }
    }
}

#[test]
fn a_hostile_name_stays_text_everywhere() {
    let hostile = renamed(HOSTILE);
    for figure in figures(&hostile) {
        let svg = svg(&figure);
        assert!(!svg.contains("<script"), "{}", figure.file);
        assert!(!interactive::json(&figure).contains("<script"), "{}", figure.file);
        assert!(svg.contains("&lt;script&gt;") || figure.file == "loss-scale", "{}", figure.file);
    }
    let markdown = summary(&hostile);
    assert!(!markdown.contains("<script"));
    let row = markdown.lines().find(|line| line.starts_with("| &lt;script")).unwrap();
    assert!(row.starts_with("| &lt;script&gt;alert(1)&lt;/script&gt;\\|\"x\" |"), "{row}");
    let mut reader = ::csv::Reader::from_reader(sheet(&hostile).into_bytes().leak() as &[u8]);
    let names: Vec<String> = reader.records().map(|r| r.unwrap()[1].to_owned()).collect();
    assert_eq!(names[2], HOSTILE);

    // A name with a slash is no folder: the records are looked for nowhere, and the page still stands.
    let dir = tempfile::tempdir().unwrap();
    let mut alone = hostile.clone();
    alone.records.clear();
    save(dir.path(), &alone);
    render(dir.path()).unwrap();
    let page = text(&dir.path().join("report.html"));
    assert!(!page.contains("<script>alert"));
    assert!(page.contains("&#60;script&#62;alert(1)") || page.contains("&lt;script&gt;alert(1)"));
    assert!(page.contains("cannot be a folder"));
}

#[test]
fn a_name_cannot_command_a_terminal() {
    let table = terminal(&renamed("a\u{1b}]0;b\u{7}").results, Verbosity::Full, 140);
    assert!(table.chars().all(|c| c == '\n' || !c.is_control()));
}

#[test]
fn what_cannot_be_seen_in_a_name_is_written_out_for_people() {
    let mut hostile = renamed("a\u{202e}b\u{9b}");
    hostile.results.environment.notes.push("c\u{2066}d\u{7f}".to_owned());
    let svgs = figures(&hostile).iter().map(svg).collect::<String>();
    let (_dir, page) = rendered(&hostile);
    for (said, name) in [
        (terminal(&hostile.results, Verbosity::Full, 140), "a\\u{202e}b\\u{9b}"),
        (summary(&hostile), "a\\\\u{202e}b\\\\u{9b}"),
        (svgs, "a\\u{202e}b\\u{9b}"),
        (page, "a\\u{202e}b\\u{9b}"),
    ] {
        let found = said.find(['\u{202e}', '\u{9b}', '\u{2066}', '\u{7f}']);
        assert_eq!(found.map(|at| said[at..].chars().take(9).collect::<String>()), None);
        assert!(said.contains(name), "{name}");
    }
}

#[test]
fn the_page_needs_nothing_from_outside() {
    let (_dir, page) = rendered(&loaded());
    for outside in ["src=\"", "href=\"http", "url(", "@import", "<link"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert_eq!(page.matches("<div class=\"card\"").count(), figures(&loaded()).len());
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
    assert!(!terminal(&poor.results, Verbosity::Full, 140).is_empty(), "{name}");
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
fn runs_that_failed_alike_are_told_once_and_on_one_line() {
    let change = |loaded: &mut Loaded| {
        for run in &mut loaded.results.variants[2].runs {
            run.status = Status::Failed;
            let reason = "out of memory.\n   0: main\n".to_owned();
            run.failure = Some(Failure { step: 7, layer: None, reason });
        }
    };
    let said =
        ["bf16-mixed, seeds 0, 1 and 2, failed at step 7: out of memory.", "No variant trains"];
    check_degenerate("failed", change, &said);
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
fn results_of_candle_say_so_at_each_variant_and_claim() {
    let change = |loaded: &mut Loaded| loaded.results.engine = Engine::Candle;
    check_degenerate("of candle", change, &["bf16-mixed (candle)"]);
    let mut of_candle = loaded();
    change(&mut of_candle);
    let page = summary(&of_candle);
    assert!(page.contains("| e5m2<br>emulated<br>candle |"));
    assert!(page.contains("| 83<br>3.6e-4%<br>weights alone | 5,507<br>0.024%<br>weights alone |"));
    assert!(page.contains("Of candle's operations only the rounding of weights is counted"));
    let shown = terminal(&of_candle.results, Verbosity::Summary, 140);
    assert!(shown.contains("e5m2 (emulated, candle)"), "{shown}");
}

/// Of two rejected steps: where the most values overflowed comes first, and over three places the rest is counted.
#[test]
fn rejected_steps_say_where_they_overflowed() {
    let mut loaded = loaded();
    let record = loaded.records.iter_mut().find(|record| record.variant == "fp16-mixed").unwrap();
    let of = |layer: &str, role: Role, overflow: u64| {
        let mut census = record.census[0].clone();
        (census.layer, census.role) = (layer.to_owned(), role);
        census.counts = Some(Counts { elements: 10_000, overflow, ..Counts::default() });
        census
    };
    let (sum, output) = (Role::Activations, Role::WeightGradients);
    let settling = vec![of("block2.sum", sum, 5000), of("block1.sum", sum, 0)];
    let rejected = vec![
        of("block2.sum", sum, 348),
        of("output", output, 7),
        of("a", sum, 6),
        of("b", sum, 5),
        of("c", sum, 4),
    ];
    (record.settling_census, record.rejected_census) = (settling, rejected);
    let said = "fp16-mixed: overflow on rejected steps in block2.sum (activations, 5,348), output (weight gradients, 7), \
                a (activations, 6) and 2 others.";
    assert!(summary(&loaded).contains(said), "{}", summary(&loaded));
}

/// As of a program that does not install the counting allocator.
#[test]
fn an_experiment_without_memory_has_dashes_in_its_place() {
    let change = |loaded: &mut Loaded| {
        for variant in &mut loaded.results.variants {
            variant.memory = None;
            if let Some(inference) = &mut variant.inference {
                inference.peak_bytes = None;
            }
            if let Some(against) = &mut variant.against_baseline {
                against.train_memory_ratio = None;
                against.inference_memory_ratio = None;
            }
        }
    };
    check_degenerate("without memory", change, &["; memory not measured"]);
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

/// With more than 35 two variants would look alike, and a picture of thousands would take the memory of a machine.
#[test]
fn figures_show_the_first_variants_and_tables_all() {
    let mut many = loaded();
    for number in 0..100 {
        let mut variant = many.results.variants[1].clone();
        variant.name = format!("many-{number}");
        let mut plan = many.results.plan.variants[1].clone();
        plan.name.clone_from(&variant.name);
        many.results.plan.variants.push(plan);
        many.results.variants.push(variant);
    }
    let few = figures(&loaded());
    for (figure, few) in figures(&many).iter().zip(&few) {
        let note = "The first 35 of 105 variants are drawn; the tables hold them all.";
        assert_eq!(figure.notes.last().unwrap(), note, "{}", figure.file);
        assert!(!few.notes.iter().any(|note| note.contains("are drawn")), "{}", figure.file);
        let svg = svg(figure);
        assert!(!svg.contains("many-30") && !svg.contains("many-99"), "{}", figure.file);
        assert!(declared_size(&svg).1 < 3000, "{}: {:?}", figure.file, declared_size(&svg));
    }
    for text in [summary(&many), sheet(&many), terminal(&many.results, Verbosity::Full, 140)] {
        assert!(text.contains("many-99"));
    }
    let looks: Vec<_> = (0..figure::MOST_DRAWN).map(figure::Look::of).collect();
    for (index, look) in looks.iter().enumerate() {
        assert!(!looks[..index].contains(look), "{look:?}");
    }
}

#[test]
fn the_grid_shows_the_first_layers() {
    let mut deep = loaded();
    for record in &mut deep.records {
        let census = record.census[0].clone();
        let layer = |number| LayerCensus { layer: format!("layer.{number}"), ..census.clone() };
        record.census = (0..3000).map(layer).collect();
    }
    let grid = figures(&deep).into_iter().find(|f| f.file == "overflow-underflow").unwrap();
    let note = "The first 200 of 3,000 layers are drawn; the page lists them all.";
    assert!(grid.notes.iter().any(|n| n == note), "{:?}", grid.notes);
    assert_eq!(grid.panels[0].y.ticks.len(), 200);
}

#[test]
fn the_figures_of_a_report_are_those_that_are_declared() {
    let files = |loaded: &Loaded| -> Vec<String> {
        figures(loaded).iter().map(|figure| figure.file.to_string()).collect()
    };
    assert_eq!(files(&serving::with_serving()), FIGURES);
    let without: Vec<&str> = FIGURES.into_iter().filter(|name| *name != "serving").collect();
    assert_eq!(files(&loaded()), without, "no language model was served");
}

/// Names and texts of a results file as a person reads them: nothing commands a terminal, turns the line or hides.
#[test]
fn characters_that_are_not_seen_are_shown_escaped() {
    let name = "a\u{1b}[31m\u{202e}b\u{200b}\u{9b}\tc";
    let mut hostile = renamed(name);
    hostile.label = name.to_owned();
    hostile.results.experiment = name.to_owned();
    hostile.results.environment.device_name = name.to_owned();
    hostile.results.claims[0].threshold = name.to_owned();
    for record in &mut hostile.records {
        record.census[0].layer = name.to_owned();
    }
    // A name that can be no folder: no records are read back.
    let dir = tempfile::tempdir().unwrap();
    let alone = Loaded { records: Vec::new(), ..hostile.clone() };
    save(dir.path(), &alone);
    render(dir.path()).unwrap();
    let page = text(&dir.path().join("report.html"));
    let (page, _) = page.split_once("<script id=\"dark\"").unwrap();
    let table = Table::of_one(&hostile.results, &hostile.records, None);
    let mut texts =
        vec![summary(&hostile), sheet(&hostile), latex::render(&table), page.to_owned()];
    texts.extend([latex::compact(&table), markdown::compact(&Report::of(&[hostile.clone()]))]);
    texts.push(terminal(&hostile.results, Verbosity::Full, 140));
    for figure in figures(&hostile) {
        texts.extend([svg(&figure), interactive::json(&figure)]);
    }
    for text in &texts {
        let unseen = |c: &char| {
            !matches!(c, '\n') && !crate::formatting::printable(&c.to_string()).starts_with(*c)
        };
        assert_eq!(text.chars().find(unseen), None, "{}", &text[..300.min(text.len())]);
    }
    let escaped = r"a\u{1b}[31m\u{202e}b\u{200b}\u{9b}\u{9}c";
    let sheet = sheet(&hostile);
    let mut reader = ::csv::Reader::from_reader(sheet.as_bytes());
    let row = reader.records().nth(2).unwrap().unwrap();
    assert_eq!((&row[0], &row[1]), (escaped, escaped));
}

/// The experiments' columns too, where folders are compared.
#[test]
fn no_cell_of_the_sheet_is_a_formula() {
    let mut hostile = renamed("=cmd|' /C calc'!A0");
    hostile.label = "@SUM(1)".to_owned();
    hostile.results.variants[2].policy = "+1".to_owned();
    let table = Table::of_one(&hostile.results, &hostile.records, Some(&hostile.label));
    let sheet = csv::render(&table).unwrap();
    let mut reader = ::csv::Reader::from_reader(sheet.as_slice());
    let rows: Vec<::csv::StringRecord> = reader.records().map(|row| row.unwrap()).collect();
    assert_eq!((&rows[2][0], &rows[2][1], &rows[2][2]), ("'@SUM(1)", "'=cmd|' /C calc'!A0", "'+1"));
    for cell in rows.iter().flat_map(|row| row.iter()) {
        let is_formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
        assert!(!is_formula || cell.parse::<f64>().is_ok(), "{cell}");
    }
    // A difference below 0 is a number.
    let column = reader.headers().unwrap().iter().position(|h| h == "accuracy_difference").unwrap();
    assert!(rows[3][column].starts_with("-0.13"), "{}", &rows[3][column]);
}

#[test]
fn a_folder_is_called_by_the_end_of_its_path_that_no_other_has() {
    let dir = tempfile::tempdir().unwrap();
    let labels = |names: &[&str]| {
        let folders: Vec<PathBuf> = names.iter().map(|name| dir.path().join(name)).collect();
        load::labels(&folders)
    };
    assert_eq!(labels(&["a/digits"]), ["digits"]);
    assert_eq!(labels(&["a/digits", "a/mnist"]), ["digits", "mnist"]);
    assert_eq!(labels(&["a/b/x", "c/b/x", "d/x", "y"]), ["a/b/x", "c/b/x", "d/x", "y"]);
    // The same folder twice cannot be distinguished.
    let whole = dir.path().join("x").display().to_string();
    assert_eq!(labels(&["x", "x"]), [whole.clone(), whole]);
}

/// The same experiment on two machines, of which the second has one variant less.
#[test]
fn experiments_stand_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let folders = ["a/digits", "b/digits"].map(|name| dir.path().join(name));
    let mut second = loaded();
    second.results.environment.device_name = "Other Processor".to_owned();
    second.results.plan.variants.truncate(4);
    second.results.variants.truncate(4);
    second.records.retain(|record| record.variant != "e5m2");
    save(&folders[0], &loaded());
    save(&folders[1], &second);
    let out = dir.path().join("together");
    let written = render_together(&folders, &out).unwrap();
    assert!(written.iter().all(|path| path.is_file() && path.starts_with(&out)));

    // Folders of one name are distinguished by those above them.
    let labels = ["a/digits", "b/digits"];
    let sheet = text(&out.join("results.csv"));
    let mut reader = ::csv::Reader::from_reader(sheet.as_bytes());
    let names: Vec<(String, String)> =
        reader.records().map(|r| r.unwrap()).map(|r| (r[0].to_owned(), r[1].to_owned())).collect();
    let of = |label: &str, variants: &[&str]| -> Vec<(String, String)> {
        variants.iter().map(|variant| (label.to_owned(), (*variant).to_owned())).collect()
    };
    let variants = ["fp32", "fp16-mixed", "bf16-mixed", "fp16-true", "e5m2"];
    assert_eq!(names, [of(labels[0], &variants), of(labels[1], &variants[..4])].concat());

    let (page, summary) = (text(&out.join("report.html")), text(&out.join("summary.md")));
    for words in ["Other Processor", "processor (differs)", &format!("{} · fp16-true", labels[1])]
    {
        assert!(page.contains(words), "{words}");
    }
    assert_eq!(summary.matches("Use bf16-mixed.").count(), 2);
    // No accuracy is compared across them: each row's baseline is its own experiment's, in the summary and in the comparison.
    assert_eq!(page.matches("class=\"baseline\"").count(), 4);
    // Times and memory are, by policy: here both machines took the same.
    assert!(page.contains("÷ a/digits"));
    assert_eq!(page.matches("1.00× step time").count(), 4, "the second machine's variants");
    assert_eq!(summary.matches("1.00× step time<br>1.00× memory").count(), 4);
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
    assert_eq!(read.records.len() as u64, 5 * fixture::SEEDS);
    insta::assert_snapshot!(read.notes.join("\n"), @r##"
    The record of fp32, seed 0, is not shown: runs/fp32/seed-0/record.json is missing.
    The record of fp32, seed 1, is not shown: runs/fp32/seed-1/record.json cannot be read: cut short: EOF while parsing a value at line 1 column 11.
    The record of fp32, seed 2, is not shown: runs/fp32/seed-2/record.json belongs to bf16-mixed, seed 2.
    "##);
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
    let (error, cut) = refusal(Some(&whole[..60]));
    assert!(matches!(error, ReportError::Invalid { .. }));
    let (error, empty) = refusal(Some(b""));
    assert!(matches!(error, ReportError::Invalid { .. }));
    let (error, newer) = refusal(Some(b"{\"schema\": 2, \"more\": []}"));
    assert!(matches!(error, ReportError::Newer { schema: 2, .. }));
    let (error, other) = refusal(Some(b"{\"name\": \"x\"}"));
    assert!(matches!(error, ReportError::Invalid { .. }));
    let (error, binary) = refusal(Some(b"\x89PNG\r\n"));
    assert!(matches!(error, ReportError::Invalid { .. }));
    let (error, half) = refusal(Some(b"{\"schema\": 1}"));
    assert!(matches!(error, ReportError::Invalid { .. }));
    let edited = |place: &str, value: &str| {
        let mut file = serde_json::to_value(loaded().results).unwrap();
        *file.pointer_mut(place).unwrap() = "edited".into();
        refusal(Some(file.to_string().replace("\"edited\"", value).as_bytes())).1
    };
    // How long a whole file is does not matter here.
    let without_column = |shown: String| {
        let (start, end) = shown.split_once(" column ").unwrap();
        format!("{start} column N{}", end.trim_start_matches(|c: char| c.is_ascii_digit()))
    };
    let word = without_column(edited("/variants/1/runs/0/seed", "\"x\""));
    let nan = without_column(edited("/variants/0/train/step_seconds/value", "NaN"));
    let above = edited("/variants/2/runs/1/test_accuracy", "96.2");
    let two = without_column(refusal(Some(&[&whole[..], b"{}"].concat())).1);
    // With a stack copied at each bracket this would take minutes.
    let brackets = refusal(Some("[".repeat(400_000).as_bytes())).1;
    let all = [missing, cut, empty, newer, other, binary, half, word, nan, above, two, brackets];
    insta::assert_snapshot!(all.join("\n"), @r##"
    results.json: not found; give the folder that `mantissa experiment` wrote with --out
    results.json: not a valid results file: cut short: EOF while parsing a string at line 1 column 60; give the folder that `mantissa experiment` wrote; if this is one, delete the file and run the experiment again, which keeps the runs that are there
    results.json: not a valid results file: cut short: EOF while parsing a value at line 1 column 0; give the folder that `mantissa experiment` wrote; if this is one, delete the file and run the experiment again, which keeps the runs that are there
    results.json: schema 2 is newer than this program's 1; use the mantissa that wrote it, or a newer one
    results.json: not a valid results file: missing field `schema` at line 1 column 13; give the folder that `mantissa experiment` wrote; if this is one, delete the file and run the experiment again, which keeps the runs that are there
    results.json: not a valid results file: expected value at line 1 column 1; give the folder that `mantissa experiment` wrote; if this is one, delete the file and run the experiment again, which keeps the runs that are there
    results.json: not a valid results file: missing field `experiment` at line 1 column 13; give the folder that `mantissa experiment` wrote; if this is one, delete the file and run the experiment again, which keeps the runs that are there
    results.json: not a valid results file: variants[1].runs[0].seed: invalid type: string "x", expected u64 at line 1 column N; give the folder that `mantissa experiment` wrote; if this is one, delete the file and run the experiment again, which keeps the runs that are there
    results.json: not a valid results file: variants[0].train.step_seconds.value: expected value at line 1 column N; give the folder that `mantissa experiment` wrote; if this is one, delete the file and run the experiment again, which keeps the runs that are there
    results.json: not a valid results file: variants[2].runs[1].test_accuracy is 96.2, outside 0 to 1; give the folder that `mantissa experiment` wrote; if this is one, delete the file and run the experiment again, which keeps the runs that are there
    results.json: not a valid results file: trailing characters at line 1 column N; give the folder that `mantissa experiment` wrote; if this is one, delete the file and run the experiment again, which keeps the runs that are there
    results.json: not a valid results file: [0]: invalid type: sequence, expected u32 at line 1 column 1; give the folder that `mantissa experiment` wrote; if this is one, delete the file and run the experiment again, which keeps the runs that are there
    "##);
}

/// One census step saw nothing, and every step's gradients tell that others did not stay in range.
/// Side by side, the colour of a point is the policy and its shape the experiment.
#[test]
fn colours_are_policies_and_shapes_are_experiments() {
    let [first, second] = ["a", "b"].map(|label| {
        let mut loaded = loaded();
        loaded.label = label.to_owned();
        // A variant's default policies differ: in the fixture some agree.
        for (variant, policy) in loaded.results.variants.iter_mut().zip(["1", "2", "3", "4", "5"]) {
            variant.policy = policy.to_owned();
        }
        loaded
    });
    let looks = |experiments: &[Loaded]| {
        let figures = figure::all(&Table::of(experiments));
        let loss = figures.into_iter().find(|figure| figure.file == "loss").unwrap();
        let looks = loss.legend.into_iter().filter_map(|key| match key.swatch {
            figure::Swatch::Line(look) => Some(look),
            _ => None,
        });
        looks.collect::<Vec<_>>()
    };
    let together = looks(&[first.clone(), second]);
    let (a, b) = together.split_at(5);
    for (index, (a, b)) in a.iter().zip(b).enumerate() {
        assert_eq!(a.colour, b.colour, "{index}");
        assert_ne!((a.shape, a.dash), (b.shape, b.dash), "{index}");
    }
    assert!(a.iter().all(|look| look.shape == a[0].shape), "one machine, one shape");
    // Alone, variants differ in all.
    let alone = looks(&[first]);
    assert_eq!(alone, (0..5).map(figure::Look::of).collect::<Vec<_>>());
}

#[test]
fn a_sample_without_overflow_is_not_told_as_the_whole() {
    let mut loaded = loaded();
    for variant in &mut loaded.results.variants {
        variant.numerics = Numerics { gradients: variant.numerics.gradients, ..numerics(0, 0) };
    }
    let gradients = &mut loaded.results.variants[1].numerics.gradients;
    (gradients.infinite, gradients.nan) = (136, 2516);
    for record in &mut loaded.records {
        record.census_steps = vec![0];
    }
    let summary = summary(&loaded);
    for said in [
        "- Counted overflow: none on the one census step of each run, step 0.",
        "- Weight gradients that were not finite, over every step: fp16-mixed 136 infinite and 2,516 NaN",
    ] {
        assert!(summary.contains(said), "{said}\n{summary}");
    }
}

#[test]
fn overflow_while_the_loss_scale_settles_is_told_apart() {
    for (settling, settled, said) in [
        (121, 0, "fp16-mixed 121 (all while the loss scale settled)"),
        (121, 7, "fp16-mixed 128 (121 while the loss scale settled)"),
        (0, 7, "fp16-mixed 7."),
    ] {
        let mut loaded = loaded();
        for variant in &mut loaded.results.variants {
            variant.numerics = numerics(0, 0);
        }
        loaded.results.variants[1].numerics = numerics(settling, settled);
        let said = format!("- Counted overflow: {said}");
        let summary = summary(&loaded);
        assert!(summary.contains(&said), "{said}\n{summary}");
    }
}

/// A thousand values in a census, and overflow in steps before the first update and after it.
fn numerics(settling: u64, settled: u64) -> Numerics {
    let counts = |overflow| Counts { elements: 1000, overflow, ..Counts::default() };
    let (settling, settled) = (counts(settling), counts(settled));
    let evidence = Evidence { settling, settled, ..Evidence::default() };
    Numerics { activations: counts(0), evidence, ..Numerics::default() }
}
