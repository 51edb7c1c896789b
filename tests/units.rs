//! An experiment in parts: its units done by processes that start anywhere, end anywhere, and are killed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod program_support;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use mantissa::record::{Results, Status, TrainTime};
use mantissa::units::Seconds;
use program_support::{Call, EXPERIMENT, Place, RUNS, Running, TIMING, records, wait_for};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const PLAN: [&str; 6] = ["plan", "small.toml", "--out", "out", "--threads", "2"];

fn run(place: &Place, index: usize) -> Call {
    place.call(&["run", "out", "--threads", "2", "--index", &index.to_string()])
}

fn collect(place: &Place) -> Call {
    place.call(&["collect", "out"])
}

/// What a call printed on stderr, of a call that ended with this code.
#[track_caller]
fn said(call: &Call, code: i32) -> &str {
    assert_eq!(call.code, Some(code), "{}\n{}", call.stdout, call.stderr);
    &call.stderr
}

/// The files of a folder by their paths, without what is counted on from one start to the next.
fn names(place: &Place) -> Vec<String> {
    let names = place.snapshot("out").into_keys();
    names.map(|path| path.strip_prefix(place.path("out")).unwrap().display().to_string()).collect()
}

/// What says that a process is or was at work, or is not done.
fn leftovers(place: &Place) -> Vec<String> {
    let is_left =
        |name: &String| [".partial-", "lock", "checkpoint"].iter().any(|part| name.contains(part));
    names(place).into_iter().filter(is_left).collect()
}

/// The results without times, and without what follows from them.
fn untimed(place: &Place) -> Value {
    let mut results = serde_json::to_value(place.results()).unwrap();
    for key in ["claims", "recommendation", "other_load"] {
        results[key] = Value::Null;
    }
    results["environment"]["started"] = Value::Null;
    results["environment"]["notes"] = Value::Null;
    for variant in results["variants"].as_array_mut().unwrap() {
        for key in ["train", "inference"] {
            variant[key] = Value::Null;
        }
        for key in ["train_time_ratio", "inference_time_ratio"] {
            variant["against_baseline"][key] = Value::Null;
        }
    }
    results
}

/// A place with the experiment that one process did, and no report.
#[track_caller]
fn whole(more: &[&str]) -> Place {
    let place = Place::new();
    place.skip_the_report();
    said(&place.experiment(more), 0);
    place
}

#[test]
fn units_that_processes_do_are_the_experiment() {
    let whole = whole(&[]);
    let place = Place::new();
    let planned = place.call(&PLAN);
    assert_eq!(planned.code, Some(0), "{}", planned.stderr);
    let listed = "     0  fp32, seed 0\n     1  bf16-mixed, seed 0\n     2  fp32, seed 1\n     3  bf16-mixed, seed 1\n     \
                  4  timing of all variants\n5 units; one is done by: mantissa run out --index I\n";
    assert_eq!(planned.stdout, listed);
    assert_eq!(names(&place), ["plan.json"]);
    // In any order, and some of them twice.
    for index in [3, 4, 0, 3] {
        said(&run(&place, index), 0);
    }
    let again = run(&place, 4);
    assert_eq!(
        (said(&again, 0), &*again.stdout),
        ("", "timing of all variants: was finished before\n")
    );
    let half = collect(&place);
    assert_eq!(said(&half, 5), "mantissa: not every unit is finished: mantissa status out\n");
    let status = place.call(&["status", "out"]);
    assert_eq!(
        status.stdout,
        "5 units: 3 finished, 0 running, 0 failed, 0 lost, 0 stopped, 2 waiting\n"
    );
    assert!(!place.results().complete);
    for index in [1, 2] {
        said(&run(&place, index), 0);
    }
    said(&collect(&place), 0);
    assert!(place.results().complete);
    assert!(place.path("out/report.html").exists());
    assert!(records(&place) == records(&whole), "the records are the same bits");
    assert_eq!(untimed(&place), untimed(&whole));
    assert_eq!(leftovers(&place), [""; 0]);
    // It is one and the same experiment.
    let again = place.experiment(&[]);
    assert!(said(&again, 0).contains("every run was finished before"), "{}", again.stderr);
}

#[test]
fn several_units_are_done_by_one_process() {
    let place = Place::new();
    said(&place.call(&PLAN), 0);
    let mut command = place.command(&["run", "out", "--units-per-task", "3"]);
    let output = command.env("SLURM_ARRAY_TASK_ID", "1").output().unwrap();
    assert!(output.status.success());
    let status = place.call(&["status", "out", "--json"]);
    let units: Vec<Value> = serde_json::from_str(&status.stdout).unwrap();
    let states: Vec<&str> = units.iter().map(|unit| unit["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["waiting", "waiting", "waiting", "finished", "finished"]);
    assert_eq!((&units[3]["variant"], &units[3]["seed"]), (&"bf16-mixed".into(), &1.into()));
}

/// Long enough to be met on its way, and a checkpoint at every step.
const MANY_STEPS: [&str; 4] = ["--set", "train.steps=300", "--set", "train.checkpoint_every=1"];

/// The process that holds the lock of a run.
fn holder(place: &Place, (variant, seed): (&str, u64)) -> Option<Pid> {
    let folder = place.path(&format!("out/runs/{variant}/seed-{seed}"));
    let lock = mantissa::store::list(&folder).ok()?.into_iter().find(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("record.lock-"))
    })?;
    let holder: Value = serde_json::from_slice(&std::fs::read(lock).ok()?).ok()?;
    Pid::from_raw(holder["process"].as_u64()? as i32)
}

#[test]
fn a_signal_leaves_checkpoint_results_and_report_and_the_same_command_goes_on() {
    let whole = whole(&MANY_STEPS);
    for signal in [Signal::TERM, Signal::USR2, Signal::INT] {
        let place = Place::new();
        let start =
            || Running(place.command(&[&EXPERIMENT[..], &MANY_STEPS].concat()).spawn().unwrap());
        let checkpoint = place.path("out/runs/bf16-mixed/seed-0/checkpoint.safetensors");
        let mut running = start();
        wait_for("a checkpoint of the second run", || checkpoint.exists());
        kill_process(Pid::from_child(&running.0), signal).unwrap();
        assert_eq!(running.0.wait().unwrap().code(), Some(5));
        assert!(checkpoint.exists() && place.path("out/report.html").exists());
        let results = place.results();
        assert!(!results.complete);
        assert_eq!((results.variants[0].runs.len(), results.variants[1].runs.len()), (1, 0));
        let status = place.call(&["status", "out"]).stdout;
        let stopped = "stopped 1: bf16-mixed, seed 0: goes on from its checkpoint";
        assert!(status.contains(stopped), "{status}");
        place.skip_the_report();
        let on = place.experiment(&MANY_STEPS);
        assert!(said(&on, 0).contains("bf16-mixed, seed 0, goes on from its checkpoint after "));
        assert!(records(&place) == records(&whole), "{signal:?}");
        assert_eq!(leftovers(&place), [""; 0]);
    }
}

/// A signal in the timing phase keeps the blocks that are timed.
#[test]
fn a_signal_in_the_timing_phase_keeps_its_blocks() {
    let place = Place::new();
    let many = ["--set", "measure.timing_blocks=2000"];
    let mut running = Running(place.command(&[&EXPERIMENT[..], &many].concat()).spawn().unwrap());
    wait_for("the timing phase", || {
        let files = mantissa::store::list(&place.path("out/runs")).unwrap_or_default();
        files.iter().any(|path| path.to_string_lossy().contains("timing.lock-"))
    });
    std::thread::sleep(Duration::from_millis(300));
    kill_process(Pid::from_child(&running.0), Signal::TERM).unwrap();
    assert_eq!(running.0.wait().unwrap().code(), Some(5));
    let timing: Value =
        serde_json::from_slice(&std::fs::read(place.path(TIMING)).unwrap()).unwrap();
    let blocks = timing["blocks"].as_u64().unwrap();
    assert!((1..2000).contains(&blocks), "{blocks}");
    let times = timing["timings"]["fp32"]["inference"].as_array().unwrap().len() as u64;
    assert_eq!(times, blocks);
    let enough = format!("measure.timing_blocks={}", blocks + 1);
    let on = place.experiment(&["--set", &enough]);
    let kept = format!("{blocks} timed block");
    assert!(said(&on, 0).contains(&kept), "{}", on.stderr);
    assert!(place.results().complete);
}

/// A hundred kills at any moment of each of the three commands that write.
#[test]
fn killed_at_any_moment_nothing_is_lost() {
    let steps = ["--set", "train.steps=40", "--set", "train.checkpoint_every=3"];
    let expected = records(&whole(&steps));
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let place = Place::new();
    let experiment = [&EXPERIMENT[..], &steps].concat();
    let mut killed = BTreeMap::from([("experiment", 0), ("run", 0), ("collect", 0)]);
    let mut finished: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
    while killed.values().any(|kills| *kills < 100) {
        let fewest = *killed.iter().min_by_key(|(_, kills)| **kills).unwrap().0;
        if fewest != "experiment" && !place.path("out/plan.json").exists() {
            said(&place.call(&[&PLAN[..], &steps].concat()), 0);
        }
        let index = random.random_range(0..5_usize).to_string();
        let command = match fewest {
            "experiment" => place.command(&experiment),
            "run" => place.command(&["run", "out", "--threads", "2", "--index", &index]),
            _ => place.command(&["collect", "out", "--quiet"]),
        };
        let mut command = command;
        let mut running = Running(command.spawn().unwrap());
        std::thread::sleep(Duration::from_micros(random.random_range(1000..250_000)));
        let ended = running.0.try_wait().unwrap().map(|status| {
            let mut stderr = String::new();
            running.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
            (status, stderr)
        });
        drop(running);
        match ended {
            None => *killed.get_mut(fewest).unwrap() += 1,
            // Not every unit may be finished, and a killed process of this one cannot be at work.
            Some((status, stderr)) => {
                assert!(matches!(status.code(), Some(0 | 5)), "{fewest}: {status}: {stderr}");
            }
        }
        // What is there can be read, and what was finished is as it was.
        for (path, (contents, _)) in place.snapshot("out") {
            if path.extension().is_some_and(|ending| ending == "json") {
                serde_json::from_slice::<Value>(&contents).unwrap();
            }
        }
        let now = records(&place);
        for (path, record) in &finished {
            assert!(now.get(path) == Some(record), "{} was lost", path.display());
        }
        for (path, record) in &now {
            assert!(expected.get(path) == Some(record), "{} is another", path.display());
        }
        finished = now;
        if finished.len() == expected.len() && place.path(TIMING).exists() {
            // All over again, so that there is something to interrupt.
            place.skip_the_report();
            said(&place.experiment(&steps), 0);
            assert_eq!(leftovers(&place), [""; 0]);
            std::fs::remove_dir_all(place.path("out")).unwrap();
            finished = BTreeMap::new();
        }
    }
    said(&place.experiment(&steps), 0);
    assert!(records(&place) == expected);
    assert_eq!(leftovers(&place), [""; 0]);
}

#[test]
fn a_run_that_crashes_is_recorded_and_the_others_go_on() {
    let place = Place::new();
    let isolated = [&EXPERIMENT[..], &MANY_STEPS, &["--isolate"]].concat();
    let running = place.command(&isolated).spawn().unwrap();
    let mut process = None;
    wait_for("the process of the second run", || {
        process = holder(&place, ("bf16-mixed", 0));
        process.is_some()
    });
    kill_process(process.unwrap(), Signal::ABORT).unwrap();
    let output = running.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    let why = "its process was killed by signal 6 (SIGABRT)";
    let last = format!("mantissa: 1 of 4 runs failed; the first: {why}");
    assert!(stderr.lines().last().unwrap().starts_with(&last), "{stderr}");
    let results: Results = place.results();
    let failed = &results.variants[1].runs[0];
    assert_eq!((failed.seed, failed.status), (0, Status::Failed));
    assert!(failed.failure.as_ref().unwrap().reason.starts_with(why));
    let completed = |variant: usize| {
        let runs = results.variants[variant].runs.iter();
        runs.filter(|run| run.status == Status::Completed).count()
    };
    assert_eq!((completed(0), completed(1)), (2, 1));
    assert!(place.path(TIMING).exists());
    // The next call does that run alone.
    let on = place.call(&isolated);
    assert_eq!(said(&on, 0).lines().filter(|line| line.contains("accuracy")).count(), 1);
    assert!(place.results().complete);
}

#[cfg(target_os = "linux")]
#[test]
fn a_run_without_memory_is_recorded_and_the_others_go_on() {
    let place = Place::new();
    let plan =
        [&PLAN[..], &["--set", "model.hidden=[65536, 1000]", "--set", "train.steps=1"]].concat();
    said(&place.call(&plan), 0);
    // f32 weights, their gradients and two moments have 1.9 GB.
    let limited = |index: &str, kilobytes: &str| {
        let script = "ulimit -v $1 && exec \"$0\" run out --threads 2 --index $2";
        let mut command = std::process::Command::new("sh");
        command.args(["-c", script]).arg(assert_cmd::cargo::cargo_bin("mantissa"));
        command.args([kilobytes, index]).current_dir(place.0.path()).output().unwrap()
    };
    let output = limited("0", "1200000");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("memory"), "{stderr}");
    let status = place.call(&["status", "out"]).stdout;
    assert!(status.contains("failed 0: fp32, seed 0: "), "{status}");
    let collected = collect(&place);
    assert!(said(&collected, 3).contains("1 of 1 runs failed"), "{}", collected.stderr);
}

/// Calls that are refused with one line, and nothing changes.
#[track_caller]
fn refused(place: &Place, arguments: &[&str], message: &str) {
    let before = place.snapshot("out");
    let call = place.call(arguments);
    assert_eq!(said(&call, 2), format!("mantissa: {message}\n"));
    assert_eq!(call.stdout, "");
    assert!(place.snapshot("out") == before, "something was changed");
}

#[test]
fn bad_input_is_one_line_and_nothing_is_lost() {
    let place = Place::new();
    let missing = "out/plan.json: is missing; make it with mantissa plan";
    for command in ["run", "collect", "status"] {
        let index = ["--index", "0"];
        let more = if command == "run" { &index[..] } else { &[] };
        refused(&place, &[&[command, "out"], more].concat(), missing);
        assert!(!place.path("out").exists());
    }
    said(&place.call(&PLAN), 0);
    refused(&place, &["run", "out", "--index", "5"], "out: has no unit 5; give --index 0 to 4");
    refused(
        &place,
        &["run", "out", "--units-per-task", "2", "--index", "3"],
        "out: has no unit 3; give --index 0 to 2",
    );
    let unnumbered = "which unit? give --index, or set SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX";
    refused(&place, &["run", "out"], unnumbered);
    said(&run(&place, 0), 0);

    // Another plan, of which none of these runs is.
    let end = "; choose another --out, or --force to replace them";
    let other = "out: holds runs that cannot be kept: another plan: train.steps is 6 there, 7 here";
    for command in [&PLAN, &EXPERIMENT] {
        let other = format!("{other}{end}");
        refused(&place, &[&command[..], &["--set", "train.steps=7"]].concat(), &other);
    }
    let fewer = "out: holds runs that cannot be kept: this plan is without 1 run: fp32, seed 0";
    let without = [&PLAN[..], &["--set", "seeds=[1]"]].concat();
    refused(&place, &without, &format!("{fewer}{end}"));
    // More seeds are the same runs and others.
    said(&place.call(&[&PLAN[..], &["--seeds", "3"]].concat()), 0);
    said(&place.call(&PLAN), 0);

    // A record that was copied in part: left out, and done again.
    let record = Place::record("fp32", 0);
    let whole = std::fs::read(place.path(&record)).unwrap();
    mantissa::store::write(&place.path(&record), &whole[..whole.len() / 2]).unwrap();
    let call = collect(&place);
    let left_out = "fp32, seed 0, is left out: its record cannot be read (EOF while parsing";
    assert!(said(&call, 5).starts_with(left_out), "{}", call.stderr);
    let call = run(&place, 0);
    let again = "fp32, seed 0, is done again: its record cannot be read (EOF while parsing";
    assert!(said(&call, 0).starts_with(again), "{}", call.stderr);
    assert!(std::fs::read(place.path(&record)).unwrap() == whole);

    // A plan and a record of another build.
    place.edit(&record, |record| record["identity"]["build"] = "mantissa 0.0.1 of abc".into());
    for arguments in [&["run", "out", "--index", "0"][..], &["collect", "out"]] {
        let call = place.call(arguments);
        let said = said(&call, 2);
        let start = format!(
            "mantissa: out: holds runs that cannot be kept: {record}: built as mantissa 0.0.1 of abc, this is "
        );
        assert!(said.starts_with(&start) && said.lines().count() == 1, "{said}");
    }
    mantissa::store::write(&place.path(&record), &whole).unwrap();
    place.edit("out/plan.json", |plan| plan["plan"]["train"]["steps"] = 7.into());
    let changed = "out/plan.json: was changed since it was written; make it with mantissa plan";
    for arguments in [&["run", "out", "--index", "1"][..], &["collect", "out"], &["status", "out"]]
    {
        refused(&place, arguments, changed);
    }
    mantissa::store::write(&place.path("out/plan.json"), b"{\"schema\": 1, \"plan\"").unwrap();
    let call = place.call(&["status", "out"]);
    let start = "mantissa: out/plan.json: is not a plan of this version (EOF while parsing";
    assert!(said(&call, 2).starts_with(start), "{}", call.stderr);
}

/// The lock of a process of another machine, written to so long ago.
fn lock_of_another_machine(place: &Place, run: (&str, u64), age: Duration) -> PathBuf {
    let path = place.path(&format!("out/runs/{}/seed-{}/record.lock-1", run.0, run.1));
    let holder = r#"{"words":"process 7 on there","machine":"there","process":7,"began":7}"#;
    mantissa::store::write(&path, holder.as_bytes()).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
    path
}

#[test]
fn a_unit_that_somebody_does_is_left_to_them_until_they_are_dead() {
    let place = Place::new();
    said(&place.call(&PLAN), 0);
    let lock = lock_of_another_machine(&place, RUNS[1], Duration::from_secs(30));
    let busy = "out: bf16-mixed, seed 0: is being done by process 7 on there; wait for its end";
    refused(&place, &["run", "out", "--index", "1"], busy);
    let forced = "out: runs/bf16-mixed/seed-0/record.json: is being done by process 7 on there; wait for its end";
    refused(&place, &[&PLAN[..], &["--force"]].concat(), forced);
    let status = place.call(&["status", "out"]).stdout;
    assert!(status.contains("running 1: bf16-mixed, seed 0: process 7 on there"), "{status}");
    // It was not heard of for an hour.
    File::options()
        .write(true)
        .open(lock)
        .unwrap()
        .set_modified(SystemTime::now() - Duration::from_hours(1))
        .unwrap();
    let status = place.call(&["status", "out"]).stdout;
    let lost = "lost 1: bf16-mixed, seed 0: process 7 on there ended without a word; begins anew";
    assert!(status.contains(lost), "{status}");
    said(&run(&place, 1), 0);
    assert_eq!(leftovers(&place), [""; 0]);
}

/// What a machine that is like no other would have left.
#[test]
fn runs_of_unlike_machines_are_marked() {
    let place = Place::new();
    said(&place.call(&PLAN), 0);
    for index in 0..5 {
        said(&run(&place, index), 0);
    }
    place.edit(&Place::record("bf16-mixed", 1), |record| {
        record["identity"]["device"] = "Another Processor".into();
        record["machine"]["device_name"] = "Another Processor".into();
    });
    said(&collect(&place), 0);
    let results = place.results();
    let kinds: Vec<usize> =
        results.machines.iter().map(|runs| runs.seeds.values().map(Vec::len).sum()).collect();
    assert_eq!(kinds.iter().sum::<usize>(), 4);
    assert_eq!(kinds.len(), 2);
    let notes = results.environment.notes.join("\n");
    for part in [
        "The runs were done on machines of 2 kinds: ",
        "Another Processor",
        "bf16-mixed: the runs of seed 1 were done on another kind of machine than those of fp32",
    ] {
        assert!(notes.contains(part), "{notes}");
    }
    let page = mantissa::store::read(&place.path("out/report.html")).unwrap();
    assert!(String::from_utf8(page).unwrap().contains("Another Processor"));
}

const KINDS: [&str; 4] = ["--kind", "big", "--kind", "small"];

fn train_blocks(train: Option<&TrainTime>) -> &[Seconds] {
    &train.unwrap().blocks
}

/// The timed blocks of training, by kind and variant.
fn blocks_by_kind(results: &Results) -> Vec<(&str, &str, &[Seconds])> {
    let kind = results.machine_kind.as_deref().unwrap();
    let first = results.variants.iter().map(|v| (kind, &*v.name, train_blocks(v.train.as_ref())));
    let others = results.other_kinds.iter().flat_map(|times| {
        times.variants.iter().map(|v| (&*times.kind, &*v.name, train_blocks(v.train.as_ref())))
    });
    first.chain(others).collect()
}

#[test]
fn each_kind_of_machine_is_timed_in_a_unit_of_its_own() {
    let place = Place::new();
    let planned = place.call(&[&PLAN[..], &KINDS].concat());
    let listed =
        "     4  timing of all variants on big\n     5  timing of all variants on small\n6 units; ";
    assert!(planned.stdout.contains(listed), "{}\n{}", planned.stdout, planned.stderr);
    for index in [0, 1, 2, 3, 5] {
        said(&run(&place, index), 0);
    }
    // The first is not timed yet.
    place.skip_the_report();
    said(&collect(&place), 5);
    let small = place.results();
    assert!(!small.complete && small.other_kinds.is_empty());
    assert_eq!(small.machine_kind.as_deref(), Some("small"));
    let missing = "Not timed yet: the kinds of machine big.".to_owned();
    assert!(small.environment.notes.contains(&missing), "{:?}", small.environment.notes);
    let status = place.call(&["status", "out", "--json"]);
    let units: Vec<Value> = serde_json::from_str(&status.stdout).unwrap();
    let timing: Vec<_> = units[4..].iter().map(|unit| (&unit["kind"], &unit["state"])).collect();
    let [big_kind, small_kind] = ["big", "small"].map(Value::from);
    assert_eq!(timing, [(&big_kind, &"waiting".into()), (&small_kind, &"finished".into())]);

    said(&place.call(&["run", "out", "--threads", "2", "--kind", "big"]), 0);
    // A unit that is finished is left alone, however this machine is.
    let again = place.call(&["run", "out", "--threads", "1", "--kind", "big"]);
    let before = "timing of all variants on big: was finished before\n";
    assert_eq!((said(&again, 0), &*again.stdout), ("", before));
    std::fs::remove_file(place.path("out/report.html")).unwrap();
    said(&collect(&place), 0);
    let both = place.results();
    assert!(both.complete);
    assert_eq!(both.machine_kind.as_deref(), Some("big"));
    let [times] = both.other_kinds.as_slice() else { panic!("one further kind") };
    assert_eq!(blocks_by_kind(&both)[2..], blocks_by_kind(&small));
    assert_ne!(both.variants[0].train, small.variants[0].train);
    // What is said of a further kind is what was said of it as the first.
    let ratio = |results: &Results| results.variants[1].against_baseline.clone().unwrap();
    assert_eq!(times.variants[1].train_time_ratio, ratio(&small).train_time_ratio);
    assert_eq!(times.variants[1].inference_time_ratio, ratio(&small).inference_time_ratio);
    let of_times = small.claims.iter().filter(|claim| claim.id.ends_with("-time"));
    assert_eq!(times.claims, of_times.cloned().collect::<Vec<_>>());
    assert_eq!(times.other_load, timing_record(&place, "small")["other_load"].as_f64());
    let alike =
        "The kinds of machine big and small were timed on machines that say the same of themselves";
    assert!(both.environment.notes.iter().any(|note| note.starts_with(alike)));
    for file in ["out/report.html", "out/summary.md"] {
        let text = String::from_utf8(mantissa::store::read(&place.path(file)).unwrap()).unwrap();
        assert!(text.contains("Times on kinds of machine"), "{file}");
    }
    assert_eq!(leftovers(&place), [""; 0]);
    // But for the kinds it is the experiment without them.
    let mut without = untimed(&place);
    for key in ["machine_kind", "other_kinds"] {
        without.as_object_mut().unwrap().remove(key);
    }
    assert_eq!(without, untimed(&whole(&[])));
}

/// The record of the timing on a kind of machine.
fn timing_record(place: &Place, kind: &str) -> Value {
    let path = place.path(&format!("out/runs/timing-{kind}.json"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn kinds_of_machine_are_fixed_by_the_plan() {
    let place = Place::new();
    for (kind, why) in [
        ("a/b", "\"a/b\" cannot be a folder's name; use 1 to 64 letters, digits, - and _"),
        ("", "\"\" cannot be a folder's name; use 1 to 64 letters, digits, - and _"),
        ("big", "\"big\" is given twice"),
    ] {
        let plan = [&PLAN[..], &["--kind", "big", "--kind", kind]].concat();
        refused(&place, &plan, &format!("--kind: {why}"));
    }
    said(&place.call(&[&PLAN[..], &KINDS].concat()), 0);
    said(&place.call(&["run", "out", "--threads", "2", "--kind", "small"]), 0);
    let start = "out: holds runs that cannot be kept: its plan names the kinds of machine big and small, this one";
    let end = "; choose another --out, or --force to replace them";
    let none = format!("{start} no kinds of machine: do its units with mantissa run{end}");
    refused(&place, &PLAN, &none);
    refused(&place, &EXPERIMENT, &none);
    let other = [&PLAN[..], &["--kind", "small"]].concat();
    refused(&place, &other, &format!("{start} the kinds of machine small{end}"));
    let unknown = "out: its plan names no kind of machine huge; known: big and small";
    refused(&place, &["run", "out", "--kind", "huge"], unknown);
    place.skip_the_report();
    said(&collect(&place), 5);
    refused(&place, &EXPERIMENT, &none);
    said(&place.call(&[&PLAN[..], &["--force"]].concat()), 0);
    let there = names(&place);
    assert!(!there.iter().any(|name| name.contains("timing")), "{there:?}");
    refused(
        &place,
        &["run", "out", "--kind", "big"],
        "out: its plan names no kind of machine big; known: none",
    );
}

#[test]
fn each_cell_of_a_matrix_is_timed_on_each_kind_of_machine() {
    let place = Place::new();
    let spec = [program_support::SPEC, MATRIX].concat();
    mantissa::store::write(&place.path("small.toml"), spec.as_bytes()).unwrap();
    let planned = place.call(&[&PLAN[..], &KINDS].concat());
    let last = "    11  hidden=8+4,lr=0.003: timing of all variants on small\n12 units; ";
    assert!(planned.stdout.contains(last), "{}\n{}", planned.stdout, planned.stderr);
    let runs = ["--units-per-task", "12", "--runs-only", "--index", "0"];
    said(&place.call(&[&["run", "out", "--threads", "2"], &runs[..]].concat()), 0);
    let status = place.call(&["status", "out"]).stdout;
    assert!(status.starts_with("12 units: 8 finished, 0 running"), "{status}");
    for (kind, finished) in [("small", 10), ("big", 12)] {
        said(&place.call(&["run", "out", "--threads", "2", "--kind", kind]), 0);
        let status = place.call(&["status", "out"]).stdout;
        assert!(status.starts_with(&format!("12 units: {finished} finished")), "{status}");
    }
    let why = "mantissa: out: holds runs that cannot be kept: its plan names the kinds of machine big and small";
    assert!(said(&place.experiment(&[]), 2).starts_with(why));
    let status = place.call(&["status", "out"]).stdout;
    assert!(status.starts_with("12 units: 12 finished"), "{status}");
}

const MATRIX: &str = "
[matrix]
model.hidden = [[4], [8, 4]]
train.optimizer.lr = [0.003]
";

#[test]
fn each_cell_of_a_matrix_is_an_experiment_and_one_report_has_all() {
    let place = Place::new();
    let spec = [program_support::SPEC, MATRIX].concat();
    mantissa::store::write(&place.path("small.toml"), spec.as_bytes()).unwrap();
    let call = place.experiment(&[]);
    assert!(said(&call, 0).contains("cell 2 of 2: hidden=8+4,lr=0.003"), "{}", call.stderr);
    assert!(call.stdout.ends_with("report on all cells: out/report.html\n"), "{}", call.stdout);
    for (cell, hidden) in [("hidden=4,lr=0.003", &[4][..]), ("hidden=8+4,lr=0.003", &[8, 4])] {
        let results = place.path(&format!("out/cells/{cell}/results.json"));
        let results: Value = serde_json::from_slice(&std::fs::read(results).unwrap()).unwrap();
        assert_eq!(results["plan"]["model"]["hidden"], serde_json::to_value(hidden).unwrap());
        assert_eq!(results["complete"], true);
    }
    let table = mantissa::store::read_to_string(&place.path("out/summary.md")).unwrap();
    for row in ["hidden=4,lr=0.003", "hidden=8+4,lr=0.003"] {
        assert!(table.contains(row), "{table}");
    }

    // The same in parts.
    let parts = Place::new();
    mantissa::store::write(&parts.path("small.toml"), spec.as_bytes()).unwrap();
    let planned = parts.call(&PLAN);
    let last = "     9  hidden=8+4,lr=0.003: timing of all variants\n10 units; ";
    assert!(planned.stdout.contains(last), "{}\n{}", planned.stdout, planned.stderr);
    let all = ["run", "out", "--threads", "2", "--units-per-task", "10", "--index", "0"];
    said(&parts.call(&all), 0);
    let status = parts.call(&["status", "out"]).stdout;
    assert!(status.starts_with("10 units: 10 finished"), "{status}");
    said(&collect(&parts), 0);
    for cell in ["hidden=4,lr=0.003", "hidden=8+4,lr=0.003"] {
        for (variant, seed) in RUNS {
            let record = format!("out/cells/{cell}/runs/{variant}/seed-{seed}/record.json");
            let [one, other] =
                [&place, &parts].map(|place| std::fs::read(place.path(&record)).unwrap());
            assert!(one == other, "{record}");
        }
    }
    // A matrix that has lost a cell would leave its runs out.
    let fewer = place.experiment(&["--set", "matrix.model.hidden=[[4]]"]);
    let why = "mantissa: out: holds runs that cannot be kept: this matrix is without hidden=8+4,lr=0.003; ";
    assert!(said(&fewer, 2).starts_with(why), "{}", fewer.stderr);
}

#[test]
fn force_removes_what_a_plan_lacks_and_nothing_else() {
    let place = Place::new();
    let spec = [program_support::SPEC, MATRIX].concat();
    mantissa::store::write(&place.path("small.toml"), spec.as_bytes()).unwrap();
    said(&place.call(&PLAN), 0);
    said(&run(&place, 5), 0);
    let lost = "out/cells/hidden=8+4,lr=0.003";
    assert!(place.path(&format!("{lost}/runs/fp32/seed-0/record.json")).exists());
    let theirs = ["notes.txt", "runs/fp32/seed-0/notes.txt"].map(|name| format!("{lost}/{name}"));
    for name in theirs.iter().map(String::as_str).chain(["out/cells/theirs/plan.json"]) {
        mantissa::store::write(&place.path(name), b"theirs").unwrap();
    }
    let end = "; choose another --out, or --force to replace them";
    let fewer = [&PLAN[..], &["--set", "matrix.model.hidden=[[4]]"]].concat();
    let why = "out: holds runs that cannot be kept: this matrix is without hidden=8+4,lr=0.003";
    refused(&place, &fewer, &format!("{why}{end}"));
    said(&place.call(&[&fewer[..], &["--force"]].concat()), 0);
    let kept = [
        "cells/hidden=4,lr=0.003/plan.json",
        "cells/hidden=8+4,lr=0.003/notes.txt",
        "cells/hidden=8+4,lr=0.003/runs/fp32/seed-0/notes.txt",
        "cells/theirs/plan.json",
        "matrix.json",
    ];
    assert_eq!(names(&place), kept);
    // From a matrix to one experiment, and back.
    let one = [&PLAN[..], &["--set", "matrix="]].concat();
    for (plan, why, first, last) in [
        (&one[..], "it is the folder of a matrix", kept[1], "plan.json"),
        (&fewer, "it is the folder of one experiment", kept[0], "matrix.json"),
    ] {
        refused(&place, plan, &format!("out: holds runs that cannot be kept: {why}{end}"));
        said(&place.call(&[plan, &["--force"]].concat()), 0);
        let there = names(&place);
        assert_eq!((&*there[0], &**there.last().unwrap()), (first, last));
    }
    assert_eq!(names(&place), kept);
}

#[test]
fn what_is_wrong_with_a_matrix_is_named_with_its_place() {
    let place = Place::new();
    for (matrix, message) in [
        (
            "[matrix]\nmodel.hidden = 4",
            "small.toml:27:16: matrix.model.hidden: must be a list of values, such as model.hidden = [1, 2]",
        ),
        (
            "[matrix]\ntrain.batch = []",
            "small.toml:27:15: matrix.train.batch: must be a list of values, such as train.batch = [1, 2]",
        ),
        ("[matrix]", "small.toml:26:1: matrix: must have 1 to 1000 combinations of values"),
        (
            "[matrix]\ntrain.batch = [10, 0]",
            "small.toml:27:15: train.batch: is 0; must be 1 to 65536",
        ),
    ] {
        let spec = [program_support::SPEC, matrix, "\n"].concat();
        mantissa::store::write(&place.path("small.toml"), spec.as_bytes()).unwrap();
        refused(&place, &EXPERIMENT, message);
    }
    let one = "this is for one experiment; choose its values with --set, and remove the matrix with --set matrix=";
    refused(&place, &["time", "small.toml"], &format!("small.toml:26:1: matrix: {one}"));
}
