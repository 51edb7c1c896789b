//! What rounding does to the values of a tensor: the census, its counts and its histogram of exponents.
//!
//! ```
//! use mantissa::numerics::{Census, Role, round_counted};
//! use mantissa::precision::Format;
//!
//! // f16 ends at 65,504, and its smallest number is 2⁻²⁴.
//! let mut values = [1.0, 1e5, 1e-9, 0.0];
//! let tally = round_counted(Format::F16, &mut values);
//! assert_eq!(values, [1.0, f32::INFINITY, 0.0, 0.0]);
//!
//! let mut census = Census::default();
//! census.add("linear1", Role::Activations, &tally);
//! let counts = census.totals();
//! assert_eq!((counts.elements, counts.overflow, counts.underflow), (4, 1, 1));
//! ```

mod counts;
mod exponents;
mod tally;

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::precision::{Format, Rounder};

pub use counts::{Counts, ExponentHistogram, LayerCensus, Role};
pub use exponents::Exponents;
#[cfg(feature = "cuda")]
pub(crate) use tally::TALLY_WORDS;
pub use tally::Tally;

/// Values that one task handles: 64 KiB, so that the passes over them after the first stay in a core's own cache.
/// Fixed, and only integers are summed over the chunks, so that no count depends on the number of threads.
const CHUNK: usize = 16 * 1024;

/// The tallies of a run, by layer and role.
///
/// ```
/// use mantissa::numerics::{self, Census, Role};
/// use mantissa::precision::Format;
///
/// let mut census = Census::default();
/// for mut values in [[1e5, 1.0], [1e6, 1e-10]] {
///     census.add("hidden", Role::Activations, &numerics::round_counted(Format::F16, &mut values));
/// }
/// let totals = census.totals();
/// assert_eq!((totals.elements, totals.overflow, totals.underflow), (4, 2, 1));
/// ```
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Vec<LayerCensus>", into = "Vec<LayerCensus>")]
pub struct Census {
    tallies: BTreeMap<(String, Role), Tally>,
    /// Of tensors that are known only after rounding.
    rounded: BTreeMap<(String, Role), Tally>,
}

impl Census {
    /// Adds the tally of one tensor.
    pub fn add(&mut self, layer: &str, role: Role, tally: &Tally) {
        self.tallies.entry((layer.to_owned(), role)).or_default().add(tally);
    }

    /// Adds the tally of one tensor that is known only after rounding: it has exponents, and no counts of what rounding did.
    pub fn add_rounded(&mut self, layer: &str, role: Role, tally: &Tally) {
        self.rounded.entry((layer.to_owned(), role)).or_default().add(tally);
    }

    /// Adds all of another census.
    pub fn merge(&mut self, other: Self) {
        for (all, more) in [(&mut self.tallies, other.tallies), (&mut self.rounded, other.rounded)]
        {
            for (key, tally) in more {
                all.entry(key).or_default().add(&tally);
            }
        }
    }

    /// The counts of all layers and roles whose values are rounded: all but the updates.
    pub fn totals(&self) -> Counts {
        let rounded = self.tallies.iter().filter(|((_, role), _)| *role != Role::Updates);
        rounded.fold(Counts::default(), |total, (_, tally)| total.plus(tally.counts))
    }

    /// The census as it is written, by layer in order of `layers`, then by role. A layer that `layers` lacks comes
    /// after those, by name.
    pub fn into_records(self, layers: &[String]) -> Vec<LayerCensus> {
        let place = |layer: &str| layers.iter().position(|known| known == layer);
        let record = |((layer, role), tally): ((String, Role), Tally), counts| LayerCensus {
            layer,
            role,
            counts,
            exponents: tally.exponents.to_histogram(),
        };
        let counted = self.tallies.into_iter().map(|entry| {
            let counts = entry.1.counts;
            record(entry, Some(counts))
        });
        let rounded = self.rounded.into_iter().map(|entry| record(entry, None));
        let mut records: Vec<LayerCensus> = counted.chain(rounded).collect();
        let key = |record: &LayerCensus| {
            (place(&record.layer).unwrap_or(layers.len()), record.layer.clone(), record.role)
        };
        records.sort_by_cached_key(key);
        records
    }
}

impl From<Census> for Vec<LayerCensus> {
    fn from(census: Census) -> Self {
        census.into_records(&[])
    }
}

impl From<Vec<LayerCensus>> for Census {
    /// The census that was written so, whatever the order of its records.
    fn from(records: Vec<LayerCensus>) -> Self {
        let mut census = Self::default();
        for LayerCensus { layer, role, counts, exponents } in records {
            let exponents = Exponents::from_histogram(&exponents);
            let tally = Tally { counts: counts.unwrap_or_default(), exponents };
            if counts.is_some() {
                census.add(&layer, role, &tally);
            } else {
                census.add_rounded(&layer, role, &tally);
            }
        }
        census
    }
}

/// Rounds every value of `values` to `format`, in place and in parallel, without counting.
///
/// ```
/// use mantissa::numerics;
/// use mantissa::precision::Format;
///
/// let mut values = [1.001, 1e5];
/// numerics::round(Format::F16, &mut values);
/// assert_eq!(values, [1.0 + 2.0_f32.powi(-10), f32::INFINITY]);
/// ```
pub fn round(format: Format, values: &mut [f32]) {
    let rounder = Rounder::new(format);
    let round_all = |values: &mut [f32]| {
        for value in values {
            *value = rounder.round(*value);
        }
    };
    if values.len() <= CHUNK {
        round_all(values);
    } else {
        values.par_chunks_mut(CHUNK).for_each(round_all);
    }
}

/// Rounds every value of `values` to `format`, in place and in parallel, and counts what that did.
///
/// ```
/// use mantissa::numerics;
/// use mantissa::precision::Format;
///
/// let mut values = [1.0, 1e-10];
/// let tally = numerics::round_counted(Format::F16, &mut values);
/// assert_eq!(values, [1.0, 0.0]);
/// assert_eq!(tally.counts.underflow, 1);
/// ```
pub fn round_counted(format: Format, values: &mut [f32]) -> Tally {
    if values.len() <= CHUNK {
        return Tally::of_rounding(format, values);
    }
    let tallies = values.par_chunks_mut(CHUNK).map(|chunk| Tally::of_rounding(format, chunk));
    tallies.reduce(Tally::default, |a, b| a.plus(&b))
}

/// Counts `values` as they are: their number, NaNs and exponents. For what is not rounded, as [`Role::Updates`].
///
/// ```
/// use mantissa::numerics;
///
/// let tally = numerics::observe(&[1.0, f32::NAN, 1e-10]);
/// assert_eq!((tally.counts.elements, tally.counts.nan, tally.counts.underflow), (3, 1, 0));
/// ```
pub fn observe(values: &[f32]) -> Tally {
    if values.len() <= CHUNK {
        return Tally::of_values(values);
    }
    let tallies = values.par_chunks(CHUNK).map(Tally::of_values);
    tallies.reduce(Tally::default, |a, b| a.plus(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of every kind, by a 64-bit linear congruential generator: exponents around `centre`, or any bits at all
    /// every fourth time, and every kind of special value.
    fn values(count: usize, centre: u32) -> Vec<f32> {
        const SPECIAL: [f32; 8] = [
            0.0,
            -0.0,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            f32::MAX,
            f32::MIN_POSITIVE,
            1e-45,
        ];
        let mut state = 1u64;
        let value = |index: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let word = (state >> 32) as u32;
            match index % 8 {
                0 => SPECIAL[word as usize % SPECIAL.len()],
                1 | 2 => f32::from_bits(word),
                3 => f32::from_bits(word & 0x807f_ffff),
                _ => {
                    f32::from_bits((word & 0x807f_ffff) | ((centre - 16 + (word >> 24) % 32) << 23))
                }
            }
        };
        (0..count).map(value).collect()
    }

    /// The definitions, one value after the other, in f64.
    fn naive(format: Format, values: &[f32]) -> (Counts, ExponentHistogram) {
        let mut counts = Counts::default();
        let mut histogram = ExponentHistogram::default();
        let mut bins = BTreeMap::new();
        for &before in values {
            let after = format.round(before);
            counts.elements += 1;
            // Where a format saturates, the values past the largest one by half a gap to what would follow it.
            let largest = format.max_finite();
            let half_a_gap = 2f64.powi(largest.log2().floor() as i32 - 1) * format.epsilon();
            let past = match f64::from(before).abs() - (largest + half_a_gap) {
                distance if format.mantissa_bits() == 3 && format.exponent_bits() == 4 => {
                    distance > 0.0
                }
                distance => distance >= 0.0,
            };
            let is_lost = if after.is_finite() { past } else { true };
            counts.overflow += u64::from(before.is_finite() && is_lost);
            counts.underflow += u64::from(before != 0.0 && after == 0.0);
            let magnitude = f64::from(after).abs();
            counts.subnormal += u64::from(magnitude > 0.0 && magnitude < format.min_normal());
            counts.nan += u64::from(after.is_nan());
            match f64::from(before).abs() {
                0.0 => histogram.zeros += 1,
                magnitude if magnitude.is_finite() => {
                    *bins.entry(magnitude.log2().floor() as i32).or_insert(0) += 1;
                }
                _ => histogram.non_finite += 1,
            }
        }
        if let (Some((&first, _)), Some((&last, _))) =
            (bins.first_key_value(), bins.last_key_value())
        {
            histogram.first = first;
            histogram.bins =
                (first..=last).map(|exponent| bins.get(&exponent).copied().unwrap_or(0)).collect();
        }
        (counts, histogram)
    }

    fn record(census: Census) -> LayerCensus {
        let mut records = census.into_records(&[]);
        assert_eq!(records.len(), 1);
        records.remove(0)
    }

    #[test]
    fn a_census_counts_as_the_definitions_do_and_rounds() {
        for name in [
            "f32",
            "tf32",
            "f16",
            "bf16",
            "fp8-e4m3",
            "fp8-e5m2",
            "e2m1",
            "e8m1",
            "fp8-e4m3-sat",
            "fp8-e5m2-sat",
            "e8m1-sat",
            "fp6-e3m2",
            "fp4-e2m1",
        ] {
            let format: Format = name.parse().unwrap();
            for count in [0, 1, 7, CHUNK, CHUNK + 1, 3 * CHUNK + 5] {
                for centre in [127, 127 - 20] {
                    let before = values(count, centre);
                    let rounded: Vec<_> =
                        before.iter().map(|&value| format.round(value).to_bits()).collect();

                    let mut after = before.clone();
                    let mut census = Census::default();
                    census.add("layer", Role::Weights, &round_counted(format, &mut after));
                    let record = record(census);
                    let (counts, exponents) = naive(format, &before);
                    assert_eq!(
                        (record.counts, record.exponents),
                        (Some(counts), exponents),
                        "{name} {count}"
                    );
                    assert!(
                        after.iter().map(|value| value.to_bits()).eq(rounded.iter().copied()),
                        "{name} {count}"
                    );

                    let mut uncounted = before;
                    round(format, &mut uncounted);
                    assert!(
                        uncounted.iter().map(|value| value.to_bits()).eq(rounded),
                        "{name} {count}"
                    );
                }
            }
        }
    }

    #[test]
    fn each_definition_at_its_edges_in_f16() {
        let subnormal = 2f32.powi(-24);
        #[rustfmt::skip]
        let table = [
            // before rounding, (overflow, underflow, subnormal, NaN), (zeros, non-finite, exponent)
            (65520.0, (1, 0, 0, 0), (0, 0, Some(15))),
            (65519.0, (0, 0, 0, 0), (0, 0, Some(15))),
            (f32::NEG_INFINITY, (0, 0, 0, 0), (0, 1, None)),
            (f32::NAN, (0, 0, 0, 1), (0, 1, None)),
            (-0.0, (0, 0, 0, 0), (1, 0, None)),
            (subnormal, (0, 0, 1, 0), (0, 0, Some(-24))),
            (subnormal / 2.0, (0, 1, 0, 0), (0, 0, Some(-25))),
            ((subnormal / 2.0).next_up(), (0, 0, 1, 0), (0, 0, Some(-25))),
            (2f32.powi(-14).next_down(), (0, 0, 0, 0), (0, 0, Some(-15))),
            (2f32.powi(-14) - subnormal, (0, 0, 1, 0), (0, 0, Some(-15))),
            (1e-45, (0, 1, 0, 0), (0, 0, Some(-149))),
        ];
        for (value, (overflow, underflow, subnormal, nan), (zeros, non_finite, exponent)) in table {
            let mut census = Census::default();
            census.add("layer", Role::Activations, &round_counted(Format::F16, &mut [value]));
            let expected = LayerCensus {
                layer: "layer".to_owned(),
                role: Role::Activations,
                counts: Some(Counts { elements: 1, overflow, underflow, subnormal, nan }),
                exponents: ExponentHistogram {
                    zeros,
                    non_finite,
                    first: exponent.unwrap_or(0),
                    bins: exponent.into_iter().map(|_| 1).collect(),
                },
            };
            assert_eq!(record(census), expected, "{value:e}");
        }
    }

    #[test]
    fn overflow_to_nan_counts_as_both_but_infinity_only_as_nan() {
        let mut census = Census::default();
        census.add(
            "layer",
            Role::Weights,
            &round_counted(Format::FP8_E4M3, &mut [480.0, f32::INFINITY, f32::NAN, 448.0]),
        );
        let counts = record(census).counts;
        assert_eq!(counts.map(|counts| (counts.overflow, counts.nan)), Some((1, 3)));
    }

    /// A value that is held at the largest one has left the range like one that becomes infinite.
    #[test]
    fn saturation_counts_as_overflow_and_leaves_no_infinity() {
        let values = [
            464.0,
            464f32.next_up(),
            -1e30,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            448.0,
            -0.0,
        ];
        let mut rounded = values;
        let saturating: Format = "fp8-e4m3-sat".parse().unwrap();
        let tally = round_counted(saturating, &mut rounded);
        let expected = Counts { elements: 8, overflow: 2, underflow: 0, subnormal: 0, nan: 1 };
        assert_eq!(tally.counts, expected);
        assert_eq!(rounded[..5], [448.0, 448.0, -448.0, 448.0, -448.0]);
        assert!(rounded[5].is_nan() && rounded[6..] == [448.0, 0.0]);
    }

    #[test]
    fn observing_counts_numbers_nans_and_exponents_only() {
        for count in [0, 5, CHUNK, 2 * CHUNK + 3] {
            let values = values(count, 127);
            let mut census = Census::default();
            census.add("layer", Role::Updates, &observe(&values));
            let record = record(census);
            let (counts, exponents) = naive(Format::F32, &values);
            let expected =
                Counts { elements: counts.elements, nan: counts.nan, ..Counts::default() };
            assert_eq!((record.counts, record.exponents), (Some(expected), exponents), "{count}");
        }
    }

    #[test]
    fn a_census_adds_up_by_layer_and_role_in_the_order_of_the_layers() {
        let mut census = Census::default();
        for (layer, role) in [
            ("tail", Role::Weights),
            ("a", Role::Updates),
            ("b", Role::WeightGradients),
            ("b", Role::Weights),
            ("a", Role::Updates),
        ] {
            census.add(layer, role, &observe(&[1.0, 0.0]));
        }
        let records = census.into_records(&["b".to_owned(), "unseen".to_owned(), "a".to_owned()]);
        let seen: Vec<_> = records
            .iter()
            .map(|record| {
                (
                    record.layer.as_str(),
                    record.role,
                    record.counts.unwrap().elements,
                    record.exponents.zeros,
                )
            })
            .collect();
        let expected = [
            ("b", Role::Weights, 2, 1),
            ("b", Role::WeightGradients, 2, 1),
            ("a", Role::Updates, 4, 2),
            ("tail", Role::Weights, 2, 1),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let values = values(5 * CHUNK + 11, 120);
        let count = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut census = Census::default();
                census.add(
                    "layer",
                    Role::Weights,
                    &round_counted(Format::F16, &mut values.clone()),
                );
                record(census)
            })
        };
        assert_eq!(count(1), count(2));
    }
}
