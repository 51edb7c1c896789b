//! Floating-point formats, rounding to them, and the policy that says which format does what. Knows no tensor.

mod format;
mod loss_scale;
mod policy;
mod rounding;

pub use format::{Format, FormatError, Overflow};
pub use loss_scale::{DynamicScale, LossScale, NON_FINITE_LOSSES, ScaleError};
pub use policy::{Policy, PolicyError};
pub use rounding::Rounder;
