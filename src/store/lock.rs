//! Locks of files that several machines may write to. The locks of an operating system are not always known to the others that share
//! a file system, so these are files: `NAME.lock-1`, whose creation succeeds for one process only. Whoever holds one writes to it
//! again and again, and one that nobody has written to for long is dead. Who takes the place of a dead holder creates the file
//! with the next number, which again succeeds for one only; the highest number holds the lock.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    StoreError, folder_of, list, make_folder, partial, read_to_string, remove_if_empty, write,
};

/// A holder writes to its file this often.
const BEAT: Duration = Duration::from_secs(15);

/// A file that was not written to for so long is that of a dead holder: six times were missed.
const DEAD_AFTER: Duration = Duration::from_secs(90);

/// A lock that this process holds for as long as this value lives.
#[derive(Debug)]
pub(crate) struct FileLock {
    /// The file that is locked.
    target: PathBuf,
    number: u64,
    beat: Option<Beat>,
    /// The folders that were made for it, the innermost first.
    made: Vec<PathBuf>,
    finished: bool,
}

/// Who holds a lock, as its file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    /// In its own words.
    words: String,
    /// The machine since it was started, and the processes among which the number is one; none where the system does not tell.
    machine: Option<String>,
    process: u32,
    /// When the process began, as the system counts it: numbers of processes are used again.
    began: Option<u64>,
    /// Whether the lock was given up before its file was finished.
    #[serde(default)]
    released: bool,
}

/// What is known of the lock of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LockState {
    /// Nobody ever had it, or the file was finished.
    Free,
    /// It was given up.
    Released,
    /// Somebody has it, in the holder's own words.
    Held(String),
    /// Somebody had it and ended without giving it up.
    Dead(String),
}

/// What writes to a lock's file.
#[derive(Debug)]
struct Beat {
    thread: JoinHandle<()>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    every: Duration,
    ends: Mutex<bool>,
    woken: Condvar,
    lost: AtomicBool,
}

impl FileLock {
    /// Takes the lock of `target`, and makes its folder. None where somebody else has it: the state says who.
    ///
    /// # Errors
    /// When nothing can be written there.
    pub(crate) fn take(target: &Path, holder: &str) -> Result<Result<Self, LockState>, StoreError> {
        let made = make_folder(folder_of(target))?;
        let taken = take_number(target, holder);
        if !matches!(taken, Ok(Ok(_))) {
            for folder in &made {
                remove_if_empty(folder);
            }
        }
        let (number, contents) = match taken? {
            Ok(taken) => taken,
            Err(state) => return Ok(Err(state)),
        };
        let beat = Beat::start(target, number, contents);
        Ok(Ok(Self { target: target.to_owned(), number, beat, made, finished: false }))
    }

    /// Whether another process took its place, as it does when this one was not heard of for long. Looks at the files.
    pub(crate) fn is_lost(&self) -> bool {
        is_lost(&self.target, self.number)
    }

    /// Whether that was noticed so far.
    pub(crate) fn seems_lost(&self) -> bool {
        self.beat.as_ref().is_some_and(|beat| beat.shared.lost.load(Ordering::Relaxed))
    }

    /// Gives the lock up when this value is dropped, and says that nobody needs it any more: the file is finished.
    pub(crate) fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        if let Some(beat) = self.beat.take() {
            beat.end();
        }
        let file = lock_file(&self.target, self.number);
        if self.finished || is_lost(&self.target, self.number) {
            let _ = std::fs::remove_file(file);
        } else {
            // It stays, so that its number is not given again to one while another counts on from it.
            let released = Holder { released: true, ..Holder::this("") };
            let _ = write(&file, &released.line());
        }
        for folder in &self.made {
            remove_if_empty(folder);
        }
    }
}

impl Holder {
    fn this(words: &str) -> Self {
        let process = std::process::id();
        let (machine, began) = (machine(), began(process));
        Self { words: words.to_owned(), machine, process, began, released: false }
    }

    fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }

    /// Whether it lives, where this machine can tell.
    fn lives(&self) -> Option<bool> {
        let here = self.machine.is_some() && self.machine == machine();
        here.then(|| began(self.process).is_some_and(|began| Some(began) == self.began))
    }
}

impl Beat {
    /// None where the system has no thread for it: the lock is then held for as long as its file is taken for fresh.
    fn start(target: &Path, number: u64, contents: Vec<u8>) -> Option<Self> {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let [own, next] = [number, number + 1].map(|number| lock_file(target, number));
        let beat = move || of_thread.beat([&own, &next], &contents);
        let thread = std::thread::Builder::new().name("lock".to_owned()).spawn(beat).ok()?;
        Some(Self { thread, shared })
    }

    fn end(self) {
        *self.shared.ends.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.woken.notify_all();
        let _ = self.thread.join();
    }
}

impl Default for Shared {
    fn default() -> Self {
        let (ends, woken, lost) = (Mutex::new(false), Condvar::new(), AtomicBool::new(false));
        Self { every: BEAT, ends, woken, lost }
    }
}

impl Shared {
    /// Takes no memory: a run may be measuring its own meanwhile. A successor has the next number, and removes those before its own.
    fn beat(&self, [own, next]: [&Path; 2], contents: &[u8]) {
        let is_gone =
            || own.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound);
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let waited = self.woken.wait_timeout_while(ends, self.every, |ends| !*ends);
            ends = waited.unwrap_or_else(PoisonError::into_inner).0;
            if *ends {
                return;
            }
            if is_gone() || next.symlink_metadata().is_ok() {
                self.lost.store(true, Ordering::Relaxed);
                return;
            }
            // The same bytes in their place: what counts is the time that the file system gives the file for it.
            let file = File::options().write(true).open(own);
            let _ = file.and_then(|mut file| file.write_all(contents));
        }
    }
}

/// What is known of the lock of a file.
///
/// # Errors
/// When the file system does not say.
pub(crate) fn state(target: &Path) -> Result<LockState, StoreError> {
    match highest(target)? {
        0 => Ok(LockState::Free),
        number => state_of(&lock_file(target, number)),
    }
}

/// Creates the file of the next number where nobody holds the lock, and removes those before it.
fn take_number(
    target: &Path,
    holder: &str,
) -> Result<Result<(u64, Vec<u8>), LockState>, StoreError> {
    let contents = Holder::this(holder).line();
    loop {
        let last = highest(target)?;
        if last > 0 {
            let found = state_of(&lock_file(target, last))?;
            if matches!(found, LockState::Held(_)) {
                return Ok(Err(found));
            }
        }
        let number = last + 1;
        let path = lock_file(target, number);
        match create(&path, &contents) {
            Ok(()) => {}
            // Another process was faster.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(StoreError::new(&path, "write")(error)),
        }
        if is_lost(target, number) {
            continue;
        }
        for before in numbers(target)?.into_iter().filter(|before| *before < number) {
            let _ = std::fs::remove_file(lock_file(target, before));
        }
        return Ok(Ok((number, contents)));
    }
}

/// Creates a file with these contents where there is none. One without them would be taken for the lock of a holder that nobody knows.
fn create(path: &Path, contents: &[u8]) -> std::io::Result<()> {
    let mut file = partial(folder_of(path))?;
    file.write_all(contents)?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => Err(error.error),
        // A file system that can do neither of the two ways in which that is done.
        Err(_) => File::create_new(path)?.write_all(contents),
    }
}

/// What the file of a lock says.
fn state_of(path: &Path) -> Result<LockState, StoreError> {
    let Ok(bytes) = super::read(path) else {
        // Removed since it was listed.
        return Ok(LockState::Free);
    };
    let holder: Option<Holder> = serde_json::from_slice(&bytes).ok();
    if holder.as_ref().is_some_and(|holder| holder.released) {
        return Ok(LockState::Released);
    }
    let lives = match holder.as_ref().and_then(Holder::lives) {
        Some(lives) => lives,
        None => is_fresh(path)?,
    };
    let holder = holder.map_or_else(|| "another process".to_owned(), |holder| holder.words);
    Ok(if lives { LockState::Held(holder) } else { LockState::Dead(holder) })
}

/// Whether a file was written to a moment ago, both times by the clock of its file system.
fn is_fresh(path: &Path) -> Result<bool, StoreError> {
    let cannot = || StoreError::new(path, "read the time of");
    let folder = folder_of(path);
    let now = partial(folder).and_then(|file| file.as_file().metadata()?.modified());
    let now = now.map_err(StoreError::new(folder, "write into the folder"))?;
    match path.metadata().and_then(|found| found.modified()) {
        Ok(written) => Ok(now.duration_since(written).unwrap_or_default() < DEAD_AFTER),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(cannot()(error)),
    }
}

/// Whether a higher number is there, or this one no more.
fn is_lost(target: &Path, number: u64) -> bool {
    // What cannot be looked at is not lost.
    highest(target).is_ok_and(|highest| highest != number)
}

fn highest(target: &Path) -> Result<u64, StoreError> {
    Ok(numbers(target)?.into_iter().max().unwrap_or(0))
}

/// The numbers of the lock files of a file.
fn numbers(target: &Path) -> Result<Vec<u64>, StoreError> {
    let prefix = lock_prefix(target);
    let number = |path: &PathBuf| {
        path.file_name()?.to_str()?.strip_prefix(&prefix)?.parse().ok().filter(|number| *number > 0)
    };
    Ok(list(folder_of(target))?.iter().filter_map(number).collect())
}

fn lock_file(target: &Path, number: u64) -> PathBuf {
    target.with_file_name(format!("{}{number}", lock_prefix(target)))
}

/// What the names of a file's locks begin with.
fn lock_prefix(target: &Path) -> String {
    let stem = target.file_stem().unwrap_or_default().to_string_lossy();
    format!("{stem}.lock-")
}

/// Removes the locks of a file that nobody holds.
///
/// # Errors
/// When the folder cannot be read.
pub(crate) fn remove_free(target: &Path) -> Result<(), StoreError> {
    if !matches!(state(target)?, LockState::Held(_)) {
        for number in numbers(target)? {
            let _ = std::fs::remove_file(lock_file(target, number));
        }
    }
    Ok(())
}

/// This machine since it was started, and the processes that this one sees by their numbers.
fn machine() -> Option<String> {
    let boot = read_to_string(Path::new("/proc/sys/kernel/random/boot_id")).ok()?;
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", boot.trim(), namespace.display()))
}

/// When a process began, in clock ticks since the machine was started; none where there is no such process.
fn began(process: u32) -> Option<u64> {
    let text = read_to_string(Path::new(&format!("/proc/{process}/stat"))).ok()?;
    // The name of the program, in brackets, may hold anything.
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    // A process that ended and was not waited for is no more.
    let lives = !matches!(fields.next()?, "Z" | "X");
    fields.nth(18)?.parse().ok().filter(|_| lives)
}

#[cfg(test)]
mod tests {
    use super::super::tests::listing;
    use super::*;

    fn take(target: &Path) -> Result<FileLock, LockState> {
        FileLock::take(target, "me").unwrap()
    }

    /// The lock of a process that is none of this machine's, written to so long ago.
    fn elsewhere(target: &Path, number: u64, age: Duration) {
        let holder = Holder {
            words: "process 7 on there".to_owned(),
            machine: Some("another".to_owned()),
            ..Holder::this("")
        };
        let path = lock_file(target, number);
        write(&path, &holder.line()).unwrap();
        let then = std::time::SystemTime::now() - age;
        File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
    }

    #[test]
    fn one_holds_it_until_it_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("runs/fp32/record.json");
        assert_eq!(state(&target).unwrap(), LockState::Free);
        let first = take(&target).unwrap();
        assert_eq!(take(&target).unwrap_err(), LockState::Held("me".to_owned()));
        assert_eq!(listing(folder_of(&target)), ["record.lock-1"]);
        drop(first);
        assert_eq!(state(&target).unwrap(), LockState::Released);
        let second = take(&target).unwrap();
        assert_eq!(listing(folder_of(&target)), ["record.lock-2"]);
        second.finish();
        assert_eq!(state(&target).unwrap(), LockState::Free);
        assert_eq!(listing(folder_of(&target)), [""; 0]);
    }

    #[test]
    fn the_place_of_a_dead_process_is_taken_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("record.json");
        // A process of this machine that ended.
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let process = child.id();
        let dead = Holder { process, began: began(process).or(Some(1)), ..Holder::this("it") };
        child.wait().unwrap();
        write(&lock_file(&target, 3), &dead.line()).unwrap();
        assert_eq!(state(&target).unwrap(), LockState::Dead("it".to_owned()));
        let lock = take(&target).unwrap();
        assert_eq!((lock.number, lock.is_lost()), (4, false));
        assert_eq!(listing(folder.path()), ["record.lock-4"]);
    }

    /// Its number may be that of a process here, and says nothing.
    #[test]
    fn another_machine_is_alive_for_as_long_as_it_is_heard_of() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("record.json");
        let there = "process 7 on there".to_owned();
        elsewhere(&target, 1, DEAD_AFTER / 2);
        assert_eq!(take(&target).unwrap_err(), LockState::Held(there.clone()));
        elsewhere(&target, 1, DEAD_AFTER * 2);
        assert_eq!(state(&target).unwrap(), LockState::Dead(there));
        assert_eq!(take(&target).unwrap().number, 2);
    }

    /// Written to again by its own thread, or lost.
    #[test]
    fn a_beat_says_that_its_holder_lives_and_ends_where_another_took_over() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("record.json");
        let [own, next] = [1, 2].map(|number| lock_file(&target, number));
        elsewhere(&target, 1, DEAD_AFTER * 2);
        let shared = Shared { every: Duration::from_millis(5), ..Shared::default() };
        std::thread::scope(|scope| {
            scope.spawn(|| shared.beat([&own, &next], b"{}"));
            while !is_fresh(&own).unwrap() {
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(!shared.lost.load(Ordering::Relaxed));
            elsewhere(&target, 2, Duration::ZERO);
        });
        assert!(shared.lost.load(Ordering::Relaxed), "and the thread has ended");
    }

    #[test]
    fn who_was_taken_for_dead_finds_out() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("record.json");
        let lock = take(&target).unwrap();
        elsewhere(&target, 2, Duration::ZERO);
        assert!(lock.is_lost());
        drop(lock);
        assert_eq!(listing(folder.path()), ["record.lock-2"], "the other one's stays");
    }

    /// As after a machine that failed while it wrote it.
    #[test]
    fn a_lock_file_that_says_nothing_is_judged_by_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("record.json");
        let path = lock_file(&target, 1);
        write(&path, b"").unwrap();
        assert_eq!(take(&target).unwrap_err(), LockState::Held("another process".to_owned()));
        let then = std::time::SystemTime::now() - DEAD_AFTER * 2;
        File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
        assert!(take(&target).is_ok());
    }

    #[test]
    fn of_many_that_take_the_place_of_a_dead_one_one_gets_it() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("record.json");
        for _ in 0..50 {
            elsewhere(&target, 1, DEAD_AFTER * 2);
            let (taken, barrier) = (Mutex::new(Vec::new()), std::sync::Barrier::new(4));
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        barrier.wait();
                        let lock = take(&target);
                        taken.lock().unwrap().extend(lock.ok());
                    });
                }
            });
            assert_eq!(taken.lock().unwrap().len(), 1);
            taken.into_inner().unwrap().into_iter().for_each(FileLock::finish);
            remove_free(&target).unwrap();
        }
    }
}
