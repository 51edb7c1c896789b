//! Training: one step by the contract, a whole run, and the phase in which variants are timed in turns.

mod peak;
mod run;
mod schedule;
mod timing;
mod trainer;

pub use peak::Peaks;
pub use run::{RunError, run};
pub use schedule::factor;
pub use timing::{Load, Phase, Timing, time_variants};
pub use trainer::{DeviceBatch, Inferencer, LoadBatch, Test, Trainer};
