//! A program that uses the library and leaves its allocator alone: nothing counts memory, so no memory is in its results, and
//! everything else is.

#![expect(clippy::unwrap_used, reason = "a test stops where something is not there")]

use mantissa::device::Device;
use mantissa::experiment::{Experiment, Machine, Options};
use mantissa::memory::{CountingAllocator, HostMeter, may_return_freed_pages};
use mantissa::ops;
use mantissa::record::ClaimVerdict;
use mantissa::spec::{DEFAULT, Overrides, Plan};
use mantissa::store::Folder;
use mantissa::task::Task;

fn small_plan() -> Plan {
    let set = [
        "data.train=300",
        "data.test=90",
        "train.steps=6",
        "train.schedule.warmup=1",
        "measure.timing_blocks=2",
        "measure.timing_steps=2",
        "measure.timing_warmup=1",
    ];
    let overrides = Overrides {
        set: set.map(str::to_owned).to_vec(),
        variants: Some(vec!["fp32".to_owned(), "bf16-mixed".to_owned()]),
        seeds: Some(2),
    };
    Plan::read("default.toml", DEFAULT, &overrides).unwrap()
}

#[test]
fn nothing_is_counted() {
    assert!(!CountingAllocator::is_installed());
    assert!(HostMeter::start().is_none());
    assert_eq!(ops::work_space(|| Ok(())).unwrap(), None);
}

#[test]
fn an_experiment_has_everything_but_memory() {
    let plan = small_plan();
    let machine = Machine::open(Device::Cpu).unwrap();
    let notes = &machine.environment.notes;
    let says = |what: &str| notes.iter().any(|note| note.contains(what));
    assert!(says("Memory is not measured"), "{notes:?}");
    assert_eq!(says("keep_freed_pages"), may_return_freed_pages());

    let folder = tempfile::tempdir().unwrap();
    let lock = Folder::lock(folder.path(), "a test").unwrap();
    let task = Task::of_plan(&plan).unwrap();
    let experiment = Experiment::new(plan, task).unwrap();
    let results = experiment.run(Options::new(&lock, &machine), &mut |_| ()).unwrap();
    assert!(results.complete);
    for variant in &results.variants {
        assert_eq!(variant.runs.len(), 2);
        assert!(variant.runs.iter().all(|run| run.test_accuracy.is_some()));
        assert!(variant.train.is_some() && variant.numerics.activations.elements > 0);
        assert_eq!(variant.memory, None);
        let inference = variant.inference.as_ref().unwrap();
        assert!(inference.batch_seconds.is_some() && inference.weights.0 > 0);
        assert_eq!(inference.peak_bytes, None);
    }
    let against = results.variants[1].against_baseline.as_ref().unwrap();
    assert!(against.train_time_ratio.is_some() && against.accuracy_difference.is_some());
    assert_eq!((against.train_memory_ratio, against.inference_memory_ratio), (None, None));
    for id in ["train-memory", "infer-memory"] {
        let of = |claim: &&mantissa::record::ClaimResult| claim.id == id;
        let claim = results.claims.iter().find(of).unwrap();
        assert_eq!(claim.verdict, ClaimVerdict::NotMeasured, "{id}");
    }
    let json = serde_json::to_string(&results).unwrap();
    assert!(json.contains(r#""memory":null"#) && json.contains(r#""peak_bytes":null"#));
}
