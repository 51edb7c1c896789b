//! Whether results got worse: what is judged (`metric`), what it depends on (`fingerprint`), what it is held against
//! (`baseline`), and how (`judge`). A judgement is data; `export` writes it in the forms that others read.

mod allowance;
pub mod baseline;
mod block;
mod builds;
mod compact;
mod comparison;
mod exact;
pub mod export;
pub mod fingerprint;
mod judge;
mod measures;
mod metric;
mod noise;
#[cfg(test)]
mod tests;
mod times;

pub use allowance::{Allowance, AllowanceError};
pub use baseline::{Baseline, BaselineError};
pub use block::{BLOCK_VERSION, BlockError, TimedBlock};
pub use builds::{Rounds, judge_builds, unlike};
pub use judge::{Asked, Counts, Finding, Judgement, Outcome, Second, Verdict, judge, refused};
pub use measures::{Times, exact_metrics};
pub use metric::{BYTES_MARGIN, Better, Key, Kind, Measured, Metric, TIME_MARGIN};
pub use noise::Change;
pub use times::MACHINE_MARGIN;
