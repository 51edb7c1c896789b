//! A report on a regression: the metric is the mean squared error, and lower is better.

use super::super::fixture::regression;
use super::{ReportError, Verbosity, figures, loaded, render_together, rendered, sheet};
use super::{summary, terminal, text};

#[expect(clippy::too_many_lines, reason = "a whole page")]
#[test]
fn the_page_is_about_the_error() {
    insta::assert_snapshot!(summary(&regression()), @r##"
    # digits

    cpu · Example Processor 9000 · 2 threads · mantissa 0.1.0 · 2026-01-02T03:04:05Z

    **No recommendation yet.** No variant is shown equivalent to fp32 yet; bf16-mixed trains 1.92× as fast as fp32 (1.87–1.96×) and needs 14% less memory; its test mean squared error is inconclusive (+0.0004, −0.001766 to +0.001783, 3 seeds).

    For now keep fp32: that bf16-mixed keeps its error is not shown yet; if memory is what you lack, fp16-mixed needs 14% less memory and trains 37% slower than fp32 (34–41%), and its error is not settled yet.

    Needed to decide: 3 more seeds (--seeds 6).

    - e5m2: emulated, so the numerics are exact and the times would say nothing of hardware; none are given.

    ## Comparison

    | variant | test mean squared error | step time | training memory | inference time | inference memory | overflow | underflow | updates rounded away | skipped steps | runs |
    | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
    | fp32<br>baseline | 0.03917 ± 0.002255 | 4.20 ms<br>286 GFLOP/s<br>71% of fastest | 4.42 MiB | 1.10 ms | 1.88 MiB | 0<br>0% | 0<br>0% | 0<br>0% | 0<br>0% | 3 of 3 |
    | fp16-mixed | 0.03917 ± 0.001528<br>±0<br>(−0.003674 to +0.002151)<br>inconclusive | 5.75 ms<br>1.37×<br>(1.34–1.41×)<br>209 GFLOP/s<br>26% of fastest | 3.81 MiB<br>0.86× | 1.51 ms<br>1.37×<br>(1.34–1.41×) | 965 KiB<br>0.50× | 83<br>3.6e-4% | 5,507<br>0.024% | 28,700<br>0.016% | 6<br>0.83% | 3 of 3 |
    | bf16-mixed | 0.03957 ± 0.002155<br>+0.0004<br>(−0.001766 to +0.001783)<br>inconclusive | 2.18 ms<br>0.52×<br>(0.51–0.54×)<br>549 GFLOP/s<br>69% of fastest | 3.81 MiB<br>0.86× | 572 µs<br>0.52×<br>(0.51–0.54×) | 965 KiB<br>0.50× | 0<br>0% | 4<br>1.8e-5% | 21<br>1.2e-5% | 0<br>0% | 3 of 3 |
    | fp16-true | 0.1762 ± 0.1817<br>+0.137<br>(−0.3191 to +0.9161)<br>inconclusive | 4.70 ms<br>1.12×<br>(1.10–1.15×)<br>255 GFLOP/s<br>32% of fastest | 3.81 MiB<br>0.86× | 1.23 ms<br>1.12×<br>(1.10–1.15×) | 965 KiB<br>0.50× | 1,440<br>0.0063% | 282,100<br>1.2% | 1,470,000<br>0.82% | 0<br>0% | 2 of 3<br>1 diverged |
    | e5m2<br>emulated | 0.04917 ± 0.002255<br>+0.01<br>(+0.01 to +0.01)<br>inconclusive | emulated:<br>no time | — | emulated:<br>no time | 965 KiB<br>0.50× | 26<br>1.1e-4% | 73,883<br>0.32% | 385,000<br>0.21% | 0<br>0% | 3 of 3 |

    ## What this shows

    - fp16-true, seed 2, diverged at step 130 in layer hidden.1: the loss is not finite.
    - fp16-true diverged in 1 of 3 runs: a rate with a 95% interval from 6.1% to 79%.
    - e5m2: emulated, so the numerics are exact and the times would say nothing of hardware; none are given.
    - bf16-mixed trains fastest on this machine: 1.92× as fast as fp32 (1.87–1.96×).
    - fp16-mixed: Test mean squared error ±0 against fp32 over 3 pairs: inconclusive, which does not mean that they are the same (p = 1.000). Training is 37% slower than fp32 (34–41%) and needs 14% less memory. Inference is 37% slower than fp32 (34–41%) and needs 50% less memory.
    - bf16-mixed: Test mean squared error +0.0004 against fp32 over 3 pairs: inconclusive, which does not mean that they are the same (p = 0.500). Training is 1.92× as fast as fp32 (1.87–1.96×) and needs 14% less memory. Inference is 1.92× as fast as fp32 (1.87–1.96×) and needs 50% less memory.
    - fp16-true: Test mean squared error +0.137 against fp32 over 3 pairs: inconclusive, which does not mean that they are the same (p = 0.250). Training is 12% slower than fp32 (10–15%) and needs 14% less memory. Inference is 12% slower than fp32 (10–15%) and needs 50% less memory.
    - e5m2: Test mean squared error +0.01 against fp32 over 3 pairs: inconclusive, which does not mean that they are the same (p = 0.250). Inference needs 50% less memory.
    - With 3 seeds no difference of error can reach p &lt; 0.05: the smallest p of a two-sided sign-flip test is then 0.25, and Holm's correction multiplies the least of 4 by 4. It takes at least 8 seeds to call a variant worse or better, and 6 to call it equivalent.
    - Counted overflow: fp16-mixed 83, fp16-true 1,440 and e5m2 26.
    - Counted underflow: fp16-mixed 5,507, bf16-mixed 4, fp16-true 282,100 and e5m2 73,883.
    - Counted updates rounded away: fp16-mixed 28,700, bf16-mixed 21, fp16-true 1,470,000 and e5m2 385,000.
    - fp16-mixed: 6 skipped steps, in steps 2–4.
    - Weight gradients that were not finite, over every step: fp16-mixed 52 infinite, fp16-true 900 infinite and e5m2 17 infinite. The updates of these steps were skipped.

    ## Claims

    | claim | variant | verdict | measured | threshold | needed to decide |
    | --- | --- | --- | --- | --- | --- |
    | train-time | fp16-mixed | did not hold | 1.37× (1.34 to 1.41) | step time ÷ FP32's at most 0.5 |  |
    | train-time | bf16-mixed | did not hold | 0.520× (0.510 to 0.536) | step time ÷ FP32's at most 0.5 |  |
    | train-time | fp16-true | did not hold | 1.12× (1.10 to 1.15) | step time ÷ FP32's at most 0.5 |  |
    | train-time | e5m2 | not measured | — | step time ÷ FP32's at most 0.5 | a device that computes in this format: emulated times say nothing |
    | train-memory | fp16-mixed | did not hold | 0.861× | peak training memory ÷ FP32's from 0.9 to 1.1 |  |
    | train-memory | bf16-mixed | did not hold | 0.861× | peak training memory ÷ FP32's from 0.9 to 1.1 |  |
    | train-memory | fp16-true | did not hold | 0.861× | peak training memory ÷ FP32's from 0.9 to 1.1 |  |
    | train-memory | e5m2 | not measured | — | peak training memory ÷ FP32's from 0.9 to 1.1 | the peak memory of both |
    | infer-memory | fp16-mixed | held | 0.500× | peak inference memory ÷ FP32's at most 0.55 |  |
    | infer-memory | bf16-mixed | held | 0.500× | peak inference memory ÷ FP32's at most 0.55 |  |
    | infer-memory | fp16-true | held | 0.500× | peak inference memory ÷ FP32's at most 0.55 |  |
    | infer-memory | e5m2 | held | 0.500× | peak inference memory ÷ FP32's at most 0.55 |  |
    | infer-time | fp16-mixed | did not hold | 1.37× (1.34 to 1.41) | inference time ÷ FP32's at most 0.55 |  |
    | infer-time | bf16-mixed | held | 0.520× (0.510 to 0.536) | inference time ÷ FP32's at most 0.55 |  |
    | infer-time | fp16-true | did not hold | 1.12× (1.10 to 1.15) | inference time ÷ FP32's at most 0.55 |  |
    | infer-time | e5m2 | not measured | — | inference time ÷ FP32's at most 0.55 | a device that computes in this format: emulated times say nothing |
    | accuracy-kept | fp16-mixed | open | ±0 (−0.003674 to +0.002151) | test mean squared error − FP32's equivalent within ±5% of FP32's, or better, and no run lost | at least 6 seeds needed, 8 to call one of 4 variants better or worse, 3 given |
    | bf16-robust | bf16-mixed | held | 7.16e−4× | overflow and underflow, share of values ÷ FP16's at most 0.5 (refuted from 1 on), and no larger share of steps skipped |  |
    | bf16-robust | e5m2 | did not hold | 13.2× | overflow and underflow, share of values ÷ FP16's at most 0.5 (refuted from 1 on), and no larger share of steps skipped |  |
    | master-weights |  | not measured | — | without master weights: a larger share of updates rounded away and a worse test mean squared error than with them | a variant with 16-bit parameters |
    | loss-scaling | fp16-true | held | 2.5% | underflow, share of gradient values, at least 1% |  |

    ## Figures

    ### Test mean squared error against the baseline

    ![Test mean squared error, variant − baseline. fp16-mixed: ±0 · too few seeds (3 of 6), 95% interval −0.003674 to +0.002151, 3 pairs, δ 0.00196; bf16-mixed: +0.0004 · too few seeds (3 of 6), 95% interval −0.001766 to +0.001783, 3 pairs, δ 0.00196; fp16-true: +0.137 · too few seeds (3 of 6), 95% interval −0.3191 to +0.9161, 3 pairs, δ 0.00196; e5m2: +0.01 · too few seeds (3 of 6), 95% interval +0.01 to +0.01, 3 pairs, δ 0.00196.](figures/accuracy-difference.png)

    Equivalent: the 90% interval lies within ±δ, and would after one more seed 5 standard deviations off. Better or worse: the 95% interval excludes 0, and p &lt; 0.05 after Holm's correction. The interval drawn is the 90% one of an equivalent variant, else the 95% one.

    ### Error vs. cost

    ![Error, speed and memory against the baseline. fp32: ±0, speedup 1.00×, memory saved 1.00×; fp16-mixed: ±0, speedup 0.73×, memory saved 1.16×; bf16-mixed: +0.0004, speedup 1.92×, memory saved 1.16×; fp16-true: +0.137, speedup 0.89×, memory saved 1.16×, 1 diverged; e5m2: +0.01, speedup not measured, memory saved not measured.](figures/trade-off.png)

    Whiskers: 95% intervals; one that reaches an edge goes on beyond it. On the Pareto front no other variant has both the higher gain and the lower error; that says nothing of whether a difference is significant.

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

    ### Test mean squared error

    ![Test mean squared error, mean ± standard deviation. fp32: 0.03917 ± 0.002255; fp16-mixed: 0.03917 ± 0.001528; bf16-mixed: 0.03957 ± 0.002155; fp16-true: 0.1762 ± 0.1817 · 1 diverged; e5m2: 0.04917 ± 0.002255.](figures/accuracy.png)

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

    - Test mean squared error: mean over the seeds ± standard deviation; below it the mean paired difference to the baseline with its 95% interval, and the verdict. Lower is better.
    - Step time: median of the timed blocks of this run; machines drift, so a time in seconds has no interval. × is variant ÷ baseline, paired by block, with its 95% interval; below 1 is less. FLOP/s: operations in the matrix products of a step ÷ its time; below them their share of this program's fastest matrix multiplication of that format, which is not the hardware's peak.
    - Overflow: finite before rounding, past the format's largest value after: infinite, NaN, or held at it. Underflow: not 0 before rounding, 0 after. Counted on census steps, and overflow on rejected steps too, over weights, activations and gradients; of candle's operations, over weights alone: what these round is not known. Settling: before a run's first update, while the loss scale comes down.
    - Updates rounded away: they were not 0, and left the weight as it was. They and skipped steps are counted on every step.
    - — means not measured, never 0.
    "##);
}

#[test]
fn the_terminal_is_about_the_error() {
    insta::assert_snapshot!(terminal(&regression().results, Verbosity::Summary, 100), @r##"
    No recommendation yet. No variant is shown equivalent to fp32 yet; bf16-mixed trains 1.92× as fast
    as fp32 (1.87–1.96×) and needs 14% less memory; its test mean squared error is inconclusive
    (+0.0004, −0.001766 to +0.001783, 3 seeds).
    For now keep fp32: that bf16-mixed keeps its error is not shown yet; if memory is what you lack,
    fp16-mixed needs 14% less memory and trains 37% slower than fp32 (34–41%), and its error is not
    settled yet.
    Needed to decide: 3 more seeds (--seeds 6).
    Note: e5m2: emulated, so the numerics are exact and the times would say nothing of hardware; none
    are given.

     variant                          error  speed    memory  overflow  underflow                runs
     fp32                           0.03917  1.00×  4.42 MiB         0          0              3 of 3
     fp16-mixed            ±0, inconclusive  0.73×      −14%        83      5,507              3 of 3
     bf16-mixed       +0.0004, inconclusive  1.92×      −14%         0          4              3 of 3
     fp16-true         +0.137, inconclusive  0.89×      −14%     1,440    282,100  2 of 3, 1 diverged
     e5m2 (emulated)    +0.01, inconclusive      —         —        26     73,883              3 of 3
    Against fp32: error on the test data, speed of training (above 1 is faster), and memory of training.
    — means not measured. The terminal is too narrow for: skipped steps, step time and samples/s.
    "##);
}

/// Nothing else that is written speaks of an accuracy, but for names of claims and files.
#[test]
fn no_page_speaks_of_an_accuracy() {
    let (dir, page) = rendered(&regression());
    // Figures keep their names, which addresses in the page have in them.
    let visible =
        page.replace("figure-accuracy", "").replace("id=\"accuracy", "").replace("#accuracy", "");
    let first = visible.split("<script").take(1);
    let scripts = visible.split("<script").skip(1);
    let others = scripts.filter_map(|script| Some(script.split_once("</script>")?.1));
    let body: String = first.chain(others).collect();
    assert!(body.contains("test mean squared error"));
    for found in body.match_indices("ccuracy").map(|(at, _)| &body[at.saturating_sub(40)..at + 20])
    {
        // Names, and what published claims say.
        let known = ["accuracy-kept", "figures/", "the test accuracy", "updates, and accuracy"];
        assert!(known.iter().any(|known| found.contains(known)), "{found}");
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
    let folders = [regression(), loaded()].map(|loaded| rendered(&loaded).0);
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
