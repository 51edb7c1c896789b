//! Standardization of inputs by mean and deviation of the training split, a channel. A channel of a table is a column.

use super::dataset::Inputs;

/// What an input value of each channel becomes.
#[derive(Clone, Debug)]
pub(super) enum Standardize {
    /// What each of the 256 pixel values becomes, a channel. Sums are exact, in integers; mean and deviation are rounded once to
    /// f32.
    Pixels(Vec<[f32; 256]>),
    /// Mean and divisor of each channel. What becomes of a value is computed in f64 and rounded once.
    Values(Vec<[f64; 2]>),
    /// Token ids stay as they are.
    Tokens,
}

impl Standardize {
    /// By the inputs of the training split.
    pub(super) fn by(inputs: &Inputs, [channels, height, width]: [usize; 3]) -> Self {
        let area = height * width;
        match inputs {
            Inputs::Pixels(pixels) => {
                let mut counts = vec![[0_u64; 256]; channels];
                for (plane, pixels) in pixels.chunks_exact(area).enumerate() {
                    for &pixel in pixels {
                        counts[plane % channels][usize::from(pixel)] += 1;
                    }
                }
                Self::Pixels(counts.iter().map(table).collect())
            }
            Inputs::Values(values) => {
                let planes = |channel| values.chunks_exact(area).skip(channel).step_by(channels);
                let moments =
                    |channel| moments(|| planes(channel).flatten().map(|v| f64::from(*v)));
                Self::Values((0..channels).map(moments).collect())
            }
            Inputs::Tokens(_) => Self::Tokens,
        }
    }
}

/// One channel's table from how often each pixel value occurs.
fn table(counts: &[u64; 256]) -> [f32; 256] {
    let moment = |power: u32| -> u128 {
        let terms = (0_u128..).zip(counts).map(|(p, &n)| p.pow(power) * u128::from(n));
        terms.sum()
    };
    let (n, sum, squares) = (moment(0), moment(1), moment(2));
    let scale = 255.0 * n as f64;
    let mean = (sum as f64 / scale) as f32;
    let deviation = (((n * squares - sum * sum) as f64).sqrt() / scale) as f32;
    let divisor = if deviation == 0.0 { 1.0 } else { deviation };
    std::array::from_fn(|pixel| (pixel as f32 / 255.0 - mean) / divisor)
}

/// Mean and population deviation in two passes over the values; 1 where all values are equal.
fn moments<I: Iterator<Item = f64>>(values: impl Fn() -> I) -> [f64; 2] {
    let count = values().count() as f64;
    let (least, most) = values()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), v| (least.min(v), most.max(v)));
    // Rounding would make the mean of equal values another value, and their deviation more than 0.
    if least == most {
        return [least, 1.0];
    }
    let mean = values().sum::<f64>() / count;
    let variance = values().map(|v| (v - mean) * (v - mean)).sum::<f64>() / count;
    [mean, variance.sqrt()]
}
