//! Whether times changed: the statistics of one metric, whatever it is of.

use crate::record::Estimate;
use crate::stats;
use crate::units::Ratio;

/// How the times of one metric moved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// New ÷ old: the median over the pairs of blocks, with its 95 % interval.
    pub ratio: Estimate<Ratio>,
    /// p of the sign-flip test that the blocks are slower by no more than the margin; 1 where they are not.
    pub p: f64,
    /// Pairs of blocks.
    pub pairs: usize,
}

impl Change {
    /// From the blocks of the new and the old times, paired by their place. Where they were timed in turns, a pair shares the
    /// state of the machine; where they were timed on two occasions, pairing them loses nothing and gains nothing. None where
    /// their numbers differ, with fewer than two, and where a time is not above 0.
    pub fn of(new: &[f64], old: &[f64], margin: f64) -> Option<Self> {
        let ratio = stats::paired_ratio(new, old)?;
        let beyond: Vec<f64> =
            new.iter().zip(old).map(|(new, old)| (new / old).ln() - margin.ln_1p()).collect();
        let is_slower = stats::mean(&beyond)? > 0.0;
        let p = if is_slower { stats::sign_flip_p(&beyond)? } else { 1.0 };
        Some(Self { ratio, p, pairs: new.len() })
    }

    /// Whether the whole interval is slower by more than the margin.
    pub fn is_slower_than(&self, margin: f64) -> bool {
        self.ratio.low.0 > 1.0 + margin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of about one second with a ripple of 1 %.
    fn blocks(of: f64, count: usize) -> Vec<f64> {
        (0..count).map(|i| of * (1.0 + 0.01 * f64::from(i as u32 % 3) - 0.01)).collect()
    }

    #[test]
    fn a_shift_beyond_the_margin_is_seen_and_one_within_it_is_not() {
        for (shift, slower) in [(1.0, false), (1.05, false), (1.2, true), (0.8, false)] {
            let change = Change::of(&blocks(shift, 12), &blocks(1.0, 12), 0.1).unwrap();
            assert!((change.ratio.value.0 - shift).abs() < 1e-9, "{change:?}");
            assert_eq!(change.is_slower_than(0.1), slower, "{change:?}");
            // Of 12 pairs that all lie on one side, 2 of 2¹² patterns are as extreme.
            let expected = if slower { 2.0 / 4096.0 } else { 1.0 };
            assert_eq!(change.p, expected, "{change:?}");
        }
    }

    #[test]
    fn one_stalled_block_is_no_shift() {
        let mut new = blocks(1.0, 12);
        new[5] = 40.0;
        let change = Change::of(&new, &blocks(1.0, 12), 0.1).unwrap();
        assert!(!change.is_slower_than(0.1), "{change:?}");
        assert!(change.p > 0.05, "{change:?}");
    }

    #[test]
    fn what_cannot_be_compared_is_none() {
        for (new, old) in [
            (&[1.0, 1.0][..], &[1.0][..]),
            (&[1.0], &[1.0]),
            (&[1.0, 1.0], &[0.0, 1.0]),
            (&[1.0, f64::NAN], &[1.0, 1.0]),
            (&[], &[]),
        ] {
            assert_eq!(Change::of(new, old, 0.1), None, "{new:?} {old:?}");
        }
    }
}
