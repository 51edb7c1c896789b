//! Files of the Hugging Face hub, by names that begin with `hub:`. They are downloaded once, into the folder in which all of Hugging
//! Face's programs keep them, and taken from there the next time without a connection. The only module that makes connections; the
//! crate `hf-hub` does, and writes that folder.

#[cfg_attr(not(feature = "hub"), path = "hub/absent.rs")]
mod download;

use std::fmt;
use std::path::{Path, PathBuf};

/// What the name of a repository begins with.
const PREFIX: &str = "hub:";

/// A repository of the hub at a revision, and perhaps a file in it: `hub:OWNER/NAME@REVISION/FILE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    /// `OWNER/NAME`.
    pub repository: String,
    /// A branch, a tag or a commit; none: `main`.
    pub revision: Option<String>,
    /// The path of a file in it.
    pub file: Option<String>,
}

impl Name {
    /// What a path says that begins with `hub:`, or what is wrong with it; none of any other path.
    pub(crate) fn of(path: &Path) -> Option<Result<Self, String>> {
        let text = path.to_string_lossy();
        let rest = text.strip_prefix(PREFIX)?;
        let wrong = || {
            format!(
                "{text:?} is no name of the hub; it is hub:OWNER/NAME, with @REVISION and /FILE where needed"
            )
        };
        Some(Self::parse(&rest.replace('\\', "/")).ok_or_else(wrong))
    }

    fn parse(text: &str) -> Option<Self> {
        let (owner, rest) = text.split_once('/')?;
        let (name, file) = match rest.split_once('/') {
            Some((name, file)) => (name, Some(file.to_owned())),
            None => (rest, None),
        };
        let (name, revision) = match name.split_once('@') {
            Some((name, revision)) => (name, Some(revision.to_owned())),
            None => (name, None),
        };
        let plain = |part: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            is_part(part) && part.chars().all(known)
        };
        let good = [owner, name].into_iter().chain(revision.as_deref()).all(plain)
            && file.as_deref().is_none_or(is_file);
        good.then(|| Self { repository: format!("{owner}/{name}"), revision, file })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.repository)?;
        self.revision.iter().try_for_each(|revision| write!(f, "@{revision}"))?;
        self.file.iter().try_for_each(|file| write!(f, "/{file}"))
    }
}

/// Whether a part of a path leads to something below it, and stands for itself in an address.
fn is_part(part: &str) -> bool {
    let known = |c: char| c.is_ascii_graphic() && !"?#%:/\\".contains(c);
    !["", ".", ".."].contains(&part) && part.chars().all(known)
}

/// Whether a path of a file in a repository stays in it.
fn is_file(path: &str) -> bool {
    path.split('/').all(is_part)
}

/// What is in a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A data set.
    Dataset,
    /// A model, with its tokenizer.
    Model,
}

/// A file that is being downloaded.
///
/// ```
/// use mantissa::hub::Transfer;
///
/// let half = Transfer { file: "config.json", done: 300, of: 600 };
/// assert_eq!(half.done as f64 / half.of as f64, 0.5);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer<'a> {
    /// The file's path in its repository.
    pub file: &'a str,
    /// Bytes that are here.
    pub done: u64,
    /// Bytes that it has.
    pub of: u64,
}

/// Is told how far a download is.
///
/// ```
/// use mantissa::data::Loading;
/// use mantissa::hub::Transfer;
/// use std::cell::Cell;
///
/// let share = Cell::new(0.0);
/// let listen = |transfer: Transfer<'_>| share.set(transfer.done as f64 / transfer.of as f64);
/// let loading = Loading { download: Some(&listen), ..Loading::default() };
/// loading.download.unwrap()(Transfer { file: "config.json", done: 1, of: 4 });
/// assert_eq!(share.get(), 0.25);
/// ```
pub type Listener<'a> = &'a dyn Fn(Transfer<'_>);

/// A file that cannot be had from the hub.
///
/// ```
/// use mantissa::data::{self, DataError};
/// use mantissa::spec::{DataPlan, TextTest, TokensPlan};
///
/// // It lacks the name of a file.
/// let (train, test) = ("hub:owner/name".into(), TextTest::Last(0.1));
/// let plan = DataPlan::PlainText { train, test, length: 8, tokens: TokensPlan::Characters };
/// let Err(DataError::Hub(error)) = data::load(&plan) else { panic!("it cannot be had") };
/// assert!(error.to_string().starts_with("hub:owner/name: names no file"));
/// ```
#[derive(Debug, thiserror::Error)]
#[error("{name}: {what}; {instead}")]
pub struct HubError {
    name: String,
    what: String,
    instead: String,
    /// Whether the hub says that there is no such file.
    pub is_missing: bool,
}

/// A repository of the hub whose files are wanted.
#[cfg_attr(
    not(feature = "hub"),
    expect(dead_code, reason = "without the feature nothing is downloaded")
)]
#[derive(Clone)]
pub(crate) struct Repository<'a> {
    /// What is in it.
    pub kind: Kind,
    /// Its name; a file in it says nothing here.
    pub name: Name,
    /// What a user does who cannot download files, as the end of an error's sentence.
    pub instead: &'a str,
    /// Is told of downloads.
    pub listen: Option<Listener<'a>>,
}

impl Repository<'_> {
    /// The paths of its files, as the hub lists them.
    ///
    /// # Errors
    /// When the hub cannot be reached, or knows no such repository.
    pub(crate) fn list(&self) -> Result<Vec<String>, HubError> {
        let mut files = download::list(self)?;
        files.retain(|file| is_file(file));
        Ok(files)
    }

    /// The paths of those of its files that are here, at the commit that was last downloaded.
    pub(crate) fn kept(&self) -> Vec<String> {
        download::kept(self)
    }

    /// Where a file is on this machine, which is downloaded if it is not there.
    ///
    /// # Errors
    /// When it is neither here, nor can it be downloaded whole.
    pub(crate) fn file(&self, file: &str) -> Result<PathBuf, HubError> {
        if !is_file(file) {
            return Err(self.error(format!("{file:?} is no name of a file in it")));
        }
        download::file(self, file)
    }

    /// Where files are on this machine, all of one commit.
    ///
    /// # Errors
    /// As [`Repository::file`].
    pub(crate) fn files(&self, files: &[String]) -> Result<Vec<PathBuf>, HubError> {
        // A download tells at which commit the revision is now; what was there of an earlier one is then downloaded again.
        for file in files {
            self.file(file)?;
        }
        files.iter().map(|file| self.file(file)).collect()
    }

    fn error(&self, what: String) -> HubError {
        let name = Name { file: None, ..self.name.clone() }.to_string();
        HubError { name, what, instead: self.instead.to_owned(), is_missing: false }
    }
}

/// Where the file of a path is on this machine: a path that begins with `hub:` is that of a file of a repository. `instead` is what a user
/// does who cannot download it.
///
/// # Errors
/// When it can be neither found nor downloaded, or the name is none.
pub(crate) fn local(
    path: &Path,
    kind: Kind,
    (instead, listen): (&str, Option<Listener<'_>>),
) -> Result<PathBuf, HubError> {
    let Some(name) = Name::of(path) else {
        return Ok(path.to_owned());
    };
    let error = |what: &str| HubError {
        name: path.display().to_string(),
        what: what.to_owned(),
        instead: instead.to_owned(),
        is_missing: false,
    };
    let name = name.map_err(|_| error("is no name of the hub"))?;
    let Some(file) = name.file.clone() else {
        return Err(error("names no file of the repository"));
    };
    Repository { kind, name, instead, listen }.file(&file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_repository_and_perhaps_a_revision_and_a_file() {
        for (text, repository, revision, file) in [
            ("hub:a/b", "a/b", None, None),
            ("hub:a-1/b_2.c@v1.0", "a-1/b_2.c", Some("v1.0"), None),
            ("hub:a/b/c.txt", "a/b", None, Some("c.txt")),
            ("hub:a/b@main/c/d@e.txt", "a/b", Some("main"), Some("c/d@e.txt")),
        ] {
            let name = Name::of(Path::new(text)).unwrap().unwrap();
            assert_eq!(name.repository, repository);
            assert_eq!((name.revision.as_deref(), name.file.as_deref()), (revision, file));
            assert_eq!(name.to_string(), text);
        }
        assert_eq!(Name::of(Path::new("a/hub:b/c")), None);
        for text in [
            "hub:",
            "hub:a",
            "hub:a/",
            "hub:/b",
            "hub:a/..",
            "hub:a/b@",
            "hub:a/b@/c",
            "hub:a/b/",
            "hub:a/b/../c",
            "hub:a/b//c",
            "hub:a/b/c?d",
            "hub:a/b/c d",
            "hub:a/b/%2e",
            "hub:a b/c",
            "hub:a/b@c:d",
            "hub:a/b\\..\\c",
        ] {
            assert!(Name::of(Path::new(text)).unwrap().is_err(), "{text}");
        }
    }
}
