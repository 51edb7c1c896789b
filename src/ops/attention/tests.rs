//! Attention with every kernel that the machine has and the twins of those that it lacks.

use half::{bf16, f16};

use super::super::element::Element;
use super::super::matmul::Kernels;
use super::{AttentionSettings, Sizes, backward, forward};
use crate::precision::Format;

/// Values between -1 and 1.
fn values<T: Element>(seed: u32, count: usize) -> Vec<T> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let wide = (0..count).map(|_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    });
    let (wide, mut narrow) = (wide.collect::<Vec<_>>(), vec![T::default(); count]);
    T::narrow(&wide, &mut narrow);
    narrow
}

fn widened<T: Element>(values: &[T]) -> Vec<f32> {
    let mut wide = vec![0.0; values.len()];
    T::widen(values, &mut wide);
    wide
}

/// Results and gradients with each set of kernels against those of f32 kernels on the widened operands. Two roundings of a
/// probability may differ by one unit, and so may the gradient of a score: each moves a result by at most that share of its
/// largest.
fn check<T: Element>(format: Format, half_epsilon: f32) {
    for (queries, keys, width, lengths) in
        [(5, 7, 3, vec![7, 2]), (100, 70, 20, vec![70, 66]), (9, 66, 260, vec![0, 66])]
    {
        let settings = AttentionSettings { heads: 4, kv_heads: 2, causal: true, format };
        let sizes = Sizes { sequences: 2, queries, keys, width, settings, mask: None };
        let (of_q, of_k) = (2 * queries * 4 * width, 2 * keys * 2 * width);
        let (q, k, v) = (values::<T>(1, of_q), values::<T>(2, of_k), values::<T>(3, of_k));
        let dy = values::<T>(4, of_q);
        let wide = [&q, &k, &v, &dy].map(|values| widened(values));
        let portable = Kernels::of(super::super::matmul::Isa::Portable);
        let operands = [&wide[0][..], &wide[1], &wide[2]];
        let (y, logs) = forward::forward::<f32>(&portable, operands, &lengths, &sizes).unwrap();
        let results = (&wide[3][..], &y[..], &logs[..]);
        let gradients =
            backward::backward::<f32>(&portable, (operands, results), &lengths, &sizes).unwrap();
        let [dq, dk, dv] = gradients;
        for (name, kernels) in Kernels::all() {
            let operands = [&q[..], &k, &v];
            let (found, found_logs) =
                forward::forward::<T>(&kernels, operands, &lengths, &sizes).unwrap();
            let results = (&dy[..], &found[..], &found_logs[..]);
            let [found_q, found_k, found_v] =
                backward::backward::<T>(&kernels, (operands, results), &lengths, &sizes).unwrap();
            for (what, found, expected) in [
                ("y", &found, &y),
                ("dq", &found_q, &dq),
                ("dk", &found_k, &dk),
                ("dv", &found_v, &dv),
            ] {
                let largest = expected.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
                for (i, (found, expected)) in widened(found).iter().zip(expected).enumerate() {
                    let error = (found - expected).abs();
                    assert!(
                        error <= 8.0 * half_epsilon * largest,
                        "{what}[{i}] of {format:?}, {name}, {sizes:?}: {found} {expected}"
                    );
                }
            }
            for (found, expected) in found_logs.iter().zip(&logs) {
                assert!(found == expected || (found - expected).abs() < 1e-5, "{name}");
            }
        }
    }
}

#[test]
fn every_kernel_gives_the_same_attention() {
    check::<f32>(Format::F32, f32::EPSILON * 64.0);
    check::<f16>(Format::F16, 1.0 / 2048.0);
    check::<bf16>(Format::BF16, 1.0 / 256.0);
}
