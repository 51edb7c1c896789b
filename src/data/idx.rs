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
        IdxTest::Files { images: test_images, labels: test_labels } => {
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
        return Err(DataError::HeldOut { path: path.to_owned(), held_out, images });
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
    DataError::Mismatch { first: first.to_owned(), second: second.to_owned(), difference }
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
        let mut words =
            header.chunks_exact(4).map(|w| u32::from_be_bytes([w[0], w[1], w[2], w[3]]));
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
            return Err(self.malformed(found, "no dimension of 0".to_owned()));
        }
        let limit = u64::try_from(size).unwrap_or(u64::MAX).saturating_add(1);
        let bytes = self.take(&mut source, limit)?;
        if bytes.len() as u128 != size {
            let found = if bytes.len() as u128 > size {
                format!("more than {size} bytes after the header")
            } else {
                format!("truncated: {} bytes after the header", bytes.len())
            };
            return Err(self.malformed(found, format!("{size} bytes for {announced}")));
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
            IMAGES | LABELS => ": image and label file may be swapped",
            _ => ": not such an IDX file",
        };
        self.malformed(
            format!("magic {found}{}{hint}", name(found)),
            format!("magic {expected}{}", name(expected)),
        )
    }

    fn malformed(&self, found: String, expected: String) -> DataError {
        DataError::Malformed { path: self.path.to_owned(), found, expected }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::path::PathBuf;

    use super::*;
    use crate::spec::DataPlan;

    fn idx(magic: u32, dimensions: &[u32], bytes: &[u8]) -> Vec<u8> {
        let words = [&[magic], dimensions].concat();
        let mut file: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        file.extend_from_slice(bytes);
        file
    }

    /// Three images of 1 × 2, and their labels.
    fn images() -> Vec<u8> {
        idx(2051, &[3, 1, 2], &[1, 2, 3, 4, 5, 6])
    }

    fn labels() -> Vec<u8> {
        idx(2049, &[3], &[7, 0, 4])
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// A folder with the files `images` and `labels`.
    fn folder(images: &[u8], labels: &[u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        store::write(&folder.path().join("images"), images).unwrap();
        store::write(&folder.path().join("labels"), labels).unwrap();
        folder
    }

    fn load_held_out(folder: &Path, held_out: usize) -> Result<Dataset, DataError> {
        let [images, labels] = ["images", "labels"].map(|name| folder.join(name));
        load(&images, &labels, &IdxTest::HeldOut(held_out))
    }

    fn dataset(train: (&[u8], &[u32]), test: (&[u8], &[u32])) -> Dataset {
        let [train, test] = [train, test]
            .map(|(pixels, labels)| Split { pixels: pixels.to_vec(), labels: labels.to_vec() });
        Dataset { shape: [1, 1, 2], classes: 8, train, test }
    }

    #[test]
    fn the_last_images_are_held_out_plain_or_gzip() {
        let expected = dataset((&[1, 2, 3, 4], &[7, 0]), (&[5, 6], &[4]));
        // A gzip file may be several, one after the other (RFC 1952, section 2.2).
        let two = [gzip(&images()[..9]), gzip(&images()[9..])].concat();
        for (images, labels) in
            [(images(), labels()), (gzip(&images()), gzip(&labels())), (two, labels())]
        {
            let folder = folder(&images, &labels);
            assert_eq!(load_held_out(folder.path(), 1).unwrap(), expected);
        }
    }

    #[test]
    fn the_test_split_may_have_files_of_its_own() {
        let train = folder(&images(), &labels());
        let test = folder(&idx(2051, &[1, 1, 2], &[8, 9]), &idx(2049, &[1], &[5]));
        let plan = DataPlan::Idx {
            train_images: train.path().join("images"),
            train_labels: train.path().join("labels"),
            test: IdxTest::Files {
                images: test.path().join("images"),
                labels: test.path().join("labels"),
            },
        };
        let expected = dataset((&[1, 2, 3, 4, 5, 6], &[7, 0, 4]), (&[8, 9], &[5]));
        assert_eq!(crate::data::load(&plan).unwrap(), expected);
    }

    /// Rows of an image file, a label file and the error that loading them gives, without the folder's name.
    fn check(rows: &[(Vec<u8>, Vec<u8>, &str)]) {
        for (images, labels, message) in rows {
            let folder = folder(images, labels);
            let error = load_held_out(folder.path(), 1).unwrap_err().to_string();
            let error = error.replace(&format!("{}/", folder.path().display()), "");
            assert_eq!(&error, message);
        }
    }

    #[test]
    fn a_wrong_header_is_named() {
        check(&[
            (
                labels(),
                images(),
                "images: magic 2049 (labels): image and label file may be swapped; expected magic 2051 (images)",
            ),
            (
                images(),
                images(),
                "labels: magic 2051 (images): image and label file may be swapped; expected magic 2049 (labels)",
            ),
            (
                idx(0x0100_0803, &[3, 1, 2], &[1, 2, 3, 4, 5, 6]),
                labels(),
                "images: magic 16779267: not such an IDX file; expected magic 2051 (images)",
            ),
            (vec![], labels(), "images: only 0 bytes: truncated; expected a header of 16 bytes"),
            (
                images()[..15].to_vec(),
                labels(),
                "images: only 15 bytes: truncated; expected a header of 16 bytes",
            ),
            (
                idx(2051, &[0, 1, 2], &[]),
                labels(),
                "images: the header announces 0 × 1 × 2 bytes; expected no dimension of 0",
            ),
            (
                idx(2051, &[3, 1, 0], &[]),
                labels(),
                "images: the header announces 3 × 1 × 0 bytes; expected no dimension of 0",
            ),
        ]);
    }

    #[test]
    fn a_wrong_size_is_named() {
        let huge = idx(2051, &[u32::MAX; 3], &[1, 2, 3]);
        check(&[
            (
                images()[..21].to_vec(),
                labels(),
                "images: truncated: 5 bytes after the header; expected 6 bytes for 3 × 1 × 2",
            ),
            (
                [images(), vec![0]].concat(),
                labels(),
                "images: more than 6 bytes after the header; expected 6 bytes for 3 × 1 × 2",
            ),
            (
                gzip(&[images(), vec![0; 9]].concat()),
                labels(),
                "images: more than 6 bytes after the header; expected 6 bytes for 3 × 1 × 2",
            ),
            (
                images(),
                labels()[..10].to_vec(),
                "labels: truncated: 2 bytes after the header; expected 3 bytes for 3",
            ),
            (
                huge.clone(),
                labels(),
                "images: truncated: 3 bytes after the header; expected \
                 79228162458924105385300197375 bytes for 4294967295 × 4294967295 × 4294967295",
            ),
            (
                gzip(&huge),
                labels(),
                "images: truncated: 3 bytes after the header; expected \
                 79228162458924105385300197375 bytes for 4294967295 × 4294967295 × 4294967295",
            ),
            (
                images(),
                idx(2049, &[2], &[7, 0]),
                "images and labels do not belong together: 3 images and 2 labels",
            ),
        ]);
    }

    #[test]
    fn a_damaged_gzip_file_is_an_error() {
        let whole = gzip(&images());
        let damaged = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            bytes
        };
        // The method; a byte of the checksum; a byte of the length; cut short anywhere.
        let mut files = vec![damaged(2), damaged(whole.len() - 8), damaged(whole.len() - 1)];
        files.extend((2..whole.len()).map(|length| whole[..length].to_vec()));
        for file in files {
            let folder = folder(&file, &labels());
            let error = load_held_out(folder.path(), 1).unwrap_err().to_string();
            assert!(error.contains("images: corrupt or truncated gzip ("), "{error}");
        }
    }

    #[test]
    fn splits_must_fit_each_other() {
        let train = folder(&images(), &labels());
        for (held_out, message) in [
            (3, "cannot hold out 3 of 3 images for testing: hold out fewer than 3"),
            (9, "cannot hold out 9 of 3 images for testing: hold out fewer than 3"),
        ] {
            let error = load_held_out(train.path(), held_out).unwrap_err();
            assert!(error.to_string().ends_with(message), "{error}");
        }
        let wide = folder(&idx(2051, &[1, 1, 3], &[8, 9, 9]), &idx(2049, &[1], &[5]));
        let [images, labels] = ["images", "labels"].map(|name| train.path().join(name));
        let test = IdxTest::Files {
            images: wide.path().join("images"),
            labels: wide.path().join("labels"),
        };
        let error = load(&images, &labels, &test).unwrap_err().to_string();
        assert!(error.ends_with("together: images of 1 × 2 and of 1 × 3"), "{error}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = load_held_out(folder.path(), 1).unwrap_err().to_string();
        assert!(error.contains("images: cannot read"), "{error}");
    }

    /// MNIST's test set: sizes and the first labels as its authors publish and show them.
    #[test]
    fn mnist_loads() {
        let Some(folder) = std::env::var_os("MANTISSA_TEST_DATA") else {
            println!("skipped: no test data");
            return;
        };
        let folder = PathBuf::from(folder).join("mnist");
        let [images, labels] = ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]
            .map(|name| folder.join(name));
        let data = load(&images, &labels, &IdxTest::HeldOut(2000)).unwrap();
        assert_eq!((data.shape, data.classes), ([1, 28, 28], 10));
        assert_eq!(data.train.labels[..10], [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]);
        let sizes = [&data.train, &data.test].map(|s| (s.labels.len(), s.pixels.len()));
        assert_eq!(sizes, [(8000, 8000 * 784), (2000, 2000 * 784)]);
    }
}
