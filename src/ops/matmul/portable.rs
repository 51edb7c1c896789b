//! The kernel of f32 for any processor.

use super::kernel::{LANES, Sums, Wide, WideTask};

pub(super) static WIDE: [Wide; 1] = [Wide { rows: ROWS, groups: 1, tile }];

const ROWS: usize = 4;

/// See [`Wide::tile`].
unsafe fn tile(task: &WideTask, sums: Sums) {
    let mut totals = [[0.0_f32; LANES]; ROWS];
    // SAFETY: the caller's promise.
    unsafe {
        let columns = *task.groups;
        for step in 0..task.depth {
            let left = task.left.start.add(step * task.left.step);
            let left: [f32; ROWS] = std::array::from_fn(|row| *left.add(row * task.left.row));
            let right = columns.add(*task.steps.add(step)).cast::<[f32; LANES]>().read_unaligned();
            for (totals, left) in totals.iter_mut().zip(left) {
                for (total, right) in totals.iter_mut().zip(right) {
                    *total = left.mul_add(right, *total);
                }
            }
        }
        for (row, totals) in totals.into_iter().enumerate() {
            let to = sums.to.add(row * sums.pitch).cast::<[f32; LANES]>();
            let mut result = totals;
            if sums.add {
                let before = to.read_unaligned();
                for (result, before) in result.iter_mut().zip(before) {
                    *result += before;
                }
            }
            to.write_unaligned(result);
        }
    }
}
