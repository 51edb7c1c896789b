//! A batch on the device.

use candle_core::{DType, Device, Error, Result, Tensor};

use crate::data::{Batch, Targets};
use crate::layers::{Arithmetic, Sequences};
use crate::ops::{self, LossGradient, LossSettings};
use crate::precision::Format;

/// A batch on the device.
#[derive(Clone, Debug)]
pub struct DeviceBatch {
    /// N × C × H × W, f32; of texts N × T token ids, u32.
    pub(super) inputs: Tensor,
    /// How many tokens each text has, N, u32; none of other data.
    pub(super) lengths: Option<Tensor>,
    /// N labels, u32, of next tokens N × T, or N × the values of a target, f32.
    pub(super) targets: Tensor,
}

impl DeviceBatch {
    /// Moves a batch of samples of this shape to the device.
    ///
    /// # Errors
    /// When the batch is not of that shape, or there is no memory for it.
    pub fn new(batch: Batch, [c, h, w]: [usize; 3], device: &Device) -> Result<Self> {
        let count = match &batch.texts {
            Some(texts) => texts.lengths.len(),
            None => batch.inputs.len() / (c * h * w).max(1),
        };
        let targets = match batch.targets {
            Targets::Labels(labels) => {
                let all = labels.len();
                ops::from_host(labels, all, device)?
            }
            Targets::NextTokens(_) => {
                return Err(
                    Error::Msg("a batch without the labels of its next tokens".to_owned()).bt()
                );
            }
            Targets::Values(values) => {
                let each = values.len() / count.max(1);
                ops::from_host(values, (count, each), device)?
            }
        };
        let (inputs, lengths) = match batch.texts {
            Some(texts) => {
                let longest = texts.ids.len() / count.max(1);
                let lengths = ops::from_host(texts.lengths, count, device)?;
                (ops::from_host(texts.ids, (count, longest), device)?, Some(lengths))
            }
            None => (ops::from_host(batch.inputs, (count, c, h, w), device)?, None),
        };
        Ok(Self { inputs, lengths, targets })
    }

    /// An equal batch with storage of its own.
    pub(super) fn copy(&self) -> Result<Self> {
        let lengths = self.lengths.as_ref().map(ops::copy).transpose()?;
        Ok(Self { inputs: ops::copy(&self.inputs)?, lengths, targets: ops::copy(&self.targets)? })
    }

    /// Takes over the values of a batch of the same shapes.
    pub(super) fn copy_from(&self, other: &Self) -> Result<()> {
        ops::copy_into(&self.inputs, &other.inputs)?;
        ops::copy_into(&self.targets, &other.targets)?;
        match (&self.lengths, &other.lengths) {
            (Some(own), Some(lengths)) => ops::copy_into(own, lengths),
            _ => Ok(()),
        }
    }

    /// What layers know of it beside its values.
    pub(super) fn sequences(&self) -> Sequences {
        Sequences { lengths: self.lengths.clone(), types: None }
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

    /// The inputs in the compute format; token ids as they are.
    pub(super) fn input(&self, arithmetic: Arithmetic) -> Result<Tensor> {
        if self.inputs.dtype() == DType::U32 {
            return Ok(self.inputs.clone());
        }
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
