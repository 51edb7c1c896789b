//! Mantissa measures which floating-point precision a model should be trained and served in, on this machine.
//!
//! The features `cli`, the program, and `report`, with reports, baselines and histories, are on by default. Without them there are
//! experiments and their results.
//!
//! The modules are floors: each imports only from those below it (`ARCHITECTURE.md`, `tests/floors.rs`).

#[cfg(feature = "cli")]
pub mod cli;
pub mod experiment;
#[cfg(feature = "report")]
pub mod report;

#[cfg(feature = "report")]
pub mod history;

#[cfg(feature = "report")]
pub mod regression;

pub mod claims;
pub mod stats;

pub mod train;

pub mod task;

pub mod networks;

pub mod model;

pub mod layers;

pub mod ops;

pub mod numerics;

pub mod precision;

pub mod data;

pub mod record;
pub mod spec;

pub mod device;
pub mod formatting;
pub mod memory;
pub mod store;
pub mod units;
