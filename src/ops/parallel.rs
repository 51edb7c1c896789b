//! How element-wise work is cut up: chunks for threads, and code compiled for the vector units that are there.
#![cfg_attr(
    target_arch = "x86_64",
    expect(
        unsafe_code,
        reason = "code compiled for instructions that were just detected, and prefetching"
    )
)]

use std::cell::Cell;
#[cfg(target_arch = "x86_64")]
use std::sync::OnceLock;

use rayon::prelude::*;

use super::awake::stay_awake;
#[cfg(target_arch = "x86_64")]
use super::matmul::Isa;
use crate::memory::uncounted;

/// Elements in one task: large enough to pay for handing it to a thread. Fixed, so that sums do not depend on threads.
pub(crate) const CHUNK: usize = 16 * 1024;

/// Elements worked on at a time inside a task: buffers of this size stay in the first-level cache.
pub(crate) const BLOCK: usize = 1024;

/// Evaluates an expression compiled for AVX-512 or AVX2 where the processor has it, so that its loops use all of the vector unit.
///
/// Only integer and IEEE operations are inside: the result is the same either way. What the expression calls must be inlined
/// with it, or it stays code for any processor: a function that holds a loop is marked `#[inline(always)]`, since it has several
/// callers here. A closure handed to a function of the standard library, such as `array::map`, is only safe where it is short.
macro_rules! vectorized {
    ($work:expr) => {
        $crate::ops::parallel::with_vectors(
            #[inline(always)]
            || $work,
        )
    };
}
pub(crate) use vectorized;

/// Behind [`vectorized!`].
#[inline]
pub(crate) fn with_vectors<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
        fn with_avx2<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
        fn with_avx512<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        match vectors() {
            Vectors::Any => {}
            // SAFETY: the processor has these features.
            Vectors::Avx2 => return unsafe { with_avx2(work) },
            // SAFETY: as above.
            Vectors::Avx512 => return unsafe { with_avx512(work) },
        }
    }
    work()
}

/// The vector units that element-wise code is compiled for.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
enum Vectors {
    Any,
    Avx2,
    Avx512,
}

/// The best that this processor has.
#[cfg(target_arch = "x86_64")]
#[inline]
fn vectors() -> Vectors {
    static FOUND: OnceLock<Vectors> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let has_bits = is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt");
        if has_bits && Isa::Avx512.is_here() {
            Vectors::Avx512
        } else if has_bits && Isa::Avx2.is_here() {
            Vectors::Avx2
        } else {
            Vectors::Any
        }
    })
}

/// Asks the processor for values that are read soon.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn prefetch<T>(values: &[T]) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    for line in values.chunks(64 / size_of::<T>()) {
        // SAFETY: every processor has this instruction, and it reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
}

/// As above, where it cannot be asked.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn prefetch<T>(_values: &[T]) {}

thread_local! {
    /// Whether this thread keeps its work to itself.
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` without handing any of it to another thread.
pub(crate) fn alone<R>(work: impl FnOnce() -> R) -> R {
    let before = ALONE.replace(true);
    let result = work();
    ALONE.set(before);
    result
}

/// How many threads may share this thread's work.
pub(crate) fn threads() -> usize {
    if ALONE.get() { 1 } else { rayon::current_num_threads() }
}

/// Calls `work(index, item)` for every item, in parallel if there is more than one. What the work allocates in passing, and
/// what rayon does to hand it over, is not counted as memory: how much of it falls on this thread is chance.
pub(crate) fn for_each<I: Send>(mut items: Vec<I>, work: impl Fn(usize, I) + Sync + Send) {
    uncounted(|| {
        if items.len() <= 1 || threads() == 1 {
            items.drain(..).enumerate().for_each(|(index, item)| work(index, item));
        } else {
            items.par_drain(..).enumerate().for_each(|(index, item)| work(index, item));
            stay_awake();
        }
    });
}

/// Calls `work(index)` for every index below `count`, in parallel if there is more than one. Counted as in [`for_each`].
pub(crate) fn for_each_index(count: usize, work: impl Fn(usize) + Sync + Send) {
    uncounted(|| {
        if count <= 1 || threads() == 1 {
            (0..count).for_each(work);
        } else {
            (0..count).into_par_iter().for_each(work);
            stay_awake();
        }
    });
}

/// Calls `work(index)` for every index below `count` and returns the results in order, which own no memory. Counted as in
/// [`for_each`].
pub(crate) fn map_indices<R: Send + Copy>(
    count: usize,
    work: impl Fn(usize) -> R + Sync + Send,
) -> Vec<R> {
    let mut results = Vec::with_capacity(count);
    uncounted(|| {
        if count <= 1 || threads() == 1 {
            results.extend((0..count).map(work));
        } else {
            (0..count).into_par_iter().map(work).collect_into_vec(&mut results);
            stay_awake();
        }
    });
    results
}

/// Adds the products of two slices of one length: that of value k to sum k mod N.
#[inline(always)]
pub(crate) fn add_products<const N: usize>(a: &[f32], b: &[f32], mut sums: [f32; N]) -> [f32; N] {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<N>(), b.as_chunks::<N>());
    for (a, b) in a.iter().zip(b) {
        // Over arrays this becomes vectors, where a loop over lanes may not.
        sums = std::array::from_fn(|lane| a[lane].mul_add(b[lane], sums[lane]));
    }
    for ((sum, a), b) in sums.iter_mut().zip(a_rest).zip(b_rest) {
        *sum = a.mul_add(*b, *sum);
    }
    sums
}

/// Cuts a share of work space into parts of these lengths.
pub(crate) fn carve<T, const N: usize>(mut share: &mut [T], lengths: [usize; N]) -> [&mut [T]; N] {
    lengths.map(|length| {
        let (part, rest) = std::mem::take(&mut share).split_at_mut(length);
        share = rest;
        part
    })
}

/// The sum of `values` in f32: sixteen partial sums, added in a fixed order.
#[inline(always)]
pub(crate) fn sum(values: &[f32]) -> f32 {
    sum_of(values, |value| value)
}

/// Σ f(a) in f32, as [`sum`].
#[inline(always)]
pub(crate) fn sum_of(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let (blocks, rest) = values.as_chunks::<16>();
    let rest: f32 = rest.iter().map(|value| f(*value)).sum();
    for block in blocks {
        // Over arrays this becomes vectors, where a loop over lanes may not.
        lanes = std::array::from_fn(|lane| lanes[lane] + f(block[lane]));
    }
    rest + tree(lanes)
}

/// Sixteen partial sums added in pairs.
#[inline(always)]
pub(crate) fn tree(sums: [f32; 16]) -> f32 {
    let sums: [f32; 8] = std::array::from_fn(|lane| sums[lane] + sums[lane + 8]);
    let sums: [f32; 4] = std::array::from_fn(|lane| sums[lane] + sums[lane + 4]);
    (sums[0] + sums[2]) + (sums[1] + sums[3])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::HostMeter;
    use crate::units::Bytes;

    /// A thread outside rayon's pool allocates a block of the pool's queue with every 63rd task, and another thread frees it.
    #[test]
    fn handing_work_over_is_not_counted() {
        let meter = HostMeter::start().unwrap();
        for _ in 0..200 {
            for_each(vec![0_u8; 4], |_, _| ());
            assert_eq!(map_indices(4, |index| index), [0, 1, 2, 3]);
        }
        assert_eq!((meter.live(), meter.peak()), (Bytes(0), Bytes(4 * size_of::<usize>() as u64)));
    }
}
