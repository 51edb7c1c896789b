//! The keys and values of earlier positions, kept while a model serves.

use candle_core::{Device, Error, Result, Tensor};

use super::Arithmetic;
use crate::ops;

/// The keys and values of the positions that a model has seen, in the compute format, so that a new token passes through the model alone.
/// All sequences of a batch have as many positions.
///
/// ```
/// use candle_core::Device;
/// use mantissa::layers::{Arithmetic, KeyValueCache};
/// use mantissa::precision::Format;
///
/// // Two attentions with keys of 16 values, one sequence of up to 8 positions: keys and values of 2 bytes each.
/// let cache = KeyValueCache::new(&[16, 16], (1, 8), Arithmetic::of(Format::BF16), &Device::Cpu)?;
/// assert_eq!(cache.bytes(), 2 * 2 * 16 * 8 * 2);
/// assert!(cache.is_empty());
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug)]
pub struct KeyValueCache {
    /// Of each attention, N × C × (G d) each.
    layers: Vec<[Tensor; 2]>,
    sequences: usize,
    capacity: usize,
    length: usize,
    device: Device,
}

/// Keys and values as attention takes them.
pub(super) struct Kept {
    pub(super) keys: Tensor,
    pub(super) values: Tensor,
    /// How many of these each sequence has; all where there are none.
    pub(super) lengths: Option<Tensor>,
}

impl KeyValueCache {
    /// An empty cache of `capacity` positions for so many sequences; `widths` are the values of a position's keys in each attention.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn new(
        widths: &[usize],
        (sequences, capacity): (usize, usize),
        arithmetic: Arithmetic,
        device: &Device,
    ) -> Result<Self> {
        let zeros = |width: &usize| {
            ops::zeros_as((sequences, capacity, *width), arithmetic.dtype(), device)
        };
        let pair = |width| Ok([zeros(width)?, zeros(width)?]);
        let layers = widths.iter().map(pair).collect::<Result<_>>()?;
        Ok(Self { layers, sequences, capacity, length: 0, device: device.clone() })
    }

    /// How many positions it holds.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// How many positions it has room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes of the keys and values that it has room for.
    pub fn bytes(&self) -> u64 {
        let bytes = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
        self.layers.iter().flatten().map(bytes).sum::<usize>() as u64
    }

    /// Forgets all positions.
    pub fn clear(&mut self) {
        self.length = 0;
    }

    /// Notes that a pass over `positions` more has gone through all layers.
    pub fn advance(&mut self, positions: usize) {
        self.length += positions;
    }

    /// Keeps keys and values of the next positions, N × T × (G d), and returns what their queries see: these alone where they are the
    /// first, else, for one position, all that there are.
    pub(super) fn add(&self, attention: usize, keys: Tensor, values: Tensor) -> Result<Kept> {
        let (sequences, positions, _) = keys.dims3()?;
        let fits = sequences == self.sequences && self.length + positions <= self.capacity;
        if !fits || (self.length > 0 && positions > 1) {
            let text = format!(
                "a cache of {} sequences with {} of {} positions cannot take {positions} of {sequences}: after the first ones it takes \
                 one at a time",
                self.sequences, self.length, self.capacity
            );
            return Err(Error::Msg(text).bt());
        }
        let kept = &self.layers[attention];
        for (kept, new) in kept.iter().zip([&keys, &values]) {
            for sequence in 0..sequences {
                let place = kept.narrow(0, sequence, 1)?.narrow(1, self.length, positions)?;
                ops::copy_into(&place, &new.narrow(0, sequence, 1)?)?;
            }
        }
        if self.is_empty() {
            return Ok(Kept { keys, values, lengths: None });
        }
        let length = u32::try_from(self.length + positions).unwrap_or(u32::MAX);
        let lengths = ops::from_host(vec![length; sequences], sequences, &self.device)?;
        let [keys, values] = kept.clone();
        Ok(Kept { keys, values, lengths: Some(lengths) })
    }
}
