//! This program's fastest matrix multiplication of each format: what the speed of a step is held against. It is not the most
//! that the hardware can do.
//!
//! The fastest of many counts, since whatever disturbs a product makes it slower. Formats take turns, so that a machine that
//! drifts or stalls moves them all.

use candle_core::{Device, Error, Result, Tensor};

use crate::device::Stopwatch;
use crate::layers::Arithmetic;
use crate::memory;
use crate::ops::{self, Operands};
use crate::precision::Format;
use crate::units::Flops;

/// Rows of the smallest and of the largest matrix.
const SIDES: (usize, usize) = (256, 8192);

/// Matrices are large enough where the fastest format takes this many seconds.
const LONG: f64 = 3e-3;

/// Rounds at each size on the way to the one that is large enough: the first pays for what is set up only once.
const ROUNDS_TO_FIT: usize = 3;

/// Products of two square matrices of one size in several formats, and the fastest of each so far.
#[derive(Debug, Default)]
pub struct Peaks {
    products: Vec<Product>,
    /// Seconds of the fastest, one entry a product.
    fastest: Vec<f64>,
}

#[derive(Debug)]
struct Product {
    format: Format,
    x: Tensor,
    how: Operands,
}

impl Peaks {
    /// Takes matrices of one size for all formats: as large as takes the fastest some milliseconds, or as large as fit.
    ///
    /// # Errors
    /// When a format has no arithmetic of its own on the device, or there is no memory for small matrices.
    pub fn new(formats: &[Format], device: &Device) -> Result<Self> {
        let mut side = SIDES.0;
        let mut peaks = Self::of_side(side, formats, device)?;
        while side < SIDES.1 && peaks.fastest.iter().any(|seconds| *seconds < LONG) {
            let Ok(larger) = Self::of_side(2 * side, formats, device) else {
                break;
            };
            (side, peaks) = (2 * side, larger);
        }
        Ok(peaks)
    }

    fn of_side(side: usize, formats: &[Format], device: &Device) -> Result<Self> {
        // Numbers that every format holds, and whose sums stay small.
        let values = memory::collect((0..side * side).map(|i| (i % 7) as f32 / 8.0 - 0.375))?;
        let product = |format: &Format| {
            let arithmetic = Arithmetic::on(*format, device);
            if arithmetic.wide {
                return Err(Error::Msg(format!("{format} is emulated here")).bt());
            }
            let how = if *format == Format::TF32 { Operands::Tf32 } else { Operands::Exact };
            let x = ops::from_f32(&values, (side, side), arithmetic.dtype(), device)?;
            Ok(Product { format: *format, x, how })
        };
        let products = formats.iter().map(product).collect::<Result<Vec<Product>>>()?;
        let fastest = vec![f64::INFINITY; products.len()];
        let mut peaks = Self { products, fastest };
        peaks.measure(ROUNDS_TO_FIT)?;
        Ok(peaks)
    }

    /// Multiplies so many times in each format, in turns.
    ///
    /// # Errors
    /// When the device fails or there is no memory for the product.
    pub fn measure(&mut self, rounds: usize) -> Result<()> {
        let Self { products, fastest } = self;
        take_turns(fastest, rounds, |index| products[index].seconds())?;
        ops::take_operations();
        Ok(())
    }

    /// The rate of the fastest product of a format; none where it was not measured.
    pub fn of(&self, format: Format) -> Option<Flops> {
        let index = self.products.iter().position(|product| product.format == format)?;
        let side = self.products[index].x.dim(0).ok()?;
        Some(Flops(2.0 * (side as f64).powi(3) / self.fastest[index]))
    }
}

impl Product {
    /// What one takes.
    fn seconds(&self) -> Result<f64> {
        let clock = Stopwatch::start(self.x.device())?;
        let y = ops::linear(&self.x, &self.x, None, self.how, ops::Then::Nothing)?;
        let seconds = clock.stop()?.0;
        drop(y);
        Ok(seconds)
    }
}

/// Calls `time` for each place of `fastest` in every round, every other round backwards, and keeps the least.
fn take_turns(
    fastest: &mut [f64],
    rounds: usize,
    mut time: impl FnMut(usize) -> Result<f64>,
) -> Result<()> {
    let last = fastest.len().saturating_sub(1);
    for round in 0..rounds {
        for place in 0..fastest.len() {
            let index = if round % 2 == 0 { place } else { last - place };
            fastest[index] = fastest[index].min(time(index)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_a_rate_and_an_emulated_format_has_none() {
        let formats = [Format::F32, Format::F16];
        let mut peaks = Peaks::new(&formats, &Device::Cpu).unwrap();
        peaks.measure(1).unwrap();
        for format in formats {
            let rate = peaks.of(format).unwrap();
            assert!(rate.0.is_finite() && rate.0 > 0.0, "{format} {rate}");
        }
        assert_eq!(peaks.of(Format::BF16), None);
        assert!(Peaks::new(&[Format::F32, Format::TF32], &Device::Cpu).is_err());
        assert_eq!(Peaks::new(&[], &Device::Cpu).unwrap().of(Format::F32), None);
    }

    /// On a machine whose speed halves for good, or for a while, formats that take 1 and 2 seconds of a fast machine stay as
    /// far apart: measured one after the other, the second would seem four times as slow, or as fast as the first.
    #[test]
    fn formats_take_turns_so_that_drift_moves_them_all() {
        let halves_at =
            |from: f64, to: f64| move |now: f64| if (from..to).contains(&now) { 2.0 } else { 1.0 };
        for (from, to) in [(7.0, f64::INFINITY), (0.0, 7.0), (4.0, 40.0)] {
            let (slowness, mut now) = (halves_at(from, to), 0.0);
            let mut order = Vec::new();
            let mut fastest = [f64::INFINITY; 2];
            take_turns(&mut fastest, 20, |index| {
                let seconds = [1.0, 2.0][index] * slowness(now);
                now += seconds;
                order.push(index);
                Ok(seconds)
            })
            .unwrap();
            assert_eq!(fastest, [1.0, 2.0], "slow from {from} to {to}");
            assert_eq!(order[..6], [0, 1, 1, 0, 0, 1]);
        }
        let failing = take_turns(&mut [0.0], 1, |_| Err(Error::Msg("no".to_owned())));
        assert!(failing.is_err());
    }
}
