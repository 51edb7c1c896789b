//! Memory. An allocator that counts the live bytes of the thread that asks for it, and their peak.
//!
//! A program decides how it allocates, so the library sets nothing: a program that is to measure memory installs
//! [`CountingAllocator`], and calls [`keep_freed_pages`] before it times. Without the first no memory is measured.
//!
//! Only blocks that the measuring thread itself allocates count: tensors and work space of the engine, which it allocates
//! before it hands work to other threads. What handing work over takes is left out, and the work space of
//! products, of which each thread has its own, is counted apart. So the figures do not depend on the number of threads, and are
//! the same from run to run.
//!
//! What is large is asked for in a way that says when there is not that much ([`OutOfMemory`]). Small blocks between, and the work space
//! of libraries, are asked for in ways that end the program where there is nothing: for those a block is kept back.
#![expect(unsafe_code, reason = "a global allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use crate::units::Bytes;

thread_local! {
    static COUNTING: Cell<bool> = const { Cell::new(false) };
    static LIVE: Cell<i64> = const { Cell::new(0) };
    static PEAK: Cell<i64> = const { Cell::new(0) };
    /// Bytes that this thread allocated in [`work_space`] and that are still live.
    static WORK_SPACE: Cell<i64> = const { Cell::new(0) };
    /// Whether this thread is in [`reserve`].
    static MAY_FAIL: Cell<bool> = const { Cell::new(false) };
}

/// No memory for what was asked for, in bytes.
///
/// ```
/// use mantissa::memory::OutOfMemory;
///
/// let error = OutOfMemory(1 << 30);
/// assert_eq!(error.to_string(), "out of memory: 1073741824 bytes were asked for");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("out of memory: {0} bytes were asked for")]
pub struct OutOfMemory(pub u64);

/// Room for `len` values and nothing in it, or an error where there is none.
///
/// # Errors
/// When there is no memory for that many values, or none to keep back beside them.
pub(crate) fn reserve<T>(len: usize) -> Result<Vec<T>, OutOfMemory> {
    let bytes = (len as u64).saturating_mul(size_of::<T>() as u64);
    if CountingAllocator::is_installed() && !spare::is_held() {
        return Err(OutOfMemory(bytes.saturating_add(spare::SIZE as u64)));
    }
    let mut values = Vec::new();
    let before = MAY_FAIL.replace(true);
    let outcome = values.try_reserve_exact(len);
    MAY_FAIL.set(before);
    outcome.map(|()| values).map_err(|_| OutOfMemory(bytes))
}

/// Values from an iterator that knows how many there will be.
///
/// # Errors
/// As [`reserve`].
pub(crate) fn collect<T>(values: impl ExactSizeIterator<Item = T>) -> Result<Vec<T>, OutOfMemory> {
    let mut collected = reserve(values.len())?;
    collected.extend(values);
    Ok(collected)
}

/// `len` times `value`.
///
/// # Errors
/// As [`reserve`].
pub(crate) fn filled<T: Clone>(value: T, len: usize) -> Result<Vec<T>, OutOfMemory> {
    let mut values = reserve(len)?;
    values.resize(len, value);
    Ok(values)
}

/// The block that is kept back for [`CountingAllocator`]. It is never touched, so that it takes addresses and no pages.
mod spare {
    use super::{AtomicPtr, GlobalAlloc as _, Layout, Ordering, System, ptr};

    /// More than everything that is small takes at a time.
    pub(super) const SIZE: usize = 32 << 20;

    const LAYOUT: Layout = match Layout::from_size_align(SIZE, 16) {
        Ok(layout) => layout,
        Err(_) => panic!("a size and an alignment that fit"),
    };

    static BLOCK: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());

    /// Whether the block is there; gets it where it is not.
    pub(super) fn is_held() -> bool {
        if !BLOCK.load(Ordering::Acquire).is_null() {
            return true;
        }
        // SAFETY: the layout has a size.
        let block = unsafe { System.alloc(LAYOUT) };
        if block.is_null() {
            return false;
        }
        let none = ptr::null_mut();
        if BLOCK.compare_exchange(none, block, Ordering::AcqRel, Ordering::Acquire).is_err() {
            // SAFETY: it was just allocated with this layout, and nobody else has it.
            unsafe { System.dealloc(block, LAYOUT) };
        }
        true
    }

    /// Gives the block back; whether there was one.
    pub(super) fn release() -> bool {
        let block = BLOCK.swap(ptr::null_mut(), Ordering::AcqRel);
        if block.is_null() {
            return false;
        }
        // SAFETY: it was allocated with this layout, and whoever swaps it out is the only one to have it.
        unsafe { System.dealloc(block, LAYOUT) };
        true
    }
}

/// The block that `ask` gets; where there is none for somebody who cannot go on without, what is kept back is given up for it.
fn obtain(ask: impl Fn() -> *mut u8) -> *mut u8 {
    let block = ask();
    if block.is_null() && !MAY_FAIL.get() && spare::release() { ask() } else { block }
}

/// Counts what a new block changes, if there is one.
fn count_new(block: *mut u8, change: i64) {
    if !block.is_null() {
        count(change);
    }
}

/// The system's allocator, counting. A program installs it with one line:
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: mantissa::memory::CountingAllocator = mantissa::memory::CountingAllocator;
///
/// assert!(mantissa::memory::CountingAllocator::is_installed());
/// ```
#[derive(Debug)]
pub struct CountingAllocator;

impl CountingAllocator {
    /// Whether this program allocates through it, which an allocation tells.
    pub fn is_installed() -> bool {
        static INSTALLED: OnceLock<bool> = OnceLock::new();
        *INSTALLED.get_or_init(|| {
            let (probe, bytes) = counted_apart(|| black_box(Box::new(0_u8)));
            uncounted(|| drop(probe));
            bytes > 0
        })
    }
}

/// Adds `change` to the live bytes of this thread if it is counting.
fn count(change: i64) {
    if COUNTING.get() {
        let live = LIVE.get() + change;
        LIVE.set(live);
        PEAK.set(PEAK.get().max(live));
    }
}

// SAFETY: every call goes to the system's allocator unchanged, once more where it failed; the counters are thread-local cells
// that never allocate.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise, passed on.
        let block = obtain(|| unsafe { System.alloc(layout) });
        count_new(block, layout.size() as i64);
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise, passed on.
        let block = obtain(|| unsafe { System.alloc_zeroed(layout) });
        count_new(block, layout.size() as i64);
        block
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise, passed on; where it fails, the old block stays as it is.
        let block = obtain(|| unsafe { System.realloc(pointer, layout, size) });
        count_new(block, size as i64 - layout.size() as i64);
        block
    }
}

/// Tells the system's allocator to keep what is freed. By default glibc hands large blocks back to the kernel, which zeroes
/// every page anew at each step: a tax on tensors above its threshold, so on f32 before 16 bits, that is not the arithmetic's.
/// Does nothing where the allocator is another. It is a setting of the whole process, so only a program calls it.
///
/// ```
/// // The first line of a program's `main`.
/// mantissa::memory::keep_freed_pages();
/// ```
pub fn keep_freed_pages() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` changes settings of the allocator and may be called at any time.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
    FREED_PAGES_KEPT.store(true, Ordering::Relaxed);
}

static FREED_PAGES_KEPT: AtomicBool = AtomicBool::new(false);

/// Whether glibc's allocator is here and was not told to [`keep_freed_pages`].
#[doc(hidden)] // for this crate's tests
pub fn may_return_freed_pages() -> bool {
    let glibc = cfg!(all(target_os = "linux", target_env = "gnu"));
    glibc && !FREED_PAGES_KEPT.load(Ordering::Relaxed)
}

/// Counts this thread's live bytes from its creation until it is dropped. One at a time on a thread.
#[derive(Debug)]
#[doc(hidden)] // for this crate's tests
pub struct HostMeter(());

impl HostMeter {
    /// Starts counting from 0. None where [`CountingAllocator`] is not installed: nothing would be counted.
    pub fn start() -> Option<Self> {
        if !CountingAllocator::is_installed() {
            return None;
        }
        LIVE.set(0);
        PEAK.set(0);
        COUNTING.set(true);
        Some(Self(()))
    }

    /// Bytes allocated and not freed since the start.
    pub fn live(&self) -> Bytes {
        Bytes(LIVE.get().max(0) as u64)
    }

    /// The most that was live at one time since the last [`HostMeter::reset_peak`].
    pub fn peak(&self) -> Bytes {
        Bytes(PEAK.get().max(0) as u64)
    }

    /// Starts a new peak from what is live now.
    pub fn reset_peak(&self) {
        PEAK.set(LIVE.get());
    }
}

impl Drop for HostMeter {
    fn drop(&mut self) {
        COUNTING.set(false);
    }
}

/// Runs `work`, which gets memory that the thread keeps for its next product. That memory is not counted by [`HostMeter`], since it
/// outlives a run; [`work_space_of_this_thread`] tells it.
pub(crate) fn work_space<R>(work: impl FnOnce() -> R) -> R {
    let (result, bytes) = counted_apart(work);
    WORK_SPACE.set(WORK_SPACE.get() + bytes);
    result
}

/// Runs `work`, and says by how many bytes more this thread holds after it. [`HostMeter`] does not count them.
fn counted_apart<R>(work: impl FnOnce() -> R) -> (R, i64) {
    let (counting, live, peak) = (COUNTING.replace(true), LIVE.get(), PEAK.get());
    let result = work();
    let bytes = LIVE.get() - live;
    LIVE.set(live);
    PEAK.set(peak);
    COUNTING.set(counting);
    (result, bytes)
}

/// What this thread allocated in [`work_space`] and keeps. Where a product hands work to other threads, that is in it too. None
/// where [`CountingAllocator`] is not installed.
pub(crate) fn work_space_of_this_thread() -> Option<Bytes> {
    CountingAllocator::is_installed().then(|| Bytes(WORK_SPACE.get().max(0) as u64))
}

/// Runs `work` without counting what this thread allocates in it. What it frees must be its own.
pub(crate) fn uncounted<R>(work: impl FnOnce() -> R) -> R {
    let before = COUNTING.replace(false);
    let result = work();
    COUNTING.set(before);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the crate's unit tests.
    #[global_allocator]
    static ALLOCATOR: CountingAllocator = CountingAllocator;

    #[test]
    fn live_and_peak_bytes_follow_a_known_sequence() {
        let meter = HostMeter::start().unwrap();
        let first = vec![0_u8; 1000];
        assert_eq!((meter.live(), meter.peak()), (Bytes(1000), Bytes(1000)));
        let second = vec![1.0_f32; 500];
        drop(first);
        assert_eq!((meter.live(), meter.peak()), (Bytes(2000), Bytes(3000)));
        meter.reset_peak();
        assert_eq!(meter.peak(), Bytes(2000));
        let hidden = uncounted(|| vec![0_u8; 4000]);
        assert_eq!(meter.peak(), Bytes(2000));
        uncounted(|| drop(hidden));
        drop(second);
        assert_eq!(meter.live(), Bytes(0));
    }

    /// More than any address space holds, and more than a `Vec` may.
    #[test]
    fn what_cannot_be_had_is_an_error_and_counts_nothing() {
        let meter = HostMeter::start().unwrap();
        for len in [1 << 45, usize::MAX] {
            let bytes = (len as u64).saturating_mul(8);
            assert_eq!(reserve::<u64>(len), Err(OutOfMemory(bytes)));
            assert_eq!(filled(0_u64, len), Err(OutOfMemory(bytes)));
        }
        assert_eq!((meter.live(), meter.peak()), (Bytes(0), Bytes(0)));
        assert_eq!(OutOfMemory(1024).to_string(), "out of memory: 1024 bytes were asked for");
        let values = collect(0..1000_u32).unwrap();
        assert_eq!((values.len(), meter.live()), (1000, Bytes(4000)));
        assert_eq!(filled(7_u8, 3), Ok(vec![7; 3]));
    }

    #[test]
    fn what_is_kept_back_is_there_once() {
        assert!(spare::is_held() && spare::is_held());
        assert!(spare::release());
        assert!(spare::is_held());
    }

    #[test]
    fn work_space_is_counted_apart() {
        let meter = HostMeter::start().unwrap();
        let before = work_space_of_this_thread().unwrap();
        let kept = work_space(|| drop_one_keep_one(3000, 500));
        assert_eq!((meter.live(), meter.peak()), (Bytes(0), Bytes(0)));
        assert_eq!(work_space_of_this_thread(), Some(Bytes(before.0 + 500)));
        work_space(|| drop(kept));
        assert_eq!(work_space_of_this_thread(), Some(before));
    }

    fn drop_one_keep_one(dropped: usize, kept: usize) -> Vec<u8> {
        drop(vec![0_u8; dropped]);
        vec![0_u8; kept]
    }

    #[test]
    fn other_threads_do_not_count() {
        let meter = HostMeter::start().unwrap();
        let before = meter.live();
        let kept = uncounted(|| std::thread::spawn(|| vec![0_u8; 1 << 20]).join()).unwrap();
        assert_eq!(meter.live(), before);
        uncounted(|| drop(kept));
    }
}
