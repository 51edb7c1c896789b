//! Mantissa measures which floating-point precision a model should be trained and served in, on this machine.
//!
//! A program asks about a model of its own with a [`task::Task`], which holds the model and its data, and an
//! [`experiment::Experiment`], which trains it under each policy. The results are a [`record::Results`]; [`report`] renders them.
//!
//! ```
//! use mantissa::data;
//! use mantissa::device::Device;
//! use mantissa::experiment::{Experiment, Machine, Options};
//! use mantissa::layers::{Flatten, Linear, Sequential};
//! use mantissa::model::Model;
//! use mantissa::spec::DataPlan;
//! use mantissa::store::Folder;
//! use mantissa::task::Task;
//!
//! let data = data::load(&DataPlan::Digits { train: 200, test: 100, seed: 0 })?;
//! let model = Model::of_layers(data.shape(), |registry| {
//!     let hidden = Linear::new(registry, "hidden", (28 * 28, 16), true).with_relu(registry, "relu");
//!     let output = Linear::new(registry, "output", (16, 10), false);
//!     Ok(Sequential(vec![Box::new(Flatten), Box::new(hidden), Box::new(output)]))
//! })?;
//! let task = Task::new(model, data);
//! let plan = task.plan("the example", "
//!     name = 'mine'
//!     variants = ['fp32', 'bf16-mixed']
//!     seeds = 2
//!     train = { steps = 5, batch = 20, optimizer = { kind = 'sgd', lr = 0.1 }, schedule = { warmup = 0 } }
//!     measure = { timing_blocks = 0 }
//! ")?;
//! # let dir = tempfile::tempdir()?;
//! # let out = dir.path().join("mine");
//! let (folder, machine) = (Folder::lock(&out, "the example")?, Machine::open(Device::Cpu)?);
//! let results = Experiment::new(plan, task)?.run(Options::new(&folder, &machine), &mut |_| ())?;
//! assert_eq!(results.variants.len(), 2);
//! # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
//! ```
//!
//! The features `cli`, the program, `hub`, files of the Hugging Face hub, and `report`, with reports, baselines and histories, are on by
//! default. Without them there are experiments and their results.
//!
//! The modules are floors: each imports only from those below it (`ARCHITECTURE.md`, `tests/floors.rs`).

#[cfg(feature = "cli")]
#[doc(hidden)] // what the program consists of
pub mod cli;
pub mod experiment;
#[cfg(feature = "report")]
pub mod report;

#[cfg(feature = "report")]
#[doc(hidden)] // for the program
pub mod history;

#[cfg(feature = "report")]
#[doc(hidden)] // for the program
pub mod regression;

#[doc(hidden)] // for reports; results have the verdicts
pub mod claims;
pub mod stats;

#[doc(hidden)] // what an experiment consists of
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
#[doc(hidden)] // for this crate's own text
pub mod formatting;
pub mod hub;
pub mod memory;
pub mod store;
pub mod units;
