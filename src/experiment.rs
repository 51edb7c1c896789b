//! An experiment: plan → runs → results. Decides the order, saves after every run, tells a listener what happens.

use std::path::Path;

use crate::record::{Environment, Results, RunSummary};
use crate::spec::Plan;

/// What happens while an experiment runs, for whoever shows progress.
#[derive(Debug)]
pub enum Event<'a> {
    /// Before the first run: how many runs there will be, and how many an earlier, interrupted call finished.
    Started {
        /// Runs in all.
        runs: usize,
        /// Runs kept from an interrupted call.
        kept: usize,
    },
    /// A run begins.
    RunStarted {
        /// The variant's name.
        variant: &'a str,
        /// The seed.
        seed: u64,
    },
    /// A step of the current run is done.
    Step {
        /// Steps done.
        done: u64,
        /// Steps in all.
        of: u64,
    },
    /// A run ended.
    RunFinished {
        /// The variant's name.
        variant: &'a str,
        /// How it went.
        summary: &'a RunSummary,
    },
    /// A timed block is done.
    TimingBlock {
        /// Blocks done.
        done: usize,
        /// Blocks in all.
        of: usize,
    },
    /// The results file was written.
    Saved(&'a Path),
}

/// An experiment that could not go on.
#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    /// The folder holds another experiment's results.
    #[error(
        "{0}: holds the results of another plan; choose another --out, or --force to replace them"
    )]
    Occupied(String),
    /// A file could not be read or written.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
}

/// How to run, beside the plan.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The folder of the results.
    pub out: &'a Path,
    /// Replace another experiment's results.
    pub force: bool,
    /// The machine, as it goes into the results.
    pub environment: &'a Environment,
}

/// Runs every variant and seed of the plan, then the timing phase, and leaves `results.json` and a record a run in
/// `options.out`.
///
/// # Errors
/// When the data cannot be read, the folder cannot be written or holds something else. A run that diverges or fails
/// is a result, not an error.
pub fn run(
    _plan: &Plan,
    _options: Options<'_>,
    _listen: &mut dyn FnMut(Event<'_>),
) -> Result<Results, ExperimentError> {
    Err(ExperimentError::Occupied(String::new()))
}
