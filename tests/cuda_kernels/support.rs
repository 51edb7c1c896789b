//! What the tests of the kernels share: values of each storage type, tensors of them, and comparisons.

use candle_core::{DType, Device, Shape, Tensor};
use half::{bf16, f16};
use mantissa::ops::Element;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::emulation::Array;

/// Half of f32's epsilon: the largest relative error of one rounding.
pub(crate) const UNIT: f64 = (f32::EPSILON / 2.0) as f64;

/// A storage type of the kernels.
pub(crate) trait Storage: Element {
    /// The suffix of a kernel's name.
    const SUFFIX: &'static str;
    /// Its number where a kernel is told the type.
    const CODE: u32;
    /// Half the distance from 1 to the next value.
    const HALF_EPSILON: f64;
    /// The smallest positive value.
    const SMALLEST: f64;

    /// A value with these low bits.
    fn from_low_bits(bits: u32) -> Self;
}

impl Storage for f32 {
    const SUFFIX: &'static str = "f32";
    const CODE: u32 = 0;
    const HALF_EPSILON: f64 = UNIT;
    const SMALLEST: f64 = 1e-45;

    fn from_low_bits(bits: u32) -> Self {
        Self::from_bits(bits)
    }
}

impl Storage for f16 {
    const SUFFIX: &'static str = "f16";
    const CODE: u32 = 1;
    const HALF_EPSILON: f64 = 1.0 / 2048.0;
    const SMALLEST: f64 = 6e-8;

    fn from_low_bits(bits: u32) -> Self {
        Self::from_bits(bits as u16)
    }
}

impl Storage for bf16 {
    const SUFFIX: &'static str = "bf16";
    const CODE: u32 = 2;
    const HALF_EPSILON: f64 = 1.0 / 256.0;
    const SMALLEST: f64 = 1e-40;

    fn from_low_bits(bits: u32) -> Self {
        Self::from_bits(bits as u16)
    }
}

/// Calls a generic test for every storage type.
macro_rules! for_each_storage {
    ($check:ident) => {
        for device in $crate::emulation::devices() {
            $check::<f32>(device);
            $check::<half::f16>(device);
            $check::<half::bf16>(device);
        }
    };
}
pub(crate) use for_each_storage;

/// The value as f32.
pub(crate) fn wide<T: Storage>(value: T) -> f32 {
    let mut wide = [0.0];
    T::widen(&[value], &mut wide);
    wide[0]
}

/// The value rounded once.
pub(crate) fn narrow<T: Storage>(value: f32) -> T {
    let mut narrow = [T::default()];
    T::narrow(&[value], &mut narrow);
    narrow[0]
}

/// Values between `low` and `high`.
pub(crate) fn uniform<T: Storage>(seed: u64, count: usize, (low, high): (f32, f32)) -> Vec<T> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| narrow(random.random_range(low..high))).collect()
}

/// Values of every kind: any bits at all, specials, and ordinary numbers.
pub(crate) fn awkward<T: Storage>(seed: u64, count: usize) -> Vec<T> {
    const SPECIAL: [f32; 8] =
        [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1.0, -1.0, 1e-7];
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut value = || match random.next_u32() % 8 {
        0 => narrow(SPECIAL[random.next_u32() as usize % SPECIAL.len()]),
        1..=3 => T::from_low_bits(random.next_u32()),
        _ => narrow(random.random_range(-4.0..4.0)),
    };
    (0..count).map(|_| value()).collect()
}

/// An array of a kernel's operand or result.
pub(crate) fn array<T: Storage>(values: &[T]) -> Array<T> {
    Array::new(values, narrow(-77.0))
}

/// An array for a kernel to fill.
pub(crate) fn unwritten<T: Storage>(count: usize) -> Array<T> {
    array(&vec![narrow(55.0); count])
}

/// A tensor for a CPU twin.
pub(crate) fn tensor<T: Storage>(values: &[T], shape: impl Into<Shape>) -> Tensor {
    Tensor::from_vec(values.to_vec(), shape.into(), &Device::Cpu).unwrap()
}

/// Labels, or the number of a pass, for a CPU twin.
pub(crate) fn numbers(values: &[u32]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

/// The values of a CPU twin's result.
pub(crate) fn values<T: Storage>(tensor: &Tensor) -> Vec<T> {
    assert_eq!(tensor.dtype(), T::DTYPE);
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Asserts that all values are the same bits, or both NaN.
#[track_caller]
pub(crate) fn assert_same<T: Storage>(what: &str, got: &[T], expected: &[T]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let (got, expected) = (wide(*got), wide(*expected));
        let same = got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan());
        assert!(same, "{what} {}[{i}]: {got:e}, not {expected:e}", T::SUFFIX);
    }
}

/// Asserts that each value is within its bound of the expected one, and one rounding to the type more on either side.
#[track_caller]
pub(crate) fn assert_near<T: Storage>(
    what: &str,
    got: &[T],
    expected: &[T],
    bound: impl Fn(usize) -> f64,
) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let (got, expected) = (f64::from(wide(*got)), f64::from(wide(*expected)));
        let rounding = 2.0 * T::HALF_EPSILON * got.abs().max(expected.abs()) + T::SMALLEST;
        let near = (got - expected).abs() <= bound(i) + rounding
            || got == expected
            || (got.is_nan() && expected.is_nan());
        assert!(near, "{what} {}[{i}]: {got:e}, not {expected:e}", T::SUFFIX);
    }
}

/// The bound on the difference of two sums of these values in f32, whatever their orders: γₙ Σ |v| for each.
pub(crate) fn sum_bound(values: impl Iterator<Item = f64>) -> f64 {
    let (count, total) =
        values.fold((0_u32, 0.0), |(count, total), v| (count + 1, total + v.abs()));
    2.0 * f64::from(count) * UNIT * total
}

/// The storage type's name in candle.
pub(crate) fn dtype<T: Storage>() -> DType {
    T::DTYPE
}
