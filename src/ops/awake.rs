//! Threads that stay awake between operations.
//!
//! A thread of rayon's pool sleeps if it finds no work for some 10 µs, and has to be woken for the next operation. A model that
//! generates a token does an operation of 20 to 100 µs after the other, with less between them. So the other threads go on looking for work
//! after an operation, for a while, as OpenMP's do.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rayon::Yield;

/// How long a thread goes on looking after it last had work, or an operation began.
const LOOKING: Duration = Duration::from_millis(1);

/// What a thread that begins operations shares with those that look for their work.
#[derive(Default)]
struct Watch {
    /// Operations so far.
    operations: AtomicUsize,
    /// Threads that look, or are about to.
    looking: AtomicUsize,
}

thread_local! {
    /// Of the operations that this thread begins.
    static WATCH: Arc<Watch> = Arc::default();
    /// Whether this thread looks for work.
    static LOOKS: Cell<bool> = const { Cell::new(false) };
}

/// Has the other threads of this thread's pool look for work for a while, after an operation that they had a share of.
///
/// A thread outside a pool hands its work to one and sleeps until it is done: for that, nothing is kept awake.
pub(super) fn stay_awake() {
    let Some(this) = rayon::current_thread_index() else { return };
    // A thread that looks has this operation as part of another, whose thread calls this at its end.
    if LOOKS.get() {
        return;
    }
    WATCH.with(|watch| {
        watch.operations.fetch_add(1, Ordering::Relaxed);
        if watch.looking.load(Ordering::Relaxed) > 0 {
            return;
        }
        watch.looking.store(rayon::current_num_threads() - 1, Ordering::Relaxed);
        let watch = Arc::clone(watch);
        rayon::spawn_broadcast(move |thread| {
            if thread.index() == this {
                return;
            }
            // It may already look on behalf of another thread.
            if !LOOKS.replace(true) {
                look(&watch.operations);
                LOOKS.set(false);
            }
            watch.looking.fetch_sub(1, Ordering::Relaxed);
        });
    });
}

/// Does what work there is until there has been none, and no operation, for [`LOOKING`]. It ends by itself, so nothing waits for
/// this thread for longer.
fn look(operations: &AtomicUsize) {
    let mut seen = operations.load(Ordering::Relaxed);
    let mut since = Instant::now();
    while since.elapsed() < LOOKING {
        let now = operations.load(Ordering::Relaxed);
        if rayon::yield_now() == Some(Yield::Executed) || now != seen {
            seen = now;
            since = Instant::now();
        } else {
            // Another program may want the core.
            thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;

    /// The threads that look on behalf of this one.
    fn looking() -> usize {
        WATCH.with(|watch| watch.looking.load(Ordering::Relaxed))
    }

    fn pool(threads: usize) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
    }

    /// An operation whose tasks have operations of their own, as no operation here has.
    fn nested() -> usize {
        let operation = |sum: usize| {
            stay_awake();
            sum
        };
        let inner = || operation((0..8_usize).into_par_iter().sum());
        operation((0..8_usize).into_par_iter().map(|_| inner()).sum())
    }

    #[test]
    fn each_other_thread_looks_once_and_then_stops() {
        pool(3).install(|| {
            for _ in 0..1000 {
                stay_awake();
                assert!(looking() <= 2);
            }
            while looking() > 0 {
                thread::yield_now();
            }
        });
    }

    #[test]
    fn a_thread_that_looks_does_the_work_that_comes() {
        pool(2).install(|| {
            let this = rayon::current_thread_index().unwrap();
            let looks = || rayon::broadcast(|thread| thread.index() != this && LOOKS.get());
            // It may have stopped before the work came.
            let found = (0..1000).any(|_| {
                stay_awake();
                looks().contains(&true)
            });
            assert!(found);
        });
    }

    #[test]
    fn threads_that_share_a_pool_do_not_wait_for_each_other() {
        let pool = pool(2);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope
                    .spawn(|| pool.install(|| (0..200).for_each(|_| assert_eq!(nested(), 8 * 28))));
            }
        });
    }

    #[test]
    fn a_thread_outside_a_pool_keeps_nothing_awake() {
        stay_awake();
        assert_eq!(looking(), 0);
    }
}
