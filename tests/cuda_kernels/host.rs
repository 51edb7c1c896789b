//! Wide rounding and its census: the CPU's bits and counts.

use mantissa::numerics::{self, Census};
use mantissa::precision::{Format, Rounder};
use mantissa::record::{Counts, ExponentHistogram, Role};

use crate::emulation::{Array, Device, devices, line};
use crate::support::{array, assert_same, awkward};

/// Formats beside those that have a name.
const OTHERS: [&str; 7] =
    ["e2m1", "e3m2", "e8m1", "e5m10", "fp8-e4m3-sat", "fp8-e5m2-sat", "e5m10-sat"];

/// Bins of a tally, and the first one's exponent.
const BINS: usize = 277;
const FIRST: i32 = -149;

/// Counters of a tally before its bins.
const COUNTERS: usize = 7;

/// Values of every kind, with many around the range of the narrow formats and many subnormals.
fn inputs(count: usize) -> Vec<f32> {
    let spread = |(i, value): (usize, f32)| match i % 4 {
        0 => value,
        1 => value * 2_f32.powi((i / 4 % 60) as i32 - 40),
        2 => f32::from_bits(value.to_bits() & 0x807f_ffff),
        _ => value * 60_000.0,
    };
    awkward::<f32>(count as u64, count).into_iter().enumerate().map(spread).collect()
}

/// A tally as the record has it.
fn record(tally: &[u64]) -> (Counts, ExponentHistogram) {
    let [elements, overflow, underflow, subnormal, nan, zeros, non_finite] =
        *tally.first_chunk::<COUNTERS>().unwrap();
    let bins = &tally[COUNTERS..];
    let first = bins.iter().position(|count| *count > 0);
    let last = bins.iter().rposition(|count| *count > 0);
    let filled = first.zip(last).map_or(vec![], |(first, last)| bins[first..=last].to_vec());
    let first = first.map_or(0, |first| FIRST + first as i32);
    let histogram = ExponentHistogram { zeros, non_finite, first, bins: filled };
    (Counts { elements, overflow, underflow, subnormal, nan }, histogram)
}

/// What a census of the CPU says of one tensor.
fn recorded(census: Census) -> (Counts, ExponentHistogram) {
    let mut records = census.into_records(&[]);
    let record = records.remove(0);
    (record.counts.unwrap(), record.exponents)
}

fn check_rounding(device: Device, format: Format) {
    let rounder = Rounder::new(format);
    for (count, geometry) in [(1, line(2, 3)), (1021, line(3, 64)), (5000, line(4, 256))] {
        let x = inputs(count);
        let mut expected = x.clone();
        numerics::round(format, &mut expected);
        let plain = array(&x);
        device.launch("round_values", geometry, (plain.pointer(), count as u64, rounder));
        assert_same(&format.to_string(), &plain.values(), &expected);

        let (counted, tally) = (array(&x), Array::new(&[0_u64; COUNTERS + BINS], 9));
        let mut census = Census::default();
        // A tally adds up.
        for mut values in [x.clone(), expected.clone()] {
            let arguments = (counted.pointer(), count as u64, rounder, tally.pointer());
            device.launch("round_census", geometry, arguments);
            census.add("layer", Role::Activations, &numerics::round_counted(format, &mut values));
            assert_same(&format.to_string(), &counted.values(), &values);
        }
        assert_eq!(record(&tally.values()), recorded(census), "{format} {count}");
    }
}

#[test]
fn rounding_and_its_census_are_the_cpu_bit_by_bit() {
    for device in devices() {
        let others = OTHERS.map(|name| name.parse().unwrap());
        for format in Format::NAMED.into_iter().chain(others) {
            check_rounding(device, format);
        }
    }
}

#[test]
fn observing_counts_as_the_cpu_does() {
    for device in devices() {
        for (count, geometry) in [(5, line(1, 32)), (3001, line(3, 128))] {
            let x = inputs(count);
            let (values, tally) = (array(&x), Array::new(&[0_u64; COUNTERS + BINS], 9));
            let arguments = (values.pointer(), count as u64, tally.pointer());
            device.launch("observe_census", geometry, arguments);
            let mut census = Census::default();
            census.add("layer", Role::Updates, &numerics::observe(&x));
            assert_eq!(record(&tally.values()), recorded(census), "{count}");
            assert_same("observe_census", &values.values(), &x);
        }
    }
}
