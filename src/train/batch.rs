//! A batch on the device.

use candle_core::{DType, Device, Result, Tensor};

use crate::data::{Batch, Targets};
use crate::layers::Arithmetic;
use crate::ops::{self, LossGradient, LossSettings};
use crate::precision::Format;

/// A batch on the device.
#[derive(Clone, Debug)]
pub struct DeviceBatch {
    /// N × C × H × W, f32.
    pub(super) inputs: Tensor,
    /// N labels, u32, or N × the values of a target, f32.
    pub(super) targets: Tensor,
}

impl DeviceBatch {
    /// Moves a batch of samples of this shape to the device.
    ///
    /// # Errors
    /// When the batch is not of that shape, or there is no memory for it.
    pub fn new(batch: Batch, [c, h, w]: [usize; 3], device: &Device) -> Result<Self> {
        let count = batch.inputs.len() / (c * h * w).max(1);
        let targets = match batch.targets {
            Targets::Labels(labels) => ops::from_host(labels, count, device)?,
            Targets::Values(values) => {
                let each = values.len() / count.max(1);
                ops::from_host(values, (count, each), device)?
            }
        };
        Ok(Self { inputs: ops::from_host(batch.inputs, (count, c, h, w), device)?, targets })
    }

    /// An equal batch with storage of its own.
    pub(super) fn copy(&self) -> Result<Self> {
        let targets = ops::copy(&self.targets)?;
        Ok(Self { inputs: ops::copy(&self.inputs)?, targets })
    }

    /// Cross-entropy of labels, the mean squared error of values.
    pub(super) fn loss(
        &self,
        outputs: &Tensor,
        settings: LossSettings,
        scale: &Tensor,
    ) -> Result<LossGradient> {
        if self.has_labels() {
            ops::cross_entropy(outputs, &self.targets, settings, scale)
        } else {
            ops::squared_error(outputs, &self.targets, settings.micro_batches, scale)
        }
    }

    /// The losses without a gradient, and how many outputs are correct, of labels.
    pub(super) fn test(&self, outputs: &Tensor) -> Result<(Tensor, Option<u64>)> {
        if self.has_labels() {
            let correct = ops::count_correct(outputs, &self.targets)?;
            Ok((ops::cross_entropy_loss(outputs, &self.targets)?, Some(correct)))
        } else {
            Ok((ops::squared_error_loss(outputs, &self.targets)?, None))
        }
    }

    fn has_labels(&self) -> bool {
        self.targets.dtype() == DType::U32
    }

    /// The inputs in the compute format.
    pub(super) fn input(&self, arithmetic: Arithmetic) -> Result<Tensor> {
        in_format(&self.inputs, arithmetic)
    }
}

/// An f32 tensor's values as they come out of rounding to a format, stored natively where that is possible; the tensor itself
/// where nothing is to be done.
pub(super) fn in_format(tensor: &Tensor, arithmetic: Arithmetic) -> Result<Tensor> {
    if arithmetic.wide && arithmetic.format != Format::F32 {
        let tensor = ops::copy(tensor)?;
        ops::round(&tensor, arithmetic.format)?;
        return Ok(tensor);
    }
    ops::cast(tensor, arithmetic.dtype())
}
