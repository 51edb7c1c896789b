//! The files of a source: a data set of the hub, or a folder that is laid out like one. Parquet files are named after their splits:
//! `train-00000-of-00001.parquet`, in whatever folder.

use std::path::{Path, PathBuf};

use super::{DataError, malformed};
use crate::formatting::list_of_at_most;
use crate::hub::{Kind, Listener, Name, Repository};
use crate::spec::{TableTest, TestShare, limits};
use crate::store;

/// More names than these are only counted.
const MOST_SHOWN: usize = 4;

/// What a user does without a connection.
const INSTEAD: &str = "download its train- and test- Parquet files by any means into a folder, and set data.source=FOLDER";

/// The file of the training texts of a source, and where the test split comes from. Those of the hub are downloaded.
pub(super) fn files(
    source: &Path,
    share: Option<TestShare>,
    listen: Option<Listener<'_>>,
) -> Result<(PathBuf, TableTest), DataError> {
    let wrong = |what: String| malformed(source, what, EXPECTED);
    let found = match Name::of(source) {
        None => {
            let names = below(source)?;
            let found = choose(&names, share.is_some()).map_err(wrong)?;
            found.iter().map(|name| source.join(name)).collect()
        }
        Some(name) => {
            let name = name.map_err(DataError::Invalid)?;
            let repository = Repository { kind: Kind::Dataset, name, instead: INSTEAD, listen };
            repository.files(&of_hub(&repository, share.is_some(), wrong)?)?
        }
    };
    let mut found = found.into_iter();
    Ok(match (found.next(), found.next(), share) {
        (Some(train), Some(test), None) => (train, TableTest::File(test)),
        (Some(train), None, Some(share)) => (train, TableTest::Share(share)),
        _ => return Err(wrong("no texts".to_owned())),
    })
}

/// What a good source has.
const EXPECTED: &str = "one Parquet file of each split, named train-….parquet and test-….parquet; where there are more, name them by \
     data.train and data.test in the place of data.source";

/// The files of a repository: what is here suffices where both splits are, and otherwise the hub is asked.
fn of_hub(
    repository: &Repository<'_>,
    share: bool,
    wrong: impl Fn(String) -> DataError,
) -> Result<Vec<String>, DataError> {
    let here = choose(&repository.kept(), share).ok();
    if let Some(found) = &here
        && (share || split(&found[1]) == Some(TEST))
    {
        return Ok(found.clone());
    }
    match (repository.list(), here) {
        (Ok(names), _) => choose(&names, share).map_err(wrong),
        // The hub may have test texts beside those to validate with; nobody can tell.
        (Err(_), Some(found)) => Ok(found),
        (Err(error), None) => Err(error.into()),
    }
}

const TRAIN: &str = "train-";
const TEST: &str = "test-";
const VALIDATION: &str = "validation-";

/// The split of a Parquet file by its name.
fn split(path: &str) -> Option<&'static str> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let is = |split: &&str| name.starts_with(split) && name.ends_with(".parquet");
    [TRAIN, TEST, VALIDATION].into_iter().find(is)
}

/// The file of the training texts, and, unless a share of them is to be tested on, that of the test texts or, where there is none, of those
/// to validate with.
fn choose(names: &[String], share: bool) -> Result<Vec<String>, String> {
    let of = |wanted: &str| -> Vec<&String> {
        names.iter().filter(|name| split(name) == Some(wanted)).collect()
    };
    let one = |wanted: &str, files: &[&String]| match files {
        [file] => Ok((*file).clone()),
        [] => Err(format!("no file {wanted}….parquet")),
        several => {
            let shown = several.iter().map(|name| (*name).clone()).collect();
            Err(format!(
                "{} files {wanted}….parquet: {}",
                several.len(),
                list_of_at_most(MOST_SHOWN, shown)
            ))
        }
    };
    let mut chosen = vec![one(TRAIN, &of(TRAIN))?];
    if !share {
        let test = of(TEST);
        let test = if test.is_empty() { of(VALIDATION) } else { test };
        chosen.push(one(TEST, &test)?);
    }
    Ok(chosen)
}

/// The files in a folder and its folders, by their paths from there. Names that begin with a dot are left out.
fn below(folder: &Path) -> Result<Vec<String>, DataError> {
    let mut names = Vec::new();
    let mut folders = vec![(folder.to_owned(), String::new(), 0)];
    while let Some((folder, before, depth)) = folders.pop() {
        if depth > limits::NESTED {
            let found = format!("folders nested {depth} times");
            return Err(malformed(&folder, found, format!("at most {}", limits::NESTED)));
        }
        for path in store::list(&folder)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with('.') {
                continue;
            }
            let name = format!("{before}{name}");
            if path.is_dir() {
                folders.push((path, format!("{name}/"), depth + 1));
            } else {
                names.push(name);
            }
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[&str], share: bool) -> Result<Vec<String>, String> {
        choose(&names.iter().map(ToString::to_string).collect::<Vec<_>>(), share)
    }

    #[test]
    fn a_split_is_one_parquet_file_with_its_name() {
        let (train, test) = ("plain/train-0-of-1.parquet", "plain/test-0-of-1.parquet");
        let validation = "plain/validation-0-of-1.parquet";
        let both = |first: &str, second: &str| Ok(vec![first.to_owned(), second.to_owned()]);
        let others =
            ["README.md", "train-0.csv", "untrain-0.parquet", "plain/unsupervised-0.parquet"];
        assert_eq!(chosen(&[&others[..], &[test, train]].concat(), false), both(train, test));
        assert_eq!(chosen(&[validation, test, train], false), both(train, test));
        assert_eq!(chosen(&[validation, train], false), both(train, validation));
        assert_eq!(chosen(&[test, train], true), Ok(vec![train.to_owned()]));
        assert_eq!(chosen(&others, false), Err("no file train-….parquet".to_owned()));
        assert_eq!(chosen(&[train], false), Err("no file test-….parquet".to_owned()));
        let error = "2 files train-….parquet: a/train-0.parquet and b/train-0.parquet".to_owned();
        assert_eq!(chosen(&["a/train-0.parquet", "b/train-0.parquet", test], false), Err(error));
    }

    #[test]
    fn a_folder_is_laid_out_as_a_repository_or_flat() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in
            ["imdb/plain_text/train-0.parquet", "imdb/test-0.parquet", "imdb/.git/train-0.parquet"]
        {
            store::write(&at(name), b"").unwrap();
        }
        let (train, test) = files(&at("imdb"), None, None).unwrap();
        assert_eq!(train, at("imdb/plain_text/train-0.parquet"));
        assert_eq!(test, TableTest::File(at("imdb/test-0.parquet")));
        let share = TestShare { share: 0.5, seed: 1 };
        assert_eq!(files(&at("imdb"), Some(share), None).unwrap().1, TableTest::Share(share));
        let error = files(&at("none"), None, None).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("{}: no file train-….parquet; expected {EXPECTED}", at("none").display())
        );
    }
}
