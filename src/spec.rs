//! Experiments as typed ([`Spec`], the TOML) and as meant ([`Plan`], validated).
//!
//! Three steps, a file each: `source` reads TOML and knows where each value stands, `typed` gives it types, `resolve`
//! fills in what was left out and refuses what cannot be.

mod difference;
mod keys;
mod matrix;
mod reference;
mod resolve;
mod source;
#[cfg(test)]
mod tests;
mod typed;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::precision::Policy;

pub(crate) use difference::values_that_differ;
#[doc(hidden)] // for the program
pub use matrix::Cell;
#[doc(hidden)] // for reports and this crate's tests
pub use reference::{Reference, ReferenceColumn, ReferenceColumns, ReferenceRow};
pub(crate) use resolve::{Invalid, check_names, defaults, limits};
pub use source::{Overrides, SpecError};
#[doc(hidden)] // for this crate's tests
pub use typed::Spec;

/// Counts the training images of data in files, or says why that is not possible.
#[doc(hidden)] // for the program and this crate's tests
pub type CountImages<'a> = &'a (dyn Fn(&DataPlan) -> Result<usize, String> + Sync);

/// The experiment that runs without a spec: `experiments/default.toml`.
///
/// ```
/// use mantissa::spec::{DEFAULT, Overrides, Plan};
///
/// let plan = Plan::read("default.toml", DEFAULT, &Overrides::default())?;
/// assert_eq!((&plan.name[..], &plan.baseline[..], plan.train.batch), ("digits", "fp32", 256));
/// # Ok::<(), mantissa::spec::SpecError>(())
/// ```
pub const DEFAULT: &str = include_str!("../experiments/default.toml");

/// A whole experiment, resolved: no later code meets a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Plan {
    /// The experiment's name: letters, digits, `-` and `_`; the default folder under `reports/`.
    pub name: String,
    /// The data.
    pub data: DataPlan,
    /// What learns.
    pub model: ModelPlan,
    /// A safetensors file of the weights that every run starts from; none: they are drawn from the seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    /// How.
    pub train: TrainPlan,
    /// What is measured, and when a difference counts.
    pub measure: MeasurePlan,
    /// The variant that all are compared with.
    pub baseline: String,
    /// The variants, in the order of the tables.
    pub variants: Vec<VariantPlan>,
    /// One run a variant and seed.
    pub seeds: Vec<u64>,
    /// What the baseline is also compared with.
    #[serde(default)]
    pub controls: Vec<ControlKind>,
    /// When a claim holds.
    #[serde(default)]
    pub claims: ClaimsPlan,
    /// The file of published figures that the report shows beside these; none: it shows none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<PathBuf>,
}

/// The baseline trained once more: what differs then, differs without any difference of precision.
///
/// ```
/// use mantissa::spec::{ControlKind, DEFAULT, Overrides, Plan};
///
/// let set = vec!["controls=['same-seeds']".to_owned()];
/// let plan = Plan::read("default.toml", DEFAULT, &Overrides { set, ..Overrides::default() })?;
/// assert_eq!(plan.controls, [ControlKind::SameSeeds]);
/// assert_eq!(ControlKind::SameSeeds.of("fp32"), "fp32+same-seeds");
/// # Ok::<(), mantissa::spec::SpecError>(())
/// ```
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum ControlKind {
    /// With the same seeds: the floor under every difference, 0 where training is deterministic.
    SameSeeds,
    /// With as many other seeds, each against one of the plan's: how far seeds alone move the accuracy.
    OtherSeeds,
}

impl ControlKind {
    /// The name in specs and results: `same-seeds`.
    pub fn name(self) -> &'static str {
        match self {
            Self::SameSeeds => "same-seeds",
            Self::OtherSeeds => "other-seeds",
        }
    }

    /// The name of the control of a baseline: `fp32+same-seeds`. No variant can have a `+` in its name.
    pub fn of(self, baseline: &str) -> String {
        format!("{baseline}+{}", self.name())
    }
}

/// A control as it is trained.
#[derive(Clone, Debug, PartialEq)]
#[doc(hidden)] // for this crate's tests
pub struct ControlPlan {
    /// What it is.
    pub kind: ControlKind,
    /// The baseline's policy under the control's name, such as `fp32+same-seeds`.
    pub variant: VariantPlan,
    /// Its seeds: the i-th is compared with the i-th of the plan.
    pub seeds: Vec<u64>,
}

impl Plan {
    /// The controls, resolved; none in a plan whose baseline is not among its variants.
    #[doc(hidden)] // for this crate's tests
    pub fn control_plans(&self) -> Vec<ControlPlan> {
        let baseline = self.variants.iter().find(|variant| variant.name == self.baseline);
        let control = |kind: ControlKind| {
            let VariantPlan { name, policy } = baseline?;
            let name = kind.of(name);
            let variant = VariantPlan { name, policy: *policy };
            Some(ControlPlan { kind, variant, seeds: self.control_seeds(kind) })
        };
        self.controls.iter().filter_map(|kind| control(*kind)).collect()
    }

    /// The seed of the plan with which one of a control's is compared: the one in its place.
    pub fn paired_seed(&self, kind: ControlKind, seed: u64) -> Option<u64> {
        let place = self.control_seeds(kind).iter().position(|known| *known == seed)?;
        self.seeds.get(place).copied()
    }

    fn control_seeds(&self, kind: ControlKind) -> Vec<u64> {
        let largest = self.seeds.iter().copied().max().unwrap_or_default();
        match kind {
            ControlKind::SameSeeds => self.seeds.clone(),
            ControlKind::OtherSeeds => {
                (largest..=u64::MAX).skip(1).take(self.seeds.len()).collect()
            }
        }
    }
}

/// The thresholds of the claims. Ratios are variant ÷ FP32.
///
/// ```
/// use mantissa::spec::{ClaimsPlan, DEFAULT, Overrides, Plan};
///
/// let set = vec!["claims.train_time=0.8".to_owned()];
/// let plan = Plan::read("default.toml", DEFAULT, &Overrides { set, ..Overrides::default() })?;
/// assert_eq!(plan.claims, ClaimsPlan { train_time: 0.8, ..ClaimsPlan::default() });
/// # Ok::<(), mantissa::spec::SpecError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ClaimsPlan {
    /// Largest ratio of step times that confirms `train-time`.
    pub train_time: f64,
    /// Smallest and largest ratio of training memory that confirm `train-memory`.
    pub train_memory: [f64; 2],
    /// Largest ratio of inference memory that confirms `infer-memory`.
    pub inference_memory: f64,
    /// Largest ratio of inference times that confirms `infer-time`.
    pub inference_time: f64,
    /// Largest ratio of BF16's share of overflow and underflow to FP16's that confirms `bf16-robust`.
    pub rarer: f64,
    /// Smallest share of gradient values that underflow which confirms `loss-scaling`.
    pub gradient_underflow: f64,
}

impl Default for ClaimsPlan {
    fn default() -> Self {
        Self {
            train_time: defaults::TRAIN_TIME,
            train_memory: defaults::TRAIN_MEMORY,
            inference_memory: defaults::INFERENCE_MEMORY,
            inference_time: defaults::INFERENCE_TIME,
            rarer: defaults::RARER,
            gradient_underflow: defaults::GRADIENT_UNDERFLOW,
        }
    }
}

/// One policy under its name.
///
/// ```
/// use mantissa::precision::Format;
/// use mantissa::spec::{DEFAULT, Overrides, Plan, VariantPlan};
///
/// let plan = Plan::read("default.toml", DEFAULT, &Overrides::default())?;
/// let VariantPlan { name, policy } = &plan.variants[1];
/// assert_eq!((&name[..], policy.compute, policy.params), ("fp16-mixed", Format::F16, Format::F32));
/// # Ok::<(), mantissa::spec::SpecError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VariantPlan {
    /// Unique in the plan; also a folder's name.
    pub name: String,
    /// The policy.
    #[schemars(with = "String")]
    pub policy: Policy,
}

/// The data: samples in C × H × W, and a label or a target each.
///
/// ```
/// use mantissa::data;
/// use mantissa::spec::{DataPlan, TableTask, TableTest, TestShare};
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("table.csv");
/// std::fs::write(&path, "a,b,y\n1,2,3\n4,5,9\n7,8,15\n0,1,1\n")?;
/// let plan = DataPlan::Csv {
///     train: path,
///     test: TableTest::Share(TestShare { share: 0.25, seed: 0 }),
///     target: "y".to_owned(),
///     features: None,
///     task: TableTask::Regression,
/// };
/// assert_eq!(data::load(&plan)?.samples(), [3, 1]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum DataPlan {
    /// Synthetic digits, 1 × 28 × 28, 10 classes: no files.
    Digits {
        /// Training images.
        train: usize,
        /// Test images.
        test: usize,
        /// Seed of the drawing.
        seed: u64,
    },
    /// Those of a task made in Rust; no spec can ask for them.
    Own {
        /// Training images.
        train: usize,
        /// Test images.
        test: usize,
        /// What is learnt.
        task: TaskKind,
    },
    /// IDX files (MNIST, Fashion-MNIST), plain or gzip.
    Idx {
        /// Image file, magic 2051.
        train_images: PathBuf,
        /// Label file, magic 2049.
        train_labels: PathBuf,
        /// Where the test split comes from.
        test: IdxTest,
    },
    /// CIFAR-10 in the official binary layout: 3 × 32 × 32, 10 classes.
    Cifar10 {
        /// Folder with `data_batch_1.bin` … `data_batch_5.bin` and `test_batch.bin`.
        path: PathBuf,
        /// Augmentation of the training images.
        augment: Augment,
    },
    /// CIFAR-100 in the official binary layout: 3 × 32 × 32, 100 fine classes.
    Cifar100 {
        /// Folder with `train.bin` and `test.bin`.
        path: PathBuf,
        /// Augmentation of the training images.
        augment: Augment,
    },
    /// PNG and JPEG images of one size, grey or RGB, one folder a class.
    #[serde(rename = "image-folder")]
    ImageFolder {
        /// Folder with the folders `train` and `test`, or, with a test share, with the folders of the classes.
        path: PathBuf,
        /// Height and width to which every image is resized.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resize: Option<[usize; 2]>,
        /// The share of the images to test on; none: those in `test`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        test: Option<TestShare>,
        /// Augmentation of the training images.
        augment: Augment,
    },
    /// Arrays of `NumPy`: `.npy` files, or members of an `.npz` archive. The first dimension counts samples.
    Npy {
        /// The `.npz` archive; none: each array is a file.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        archive: Option<PathBuf>,
        /// Inputs to train on.
        train_inputs: PathBuf,
        /// Labels or targets to train on.
        train_targets: PathBuf,
        /// Where the test split comes from.
        test: NpyTest,
        /// What is learnt.
        task: TableTask,
    },
    /// A table in a CSV file with a header row.
    Csv {
        /// The table to train on.
        train: PathBuf,
        /// Where the test split comes from.
        test: TableTest,
        /// The column to predict.
        target: String,
        /// The columns to predict it from; none: all others.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        features: Option<Vec<String>>,
        /// What is learnt.
        task: TableTask,
    },
    /// Texts, each with a class, in a Parquet, CSV or JSON Lines file.
    Text {
        /// Where the texts are.
        #[serde(flatten)]
        files: TextFiles,
        /// The column of the texts.
        text: String,
        /// The column of the classes.
        target: String,
        /// Tokens of a text, at most; longer ones are cut.
        length: usize,
        /// The file of the tokenizer; none: one is made of the training texts.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tokenizer: Option<PathBuf>,
        /// Tokens of a tokenizer that is made, at most.
        vocabulary: usize,
    },
    /// Plain text, in sequences of one length.
    #[serde(rename = "plain-text")]
    PlainText {
        /// A file to train on, or a folder of them.
        train: PathBuf,
        /// Where the test split comes from.
        test: TextTest,
        /// Tokens of a sequence.
        length: usize,
        /// What the tokens are.
        tokens: TokensPlan,
    },
}

impl DataPlan {
    /// What is learnt.
    pub fn task(&self) -> TaskKind {
        match self {
            Self::Own { task, .. } => *task,
            Self::Npy { task, .. } | Self::Csv { task, .. } => match task {
                TableTask::Classification => TaskKind::Classification,
                TableTask::Regression => TaskKind::Regression,
            },
            Self::Digits { .. }
            | Self::Idx { .. }
            | Self::Cifar10 { .. }
            | Self::Cifar100 { .. }
            | Self::ImageFolder { .. }
            | Self::Text { .. } => TaskKind::Classification,
            Self::PlainText { .. } => TaskKind::LanguageModel,
        }
    }

    /// Takes the tokenizer of a checkpoint's folder for texts that name none.
    fn take_tokenizer(&mut self, folder: &Path) {
        let file = folder.join("tokenizer.json");
        match self {
            Self::Text { tokenizer: tokenizer @ None, .. } => *tokenizer = Some(file),
            Self::PlainText { tokens: tokens @ TokensPlan::Characters, .. } => {
                *tokens = TokensPlan::Tokenizer(file);
            }
            _ => {}
        }
    }
}

/// What is learnt of arrays and tables, whose targets may be either.
///
/// ```
/// use mantissa::spec::TableTask;
///
/// let task: TableTask = serde_json::from_str("\"regression\"")?;
/// assert_eq!(task, TableTask::Regression);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TableTask {
    /// Labels.
    Classification,
    /// Numbers.
    Regression,
}

/// What is learnt.
///
/// ```
/// use mantissa::spec::{DataPlan, TaskKind};
///
/// let digits = DataPlan::Digits { train: 50, test: 20, seed: 0 };
/// assert_eq!(digits.task(), TaskKind::Classification);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TaskKind {
    /// Labels: the loss is cross-entropy, the metric accuracy.
    Classification,
    /// Numbers: loss and metric are the mean squared error.
    Regression,
    /// The next token of each position of a text: the loss is cross-entropy, the metric perplexity.
    LanguageModel,
}

/// The test split of plain text.
///
/// ```
/// use mantissa::data;
/// use mantissa::spec::{DataPlan, TextTest, TokensPlan};
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("text.txt");
/// std::fs::write(&path, "To be, or not to be, that is the question. ".repeat(20))?;
/// // The last tenth of the text is left to test on.
/// let (test, tokens) = (TextTest::Last(0.1), TokensPlan::Characters);
/// let data = data::load(&DataPlan::PlainText { train: path, test, length: 16, tokens })?;
/// assert_eq!(data.shape(), [1, 1, 16]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TextTest {
    /// A text of its own: a file, or a folder of them.
    File(PathBuf),
    /// The last share of the training text, over 0 and below 1, which the training split then lacks.
    Last(f64),
}

/// The files of texts.
///
/// ```
/// use mantissa::data;
/// use mantissa::spec::{DataPlan, TableTest, TestShare, TextFiles};
///
/// # let dir = tempfile::tempdir()?;
/// # let train = dir.path().join("train.csv");
/// std::fs::write(&train, "label,text\n0,a bad film\n1,a good film\n0,bad\n1,good\n")?;
/// let test = TableTest::Share(TestShare { share: 0.25, seed: 0 });
/// let data = data::load(&DataPlan::Text {
///     files: TextFiles::Named { train, test },
///     text: "text".to_owned(),
///     target: "label".to_owned(),
///     length: 8,
///     tokenizer: None,
///     vocabulary: 256,
/// })?;
/// assert_eq!((data.samples(), data.outputs()), ([3, 1], 2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum TextFiles {
    /// Those that are named; a path that begins with `hub:` is a file of the Hugging Face hub.
    Named {
        /// The texts to train on.
        train: PathBuf,
        /// Where the test split comes from.
        test: TableTest,
    },
    /// Parquet files named after their splits, such as those of a data set of the hub.
    Source {
        /// Their folder, or `hub:OWNER/NAME`, with `@REVISION` where it is not `main`.
        source: PathBuf,
        /// The share of the training texts to test on; none: there is a file of test texts.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        test_share: Option<TestShare>,
    },
}

/// What the tokens of plain text are.
///
/// ```
/// use mantissa::data;
/// use mantissa::spec::{DataPlan, TextTest, TokensPlan};
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("text.txt");
/// std::fs::write(&path, "abba".repeat(100))?;
/// let (test, tokens) = (TextTest::Last(0.5), TokensPlan::Characters);
/// let data = data::load(&DataPlan::PlainText { train: path, test, length: 10, tokens })?;
/// assert!(data.vocabulary() >= Some(2), "a and b");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokensPlan {
    /// Its characters.
    Characters,
    /// Those of a tokenizer's file.
    Tokenizer(PathBuf),
    /// Pairs of bytes, made of the training text: so many tokens at most.
    Made(usize),
}

/// A test split that is a share of the samples.
///
/// ```
/// use mantissa::spec::{TableTest, TestShare};
///
/// // A fifth of the rows, chosen by a seed.
/// let test = TableTest::Share(TestShare { share: 0.2, seed: 1 });
/// assert_eq!(serde_json::to_string(&test)?, r#"{"share":{"share":0.2,"seed":1}}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TestShare {
    /// The share, over 0 and below 1; rounded to whole samples.
    pub share: f64,
    /// Seed of the choice.
    pub seed: u64,
}

/// The test split of arrays.
///
/// ```
/// use mantissa::spec::{DataPlan, NpyTest, TableTask, TaskKind};
///
/// let plan = DataPlan::Npy {
///     archive: Some("data.npz".into()),
///     train_inputs: "x_train".into(),
///     train_targets: "y_train".into(),
///     test: NpyTest::Files { inputs: "x_test".into(), targets: "y_test".into() },
///     task: TableTask::Regression,
/// };
/// assert_eq!(plan.task(), TaskKind::Regression);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NpyTest {
    /// Arrays of its own.
    Files {
        /// Inputs.
        inputs: PathBuf,
        /// Labels or targets.
        targets: PathBuf,
    },
    /// A share of the training arrays, which the training split then lacks.
    Share(TestShare),
}

/// The test split of a table.
///
/// ```
/// use mantissa::data;
/// use mantissa::spec::{DataPlan, TableTask, TableTest};
///
/// # let dir = tempfile::tempdir()?;
/// # let [train, test] = ["train.csv", "test.csv"].map(|name| dir.path().join(name));
/// std::fs::write(&train, "a,class\n1,cat\n2,dog\n3,dog\n")?;
/// std::fs::write(&test, "a,class\n4,cat\n")?;
/// let (test, target) = (TableTest::File(test), "class".to_owned());
/// let data = data::load(&DataPlan::Csv { train, test, target, features: None, task: TableTask::Classification })?;
/// assert_eq!((data.samples(), data.outputs()), ([3, 1], 2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TableTest {
    /// A table of its own.
    File(PathBuf),
    /// A share of the training table, which the training split then lacks.
    Share(TestShare),
}

/// What a task in Rust brings instead of the `data` and `model` of a spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnPlan {
    /// Training samples.
    pub train: usize,
    /// Test samples.
    pub test: usize,
    /// What is learnt.
    pub task: TaskKind,
    /// Tokens of a sequence, of a language model.
    pub length: Option<usize>,
    /// Parameters of the model.
    pub parameters: usize,
    /// Their values.
    pub values: u64,
    /// SHA-256 of whose operations compute it, and of the names, shapes and initializations of its parameters, in hexadecimal
    /// digits.
    pub digest: String,
}

impl OwnPlan {
    pub(crate) fn data(&self) -> DataPlan {
        DataPlan::Own { train: self.train, test: self.test, task: self.task }
    }

    pub(crate) fn model(&self) -> ModelPlan {
        let Self { parameters, values, digest, .. } = self.clone();
        ModelPlan::Own { parameters, values, digest }
    }
}

/// The test split of IDX data.
///
/// ```
/// use mantissa::spec::{DataPlan, IdxTest, TaskKind};
///
/// // MNIST without its test files: 10,000 images of the training files are left to test on.
/// let plan = DataPlan::Idx {
///     train_images: "train-images-idx3-ubyte.gz".into(),
///     train_labels: "train-labels-idx1-ubyte.gz".into(),
///     test: IdxTest::HeldOut(10_000),
/// };
/// assert_eq!(plan.task(), TaskKind::Classification);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IdxTest {
    /// Files of its own.
    Files {
        /// Image file.
        images: PathBuf,
        /// Label file.
        labels: PathBuf,
    },
    /// The last images of the training files, which the training split then lacks.
    HeldOut(usize),
}

/// What is done to a training image, drawn anew for every epoch from the run's seed.
///
/// ```
/// use mantissa::spec::Augment;
///
/// let augment: Augment = serde_json::from_str(r#"{ "crop": 4, "flip": true }"#)?;
/// assert_eq!(augment, Augment { crop: 4, flip: true });
/// assert_eq!(Augment::default(), Augment { crop: 0, flip: false });
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Zero padding on every side before a random crop to the original size; 0 crops nothing.
    pub crop: usize,
    /// Mirror left and right with probability ½.
    pub flip: bool,
}

/// The model.
///
/// ```
/// use mantissa::networks::{self, DataShape};
/// use mantissa::spec::ModelPlan;
///
/// // 3 n blocks of two convolutions, one convolution before them and a linear layer behind them: 6 n + 2 layers with weights.
/// let data = DataShape { shape: [3, 32, 32], vocabulary: None, outputs: 10, next_tokens: false };
/// let model = networks::model(&ModelPlan::Resnet { depth: 20, width: 16 }, &data)?;
/// let weights = model.parameters.iter().filter(|parameter| parameter.shape.len() > 1);
/// assert!(weights.count() >= 20);
/// # Ok::<(), mantissa::model::ModelError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ModelPlan {
    /// Linear layers with an activation between.
    Mlp {
        /// Widths of the hidden layers; input and output follow from the data.
        hidden: Vec<usize>,
        /// Between the layers.
        activation: Activation,
        /// Probability of dropping a hidden activation, 0 ≤ p < 1.
        #[serde(deserialize_with = "finite")]
        dropout: f32,
    },
    /// The one of a task made in Rust; no spec can ask for it.
    Own {
        /// Parameters.
        parameters: usize,
        /// Their values.
        values: u64,
        /// SHA-256 of whose operations compute it, and of the names, shapes and initializations of the parameters, in hexadecimal
        /// digits.
        digest: String,
    },
    /// Blocks of convolution, optional batch norm, activation and pooling; then linear layers.
    Cnn {
        /// The blocks.
        blocks: Vec<ConvBlock>,
        /// Widths of the linear layers after them.
        hidden: Vec<usize>,
        /// After each convolution and hidden linear layer.
        activation: Activation,
        /// Batch norm after each convolution.
        batch_norm: bool,
        /// Probability of dropping before each linear layer.
        #[serde(deserialize_with = "finite")]
        dropout: f32,
    },
    /// The layers of a list, then a linear layer to the outputs.
    Layers {
        /// The layers.
        layers: Vec<LayerPlan>,
    },
    /// A transformer that classifies texts: an embedding, blocks of attention and linear layers, and the pooled result.
    Encoder(EncoderPlan),
    /// A transformer that predicts the next token of each position.
    Decoder(DecoderPlan),
    /// A checkpoint in the layout of Hugging Face's Transformers: an encoder (BERT, `DistilBERT`) or a decoder (GPT-2, Llama).
    Pretrained {
        /// The folder of `config.json` and `model.safetensors` or its shards, or `hub:OWNER/NAME`.
        folder: PathBuf,
        /// Probability of dropping what a block adds.
        #[serde(deserialize_with = "finite")]
        dropout: f32,
        /// Probability of dropping a probability of attention.
        #[serde(default, deserialize_with = "finite", skip_serializing_if = "is_zero")]
        attention_dropout: f32,
    },
    /// The CIFAR residual network of He et al. 2015, section 4.2.
    Resnet {
        /// 6n + 2.
        depth: usize,
        /// Channels of the first stage: 16 in the paper.
        width: usize,
    },
}

/// A transformer that classifies texts.
///
/// ```
/// use mantissa::networks::{self, DataShape};
/// use mantissa::spec::{EncoderPlan, ModelPlan, NormPlan, TextPool};
///
/// let plan = EncoderPlan {
///     width: 32,
///     depth: 2,
///     heads: 4,
///     feed_forward: 64,
///     dropout: 0.1,
///     attention_dropout: 0.1,
///     norm: NormPlan::After,
///     pool: TextPool::First,
///     residual_init: 1.0,
/// };
/// // Texts of at most 16 tokens, in two classes.
/// let data = DataShape { shape: [1, 1, 16], vocabulary: Some(100), outputs: 2, next_tokens: false };
/// let model = networks::model(&ModelPlan::Encoder(plan), &data)?;
/// assert_eq!(model.parameters[0].shape, [100, 32], "a row for each token");
/// # Ok::<(), mantissa::model::ModelError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EncoderPlan {
    /// Values of a token.
    pub width: usize,
    /// Blocks.
    pub depth: usize,
    /// Heads of attention, which divide the width.
    pub heads: usize,
    /// Values between the linear layers of a block.
    pub feed_forward: usize,
    /// Probability of dropping what a block adds.
    #[serde(deserialize_with = "finite")]
    pub dropout: f32,
    /// Probability of dropping a probability of attention.
    #[serde(default, deserialize_with = "finite", skip_serializing_if = "is_zero")]
    pub attention_dropout: f32,
    /// Where the norm of a block is.
    pub norm: NormPlan,
    /// What is made of the tokens of a text.
    pub pool: TextPool,
    /// The deviation of the initial weights that end what a block adds, ÷ that of other weights.
    #[serde(deserialize_with = "finite")]
    pub residual_init: f32,
}

/// A transformer that predicts the next token of each position.
///
/// ```
/// use mantissa::networks::{self, DataShape};
/// use mantissa::spec::{DecoderPlan, DecoderStyle, ModelPlan};
///
/// let plan = DecoderPlan {
///     width: 32,
///     depth: 2,
///     heads: 4,
///     kv_heads: 2,
///     feed_forward: 64,
///     dropout: 0.0,
///     attention_dropout: 0.0,
///     style: DecoderStyle::Llama,
///     residual_init: 1.0,
/// };
/// let data = DataShape { shape: [1, 1, 16], vocabulary: Some(100), outputs: 100, next_tokens: true };
/// let model = networks::model(&ModelPlan::Decoder(plan), &data)?;
/// assert_eq!(model.parameters[0].shape, [100, 32], "a row for each token");
/// # Ok::<(), mantissa::model::ModelError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DecoderPlan {
    /// Values of a token.
    pub width: usize,
    /// Blocks.
    pub depth: usize,
    /// Heads of attention, which divide the width.
    pub heads: usize,
    /// Heads of keys and values, which divide the heads.
    pub kv_heads: usize,
    /// Values between the linear layers of a block.
    pub feed_forward: usize,
    /// Probability of dropping what a block adds.
    #[serde(deserialize_with = "finite")]
    pub dropout: f32,
    /// Probability of dropping a probability of attention.
    #[serde(default, deserialize_with = "finite", skip_serializing_if = "is_zero")]
    pub attention_dropout: f32,
    /// Whose blocks they are.
    pub style: DecoderStyle,
    /// The deviation of the initial weights that end what a block adds, ÷ that of other weights.
    #[serde(deserialize_with = "finite")]
    pub residual_init: f32,
}

/// Whose blocks those of a decoder are.
///
/// ```
/// use mantissa::spec::DecoderStyle;
///
/// let style: DecoderStyle = serde_json::from_str("\"gpt2\"")?;
/// assert_eq!(style, DecoderStyle::Gpt2);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DecoderStyle {
    /// GPT-2 (Radford et al. 2019): layer norm, GELU by tanh, learned positions, biases, and the embedding as the output's weight.
    Gpt2,
    /// Llama (Touvron et al. 2023, arXiv 2302.13971): RMS norm, `SwiGLU`, rotary positions, no biases.
    Llama,
}

/// Where the norm of a transformer's block is.
///
/// ```
/// use mantissa::spec::NormPlan;
///
/// let norm: NormPlan = serde_json::from_str("\"after\"")?;
/// assert_eq!(norm, NormPlan::After);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NormPlan {
    /// x + block(norm(x)), as in GPT-2.
    Before,
    /// norm(x + block(x)), as in BERT.
    After,
}

/// What is made of the tokens of a text.
///
/// ```
/// use mantissa::spec::TextPool;
///
/// let pool: TextPool = serde_json::from_str("\"first\"")?;
/// assert_eq!(pool, TextPool::First);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TextPool {
    /// The mean over all of them.
    Mean,
    /// The first.
    First,
}

/// One layer of a list. What it takes follows from the layer before it.
///
/// ```
/// use mantissa::networks::{self, DataShape};
/// use mantissa::spec::{LayerPlan, ModelPlan};
///
/// let data = DataShape { shape: [1, 8, 8], vocabulary: None, outputs: 10, next_tokens: false };
/// let layers = vec![LayerPlan::Flatten, LayerPlan::Linear(32), LayerPlan::Relu];
/// let model = networks::model(&ModelPlan::Layers { layers }, &data)?;
/// // The layer to the outputs is added.
/// let values: usize = model.parameters.iter().map(|parameter| parameter.len()).sum();
/// assert_eq!(values, 64 * 32 + 32 + 32 * 10 + 10);
/// # Ok::<(), mantissa::model::ModelError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LayerPlan {
    /// A fully connected layer with bias, of so many outputs; of images it takes the values of all channels and pixels.
    Linear(usize),
    /// A convolution.
    Conv(ConvPlan),
    /// Batch norm over the images of a batch and their pixels.
    BatchNorm,
    /// max(x, 0).
    Relu,
    /// x Φ(x), exact (erf).
    Gelu,
    /// x Φ(x) by its approximation with tanh.
    GeluTanh,
    /// tanh(x).
    Tanh,
    /// Largest of 2 × 2.
    MaxPool,
    /// Mean of 2 × 2.
    AvgPool,
    /// Mean over the whole image.
    GlobalAvgPool,
    /// An image as its values in one row.
    Flatten,
    /// Drops values with this probability, 0 ≤ p < 1.
    Dropout(#[serde(deserialize_with = "finite")] f32),
    /// These layers and x itself, added, then max(·, 0). Where the layers change the shape, x goes through a 1 × 1 convolution with
    /// batch norm, or through a linear layer.
    Residual(Vec<Self>),
}

/// A convolution of a list of layers.
///
/// ```
/// use mantissa::networks::{self, DataShape};
/// use mantissa::spec::{ConvPlan, LayerPlan, ModelPlan};
///
/// let conv = ConvPlan { channels: 16, kernel: 3, stride: 1, padding: 1, dilation: 1, groups: 1, bias: false };
/// let layers = vec![LayerPlan::Conv(conv), LayerPlan::BatchNorm, LayerPlan::Relu, LayerPlan::GlobalAvgPool];
/// let data = DataShape { shape: [3, 32, 32], vocabulary: None, outputs: 10, next_tokens: false };
/// let model = networks::model(&ModelPlan::Layers { layers }, &data)?;
/// assert_eq!(model.parameters[0].shape, [16, 3, 3, 3]);
/// # Ok::<(), mantissa::model::ModelError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConvPlan {
    /// Output channels.
    pub channels: usize,
    /// Side of the square kernel.
    pub kernel: usize,
    /// Step of the kernel.
    pub stride: usize,
    /// Zero padding on every side.
    pub padding: usize,
    /// Distance between kernel elements.
    pub dilation: usize,
    /// Groups of channels that do not see each other.
    pub groups: usize,
    /// Whether it adds a bias a channel.
    pub bias: bool,
}

/// One block of a convolutional network.
///
/// ```
/// use mantissa::networks::{self, DataShape};
/// use mantissa::spec::{Activation, ConvBlock, ModelPlan, Pool};
///
/// let block = ConvBlock { channels: 8, kernel: 3, stride: 1, padding: 1, dilation: 1, groups: 1, pool: Pool::Max };
/// let plan = ModelPlan::Cnn {
///     blocks: vec![block, ConvBlock { channels: 16, ..block }],
///     hidden: vec![],
///     activation: Activation::Relu,
///     batch_norm: false,
///     dropout: 0.0,
/// };
/// let data = DataShape { shape: [1, 28, 28], vocabulary: None, outputs: 10, next_tokens: false };
/// let model = networks::model(&plan, &data)?;
/// // 28 × 28 pixels are halved twice.
/// assert!(model.parameters.iter().any(|parameter| parameter.shape == [10, 16 * 7 * 7]));
/// # Ok::<(), mantissa::model::ModelError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConvBlock {
    /// Output channels.
    pub channels: usize,
    /// Side of the square kernel.
    pub kernel: usize,
    /// Step of the kernel.
    pub stride: usize,
    /// Zero padding on every side.
    pub padding: usize,
    /// Distance between kernel elements.
    pub dilation: usize,
    /// Groups of channels that do not see each other.
    pub groups: usize,
    /// Pooling after the activation.
    pub pool: Pool,
}

/// Pooling, 2 × 2 with stride 2, or over the whole image.
///
/// ```
/// use mantissa::spec::Pool;
///
/// let pool: Pool = serde_json::from_str("\"avg\"")?;
/// assert_eq!(pool, Pool::Avg);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Pool {
    /// None.
    None,
    /// Largest of 2 × 2.
    Max,
    /// Mean of 2 × 2.
    Avg,
    /// Mean over the whole image.
    Global,
}

/// A non-linearity.
///
/// ```
/// use mantissa::spec::Activation;
///
/// let activation: Activation = serde_json::from_str("\"gelu_tanh\"")?;
/// assert_eq!(activation, Activation::GeluTanh);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// max(x, 0).
    Relu,
    /// x Φ(x), exact (erf).
    Gelu,
    /// x Φ(x) by its approximation with tanh, as in GPT-2.
    #[serde(rename = "gelu_tanh")]
    GeluTanh,
    /// tanh(x).
    Tanh,
}

/// Training.
///
/// ```
/// use mantissa::spec::{DEFAULT, Overrides, Plan};
///
/// let set = vec!["train.steps=500".to_owned(), "train.clip_norm=1".to_owned()];
/// let plan = Plan::read("default.toml", DEFAULT, &Overrides { set, ..Overrides::default() })?;
/// assert_eq!((plan.train.steps, plan.train.clip_norm), (500, Some(1.0)));
/// # Ok::<(), mantissa::spec::SpecError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrainPlan {
    /// Optimizer steps, skipped ones included. A spec's epochs are these steps from here on.
    pub steps: u64,
    /// Samples in a micro-batch.
    pub batch: usize,
    /// Micro-batches whose gradients are summed, in f32, before a step.
    pub accumulate: usize,
    /// The optimizer.
    pub optimizer: OptimizerPlan,
    /// The learning rate over the steps.
    pub schedule: SchedulePlan,
    /// Largest global norm of the unscaled gradient.
    pub clip_norm: Option<f64>,
    /// ε of label smoothing, 0 ≤ ε < 1.
    #[serde(deserialize_with = "finite")]
    pub label_smoothing: f32,
    /// Test the model every so many steps, beside the end; none: only at the end.
    pub evaluate_every: Option<u64>,
    /// Whether a GPU repeats a captured step (a CUDA graph) instead of launching each operation. Has no effect on a CPU.
    #[serde(default = "default_cuda_graphs")]
    pub cuda_graphs: bool,
    /// When a run is kept as a checkpoint, from which it goes on after an interruption. Changes no result.
    #[serde(default, skip_serializing_if = "CheckpointEvery::is_default")]
    pub checkpoint_every: CheckpointEvery,
}

/// How often a run is kept as a checkpoint.
///
/// ```
/// use mantissa::spec::{CheckpointEvery, DEFAULT, Overrides, Plan};
///
/// let every = |text: &str| {
///     let set = vec![format!("train.checkpoint_every={text}")];
///     let plan = Plan::read("default.toml", DEFAULT, &Overrides { set, ..Overrides::default() });
///     plan.map(|plan| plan.train.checkpoint_every)
/// };
/// assert_eq!(every("500"), Ok(CheckpointEvery::Steps(500)));
/// assert_eq!(every("2 min"), Ok(CheckpointEvery::Seconds(120.0)));
/// assert_eq!(every("never"), Ok(CheckpointEvery::Never));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckpointEvery {
    /// Only when the run is interrupted.
    Never,
    /// After so many steps.
    Steps(u64),
    /// After so many seconds, at the end of the step that is then on its way.
    Seconds(f64),
}

impl CheckpointEvery {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for CheckpointEvery {
    fn default() -> Self {
        defaults::CHECKPOINT_EVERY
    }
}

/// What results say that were written before there was a choice.
fn default_cuda_graphs() -> bool {
    defaults::CUDA_GRAPHS
}

/// Whether a plan means the same without a key, and is written without it: as it was before there was the key.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(value: &f32) -> bool {
    *value == 0.0
}

/// A number that f32 holds. One beyond would be read as infinite, and be written as `null`, which is no number.
fn finite<'de, D: Deserializer<'de>>(text: D) -> Result<f32, D::Error> {
    let value = f32::deserialize(text)?;
    let is_finite = value.is_finite();
    is_finite.then_some(value).ok_or_else(|| D::Error::custom("is beyond what f32 holds"))
}

/// The optimizer.
///
/// ```
/// use mantissa::spec::{DEFAULT, OptimizerPlan, Overrides, Plan};
///
/// let set = vec!["train.optimizer={ kind = 'sgd', lr = 0.1, momentum = 0.5 }".to_owned()];
/// let plan = Plan::read("default.toml", DEFAULT, &Overrides { set, ..Overrides::default() })?;
/// assert!(matches!(plan.train.optimizer, OptimizerPlan::Sgd { lr: 0.1, momentum: 0.5, .. }));
/// # Ok::<(), mantissa::spec::SpecError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum OptimizerPlan {
    /// Stochastic gradient descent, `PyTorch`'s definition of momentum.
    Sgd {
        /// Peak learning rate.
        lr: f64,
        /// μ; 0 keeps no momentum.
        momentum: f64,
        /// Nesterov's form.
        nesterov: bool,
        /// L2 penalty added to the gradient.
        weight_decay: f64,
    },
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019).
    AdamW {
        /// Peak learning rate.
        lr: f64,
        /// Decay of the first moment.
        beta1: f64,
        /// Decay of the second moment.
        beta2: f64,
        /// Added to the root of the second moment.
        eps: f64,
        /// Decoupled decay.
        weight_decay: f64,
    },
}

/// The learning rate over the steps: a factor on the peak. A skipped step does not advance it.
///
/// ```
/// use mantissa::spec::{DEFAULT, Overrides, Plan, ScheduleKind};
///
/// let schedule = Plan::read("default.toml", DEFAULT, &Overrides::default())?.train.schedule;
/// assert_eq!((schedule.kind, schedule.warmup), (ScheduleKind::Cosine, 10));
/// # Ok::<(), mantissa::spec::SpecError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SchedulePlan {
    /// The shape after the warm-up.
    pub kind: ScheduleKind,
    /// Steps of linear warm-up from 1/warmup to 1.
    pub warmup: u64,
    /// The factor that cosine and linear end at.
    pub floor: f64,
}

/// The shape of the schedule after its warm-up.
///
/// ```
/// use mantissa::spec::ScheduleKind;
///
/// let kind: ScheduleKind = serde_json::from_str("\"linear\"")?;
/// assert_eq!(kind, ScheduleKind::Linear);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// 1 throughout.
    Constant,
    /// Half a cosine from 1 to the floor.
    Cosine,
    /// A straight line from 1 to the floor.
    Linear,
}

/// What is measured beside training.
///
/// ```
/// use mantissa::spec::{DEFAULT, Overrides, Plan};
///
/// // No timing phase.
/// let set = vec!["measure.timing_blocks=0".to_owned()];
/// let plan = Plan::read("default.toml", DEFAULT, &Overrides { set, ..Overrides::default() })?;
/// assert_eq!((plan.measure.timing_blocks, plan.measure.census_every), (0, 50));
/// # Ok::<(), mantissa::spec::SpecError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MeasurePlan {
    /// A census every so many steps; 0: none.
    pub census_every: u64,
    /// Blocks a variant in the timing phase; 0: no timing.
    pub timing_blocks: usize,
    /// Steps in a block.
    pub timing_steps: usize,
    /// Untimed steps a variant before the first block.
    pub timing_warmup: usize,
    /// Samples in a batch of inference.
    pub inference_batch: usize,
    /// δ of a classification: accuracies closer than this, 0 to 1, are equivalent.
    pub equivalence_margin: f64,
    /// δ of a regression, as a share of the baseline's mean squared error: errors closer than this are equivalent.
    #[serde(default = "default_error_margin", skip_serializing_if = "is_default_error_margin")]
    pub error_margin: f64,
    /// How a language model is served, where that is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<ServingPlan>,
}

/// How a language model is served: tokens of prompts pass through it at once (prefill), then tokens that it generates, one by one
/// (decode), with the keys and values of earlier positions kept in the compute format.
///
/// ```
/// use mantissa::spec::{Overrides, Plan};
///
/// let plan = Plan::read("serve.toml", "
///     name = 'serve'
///     variants = ['fp32', 'bf16-mixed']
///     data = { kind = 'plain-text', train = 'text.txt', test_share = 0.5, length = 64 }
///     model = { kind = 'decoder', size = 'tiny' }
///     train = { steps = 0, batch = 1 }
///     measure = { serving = { prompt = 48 } }
/// ", &Overrides::default())?;
/// // What is not given is what is left of the 64 tokens.
/// assert_eq!(plan.measure.serving.map(|serving| serving.generate), Some(16));
/// # Ok::<(), mantissa::spec::SpecError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServingPlan {
    /// Tokens of a prompt: the first of a sequence of the test split.
    pub prompt: usize,
    /// Tokens that are generated after each, the most probable one each time.
    pub generate: usize,
    /// Sequences at a time, beside one alone.
    pub batch: usize,
    /// Prompts on which a format's tokens are compared with those of FP32.
    pub prompts: usize,
}

/// What results mean that do not say it.
fn default_error_margin() -> f64 {
    defaults::ERROR_MARGIN
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_default_error_margin(margin: &f64) -> bool {
    *margin == defaults::ERROR_MARGIN
}
