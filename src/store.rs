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

/// Writes a file whole or not at all, and makes the folders above it.
///
/// # Errors
/// When a folder or the file cannot be made; the file is then as it was.
pub fn write(path: &Path, contents: &[u8]) -> Result<(), StoreError> {
    let fail = |action| move |source| StoreError { path: path.to_owned(), action, source };
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(fail("make the folder"))?;
    let mut file =
        tempfile::Builder::new().prefix(".partial-").tempfile_in(folder).map_err(fail("write"))?;
    file.write_all(contents).map_err(fail("write"))?;
    file.as_file().sync_all().map_err(fail("write"))?;
    file.persist(path).map_err(|error| fail("write")(error.error))?;
    Ok(())
}

/// Reads a file whole.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    std::fs::read(path).map_err(|source| StoreError {
        path: path.to_owned(),
        action: "read",
        source,
    })
}
