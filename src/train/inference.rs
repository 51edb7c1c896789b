//! A trained model for serving.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};

use super::batch::DeviceBatch;
use super::trainer::bytes;
use crate::layers::{Arithmetic, KeyValueCache, Layer, Mode, Pass, RunningStatistics};
use crate::ops;

/// A trained model with weights in the compute format only.
pub struct Inferencer {
    pub(super) layers: Arc<dyn Layer>,
    pub(super) weights: Vec<Tensor>,
    pub(super) statistics: Vec<RunningStatistics>,
    pub(super) arithmetic: Arithmetic,
    /// Of each attention, the values of a position's keys, where these can be kept.
    pub(super) cached: Vec<usize>,
    pub(super) device: Device,
}

impl Inferencer {
    /// Logits of a batch.
    ///
    /// # Errors
    /// When the batch is not of the model's shape.
    pub fn forward(&self, batch: &DeviceBatch) -> Result<Tensor> {
        self.logits(batch.input(self.arithmetic)?, batch)
    }

    /// As [`Inferencer::forward`], on a batch of its own in the compute format, which it gives back as soon as it can: what memory
    /// is measured on, so that FP32's batch counts no longer than another's copy does.
    ///
    /// # Errors
    /// As [`Inferencer::forward`].
    pub fn forward_own(&self, batch: &DeviceBatch) -> Result<Tensor> {
        let input = batch.input(self.arithmetic)?;
        let is_shared = input.id() == batch.inputs.id();
        let own = if is_shared { ops::copy(&input)? } else { input };
        self.logits(own, batch)
    }

    fn logits(&self, input: Tensor, batch: &DeviceBatch) -> Result<Tensor> {
        let mut pass = Pass::new(self.arithmetic, Mode::Inference, &self.weights, &self.statistics)
            .with_sequences(batch.sequences());
        self.layers.forward(input, &mut pass)
    }

    /// An empty cache of `capacity` positions for so many sequences.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn cache(&self, sequences: usize, capacity: usize) -> Result<KeyValueCache> {
        KeyValueCache::new(&self.cached, (sequences, capacity), self.arithmetic, &self.device)
    }

    /// Logits of the token behind the last of these, N × V. ids: N × T tokens, u32, behind those that the cache has seen; it takes them in.
    ///
    /// # Errors
    /// When the cache has no room for them, or is another model's.
    pub fn next(&self, ids: &Tensor, cache: &mut KeyValueCache) -> Result<Tensor> {
        let (_, positions) = ids.dims2()?;
        let mut pass = Pass::new(self.arithmetic, Mode::Inference, &self.weights, &self.statistics)
            .with_cache(cache);
        let logits = self.layers.forward(ids.clone(), &mut pass)?;
        drop(pass);
        cache.advance(positions);
        Ok(logits)
    }

    /// Where it is.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Bytes of the weights.
    pub fn weight_bytes(&self) -> u64 {
        self.weights.iter().map(bytes).sum()
    }
}
