//! The histogram of exponents: how many values lie in each binade.

use super::ExponentHistogram;

/// floor(log2) of the smallest subnormal of f32, the first bin.
const FIRST: i32 = -149;
/// One bin for each exponent from -149 to 127.
pub(super) const BINS: usize = 277;
/// Exponents of f32 below its normal range, -149 to -127.
const SUBNORMAL_BINS: usize = 23;
/// Histograms filled in turn. Neighbouring values often share their exponent, and adding to a counter that was just
/// written waits for that write.
const LANES: usize = 4;

/// How many values lie in each binade of f32: a value v ≠ 0 is in bin floor(log2 |v|).
///
/// ```
/// use mantissa::numerics;
///
/// let exponents = numerics::observe(&[1.0, 2.0, 3.0]).exponents;
/// assert_eq!(exponents, numerics::observe(&[1.5, 2.5, 2.0]).exponents, "the same binades");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exponents {
    pub(super) zeros: u64,
    pub(super) non_finite: u64,
    bins: [u64; BINS],
}

impl Default for Exponents {
    fn default() -> Self {
        Self { zeros: 0, non_finite: 0, bins: [0; BINS] }
    }
}

impl Exponents {
    /// The exponents of at most 2^32 - 1 values.
    pub(super) fn of(values: &[f32]) -> Self {
        let fields = stored_exponents(values);
        let mut exponents = Self { non_finite: fields[255], ..Self::default() };
        exponents.bins[SUBNORMAL_BINS..].copy_from_slice(&fields[1..255]);
        if fields[0] > 0 {
            let zeros: u32 = values.iter().map(|&value| u32::from(value == 0.0)).sum();
            exponents.zeros = zeros.into();
            if fields[0] > exponents.zeros {
                exponents.add_subnormals(values);
            }
        }
        exponents
    }

    /// A histogram that was counted elsewhere.
    #[cfg(feature = "cuda")]
    pub(super) fn from_bins(zeros: u64, non_finite: u64, bins: &[u64; BINS]) -> Self {
        Self { zeros, non_finite, bins: *bins }
    }

    #[cold]
    fn add_subnormals(&mut self, values: &[f32]) {
        for value in values.iter().filter(|value| value.is_subnormal()) {
            let highest_bit = value.abs().to_bits().ilog2();
            self.bins[highest_bit as usize] += 1;
        }
    }

    /// Adds `other` to this one.
    pub(super) fn add(&mut self, other: &Self) {
        self.zeros += other.zeros;
        self.non_finite += other.non_finite;
        for (bin, more) in self.bins.iter_mut().zip(&other.bins) {
            *bin += more;
        }
    }

    /// The histogram as it is written, from its first bin that is not empty to its last.
    pub(super) fn to_histogram(&self) -> ExponentHistogram {
        let counts = || (FIRST..).zip(self.bins).skip_while(|&(_, count)| count == 0);
        let mut bins: Vec<u64> = counts().map(|(_, count)| count).collect();
        let filled = bins.iter().rposition(|&count| count > 0).map_or(0, |last| last + 1);
        bins.truncate(filled);
        ExponentHistogram {
            zeros: self.zeros,
            non_finite: self.non_finite,
            first: counts().next().map_or(0, |(exponent, _)| exponent),
            bins,
        }
    }

    /// The histogram that was written so; bins that no f32 is in are left out.
    pub(super) fn from_histogram(histogram: &ExponentHistogram) -> Self {
        let ExponentHistogram { zeros, non_finite, first, ref bins } = *histogram;
        let mut exponents = Self { zeros, non_finite, ..Self::default() };
        for (exponent, count) in (first..).zip(bins) {
            let place = usize::try_from(exponent - FIRST);
            if let Some(bin) = place.ok().and_then(|place| exponents.bins.get_mut(place)) {
                *bin = *count;
            }
        }
        exponents
    }
}

/// How often each of the 256 stored exponents of f32 occurs: 0 for zeros and subnormals, 255 for infinity and NaN.
fn stored_exponents(values: &[f32]) -> [u64; 256] {
    let mut lanes = [[0u32; 256]; LANES];
    let (groups, rest) = values.as_chunks::<LANES>();
    let field = |value: f32| usize::from((value.to_bits() >> 23) as u8);
    for group in groups {
        for (lane, &value) in lanes.iter_mut().zip(group) {
            lane[field(value)] += 1;
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        lane[field(value)] += 1;
    }
    std::array::from_fn(|field| lanes.iter().map(|lane| u64::from(lane[field])).sum())
}
