//! The program on a GPU, from outside.

use std::path::Path;

use assert_cmd::Command;
use mantissa::record::{Results, Status};

use crate::gpu;

/// What every experiment here has in common: it is small.
const SMALL: [&str; 10] = [
    "data.train=200",
    "data.test=60",
    "train.steps=8",
    "train.batch=20",
    "train.schedule.warmup=2",
    "measure.census_every=0",
    "measure.timing_blocks=2",
    "measure.timing_steps=2",
    "measure.inference_batch=30",
    "model={kind=\"cnn\",hidden=[32,16],blocks=[{channels=8,kernel=3,padding=1,pool=\"max\"},\
     {channels=16,kernel=3,padding=1,pool=\"max\"}]}",
];

/// Runs a small experiment and returns the exit code, stderr and the results.
fn experiment(
    out: &Path,
    variants: &str,
    environment: &[(&str, &str)],
) -> (Option<i32>, String, Results) {
    let mut command = Command::cargo_bin("mantissa").unwrap();
    command.args(["experiment", "--device", "cuda", "--quiet", "--seeds", "1"]);
    command.args(["--variants", variants, "--out"]).arg(out);
    for setting in SMALL {
        command.args(["--set", setting]);
    }
    let output = command.envs(environment.iter().copied()).output().unwrap();
    let results = std::fs::read(out.join("results.json")).unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), complaint, serde_json::from_slice(&results).unwrap())
}

#[test]
fn an_experiment_says_which_gpu_it_ran_on_and_how_fast_that_multiplies() {
    let Some((_, _guard)) = gpu() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (code, complaint, results) = experiment(&folder.path().join("out"), "fp32,tf32", &[]);
    assert_eq!(code, Some(0), "{complaint}");
    assert_eq!(results.environment.device, "cuda:0");
    assert_eq!(results.environment.gpu.unwrap().name, results.environment.device_name);
    for variant in &results.variants {
        assert!(!variant.emulated, "{}", variant.name);
        let work = variant.train.as_ref().unwrap().work.unwrap();
        // Three products a layer but for the first, whose input gradient nobody asks for: outputs, places of an image, and values
        // that an output sees. The convolutions are of 3 × 3 on 28 × 28 and 14 × 14 places.
        let convolutions = [(8, 784, 9, 2), (16, 196, 8 * 9, 3)];
        let linear = [(32, 1, 16 * 49, 3), (16, 1, 32, 3), (10, 1, 16, 3)];
        let layers = convolutions.into_iter().chain(linear);
        let products: u64 = layers.map(|(o, places, seen, count)| o * places * seen * count).sum();
        assert_eq!(work.operations, 2 * 20 * products);
        assert!(work.peak.0 > 0.0);
    }
}

/// A limit that two bytes a weight fit under and four do not, of an emulated GPU: the runs that do not fit fail, with the size
/// that was asked for; the others go on, and the exit code says it.
#[test]
fn a_run_that_does_not_fit_fails_and_the_others_go_on() {
    let Some((device, _guard)) = gpu() else { return };
    let name = mantissa::device::gpus().join("\n");
    if !name.contains("Emulated GPU") {
        println!("skipped: the memory of this GPU cannot be limited");
        return;
    }
    drop(device);
    let folder = tempfile::tempdir().unwrap();
    let limit = [("EMULATED_GPU_MEMORY", "38600000")];
    let (code, complaint, results) =
        experiment(&folder.path().join("out"), "fp32,bf16-true", &limit);
    assert_eq!(code, Some(3), "{complaint}");
    assert!(complaint.contains("1 of 2 runs failed"), "{complaint}");
    let [fp32, bf16] = results.variants.as_slice() else { panic!("two variants") };
    assert_eq!(fp32.runs[0].status, Status::Failed);
    let reason = &fp32.runs[0].failure.as_ref().unwrap().reason;
    assert!(reason.starts_with("out of memory on the GPU: "), "{reason}");
    assert!(reason.ends_with(" more bytes were asked for"), "{reason}");
    assert!(fp32.untimed.as_ref().unwrap().starts_with("out of memory"), "{:?}", fp32.untimed);
    assert_eq!(bf16.runs[0].status, Status::Completed);
    assert!(bf16.train.is_some());
}
