//! Random numbers of the data: one `ChaCha` generator for each purpose, seed and place, so that nothing drawn depends on
//! what was drawn before it elsewhere.

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// What numbers are drawn for. The value is part of the generator's key.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// A digit of the training split; the place is its index.
    TrainDigit = 1,
    /// A digit of the test split; the place is its index.
    TestDigit = 2,
    /// The order of an epoch.
    Order = 3,
    /// The augmentation of an image; the place is its position in the epoch.
    Augmentation = 4,
    /// Which samples are held out for testing.
    TestShare = 5,
    /// The order of an epoch's batches, where they are put together by length.
    BatchOrder = 6,
}

/// A source of random numbers.
#[derive(Debug)]
pub(super) struct Random(ChaCha8Rng);

impl Random {
    /// The generator whose key is these four words: different words give independent numbers.
    pub(super) fn new(purpose: Purpose, seed: u64, epoch: u64, place: u64) -> Self {
        let mut key = [0; 32];
        let words = [purpose as u64, seed, epoch, place];
        for (bytes, word) in key.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Self(ChaCha8Rng::from_seed(key))
    }

    /// A whole number below `bound`, which is at least 1 and at most 2³²; uniform but for a bias below `bound` / 2³².
    pub(super) fn below(&mut self, bound: usize) -> usize {
        ((u64::from(self.0.next_u32()) * bound as u64) >> 32) as usize
    }

    /// Uniform in `low..high`, in steps of 2⁻²⁴ of the range.
    pub(super) fn between(&mut self, low: f32, high: f32) -> f32 {
        let unit = (self.0.next_u32() >> 8) as f32 / 16_777_216.0;
        low + (high - low) * unit
    }

    /// About standard normal: the sum of four bytes, centred and scaled to deviation 1; never beyond ±3.46.
    pub(super) fn normal(&mut self) -> f32 {
        /// 4 × 255 / 2.
        const MEAN: f32 = 510.0;
        /// √(4 (256² − 1) / 12).
        const DEVIATION: f32 = 147.800_77;
        let sum: u32 = self.0.next_u32().to_le_bytes().map(u32::from).iter().sum();
        (sum as f32 - MEAN) / DEVIATION
    }

    /// The numbers 0 to `len` − 1 in random order (Fisher and Yates).
    pub(super) fn permutation(&mut self, len: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..len).collect();
        for last in (1..len).rev() {
            order.swap(last, self.below(last + 1));
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permutation_holds_every_number_once() {
        for len in [0, 1, 2, 7, 1000] {
            let mut order = Random::new(Purpose::Order, 5, 0, 0).permutation(len);
            if len == 1000 {
                assert!(!order.is_sorted());
            }
            order.sort_unstable();
            assert_eq!(order, (0..len).collect::<Vec<_>>());
        }
    }

    #[test]
    fn every_order_of_three_is_about_as_frequent() {
        let mut counts = std::collections::BTreeMap::<Vec<usize>, u32>::new();
        for epoch in 0..6000 {
            let order = Random::new(Purpose::Order, 1, epoch, 0).permutation(3);
            *counts.entry(order).or_default() += 1;
        }
        assert_eq!(counts.len(), 6);
        // 1000 expected, deviation √(6000 · 1/6 · 5/6) = 29: five of them.
        assert!(counts.values().all(|n| n.abs_diff(1000) < 145), "{counts:?}");
    }

    #[test]
    fn every_word_of_the_key_changes_the_numbers() {
        let words = |purpose, seed, epoch, place| {
            let mut random = Random::new(purpose, seed, epoch, place);
            [random.below(1 << 32), random.below(1 << 32)]
        };
        let draws = [
            words(Purpose::TrainDigit, 0, 0, 0),
            words(Purpose::TestDigit, 0, 0, 0),
            words(Purpose::TrainDigit, 1, 0, 0),
            words(Purpose::TrainDigit, 0, 1, 0),
            words(Purpose::TrainDigit, 0, 0, 1),
        ];
        for (i, one) in draws.iter().enumerate() {
            assert!(!draws[i + 1..].contains(one));
        }
    }

    #[test]
    fn the_normal_has_mean_0_and_deviation_1() {
        let mut random = Random::new(Purpose::TestDigit, 9, 0, 0);
        let values: Vec<f64> = (0..100_000).map(|_| f64::from(random.normal())).collect();
        let mean = values.iter().sum::<f64>() / 1e5;
        let variance = values.iter().map(|v| v * v).sum::<f64>() / 1e5;
        // Five deviations: of the mean 5 / √1e5, of the variance about 5 √(2 / 1e5).
        assert!(mean.abs() < 0.016 && (variance - 1.0).abs() < 0.023, "{mean} {variance}");
    }
}
