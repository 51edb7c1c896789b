//! What an experiment is about, and how candle's models take part.

mod candle;

pub use candle::{CandleTask, observe};

use sha2::{Digest as _, Sha256};

use crate::data::{self, DataError, Dataset};
use crate::formatting;
use crate::model::{Model, ModelError};
use crate::networks;
use crate::spec::{Augment, Overrides, OwnPlan, Plan, SpecError};

/// A model, the data that it learns from and is tested on, and how training images are augmented.
pub struct Task {
    /// The model.
    pub model: Model,
    /// The data.
    pub data: Dataset,
    /// The augmentation of the training images.
    pub augment: Augment,
    /// What to know of the model before trusting a result, a sentence each.
    pub notes: Vec<String>,
}

/// A task that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The data cannot be loaded, or are too few.
    #[error("data: {0}")]
    Data(#[from] DataError),
    /// The model does not fit the data.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl Task {
    /// A task of a model and the data that it was made for, without augmentation.
    pub fn new(model: Model, data: Dataset) -> Self {
        Self { model, data, augment: Augment::default(), notes: Vec::new() }
    }

    /// The plan of a spec that has neither data nor model, since the task brings its own. `name` is what messages call the spec.
    ///
    /// # Errors
    /// As [`Plan::read`], and when the spec has data or a model.
    pub fn plan(&self, name: &str, spec: &str) -> Result<Plan, SpecError> {
        let mut digest = Sha256::new();
        digest.update(format!("{:?}\n", self.model.engine()));
        for parameter in self.model.parameters.iter().chain(&self.model.state) {
            digest.update(format!("{parameter:?}\n"));
        }
        let own = OwnPlan {
            train: self.data.train.labels.len(),
            test: self.data.test.labels.len(),
            parameters: self.model.parameters.len(),
            values: self.model.parameters.iter().map(|p| p.len() as u64).sum(),
            digest: formatting::hex(&digest.finalize()),
        };
        Plan::read_for_task((name, spec), &Overrides::default(), &own)
    }

    /// The task of a plan: its data, read or drawn, and its model for them.
    ///
    /// # Errors
    /// When the data cannot be read, or the model does not fit them.
    pub fn of_plan(plan: &Plan) -> Result<Self, TaskError> {
        let data = data::load(&plan.data)?;
        let model = networks::model(&plan.model, data.shape, data.classes)?;
        Ok(Self { augment: data::augmentation(&plan.data), ..Self::new(model, data) })
    }
}
