//! `mantissa time`: one timed block of every variant, for a program that reads it.

use std::path::PathBuf;

use clap::Args;

use super::{Failure, Place, Selection, print};
use crate::record::Phases;
use crate::regression::{Metric, TimedBlock};
use crate::train::Phase;
use crate::units::Seconds;

/// More rounds than these are a slip of the pen.
pub(super) const MOST_ROUNDS: u64 = 1000;

#[derive(Debug, Args)]
pub(super) struct TimeArguments {
    /// The experiment, a TOML file as in experiments/; left out: the default experiment
    spec: Option<PathBuf>,
    #[command(flatten)]
    selection: Selection,
    /// Which block of a timing phase this is: odd ones go through the variants backwards
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..MOST_ROUNDS))]
    block: u64,
}

/// Times a block and prints it.
pub(super) fn time(arguments: &TimeArguments) -> Result<(), Failure> {
    let plan = arguments.selection.plan(arguments.spec.as_deref(), None, true)?;
    let Place { pool, device, environment } = arguments.selection.open()?;
    let block = arguments.block as usize;
    let phase = Phase { blocks: block..block + 1, products: false };
    let experiment = super::experiment_of(plan, true)?;
    let timings = pool.install(|| experiment.time_blocks(&device, phase));
    let timings = timings.map_err(Failure::machine)?;
    let plan = experiment.plan();
    let mut timed = TimedBlock::new(plan, &environment, &experiment.data().digest);
    let one = |blocks: &[Seconds]| blocks.first().map(|seconds| seconds.0);
    for (variant, timing) in plan.variants.iter().zip(timings) {
        let of = |phase: fn(&Phases) -> Seconds| timing.phases.first().map(|all| phase(all).0);
        let times = [
            (Metric::StepSeconds, one(&timing.train)),
            (Metric::ForwardSeconds, of(|phases| phases.forward)),
            (Metric::BackwardSeconds, of(|phases| phases.backward)),
            (Metric::UnscaleSeconds, of(|phases| phases.unscale)),
            (Metric::UpdateSeconds, of(|phases| phases.update)),
            (Metric::InferenceSeconds, one(&timing.inference)),
        ];
        timed.put(&variant.name, &times);
        for served in &timing.serving {
            let [prefill, decode] = Metric::of_serving(served.batch);
            let times = [(prefill, one(&served.prefill)), (decode, one(&served.decode))];
            timed.put(&variant.name, &times);
        }
        if let Some(reason) = timing.failure {
            timed.untimed.insert(variant.name.clone(), reason);
        }
    }
    print(&serde_json::to_string_pretty(&timed).map_err(Failure::machine)?)
}
