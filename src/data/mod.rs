//! Data sets and deterministic batches. What a batch holds depends on the seed and the step alone.

mod batches;
mod cifar;
mod dataset;
mod digits;
mod glyphs;
mod gzip;
mod held_out;
mod idx;
mod image_folder;
mod npy;
mod plain_text;
mod random;
mod source;
mod standardize;
mod table;
mod text;

use std::path::{Path, PathBuf};

#[doc(hidden)] // for training and this crate's tests
pub use batches::{Batch, Batches, TextBatch};
pub use dataset::{DataFacts, Dataset, Inputs, Split, Targets, Tokens};

use crate::hub::{self, HubError, Kind, Listener};
use crate::spec::{Augment, DataPlan, TableTest, TextFiles, TextTest, TokensPlan};
use crate::store::StoreError;

/// Why data cannot be loaded.
///
/// ```
/// use mantissa::data::{DataError, Dataset, Inputs, Split, Targets};
///
/// let split = |labels: &[u32]| Split {
///     inputs: Inputs::Pixels(vec![0; labels.len()]),
///     targets: Targets::Labels(labels.to_vec()),
/// };
/// let error = Dataset::new([1, 1, 1], 2, split(&[0, 1]), split(&[])).err();
/// assert!(matches!(error, Some(DataError::Empty { split: "test" })));
/// ```
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file is missing or unreadable.
    #[error(transparent)]
    Read(#[from] StoreError),
    /// A file of the hub cannot be had.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// A file is not what its place in the plan says.
    #[error("{}: {found}; expected {expected}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        found: String,
        /// What a good file has there.
        expected: String,
    },
    /// Two files that belong together differ in the number or the size of their images.
    #[error("{} and {} do not belong together: {difference}", first.display(), second.display())]
    Mismatch {
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
        /// In what they differ.
        difference: String,
    },
    /// As many images are held out for testing as there are, or more.
    #[error(
        "{}: cannot hold out {held_out} of {images} images for testing: hold out fewer than {images}",
        path.display()
    )]
    HeldOut {
        /// The file of the training images.
        path: PathBuf,
        /// Images asked for.
        held_out: usize,
        /// Images in the file.
        images: usize,
    },
    /// The data of a task made in Rust, which only the program that made it has.
    #[error(
        "the data are those of a task made in Rust: only the program that made it can load them"
    )]
    Own,
    /// A share of the samples that leaves nothing to train or to test on.
    #[error(
        "{}: test_share = {share} of {samples} samples is {test}: choose a share that leaves at least 1 to train on and 1 to test on",
        path.display()
    )]
    Share {
        /// The file or folder of the samples.
        path: PathBuf,
        /// The share asked for.
        share: f64,
        /// Samples there are.
        samples: usize,
        /// Samples that the share would be.
        test: usize,
    },
    /// A split without samples.
    #[error("the {split} split has no samples: give it at least 1")]
    Empty {
        /// `train` or `test`.
        split: &'static str,
    },
    /// A data set whose parts do not fit each other, or with a value that nothing can be learnt from.
    #[error("{0}")]
    Invalid(String),
    /// More digits than are drawn.
    #[error("cannot draw {asked} digits for the {split} split: the most is {}", digits::MOST)]
    TooMany {
        /// `train` or `test`.
        split: &'static str,
        /// Digits asked for.
        asked: usize,
    },
    /// A batch that the training split cannot fill, or of no samples.
    #[error(
        "a batch of {batch} cannot be filled from {samples} training samples: choose 1 to {samples}"
    )]
    Batch {
        /// Samples asked for in a batch.
        batch: usize,
        /// Samples in the training split.
        samples: usize,
    },
    /// Padding that could crop to an image of padding alone.
    #[error(
        "crop padding {crop} is too large for images of {height} × {width}: choose less than either"
    )]
    Crop {
        /// Padding asked for.
        crop: usize,
        /// Height of an image.
        height: usize,
        /// Width of an image.
        width: usize,
    },
}

/// How data are loaded, beside what the plan says of them.
///
/// ```
/// use mantissa::data::{self, Loading};
/// use mantissa::spec::DataPlan;
///
/// let plan = DataPlan::Digits { train: 50, test: 20, seed: 0 };
/// let mut texts = 0;
/// let mut progress = |done, _of| texts = done;
/// data::load_with(&plan, Loading { progress: Some(&mut progress), ..Loading::default() })?;
/// assert_eq!(texts, 0, "digits are no texts");
/// # Ok::<(), mantissa::data::DataError>(())
/// ```
#[derive(Default)]
pub struct Loading<'a> {
    /// A folder in which the tokens of texts are kept, and taken from the next time. A file in it is used only where the texts, their
    /// tokenizer and the plan are the same, and may be removed at any time. None: nothing is kept.
    pub cache: Option<&'a Path>,
    /// Is told how many texts have become tokens, and of how many: first 0, before a tokenizer is made. Of what is kept it hears nothing.
    pub progress: Option<&'a mut dyn FnMut(usize, usize)>,
    /// Is told of every file that is downloaded from the hub, from its start on.
    pub download: Option<Listener<'a>>,
}

/// Loads or draws the data of a plan.
///
/// ```
/// use mantissa::data;
/// use mantissa::spec::DataPlan;
///
/// let digits = data::load(&DataPlan::Digits { train: 50, test: 20, seed: 0 })?;
/// assert_eq!((digits.samples(), digits.shape(), digits.outputs()), ([50, 20], [1, 28, 28], 10));
/// # Ok::<(), mantissa::data::DataError>(())
/// ```
///
/// # Errors
/// When a file is missing, unreadable or malformed, files do not fit each other, or a split would be empty.
pub fn load(plan: &DataPlan) -> Result<Dataset, DataError> {
    load_with(plan, Loading::default())
}

/// As [`load`], with what else may be said of it.
///
/// ```
/// use mantissa::data::{self, Loading};
/// use mantissa::spec::DataPlan;
///
/// # let dir = tempfile::tempdir()?;
/// # let cache = dir.path();
/// let plan = DataPlan::Digits { train: 50, test: 20, seed: 0 };
/// let data = data::load_with(&plan, Loading { cache: Some(cache), ..Loading::default() })?;
/// assert_eq!(data.samples(), [50, 20]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// As [`load`]. A cache that cannot be read or written is none.
pub fn load_with(plan: &DataPlan, loading: Loading<'_>) -> Result<Dataset, DataError> {
    let data = match plan {
        DataPlan::Digits { train, test, seed } => digits::load(*train, *test, *seed)?,
        DataPlan::Idx { train_images, train_labels, test } => {
            idx::load(train_images, train_labels, test)?
        }
        DataPlan::Own { .. } => return Err(DataError::Own),
        DataPlan::Cifar10 { path, .. } => cifar::load(path, &cifar::CIFAR10)?,
        DataPlan::Cifar100 { path, .. } => cifar::load(path, &cifar::CIFAR100)?,
        DataPlan::ImageFolder { path, resize, test, .. } => {
            image_folder::load(path, *resize, *test)?
        }
        DataPlan::Npy { archive, train_inputs, train_targets, test, task } => {
            let source = npy::Source { archive: archive.as_deref(), task: *task };
            npy::load(source, [train_inputs, train_targets], test)?
        }
        DataPlan::Csv { train, test, target, features, task } => {
            let columns = table::Columns { target, features: features.as_deref(), task: *task };
            table::load(train, test, columns)?
        }
        DataPlan::Text { files, text, target, length, tokenizer, vocabulary } => {
            let (train, test) = text_files(files, loading.download)?;
            let here = |path: &PathBuf| here("data.tokenizer", path, loading.download);
            let tokenizer = tokenizer.as_ref().map(here).transpose()?;
            let (tokenizer, length, vocabulary) = (tokenizer.as_deref(), *length, *vocabulary);
            let source = text::Source { text, target, length, tokenizer, vocabulary };
            text::load(&train, &test, source, loading)?
        }
        DataPlan::PlainText { train, test, length, tokens } => {
            let here = |key, path: &Path| here(key, path, loading.download);
            let train = here("data.train", train)?;
            let test = match test {
                TextTest::File(path) => TextTest::File(here("data.test", path)?),
                TextTest::Last(share) => TextTest::Last(*share),
            };
            let tokens = match tokens {
                TokensPlan::Tokenizer(path) => TokensPlan::Tokenizer(here("data.tokenizer", path)?),
                other => other.clone(),
            };
            plain_text::load(&train, &test, (*length, &tokens))?
        }
    };
    data.check()?;
    Ok(data)
}

/// Where the file of a key is on this machine.
fn here(key: &str, path: &Path, listen: Option<Listener<'_>>) -> Result<PathBuf, HubError> {
    let kind = if key == "data.tokenizer" { Kind::Model } else { Kind::Dataset };
    let instead = format!("download it by any means, and set {key}=FILE");
    hub::local(path, kind, (&instead, listen))
}

/// Where texts are on this machine.
fn text_files(
    files: &TextFiles,
    listen: Option<Listener<'_>>,
) -> Result<(PathBuf, TableTest), DataError> {
    match files {
        TextFiles::Named { train, test } => {
            let train = here("data.train", train, listen)?;
            let test = match test {
                TableTest::File(path) => TableTest::File(here("data.test", path, listen)?),
                TableTest::Share(share) => TableTest::Share(*share),
            };
            Ok((train, test))
        }
        TextFiles::Source { source, test_share } => source::files(source, *test_share, listen),
    }
}

/// The augmentation that a plan asks for: none for data that have no such key.
pub(crate) fn augmentation(plan: &DataPlan) -> Augment {
    match plan {
        DataPlan::Digits { .. }
        | DataPlan::Idx { .. }
        | DataPlan::Npy { .. }
        | DataPlan::Csv { .. }
        | DataPlan::Text { .. }
        | DataPlan::PlainText { .. }
        | DataPlan::Own { .. } => Augment::default(),
        DataPlan::Cifar10 { augment, .. }
        | DataPlan::Cifar100 { augment, .. }
        | DataPlan::ImageFolder { augment, .. } => *augment,
    }
}

/// The error of a file that is not what its place in the plan says.
fn malformed(path: &Path, found: impl Into<String>, expected: impl Into<String>) -> DataError {
    DataError::Malformed { path: path.to_owned(), found: found.into(), expected: expected.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_without_samples_is_an_error() {
        for (train, test, message) in [
            (0, 1, "the train split has no samples: give it at least 1"),
            (1, 0, "the test split has no samples: give it at least 1"),
        ] {
            let plan = DataPlan::Digits { train, test, seed: 0 };
            assert_eq!(load(&plan).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn only_cifar_is_augmented() {
        let augment = Augment { crop: 4, flip: true };
        let path = PathBuf::from("folder");
        let digits = DataPlan::Digits { train: 1, test: 1, seed: 0 };
        assert_eq!(augmentation(&digits), Augment::default());
        assert_eq!(augmentation(&DataPlan::Cifar100 { path, augment }), augment);
    }
}
