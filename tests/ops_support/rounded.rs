//! Native results against wide ones, rounded once.

use candle_core::{DType, Result, Tensor};
use half::{bf16, f16};
use mantissa::ops;

/// A name and a result for every operation that was run.
pub(crate) type Results = Vec<(String, Tensor)>;

/// Position of each value among all values of its 16-bit type: neighbours differ by 1.
fn positions(tensor: &Tensor) -> Result<Vec<i32>> {
    let flat = tensor.flatten_all()?;
    let bits: Vec<u16> = if tensor.dtype() == DType::F16 {
        flat.to_vec1::<f16>()?.into_iter().map(f16::to_bits).collect()
    } else {
        flat.to_vec1::<bf16>()?.into_iter().map(bf16::to_bits).collect()
    };
    let position = |bits: u16| {
        let size = i32::from(bits & 0x7fff);
        if bits & 0x8000 == 0 { size } else { -size }
    };
    Ok(bits.into_iter().map(position).collect())
}

/// Every native result is the wide one rounded by candle's conversion (`half`'s), up to `units` in the last place; a NaN for
/// a NaN.
pub(crate) fn check_rounded(
    native: &Results,
    wide: &Results,
    dtype: DType,
    units: i32,
) -> Result<()> {
    assert_eq!(native.len(), wide.len());
    for ((name, native), (_, wide)) in native.iter().zip(wide) {
        assert_eq!(native.dtype(), dtype, "{name}");
        assert_eq!(native.dims(), wide.dims(), "{name}");
        let rounded = wide.to_dtype(dtype)?;
        let positions = positions(native)?.into_iter().zip(positions(&rounded)?);
        let values = ops::to_f32(native)?.into_iter().zip(ops::to_f32(&rounded)?);
        for (i, ((a, b), (x, y))) in positions.zip(values).enumerate() {
            let near = a.abs_diff(b) <= units.unsigned_abs() || (x.is_nan() && y.is_nan());
            assert!(near, "{name} {dtype:?}[{i}]: {x:e}, not {y:e}");
        }
    }
    Ok(())
}
