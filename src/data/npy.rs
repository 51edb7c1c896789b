//! Arrays of NumPy: `.npy` files, or the members of an `.npz` archive.
//!
//! The format is that of NumPy's documentation of `numpy.lib.format`: a magic and a version, the length of a header, the header,
//! which is a Python dictionary, and then the values. Only what an array of numbers needs is read of it.

use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use zip::ZipArchive;

use super::dataset::{Dataset, Inputs, Split, Targets};
use super::{DataError, held_out, malformed};
use crate::formatting;
use crate::spec::{NpyTest, TableTask, limits};
use crate::store;

/// What every file begins with.
const MAGIC: &[u8] = b"\x93NUMPY";
/// The longest header that is read: NumPy's own limit is 10,000 bytes.
const LONGEST_HEADER: usize = 65_536;

/// Where arrays are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    /// The archive that has them as members; none: each is a file.
    pub(super) archive: Option<&'a Path>,
    pub(super) task: TableTask,
}

/// Loads inputs and targets to train on, and the test split from arrays of its own or as a share of them.
pub(super) fn load(
    source: Source<'_>,
    train: [&Path; 2],
    test: &NpyTest,
) -> Result<Dataset, DataError> {
    let first = Pair::read(source, train)?;
    let (shape, outputs) = (first.inputs.sample_shape()?, first.outputs(source.task)?);
    let splits = match test {
        NpyTest::Files { inputs, targets } => {
            let second = Pair::read(source, [inputs, targets])?;
            let test_shape = second.inputs.sample_shape()?;
            if test_shape != shape {
                let difference = format!("samples of {} and of {}", by(&shape), by(&test_shape));
                return Err(mismatch([&first.inputs, &second.inputs], difference));
            }
            let [first_kind, second_kind] = [&first, &second].map(|pair| pair.inputs.kind.name());
            if (first_kind == "uint8") != (second_kind == "uint8") {
                let difference = format!("values of {first_kind} and of {second_kind}");
                return Err(mismatch([&first.inputs, &second.inputs], difference));
            }
            [first.into_split(source.task, outputs)?, second.into_split(source.task, outputs)?]
        }
        NpyTest::Share(share) => {
            let place = first.inputs.place.clone();
            let all = first.into_split(source.task, outputs)?;
            held_out::split(&place, &all, (shape, outputs), *share)?
        }
    };
    let [train, test] = splits;
    Ok(Dataset { shape, outputs, train, test })
}

/// The inputs and the targets of a split.
struct Pair {
    inputs: Array,
    targets: Array,
}

impl Pair {
    fn read(source: Source<'_>, [inputs, targets]: [&Path; 2]) -> Result<Self, DataError> {
        let (inputs, targets) = (Array::read(source, inputs)?, Array::read(source, targets)?);
        let rows = |array: &Array| array.shape.first().copied().unwrap_or(1);
        let (samples, target_rows) = (rows(&inputs), rows(&targets));
        if samples != target_rows {
            let targets_found = formatting::plural(target_rows, "target");
            let difference =
                format!("{} and {targets_found}", formatting::plural(samples, "sample"));
            return Err(mismatch([&inputs, &targets], difference));
        }
        Ok(Self { inputs, targets })
    }

    /// The number of classes, or of the values of a target.
    fn outputs(&self, task: TableTask) -> Result<usize, DataError> {
        match (task, &self.targets.shape[..]) {
            (TableTask::Classification, [_]) => {
                let largest = self.targets.labels(limits::WIDTH)?.into_iter().max();
                Ok(largest.map_or(1, |label| label as usize + 1))
            }
            (TableTask::Regression, [_]) => Ok(1),
            (TableTask::Regression, [_, each]) if (1..=limits::WIDTH).contains(each) => Ok(*each),
            (task, shape) => {
                let expected = match task {
                    TableTask::Classification => "one label for each sample".to_owned(),
                    TableTask::Regression => {
                        format!("samples, or samples × values of a target, 1 to {}", limits::WIDTH)
                    }
                };
                Err(malformed(&self.targets.place, format!("shape {}", by(shape)), expected))
            }
        }
    }

    fn into_split(self, task: TableTask, outputs: usize) -> Result<Split, DataError> {
        let own_outputs = self.outputs(task)?;
        let targets = match task {
            TableTask::Classification => Targets::Labels(self.targets.labels(outputs)?),
            TableTask::Regression if own_outputs == outputs => {
                Targets::Values(self.targets.values()?)
            }
            TableTask::Regression => {
                let found = format!("shape {}", by(&self.targets.shape));
                let expected = format!("{outputs} values for each sample, as in training");
                return Err(malformed(&self.targets.place, found, expected));
            }
        };
        let inputs = match self.inputs.kind {
            Kind::U8 => Inputs::Pixels(self.inputs.bytes),
            _ => Inputs::Values(self.inputs.values()?),
        };
        Ok(Split { inputs, targets })
    }
}

/// The type of the values, which are little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    F32,
    F64,
    U8,
    I32,
    I64,
}

impl Kind {
    /// The type of a `descr`.
    fn of(descr: &str) -> Option<Self> {
        Some(match descr {
            "<f4" => Self::F32,
            "<f8" => Self::F64,
            "|u1" => Self::U8,
            "<i4" => Self::I32,
            "<i8" => Self::I64,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F64 => "float64",
            Self::U8 => "uint8",
            Self::I32 => "int32",
            Self::I64 => "int64",
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }

    /// The value of so many bytes, if that is a whole number.
    fn whole(self, bytes: &[u8]) -> Option<i64> {
        match self {
            Self::U8 => bytes.first().map(|byte| i64::from(*byte)),
            Self::I32 => bytes.try_into().ok().map(|bytes| i32::from_le_bytes(bytes).into()),
            Self::I64 => bytes.try_into().ok().map(i64::from_le_bytes),
            Self::F32 | Self::F64 => None,
        }
    }

    /// The value of so many bytes.
    fn number(self, bytes: &[u8]) -> Option<f64> {
        match self {
            Self::F32 => bytes.try_into().ok().map(|bytes| f32::from_le_bytes(bytes).into()),
            Self::F64 => bytes.try_into().ok().map(f64::from_le_bytes),
            Self::U8 | Self::I32 | Self::I64 => self.whole(bytes).map(|whole| whole as f64),
        }
    }
}

/// An array that has been read.
struct Array {
    /// The file; of a member, the archive and its name in it.
    place: PathBuf,
    kind: Kind,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Array {
    fn read(source: Source<'_>, name: &Path) -> Result<Self, DataError> {
        let Some(archive) = source.archive else {
            let (file, _) = store::open(name)?;
            return Self::parse(name.to_owned(), BufReader::new(file));
        };
        let (file, _) = store::open(archive)?;
        let unreadable = |error: &zip::result::ZipError| {
            malformed(archive, format!("cannot be read ({error})"), "an .npz archive")
        };
        let mut zip = ZipArchive::new(BufReader::new(file)).map_err(|error| unreadable(&error))?;
        let wanted = name.to_string_lossy();
        let members = zip.file_names().map(|name| name.map(std::borrow::Cow::into_owned));
        let members: Vec<String> =
            members.collect::<Result<_, _>>().map_err(|error| unreadable(&error))?;
        let member = |name: &String| name.strip_suffix(".npy").unwrap_or(name) == wanted;
        let Some(index) = members.iter().position(member) else {
            let mut names: Vec<String> = members
                .iter()
                .map(|name| format!("{:?}", name.strip_suffix(".npy").unwrap_or(name)))
                .collect();
            names.sort();
            let expected = format!("one of {}", formatting::list(&names));
            return Err(malformed(archive, format!("has no array {wanted:?}"), expected));
        };
        let member = zip.by_index(index).map_err(|error| unreadable(&error))?;
        Self::parse(archive.join(name), member)
    }

    fn parse(place: PathBuf, mut source: impl Read) -> Result<Self, DataError> {
        let header = Header::read(&place, &mut source)?;
        let Some(kind) = Kind::of(&header.descr) else {
            let found = format!("values of type {}", header.descr);
            let expected = "float32, float64, uint8, int32 or int64, little-endian; use astype";
            return Err(malformed(&place, found, expected));
        };
        if header.fortran_order {
            let found = "values in Fortran order".to_owned();
            return Err(malformed(&place, found, "C order; use numpy.ascontiguousarray"));
        }
        let product = header.shape.iter().try_fold(1_usize, |n, size| n.checked_mul(*size));
        let values = product.filter(|values| *values <= limits::VALUES);
        let Some(values) = values else {
            let found = format!("shape {}", by(&header.shape));
            return Err(malformed(&place, found, format!("at most {} values", limits::VALUES)));
        };
        // Makes room only for what is there: a wrong header costs no memory.
        let (promised, mut bytes) = (values * kind.bytes(), Vec::new());
        let read = source.take(promised as u64 + 1).read_to_end(&mut bytes);
        read.map_err(store::cannot_read(&place))?;
        if bytes.len() != promised {
            let found = if bytes.len() > promised {
                format!("more than {promised} bytes after its header")
            } else {
                format!("cut short: {} bytes after its header", bytes.len())
            };
            let expected = format!("{promised} bytes for {} {}", by(&header.shape), kind.name());
            return Err(malformed(&place, found, expected));
        }
        Ok(Self { place, kind, shape: header.shape, bytes })
    }

    /// Channels, height and width of a sample.
    fn sample_shape(&self) -> Result<[usize; 3], DataError> {
        let shape = match self.shape[..] {
            [_] => [1, 1, 1],
            [_, columns] => [columns, 1, 1],
            [_, height, width] => [1, height, width],
            [_, channels, height, width] => [channels, height, width],
            _ => [0, 0, 0],
        };
        if shape.contains(&0) {
            let expected = "samples × columns, samples × height × width or samples × channels × height × width";
            return Err(malformed(&self.place, format!("shape {}", by(&self.shape)), expected));
        }
        Ok(shape)
    }

    fn values(&self) -> Result<Vec<f32>, DataError> {
        let values = self.bytes.chunks_exact(self.kind.bytes()).enumerate();
        let value = |(place, bytes)| {
            let value = self.kind.number(bytes).unwrap_or(f64::NAN);
            if (value as f32).is_finite() {
                return Ok(value as f32);
            }
            let found = format!("value {place}, counted from 0, is {value}");
            Err(malformed(&self.place, found, "numbers that f32 holds"))
        };
        values.map(value).collect()
    }

    /// The values as labels of so many classes.
    fn labels(&self, classes: usize) -> Result<Vec<u32>, DataError> {
        if matches!(self.kind, Kind::F32 | Kind::F64) {
            let found = format!("values of type {}", self.kind.name());
            let expected = "labels as uint8, int32 or int64; numbers need task = \"regression\"";
            return Err(malformed(&self.place, found, expected));
        }
        let values = self.bytes.chunks_exact(self.kind.bytes()).enumerate();
        let label = |(place, bytes)| {
            let label = self.kind.whole(bytes).unwrap_or(-1);
            if (0..classes as i64).contains(&label) {
                return Ok(label as u32);
            }
            let found = format!("the label of sample {place}, counted from 0, is {label}");
            Err(malformed(&self.place, found, format!("0 to {}", classes - 1)))
        };
        values.map(label).collect()
    }
}

/// What stands before the values.
struct Header {
    descr: String,
    fortran_order: bool,
    shape: Vec<usize>,
}

impl Header {
    fn read(place: &Path, source: &mut impl Read) -> Result<Self, DataError> {
        let mut take = |length: usize| {
            let mut bytes = Vec::new();
            let read = source.take(length as u64).read_to_end(&mut bytes);
            read.map_err(store::cannot_read(place))?;
            if bytes.len() == length {
                return Ok(bytes);
            }
            Err(malformed(place, "cut short in its header".to_owned(), "an .npy file"))
        };
        let start = take(MAGIC.len() + 2)?;
        if !start.starts_with(MAGIC) {
            let found = "no array of NumPy".to_owned();
            return Err(malformed(place, found, "an .npy file, as numpy.save writes it"));
        }
        let length = match start[MAGIC.len()] {
            1 => take(2)?.iter().rev().fold(0, |length, byte| length << 8 | usize::from(*byte)),
            _ => take(4)?.iter().rev().fold(0, |length, byte| length << 8 | usize::from(*byte)),
        };
        if length > LONGEST_HEADER {
            let expected = format!("at most {LONGEST_HEADER}");
            return Err(malformed(place, format!("a header of {length} bytes"), expected));
        }
        let text = String::from_utf8_lossy(&take(length)?).into_owned();
        Self::parse(&text).ok_or_else(|| {
            let found = format!("header {:?}", text.trim());
            malformed(place, found, "a dictionary with descr, fortran_order and shape")
        })
    }

    /// `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`.
    fn parse(text: &str) -> Option<Self> {
        let after = |key: &str| {
            let (_, rest) = text.split_once(&format!("'{key}'"))?;
            Some(rest.trim_start().strip_prefix(':')?.trim_start())
        };
        let descr = after("descr")?;
        // Of a structured type it is a list.
        let descr = match descr.strip_prefix('\'') {
            Some(quoted) => quoted.split_once('\'')?.0.to_owned(),
            None => format!("{}]", descr.split_once(']')?.0),
        };
        let order = after("fortran_order")?;
        let fortran_order = order.starts_with("True");
        let (shape, _) = after("shape")?.strip_prefix('(')?.split_once(')')?;
        let sizes = shape.split(',').map(str::trim).filter(|size| !size.is_empty());
        let shape = sizes.map(|size| size.parse().ok()).collect::<Option<_>>()?;
        let is_known = fortran_order || order.starts_with("False");
        is_known.then_some(Self { descr, fortran_order, shape })
    }
}

/// Sizes as `2 × 3`.
fn by(sizes: &[usize]) -> String {
    let sizes: Vec<String> = sizes.iter().map(ToString::to_string).collect();
    if sizes.is_empty() { "()".to_owned() } else { sizes.join(" × ") }
}

fn mismatch([first, second]: [&Array; 2], difference: String) -> DataError {
    let [first, second] = [first, second].map(|array| array.place.clone());
    DataError::Mismatch { first, second, difference }
}

#[cfg(test)]
mod tests;
