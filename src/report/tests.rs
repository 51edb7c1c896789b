//! Tests of whole reports.

use std::path::Path;

use super::draw;
use super::fixture::{self, loaded, renamed, save};
use super::table::Table;
use super::{
    Loaded, ReportError, csv, figure, load, markdown, reading, render, tensorboard, terminal_table,
};
use crate::record::{Failure, Numerics, Status, VariantResult};
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
    insta::assert_snapshot!(terminal_table(&loaded().results), @r##"
    ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
     variant                    test             step   training        inference   inference   overflow   underflow        lost   skipped         runs 
                            accuracy             time     memory             time      memory                            updates     steps              
    ════════════════════════════════════════════════════════════════════════════════════════════════════════════════════════════════════════════════════
     fp32              96.08% ± 0.23          4.20 ms   4.42 MiB          1.10 ms    1.88 MiB          0           0           0         0       3 of 3 
     baseline                          (4.12–4.33 ms)              (1.08–1.13 ms)                     0%          0%          0%        0%              
                                          286 GFLOP/s                                                                                                   
                                          71% of peak                                                                                                   
    ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
     fp16-mixed        96.08% ± 0.15          5.75 ms   3.81 MiB          1.51 ms     965 KiB         83       5,507      28,700         6       3 of 3 
                            ±0.00 pp   (5.64–5.93 ms)      0.86×   (1.48–1.55 ms)       0.50×    3.6e-4%      0.024%      0.016%     0.83%              
                    (−0.20 to +0.15)            1.37×                       1.37×                                                                       
                        inconclusive     (1.34–1.41×)                (1.34–1.41×)                                                                       
                                          209 GFLOP/s                                                                                                   
                                          26% of peak                                                                                                   
    ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
     bf16-mixed        96.04% ± 0.22          2.18 ms   3.81 MiB           572 µs     965 KiB          0           4          21         0       3 of 3 
                            −0.04 pp   (2.14–2.25 ms)      0.86×     (561–589 µs)       0.50×         0%     1.8e-5%     1.2e-5%        0%              
                    (−0.24 to +0.11)            0.52×                       0.52×                                                                       
                        inconclusive     (0.51–0.54×)                (0.51–0.54×)                                                                       
                                          549 GFLOP/s                                                                                                   
                                          69% of peak                                                                                                   
    ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
     fp16-true        82.38% ± 18.17          4.70 ms   3.81 MiB          1.23 ms     965 KiB      1,440     282,100   1,470,000         0       2 of 3 
                           −13.70 pp   (4.61–4.85 ms)      0.86×   (1.21–1.27 ms)       0.50×    0.0063%        1.2%       0.82%        0%   1 diverged 
                  (−13.90 to −13.55)            1.12×                       1.12×                                                                       
                        inconclusive     (1.10–1.15×)                (1.10–1.15×)                                                                       
                                          255 GFLOP/s                                                                                                   
                                          32% of peak                                                                                                   
    ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
     e5m2              95.08% ± 0.23        emulated:          —        emulated:     965 KiB         26      73,883     385,000         0       3 of 3 
     emulated               −1.00 pp          no time                     no time       0.50×    1.1e-4%       0.32%       0.21%        0%              
                    (−1.20 to −0.85)                                                                                                                    
                        inconclusive                                                                                                                    
    ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
    "##);
}

#[test]
fn the_summary_reads_well() {
    insta::assert_snapshot!(summary(&loaded()), @r##"
    # digits

    cpu · Example Processor 9000 · 2 threads · mantissa 0.1.0 · 2026-01-02T03:04:05Z

    | variant | test accuracy | step time | training memory | inference time | inference memory | overflow | underflow | lost updates | skipped steps | runs |
    | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
    | fp32<br>baseline | 96.08% ± 0.23 | 4.20 ms<br>(4.12–4.33 ms)<br>286 GFLOP/s<br>71% of peak | 4.42 MiB | 1.10 ms<br>(1.08–1.13 ms) | 1.88 MiB | 0<br>0% | 0<br>0% | 0<br>0% | 0<br>0% | 3 of 3 |
    | fp16-mixed | 96.08% ± 0.15<br>±0.00 pp<br>(−0.20 to +0.15)<br>inconclusive | 5.75 ms<br>(5.64–5.93 ms)<br>1.37×<br>(1.34–1.41×)<br>209 GFLOP/s<br>26% of peak | 3.81 MiB<br>0.86× | 1.51 ms<br>(1.48–1.55 ms)<br>1.37×<br>(1.34–1.41×) | 965 KiB<br>0.50× | 83<br>3.6e-4% | 5,507<br>0.024% | 28,700<br>0.016% | 6<br>0.83% | 3 of 3 |
    | bf16-mixed | 96.04% ± 0.22<br>−0.04 pp<br>(−0.24 to +0.11)<br>inconclusive | 2.18 ms<br>(2.14–2.25 ms)<br>0.52×<br>(0.51–0.54×)<br>549 GFLOP/s<br>69% of peak | 3.81 MiB<br>0.86× | 572 µs<br>(561–589 µs)<br>0.52×<br>(0.51–0.54×) | 965 KiB<br>0.50× | 0<br>0% | 4<br>1.8e-5% | 21<br>1.2e-5% | 0<br>0% | 3 of 3 |
    | fp16-true | 82.38% ± 18.17<br>−13.70 pp<br>(−13.90 to −13.55)<br>inconclusive | 4.70 ms<br>(4.61–4.85 ms)<br>1.12×<br>(1.10–1.15×)<br>255 GFLOP/s<br>32% of peak | 3.81 MiB<br>0.86× | 1.23 ms<br>(1.21–1.27 ms)<br>1.12×<br>(1.10–1.15×) | 965 KiB<br>0.50× | 1,440<br>0.0063% | 282,100<br>1.2% | 1,470,000<br>0.82% | 0<br>0% | 2 of 3<br>1 diverged |
    | e5m2<br>emulated | 95.08% ± 0.23<br>−1.00 pp<br>(−1.20 to −0.85)<br>inconclusive | emulated:<br>no time | — | emulated:<br>no time | 965 KiB<br>0.50× | 26<br>1.1e-4% | 73,883<br>0.32% | 385,000<br>0.21% | 0<br>0% | 3 of 3 |

    ## What this shows

    - fp16-true, seed 2, diverged at step 130 in layer hidden.1: the loss is not finite.
    - fp16-true diverged in 1 of 3 runs: a rate with a 95% interval from 6.1% to 79%.
    - e5m2: emulated, so the numerics are exact and the times would say nothing of hardware; none are given.
    - The fastest to train on this machine is bf16-mixed, at 0.52× (0.51–0.54×) of the step time of fp32.
    - fp16-mixed: a training step takes 1.37× of the time of fp32 (1.34–1.41×): slower; training needs 0.86× of its memory; inference takes 1.37× of its time (1.34–1.41×): slower; inference needs 0.50× of its memory. Test accuracy ±0.00 pp against fp32 over 3 pairs: inconclusive, which does not mean that they are the same (p = 0.250, 1.000 after Holm's correction).
    - bf16-mixed: a training step takes 0.52× of the time of fp32 (0.51–0.54×): faster; training needs 0.86× of its memory; inference takes 0.52× of its time (0.51–0.54×): faster; inference needs 0.50× of its memory. Test accuracy −0.04 pp against fp32 over 3 pairs: inconclusive, which does not mean that they are the same (p = 0.250, 1.000 after Holm's correction).
    - fp16-true: a training step takes 1.12× of the time of fp32 (1.10–1.15×): slower; training needs 0.86× of its memory; inference takes 1.12× of its time (1.10–1.15×): slower; inference needs 0.50× of its memory. Test accuracy −13.70 pp against fp32 over 3 pairs: inconclusive, which does not mean that they are the same (p = 0.250, 1.000 after Holm's correction).
    - e5m2: inference needs 0.50× of its memory. Test accuracy −1.00 pp against fp32 over 3 pairs: inconclusive, which does not mean that they are the same (p = 0.250, 1.000 after Holm's correction).
    - With 3 seeds no difference of accuracy can reach p &lt; 0.05: the smallest p of a two-sided sign-flip test is then 0.25. It takes at least 6 seeds to call a variant worse or better.
    - Counted overflow: fp16-mixed 83, fp16-true 1,440 and e5m2 26.
    - Counted underflow: fp16-mixed 5,507, bf16-mixed 4, fp16-true 282,100 and e5m2 73,883.
    - Counted lost updates: fp16-mixed 28,700, bf16-mixed 21, fp16-true 1,470,000 and e5m2 385,000.
    - Counted skipped steps: fp16-mixed 6.

    ## Claims

    | claim | variant | verdict | measured | threshold | what would settle it |
    | --- | --- | --- | --- | --- | --- |
    | train-time | bf16-mixed | inconclusive | 0.520 (0.499 to 0.541) | step time ÷ baseline at most 0.5 | more timed blocks |

    ## Figures

    ### Training loss by step

    ![Training loss by step, mean over the seeds. fp32: from 2.34 to 0.0764; fp16-mixed: from 2.36 to 0.0964; bf16-mixed: from 2.38 to 0.116; fp16-true: from 2.40 to 0.138, 1 run not finite at the end; e5m2: from 2.42 to 0.156.](figures/loss.png)

    ### Time of one training step

    ![Time of one training step. fp32: 4.20 ms (4.12–4.33 ms); fp16-mixed: 5.75 ms (5.64–5.93 ms), 1.37× (1.34–1.41×) of the baseline; bf16-mixed: 2.18 ms (2.14–2.25 ms), 0.52× (0.51–0.54×) of the baseline; fp16-true: 4.70 ms (4.61–4.85 ms), 1.12× (1.10–1.15×) of the baseline; e5m2: emulated: no time.](figures/step-time.png)

    ### Peak memory of training

    ![Peak memory of training. fp32: 4.42 MiB (weights 1.05 MiB, master weights 0 B, gradients 1.05 MiB, optimizer 1.05 MiB, activations and work space 1.26 MiB); fp16-mixed: 3.81 MiB · 0.86× (weights 540 KiB, master weights 1.05 MiB, gradients 540 KiB, optimizer 1.05 MiB, activations and work space 660 KiB); bf16-mixed: 3.81 MiB · 0.86× (weights 540 KiB, master weights 1.05 MiB, gradients 540 KiB, optimizer 1.05 MiB, activations and work space 660 KiB); fp16-true: 3.81 MiB · 0.86× (weights 540 KiB, master weights 1.05 MiB, gradients 540 KiB, optimizer 1.05 MiB, activations and work space 660 KiB); e5m2: not measured.](figures/memory.png)

    ### Test accuracy

    ![Test accuracy, mean ± standard deviation. fp32: 96.08% ± 0.23; fp16-mixed: 96.08% ± 0.15; bf16-mixed: 96.04% ± 0.22; fp16-true: 82.38% ± 18.17 · 1 diverged; e5m2: 95.08% ± 0.23.](figures/accuracy.png)

    ### Overflow and underflow by role

    ![Overflow and underflow by role. fp32: weights 0 overflow and 0 underflow of 9,000,000, activations 0 overflow and 0 underflow of 2,400,000, activation gradients 0 overflow and 0 underflow of 2,400,000, weight gradients 0 overflow and 0 underflow of 9,000,000; fp16-mixed: weights 0 overflow and 41 underflow of 9,000,000, activations 5 overflow and 0 underflow of 2,400,000, activation gradients 26 overflow and 4,100 underflow of 2,400,000, weight gradients 52 overflow and 1,366 underflow of 9,000,000; bf16-mixed: weights 0 overflow and 0 underflow of 9,000,000, activations 0 overflow and 0 underflow of 2,400,000, activation gradients 0 overflow and 3 underflow of 2,400,000, weight gradients 0 overflow and 1 underflow of 9,000,000; fp16-true: weights 0 overflow and 2,100 underflow of 9,000,000, activations 90 overflow and 0 underflow of 2,400,000, activation gradients 450 overflow and 210,000 underflow of 2,400,000, weight gradients 900 overflow and 70,000 underflow of 9,000,000; e5m2: weights 0 overflow and 550 underflow of 9,000,000, activations 1 overflow and 0 underflow of 2,400,000, activation gradients 8 overflow and 55,000 underflow of 2,400,000, weight gradients 17 overflow and 18,333 underflow of 9,000,000.](figures/overflow-underflow.png)

    ### Loss scale and skipped steps

    ![Loss scale and skipped steps. fp16-mixed: loss scale 32768, 32768 and 32768 at the end, skipped steps 6 of 720, the first at step 2.](figures/loss-scale.png)

    ## How to read the table

    - Test accuracy: mean over the seeds ± standard deviation; below it the mean paired difference to the baseline in percentage points (pp) with its 95% interval, and the verdict.
    - Step time: median with its 95% interval; × is variant ÷ baseline, below 1 is less. FLOP/s: operations in the matrix products of a step ÷ its time; peak: the fastest large product of that format here.
    - Overflow: finite before rounding, infinite after. Underflow: not 0 before rounding, 0 after. Counted on census steps only, over weights, activations and gradients.
    - Lost updates: updates that were not 0 and left the weight as it was. Lost updates and skipped steps are counted on every step.
    - — means not measured, never 0.
    "##);
}

#[test]
fn the_sheet_holds_plain_numbers() {
    insta::assert_snapshot!(sheet(&loaded()), @r##"
    variant,policy,baseline,emulated,runs_planned,runs_completed,runs_diverged,runs_failed,test_accuracy_mean,test_accuracy_sd,test_accuracy_seeds,accuracy_difference,accuracy_difference_low,accuracy_difference_high,accuracy_p,accuracy_p_holm,accuracy_probability_better,accuracy_pairs,accuracy_verdict,step_seconds,step_seconds_low,step_seconds_high,samples_per_second,samples_per_second_low,samples_per_second_high,train_time_ratio,train_time_ratio_low,train_time_ratio_high,peak_memory_bytes,weights_bytes,master_weights_bytes,gradients_bytes,optimizer_bytes,activations_bytes,train_memory_ratio,step_operations,operations_per_second,product_peak,share_of_peak,step_joules,power_watts,inference_batch,inference_batch_seconds,inference_batch_seconds_low,inference_batch_seconds_high,inference_time_ratio,inference_time_ratio_low,inference_time_ratio_high,inference_peak_bytes,inference_weights_bytes,inference_memory_ratio,census_elements,overflow,underflow,subnormal,nan,weight_updates,lost_updates,weight_gradients,zero_gradients,subnormal_gradients,infinite_gradients,nan_gradients,steps,skipped_steps
    fp32,"params=f32,compute=f32,reduce=f32,scale=none",true,false,3,3,0,0,0.9608333333333333,0.00225462487641142,3,,,,,,,,,0.0042,0.004116,0.004326,30476.190476190477,29866.666666666668,31390.47619047619,,,,4638720,1105920,0,1105920,1105920,1320960,,1200000000,285714285714.2857,400000000000,0.7142857142857143,,,256,0.0011,0.001078,0.0011330000000000001,,,,1976320,1105920,,22800000,0,0,0,0,180000000,0,180000000,1000,0,0,0,720,0
    fp16-mixed,"params=f32,compute=f16,reduce=f32,scale=static:65536",false,false,3,3,0,0,0.9608333333333333,0.0015275252316519481,3,0.00000000000000003700743415417188,-0.001999999999999963,0.0015000000000000371,0.25,1,0.5,3,inconclusive,0.0057540000000000004,0.00563892,0.0059266200000000005,22245.39450816823,21800.486618004863,22912.756343413275,1.37,1.3426,1.4111000000000002,3993600,552960,1105920,552960,1105920,675840,0.8609271523178808,1200000000,208550573514.07715,800000000000,0.2606882168925964,,,256,0.0015070000000000003,0.0014768600000000002,0.0015522100000000003,1.37,1.3426,1.4111000000000002,988160,552960,0.5,22800000,83,5507,11014,0,180000000,28700,180000000,1000,4100,52,0,720,6
    bf16-mixed,"params=f32,compute=bf16,reduce=f32,scale=none",false,false,3,3,0,0,0.9604333333333334,0.0021548395145192115,3,-0.00039999999999999297,-0.002399999999999993,0.001100000000000007,0.25,1,0.5,3,inconclusive,0.0021839999999999997,0.00214032,0.0022495199999999996,58608.058608058614,57435.897435897445,60366.30036630038,0.52,0.5096,0.5356000000000001,3993600,552960,1105920,552960,1105920,675840,0.8609271523178808,1200000000,549450549450.5495,800000000000,0.6868131868131869,,,256,0.000572,0.00056056,0.00058916,0.52,0.5096,0.5356000000000001,988160,552960,0.5,22800000,0,4,8,0,180000000,21,180000000,1000,3,0,0,720,0
    fp16-true,"params=f32,compute=f16,reduce=f32,scale=none",false,false,3,2,1,0,0.8238333333333333,0.18173492601405306,3,-0.13699999999999998,-0.13899999999999998,-0.13549999999999998,0.25,1,0.5,3,inconclusive,0.004704,0.00460992,0.00484512,27210.884353741498,26666.666666666668,28027.210884353743,1.12,1.0976000000000001,1.1536000000000002,3993600,552960,1105920,552960,1105920,675840,0.8609271523178808,1200000000,255102040816.32654,800000000000,0.31887755102040816,,,256,0.0012320000000000002,0.0012073600000000002,0.0012689600000000002,1.12,1.0976000000000001,1.1536000000000002,988160,552960,0.5,22800000,1440,282100,564200,0,180000000,1470000,180000000,1000,210000,900,0,611,0
    e5m2,"params=f32,compute=bf16,reduce=f32,scale=none",false,true,3,3,0,0,0.9508333333333333,0.00225462487641142,3,-0.010000000000000009,-0.012000000000000009,-0.00850000000000001,0.25,1,0.5,3,inconclusive,,,,,,,,,,,,,,,,,,,,,,,256,,,,,,,988160,552960,0.5,22800000,26,73883,147766,0,180000000,385000,180000000,1000,55000,17,0,720,0
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
    summary.md
    figures/loss.png
    figures/loss.svg
    figures/step-time.png
    figures/step-time.svg
    figures/memory.png
    figures/memory.svg
    figures/accuracy.png
    figures/accuracy.svg
    figures/overflow-underflow.png
    figures/overflow-underflow.svg
    figures/loss-scale.png
    figures/loss-scale.svg
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
    assert_eq!(listed.len() as u64, 5 * fixture::SEEDS);
    assert_eq!(listed[0], "bf16-mixed/seed-0/events.out.tfevents.1767323045.mantissa");

    // Later results, of fewer runs: what was there of this program is gone, what somebody else put there is not.
    store::write(&folder.join("fp32/seed-0/events.out.tfevents.1.theirs"), b"").unwrap();
    experiment.results.environment.started = "2026-01-02T03:04:06Z".to_owned();
    experiment.results.variants.truncate(1);
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
        let record = &experiment.records_of(name).next().unwrap();
        let record = serde_json::to_vec(record).unwrap();
        store::write(&inside.join("runs/seed-0/record.json"), &record).unwrap();
        store::write(&inside.join("seed-0/record.json"), &record).unwrap();
        let before = files_below(dir.path());
        let written = tensorboard(&inside).unwrap();
        assert_eq!(written.len() as u64, 4 * fixture::SEEDS, "{name:?}");
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
    let loaded = loaded();
    for figure in figure::all(&loaded, &Table::of(&loaded.results)) {
        let file = draw::png(&figure).unwrap();
        let mut reader = png::Decoder::new(file.as_slice()).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size()];
        let info = reader.next_frame(&mut pixels).unwrap();
        let (width, height) = declared_size(&draw::svg(&figure).unwrap());
        assert_eq!((info.width, info.height), (2 * width, 2 * height), "{}", figure.file);
        assert_eq!((width, height), (960, 540), "{}", figure.file);
        let dark = pixels.chunks_exact(3).filter(|pixel| pixel.iter().all(|part| *part < 100));
        assert!(dark.count() > 1000, "{} is blank", figure.file);
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
    insta::assert_snapshot!(read.notes.join("\n"), @r##"
    The record of fp32, seed 0, is not shown: runs/fp32/seed-0/record.json is missing.
    The record of fp32, seed 1, is not shown: runs/fp32/seed-1/record.json cannot be read: EOF while parsing a value at line 1 column 11.
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
    insta::assert_snapshot!(all.join("\n"), @r##"
    results.json: not found; give the folder that `mantissa experiment` wrote with --out
    results.json: cut short (EOF while parsing a string
    results.json: cut short (EOF while parsing a value at line 1 column 0); copy the file again or run the experiment again
    results.json: schema 2 is newer than this program's 1; use the mantissa that wrote it, or a newer one
    results.json: not a results file of mantissa (missing field `schema` at line 1 column 13); give the folder that `mantissa experiment` wrote
    results.json: not a results file of mantissa (expected value at line 1 column 1); give the folder that `mantissa experiment` wrote
    results.json: not a results file of mantissa (missing field `experiment` at line 1 column 13); give the folder that `mantissa experiment` wrote
    "##);
}
