//! Philox 4×32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): random bits from a counter and a
//! key, so that every device draws the same ones for the same position.

use candle_core::Tensor;

/// Which random numbers an operation draws. What changes from step to step is on the tensors' device.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use mantissa::ops::{self, RandomStream};
///
/// // The same numbers again: so backward drops what forward dropped.
/// let random = RandomStream { seed: 7, stream: 0, pass: Tensor::new(&[3_u32], &Device::Cpu)? };
/// let x = Tensor::ones(50, DType::F32, &Device::Cpu)?;
/// let dropped = || ops::to_f32(&ops::dropout(&x, 0.2, &random)?);
/// assert_eq!(dropped()?, dropped()?);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RandomStream {
    /// The run's seed.
    pub seed: u64,
    /// Which use of random numbers: such as a layer.
    pub stream: u32,
    /// Number of the forward pass in the run: one u32.
    pub pass: Tensor,
}

/// Number of the forward pass of a step's first micro-batch. Passes are counted modulo 2³², as the word of the counter that
/// holds their number.
pub fn first_pass(step: u64, micro_batches: usize) -> u32 {
    step.wrapping_mul(micro_batches as u64) as u32
}

/// What dropout with a probability keeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
    /// The least random word of a value that is kept: ⌊p 2³²⌋.
    pub(super) from: u64,
    /// What such a value is multiplied by: 1 / (1 − p).
    pub(super) scale: f32,
}

impl Keep {
    pub(super) fn of(p: f32) -> Self {
        Self { from: (f64::from(p) * 4_294_967_296.0) as u64, scale: 1.0 / (1.0 - p) }
    }

    /// Whether a value with this random word is kept.
    #[inline(always)]
    pub(super) fn keeps(self, word: u32) -> bool {
        u64::from(word) >= self.from
    }
}

/// Which random numbers: the key of the run and of one use in it. The counter is the position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Philox {
    /// The run's seed.
    pub seed: u64,
    /// Which use of random numbers: such as a layer.
    pub stream: u32,
    /// The forward pass.
    pub pass: u32,
}

impl Philox {
    /// The four words of block `block`.
    #[inline]
    pub fn words(self, block: u64) -> [u32; 4] {
        let counter = [block as u32, (block >> 32) as u32, self.pass, self.stream];
        philox4x32(counter, [self.seed as u32, (self.seed >> 32) as u32])
    }
}

/// Ten rounds of Philox 4×32 on a counter under a key.
#[inline]
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let first = u64::from(counter[0]) * 0xD251_1F53;
        let second = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the Random123 distribution (`kat_vectors`, philox4x32 with 10 rounds).
    #[test]
    fn known_answers_of_random123() {
        for (counter, key, expected) in [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            assert_eq!(philox4x32(counter, key), expected);
        }
    }

    /// By the remainder of the exact product.
    #[test]
    fn passes_of_long_runs_are_counted_modulo_the_word_of_the_counter() {
        for (step, micro_batches) in [
            (0, 7),
            (5, 3),
            (u64::from(u32::MAX) / 3, 3),
            (u64::from(u32::MAX) / 3 + 1, 3),
            (1 << 31, 2),
            (999_999_999, 65_536),
            (u64::MAX, 65_535),
        ] {
            let exact = u128::from(step) * micro_batches as u128;
            let expected = (exact % (1 << 32)) as u32;
            assert_eq!(first_pass(step, micro_batches), expected, "{step} x {micro_batches}");
        }
    }
}
