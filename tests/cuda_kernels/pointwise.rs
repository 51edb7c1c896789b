//! Element-wise kernels: the CPU's bits, but for GELU.

use half::{bf16, f16};
use mantissa::ops::{self, RandomStream};

use crate::emulation::{Array, Device, Geometry, devices, line};
use crate::support::{
    Storage, array, assert_near, assert_same, awkward, dtype, for_each_storage, narrow, numbers,
    tensor, unwritten, values, wide,
};

/// Counts with and without a rest of a quad, and geometries under which threads loop or idle.
const CASES: [(usize, Geometry); 6] = [
    (1, Geometry { grid: (2, 1), block: (32, 1) }),
    (3, Geometry { grid: (1, 1), block: (1, 1) }),
    (64, Geometry { grid: (1, 1), block: (16, 1) }),
    (1027, Geometry { grid: (3, 1), block: (37, 1) }),
    (4098, Geometry { grid: (5, 1), block: (128, 1) }),
    (2 * 4096, Geometry { grid: (2, 1), block: (256, 1) }),
];

/// Runs a kernel of one operand on values that are aligned to quads and on values that are not.
fn map<T: Storage>(
    kernel: &str,
    run: impl Fn(&str, Geometry, *const T, *mut T, u64),
    expected: impl Fn(&[T]) -> Vec<T>,
    check: impl Fn(&str, &[T], &[T]),
) {
    let name = format!("{kernel}_{}", T::SUFFIX);
    for (count, geometry) in CASES {
        let x: Vec<T> = awkward(count as u64, count);
        for shift in [0, 1] {
            let source = Array::shifted(&x, narrow(-77.0), shift);
            let target = Array::shifted(&vec![narrow::<T>(55.0); count], narrow(-77.0), shift);
            run(&name, geometry, source.pointer(), target.pointer(), count as u64);
            check(&name, &target.values(), &expected(&x));
        }
    }
}

/// As [`map`], of two operands.
fn zip<T: Storage>(
    (device, kernel): (Device, &str),
    expected: impl Fn(&[T], &[T]) -> Vec<T>,
    check: impl Fn(&str, &[T], &[T], &[T]),
) {
    let name = format!("{kernel}_{}", T::SUFFIX);
    for (count, geometry) in CASES {
        let (a, b): (Vec<T>, Vec<T>) = (awkward(1, count), awkward(2, count));
        for shift in [0, 1] {
            let guard = narrow(-77.0);
            let [left, right] = [&a, &b].map(|values| Array::shifted(values, guard, shift));
            let target = Array::shifted(&vec![narrow::<T>(55.0); count], guard, shift);
            let arguments = (left.pointer(), right.pointer(), target.pointer(), count as u64);
            device.launch(&name, geometry, arguments);
            check(&name, &target.values(), &expected(&a, &b), &a);
        }
    }
}

fn check_element_wise<T: Storage>(device: Device) {
    let run = |name: &str, geometry, x, y, count| device.launch(name, geometry, (x, y, count));
    let relu = |x: &[T]| values(&ops::relu(&tensor(x, x.len())).unwrap());
    map::<T>("relu", run, relu, assert_same);
    let backward = |dy: &[T], y: &[T]| {
        values(&ops::relu_backward(&tensor(dy, dy.len()), &tensor(y, y.len())).unwrap())
    };
    let same = |name: &str, got: &[T], expected: &[T], _: &[T]| assert_same(name, got, expected);
    zip::<T>((device, "relu_backward"), backward, same);
    let add = |a: &[T], b: &[T]| {
        values(&ops::add(&tensor(a, a.len()), &tensor(b, b.len()), ops::Then::Nothing).unwrap())
    };
    zip::<T>((device, "add"), add, same);
}

#[test]
fn element_wise_kernels_are_the_cpu_bit_by_bit() {
    for_each_storage!(check_element_wise);
}

fn check_gelu<T: Storage>(device: Device) {
    let run = |name: &str, geometry, x, y, count| device.launch(name, geometry, (x, y, count));
    let gelu = |x: &[T]| values(&ops::gelu(&tensor(x, x.len())).unwrap());
    // In the lower tail the kernel's rounding of x/√2 moves the result by x² times as much, and what is subnormal has few digits.
    map::<T>("gelu", run, gelu, |name, got, expected| {
        assert_near(name, got, expected, |i| 1e-5 * f64::from(wide(expected[i])).abs() + 1e-43);
    });
    let backward = |dy: &[T], x: &[T]| {
        values(&ops::gelu_backward(&tensor(dy, dy.len()), &tensor(x, x.len())).unwrap())
    };
    zip::<T>((device, "gelu_backward"), backward, |name, got, expected, dy| {
        assert_near(name, got, expected, |i| 1e-6 * f64::from(wide(dy[i])).abs());
    });
}

#[test]
fn gelu_is_the_cpu_within_units() {
    for_each_storage!(check_gelu);
}

fn check_tanh<T: Storage>(device: Device) {
    let run = |name: &str, geometry, x, y, count| device.launch(name, geometry, (x, y, count));
    let near = |name: &str, got: &[T], expected: &[T]| {
        assert_near(name, got, expected, |i| 1e-6 * f64::from(wide(expected[i])).abs());
    };
    map::<T>("gelu_tanh", run, |x| values(&ops::gelu_tanh(&tensor(x, x.len())).unwrap()), near);
    map::<T>("tanh", run, |x| values(&ops::tanh(&tensor(x, x.len())).unwrap()), near);
    let backward = |dy: &[T], x: &[T]| {
        values(&ops::gelu_tanh_backward(&tensor(dy, dy.len()), &tensor(x, x.len())).unwrap())
    };
    zip::<T>((device, "gelu_tanh_backward"), backward, |name, got, expected, dy| {
        assert_near(name, got, expected, |i| 2e-6 * f64::from(wide(dy[i])).abs());
    });
    let backward = |dy: &[T], y: &[T]| {
        values(&ops::tanh_backward(&tensor(dy, dy.len()), &tensor(y, y.len())).unwrap())
    };
    let same = |name: &str, got: &[T], expected: &[T], _: &[T]| assert_same(name, got, expected);
    zip::<T>((device, "tanh_backward"), backward, same);
}

#[test]
fn tanh_is_the_cpu_within_units() {
    for_each_storage!(check_tanh);
}

fn check_swiglu<T: Storage>(device: Device) {
    let swiglu = |gate: &[T], up: &[T]| {
        values(&ops::swiglu(&tensor(gate, gate.len()), &tensor(up, up.len())).unwrap())
    };
    zip::<T>((device, "swiglu"), swiglu, |name, got, expected, _| {
        assert_near(name, got, expected, |i| 1e-6 * f64::from(wide(expected[i])).abs());
    });
    for (count, geometry) in CASES {
        let [dy, gate, up]: [Vec<T>; 3] = [1, 2, 3].map(|seed| awkward(seed, count));
        let [a, b, c] = [&dy, &gate, &up].map(|values| array(values));
        let (dgate, dup) = (unwritten::<T>(count), unwritten::<T>(count));
        let pointers = (a.pointer(), b.pointer(), c.pointer(), dgate.pointer(), dup.pointer());
        let arguments = (pointers.0, pointers.1, pointers.2, pointers.3, pointers.4, count as u64);
        device.launch(&format!("swiglu_backward_{}", T::SUFFIX), geometry, arguments);
        let [dy_tensor, gate, up_tensor] = [&dy, &gate, &up].map(|values| tensor(values, count));
        let (of_gate, of_up) = ops::swiglu_backward(&dy_tensor, &gate, &up_tensor).unwrap();
        let near = |i: usize| 1e-6 * f64::from(wide(dy[i]) * wide(up[i])).abs();
        assert_near("dgate", &dgate.values(), &values::<T>(&of_gate), near);
        let of_up = values::<T>(&of_up);
        let near = |i: usize| 1e-6 * f64::from(wide(of_up[i])).abs();
        assert_near("dup", &dup.values(), &of_up, near);
    }
}

#[test]
fn swiglu_is_the_cpu_within_units() {
    for_each_storage!(check_swiglu);
}

fn check_dropout<T: Storage>(device: Device) {
    let random = RandomStream { seed: 0x0123_4567_89ab_cdef, stream: 3, pass: numbers(&[41]) };
    for p in [0.0_f32, 0.3, 0.9] {
        let keep_from = (f64::from(p) * 4_294_967_296.0) as u64;
        let scale = 1.0 / (1.0 - p);
        let (seed, stream) = (random.seed, random.stream);
        let pass = Array::new(&[41_u32], 0);
        let run = |name: &str, geometry, x, y, count| {
            let arguments = (x, y, count, keep_from, scale, seed, stream, pass.pointer());
            device.launch(name, geometry, arguments);
        };
        let dropout = |x: &[T]| values(&ops::dropout(&tensor(x, x.len()), p, &random).unwrap());
        map::<T>("dropout", run, dropout, assert_same);
    }
}

#[test]
fn dropout_draws_the_bits_of_the_cpu() {
    for_each_storage!(check_dropout);
}

fn check_accumulate<T: Storage>(device: Device) {
    for (count, geometry) in CASES {
        let (sum, gradient): (Vec<f32>, Vec<T>) = (awkward(5, count), awkward(6, count));
        let [total, expected] = [array(&sum), array(&sum)];
        let more = array(&gradient);
        let name = format!("accumulate_{}", T::SUFFIX);
        device.launch(&name, geometry, (total.pointer(), more.pointer(), count as u64));
        let expected = tensor(&expected.values(), count);
        ops::accumulate(&expected, &tensor(&gradient, count)).unwrap();
        assert_same(&name, &total.values(), &values::<f32>(&expected));
    }
}

fn check_count<T: Storage>(device: Device) {
    for (count, geometry) in CASES {
        let x: Vec<T> = awkward(8, count);
        let (source, total) = (array(&x), Array::new(&[3_u64], 0));
        let name = format!("count_non_finite_{}", T::SUFFIX);
        device.launch(&name, geometry, (source.pointer(), count as u64, total.pointer()));
        let expected = x.iter().filter(|value| !wide(**value).is_finite()).count() as u64;
        assert_eq!(total.values(), [3 + expected], "{name}");
    }
}

#[test]
fn sums_and_counts_are_the_cpu_bit_by_bit() {
    for_each_storage!(check_accumulate);
    for_each_storage!(check_count);
}

fn check_cast<S: Storage, T: Storage>(device: Device) {
    let name = format!("cast_{}_{}", S::SUFFIX, T::SUFFIX);
    // Every 16-bit value and, from f32, values on both sides of every midpoint.
    let mut x: Vec<S> = (0..=u32::from(u16::MAX)).map(S::from_low_bits).collect();
    if S::SUFFIX == "f32" {
        let halves: Vec<f32> = (0..=u16::MAX)
            .flat_map(|bits| [f16::from_bits(bits).to_f32(), bf16::from_bits(bits).to_f32()])
            .collect();
        let middles = halves.windows(3).map(|pair| f32::midpoint(pair[0], pair[2]));
        x = middles.flat_map(|v| [v, v.next_up(), v.next_down()]).map(narrow).collect();
    }
    let (source, target) = (array(&x), unwritten::<T>(x.len()));
    device.launch(&name, line(3, 256), (source.pointer(), target.pointer(), x.len() as u64));
    let expected = ops::cast(&tensor(&x, x.len()), dtype::<T>()).unwrap();
    assert_same(&name, &target.values(), &values::<T>(&expected));
}

#[test]
fn casts_round_as_the_cpu_at_every_value_midpoint_and_neighbour() {
    for device in devices() {
        check_cast::<f32, f16>(device);
        check_cast::<f32, bf16>(device);
        check_cast::<f16, f32>(device);
        check_cast::<f16, bf16>(device);
        check_cast::<bf16, f32>(device);
        check_cast::<bf16, f16>(device);
    }
}
