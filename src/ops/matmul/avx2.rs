//! The kernels of f32 for AVX2 with FMA.

use std::arch::asm;
use std::arch::x86_64::{
    __m256, _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps,
};

use super::kernel::{LANES, Sums, Wide, WideTask};

/// Twelve sums in registers either way. Four rows of three groups fit what convolutions often have: multiples of four.
pub(super) static WIDE: [Wide; 2] = [
    Wide { rows: 4, groups: 3, tile: tile::<4, 3> },
    Wide { rows: 6, groups: 2, tile: tile::<6, 2> },
];

/// See [`Wide::tile`].
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const ROWS: usize, const GROUPS: usize>(task: &WideTask, sums: Sums) {
    let mut totals = [[_mm256_setzero_ps(); GROUPS]; ROWS];
    // SAFETY: the caller's promise.
    unsafe {
        let groups = task.groups.cast::<[*const f32; GROUPS]>().read();
        let left = task.left;
        let rows: [_; ROWS] = std::array::from_fn(|row| left.start.wrapping_add(row * left.row));
        let mut index = 0;
        for step in 0..task.depth {
            let at = *task.steps.add(step);
            let mut right = [_mm256_setzero_ps(); GROUPS];
            for (right, group) in right.iter_mut().zip(groups) {
                *right = _mm256_loadu_ps(group.add(at));
            }
            for (row, totals) in rows.into_iter().zip(&mut totals) {
                let value = broadcast(row, index);
                for (total, right) in totals.iter_mut().zip(right) {
                    *total = _mm256_fmadd_ps(value, right, *total);
                }
            }
            index += left.step;
        }
        for (row, totals) in totals.into_iter().enumerate() {
            for (group, total) in totals.into_iter().enumerate() {
                let to = sums.to.add(row * sums.pitch + group * LANES);
                let result =
                    if sums.add { _mm256_add_ps(_mm256_loadu_ps(to), total) } else { total };
                _mm256_storeu_ps(to, result);
            }
        }
    }
}

/// The value at `index`, eight times. By hand, since it is read here and no earlier: the compiler would read the values of all rows
/// first, and keep sums in memory for want of registers, at a third of the speed.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn broadcast(values: *const f32, index: usize) -> __m256 {
    let value;
    // SAFETY: the caller's promise that there is a value.
    unsafe {
        asm!(
            "vbroadcastss {value}, dword ptr [{values} + 4 * {index}]",
            value = out(ymm_reg) value,
            values = in(reg) values,
            index = in(reg) index,
            options(nostack, readonly, preserves_flags),
        );
    }
    value
}
