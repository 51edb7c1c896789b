//! Attention: the CPU's within the bound of its sums and the units of the exponential.

use mantissa::ops::{self, AttentionDropout, AttentionMasks, AttentionSettings, RandomStream};
use mantissa::precision::{Format, Rounder};

use crate::emulation::{Array, Device, line};
use crate::support::{
    Storage, UNIT, array, assert_near, for_each_storage, numbers, tensor, uniform, unwritten,
    values, wide,
};

/// The random numbers of dropout.
const SEED: u64 = 0x0123_4567_89ab_cdef;
const STREAM: u32 = 3;

/// Which probabilities are dropped, as the kernels take it.
#[derive(Clone, Copy)]
#[repr(C)]
struct Dropout {
    pass: *const u32,
    from: u64,
    seed: u64,
    stream: u32,
    scale: f32,
}

impl Dropout {
    fn of(p: f32, pass: &Array<u32>) -> Self {
        Self {
            pass: if p > 0.0 { pass.pointer().cast_const() } else { std::ptr::null() },
            from: (f64::from(p) * 4_294_967_296.0) as u64,
            seed: SEED,
            stream: STREAM,
            scale: 1.0 / (1.0 - p),
        }
    }
}

/// What the kernels take by value.
#[derive(Clone, Copy)]
#[repr(C)]
struct Shape {
    sequences: u32,
    queries: u32,
    keys: u32,
    heads: u32,
    kv_heads: u32,
    width: u32,
    causal: u32,
    scale: f32,
    rounder: Rounder,
    dropout: Dropout,
}

impl Shape {
    fn of<T: Storage>(case: [usize; 6], causal: bool, dropout: Dropout) -> Self {
        let [sequences, queries, keys, heads, kv_heads, width] = case.map(|size| size as u32);
        Self {
            sequences,
            queries,
            keys,
            heads,
            kv_heads,
            width,
            causal: u32::from(causal),
            scale: 1.0 / (width as f32).sqrt(),
            rounder: Rounder::new(format::<T>()),
            dropout,
        }
    }
}

/// Sequences, queries, keys, heads, heads of keys, values of a head.
const CASES: [[usize; 6]; 4] =
    [[1, 1, 1, 1, 1, 1], [2, 5, 7, 2, 1, 3], [2, 20, 19, 4, 2, 18], [1, 3, 20, 1, 1, 128]];

fn format<T: Storage>() -> Format {
    [Format::F32, Format::F16, Format::BF16][T::CODE as usize]
}

/// Asserts that values are near: sums and exponentials differ by some units of f32, after which an operand, or the result, may be
/// rounded the other way.
fn assert_all_near<T: Storage>(what: &str, got: &[T], expected: &[T]) {
    let largest = expected.iter().fold(0.0_f64, |a, b| a.max(f64::from(wide(*b)).abs()));
    let share = if T::CODE == 0 { 256.0 * UNIT } else { 4.0 * T::HALF_EPSILON };
    assert_near(what, got, expected, |_| share * largest);
}

fn check<T: Storage>(device: Device) {
    let cases = CASES.into_iter().flat_map(|case| [(case, false), (case, true)]);
    for ([n, queries, keys, heads, kv_heads, width], causal) in cases {
        let (of_q, of_k) = ([n, queries, heads * width], [n, keys, kv_heads * width]);
        let draw =
            |seed, shape: [usize; 3]| uniform::<T>(seed, shape.iter().product(), (-1.0, 1.0));
        let all = [draw(1, of_q), draw(2, of_k), draw(3, of_k), draw(4, of_q)];
        let tensors = [(0, of_q), (1, of_k), (2, of_k), (3, of_q)]
            .map(|(i, shape)| tensor(&all[i], shape.to_vec()));
        let [q, k, v, dy] = &tensors;
        let settings = AttentionSettings { heads, kv_heads, causal, format: format::<T>() };
        let lengths: Vec<u32> = (0..n).map(|i| (keys - i * keys / 2) as u32).collect();
        // The second time nothing is masked by lengths, and the last time some probabilities are dropped.
        for (masked, p) in [(true, 0.0), (false, 0.0), (true, 0.3_f32)] {
            let pass = Array::new(&[41_u32], 0);
            let random = RandomStream { seed: SEED, stream: STREAM, pass: numbers(&[41]) };
            let drops = AttentionDropout { p, random };
            let there = Array::new(&lengths, 77);
            let of_lengths = numbers(&lengths);
            let of_lengths = masked.then_some(&of_lengths);
            let masks = AttentionMasks { lengths: of_lengths, dropout: Some(&drops) };
            let (y, logs) = ops::attention_masked(q, k, v, masks, settings).unwrap();
            let (of, results) = ([q, k, v], (&y, &logs));
            let gradients = ops::attention_masked_backward(dy, of, results, masks, settings);
            let gradients = gradients.unwrap();
            let dropout = Dropout::of(p, &pass);
            let shape = Shape::of::<T>([n, queries, keys, heads, kv_heads, width], causal, dropout);
            let [from_q, from_k, from_v, from_dy] = all.each_ref().map(|values| array(values));
            let [q, k, v, dy] = [&from_q, &from_k, &from_v, &from_dy].map(Array::pointer);
            let at = if masked { there.pointer() } else { std::ptr::null_mut() };
            let (to, to_logs) =
                (unwritten::<T>(all[0].len()), unwritten::<f32>(n * heads * queries));
            let name = format!("attention_{}", T::SUFFIX);
            let arguments = (q, k, v, at, to.pointer(), to_logs.pointer(), shape);
            device.launch(&name, line(3, 256), arguments);
            assert_all_near("y", &to.values(), &values::<T>(&y));
            let near = |_| 1e-5;
            assert_near("logs", &to_logs.values(), &values::<f32>(&logs), near);
            // The gradients of the CPU's own results.
            let (from_y, from_logs) = (array(&values::<T>(&y)), array(&values::<f32>(&logs)));
            let along = unwritten::<f32>(n * heads * queries);
            let [dq, dk, dv] = [0, 1, 1].map(|i| unwritten::<T>(all[i].len()));
            let (y, logs) = (from_y.pointer(), from_logs.pointer());
            let name = format!("attention_backward_queries_{}", T::SUFFIX);
            let arguments = (q, k, v, dy, y, at, logs, along.pointer(), dq.pointer(), shape);
            device.launch(&name, line(2, 256), arguments);
            assert_all_near("dq", &dq.values(), &values::<T>(&gradients.q));
            let name = format!("attention_backward_keys_{}", T::SUFFIX);
            let along = along.pointer();
            let arguments = (q, k, v, dy, at, logs, along, dk.pointer(), dv.pointer(), shape);
            device.launch(&name, line(2, 256), arguments);
            assert_all_near("dk", &dk.values(), &values::<T>(&gradients.k));
            assert_all_near("dv", &dv.values(), &values::<T>(&gradients.v));
        }
    }
}

#[test]
fn attention_is_the_cpu_within_the_bound_of_its_sums() {
    for_each_storage!(check);
}
