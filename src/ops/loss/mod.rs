//! Losses, softmax cross-entropy and mean squared error: outputs of a model in any type, everything else in f32.

#[cfg(feature = "cuda")]
mod cuda;

use candle_core::{Device, Result, Tensor};

use super::element::{Element, by_dtype};
use super::host::{View, build, edit, expect_shape, first, view, zeroed};
use super::parallel::map_indices;

/// How the loss and its gradient are formed.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops::{self, LossSettings};
///
/// // Smoothed by 1/2, the targets of two classes are 3/4 and 1/4.
/// let settings = LossSettings { smoothing: 0.5, micro_batches: 1 };
/// let logits = Tensor::new(&[[0.0_f32, 0.0]], &Device::Cpu)?;
/// let labels = Tensor::new(&[0_u32], &Device::Cpu)?;
/// let scale = Tensor::new(&[1.0_f32], &Device::Cpu)?;
/// let loss = ops::cross_entropy(&logits, &labels, settings, &scale)?;
/// assert_eq!(ops::to_f32(&loss.gradient)?, [0.5 - 0.75, 0.5 - 0.25]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossSettings {
    /// ε: the target is 1 − ε + ε/C for the label and ε/C for the rest (Szegedy et al. 2016).
    pub smoothing: f32,
    /// How many micro-batches share a step: loss and gradient are divided by it, in f32.
    pub micro_batches: usize,
}

/// Losses and a gradient.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops::{self, LossGradient};
///
/// // Only the gradient is multiplied by the loss scale.
/// let (output, target) = (Tensor::new(&[[3.0_f32]], &Device::Cpu)?, Tensor::new(&[[1.0_f32]], &Device::Cpu)?);
/// let scale = Tensor::new(&[1024.0_f32], &Device::Cpu)?;
/// let LossGradient { losses, gradient } = ops::squared_error(&output, &target, 1, &scale)?;
/// assert_eq!((ops::to_f32(&losses)?, ops::to_f32(&gradient)?), (vec![4.0], vec![4.0 * 1024.0]));
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LossGradient {
    /// The loss of each row, N, f32: neither scaled nor divided.
    pub losses: Tensor,
    /// Of the mean loss with respect to the model's outputs, of their shape, times the loss scale.
    pub gradient: Tensor,
}

/// One row: the loss, and `probabilities` overwritten with the softmax.
fn row_loss(probabilities: &mut [f32], label: usize, smoothing: f32) -> f32 {
    let largest = probabilities.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mean =
        probabilities.iter().map(|logit| logit - largest).sum::<f32>() / probabilities.len() as f32;
    let at_label = probabilities[label] - largest;
    let mut total = 0.0;
    for value in probabilities.iter_mut() {
        *value = libm::expf(*value - largest);
        total += *value;
    }
    for value in probabilities.iter_mut() {
        *value /= total;
    }
    let log_total = libm::logf(total);
    let plain = log_total - at_label;
    // Where the labels are not smoothed an infinite logit elsewhere must not make 0 · ∞.
    if smoothing == 0.0 {
        plain
    } else {
        (1.0 - smoothing) * plain + smoothing * (log_total - mean)
    }
}

/// The loss of each row, and the gradient of their mean times `scale`, the loss scale: one f32. logits: N × C; labels: N,
/// u32, below C.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops::{self, LossSettings};
///
/// let settings = LossSettings { smoothing: 0.0, micro_batches: 1 };
/// let logits = Tensor::new(&[[0.0_f32, 0.0]], &Device::Cpu)?;
/// let labels = Tensor::new(&[1_u32], &Device::Cpu)?;
/// let scale = Tensor::new(&[1.0_f32], &Device::Cpu)?;
/// // Softmax less the label.
/// let loss = ops::cross_entropy(&logits, &labels, settings, &scale)?;
/// assert_eq!(ops::to_f32(&loss.gradient)?, [0.5, 0.5 - 1.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// When the tensors are not contiguous, not of these shapes and types, or a label is out of range.
pub fn cross_entropy(
    logits: &Tensor,
    labels: &Tensor,
    settings: LossSettings,
    scale: &Tensor,
) -> Result<LossGradient> {
    let (n, classes) = check_labels(logits, labels)?;
    expect_shape("the loss scale", scale, &[1])?;
    on_gpu!(logits => cuda::cross_entropy(logits, labels, settings, scale));
    let LossSettings { smoothing, micro_batches } = settings;
    let labels = labels_below(labels, classes)?;
    let factor = first::<f32>(scale)? / micro_batches as f32 / n as f32;
    by_dtype!(logits.dtype(), T => {
        let logits = view::<T>(logits)?;
        let mut losses = zeroed::<f32>(n)?;
        let gradient = build::<T>((n, classes), |gradient| {
            let mut row = vec![0.0; classes];
            let rows = gradient.blocks(classes).zip(logits.chunks(classes));
            for ((gradient, logits), (loss, label)) in rows.zip(losses.iter_mut().zip(&*labels)) {
                T::widen(logits, &mut row);
                *loss = row_loss(&mut row, *label as usize, smoothing);
                row[*label as usize] -= 1.0 - smoothing;
                for value in &mut row {
                    *value = (*value - smoothing / classes as f32) * factor;
                }
                T::narrow(&row, gradient);
            }
        })?;
        Ok(LossGradient { losses: Tensor::from_vec(losses, n, &Device::Cpu)?, gradient })
    })
}

/// The mean of the losses, over the number of micro-batches, into `loss`, one f32: written by a step's first micro-batch, and
/// added to by the others.
///
/// # Errors
/// When a tensor is not contiguous, not f32, or `loss` is not one value.
#[doc(hidden)] // for training and this crate's tests
pub fn mean_loss(
    losses: &Tensor,
    micro_batches: usize,
    is_first: bool,
    loss: &Tensor,
) -> Result<()> {
    let rows = losses.dims1()?;
    expect_shape("the mean of the losses", loss, &[1])?;
    on_gpu!(losses => cuda::mean_loss(losses, micro_batches, is_first, loss));
    let total = view::<f32>(losses)?.iter().fold(0.0, |total, loss| total + loss);
    let share = total / rows as f32 / micro_batches as f32;
    edit::<f32>(loss, |loss| loss[0] = if is_first { share } else { loss[0] + share })
}

/// The loss of each row, f32, without a gradient: for evaluation. Shapes as [`cross_entropy`].
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
///
/// // Two classes alike: ln 2, whichever is the label.
/// let logits = Tensor::new(&[[0.0_f32, 0.0]], &Device::Cpu)?;
/// let losses = ops::cross_entropy_loss(&logits, &Tensor::new(&[0_u32], &Device::Cpu)?)?;
/// assert!((ops::to_f32(&losses)?[0] - 2.0_f32.ln()).abs() < 1e-6);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`cross_entropy`].
pub fn cross_entropy_loss(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let (n, classes) = check_labels(logits, labels)?;
    on_gpu!(logits => cuda::cross_entropy_loss(logits, labels));
    let labels = labels_below(labels, classes)?;
    by_dtype!(logits.dtype(), T => {
        let logits = view::<T>(logits)?;
        let losses = map_indices(n, |i| {
            let mut row = vec![0.0; classes];
            T::widen(&logits[i * classes..(i + 1) * classes], &mut row);
            row_loss(&mut row, labels[i] as usize, 0.0)
        });
        Tensor::from_vec(losses, n, &Device::Cpu)
    })
}

/// The mean squared error of each row, and the gradient of their mean times `scale`, the loss scale: one f32. outputs: N × V;
/// targets: N × V, f32.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
///
/// let outputs = Tensor::new(&[[1.0_f32, 3.0]], &Device::Cpu)?;
/// let targets = Tensor::new(&[[0.0_f32, 0.0]], &Device::Cpu)?;
/// let scale = Tensor::new(&[1.0_f32], &Device::Cpu)?;
/// let loss = ops::squared_error(&outputs, &targets, 1, &scale)?;
/// assert_eq!(ops::to_f32(&loss.losses)?, [(1.0 + 9.0) / 2.0]);
/// assert_eq!(ops::to_f32(&loss.gradient)?, [1.0, 3.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// When the tensors are not contiguous, or not of these shapes and types.
pub fn squared_error(
    outputs: &Tensor,
    targets: &Tensor,
    micro_batches: usize,
    scale: &Tensor,
) -> Result<LossGradient> {
    let (n, each) = check_targets(outputs, targets)?;
    expect_shape("the loss scale", scale, &[1])?;
    on_gpu!(outputs => cuda::squared_error(outputs, targets, micro_batches, scale));
    let factor = first::<f32>(scale)? / micro_batches as f32 / n as f32;
    let share = 2.0 / each as f32;
    let targets = view::<f32>(targets)?;
    by_dtype!(outputs.dtype(), T => {
        let outputs = view::<T>(outputs)?;
        let mut losses = zeroed::<f32>(n)?;
        let gradient = build::<T>((n, each), |gradient| {
            let mut row = vec![0.0; each];
            let rows = gradient.blocks(each).zip(outputs.chunks(each));
            let expected = targets.chunks(each).zip(&mut losses);
            for ((gradient, outputs), (targets, loss)) in rows.zip(expected) {
                T::widen(outputs, &mut row);
                *loss = row_error(&mut row, targets);
                for value in &mut row {
                    *value = *value * share * factor;
                }
                T::narrow(&row, gradient);
            }
        })?;
        Ok(LossGradient { losses: Tensor::from_vec(losses, n, &Device::Cpu)?, gradient })
    })
}

/// The mean squared error of each row, f32, without a gradient: for evaluation. Shapes as [`squared_error`].
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
///
/// let outputs = Tensor::new(&[[1.0_f32, 3.0]], &Device::Cpu)?;
/// let targets = Tensor::new(&[[0.0_f32, 0.0]], &Device::Cpu)?;
/// assert_eq!(ops::to_f32(&ops::squared_error_loss(&outputs, &targets)?)?, [5.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`squared_error`].
pub fn squared_error_loss(outputs: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let (n, each) = check_targets(outputs, targets)?;
    on_gpu!(outputs => cuda::squared_error_loss(outputs, targets));
    let targets = view::<f32>(targets)?;
    by_dtype!(outputs.dtype(), T => {
        let outputs = view::<T>(outputs)?;
        let losses = map_indices(n, |i| {
            let (range, mut row) = (i * each..(i + 1) * each, vec![0.0; each]);
            T::widen(&outputs[range.clone()], &mut row);
            row_error(&mut row, &targets[range])
        });
        Tensor::from_vec(losses, n, &Device::Cpu)
    })
}

/// One row: the mean of its squared differences, and `row` overwritten with the differences.
fn row_error(row: &mut [f32], targets: &[f32]) -> f32 {
    let mut total = 0.0;
    for (value, target) in row.iter_mut().zip(targets) {
        *value -= target;
        total += *value * *value;
    }
    total / row.len() as f32
}

/// N and V, if there are as many targets as outputs.
fn check_targets(outputs: &Tensor, targets: &Tensor) -> Result<(usize, usize)> {
    let (n, each) = outputs.dims2()?;
    expect_shape("the targets", targets, &[n, each])?;
    Ok((n, each))
}

/// How many rows have their largest logit at the label. A row with a NaN is not correct.
///
/// # Errors
/// As [`cross_entropy`].
#[doc(hidden)] // for training and this crate's tests
pub fn count_correct(logits: &Tensor, labels: &Tensor) -> Result<u64> {
    let (_, classes) = check_labels(logits, labels)?;
    on_gpu!(logits => cuda::count_correct(logits, labels));
    let labels = labels_below(labels, classes)?;
    by_dtype!(logits.dtype(), T => {
        let logits = view::<T>(logits)?;
        let mut row = vec![0.0; classes];
        let mut correct = 0;
        for (logits, label) in logits.chunks(classes).zip(&*labels) {
            T::widen(logits, &mut row);
            let target = row[*label as usize];
            // On a tie the first class wins, as argmax does; a comparison with NaN is false.
            let wins = row.iter().enumerate().all(|(class, value)| {
                if class < *label as usize { *value < target } else { *value <= target }
            });
            correct += u64::from(wins);
        }
        Ok(correct)
    })
}

/// N and C, if there is one label a row.
fn check_labels(logits: &Tensor, labels: &Tensor) -> Result<(usize, usize)> {
    let (n, classes) = logits.dims2()?;
    expect_shape("the labels", labels, &[n])?;
    Ok((n, classes))
}

/// The labels, if every one is below C. A GPU does not look: what the data sets hold was checked as they were read.
fn labels_below(labels: &Tensor, classes: usize) -> Result<View<'_, u32>> {
    let labels = view::<u32>(labels)?;
    match labels.iter().find(|label| **label as usize >= classes) {
        None => Ok(labels),
        Some(label) => {
            let text = format!("label {label} is not below {classes}, the number of classes");
            Err(candle_core::Error::Msg(text).bt())
        }
    }
}
