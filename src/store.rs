//! Files. The only module that writes; every write is atomic: a reader sees the old file or the new one, whole. Only regular
//! files are read, and none without a bound: a pipe would never end, nor would a device.

use std::fs::{File, FileType};
use std::io::{Error, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// The most bytes of a text that a person wrote, such as a spec: with each of 10,000 seeds in it a spec has 200 KB.
pub const MOST_TEXT: u64 = 1 << 20;
/// The most bytes of a results file: that of 100 variants with 10,000 seeds each, the most of a spec, has 400 MB.
pub const MOST_RESULTS: u64 = 1 << 30;
/// The most bytes of any other file that is read whole: the record of a run of 10⁹ steps, the most of a spec, has 25 GB.
pub const MOST: u64 = 1 << 35;

/// A file that could not be read or written.
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
}

/// Writes a file whole or not at all, and makes the folders above it.
///
/// # Errors
/// When a folder or the file cannot be made; the file is then as it was.
pub fn write(path: &Path, contents: &[u8]) -> Result<(), StoreError> {
    let folder = folder_of(path);
    make_folder(folder)?;
    let mut file = partial(folder).map_err(StoreError::new(path, "write"))?;
    file.write_all(contents)
        .and_then(|()| file.as_file().sync_all())
        .map_err(StoreError::new(path, "write"))?;
    file.persist(path).map_err(|error| StoreError::new(path, "write")(error.error))?;
    Ok(())
}

/// Makes a folder and those above it, and makes sure that a file can be written there.
///
/// # Errors
/// When it cannot; folders made on the way stay.
pub fn prepare(folder: &Path) -> Result<(), StoreError> {
    make_folder(folder)?;
    let mut file = partial(folder).map_err(StoreError::new(folder, "write into the folder"))?;
    file.write_all(b"probe")
        .and_then(|()| file.close())
        .map_err(StoreError::new(folder, "write into the folder"))
}

/// Removes a folder in which nothing is; any other stays as it is.
pub fn remove_if_empty(folder: &Path) {
    // The system refuses to remove a folder that holds something: that is the test.
    let _ = std::fs::remove_dir(folder);
}

/// Removes a file.
///
/// # Errors
/// When it cannot be removed.
pub fn remove(file: &Path) -> Result<(), StoreError> {
    std::fs::remove_file(file).map_err(StoreError::new(file, "remove"))
}

/// The paths of what is in a folder, sorted; none where there is no folder.
///
/// # Errors
/// When the folder cannot be read.
pub fn list(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    if !folder.is_dir() {
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

/// Reads a file of at most [`MOST`] bytes whole.
///
/// # Errors
/// When it is longer, no regular file, or cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    read_at_most(path, MOST)
}

/// Reads a file of at most `most` bytes whole.
///
/// # Errors
/// When it is longer, no regular file, or cannot be read.
pub fn read_at_most(path: &Path, most: u64) -> Result<Vec<u8>, StoreError> {
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

/// Reads a text file of at most [`MOST_TEXT`] bytes whole.
///
/// # Errors
/// When it is longer, no regular file, cannot be read or is not UTF-8.
pub fn read_to_string(path: &Path) -> Result<String, StoreError> {
    String::from_utf8(read_at_most(path, MOST_TEXT)?)
        .map_err(|error| cannot_read(path)(Error::new(ErrorKind::InvalidData, error.utf8_error())))
}

/// Opens a regular file, or a link to one, for reading. Also returns its length in bytes.
///
/// # Errors
/// When it is something else, such as a pipe or a device, or cannot be opened.
pub fn open(path: &Path) -> Result<(File, u64), StoreError> {
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
pub fn cannot_read(path: &Path) -> impl FnOnce(Error) -> StoreError {
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

fn make_folder(folder: &Path) -> Result<(), StoreError> {
    std::fs::create_dir_all(folder).map_err(StoreError::new(folder, "make the folder"))
}

/// A new file in `folder` that vanishes unless it is kept, with the permissions that any new file gets.
fn partial(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".partial-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(folder: &Path) -> Vec<String> {
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
            (prepare(&file).err(), format!("{path}: cannot make the folder: ")),
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
    fn preparing_leaves_an_empty_folder_that_can_be_removed() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("reports/digits");
        prepare(&out).unwrap();
        assert_eq!(listing(&out), [""; 0]);
        write(&out.join("results.json"), b"{}").unwrap();
        remove_if_empty(&out);
        assert_eq!(listing(&out), ["results.json"]);
        std::fs::remove_file(out.join("results.json")).unwrap();
        remove_if_empty(&out);
        assert!(!out.exists());
    }
}
