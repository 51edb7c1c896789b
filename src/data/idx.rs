//! IDX files, the layout of MNIST and Fashion-MNIST: big-endian magic and dimensions, then the elements; plain or gzip.
//!
//! The headers of all files are read and compared first. What follows is read as far as they promise, and no further.

use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;

use super::dataset::{Dataset, Images};
use super::gzip::{self, Gzip};
use super::{DataError, malformed};
use crate::spec::{IdxTest, limits};
use crate::store;

/// Magic of a file of unsigned bytes in three dimensions: images, height, width.
const IMAGES: u32 = 2051;
/// Magic of a file of unsigned bytes in one dimension: labels.
const LABELS: u32 = 2049;

/// Loads the training files, and the test split from files of its own or from the end of the training files.
pub(super) fn load(images: &Path, labels: &Path, test: &IdxTest) -> Result<Dataset, DataError> {
    let train = Pair::open(images, labels)?;
    let size = train.size();
    let (train, test) = match test {
        IdxTest::Files { images: test_images, labels: test_labels } => {
            let test = Pair::open(test_images, test_labels)?;
            if size != test.size() {
                let ([h, w], [test_h, test_w]) = (size, test.size());
                let difference = format!("images of {h} × {w} and of {test_h} × {test_w}");
                return Err(mismatch(images, test_images, difference));
            }
            (train.read()?, test.read()?)
        }
        IdxTest::HeldOut(held_out) => {
            let (held_out, images) = (*held_out, train.count());
            if held_out >= images {
                let path = train.images.path.to_owned();
                return Err(DataError::HeldOut { path, held_out, images });
            }
            let mut train = train.read()?;
            let test = Images {
                pixels: train.pixels.split_off((images - held_out) * size[0] * size[1]),
                labels: train.labels.split_off(images - held_out),
            };
            (train, test)
        }
    };
    let labels = train.labels.iter().chain(&test.labels);
    Ok(Dataset {
        shape: [1, size[0], size[1]],
        outputs: labels.max().map_or(0, |&label| label as usize + 1),
        train: train.into(),
        test: test.into(),
    })
}

fn mismatch(first: &Path, second: &Path, difference: String) -> DataError {
    DataError::Mismatch { first: first.to_owned(), second: second.to_owned(), difference }
}

/// Images and their labels: two files whose headers agree.
struct Pair<'a> {
    images: Array<'a, 3>,
    labels: Array<'a, 1>,
}

impl<'a> Pair<'a> {
    fn open(images: &'a Path, labels: &'a Path) -> Result<Self, DataError> {
        let (images, labels) = (Array::open(images, IMAGES)?, Array::open(labels, LABELS)?);
        let (count, [label_count]) = (images.dimensions[0], labels.dimensions);
        if count != label_count {
            let difference = format!("{count} images and {label_count} labels");
            return Err(mismatch(images.path, labels.path, difference));
        }
        Ok(Self { images, labels })
    }

    fn count(&self) -> usize {
        self.labels.dimensions[0]
    }

    /// Height and width of an image.
    fn size(&self) -> [usize; 2] {
        let [_, height, width] = self.images.dimensions;
        [height, width]
    }

    /// The labels first: they are the smaller file, where a mistake shows sooner.
    fn read(self) -> Result<Images, DataError> {
        let labels = self.labels.classes()?;
        Ok(Images { pixels: self.images.elements()?, labels })
    }
}

/// The type of the elements: the third byte of the magic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    U8,
    I8,
    I16,
    I32,
    F32,
    F64,
}

impl Element {
    fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            0x08 => Self::U8,
            0x09 => Self::I8,
            0x0b => Self::I16,
            0x0c => Self::I32,
            0x0d => Self::F32,
            0x0e => Self::F64,
            _ => return None,
        })
    }

    fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::I16 => 2,
            Self::I32 | Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::U8 => "unsigned bytes",
            Self::I8 => "signed bytes",
            Self::I16 => "int16",
            Self::I32 => "int32",
            Self::F32 => "float32",
            Self::F64 => "float64",
        }
    }

    /// The whole number in the bytes of one element; none of a type that holds others.
    fn whole(self, bytes: &[u8]) -> Option<i64> {
        match (self, bytes) {
            (Self::U8, &[byte]) => Some(byte.into()),
            (Self::I8, &[byte]) => Some(byte.cast_signed().into()),
            (Self::I16, &[a, b]) => Some(i16::from_be_bytes([a, b]).into()),
            (Self::I32, &[a, b, c, d]) => Some(i32::from_be_bytes([a, b, c, d]).into()),
            _ => None,
        }
    }
}

/// A file whose header has been read.
struct Array<'a, const D: usize> {
    path: &'a Path,
    element: Element,
    dimensions: [usize; D],
    /// What follows the header.
    rest: Box<dyn Read>,
}

impl<'a, const D: usize> Array<'a, D> {
    /// Opens a file whose magic is `magic`, or that of labels in another type of whole numbers. What a file that is not
    /// compressed lacks, or has too much, is found here.
    fn open(path: &'a Path, magic: u32) -> Result<Self, DataError> {
        let (file, length) = store::open(path)?;
        let mut file = BufReader::new(file);
        let is_gzip = file.fill_buf().map_err(store::cannot_read(path))?.starts_with(&gzip::MAGIC);
        let mut rest: Box<dyn Read> =
            if is_gzip { Box::new(Gzip::new(file)) } else { Box::new(file) };
        let header = take(path, &mut rest, Self::HEADER)?;
        let (element, dimensions) =
            parse(&header, magic).map_err(|(found, expected)| malformed(path, found, expected))?;
        let array = Self { path, element, dimensions, rest };
        if !is_gzip {
            array.check(u128::from(length.saturating_sub(Self::HEADER)))?;
        }
        Ok(array)
    }

    /// Bytes of the magic and the dimensions.
    const HEADER: u64 = 4 * (1 + D as u64);

    /// The elements, as they lie in the file. Makes room only for what is there: a wrong header costs no memory.
    fn elements(mut self) -> Result<Vec<u8>, DataError> {
        let most = u64::try_from(self.promised()).unwrap_or(u64::MAX).saturating_add(1);
        let bytes = take(self.path, &mut self.rest, most)?;
        self.check(bytes.len() as u128)?;
        Ok(bytes)
    }

    /// Bytes that the header promises.
    fn promised(&self) -> u128 {
        let elements = self.dimensions.iter().map(|&d| d as u128).product::<u128>();
        elements.saturating_mul(self.element.bytes() as u128)
    }

    /// Whether as many bytes follow the header as it promises.
    fn check(&self, bytes: u128) -> Result<(), DataError> {
        let promised = self.promised();
        if bytes == promised {
            return Ok(());
        }
        let found = if bytes > promised {
            format!("more than {promised} bytes after the header")
        } else {
            format!("truncated: {bytes} bytes after the header")
        };
        let element = match self.element {
            Element::U8 => String::new(),
            other => format!(" {}", other.name()),
        };
        let announced = announced(self.dimensions);
        Err(malformed(self.path, found, format!("{promised} bytes for {announced}{element}")))
    }
}

impl Array<'_, 1> {
    /// The elements as classes.
    fn classes(self) -> Result<Vec<u32>, DataError> {
        /// As wide as a layer may be: the last has one output a class.
        const MOST: i64 = limits::WIDTH as i64 - 1;
        let (path, element) = (self.path, self.element);
        let bytes = self.elements()?;
        let class = |(place, bytes)| {
            let label = element.whole(bytes).unwrap_or(-1);
            if (0..=MOST).contains(&label) {
                return Ok(label as u32);
            }
            let found = format!("the label of image {place}, counted from 0, is {label}");
            Err(malformed(path, found, format!("classes 0 to {MOST}")))
        };
        bytes.chunks_exact(element.bytes()).enumerate().map(class).collect()
    }
}

/// The type and the dimensions of the array whose magic is `magic`, or what was found and what is expected.
fn parse<const D: usize>(
    header: &[u8],
    magic: u32,
) -> Result<(Element, [usize; D]), (String, String)> {
    let mut words = header.chunks_exact(4).map(|w| u32::from_be_bytes([w[0], w[1], w[2], w[3]]));
    let element = words.next().map(|found| element(found, magic)).transpose()?;
    let mut dimensions = [0; D];
    let mut read = 0;
    for (dimension, word) in dimensions.iter_mut().zip(words) {
        *dimension = word as usize;
        read += 1;
    }
    let Some(element) = element.filter(|_| read == D) else {
        let found = format!("only {} bytes: truncated", header.len());
        return Err((found, format!("a header of {} bytes", 4 * (1 + D))));
    };
    if dimensions.contains(&0) {
        let found = format!("the header announces {} bytes", announced(dimensions));
        return Err((found, "no dimension of 0".to_owned()));
    }
    Ok((element, dimensions))
}

fn announced<const D: usize>(dimensions: [usize; D]) -> String {
    dimensions.map(|d| d.to_string()).join(" × ")
}

/// The type of the elements, from the magic that was found where `expected` should be.
fn element(found: u32, expected: u32) -> Result<Element, (String, String)> {
    let [zero, another_zero, byte, dimensions] = found.to_be_bytes();
    let known = Element::of(byte).filter(|_| (zero, another_zero) == (0, 0));
    let is_labels = expected == LABELS;
    let wanted = |name: &str| format!("magic {expected} ({name})");
    let (name, explained) = if is_labels {
        ("labels", "one whole number an image, its class from 0 on")
    } else {
        ("images", "unsigned bytes, images × height × width; scale pixels to 0 to 255")
    };
    match known {
        Some(Element::U8) if found == expected => Ok(Element::U8),
        Some(integer @ (Element::I8 | Element::I16 | Element::I32))
            if is_labels && dimensions == 1 =>
        {
            Ok(integer)
        }
        _ if [IMAGES, LABELS].contains(&found) => {
            let other = if is_labels { "images" } else { "labels" };
            let found = format!("magic {found} ({other}): image and label file may be swapped");
            Err((found, wanted(name)))
        }
        Some(known) => {
            let axes = crate::formatting::plural(dimensions.into(), "dimension");
            let found = format!("magic {found}: {} in {axes}", known.name());
            Err((found, format!("{}: {explained}", wanted(name))))
        }
        None if [zero, another_zero] == gzip::MAGIC => Err((
            "a gzip file inside a gzip file".to_owned(),
            "an IDX file inside it: decompress it once".to_owned(),
        )),
        None => Err((format!("magic {found}: not such an IDX file"), wanted(name))),
    }
}

/// Up to `limit` bytes.
fn take(path: &Path, source: &mut impl Read, limit: u64) -> Result<Vec<u8>, DataError> {
    let mut bytes = Vec::new();
    match source.take(limit).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) if gzip::is_corrupt(error.kind()) => Err(malformed(
            path,
            format!("corrupt or truncated gzip ({error})"),
            "a whole gzip file: fetch or copy it again".to_owned(),
        )),
        Err(error) => Err(store::cannot_read(path)(error).into()),
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
        let [train, test] = [train, test].map(|(pixels, labels)| {
            Images { pixels: pixels.to_vec(), labels: labels.to_vec() }.into()
        });
        Dataset { shape: [1, 1, 2], outputs: 8, train, test }
    }

    #[test]
    fn the_last_images_are_held_out_plain_or_gzip() {
        let expected = dataset((&[1, 2, 3, 4], &[7, 0]), (&[5, 6], &[4]));
        // A gzip file may be several, one after the other (RFC 1952, section 2.2), with zeros between and behind them, as
        // Python reads it: gzip.decompress(gzip.compress(b"a") + bytes(99999) + gzip.compress(b"b") + bytes(5)) == b"ab"
        let two = [gzip(&images()[..9]), gzip(&images()[9..])].concat();
        let zeros = vec![0; 99_999];
        let padded = [gzip(&images()[..9]), zeros.clone(), gzip(&images()[9..]), vec![0; 5]];
        for (images, labels) in [
            (images(), labels()),
            (gzip(&images()), gzip(&labels())),
            (two, labels()),
            (padded.concat(), [gzip(&labels()), zeros].concat()),
        ] {
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
                gzip(&idx(2051, &[3, u32::MAX, u32::MAX], &[1, 2, 3])),
                labels(),
                "images: truncated: 3 bytes after the header; expected \
                 55340232195358851075 bytes for 3 × 4294967295 × 4294967295",
            ),
            (
                images(),
                idx(2049, &[2], &[7, 0]),
                "images and labels do not belong together: 3 images and 2 labels",
            ),
        ]);
    }

    // Types and magics as Python's idx2numpy lists them: 8 B, 9 b, 0xb >i2, 0xc >i4, 0xd >f4, 0xe >f8.
    #[test]
    fn labels_may_be_of_any_type_of_whole_numbers() {
        let expected = dataset((&[1, 2, 3, 4], &[7, 0]), (&[5, 6], &[4]));
        for (magic, bytes) in [
            (0x0801, vec![7, 0, 4]),
            (0x0901, vec![7, 0, 4]),
            (0x0b01, vec![0, 7, 0, 0, 0, 4]),
            (0x0c01, vec![0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 4]),
        ] {
            let folder = folder(&images(), &gzip(&idx(magic, &[3], &bytes)));
            assert_eq!(load_held_out(folder.path(), 1).unwrap(), expected, "{magic:x}");
        }
    }

    #[test]
    fn labels_that_are_no_classes_are_named() {
        let classes = "expected classes 0 to 65535";
        let negative = format!("labels: the label of image 1, counted from 0, is -1; {classes}");
        let large = format!("labels: the label of image 2, counted from 0, is 65536; {classes}");
        check(&[
            (images(), idx(0x0901, &[3], &[0, 255, 0]), &negative),
            (images(), idx(0x0b01, &[3], &[0, 0, 255, 255, 0, 0]), &negative),
            (images(), idx(0x0c01, &[3], &[0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0]), &large),
            (
                images(),
                idx(0x0c01, &[3], &[0; 11]),
                "labels: truncated: 11 bytes after the header; expected 12 bytes for 3 int32",
            ),
        ]);
    }

    #[test]
    fn files_of_other_types_are_named() {
        let pixels = "expected magic 2051 (images): unsigned bytes, images × height × width; scale pixels to 0 to 255";
        let classes =
            "expected magic 2049 (labels): one whole number an image, its class from 0 on";
        let rows = [
            (0x0d03, 0x0801, format!("images: magic 3331: float32 in 3 dimensions; {pixels}")),
            (0x0c03, 0x0801, format!("images: magic 3075: int32 in 3 dimensions; {pixels}")),
            (
                0x0804,
                0x0801,
                format!("images: magic 2052: unsigned bytes in 4 dimensions; {pixels}"),
            ),
            (0x0803, 0x0d01, format!("labels: magic 3329: float32 in 1 dimension; {classes}")),
            (
                0x0803,
                0x0802,
                format!("labels: magic 2050: unsigned bytes in 2 dimensions; {classes}"),
            ),
            (
                0x0803,
                0x0a01,
                "labels: magic 2561: not such an IDX file; expected magic 2049 (labels)".to_owned(),
            ),
        ];
        for (image_magic, label_magic, message) in rows {
            let images = idx(image_magic, &[3, 1, 2], &[1, 2, 3, 4, 5, 6]);
            check(&[(images, idx(label_magic, &[3], &[7, 0, 4]), &message)]);
        }
        check(&[(
            gzip(&gzip(&images())),
            labels(),
            "images: a gzip file inside a gzip file; expected an IDX file inside it: decompress it once",
        )]);
    }

    #[test]
    fn headers_are_compared_before_anything_else_is_read() {
        let counts = "images and labels do not belong together: 4194304 images and 3 labels";
        let header = idx(2051, &[1 << 22, 32, 32], &[]);
        let whole = gzip(&[header.clone(), vec![0; 1 << 20]].concat());
        check(&[
            // Where the rest is read, it is found to be cut short.
            (whole[..whole.len() / 2].to_vec(), labels(), counts),
            (whole, gzip(&labels()), counts),
        ]);
        let folder = folder(&header, &labels());
        // 4 GiB of pixels on a disk that keeps no zeros.
        let file = std::fs::File::options().write(true).open(folder.path().join("images")).unwrap();
        file.set_len(16 + (1 << 32)).unwrap();
        let error = load_held_out(folder.path(), 1).unwrap_err().to_string();
        assert!(error.ends_with("together: 4194304 images and 3 labels"), "{error}");
    }

    #[test]
    fn other_data_after_a_gzip_file_is_named() {
        let damaged = "images: corrupt or truncated gzip (other data after its end); \
                       expected a whole gzip file: fetch or copy it again";
        check(&[
            ([gzip(&images()), b"other".to_vec()].concat(), labels(), damaged),
            ([gzip(&images()), b"\0\0other".to_vec()].concat(), labels(), damaged),
        ]);
    }

    #[cfg(unix)]
    #[test]
    fn a_device_is_no_data() {
        let zero = Path::new("/dev/zero");
        let error = load(zero, zero, &IdxTest::HeldOut(1)).unwrap_err().to_string();
        assert_eq!(error, "/dev/zero: cannot read: is a device; give a regular file");
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
        assert_eq!((data.shape, data.outputs), ([1, 28, 28], 10));
        assert_eq!(data.train.labels()[..10], [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]);
        let sizes = [&data.train, &data.test].map(|s| (s.labels().len(), s.pixels().len()));
        assert_eq!(sizes, [(8000, 8000 * 784), (2000, 2000 * 784)]);
    }
}
