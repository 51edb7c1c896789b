//! CIFAR-10 and CIFAR-100 in the official binary layout: records of label bytes and 3 × 32 × 32 pixels, nothing else.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use super::DataError;
use super::dataset::{Dataset, Images};
use crate::store::{self, StoreError};

const SHAPE: [usize; 3] = [3, 32, 32];
const PIXELS: usize = SHAPE[0] * SHAPE[1] * SHAPE[2];

/// How one of the two data sets lies in files.
#[derive(Debug)]
pub(super) struct Layout {
    train: &'static [&'static str],
    test: &'static str,
    /// Number of classes of each label byte; the last byte is the label that is learnt.
    label_classes: &'static [usize],
}

/// Five training files and one test file; one label byte.
pub(super) const CIFAR10: Layout = Layout {
    train: &[
        "data_batch_1.bin",
        "data_batch_2.bin",
        "data_batch_3.bin",
        "data_batch_4.bin",
        "data_batch_5.bin",
    ],
    test: "test_batch.bin",
    label_classes: &[10],
};

/// One training file and one test file; a coarse label byte before the fine one.
pub(super) const CIFAR100: Layout =
    Layout { train: &["train.bin"], test: "test.bin", label_classes: &[20, 100] };

/// Loads the files of `layout` in `folder`. All are looked at before one is read.
pub(super) fn load(folder: &Path, layout: &Layout) -> Result<Dataset, DataError> {
    let open = |name: &&str| Records::open(folder.join(name), layout);
    let training = layout.train.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let testing = open(&layout.test)?;
    if let Some((first, rest)) = training.split_first()
        && let Some(other) = rest.iter().find(|other| other.images != first.images)
    {
        return Err(DataError::Mismatch {
            first: first.path.clone(),
            second: other.path.clone(),
            difference: format!(
                "{} and {} images; the training files hold the same number each",
                first.images, other.images
            ),
        });
    }
    let (mut train, mut test) = (Images::default(), Images::default());
    for records in training {
        records.append_to(&mut train)?;
    }
    testing.append_to(&mut test)?;
    Ok(Dataset {
        shape: SHAPE,
        outputs: layout.label_classes[layout.label_classes.len() - 1],
        train: train.into(),
        test: test.into(),
    })
}

/// A file of a whole number of records.
struct Records<'a> {
    path: PathBuf,
    layout: &'a Layout,
    file: File,
    images: usize,
}

impl<'a> Records<'a> {
    fn open(path: PathBuf, layout: &'a Layout) -> Result<Self, DataError> {
        let (file, length) = store::open(&path)?;
        let label_bytes = layout.label_classes.len();
        let record = (label_bytes + PIXELS) as u64;
        if length == 0 || length % record != 0 {
            let found = format!("{length} bytes: truncated, or another layout");
            let expected = format!(
                "one or more records of {record} bytes ({label_bytes} label, {PIXELS} pixels)"
            );
            return Err(DataError::Malformed { path, found, expected });
        }
        Ok(Self { path, layout, file, images: (length / record) as usize })
    }

    /// Appends the images to `split`.
    fn append_to(self, split: &mut Images) -> Result<(), DataError> {
        let Self { path, layout, file, images } = self;
        let mut file = BufReader::new(file);
        let mut record = vec![0; layout.label_classes.len() + PIXELS];
        split.pixels.try_reserve_exact(images * PIXELS).map_err(|_| no_memory(&path))?;
        for index in 0..images {
            file.read_exact(&mut record).map_err(store::cannot_read(&path))?;
            let (labels, pixels) = record.split_at(layout.label_classes.len());
            for (&label, &classes) in labels.iter().zip(layout.label_classes) {
                if usize::from(label) >= classes {
                    let found = format!("label {label} in record {index}");
                    let expected = format!("labels 0 to {}", classes - 1);
                    return Err(DataError::Malformed { path, found, expected });
                }
            }
            split.labels.extend(labels.last().map(|&label| u32::from(label)));
            split.pixels.extend_from_slice(pixels);
        }
        Ok(())
    }
}

fn no_memory(path: &Path) -> StoreError {
    store::cannot_read(path)(ErrorKind::OutOfMemory.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record: label bytes, then pixels that count up from `start`.
    fn record(labels: &[u8], start: u8) -> Vec<u8> {
        let pixels = (0..PIXELS).map(|i| start.wrapping_add(i as u8));
        labels.iter().copied().chain(pixels).collect()
    }

    fn folder(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            store::write(&folder.path().join(name), bytes).unwrap();
        }
        folder
    }

    fn cifar10() -> Vec<(&'static str, Vec<u8>)> {
        let train = CIFAR10.train.iter().zip(1..);
        let mut files: Vec<_> = train.map(|(name, k)| (*name, record(&[k], k))).collect();
        files.push((CIFAR10.test, [record(&[0], 7), record(&[9], 8)].concat()));
        files
    }

    #[test]
    fn cifar10_joins_its_five_training_files_in_order() {
        let folder = folder(&cifar10());
        let pixels = |starts: &[u8]| -> Vec<u8> {
            let records = starts.iter().map(|&start| record(&[], start));
            records.collect::<Vec<_>>().concat()
        };
        let expected = Dataset {
            shape: [3, 32, 32],
            outputs: 10,
            train: Images { pixels: pixels(&[1, 2, 3, 4, 5]), labels: vec![1, 2, 3, 4, 5] }.into(),
            test: Images { pixels: pixels(&[7, 8]), labels: vec![0, 9] }.into(),
        };
        assert_eq!(load(folder.path(), &CIFAR10).unwrap(), expected);
    }

    #[test]
    fn cifar100_learns_the_fine_label() {
        let train = [record(&[19, 99], 1), record(&[0, 4], 2)].concat();
        let folder = folder(&[("train.bin", train), ("test.bin", record(&[3, 42], 3))]);
        let data = load(folder.path(), &CIFAR100).unwrap();
        assert_eq!((data.outputs, data.shape), (100, [3, 32, 32]));
        assert_eq!((data.train.labels(), data.test.labels()), (&[99, 4][..], &[42][..]));
        assert_eq!(data.test.pixels(), record(&[], 3));
    }

    #[test]
    fn bad_files_are_named() {
        let truncated = "FOLDER/data_batch_2.bin: 3072 bytes: truncated, or another layout; \
                         expected one or more records of 3073 bytes (1 label, 3072 pixels)";
        let empty = "FOLDER/test_batch.bin: 0 bytes: truncated, or another layout; \
                     expected one or more records of 3073 bytes (1 label, 3072 pixels)";
        let label = "FOLDER/data_batch_5.bin: label 10 in record 0; expected labels 0 to 9";
        let shorter = "FOLDER/data_batch_1.bin and FOLDER/data_batch_3.bin do not belong together: \
                       1 and 2 images; the training files hold the same number each";
        for (place, bytes, message) in [
            (1, record(&[1], 0)[..3072].to_vec(), truncated),
            (5, vec![], empty),
            (4, record(&[10], 0), label),
            (2, [record(&[1], 0), record(&[2], 0)].concat(), shorter),
        ] {
            let mut files = cifar10();
            files[place].1 = bytes;
            let folder = folder(&files);
            let error = load(folder.path(), &CIFAR10).unwrap_err().to_string();
            let error = error.replace(&folder.path().display().to_string(), "FOLDER");
            assert_eq!(error, message);
        }
    }

    #[test]
    fn bad_cifar100_files_are_named() {
        let fine = "FOLDER/train.bin: label 100 in record 1; expected labels 0 to 99";
        let coarse = "FOLDER/train.bin: label 20 in record 1; expected labels 0 to 19";
        for (labels, message) in [([0, 100], fine), ([20, 0], coarse)] {
            let train = [record(&[0, 0], 0), record(&labels, 0)].concat();
            let folder = folder(&[("train.bin", train), ("test.bin", record(&[0, 0], 0))]);
            let error = load(folder.path(), &CIFAR100).unwrap_err().to_string();
            let error = error.replace(&folder.path().display().to_string(), "FOLDER");
            assert_eq!(error, message);
        }
    }

    #[test]
    fn sizes_are_compared_before_a_file_is_read() {
        let mut files = cifar10();
        files[0].1 = record(&[10], 0);
        let folder = folder(&files);
        // A terabyte and more of records on a disk that keeps no zeros.
        let file = File::create(folder.path().join("data_batch_2.bin")).unwrap();
        file.set_len(3073 << 30).unwrap();
        let error = load(folder.path(), &CIFAR10).unwrap_err().to_string();
        assert!(error.contains("together: 1 and 1073741824 images;"), "{error}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let mut files = cifar10();
        files.remove(3);
        let folder = folder(&files);
        let error = load(folder.path(), &CIFAR10).unwrap_err().to_string();
        assert!(error.contains("data_batch_4.bin: cannot read"), "{error}");
    }
}
