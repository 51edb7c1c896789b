//! The kernels for AVX-512: f32, and pairs of bf16 by AVX512-BF16.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch, _mm256_loadu_ps,
    _mm512_add_ps, _mm512_castps256_ps512, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_insertf32x8,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_setzero_si512, _mm512_storeu_ps,
};

use super::kernel::{DOT_FORM, LANES, PairTask, Paired, Sums, Wide, WideTask};

/// 28, 16 and 24 vectors of sums in registers.
pub(super) static WIDE: [Wide; 3] = [
    Wide { rows: 14, groups: 4, tile: tile::<14, 2, 4> },
    Wide { rows: 8, groups: 4, tile: tile::<8, 2, 4> },
    Wide { rows: 8, groups: 6, tile: tile::<8, 3, 6> },
];

/// See [`Wide::tile`]. A vector is two groups: one load where they stand side by side throughout.
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn tile<const ROWS: usize, const VECTORS: usize, const GROUPS: usize>(
    task: &WideTask,
    sums: Sums,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let groups = task.groups.cast::<[*const f32; GROUPS]>().read();
        let whole = groups.chunks_exact(2).all(|pair| pair[0].wrapping_add(LANES) == pair[1]);
        if whole {
            chain::<ROWS, VECTORS>(task, sums, |vector, at| {
                _mm512_loadu_ps(groups[2 * vector].add(at))
            });
        } else {
            chain::<ROWS, VECTORS>(task, sums, |vector, at| {
                let low = _mm256_loadu_ps(groups[2 * vector].add(at));
                let high = _mm256_loadu_ps(groups[2 * vector + 1].add(at));
                _mm512_insertf32x8::<1>(_mm512_castps256_ps512(low), high)
            });
        }
    }
}

/// The sums of a tile, whose columns `load` reads.
#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
unsafe fn chain<const ROWS: usize, const VECTORS: usize>(
    task: &WideTask,
    sums: Sums,
    load: impl Fn(usize, usize) -> __m512,
) {
    let mut totals = [[_mm512_setzero_ps(); VECTORS]; ROWS];
    // SAFETY: the caller's promise; what is only asked for is not read.
    unsafe {
        let mut left = task.left;
        for step in 0..task.depth {
            let at = *task.steps.add(step);
            _mm_prefetch::<_MM_HINT_T1>(task.ahead.wrapping_add(step * 16).cast());
            if step < ROWS {
                for vector in 0..VECTORS {
                    let to = sums.to.wrapping_add(step * sums.pitch + vector * 16);
                    _mm_prefetch::<_MM_HINT_T0>(to.cast());
                }
            }
            let mut right = [_mm512_setzero_ps(); VECTORS];
            for (vector, right) in right.iter_mut().enumerate() {
                *right = load(vector, at);
            }
            for (row, totals) in totals.iter_mut().enumerate() {
                let value = _mm512_set1_ps(*left.start.add(row * left.row));
                for (total, right) in totals.iter_mut().zip(right) {
                    *total = _mm512_fmadd_ps(value, right, *total);
                }
            }
            left.start = left.start.wrapping_add(left.step);
        }
        for (row, totals) in totals.into_iter().enumerate() {
            store(totals, row, sums);
        }
    }
}

/// Writes a row of sums, or adds it to what is there.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn store<const VECTORS: usize>(totals: [__m512; VECTORS], row: usize, sums: Sums) {
    for (vector, total) in totals.into_iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            let to = sums.to.add(row * sums.pitch + vector * 2 * LANES);
            let result = if sums.add { _mm512_add_ps(_mm512_loadu_ps(to), total) } else { total };
            _mm512_storeu_ps(to, result);
        }
    }
}

pub(super) static DOT: Paired =
    Paired { left: DOT_FORM.0, right: DOT_FORM.1, tile: dot, enter: || (), leave: || () };

/// See [`Paired::tile`]: chains of `vdpbf16ps` from 0, added to the sums.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn dot(task: PairTask, sums: Sums) {
    const ROWS: usize = DOT_FORM.0.width;
    const VECTORS: usize = DOT_FORM.1.width / 16;
    // SAFETY: both are 64 bytes, and all bits are values of both.
    let pairs = |bits: __m512i| unsafe { std::mem::transmute::<__m512i, __m512bh>(bits) };
    let mut totals = [[_mm512_setzero_ps(); VECTORS]; ROWS];
    // SAFETY: the caller's promise.
    unsafe {
        let (mut left, mut right) = (task.left, task.right);
        for _ in 0..task.steps {
            let mut columns = [_mm512_setzero_si512(); VECTORS];
            for (vector, columns) in columns.iter_mut().enumerate() {
                *columns = _mm512_loadu_si512(right.add(vector * 16).cast());
            }
            for (row, totals) in totals.iter_mut().enumerate() {
                let value = pairs(_mm512_set1_epi32(left.add(row).read().cast_signed()));
                for (total, columns) in totals.iter_mut().zip(columns) {
                    *total = _mm512_dpbf16_ps(*total, value, pairs(columns));
                }
            }
            left = left.add(ROWS);
            right = right.add(VECTORS * 16);
        }
        for (row, totals) in totals.into_iter().enumerate() {
            store(totals, row, sums);
        }
    }
}
