//! IDX files, the layout of MNIST and Fashion-MNIST: big-endian magic and dimensions, then bytes; plain or gzip.

use std::io::Read;
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use super::{DataError, Dataset, Split};
use crate::spec::IdxTest;
use crate::store;

/// Magic of a file of unsigned bytes in three dimensions: images, height, width.
const IMAGES: u32 = 2051;
/// Magic of a file of unsigned bytes in one dimension: labels.
const LABELS: u32 = 2049;
/// First bytes of a gzip file (RFC 1952, section 2.3.1).
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Loads the training files, and the test split from files of its own or from the end of the training files.
pub(super) fn load(images: &Path, labels: &Path, test: &IdxTest) -> Result<Dataset, DataError> {
    let (size, mut train) = split(images, labels)?;
    let test = match test {
        IdxTest::Files {
            images: test_images,
            labels: test_labels,
        } => {
            let (test_size, test) = split(test_images, test_labels)?;
            if size != test_size {
                let ([h, w], [test_h, test_w]) = (size, test_size);
                let difference = format!("images of {h} × {w} and of {test_h} × {test_w}");
                return Err(mismatch(images, test_images, difference));
            }
            test
        }
        IdxTest::HeldOut(held_out) => hold_out(&mut train, *held_out, images)?,
    };
    let labels = train.labels.iter().chain(&test.labels);
    Ok(Dataset {
        shape: [1, size[0], size[1]],
        classes: labels.max().map_or(0, |&label| label as usize + 1),
        train,
        test,
    })
}

/// Splits the last `held_out` images off `train`, which came from the file `path`.
fn hold_out(train: &mut Split, held_out: usize, path: &Path) -> Result<Split, DataError> {
    let images = train.labels.len();
    if held_out >= images {
        return Err(DataError::HeldOut {
            path: path.to_owned(),
            held_out,
            images,
        });
    }
    let image = train.pixels.len() / images;
    Ok(Split {
        pixels: train.pixels.split_off((images - held_out) * image),
        labels: train.labels.split_off(images - held_out),
    })
}

/// Reads one pair of files: height and width, and the labelled images.
fn split(images: &Path, labels: &Path) -> Result<([usize; 2], Split), DataError> {
    let ([count, height, width], pixels) = Source::open(images)?.array::<3>(IMAGES)?;
    let ([label_count], classes) = Source::open(labels)?.array::<1>(LABELS)?;
    if count != label_count {
        let difference = format!("{count} images and {label_count} labels");
        return Err(mismatch(images, labels, difference));
    }
    let labels = classes.into_iter().map(u32::from).collect();
    Ok(([height, width], Split { pixels, labels }))
}

fn mismatch(first: &Path, second: &Path, difference: String) -> DataError {
    DataError::Mismatch {
        first: first.to_owned(),
        second: second.to_owned(),
        difference,
    }
}

/// The bytes of a file, before gzip.
struct Source<'a> {
    path: &'a Path,
    bytes: Vec<u8>,
}

impl<'a> Source<'a> {
    fn open(path: &'a Path) -> Result<Self, DataError> {
        let bytes = store::read(path)?;
        Ok(Self { path, bytes })
    }

    /// The dimensions and bytes of the array whose magic is `magic`.
    fn array<const D: usize>(&self, magic: u32) -> Result<([usize; D], Vec<u8>), DataError> {
        if self.bytes.starts_with(&GZIP) {
            self.parse(MultiGzDecoder::new(self.bytes.as_slice()), magic)
        } else {
            self.parse(self.bytes.as_slice(), magic)
        }
    }

    /// Reads at most one byte more than the header announces, and makes room only for what is there: a wrong header
    /// costs no memory.
    fn parse<const D: usize>(
        &self,
        mut source: impl Read,
        magic: u32,
    ) -> Result<([usize; D], Vec<u8>), DataError> {
        let header = self.take(&mut source, 4 * (1 + D as u64))?;
        let mut words = header
            .chunks_exact(4)
            .map(|w| u32::from_be_bytes([w[0], w[1], w[2], w[3]]));
        let found = words.next();
        if let Some(found) = found.filter(|&found| found != magic) {
            return Err(self.wrong_magic(found, magic));
        }
        let mut dimensions = [0; D];
        let mut read = 0;
        for (dimension, word) in dimensions.iter_mut().zip(words) {
            *dimension = word as usize;
            read += 1;
        }
        if read < D {
            let found = format!("only {} bytes: truncated", header.len());
            let expected = format!("a header of {} bytes", 4 * (1 + D));
            return Err(self.malformed(found, expected));
        }
        let announced = dimensions.map(|d| d.to_string()).join(" × ");
        let size = dimensions.iter().map(|&d| d as u128).product::<u128>();
        if size == 0 {
            let found = format!("the header announces {announced} bytes");
            return Err(self.malformed(found, "at least one image".to_owned()));
        }
        let limit = u64::try_from(size).unwrap_or(u64::MAX).saturating_add(1);
        let bytes = self.take(&mut source, limit)?;
        if bytes.len() as u128 != size {
            let found = if bytes.len() as u128 > size {
                format!("more than {size} bytes after the header")
            } else {
                format!("truncated: {} bytes after the header", bytes.len())
            };
            return Err(self.malformed(found, format!("{announced} = {size}")));
        }
        Ok((dimensions, bytes))
    }

    /// Up to `limit` bytes.
    fn take(&self, source: &mut impl Read, limit: u64) -> Result<Vec<u8>, DataError> {
        let mut bytes = Vec::new();
        match source.take(limit).read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(error) => Err(self.malformed(
                format!("corrupt or truncated gzip ({error})"),
                "a whole gzip file: fetch or copy it again".to_owned(),
            )),
        }
    }

    fn wrong_magic(&self, found: u32, expected: u32) -> DataError {
        let name = |magic| match magic {
            IMAGES => " (images)",
            LABELS => " (labels)",
            _ => "",
        };
        let hint = match found {
            IMAGES | LABELS => ": are the image and label file swapped?",
            _ => ": not such an IDX file",
        };
        self.malformed(
            format!("magic {found}{}{hint}", name(found)),
            format!("magic {expected}{}", name(expected)),
        )
    }

    fn malformed(&self, found: String, expected: String) -> DataError {
        DataError::Malformed {
            path: self.path.to_owned(),
            found,
            expected,
        }
    }
}
