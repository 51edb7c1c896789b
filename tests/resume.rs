//! A results folder from outside: what is kept of it, what is refused, and that nothing is lost or mixed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod program_support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use mantissa::record::RunRecord;
use program_support::{EXPERIMENT, Place, RUNS, Running, TIMING, blocks, records, wait_for};
use serde_json::Value;

/// Calls that are refused: exit code 2, one line that holds each part, and nothing in the folder changes.
#[track_caller]
fn refused(place: &Place, more: &[&str], parts: &[&str]) {
    let before = place.snapshot(".");
    let call = place.experiment(more);
    assert_eq!(call.code, Some(2), "{}", call.stderr);
    assert_eq!((call.stdout.as_str(), call.stderr.lines().count()), ("", 1), "{}", call.stderr);
    for part in parts {
        assert!(call.stderr.contains(part), "{part}\n{}", call.stderr);
    }
    assert!(place.snapshot(".") == before, "something was changed");
}

#[test]
fn a_finished_experiment_is_shown_and_nothing_is_written() {
    let place = Place::new();
    let first = place.experiment(&["--tensorboard"]);
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    let before = place.snapshot("out");
    for arguments in [&[][..], &["--tensorboard"], &["--quiet"]] {
        let again = place.experiment(arguments);
        assert_eq!(again.code, Some(0), "{}", again.stderr);
        let table = first.stdout.split("report:").next().unwrap().trim_end();
        assert!(again.stdout.starts_with(table), "{}", again.stdout);
        let said = "every run was finished before, and nothing is trained; --force trains again\n";
        assert_eq!(again.stderr, if arguments == ["--quiet"] { "" } else { said });
        assert!(place.snapshot("out") == before, "{arguments:?} changed something");
    }

    // What is missing of the report is written, and nothing else.
    for name in ["out/report.html", "out/figures/loss.png", "out/summary.md"] {
        std::fs::remove_file(place.path(name)).unwrap();
        assert_eq!(place.experiment(&[]).code, Some(0));
        assert!(place.path(name).exists(), "{name}");
    }
    let names = |snapshot: &BTreeMap<PathBuf, _>| snapshot.keys().cloned().collect::<Vec<_>>();
    let after = place.snapshot("out");
    assert_eq!(names(&after), names(&before));
    let same = |name: &str| before.get(&place.path(name)) == after.get(&place.path(name));
    assert!(same("out/results.json") && same(&Place::record("fp32", 0)));

    let forced = place.experiment(&["--force"]);
    assert_eq!(forced.code, Some(0));
    assert!(forced.stderr.contains("[1/4] fp32, seed 0: "), "{}", forced.stderr);
    assert!(forced.stderr.contains("[4/4] "), "{}", forced.stderr);
}

#[test]
fn published_figures_can_be_added_to_a_finished_experiment() {
    let place = Place::finished();
    let (digests, before) = (place.digests(), place.snapshot("out/runs"));
    let add = ["--set", "reference=figures.toml", "--quiet"];
    let missing = place.experiment(&add);
    assert_eq!(missing.code, Some(2));
    assert!(
        missing.stderr.starts_with("mantissa: reference: figures.toml: "),
        "{}",
        missing.stderr
    );

    let figures = |minutes: &str| {
        let text = format!(
            "title = \"a\"\nsource = \"b\"\nmachine = \"c\"\nsettings = \"d\"\n\
             columns.time = {{ unit = \"min\", measured = \"all of it\" }}\n\
             rows = [{{ label = \"e\", policy = \"fp32\", time = {minutes} }}]\n"
        );
        mantissa::store::write(&place.path("figures.toml"), text.as_bytes()).unwrap();
    };
    for minutes in [1.5, 2.5] {
        figures(&minutes.to_string());
        let call = place.experiment(&add);
        assert_eq!(call.code, Some(0), "{}", call.stderr);
        let reference = place.results().reference.unwrap();
        assert_eq!(reference.rows[0].time, Some(minutes));
        assert_eq!(place.digests(), digests);
        assert!(place.snapshot("out/runs") == before, "a run or its times changed");
        // Again with the same figures: nothing is written.
        let finished = place.snapshot("out/results.json");
        assert_eq!(place.experiment(&add).code, Some(0));
        assert!(place.snapshot("out/results.json") == finished);
    }
}

/// Changes a results file.
type Change = fn(&mut Value);

/// Damages the records of a place.
type Damage = fn(&Place);

#[test]
fn what_would_discard_a_run_says_why_and_asks_for_force() {
    let place = Place::finished();
    let whole = std::fs::read(place.path("out/results.json")).unwrap();
    let rows: [(Change, &[&str], &[&str]); 8] = [
        (|_| (), &["--set", "train.steps=7"], &["another plan: train.steps is 6 there, 7 here"]),
        (
            |r| r["environment"]["threads"] = 1.into(),
            &[],
            &["its times are those of 1 thread, this is with 2 threads"],
        ),
        (|r| r["environment"]["git"] = "0123456789ab".into(), &[], &["of 0123456789ab, sources"]),
        // Two states of one changed checkout.
        (|r| r["environment"]["source"] = "ba9876543210".into(), &[], &["sources ba9876543210,"]),
        (|r| r["environment"]["version"] = "0.0.1".into(), &[], &["built as mantissa 0.0.1 of"]),
        (
            |r| r["environment"]["device_name"] = "Some Processor".into(),
            &[],
            &["run on Some Processor, this is "],
        ),
        (
            |r| r["environment"]["product_paths"] = Value::Array(vec!["bf16: by hand".into()]),
            &[],
            &["products ran as bf16: by hand, here as"],
        ),
        (
            |r| r["data"]["digest"] = "0123456789abcdef".into(),
            &[],
            &[
                "learnt from 40 training and 20 test samples of 1 × 28 × 28, 10 classes, SHA-256 0123456789ab…",
            ],
        ),
    ];
    for complete in [true, false] {
        for (change, arguments, parts) in rows {
            if !complete && parts[0].starts_with("its times") {
                continue;
            }
            mantissa::store::write(&place.path("out/results.json"), &whole).unwrap();
            place.edit("out/results.json", |results| {
                results["complete"] = complete.into();
                change(results);
            });
            let out = "mantissa: out: holds runs that cannot be kept: ";
            let end = "; choose another --out, or --force to replace them";
            refused(&place, arguments, &[parts, &[out, end]].concat());
        }
    }
    mantissa::store::write(&place.path("out/results.json"), &whole[..200]).unwrap();
    let parts = ["out/results.json: is not a results file of this version", "--force"];
    refused(&place, &[], &parts);
}

const DATA: &str = "data: 40 training and 20 test images of 1 × 28 × 28, 10 classes";
const TWO_BLOCKS: &str = "2 timed blocks of every variant were finished before and are kept";

#[test]
fn more_seeds_are_added_to_a_finished_experiment() {
    let place = Place::finished();
    let (before, timed) = (records(&place), blocks(&place));
    let call = place.experiment(&["--seeds", "4"]);
    assert_eq!(call.code, Some(0), "{}", call.stderr);
    let said: Vec<_> =
        call.stderr.lines().map(|line| line.split(": accuracy").next().unwrap()).collect();
    let kept = "4 of 8 runs were finished before and are kept";
    let trained = [
        "[5/8] fp32, seed 2",
        "[6/8] bf16-mixed, seed 2",
        "[7/8] fp32, seed 3",
        "[8/8] bf16-mixed, seed 3",
    ];
    assert_eq!(said, [&[DATA, kept, TWO_BLOCKS][..], &trained].concat());
    assert_eq!(blocks(&place), timed);
    assert!(place.results().complete);
    // What was there is as it was, and the whole is what it would have been at once.
    let after = records(&place);
    assert!(before.iter().all(|(path, contents)| after.get(path) == Some(contents)));
    let at_once = Place::new();
    assert_eq!(at_once.experiment(&["--seeds", "4"]).code, Some(0));
    assert!(records(&at_once) == after);
    assert_eq!(at_once.digests(), place.digests());
    assert_eq!(after.len(), 8);
}

#[test]
fn fewer_seeds_or_variants_would_drop_runs_and_are_refused() {
    let place = Place::finished();
    let end = "; choose another --out, or --force to replace them";
    let out = "mantissa: out: holds runs that cannot be kept: ";
    for (arguments, why) in [
        (&["--seeds", "1"][..], "this plan is without 2 runs: fp32, seed 1; bf16-mixed, seed 1"),
        (
            &["--variants", "fp32"],
            "this plan is without 2 runs: bf16-mixed, seed 0; bf16-mixed, seed 1",
        ),
        (
            &["--set", "seeds=[7]"],
            "this plan is without 4 runs: fp32, seed 0; fp32, seed 1; bf16-mixed, seed 0; bf16-mixed, seed 1",
        ),
    ] {
        refused(&place, arguments, &[&format!("{out}{why}{end}")]);
        // A failed run is nothing to lose.
        let fail = |results: &mut Value| {
            results["variants"][1]["runs"][1]["status"] = "failed".into();
        };
        let whole = std::fs::read(place.path("out/results.json")).unwrap();
        place.edit("out/results.json", fail);
        let fewer = why.replace("; bf16-mixed, seed 1", "");
        let fewer = fewer.replace("2 runs", "1 run").replace("4 runs", "3 runs");
        refused(&place, arguments, &[&format!("{out}{fewer}{end}")]);
        mantissa::store::write(&place.path("out/results.json"), &whole).unwrap();
    }
}

#[test]
fn more_timed_blocks_follow_those_that_are_there() {
    let place = Place::finished();
    let (before, expected) = (blocks(&place), records(&place));
    let call = place.experiment(&["--set", "measure.timing_blocks=5"]);
    assert_eq!(call.code, Some(0), "{}", call.stderr);
    let kept = "4 of 4 runs were finished before and are kept";
    assert_eq!(
        call.stderr.lines().collect::<Vec<_>>(),
        [DATA, kept, TWO_BLOCKS, "timing: 3 blocks"]
    );
    let after = blocks(&place);
    for ((name, two), (same_name, five)) in before.iter().zip(&after) {
        assert_eq!((name, two.as_slice(), 5), (same_name, &five[..2], five.len()));
    }
    assert!(records(&place) == expected);
    let again = place.experiment(&["--set", "measure.timing_blocks=5"]);
    assert!(again.stderr.contains("nothing is trained"), "{}", again.stderr);

    let out = "mantissa: out: holds runs that cannot be kept: ";
    for (arguments, why) in [
        (&[][..], "measure.timing_blocks is 2, and 5 blocks are timed"),
        (
            &["--set", "measure.timing_blocks=6", "--set", "measure.timing_steps=2"],
            "its times are of another plan: measure.timing_steps is 1 there, 2 here",
        ),
        (
            &["--set", "measure.timing_blocks=6", "--set", "measure.timing_warmup=2"],
            "its times are of another plan: measure.timing_warmup is 1 there, 2 here",
        ),
    ] {
        refused(&place, arguments, &[out, why]);
    }
    place.edit(TIMING, |timing| timing["threads"] = 1.into());
    let why = "its times are those of 1 thread, this is with 2 threads";
    refused(&place, &["--set", "measure.timing_blocks=6"], &[out, why]);
}

#[test]
fn a_new_variant_is_trained_and_all_are_timed_again() {
    let place = Place::finished();
    let before = records(&place);
    let more = ["--variants", "fp32,bf16-mixed,fp16-mixed"];
    let call = place.experiment(&more);
    assert_eq!(call.code, Some(0), "{}", call.stderr);
    let said: Vec<_> =
        call.stderr.lines().map(|line| line.split(": accuracy").next().unwrap()).collect();
    assert_eq!(
        said,
        [
            DATA,
            "4 of 6 runs were finished before and are kept",
            "all variants are timed again: fp16-mixed must take turns with the others to be compared",
            "[5/6] fp16-mixed, seed 0",
            "[6/6] fp16-mixed, seed 1",
            "timing: 2 blocks"
        ]
    );
    let after = records(&place);
    assert!(before.iter().all(|(path, contents)| after.get(path) == Some(contents)));
    let numbers: Vec<_> =
        blocks(&place).iter().map(|(name, times)| (name.clone(), times.len())).collect();
    let expected = ["fp32", "bf16-mixed", "fp16-mixed"].map(|name| (name.to_owned(), 2));
    assert_eq!(numbers, expected);

    // Blocks that cannot be used are told.
    for (change, why) in [
        ((|timing| timing["identity"]["build"] = "old".into()) as Change, "built as old, this is "),
        (|timing| timing["seed"] = 7.into(), "it was done with seed 7"),
        (|timing| *timing = Value::Null, "its record cannot be read (invalid type: null"),
    ] {
        place.edit(TIMING, change);
        place.edit("out/results.json", |results| results["complete"] = false.into());
        let call = place.experiment(&more);
        assert_eq!(call.code, Some(0), "{}", call.stderr);
        let line = format!("all variants are timed again: {why}");
        assert!(call.stderr.contains(&line), "{}", call.stderr);
        assert!(call.stderr.ends_with("timing: 2 blocks\n"), "{}", call.stderr);
    }
}

/// Thresholds, names and places decide no run.
#[test]
fn results_are_judged_anew_without_training() {
    let place = Place::finished();
    let (timed, expected) = (blocks(&place), records(&place));
    let more = ["claims.train_time=0.9", "measure.equivalence_margin=0.5", "name=other"];
    let more: Vec<_> = more.iter().flat_map(|set| ["--set", set]).collect();
    let call = place.experiment(&more);
    assert_eq!(call.code, Some(0), "{}", call.stderr);
    let kept = "4 of 4 runs were finished before and are kept";
    assert_eq!(call.stderr.lines().collect::<Vec<_>>(), [DATA, kept, TWO_BLOCKS]);
    assert!(records(&place) == expected);
    assert_eq!(blocks(&place), timed);
    let results = place.results();
    assert_eq!((results.complete, results.plan.claims.train_time), (true, 0.9));
    let claim = results.claims.iter().find(|claim| claim.id == "train-time").unwrap();
    assert!(claim.threshold.contains("0.9"), "{}", claim.threshold);
}

#[test]
fn every_value_that_makes_runs_incomparable_is_named() {
    let place = Place::finished();
    let more =
        ["train.steps=7", "train.optimizer.lr=0.01", "measure.census_every=3", "data.train=50"];
    let mut more: Vec<_> = more.iter().flat_map(|set| ["--set", set]).collect();
    more.extend(["--seeds", "3"]);
    let why = [
        "measure.census_every is 200 there, 3 here, ",
        "train.optimizer.lr is 0.003 there, 0.01 here, train.steps is 6 there, 7 here, ",
        "data.train is 40 there, 50 here; learnt from 40 training ",
    ];
    refused(&place, &more, &why);
    let policy = "variants=[\"fp32\", {name=\"bf16-mixed\", policy=\"bf16-true\"}]";
    let bf16 = "params=f32,compute=bf16,reduce=f32,scale=none";
    let there = format!("the policy of bf16-mixed is \"{bf16}\" there, ");
    refused(&place, &["--set", policy], &[&there]);
}

/// Seeds that were the control's and now are the plan's.
#[test]
fn runs_of_the_control_with_other_seeds_become_the_baselines() {
    let place = Place::new();
    let with_controls = ["--set", "controls=[\"same-seeds\", \"other-seeds\"]"];
    let call = place.experiment(&with_controls);
    assert_eq!(call.code, Some(0), "{}", call.stderr);
    assert!(records(&place).contains_key(&PathBuf::from(Place::record("fp32+other-seeds", 3))));
    let more = [&with_controls[..], &["--seeds", "4"]].concat();
    let call = place.experiment(&more);
    assert_eq!(call.code, Some(0), "{}", call.stderr);
    // Of eight runs none is lost: six in their places, two as the baseline's.
    assert!(call.stderr.contains("8 of 16 runs were finished before"), "{}", call.stderr);
    let at_once = Place::new();
    assert_eq!(at_once.experiment(&more).code, Some(0));
    let after = records(&place);
    let expected = records(&at_once);
    assert!(expected.iter().all(|(path, contents)| after.get(path) == Some(contents)));
    assert_eq!(expected.len(), 16);
    let control = |place: &Place| place.results().controls[1].result.runs.clone();
    assert_eq!(control(&place), control(&at_once));
}

#[test]
fn other_data_are_another_experiment() {
    let place = Place::new();
    // IDX: magic, dimensions, values.
    let images = |count: u32| {
        let header = [2051, count, 2, 2].into_iter().flat_map(u32::to_be_bytes);
        header.chain((0..4 * count).map(|i| (i * 37 % 251) as u8)).collect::<Vec<u8>>()
    };
    let labels = |labels: &[u8]| {
        let header = [2049, labels.len() as u32].into_iter().flat_map(u32::to_be_bytes);
        header.chain(labels.iter().copied()).collect::<Vec<u8>>()
    };
    let at = |name: &str| place.path(name);
    mantissa::store::write(&at("images"), &images(30)).unwrap();
    let first: Vec<u8> = (0..30).map(|i| i % 3).collect();
    mantissa::store::write(&at("labels"), &labels(&first)).unwrap();
    let data = "data={kind=\"idx\", train_images=\"images\", train_labels=\"labels\", held_out=6}";
    let idx = ["--set", data, "--set", "train.batch=8", "--set", "measure.inference_batch=6"];
    let call = place.experiment(&idx);
    assert_eq!(call.code, Some(0), "{}", call.stderr);
    let facts = place.results().data.unwrap();
    assert_eq!((facts.train, facts.test, facts.classes, facts.shape), (24, 6, 3, [1, 2, 2]));
    let record = std::fs::read(at(&Place::record("fp32", 0))).unwrap();
    let record: RunRecord = serde_json::from_slice(&record).unwrap();
    assert_eq!(record.identity.unwrap().data, facts);

    place.interrupt();
    let other: Vec<u8> = (0..30).map(|i| (i + 1) % 3).collect();
    mantissa::store::write(&at("labels"), &labels(&other)).unwrap();
    let digest = format!("3 classes, SHA-256 {}…; this is 24 training", &facts.digest[..12]);
    refused(&place, &idx, &["learnt from 24 training and 6 test samples of 1 × 2 × 2", &digest]);
    // The records alone know it too.
    for name in ["out/results.json", "out/plan.json"] {
        std::fs::remove_file(at(name)).unwrap();
    }
    let parts = ["out/runs/fp32/seed-0/record.json: learnt from 24 training", &digest];
    refused(&place, &idx, &parts);
    mantissa::store::write(&at("labels"), &labels(&first)).unwrap();
    let call = place.experiment(&idx);
    assert_eq!(call.code, Some(0), "{}", call.stderr);
    assert!(call.stderr.contains("4 of 4 runs were finished before and are kept"));
}

/// What makes a record one that does not belong, and what is said of it.
fn damaged_records() -> [(Damage, &'static str); 7] {
    [
        (
            |place| {
                let [from, to] = [1, 0].map(|seed| place.path(&Place::record("fp32", seed)));
                std::fs::copy(from, to).unwrap();
            },
            "fp32, seed 0, is done again: its record is that of fp32, seed 1",
        ),
        (
            |place| {
                let [from, to] = ["bf16-mixed", "fp32"];
                let [from, to] = [from, to].map(|name| place.path(&Place::record(name, 0)));
                std::fs::copy(from, to).unwrap();
            },
            "fp32, seed 0, is done again: its record is that of bf16-mixed, seed 0",
        ),
        (
            |place| {
                place.edit(&Place::record("fp32", 0), |record| {
                    record["summary"]["steps"] = 999.into();
                    record["summary"]["test_accuracy"] = 0.99.into();
                });
            },
            "fp32, seed 0, is done again: its record tells of 999 steps of 6",
        ),
        (
            |place| {
                place.edit(&Place::record("fp32", 0), |record| {
                    record["identity"]["plan"] = "0".into();
                });
            },
            "fp32, seed 0, is done again: it is of another plan",
        ),
        (
            |place| {
                place.edit(&Place::record("fp32", 0), |record| {
                    record.as_object_mut().unwrap().remove("identity");
                });
            },
            "fp32, seed 0, is done again: its record does not tell what it belongs to",
        ),
        (
            |place| {
                let path = place.path(&Place::record("fp32", 0));
                let whole = std::fs::read(&path).unwrap();
                mantissa::store::write(&path, &whole[..100]).unwrap();
            },
            "fp32, seed 0, is done again: its record cannot be read (EOF",
        ),
        (
            |place| std::fs::remove_file(place.path(&Place::record("fp32", 0))).unwrap(),
            "fp32, seed 0, is done again: its record is missing",
        ),
    ]
}

/// The audit's cases, and those of their kind.
#[test]
fn a_record_that_does_not_belong_is_done_again_and_told() {
    let place = Place::finished();
    let expected = place.digests();
    let whole = place.snapshot("out/runs");
    for complete in [false, true] {
        for (change, line) in damaged_records() {
            place.edit("out/results.json", |results| results["complete"] = complete.into());
            change(&place);
            let call = place.experiment(&[]);
            assert_eq!(call.code, Some(0), "{}", call.stderr);
            if complete && line.ends_with("is missing") {
                // The results are whole without it.
                assert!(call.stderr.contains("nothing is trained"), "{}", call.stderr);
                continue;
            }
            assert!(call.stderr.contains("3 of 4 runs were finished before"), "{}", call.stderr);
            assert!(call.stderr.contains(line), "{line}\n{}", call.stderr);
            assert_eq!(place.digests(), expected, "{line}");
            for (path, (contents, _)) in &whole {
                assert!(std::fs::read(path).unwrap() == *contents, "{line}: {}", path.display());
            }
        }
    }
}

#[test]
fn the_records_are_the_truth_and_the_results_are_computed_from_them() {
    let place = Place::finished();
    let expected = place.digests();
    // Killed while it was timed or the report written; the third run's record is there and not in the results.
    for listed in [2, 1, 0] {
        std::fs::remove_file(place.path(TIMING)).unwrap();
        place.edit("out/results.json", |results| {
            results["complete"] = false.into();
            for variant in results["variants"].as_array_mut().unwrap() {
                variant["runs"].as_array_mut().unwrap().truncate(listed);
            }
        });
        let call = place.experiment(&[]);
        assert_eq!(call.code, Some(0), "{}", call.stderr);
        let said = call.stderr.lines().collect::<Vec<_>>();
        assert_eq!(
            said,
            [
                "data: 40 training and 20 test images of 1 × 28 × 28, 10 classes",
                "4 of 4 runs were finished before and are kept",
                "timing: 2 blocks"
            ]
        );
        assert_eq!(place.digests(), expected);
        assert!(place.results().complete);
    }
    // Results that say something else than the records.
    place.edit("out/results.json", |results| {
        results["variants"][0]["runs"][0]["test_accuracy"] = 0.99.into();
    });
    let call = place.experiment(&[]);
    assert!(call.stderr.contains("\n4 of 4 runs were finished before"), "{}", call.stderr);
    assert_eq!(place.digests(), expected);
}

#[test]
fn a_run_that_failed_is_tried_again() {
    let place = Place::finished();
    let expected = place.digests();
    let fail = |run: &mut Value| {
        run["status"] = "failed".into();
        run["weights_digest"] = Value::Null;
    };
    place.edit(&Place::record("bf16-mixed", 1), |record| fail(&mut record["summary"]));
    place.edit("out/results.json", |results| fail(&mut results["variants"][1]["runs"][1]));
    let call = place.experiment(&[]);
    assert_eq!(call.code, Some(0), "{}", call.stderr);
    assert!(
        call.stderr.contains("bf16-mixed, seed 1, is done again: it failed"),
        "{}",
        call.stderr
    );
    assert_eq!(place.digests(), expected);
}

#[test]
fn killed_again_and_again_it_ends_as_if_it_had_never_been() {
    let place = Place::finished();
    let expected = place.digests();
    std::fs::remove_dir_all(place.path("out")).unwrap();
    let mut kills = 0;
    let mut delay = Duration::from_millis(13);
    loop {
        let mut running = Running(place.command(&EXPERIMENT).spawn().unwrap());
        std::thread::sleep(delay);
        if running.0.try_wait().unwrap().is_some_and(|status| status.success()) {
            break;
        }
        drop(running);
        kills += 1;
        delay = delay * 3 / 2;
        if !place.path("out").exists() {
            // It was killed before it began.
            continue;
        }
        // What is there can be read.
        for (path, (contents, _)) in place.snapshot("out") {
            if path.extension().is_some_and(|ending| ending == "json") {
                serde_json::from_slice::<Value>(&contents).unwrap();
            }
        }
    }
    assert!(kills > 3, "{kills}");
    let call = place.experiment(&[]);
    assert_eq!((call.code, place.digests()), (Some(0), expected), "{}", call.stderr);
    let names = place.snapshot("out").into_keys().map(|path| path.display().to_string());
    let left: Vec<_> =
        names.filter(|name| name.contains(".partial-") || name.contains(".lock")).collect();
    assert_eq!(left, [""; 0]);
}

/// Long enough to be met by another process.
const LONG: [&str; 2] = ["--set", "train.steps=1000000"];

#[test]
fn the_second_of_two_processes_is_told_who_is_at_work() {
    let place = Place::new();
    let mut running = Running(place.command(&[&EXPERIMENT[..], &LONG].concat()).spawn().unwrap());
    wait_for("the mark", || place.path("out/results.json").exists());
    let pid = running.0.id();
    for more in [&LONG[..], &[], &["--force"]] {
        let second = place.experiment(more);
        assert_eq!((second.code, second.stdout.as_str()), (Some(2), ""), "{}", second.stderr);
        let start = format!("mantissa: out: in use by process {pid} on ");
        assert!(second.stderr.starts_with(&start), "{}", second.stderr);
        let end = "Z; wait for its end, or choose another --out\n";
        assert!(second.stderr.ends_with(end), "{}", second.stderr);
    }
    // Its report can be had, and it goes on.
    let report = place.call(&["report", "out"]);
    assert_eq!(report.code, Some(0), "{}", report.stderr);
    assert!(place.path("out/report.html").exists());
    assert!(running.0.try_wait().unwrap().is_none());
    drop(running);

    // A lock whose holder is dead is no obstacle, and a mark without runs is nothing to lose.
    assert!(place.path("out/.lock").exists());
    let call = place.experiment(&[]);
    assert_eq!(call.code, Some(0), "{}", call.stderr);
    assert_eq!(place.results().plan.train.steps, 6);
    assert!(!place.path("out/.lock").exists());
}

/// The audit started them within 20 ms.
#[test]
fn two_plans_started_at_once_are_not_mixed() {
    let place = Place::new();
    let plans = [6, 7].map(|steps| {
        let steps = format!("train.steps={steps}");
        place.command(&[&EXPERIMENT[..], &["--set", &steps]].concat()).spawn().unwrap()
    });
    let ends = plans.map(|child| child.wait_with_output().unwrap().status.code());
    // Either the second met the first at work, or the finished whole.
    let mut sorted = ends;
    sorted.sort_unstable();
    assert_eq!(sorted, [Some(0), Some(2)]);
    let steps = if ends[0] == Some(0) { 6 } else { 7 };
    assert_eq!(place.results().plan.train.steps, steps);
    for (variant, seed) in RUNS {
        let record = std::fs::read(place.path(&Place::record(variant, seed))).unwrap();
        let record: RunRecord = serde_json::from_slice(&record).unwrap();
        assert_eq!(record.summary.steps, steps);
    }
}

#[test]
fn force_replaces_what_is_ours_and_nothing_else() {
    let place = Place::finished();
    for theirs in ["out/notes.txt", "out/runs/bf16-mixed/seed-0/notes.txt", "out/figures/mine.png"]
    {
        mantissa::store::write(&place.path(theirs), b"theirs").unwrap();
    }
    let call = place.experiment(&["--force", "--variants", "fp32"]);
    assert_eq!(call.code, Some(0), "{}", call.stderr);
    let left = std::fs::read_dir(place.path("out/runs/bf16-mixed")).unwrap().count();
    assert_eq!(left, 1, "only what somebody put there");
    for theirs in ["out/notes.txt", "out/runs/bf16-mixed/seed-0/notes.txt", "out/figures/mine.png"]
    {
        assert_eq!(std::fs::read(place.path(theirs)).unwrap(), b"theirs");
    }
    assert!(!place.path(&Place::record("bf16-mixed", 0)).exists());
    assert_eq!(place.results().variants.len(), 1);
}

#[test]
fn a_failed_start_with_force_discards_nothing() {
    let place = Place::finished();
    refused(
        &place,
        &["--force", "--set", "data={kind=\"cifar10\", path=\"nowhere\"}"],
        &["nowhere"],
    );
}

#[test]
fn a_file_of_somebody_else_is_never_replaced() {
    for name in ["report.html", "summary.md", "results.csv", "results.tex", "figures/loss.png"] {
        let place = Place::new();
        mantissa::store::write(&place.path("out").join(name), b"mine").unwrap();
        let line = format!(
            "mantissa: out/{name}: is there already, and nothing says that mantissa wrote it; move it away, or choose \
             another --out\n"
        );
        refused(&place, &[], &[&line]);
        refused(&place, &["--force"], &[&line]);
    }
    let place = Place::new();
    mantissa::store::write(&place.path("out/results.json"), b"[1, 2]").unwrap();
    refused(&place, &[], &["out/results.json: is not a results file of this version", "--force"]);
    let call = place.experiment(&["--force"]);
    assert_eq!(call.code, Some(0), "{}", call.stderr);

    // Side by side: the same, and its own report is replaced.
    let together = ["report", "out", "out", "--out", "both"];
    for _ in 0..2 {
        let call = place.call(&together);
        assert_eq!(call.code, Some(0), "{}", call.stderr);
    }
    mantissa::store::write(&place.path("both/report.html"), b"mine").unwrap();
    let call = place.call(&together);
    assert_eq!(call.code, Some(2), "{}", call.stderr);
    assert!(call.stderr.starts_with("mantissa: both/"), "{}", call.stderr);
    assert_eq!(std::fs::read(place.path("both/report.html")).unwrap(), b"mine");
}

#[cfg(unix)]
#[test]
fn links_in_the_place_of_folders_are_refused() {
    for name in ["runs", "figures", "tensorboard", "runs/fp32", "runs/fp32/seed-1"] {
        let place = Place::new();
        std::fs::create_dir_all(place.path("elsewhere/fp32/seed-0")).unwrap();
        let theirs = place.path("elsewhere/fp32/seed-0/record.json");
        mantissa::store::write(&theirs, b"theirs").unwrap();
        let link = place.path("out").join(name);
        std::fs::create_dir_all(link.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(place.path("elsewhere"), link).unwrap();
        let line =
            format!("mantissa: out/{name}: cannot write below a symbolic link: put a folder");
        refused(&place, &[], &[&line]);
        refused(&place, &["--force"], &[&line]);
    }
    let place = Place::finished();
    std::fs::rename(place.path("out/figures"), place.path("figures")).unwrap();
    std::os::unix::fs::symlink(place.path("figures"), place.path("out/figures")).unwrap();
    let before = place.snapshot("figures");
    let call = place.call(&["report", "out"]);
    assert_eq!(call.code, Some(2), "{}", call.stderr);
    assert!(place.snapshot("figures") == before);
}

/// A folder in the place of the page stands for a disk that is full at the very end.
#[test]
fn without_a_report_the_table_is_printed_all_the_same() {
    let place = Place::finished();
    place.interrupt();
    std::fs::remove_file(place.path("out/report.html")).unwrap();
    std::fs::create_dir(place.path("out/report.html")).unwrap();
    let call = place.experiment(&[]);
    assert_eq!(call.code, Some(3), "{}", call.stderr);
    assert!(call.stdout.contains("bf16-mixed"), "{}", call.stdout);
    assert!(call.stderr.contains("mantissa: out/report.html: cannot write: "), "{}", call.stderr);
    assert!(place.results().complete);
}

#[test]
fn a_failed_start_leaves_nothing_behind() {
    let place = Place::new();
    let before = place.snapshot(".");
    for more in [
        &["--set", "data={kind=\"cifar10\", path=\"nowhere\"}"][..],
        &["--set", "data={kind=\"idx\", train_images=\"file\", train_labels=\"file\", held_out=1}"],
    ] {
        let call = place.call(&[&EXPERIMENT[..2], &["--out", "a/b/c"], more].concat());
        assert_eq!(call.code, Some(2), "{}", call.stderr);
        assert!(!place.path("a").exists(), "{more:?}");
        assert!(place.snapshot(".") == before);
    }
    // Folders that were there stay.
    std::fs::create_dir_all(place.path("a/b")).unwrap();
    let more = ["--out", "a/b/c", "--set", "data={kind=\"cifar10\", path=\"nowhere\"}"];
    assert_eq!(place.call(&[&EXPERIMENT[..2], &more].concat()).code, Some(2));
    assert!(place.path("a/b").exists() && !place.path("a/b/c").exists());
}

/// A link to itself stands for a file without permission, which a user who may do everything can read.
#[cfg(unix)]
#[test]
fn what_cannot_be_looked_at_is_not_said_to_be_missing() {
    let place = Place::new();
    std::fs::create_dir(place.path("out")).unwrap();
    let results = place.path("out/results.json");
    std::os::unix::fs::symlink(&results, &results).unwrap();
    for arguments in [&["report", "out"][..], &EXPERIMENT] {
        let call = place.call(arguments);
        assert_ne!(call.code, Some(0));
        assert!(!call.stderr.contains("not found"), "{}", call.stderr);
        assert!(call.stderr.contains("results.json: "), "{}", call.stderr);
    }
}
