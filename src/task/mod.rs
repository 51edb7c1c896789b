//! What an experiment is about, and how candle's models take part.

mod candle;

pub use candle::{CandleTask, observe};

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::data::{self, DataError, Dataset, Loading};
use crate::formatting;
use crate::model::{Model, ModelError, WeightsError};
use crate::networks::{self, DataShape};
use crate::record::TestMetric;
use crate::spec::{self, Augment, Overrides, OwnPlan, Plan, SpecError};
use crate::store::{self, StoreError};

/// A model, the data that it learns from and is tested on, and how training images are augmented.
///
/// ```
/// use mantissa::data;
/// use mantissa::layers::{Flatten, Linear, Sequential};
/// use mantissa::model::Model;
/// use mantissa::spec::DataPlan;
/// use mantissa::task::Task;
///
/// let data = data::load(&DataPlan::Digits { train: 50, test: 20, seed: 0 })?;
/// let model = Model::of_layers(data.shape(), |registry| {
///     let output = Linear::new(registry, "output", (28 * 28, 10), true);
///     Ok(Sequential(vec![Box::new(Flatten), Box::new(output)]))
/// })?;
/// let task = Task::new(model, data);
/// assert_eq!(task.data.samples(), [50, 20]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
///
/// ```
/// use mantissa::spec::{DEFAULT, Overrides, Plan};
/// use mantissa::task::{Task, TaskError};
///
/// let set = vec!["init=no/such/file.safetensors".to_owned()];
/// let plan = Plan::read("default.toml", DEFAULT, &Overrides { set, ..Overrides::default() })?;
/// assert!(matches!(Task::of_plan(&plan), Err(TaskError::Read(_))));
/// # Ok::<(), mantissa::spec::SpecError>(())
/// ```
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The data cannot be loaded, or are too few.
    #[error("data: {0}")]
    Data(#[from] DataError),
    /// The model does not fit the data.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The file of initial weights cannot be read.
    #[error("init: {0}")]
    Read(#[from] StoreError),
    /// The file of initial weights is not one of this model's weights.
    #[error("init: {}: {error}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: WeightsError,
    },
    /// The file of published figures cannot be read, or says what cannot be.
    #[error(transparent)]
    Reference(#[from] SpecError),
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
        let [train, test] = self.data.samples();
        let own = OwnPlan {
            train,
            test,
            task: match TestMetric::of(&self.data.train().targets) {
                TestMetric::Accuracy => spec::TaskKind::Classification,
                TestMetric::MeanSquaredError => spec::TaskKind::Regression,
                TestMetric::Perplexity => spec::TaskKind::LanguageModel,
            },
            length: self.data.context(),
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
        Self::of_plan_with(plan, Loading::default())
    }

    /// As [`Task::of_plan`], with data that are loaded so.
    ///
    /// # Errors
    /// As [`Task::of_plan`].
    pub fn of_plan_with(plan: &Plan, loading: Loading<'_>) -> Result<Self, TaskError> {
        let download = loading.download;
        let data = data::load_with(&plan.data, loading)?;
        let mut model = networks::model_with(&plan.model, &DataShape::of(&data), download)?;
        let notes = std::mem::take(&mut model.notes);
        let augment = data::augmentation(&plan.data);
        let task = Self { augment, notes, ..Self::new(model, data) };
        match &plan.init {
            Some(path) => task.starting_from(path),
            None => Ok(task),
        }
    }

    /// With runs that start from the weights of a safetensors file, whatever their seeds.
    ///
    /// # Errors
    /// When the file cannot be read, or its tensors are not those of the model: every one that does not fit is named.
    pub fn starting_from(mut self, path: &Path) -> Result<Self, TaskError> {
        let file = store::read(path)?;
        let mismatch = |error| TaskError::Weights { path: path.to_owned(), error };
        self.model.start_from(&file).map_err(mismatch)?;
        let digest = self.model.given_digest().unwrap_or_default();
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        self.notes.push(format!(
            "Every run starts from the weights of {file}, SHA-256 {digest}: seeds differ in the order of batches alone."
        ));
        Ok(self)
    }
}
