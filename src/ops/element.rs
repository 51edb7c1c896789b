//! The three storage types that operations run on natively: conversions of whole slices to f32 and back.

use candle_core::{CpuStorage, WithDType};
use gemmkit::FusedScalar;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// A type that tensors are stored in.
pub trait Stored: WithDType + Default {
    /// The storage's values, if they are of this type.
    fn of(storage: &mut CpuStorage) -> Option<&mut Vec<Self>>;
}

macro_rules! stored {
    ($($type:ty: $variant:ident),*) => {$(
        impl Stored for $type {
            fn of(storage: &mut CpuStorage) -> Option<&mut Vec<Self>> {
                if let CpuStorage::$variant(values) = storage { Some(values) } else { None }
            }
        }
    )*};
}
stored!(f32: F32, f16: F16, bf16: BF16, u32: U32, u8: U8);

/// A type that products accept. Implemented for f32, f16 and bf16.
pub trait Element: Stored + FusedScalar {
    /// Writes `source` as f32, exactly.
    fn widen(source: &[Self], target: &mut [f32]);

    /// Writes `source` rounded to nearest even.
    fn narrow(source: &[f32], target: &mut [Self]);

    /// `source` as f32: itself if it is f32, else widened into `buffer`.
    #[inline(always)]
    fn widened<'a>(source: &'a [Self], buffer: &'a mut [f32]) -> &'a [f32] {
        let target = &mut buffer[..source.len()];
        Self::widen(source, target);
        target
    }

    /// Lets `fill` compute f32 values and stores them rounded once; without a detour if the target is f32.
    #[inline(always)]
    fn store(target: &mut [Self], buffer: &mut [f32], fill: impl FnOnce(&mut [f32])) {
        let values = &mut buffer[..target.len()];
        fill(values);
        Self::narrow(values, target);
    }
}

impl Element for f32 {
    #[inline(always)]
    fn widen(source: &[Self], target: &mut [f32]) {
        target.copy_from_slice(source);
    }

    #[inline(always)]
    fn narrow(source: &[f32], target: &mut [Self]) {
        target.copy_from_slice(source);
    }

    #[inline(always)]
    fn widened<'a>(source: &'a [Self], _buffer: &'a mut [f32]) -> &'a [f32] {
        source
    }

    #[inline(always)]
    fn store(target: &mut [Self], _buffer: &mut [Self], fill: impl FnOnce(&mut [Self])) {
        fill(target);
    }
}

impl Element for f16 {
    fn widen(source: &[Self], target: &mut [f32]) {
        source.convert_to_f32_slice(target);
    }

    fn narrow(source: &[f32], target: &mut [Self]) {
        target.convert_from_f32_slice(source);
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn widen(source: &[Self], target: &mut [f32]) {
        for (wide, narrow) in target.iter_mut().zip(source) {
            *wide = f32::from_bits(u32::from(narrow.to_bits()) << 16);
        }
    }

    #[inline(always)]
    fn narrow(source: &[f32], target: &mut [Self]) {
        for (narrow, wide) in target.iter_mut().zip(source) {
            *narrow = Self::from_bits(bf16_bits(*wide));
        }
    }
}

/// The bits of `value` rounded to bf16, nearest even, without a branch; a NaN stays one.
#[inline(always)]
fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1))) >> 16;
    let quiet = (bits >> 16) | 0x0040;
    (if value.is_nan() { quiet } else { rounded }) as u16
}

/// Calls the generic body with `$element` standing for the storage type of a candle `DType`.
macro_rules! by_dtype {
    ($dtype:expr, $element:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $element = f32;
                $body
            }
            candle_core::DType::F16 => {
                type $element = half::f16;
                $body
            }
            candle_core::DType::BF16 => {
                type $element = half::bf16;
                $body
            }
            other => Err(candle_core::Error::UnsupportedDTypeForOp(other, "mantissa").bt()),
        }
    };
}
pub(crate) use by_dtype;

#[cfg(test)]
mod tests {
    use super::*;

    /// Every f16 or bf16 is widened exactly, and every midpoint and neighbour narrows as `half` does.
    fn check<T: Element>(from_bits: fn(u16) -> T, reference: fn(f32) -> T, bits: fn(T) -> u16) {
        let all: Vec<T> = (0..=u16::MAX).map(from_bits).collect();
        let mut wide = vec![0.0; all.len()];
        T::widen(&all, &mut wide);
        let mut cases = wide.clone();
        for pair in wide.windows(2) {
            let middle = f64::midpoint(f64::from(pair[0]), f64::from(pair[1]));
            let middle = middle as f32;
            cases.extend([middle, middle.next_up(), middle.next_down()]);
        }
        let mut narrow = vec![T::default(); cases.len()];
        T::narrow(&cases, &mut narrow);
        for (case, result) in cases.iter().zip(&narrow) {
            if case.is_nan() {
                assert!(result.to_f64().is_nan(), "{case}");
            } else {
                assert_eq!(bits(*result), bits(reference(*case)), "{case:e}");
            }
        }
    }

    #[test]
    fn conversions_round_as_half_does() {
        check(f16::from_bits, f16::from_f32, f16::to_bits);
        check(bf16::from_bits, bf16::from_f32, bf16::to_bits);
    }
}
