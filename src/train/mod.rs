//! Training: one step by the contract, a whole run, and the phase in which variants are timed in turns.

mod batch;
mod checkpoint;
mod inference;
mod optimizer;
mod peak;
mod run;
mod schedule;
mod serving;
mod timing;
mod trainer;

pub use batch::DeviceBatch;
pub use checkpoint::Checkpoint;
pub use inference::Inferencer;
pub use peak::Peaks;
pub use run::{Ended, Follow, RunError, Trained, Wants, run};
pub use schedule::factor;
pub use serving::ServingTimes;
pub use timing::{Load, Phase, Timing, time_variants};
pub use trainer::{LoadBatch, Test, Trainer};

use candle_core::Device;

use crate::data::{Batches, DataError};
use crate::spec::{MeasurePlan, Plan, TrainPlan};
use crate::task::Task;

/// What runs have in common: the task, how it is trained, what is measured, and where.
#[derive(Clone, Copy)]
pub struct Setup<'a> {
    /// The model and its data.
    pub task: &'a Task,
    /// How the model is trained.
    pub train: &'a TrainPlan,
    /// What is measured.
    pub measure: &'a MeasurePlan,
    /// Where.
    pub device: &'a Device,
    /// Whether runs hand out their weights at the end.
    pub save_weights: bool,
}

impl<'a> Setup<'a> {
    /// What a plan says of how its runs are done.
    pub fn new(plan: &'a Plan, task: &'a Task, device: &'a Device) -> Self {
        Self { task, train: &plan.train, measure: &plan.measure, device, save_weights: false }
    }

    /// The batches of a seed.
    ///
    /// # Errors
    /// As [`Batches::new`].
    pub fn batches(&self, seed: u64) -> Result<Batches<'a>, DataError> {
        Batches::new(&self.task.data, self.train.batch, self.task.augment, seed)
    }
}
