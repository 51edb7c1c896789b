//! Files. The only module that writes; every write is atomic: a reader sees the old file or the new one, whole.

use std::io::Write as _;
use std::path::{Path, PathBuf};

/// A file that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot {action}: {source}", path.display())]
pub struct StoreError {
    /// The file or folder.
    pub path: PathBuf,
    action: &'static str,
    source: std::io::Error,
}

impl StoreError {
    fn new(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
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

/// Reads a file whole.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    std::fs::read(path).map_err(StoreError::new(path, "read"))
}

/// Reads a text file whole.
///
/// # Errors
/// When it cannot be read or is not UTF-8.
pub fn read_to_string(path: &Path) -> Result<String, StoreError> {
    String::from_utf8(read(path)?).map_err(|error| {
        let error = std::io::Error::new(std::io::ErrorKind::InvalidData, error.utf8_error());
        StoreError::new(path, "read")(error)
    })
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
        std::fs::File::create(folder.path().join("ordinary")).unwrap();
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
