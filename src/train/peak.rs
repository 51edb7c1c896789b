//! How fast a device multiplies in a format when it does nothing else: what the speed of a step is held against.

use candle_core::{Device, Error, Result};

use crate::device::Stopwatch;
use crate::layers::Arithmetic;
use crate::memory;
use crate::ops::{self, Operands};
use crate::precision::Format;
use crate::units::Flops;

/// Rows of the smallest and of the largest matrix.
const SIDES: (usize, usize) = (256, 8192);

/// A product that takes this long is large enough.
const LONG: f64 = 5e-3;

/// Products of which the fastest counts.
const PRODUCTS: usize = 5;

/// The rate of the fastest of several products of two large square matrices: as large as takes some milliseconds.
///
/// # Errors
/// When the format has no arithmetic of its own on the device, or there is no memory for the matrices.
pub fn product_peak(format: Format, device: &Device) -> Result<Flops> {
    let arithmetic = Arithmetic::on(format, device);
    if arithmetic.wide {
        return Err(Error::Msg(format!("{format} is emulated here")).bt());
    }
    let how = if format == Format::TF32 { Operands::Tf32 } else { Operands::Exact };
    let mut side = SIDES.0;
    loop {
        // Numbers that every format holds, and whose sums stay small.
        let values = memory::collect((0..side * side).map(|i| (i % 7) as f32 / 8.0 - 0.375))?;
        let x = ops::from_f32(&values, (side, side), arithmetic.dtype(), device)?;
        let product = || -> Result<f64> {
            let clock = Stopwatch::start(device)?;
            let y = ops::linear(&x, &x, None, how)?;
            let seconds = clock.stop()?.0;
            drop(y);
            Ok(seconds)
        };
        // The first pays for what is set up only once.
        product()?;
        if side < SIDES.1 && product()? < LONG {
            side *= 2;
            continue;
        }
        let mut fastest = f64::INFINITY;
        for _ in 0..PRODUCTS {
            fastest = fastest.min(product()?);
        }
        ops::take_operations();
        return Ok(Flops(2.0 * (side as f64).powi(3) / fastest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_a_rate_and_an_emulated_format_has_none() {
        let rate = product_peak(Format::F32, &Device::Cpu).unwrap();
        assert!(rate.0.is_finite() && rate.0 > 0.0, "{rate}");
        assert!(product_peak(Format::TF32, &Device::Cpu).is_err());
    }
}
