//! Memory. An allocator that counts the live bytes of the thread that asks for it, and their peak.
//!
//! Only blocks that the measuring thread itself allocates count: tensors and work space of the engine, which it allocates
//! before it hands work to other threads. What handing work over takes is left out with [`uncounted`], and the work space of
//! products, of which each thread has its own, is counted apart. So the figures do not depend on the number of threads, and are
//! the same from run to run.
#![expect(unsafe_code, reason = "a global allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use crate::units::Bytes;

thread_local! {
    static COUNTING: Cell<bool> = const { Cell::new(false) };
    static LIVE: Cell<i64> = const { Cell::new(0) };
    static PEAK: Cell<i64> = const { Cell::new(0) };
    /// Bytes that this thread allocated in [`work_space`] and that are still live.
    static WORK_SPACE: Cell<i64> = const { Cell::new(0) };
}

/// The system's allocator, counting.
#[derive(Debug)]
pub struct CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Adds `change` to the live bytes of this thread if it is counting.
fn count(change: i64) {
    if COUNTING.get() {
        let live = LIVE.get() + change;
        LIVE.set(live);
        PEAK.set(PEAK.get().max(live));
    }
}

// SAFETY: every call goes to the system's allocator unchanged; the counters are thread-local cells that never allocate.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as i64 - layout.size() as i64);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Tells the system's allocator to keep what is freed. By default glibc hands large blocks back to the kernel, which zeroes
/// every page anew at each step: a tax on tensors above its threshold, so on f32 before 16 bits, that is not the arithmetic's.
/// Does nothing where the allocator is another.
pub fn keep_freed_pages() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            // SAFETY: `mallopt` changes settings of the allocator and may be called at any time.
            unsafe {
                libc::mallopt(libc::M_MMAP_MAX, 0);
                libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
            }
        });
    }
}

/// Counts this thread's live bytes from its creation until it is dropped. One at a time on a thread.
#[derive(Debug)]
pub struct Meter(());

impl Meter {
    /// Starts counting from 0.
    pub fn start() -> Self {
        LIVE.set(0);
        PEAK.set(0);
        COUNTING.set(true);
        Self(())
    }

    /// Bytes allocated and not freed since the start.
    pub fn live(&self) -> Bytes {
        Bytes(LIVE.get().max(0) as u64)
    }

    /// The most that was live at one time since the last [`Meter::reset_peak`].
    pub fn peak(&self) -> Bytes {
        Bytes(PEAK.get().max(0) as u64)
    }

    /// Starts a new peak from what is live now.
    pub fn reset_peak(&self) {
        PEAK.set(LIVE.get());
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        COUNTING.set(false);
    }
}

/// Runs `work`, a product of a library that packs its operands into memory which it keeps for the thread's next product. That
/// memory is not counted by [`Meter`], since it outlives a run; [`work_space_of_this_thread`] tells it.
pub fn work_space<R>(work: impl FnOnce() -> R) -> R {
    let (counting, live, peak) = (COUNTING.replace(true), LIVE.get(), PEAK.get());
    let result = work();
    WORK_SPACE.set(WORK_SPACE.get() + LIVE.get() - live);
    LIVE.set(live);
    PEAK.set(peak);
    COUNTING.set(counting);
    result
}

/// What this thread allocated in [`work_space`] and keeps. Where a product hands work to other threads, that is in it too.
pub fn work_space_of_this_thread() -> Bytes {
    Bytes(WORK_SPACE.get().max(0) as u64)
}

/// Runs `work` without counting what this thread allocates in it. What it frees must be its own.
pub fn uncounted<R>(work: impl FnOnce() -> R) -> R {
    let before = COUNTING.replace(false);
    let result = work();
    COUNTING.set(before);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_and_peak_bytes_follow_a_known_sequence() {
        let meter = Meter::start();
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

    #[test]
    fn work_space_is_counted_apart() {
        let meter = Meter::start();
        let before = work_space_of_this_thread();
        let kept = work_space(|| drop_one_keep_one(3000, 500));
        assert_eq!((meter.live(), meter.peak()), (Bytes(0), Bytes(0)));
        assert_eq!(work_space_of_this_thread(), Bytes(before.0 + 500));
        work_space(|| drop(kept));
        assert_eq!(work_space_of_this_thread(), before);
    }

    fn drop_one_keep_one(dropped: usize, kept: usize) -> Vec<u8> {
        drop(vec![0_u8; dropped]);
        vec![0_u8; kept]
    }

    #[test]
    fn other_threads_do_not_count() {
        let meter = Meter::start();
        let before = meter.live();
        let kept = uncounted(|| std::thread::spawn(|| vec![0_u8; 1 << 20]).join()).unwrap();
        assert_eq!(meter.live(), before);
        uncounted(|| drop(kept));
    }
}
