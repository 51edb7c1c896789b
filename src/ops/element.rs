//! The three storage types that operations run on natively: conversions of whole slices to f32 and back.
#![expect(unsafe_code, reason = "results are rounded into memory that has no values yet")]

use candle_core::{CpuStorage, WithDType};
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
pub trait Element: Stored {
    /// How many bf16 a value is the sum of, in products of bf16; 0 where it takes no part in them.
    const PARTS: usize;

    /// The bits of one of these bf16. Those of a finite value add up to it exactly.
    fn part(self, part: usize) -> u16;

    /// Writes `source` as f32, exactly.
    fn widen(source: &[Self], target: &mut [f32]);

    /// Writes `source` rounded to nearest even.
    #[inline(always)]
    fn narrow(source: &[f32], target: &mut [Self]) {
        assert!(source.len() == target.len(), "as many results as values");
        // SAFETY: the target has room for all of them.
        unsafe { Self::write(source, target.as_mut_ptr()) };
    }

    /// Writes `source` rounded to nearest even to memory that need not have values.
    ///
    /// # Safety
    /// There is room for as many values.
    unsafe fn write(source: &[f32], target: *mut Self);

    /// `source` as f32: itself if it is f32, else widened into `buffer`.
    #[inline(always)]
    fn widened<'a>(source: &'a [Self], buffer: &'a mut [f32]) -> &'a [f32] {
        let target = &mut buffer[..source.len()];
        Self::widen(source, target);
        target
    }

    /// `source` rounded to nearest even: itself if this is f32, else narrowed into `buffer`.
    #[inline(always)]
    fn narrowed<'a>(source: &'a [f32], buffer: &'a mut [Self]) -> &'a [Self] {
        let target = &mut buffer[..source.len()];
        Self::narrow(source, target);
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
    const PARTS: usize = 0;

    fn part(self, _part: usize) -> u16 {
        0
    }

    #[inline(always)]
    fn widen(source: &[Self], target: &mut [f32]) {
        target.copy_from_slice(source);
    }

    #[inline(always)]
    unsafe fn write(source: &[f32], target: *mut Self) {
        // SAFETY: the caller's promise.
        unsafe { target.copy_from_nonoverlapping(source.as_ptr(), source.len()) };
    }

    #[inline(always)]
    fn widened<'a>(source: &'a [Self], _buffer: &'a mut [f32]) -> &'a [f32] {
        source
    }

    #[inline(always)]
    fn narrowed<'a>(source: &'a [f32], _buffer: &'a mut [Self]) -> &'a [Self] {
        source
    }

    #[inline(always)]
    fn store(target: &mut [Self], _buffer: &mut [Self], fill: impl FnOnce(&mut [Self])) {
        fill(target);
    }
}

impl Element for f16 {
    const PARTS: usize = 2;

    /// The value rounded to bf16, and what that leaves. The second part of an infinity or a NaN is 0.
    #[inline(always)]
    fn part(self, part: usize) -> u16 {
        let value = self.to_f32();
        let high = bf16_bits(value);
        if part == 0 {
            high
        } else if self.is_finite() {
            bf16_bits(value - f32::from_bits(u32::from(high) << 16))
        } else {
            0
        }
    }

    #[inline(always)]
    fn widen(source: &[Self], target: &mut [f32]) {
        assert!(source.len() == target.len(), "as many results as values");
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("f16c") {
            // SAFETY: the processor has F16C, and the target has room for all values.
            return unsafe { f16c::widen(source, target) };
        }
        source.convert_to_f32_slice(target);
    }

    #[inline(always)]
    unsafe fn write(source: &[f32], target: *mut Self) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("f16c") {
            // SAFETY: the processor has F16C, and the caller's promise.
            return unsafe { f16c::write(source, target) };
        }
        for (index, value) in source.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { target.add(index).write(Self::from_f32(*value)) };
        }
    }
}

impl Element for bf16 {
    const PARTS: usize = 1;

    #[inline(always)]
    fn part(self, _part: usize) -> u16 {
        self.to_bits()
    }

    #[inline(always)]
    fn widen(source: &[Self], target: &mut [f32]) {
        for (wide, narrow) in target.iter_mut().zip(source) {
            *wide = f32::from_bits(u32::from(narrow.to_bits()) << 16);
        }
    }

    #[inline(always)]
    unsafe fn write(source: &[f32], target: *mut Self) {
        for (index, wide) in source.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { target.add(index).write(Self::from_bits(bf16_bits(*wide))) };
        }
    }
}

/// Conversions of f16 by the processor's instructions, eight at a time.
#[cfg(target_arch = "x86_64")]
mod f16c {
    use std::arch::x86_64::{
        _MM_FROUND_TO_NEAREST_INT, _mm_loadu_si128, _mm_storeu_si128, _mm256_cvtph_ps,
        _mm256_cvtps_ph, _mm256_loadu_ps, _mm256_storeu_ps,
    };

    use half::f16;

    /// See [`super::Element::widen`].
    ///
    /// # Safety
    /// The target has room for as many values.
    #[inline] // where it widens a few at a time
    #[target_feature(enable = "avx,f16c")]
    pub(super) unsafe fn widen(source: &[f16], target: &mut [f32]) {
        let mut done = 0;
        // SAFETY: eight values from `done` on are in both.
        unsafe {
            while done + 8 <= source.len() {
                let values = _mm_loadu_si128(source.as_ptr().add(done).cast());
                _mm256_storeu_ps(target.as_mut_ptr().add(done), _mm256_cvtph_ps(values));
                done += 8;
            }
        }
        for (target, source) in target[done..].iter_mut().zip(&source[done..]) {
            *target = source.to_f32();
        }
    }

    /// See [`super::Element::write`].
    ///
    /// # Safety
    /// As there.
    #[target_feature(enable = "avx,f16c")]
    pub(super) unsafe fn write(source: &[f32], target: *mut f16) {
        let mut done = 0;
        // SAFETY: eight values from `done` on are in both, and one for each that is left.
        unsafe {
            while done + 8 <= source.len() {
                let values = _mm256_loadu_ps(source.as_ptr().add(done));
                let values = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(values);
                _mm_storeu_si128(target.add(done).cast(), values);
                done += 8;
            }
            for (index, value) in source.iter().enumerate().skip(done) {
                target.add(index).write(f16::from_f32(*value));
            }
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
