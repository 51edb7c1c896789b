//! Tokens of texts that are kept in files, so that the same files need not be read and tokenized again.
//!
//! A file is named by the SHA-256 of all that decides what is in it: the contents of the files of texts, not their names, and how texts
//! become tokens. It holds a data set: a mark, that name, numbers, and the SHA-256 of all before, numbers in little-endian order. What is
//! not such a file is none, and what cannot be written is not kept: neither is an error. Where there are too many, those used longest ago
//! are removed.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::super::dataset::{Dataset, Inputs, Split, Targets, Tokens};
use super::Source;
use crate::formatting;
use crate::spec::TableTest;
use crate::store::{self, StoreError};

/// What a file begins with.
const MARK: &[u8] = b"mantissa tokens\n";

/// What texts become. Raise it with every change of how files are read, of the tokenizer that is made, of the library `tokenizers`, and of
/// the file.
const VERSION: u32 = 1;

/// What all files together may have, in bytes: those used longest ago are removed.
const MOST: u64 = 2 << 30;

/// The ending of the files' names.
const ENDING: &str = "tokens";

/// Bytes of a SHA-256.
const DIGEST: usize = 32;

/// Where the tokens of some texts are kept.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    path: PathBuf,
    name: String,
}

impl Place {
    /// The place in `folder` of what is read from these files.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub(super) fn of(
        folder: &Path,
        (train, test): (&Path, &TableTest),
        source: Source<'_>,
    ) -> Result<Self, StoreError> {
        let file = |path: &Path| -> Result<_, StoreError> {
            let kind = path.extension().map(|ending| ending.to_string_lossy().into_owned());
            Ok((kind, store::sha256(path)?))
        };
        let test = || -> Result<_, StoreError> {
            Ok(match test {
                TableTest::File(path) => (Some(file(path)?), None),
                TableTest::Share(share) => (None, Some(*share)),
            })
        };
        let (train, test) = rayon::join(|| file(train), test);
        let Source { text, target, length, tokenizer, vocabulary } = source;
        let tokenizer = tokenizer.map(store::sha256).transpose()?;
        let made_of = tokenizer.is_none().then_some(vocabulary);
        let decides = (VERSION, train?, test?, (text, target, length), (tokenizer, made_of));
        let name = formatting::hex(&Sha256::digest(format!("{decides:?}")));
        Ok(Self { path: folder.join(format!("{name}.{ENDING}")), name })
    }

    /// What is kept there; none where nothing is, or something else.
    pub(super) fn read(&self) -> Option<Dataset> {
        let bytes = store::read(&self.path).ok()?;
        let (body, digest) = bytes.split_at_checked(bytes.len().checked_sub(DIGEST)?)?;
        let body = body.strip_prefix(MARK)?.strip_prefix(self.name.as_bytes());
        if Sha256::digest(&bytes[..bytes.len() - DIGEST])[..] != *digest {
            return None;
        }
        let data = Rest(body?).dataset()?;
        data.check().ok()?;
        store::note_use(&self.path);
        Some(data)
    }

    /// Keeps data there, if that is possible.
    pub(super) fn write(&self, data: &Dataset) {
        self.write_of_at_most(MOST, data);
    }

    /// As [`Self::write`], where all files have at most so many bytes.
    fn write_of_at_most(&self, most: u64, data: &Dataset) {
        let mut bytes = [MARK, self.name.as_bytes()].concat();
        let [_, _, length] = data.shape;
        put(&mut bytes, [length, data.outputs]);
        for split in [&data.train, &data.test] {
            let (Inputs::Tokens(tokens), Targets::Labels(labels)) = (&split.inputs, &split.targets)
            else {
                return;
            };
            let Tokens { ids, ends, vocabulary, cut } = tokens;
            put(&mut bytes, [*vocabulary, *cut, ends.len(), ids.len(), labels.len()]);
            put(&mut bytes, ends.iter().copied());
            for values in [ids, labels] {
                bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
        }
        let digest = Sha256::digest(&bytes);
        bytes.extend(digest);
        if let Some(folder) = self.path.parent() {
            // What a killed process left.
            let _ = store::sweep(folder);
        }
        let _ = store::write(&self.path, &bytes);
        if let Some(folder) = self.path.parent() {
            let _ = store::trim(folder, ENDING, most, &self.path);
        }
    }
}

/// Adds numbers, 64 bits each.
fn put(bytes: &mut Vec<u8>, numbers: impl IntoIterator<Item = usize>) {
    bytes.extend(numbers.into_iter().flat_map(|number| (number as u64).to_le_bytes()));
}

/// What is still to be read of a file.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    /// The next `count` values of `N` bytes each.
    fn take<const N: usize, T>(&mut self, count: usize, value: fn([u8; N]) -> T) -> Option<Vec<T>> {
        let (taken, rest) = self.0.split_at_checked(count.checked_mul(N)?)?;
        self.0 = rest;
        Some(taken.as_chunks::<N>().0.iter().map(|bytes| value(*bytes)).collect())
    }

    fn numbers(&mut self, count: usize) -> Option<Vec<usize>> {
        let numbers = self.take(count, u64::from_le_bytes)?;
        numbers.into_iter().map(|number| usize::try_from(number).ok()).collect()
    }

    fn split(&mut self) -> Option<Split> {
        let [vocabulary, cut, texts, ids, labels] = self.numbers(5)?.try_into().ok()?;
        let ends = self.numbers(texts)?;
        let ids = self.take(ids, u32::from_le_bytes)?;
        let labels = self.take(labels, u32::from_le_bytes)?;
        let inputs = Inputs::Tokens(Tokens { ids, ends, vocabulary, cut });
        Some(Split { inputs, targets: Targets::Labels(labels) })
    }

    fn dataset(mut self) -> Option<Dataset> {
        let [length, outputs] = self.numbers(2)?.try_into().ok()?;
        let (train, test) = (self.split()?, self.split()?);
        self.0.is_empty().then_some(Dataset { shape: [1, 1, length], outputs, train, test })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::FileTimes;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::spec::TestShare;

    const SOURCE: Source<'static> =
        Source { text: "text", target: "label", length: 8, tokenizer: None, vocabulary: 300 };

    fn dataset() -> Dataset {
        let split = |ids: &[u32], ends: &[usize], labels: &[u32], cut| Split {
            inputs: Inputs::Tokens(Tokens {
                ids: ids.to_vec(),
                ends: ends.to_vec(),
                vocabulary: 9,
                cut,
            }),
            targets: Targets::Labels(labels.to_vec()),
        };
        Dataset {
            shape: [1, 1, 8],
            outputs: 3,
            train: split(&[2, 8, 3, 2, 3], &[3, 5], &[1, 2], 1),
            test: split(&[7], &[1], &[0], 0),
        }
    }

    fn place(folder: &Path) -> Place {
        let train = folder.join("train.csv");
        store::write(&train, b"label,text\n").unwrap();
        Place::of(folder, (&train, &TableTest::File(train.clone())), SOURCE).unwrap()
    }

    #[test]
    fn what_is_kept_is_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path());
        assert_eq!(place.read(), None);
        place.write(&dataset());
        assert_eq!(place.read(), Some(dataset()));
    }

    /// Every byte changed, and every length but the whole: also a file of another name.
    #[test]
    fn a_damaged_file_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path());
        place.write(&dataset());
        let whole = store::read(&place.path).unwrap();
        let is_none = |bytes: &[u8]| {
            store::write(&place.path, bytes).unwrap();
            place.read().is_none()
        };
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            assert!(is_none(&damaged), "byte {at}");
            assert!(is_none(&whole[..at]), "{at} bytes");
        }
        assert!(is_none(&[whole.as_slice(), b"0"].concat()));
        assert!(!is_none(&whole));
        let other = Place { path: place.path.clone(), name: "0".repeat(2 * DIGEST) };
        assert_eq!(other.read(), None);
    }

    /// Sizes that no file has: nothing is allocated for them.
    #[test]
    fn a_file_whose_sizes_are_wrong_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path());
        for size in [2_usize, 1 << 40, usize::MAX] {
            let mut bytes = [MARK, place.name.as_bytes()].concat();
            put(&mut bytes, [8, 2, 9, 0, size, size, size]);
            let digest = Sha256::digest(&bytes);
            bytes.extend(digest);
            store::write(&place.path, &bytes).unwrap();
            assert_eq!(place.read(), None, "{size}");
        }
    }

    #[test]
    fn the_contents_decide_the_place_and_names_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, contents: &str| {
            let path = folder.path().join(name);
            store::write(&path, contents.as_bytes()).unwrap();
            path
        };
        let (a, same) = (file("a.csv", "a"), file("same.csv", "a"));
        let (b, lines) = (file("b.csv", "b"), file("a.jsonl", "a"));
        let (model, other) = (file("model.json", "a"), file("other.json", "b"));
        let place = |train: &Path, test: &TableTest, source| {
            Place::of(folder.path(), (train, test), source).unwrap()
        };
        let test = |path: &Path| TableTest::File(path.to_owned());
        let share = |share, seed| TableTest::Share(TestShare { share, seed });
        let given = |path| Source { tokenizer: Some(path), ..SOURCE };
        assert_eq!(place(&a, &test(&b), SOURCE), place(&same, &test(&b), SOURCE));
        // A tokenizer that is given has its own vocabulary.
        let larger = Source { vocabulary: 301, ..given(&model) };
        assert_eq!(place(&a, &test(&b), given(&model)), place(&a, &test(&b), larger));
        let places = [
            place(&a, &test(&b), SOURCE),
            place(&b, &test(&b), SOURCE),
            place(&lines, &test(&b), SOURCE),
            place(&a, &test(&a), SOURCE),
            place(&a, &share(0.5, 0), SOURCE),
            place(&a, &share(0.25, 0), SOURCE),
            place(&a, &share(0.5, 1), SOURCE),
            place(&a, &test(&b), Source { text: "words", ..SOURCE }),
            place(&a, &test(&b), Source { target: "class", ..SOURCE }),
            place(&a, &test(&b), Source { length: 9, ..SOURCE }),
            place(&a, &test(&b), Source { vocabulary: 301, ..SOURCE }),
            place(&a, &test(&b), given(&model)),
            place(&a, &test(&b), given(&other)),
        ];
        for (index, place) in places.iter().enumerate() {
            assert!(!places[..index].contains(place), "{index}");
        }
    }

    /// All but the one that is written count by when they were used, and other files do not count.
    #[test]
    fn what_was_used_longest_ago_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path());
        place.write(&dataset());
        let size = store::read(&place.path).unwrap().len() as u64;
        let at = |name: &str| folder.path().join(name);
        let now = SystemTime::now();
        let ago = |name: &str, hours: u64| {
            store::write(&at(name), &vec![0; size as usize]).unwrap();
            let time = now - Duration::from_secs(3600 * hours);
            let times = FileTimes::new().set_accessed(time).set_modified(time);
            std::fs::File::open(at(name)).unwrap().set_times(times).unwrap();
        };
        for (name, hours) in [("a.tokens", 1), ("b.tokens", 4), ("c.tokens", 3), ("d.csv", 9)] {
            ago(name, hours);
        }
        let there = || -> Vec<String> {
            let paths = store::list(folder.path()).unwrap().into_iter();
            let names = paths.map(|path| path.file_name().unwrap().to_string_lossy().into_owned());
            names.filter(|name| name.len() < 10 && !name.starts_with("train")).collect()
        };
        place.write_of_at_most(4 * size, &dataset());
        assert_eq!(there(), ["a.tokens", "b.tokens", "c.tokens", "d.csv"]);
        // What was read last was used last.
        store::note_use(&at("b.tokens"));
        place.write_of_at_most(4 * size - 1, &dataset());
        assert_eq!(there(), ["a.tokens", "b.tokens", "d.csv"]);
        let written = store::modified(&place.path).unwrap();
        assert_eq!(place.read(), Some(dataset()));
        assert_eq!(store::modified(&place.path).unwrap(), written);
        place.write_of_at_most(0, &dataset());
        assert_eq!(there(), ["d.csv"]);
        assert_eq!(place.read(), Some(dataset()));
    }

    #[test]
    fn what_cannot_be_written_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        store::write(&file, b"").unwrap();
        let below = Place { path: file.join("x.tokens"), name: String::new() };
        below.write(&dataset());
        assert_eq!(below.read(), None);
        assert_eq!(store::list(folder.path()).unwrap(), [file]);
    }
}
