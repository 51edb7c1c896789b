//! A results folder while one process writes to it: the lock, and what a process that was killed left behind.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::{StoreError, is_partial, make_folder, real_folders, remove_if_empty};

/// The file whose lock is the folder's. Its first line says who holds it.
const LOCK: &str = ".lock";

/// More of the first line of a lock file is not read.
const LONGEST_HOLDER: u64 = 200;

/// The folders in a results folder, and how many levels each has below it: such as `runs/<variant>/seed-<n>`.
const INSIDE: [(&str, usize); 3] = [("figures", 0), ("runs", 2), ("tensorboard", 2)];

/// A folder that this process alone writes results to, for as long as this value lives. The operating system gives up the
/// lock of a process that ends in whatever way.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Who holds it, in its own words.
    holder: String,
    /// None of a folder that several processes write to.
    lock: Option<File>,
    /// The folders that were made for it, the innermost first.
    made: Vec<PathBuf>,
}

/// A folder that this process may not write to.
///
/// ```
/// use mantissa::store::{Folder, FolderError};
///
/// # let dir = tempfile::tempdir()?;
/// let _folder = Folder::lock(dir.path(), "a first program")?;
/// match Folder::lock(dir.path(), "a second program") {
///     Err(FolderError::Held { holder, .. }) => assert_eq!(holder, "a first program"),
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another process does.
    #[error("{}: in use by {holder}; wait for its end, or choose another --out", path.display())]
    Held {
        /// The folder.
        path: PathBuf,
        /// Who it is, in its own words.
        holder: String,
    },
    /// It cannot be made, or nothing can be written there.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Folder {
    /// Makes the folder, and those above it, where they are not there, takes its lock, and removes the temporary files of
    /// processes that were killed. `holder` is what another process reads meanwhile.
    ///
    /// ```
    /// use mantissa::store::Folder;
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("results");
    /// let folder = Folder::lock(&path, "a first program")?;
    /// assert!(Folder::lock(&path, "a second program").is_err());
    /// # Ok::<(), mantissa::store::FolderError>(())
    /// ```
    ///
    /// # Errors
    /// When another process has the lock, or nothing can be written there; folders that were made for it are removed again.
    pub fn lock(path: &Path, holder: &str) -> Result<Self, FolderError> {
        let made = make_folder(path)?;
        let locked = take(path, holder).and_then(|lock| {
            sweep(path)?;
            Ok(lock)
        });
        match locked {
            Ok(lock) => Ok(Self::new(path, holder, Some(lock), made)),
            Err(error) => {
                for folder in &made {
                    remove_if_empty(folder);
                }
                Err(error)
            }
        }
    }

    /// A folder that several processes write to, on this machine or on others: each to what nobody else has the lock of.
    ///
    /// # Errors
    /// When it is not there and cannot be made.
    #[doc(hidden)] // for the program
    pub fn share(path: &Path, holder: &str) -> Result<Self, StoreError> {
        Ok(Self::new(path, holder, None, make_folder(path)?))
    }

    fn new(path: &Path, holder: &str, lock: Option<File>, made: Vec<PathBuf>) -> Self {
        Self { path: path.to_owned(), holder: holder.to_owned(), lock, made }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who holds it, in its own words.
    pub(crate) fn holder(&self) -> &str {
        &self.holder
    }
}

impl Drop for Folder {
    /// Removes the lock file, and the folders that were made for this and hold nothing.
    fn drop(&mut self) {
        let file = self.path.join(LOCK);
        if cfg!(unix) && self.lock.as_ref().is_some_and(|lock| is_at(lock, &file)) {
            // Who waits for the lock of this file finds that it is gone, and makes another.
            let _ = std::fs::remove_file(file);
        }
        self.made.iter().for_each(|folder| remove_if_empty(folder));
    }
}

/// The lock file of a folder, locked, with the holder in it.
fn take(folder: &Path, holder: &str) -> Result<File, FolderError> {
    let path = folder.join(LOCK);
    let cannot =
        |error| FolderError::Store(StoreError::new(folder, "write into the folder")(error));
    loop {
        if path.symlink_metadata().is_ok_and(|found| !found.is_file()) {
            let reason = ".lock is there and is no ordinary file";
            return Err(cannot(std::io::Error::new(ErrorKind::AlreadyExists, reason)));
        }
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = file.map_err(cannot)?;
        match file.try_lock() {
            Ok(()) if !is_at(&file, &path) => continue,
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(FolderError::Held { path: folder.to_owned(), holder: read(file) });
            }
            Err(TryLockError::Error(error)) => {
                return Err(StoreError::new(&path, "lock")(error).into());
            }
        }
        let written = file.set_len(0).and_then(|()| writeln!(file, "{holder}"));
        if written.is_err() && cfg!(unix) {
            let _ = std::fs::remove_file(&path);
        }
        return written.map(|()| file).map_err(cannot);
    }
}

/// Who holds a lock, by its file: the first line, without characters that are no text.
fn read(file: File) -> String {
    let mut bytes = Vec::new();
    // What cannot be read is left out.
    let _ = file.take(LONGEST_HOLDER).read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let line: String =
        text.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).collect();
    if line.is_empty() { "another process".to_owned() } else { line }
}

/// Whether an open file is the one at a path: its name may have been removed, and given to another, since it was opened.
fn is_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let (Ok(open), Ok(named)) = (file.metadata(), path.symlink_metadata()) else {
            return false;
        };
        (open.dev(), open.ino()) == (named.dev(), named.ino())
    }
    #[cfg(not(unix))]
    {
        // Nobody removes it there.
        let _ = (file, path);
        true
    }
}

/// Removes the temporary files that processes which were killed left in a results folder. Those of a living process are
/// locked, and stay.
///
/// # Errors
/// When a folder cannot be read or a file not be removed.
pub(crate) fn sweep(folder: &Path) -> Result<(), StoreError> {
    sweep_one(folder)?;
    for inside in real_folders(folder)? {
        let known = INSIDE.iter().find(|(name, _)| inside.ends_with(name));
        let Some((_, depth)) = known else { continue };
        let mut level = vec![inside];
        for _ in 0..*depth {
            level.iter().try_for_each(|folder| sweep_one(folder))?;
            let below: Result<Vec<_>, _> =
                level.iter().map(|folder| real_folders(folder)).collect();
            level = below?.concat();
        }
        level.iter().try_for_each(|folder| sweep_one(folder))?;
    }
    Ok(())
}

/// As [`sweep`], of one folder and not of those in it.
///
/// # Errors
/// As [`sweep`].
pub(crate) fn sweep_one(folder: &Path) -> Result<(), StoreError> {
    for path in super::list(folder)? {
        let ours = path.file_name().and_then(|name| name.to_str()).is_some_and(is_partial);
        if ours && path.symlink_metadata().is_ok_and(|found| found.is_file()) {
            // What has vanished since is gone as it should.
            let dead = File::open(&path).is_ok_and(|file| file.try_lock().is_ok());
            if dead
                && let Err(error) = super::remove(&path)
                && super::exists(&path)?
            {
                return Err(error);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::listing;
    use super::*;

    fn refusal(path: &Path) -> String {
        Folder::lock(path, "a second").unwrap_err().to_string()
    }

    #[test]
    fn one_at_a_time_and_the_second_is_told_who_has_it() {
        let parent = tempfile::tempdir().unwrap();
        let out = parent.path().join("reports/digits");
        let first = Folder::lock(&out, "process 1 on there, since noon").unwrap();
        assert_eq!(
            refusal(&out),
            format!(
                "{}: in use by process 1 on there, since noon; wait for its end, or choose another --out",
                out.display()
            )
        );
        assert_eq!(listing(&out), [".lock"]);
        File::options()
            .write(true)
            .truncate(true)
            .open(out.join(LOCK))
            .unwrap()
            .write_all(b"\x1b[2Jfoe\n")
            .unwrap();
        assert!(refusal(&out).contains("in use by [2Jfoe; "));
        drop(first);
        assert_eq!(listing(parent.path()), [""; 0], "folders made for nothing are gone");
        drop(Folder::lock(&out, "a third").unwrap());
    }

    /// Its file stays behind a process that is killed; the lock does not.
    #[test]
    fn a_lock_file_without_a_holder_is_no_obstacle() {
        let out = tempfile::tempdir().unwrap();
        super::super::write(&out.path().join(LOCK), b"process 1, long dead, and more").unwrap();
        let folder = Folder::lock(out.path(), "me").unwrap();
        let held = super::super::read(&out.path().join(LOCK)).unwrap();
        assert_eq!(held, b"me\n");
        drop(folder);
        assert_eq!(listing(out.path()), [""; 0]);
        assert!(out.path().exists(), "a folder that was there stays");
    }

    #[test]
    fn many_threads_hold_it_one_after_the_other() {
        let parent = tempfile::tempdir().unwrap();
        let out = parent.path().join("out");
        let inside = std::sync::atomic::AtomicUsize::new(0);
        let order = std::sync::atomic::Ordering::SeqCst;
        let work = || {
            let mut held = 0;
            while held < 50 {
                let Ok(folder) = Folder::lock(&out, "a thread") else {
                    std::thread::yield_now();
                    continue;
                };
                assert_eq!(inside.fetch_add(1, order), 0);
                held += 1;
                assert_eq!(inside.fetch_sub(1, order), 1);
                drop(folder);
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            for thread in threads {
                thread.join().unwrap();
            }
        });
    }

    #[cfg(unix)]
    #[test]
    fn a_lock_file_that_leads_elsewhere_is_refused() {
        let out = tempfile::tempdir().unwrap();
        let theirs = out.path().join("theirs");
        super::super::write(&theirs, b"text").unwrap();
        std::os::unix::fs::symlink(&theirs, out.path().join(LOCK)).unwrap();
        assert!(refusal(out.path()).contains("cannot write into the folder: .lock is there"));
        assert_eq!(super::super::read(&theirs).unwrap(), b"text");
    }

    #[test]
    fn temporary_files_of_the_dead_are_swept_and_nothing_else() {
        let out = tempfile::tempdir().unwrap();
        let at = |name: &str| out.path().join(name);
        for name in [
            ".partial-a1B2c3",
            "figures/.partial-a1B2c3",
            "runs/fp32/seed-0/.partial-a1B2c3",
            "runs/fp32/seed-0/deeper/.partial-a1B2c3",
            "theirs/.partial-a1B2c3",
            ".partial-notes.txt",
            "partial-a1B2c3",
        ] {
            super::super::write(&at(name), b"").unwrap();
        }
        let alive = super::super::partial(out.path()).unwrap();
        let _folder = Folder::lock(out.path(), "me").unwrap();
        let name = alive.path().file_name().unwrap().to_str().unwrap();
        let left = [".lock", ".partial-notes.txt", "figures", "partial-a1B2c3", "runs", "theirs"];
        let mut left = [&left[..], &[name]].concat();
        left.sort_unstable();
        assert_eq!(listing(out.path()), left);
        assert_eq!(listing(&at("figures")), [""; 0]);
        assert_eq!(listing(&at("runs/fp32/seed-0")), ["deeper"]);
        for theirs in ["theirs", "runs/fp32/seed-0/deeper"] {
            assert_eq!(listing(&at(theirs)), [".partial-a1B2c3"]);
        }
    }
}
