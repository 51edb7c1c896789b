//! Data sets and deterministic batches. What a batch holds depends on the seed and the step alone.

mod batches;
mod cifar;
mod digits;
mod glyphs;
mod gzip;
mod idx;
mod random;

use std::fmt;
use std::path::PathBuf;

pub use batches::{Batch, Batches};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::formatting;
use crate::spec::{Augment, DataPlan};
use crate::store::StoreError;

/// A data set in memory: train and test split of labelled images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// Channels, height and width of an image.
    pub shape: [usize; 3],
    /// Number of classes; labels are below it.
    pub classes: usize,
    /// The training split.
    pub train: Split,
    /// The test split.
    pub test: Split,
}

impl Dataset {
    /// What tells this data set from any other. The digest is that of `mantissa data 1`, then channels, height, width and
    /// classes, then for each split, training first, the number of images, the pixels and the labels; numbers and labels as 64
    /// bits, little-endian.
    pub fn facts(&self) -> DataFacts {
        let mut digest = Sha256::new();
        digest.update(b"mantissa data 1");
        for number in self.shape.into_iter().chain([self.classes]) {
            digest.update((number as u64).to_le_bytes());
        }
        for split in [&self.train, &self.test] {
            digest.update((split.labels.len() as u64).to_le_bytes());
            digest.update(&split.pixels);
            for labels in split.labels.chunks(4096) {
                let bytes: Vec<u8> =
                    labels.iter().flat_map(|label| u64::from(*label).to_le_bytes()).collect();
                digest.update(bytes);
            }
        }
        DataFacts {
            digest: formatting::hex(&digest.finalize()),
            train: self.train.labels.len(),
            test: self.test.labels.len(),
            classes: self.classes,
            shape: self.shape,
        }
    }
}

/// The data that runs learn from: runs on other data belong to another experiment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DataFacts {
    /// SHA-256 of all of it, in hexadecimal digits: `Dataset::facts` says in which order.
    pub digest: String,
    /// Images of the training split.
    pub train: usize,
    /// Images of the test split.
    pub test: usize,
    /// Classes.
    pub classes: usize,
    /// Channels, height and width of an image.
    pub shape: [usize; 3],
}

impl fmt::Display for DataFacts {
    /// One line, with the beginning of the digest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { digest, train, test, classes, shape: [channels, height, width] } = self;
        let digest = digest.get(..12).unwrap_or(digest);
        write!(
            f,
            "{train} training and {test} test images of {channels} × {height} × {width}, {classes} classes, SHA-256 {digest}…"
        )
    }
}

/// Labelled images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Pixels, 0 to 255, image after image in C × H × W.
    pub pixels: Vec<u8>,
    /// One class an image.
    pub labels: Vec<u32>,
}

impl Dataset {
    /// What to know of the data before trusting a result, a sentence each: which classes have no images, or none to learn
    /// from.
    pub fn notes(&self) -> Vec<String> {
        let occurs = |split: &Split| {
            let mut occurs = vec![false; self.classes];
            split.labels.iter().for_each(|&label| occurs[label as usize] = true);
            occurs
        };
        let (train, test) = (occurs(&self.train), occurs(&self.test));
        let labels =
            |chosen: &dyn Fn(usize) -> bool| runs((0..self.classes).filter(|&i| chosen(i)));
        let nowhere = labels(&|class| !train[class] && !test[class]);
        let not_learnt = labels(&|class| !train[class] && test[class]);
        let classes = formatting::count(self.classes as u64);
        let nowhere = nowhere.map(|(labels, several)| {
            let (occur, count) = if several { ("do", "count") } else { ("does", "counts") };
            format!(
                "{labels} {occur} not occur in the data, yet {count} among its {classes} classes."
            )
        });
        let not_learnt = not_learnt.map(|(labels, several)| {
            let occur = if several { "occur" } else { "occurs" };
            format!("{labels} {occur} in test images only: no training image shows what to learn.")
        });
        nowhere.into_iter().chain(not_learnt).collect()
    }
}

/// Labels in words, and whether they are several: `Labels 0, 4 to 254 and 256`. None of none.
fn runs(labels: impl Iterator<Item = usize>) -> Option<(String, bool)> {
    /// More runs of labels than these are only counted.
    const MOST: usize = 8;
    let (mut runs, mut number) = (Vec::<(usize, usize)>::new(), 0);
    for label in labels {
        number += 1;
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == label => *last = label,
            _ => runs.push((label, label)),
        }
    }
    let shown = runs.iter().take(MOST).flat_map(|&(first, last)| match last - first {
        0 => vec![first.to_string()],
        1 => vec![first.to_string(), last.to_string()],
        _ => vec![format!("{first} to {last}")],
    });
    let mut shown: Vec<String> = shown.collect();
    let shown_count: usize = runs.iter().take(MOST).map(|(first, last)| last - first + 1).sum();
    if shown_count < number {
        shown.push(format!("{} others", formatting::count((number - shown_count) as u64)));
    }
    let noun = if number == 1 { "Label" } else { "Labels" };
    (number > 0).then(|| (format!("{noun} {}", formatting::list(&shown)), number > 1))
}

/// Why data cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file is missing or unreadable.
    #[error(transparent)]
    Read(#[from] StoreError),
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
    /// A split without images.
    #[error("the {split} split has no images: give it at least 1")]
    Empty {
        /// `train` or `test`.
        split: &'static str,
    },
    /// More digits than are drawn.
    #[error("cannot draw {asked} digits for the {split} split: the most is {}", digits::MOST)]
    TooMany {
        /// `train` or `test`.
        split: &'static str,
        /// Digits asked for.
        asked: usize,
    },
    /// A batch that the training split cannot fill, or of no images.
    #[error(
        "a batch of {batch} cannot be filled from {images} training images: choose 1 to {images}"
    )]
    Batch {
        /// Images asked for in a batch.
        batch: usize,
        /// Images in the training split.
        images: usize,
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

/// Loads or draws the data of a plan.
///
/// # Errors
/// When a file is missing, unreadable or malformed, files do not fit each other, or a split would be empty.
pub fn load(plan: &DataPlan) -> Result<Dataset, DataError> {
    let data = match plan {
        DataPlan::Digits { train, test, seed } => digits::load(*train, *test, *seed)?,
        DataPlan::Idx { train_images, train_labels, test } => {
            idx::load(train_images, train_labels, test)?
        }
        DataPlan::Own { .. } => return Err(DataError::Own),
        DataPlan::Cifar10 { path, .. } => cifar::load(path, &cifar::CIFAR10)?,
        DataPlan::Cifar100 { path, .. } => cifar::load(path, &cifar::CIFAR100)?,
    };
    for (split, images) in [("train", &data.train), ("test", &data.test)] {
        if images.labels.is_empty() {
            return Err(DataError::Empty { split });
        }
    }
    Ok(data)
}

/// The augmentation that a plan asks for: none for data that have no such key.
pub fn augmentation(plan: &DataPlan) -> Augment {
    match plan {
        DataPlan::Digits { .. } | DataPlan::Idx { .. } | DataPlan::Own { .. } => Augment::default(),
        DataPlan::Cifar10 { augment, .. } | DataPlan::Cifar100 { augment, .. } => *augment,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_without_images_is_an_error() {
        for (train, test, message) in [
            (0, 1, "the train split has no images: give it at least 1"),
            (1, 0, "the test split has no images: give it at least 1"),
        ] {
            let plan = DataPlan::Digits { train, test, seed: 0 };
            assert_eq!(load(&plan).unwrap_err().to_string(), message);
        }
    }

    // Python: import hashlib, struct
    //   q = lambda *n: struct.pack(f"<{len(n)}Q", *n)
    //   hashlib.sha256(b"mantissa data 1" + q(1, 2, 2, 3) + q(2) + bytes(range(8)) + q(0, 2) + q(1) + bytes([255, 0, 7, 9])
    //       + q(1)).hexdigest()
    #[test]
    fn the_digest_is_that_of_everything_in_a_stated_order() {
        let data = Dataset {
            shape: [1, 2, 2],
            classes: 3,
            train: Split { pixels: (0..8).collect(), labels: vec![0, 2] },
            test: Split { pixels: vec![255, 0, 7, 9], labels: vec![1] },
        };
        let facts = data.facts();
        assert_eq!(
            facts.digest,
            "0a4656d17e367b0270bdd800f7d4ab38674e04798f255c295764ed69a4f9d695"
        );
        assert_eq!((facts.train, facts.test, facts.classes, facts.shape), (2, 1, 3, [1, 2, 2]));
        let changes: [fn(&mut Dataset); 6] = [
            |data| data.train.labels[1] = 1,
            |data| data.test.labels[0] = 0,
            |data| data.train.pixels[7] = 0,
            |data| data.test.pixels[0] = 254,
            |data| data.classes = 4,
            |data| data.shape = [1, 4, 1],
        ];
        for change in changes {
            let mut other = data.clone();
            change(&mut other);
            assert_ne!(other.facts().digest, facts.digest);
        }
    }

    #[test]
    fn classes_without_images_are_noted() {
        let check = |classes, train: &[u32], test: &[u32], expected: &[&str]| {
            let split = |labels: &[u32]| Split { pixels: Vec::new(), labels: labels.to_vec() };
            let (train, test) = (split(train), split(test));
            assert_eq!(Dataset { shape: [1, 1, 1], classes, train, test }.notes(), expected);
        };
        check(3, &[0, 1, 2], &[1], &[]);
        check(
            256,
            &[0, 1, 2, 3, 255],
            &[0],
            &["Labels 4 to 254 do not occur in the data, yet count among its 256 classes."],
        );
        // Labels that begin at 1, as those of EMNIST's letters.
        check(
            4,
            &[1, 2],
            &[3, 1],
            &[
                "Label 0 does not occur in the data, yet counts among its 4 classes.",
                "Label 3 occurs in test images only: no training image shows what to learn.",
            ],
        );
        check(
            10,
            &[0, 4, 9],
            &[6, 7],
            &[
                "Labels 1 to 3, 5 and 8 do not occur in the data, yet count among its 10 classes.",
                "Labels 6 and 7 occur in test images only: no training image shows what to learn.",
            ],
        );
        let even: Vec<u32> = (0..1000).map(|i| 2 * i).collect();
        check(
            1999,
            &even,
            &[0],
            &[
                "Labels 1, 3, 5, 7, 9, 11, 13, 15 and 991 others do not occur in the data, yet count among its 1,999 classes.",
            ],
        );
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
