//! The plan of the data.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    pub(super) fn take_tokenizer(&mut self, folder: &Path) {
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
