//! Files. The only module that writes; every write is atomic: a reader sees the old file or the new one, whole. A results
//! folder is written to by the one process that has its lock ([`Folder`]). Only regular files are read, and none without a
//! bound: a pipe would never end, nor would a device.

#[cfg(feature = "report")]
pub(crate) mod database;
mod folder;
mod lock;

use std::fs::{File, FileType, Metadata};
use std::io::{Error, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};

use crate::formatting;

pub use folder::{Folder, FolderError};
pub(crate) use folder::{sweep, sweep_one};
pub(crate) use lock::{FileLock, LockState, remove_free as remove_free_lock, state as lock_state};

/// The most bytes of a text that a person wrote, such as a spec: with each of 10,000 seeds in it a spec has 200 KB.
pub(crate) const MOST_TEXT: u64 = 1 << 20;
/// The most bytes of a results file: that of 100 variants with 10,000 seeds each, the most of a spec, has 400 MB.
#[doc(hidden)] // for this crate's tests
pub const MOST_RESULTS: u64 = 1 << 30;
/// The most bytes of any other file that is read whole: the record of a run of 10⁹ steps, the most of a spec, has 25 GB.
pub(crate) const MOST: u64 = 1 << 35;

/// A file that could not be read or written.
///
/// ```
/// use mantissa::data::{self, DataError};
/// use mantissa::spec::{Augment, DataPlan};
///
/// let (path, augment) = ("no/such/folder".into(), Augment::default());
/// let plan = DataPlan::Cifar10 { path, augment };
/// let Err(DataError::Read(error)) = data::load(&plan) else { panic!("it cannot be read") };
/// assert!(error.path.starts_with("no/such/folder"));
/// ```
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot {action}: {source}", path.display())]
pub struct StoreError {
    /// The file or folder.
    pub path: PathBuf,
    action: &'static str,
    source: Error,
}

impl StoreError {
    fn new(path: &Path, action: &'static str) -> impl FnOnce(Error) -> Self {
        let path = path.to_owned();
        move |source| Self { path, action, source }
    }

    /// Whether it is about a link in the place of a folder: a person put it there, and can take it away.
    pub fn is_link(&self) -> bool {
        self.action == BELOW_A_LINK
    }
}

/// What is not done with a folder that is a symbolic link.
const BELOW_A_LINK: &str = "write below a symbolic link";

/// Writes a file whole or not at all, and makes the folders above it.
///
/// # Errors
/// When a folder or the file cannot be made; the file is then as it was, and no folder is left that was made for it.
#[doc(hidden)] // for this crate's tests
pub fn write(path: &Path, contents: &[u8]) -> Result<(), StoreError> {
    let folder = folder_of(path);
    let made = make_folder(folder)?;
    let again = |error: Error| match error.kind() {
        // Swept in the moment before it was locked.
        ErrorKind::NotFound => write_into(folder, path, contents),
        _ => Err(error),
    };
    let written = write_into(folder, path, contents).or_else(again);
    let written = written.map_err(StoreError::new(path, "write"));
    if written.is_err() {
        for folder in &made {
            remove_if_empty(folder);
        }
    }
    written
}

fn write_into(folder: &Path, path: &Path, contents: &[u8]) -> std::io::Result<()> {
    let mut file = partial(folder)?;
    file.write_all(contents)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Writes a file below a folder as [`write()`] does, and returns its path. Folders between the two are followed only where
/// they are folders: a link could lead to files of somebody else.
///
/// # Errors
/// When one of them is a symbolic link, or as [`write()`].
pub(crate) fn write_below(
    folder: &Path,
    name: &Path,
    contents: &[u8],
) -> Result<PathBuf, StoreError> {
    refuse_links(folder, folder_of(name))?;
    let path = folder.join(name);
    write(&path, contents)?;
    Ok(path)
}

/// Makes sure that no folder on the way from `folder` to `name` below it is a symbolic link, `name` included.
///
/// # Errors
/// When one is.
pub(crate) fn refuse_links(folder: &Path, name: &Path) -> Result<(), StoreError> {
    let mut at = folder.to_owned();
    for part in name.components() {
        at.push(part);
        if at.symlink_metadata().is_ok_and(|found| found.is_symlink()) {
            let reason = "put a folder there, or choose another --out";
            return Err(StoreError::new(&at, BELOW_A_LINK)(Error::other(reason)));
        }
    }
    Ok(())
}

/// Removes a folder in which nothing is; any other stays as it is.
pub(crate) fn remove_if_empty(folder: &Path) {
    // The system refuses to remove a folder that holds something: that is the test.
    let _ = std::fs::remove_dir(folder);
}

/// Removes a file.
///
/// # Errors
/// When it cannot be removed.
#[doc(hidden)] // for this crate's tests
pub fn remove(file: &Path) -> Result<(), StoreError> {
    std::fs::remove_file(file).map_err(StoreError::new(file, "remove"))
}

/// Notes that a file was used now, for [`trim`]. Where that is not possible, nothing is done.
pub fn note_use(file: &Path) {
    // Its contents and the time of their writing stay as they are.
    let _ = File::open(file)
        .and_then(|file| file.set_times(std::fs::FileTimes::new().set_accessed(SystemTime::now())));
}

/// Removes files with this ending from a folder, those that were used or written longest ago first, until the others have at most
/// `most` bytes together. `kept` stays. Other processes may do so at the same time, and one that has a file open can read it to its end.
///
/// # Errors
/// When the folder cannot be read.
pub fn trim(folder: &Path, ending: &str, most: u64, kept: &Path) -> Result<(), StoreError> {
    let mut files = Vec::new();
    let mut all = 0_u64;
    for path in list(folder)? {
        // What has vanished since is no more.
        let found = path.symlink_metadata().ok().filter(Metadata::is_file);
        let Some(found) = found.filter(|_| path.extension().is_some_and(|found| found == ending))
        else {
            continue;
        };
        all = all.saturating_add(found.len());
        let used = found.accessed().ok().max(found.modified().ok());
        files.push((used, path, found.len()));
    }
    files.sort();
    for (_, path, length) in files {
        if all <= most {
            break;
        }
        if path != kept && (remove(&path).is_ok() || !exists(&path).unwrap_or(true)) {
            all -= length;
        }
    }
    Ok(())
}

/// The paths of what is in a folder, sorted; none where there is no folder.
///
/// # Errors
/// When the folder cannot be read.
#[doc(hidden)] // for this crate's tests
pub fn list(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    if !is_there(folder)?.is_some_and(|found| found.is_dir()) {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(folder).map_err(StoreError::new(folder, "list"))?;
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(StoreError::new(folder, "list"))?;
    paths.sort();
    Ok(paths)
}

/// The folders in a folder, sorted, without those that are symbolic links.
///
/// # Errors
/// When the folder cannot be read.
#[doc(hidden)] // for this crate's tests
pub fn real_folders(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut paths = list(folder)?;
    paths.retain(|path| path.symlink_metadata().is_ok_and(|found| found.is_dir()));
    Ok(paths)
}

/// Whether there is a file.
///
/// # Errors
/// When the file system does not say, such as in a folder without permission: that is not the same as no file.
#[doc(hidden)] // for this crate's tests
pub fn is_file(path: &Path) -> Result<bool, StoreError> {
    Ok(is_there(path)?.is_some_and(|found| found.is_file()))
}

/// Whether there is anything at a path, a link that leads nowhere included.
///
/// # Errors
/// When the file system does not say.
#[doc(hidden)] // for this crate's tests
pub fn exists(path: &Path) -> Result<bool, StoreError> {
    Ok(if_there(path, std::fs::symlink_metadata(path))?.is_some())
}

/// When a file was last written; none where there is none.
///
/// # Errors
/// When the file system does not say.
#[doc(hidden)] // for this crate's tests
pub fn modified(path: &Path) -> Result<Option<SystemTime>, StoreError> {
    let time = is_there(path)?.map(|found| found.modified());
    time.transpose().map_err(StoreError::new(path, "read"))
}

/// What is known of a path, links followed; none where nothing is.
fn is_there(path: &Path) -> Result<Option<Metadata>, StoreError> {
    if_there(path, std::fs::metadata(path))
}

fn if_there(path: &Path, found: std::io::Result<Metadata>) -> Result<Option<Metadata>, StoreError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(StoreError::new(path, "read")(error)),
    }
}

/// The first bytes of a file, `length` of them or as many as there are.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn read_start(path: &Path, length: u64) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    open(path)?.0.take(length).read_to_end(&mut bytes).map_err(cannot_read(path))?;
    Ok(bytes)
}

/// Reads a file of at most [`MOST`] bytes whole.
///
/// # Errors
/// When it is longer, no regular file, or cannot be read.
#[doc(hidden)] // for this crate's tests
pub fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    read_at_most(path, MOST)
}

/// Reads a file of at most `most` bytes whole.
///
/// # Errors
/// When it is longer, no regular file, or cannot be read.
pub(crate) fn read_at_most(path: &Path, most: u64) -> Result<Vec<u8>, StoreError> {
    let (file, length) = open(path)?;
    let too_long = |length: u64| {
        let problem = format!("has {length} bytes or more; such a file has at most {most}");
        cannot_read(path)(Error::new(ErrorKind::FileTooLarge, problem))
    };
    if length > most {
        return Err(too_long(length));
    }
    // Some files hold more than the system says, as those of /proc do, and a file may grow.
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(cannot_read(path))?;
    if bytes.len() as u64 > most { Err(too_long(bytes.len() as u64)) } else { Ok(bytes) }
}

/// The SHA-256 of a file in hexadecimal digits.
///
/// # Errors
/// When it is not a regular file, or cannot be read.
pub(crate) fn sha256(path: &Path) -> Result<String, StoreError> {
    let (mut file, _) = open(path)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).map_err(cannot_read(path))? {
            0 => break,
            length => digest.update(&buffer[..length]),
        }
    }
    Ok(formatting::hex(&digest.finalize()))
}

/// Reads a text file of at most [`MOST_TEXT`] bytes whole.
///
/// # Errors
/// When it is longer, no regular file, cannot be read or is not UTF-8.
#[doc(hidden)] // for this crate's tests
pub fn read_to_string(path: &Path) -> Result<String, StoreError> {
    String::from_utf8(read_at_most(path, MOST_TEXT)?)
        .map_err(|error| cannot_read(path)(Error::new(ErrorKind::InvalidData, error.utf8_error())))
}

/// Opens a regular file, or a link to one, for reading. Also returns its length in bytes.
///
/// # Errors
/// When it is something else, such as a pipe or a device, or cannot be opened.
pub(crate) fn open(path: &Path) -> Result<(File, u64), StoreError> {
    // Asked before it is opened: opening a pipe waits for who writes to it.
    let found = std::fs::metadata(path).map_err(cannot_read(path))?;
    if !found.is_file() {
        let problem = format!("is {}; give a regular file", kind(found.file_type()));
        return Err(cannot_read(path)(Error::new(ErrorKind::InvalidInput, problem)));
    }
    let file = File::open(path).map_err(cannot_read(path))?;
    let length = file.metadata().map_err(cannot_read(path))?.len();
    Ok((file, length))
}

/// Makes the error of a file whose reading failed.
pub(crate) fn cannot_read(path: &Path) -> impl FnOnce(Error) -> StoreError {
    StoreError::new(path, "read")
}

/// What a file is that is no regular one, in words.
fn kind(kind: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        if kind.is_fifo() {
            return "a pipe";
        }
        if kind.is_socket() {
            return "a socket";
        }
        if kind.is_char_device() || kind.is_block_device() {
            return "a device";
        }
    }
    if kind.is_dir() { "a folder" } else { "no regular file" }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// Makes a folder and those above it, and returns those that were not there, the innermost first.
fn make_folder(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let is_missing = |folder: &&Path| {
        let kind = folder.symlink_metadata().map_err(|error| error.kind());
        !folder.as_os_str().is_empty() && kind.is_err_and(|kind| kind == ErrorKind::NotFound)
    };
    let missing: Vec<PathBuf> =
        folder.ancestors().take_while(is_missing).map(Path::to_owned).collect();
    match std::fs::create_dir_all(folder) {
        Ok(()) => Ok(missing),
        Err(error) => {
            for folder in &missing {
                remove_if_empty(folder);
            }
            Err(StoreError::new(folder, "make the folder")(error))
        }
    }
}

/// What the names of temporary files begin with, and how many letters and digits follow.
const PARTIAL: (&str, usize) = (".partial-", 6);

/// Whether a name is that of a temporary file.
fn is_partial(name: &str) -> bool {
    name.strip_prefix(PARTIAL.0).is_some_and(|rest| {
        rest.len() == PARTIAL.1 && rest.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// A new file in `folder` that vanishes unless it is kept, with the permissions that any new file gets. It is locked: that is
/// what distinguishes it from one whose process was killed.
fn partial(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PARTIAL.0).rand_bytes(PARTIAL.1);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let file = builder.tempfile_in(folder)?;
    // Where files cannot be locked, nobody can lock it to sweep it either.
    let _ = file.as_file().try_lock();
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn listing(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_written_whole_below_new_folders_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/c.txt");
        write(&path, b"first, and longer").unwrap();
        write(&path, "zweites ü".as_bytes()).unwrap();
        assert_eq!(read_to_string(&path).unwrap(), "zweites ü");
        assert_eq!(listing(path.parent().unwrap()), ["c.txt"]);
    }

    #[test]
    fn what_is_listed_can_be_removed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["b", "c/d", "a"] {
            write(&at(name), b"").unwrap();
        }
        assert_eq!(list(folder.path()).unwrap(), ["a", "b", "c"].map(at));
        remove(&at("b")).unwrap();
        assert_eq!(list(folder.path()).unwrap(), ["a", "c"].map(at));
        assert_eq!(list(&at("a")).unwrap(), [""; 0].map(at));
        let error = remove(&at("b")).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}: cannot remove: ", at("b").display())), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_gets_the_permissions_of_any_new_file() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let mode = |name: &str| {
            let path = folder.path().join(name);
            path.metadata().unwrap().permissions().mode()
        };
        File::create(folder.path().join("ordinary")).unwrap();
        write(&folder.path().join("ours"), b"").unwrap();
        assert_eq!(mode("ours"), mode("ordinary"));
    }

    #[test]
    fn an_error_names_the_path_and_what_was_tried() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        write(&file, b"\xff").unwrap();
        let path = file.display();
        for (error, message) in [
            (write(&file.join("below"), b"").err(), format!("{path}: cannot make the folder: ")),
            (read(&file.join("below")).err(), format!("{path}/below: cannot read: ")),
            (
                read_to_string(&file).err(),
                format!("{path}: cannot read: invalid utf-8 sequence of 1 bytes from index 0"),
            ),
        ] {
            let error = error.unwrap().to_string();
            assert!(error.starts_with(&message), "{error}\n{message}");
        }
        assert_eq!(listing(folder.path()), ["file"]);
    }

    #[cfg(unix)]
    #[test]
    fn only_regular_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let [pipe, link] = ["pipe", "link"].map(|name| folder.path().join(name));
        // A pipe that nobody writes to: opening it would wait for ever.
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        for (path, is) in [
            (pipe.as_path(), "a pipe"),
            (&link, "a device"),
            (Path::new("/dev/zero"), "a device"),
            (folder.path(), "a folder"),
        ] {
            let message = format!("{}: cannot read: is {is}; give a regular file", path.display());
            for error in [open(path).err(), read(path).err(), read_to_string(path).err()] {
                assert_eq!(error.unwrap().to_string(), message);
            }
        }
    }

    #[test]
    fn a_file_is_read_up_to_its_bound() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        write(&at("six"), b"sixsix").unwrap();
        assert_eq!(read_at_most(&at("six"), 6).unwrap(), b"sixsix");
        // Files of a length that no memory holds, on a disk that keeps no zeros.
        let huge = |name: &str, length| File::create(at(name)).unwrap().set_len(length).unwrap();
        huge("text", MOST_TEXT + 1);
        huge("record", MOST + 1);
        for (result, message) in [
            (
                read_at_most(&at("six"), 5),
                "six: cannot read: has 6 bytes or more; such a file has at most 5",
            ),
            (
                read_to_string(&at("text")).map(String::into_bytes),
                "text: cannot read: has 1048577 bytes or more; such a file has at most 1048576",
            ),
            (
                read(&at("record")),
                "record: cannot read: has 34359738369 bytes or more; such a file has at most 34359738368",
            ),
        ] {
            let error = result.unwrap_err().to_string();
            assert_eq!(error, format!("{}/{message}", folder.path().display()));
        }
    }

    #[test]
    fn a_folder_is_made_for_a_lock_and_gone_with_it_if_nothing_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("reports/digits");
        let file = folder.path().join("file");
        write(&file, b"").unwrap();
        let refused = Folder::lock(&file, "me").unwrap_err().to_string();
        assert!(refused.starts_with(&format!("{}: cannot make the folder: ", file.display())));
        drop(Folder::lock(&out, "me").unwrap());
        assert_eq!(listing(folder.path()), ["file"]);
        let locked = Folder::lock(&out, "me").unwrap();
        write_below(locked.path(), Path::new("results.json"), b"{}").unwrap();
        drop(locked);
        assert_eq!(listing(&out), ["results.json"]);
        remove_if_empty(&out);
        assert_eq!(listing(&out), ["results.json"]);
        std::fs::remove_file(out.join("results.json")).unwrap();
        remove_if_empty(&out);
        assert!(!out.exists());
    }

    /// A name that is too long stands for a disk that is full: the folders are made, the file is not.
    #[test]
    fn a_write_that_fails_leaves_no_folder() {
        let folder = tempfile::tempdir().unwrap();
        let name = PathBuf::from("runs/fp32").join("x".repeat(300));
        assert!(write_below(folder.path(), &name, b"").is_err());
        assert!(write_below(folder.path(), &name.join("record.json"), b"").is_err());
        assert_eq!(listing(folder.path()), [""; 0]);
    }

    #[cfg(unix)]
    #[test]
    fn nothing_is_written_below_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), folder.path().join("runs")).unwrap();
        for name in ["runs/record.json", "runs/fp32/seed-0/record.json"] {
            let error = write_below(folder.path(), Path::new(name), b"").unwrap_err();
            assert!(error.is_link());
            assert_eq!(
                error.to_string(),
                format!(
                    "{}: cannot write below a symbolic link: put a folder there, or choose another --out",
                    folder.path().join("runs").display()
                )
            );
        }
        assert_eq!(listing(elsewhere.path()), [""; 0]);
        assert_eq!(real_folders(folder.path()).unwrap(), [""; 0].map(PathBuf::from));
        // The folder itself may be one: that is what was asked for.
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(elsewhere.path(), &link).unwrap();
        write_below(&link, Path::new("results.json"), b"").unwrap();
        assert_eq!(listing(elsewhere.path()), ["results.json"]);
    }

    /// A link to itself stands for a folder without permission, which a test that may do everything cannot have.
    #[cfg(unix)]
    #[test]
    fn what_cannot_be_looked_at_is_not_missing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("loop");
        std::os::unix::fs::symlink(&path, &path).unwrap();
        let message = format!("{}: cannot read: ", path.display());
        for error in [is_file(&path).err(), list(&path).err(), modified(&path).err()] {
            let error = error.unwrap().to_string();
            assert!(error.starts_with(&message), "{error}");
        }
        let absent = folder.path().join("absent");
        assert!(!is_file(&absent).unwrap() && !is_file(&absent.join("below")).unwrap());
        assert_eq!(modified(&absent).unwrap(), None);
    }
}
