//! Softmax cross-entropy: logits in any type, everything else in f32.

use candle_core::{Result, Tensor};

use super::element::{Element, by_dtype};
use super::host::{build, view};
use super::parallel::map_indices;

/// How the loss and its gradient are formed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossSettings {
    /// ε: the target is 1 − ε + ε/C for the label and ε/C for the rest (Szegedy et al. 2016).
    pub smoothing: f32,
    /// Multiplies the gradient, in f32: the loss scale, over the number of micro-batches.
    pub scale: f32,
}

/// A loss and its gradient.
#[derive(Clone, Debug)]
pub struct LossGradient {
    /// Mean over the batch, not scaled.
    pub loss: f32,
    /// With respect to the logits, N × C, times [`LossSettings::scale`].
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
        *value = (*value - largest).exp();
        total += *value;
    }
    for value in probabilities.iter_mut() {
        *value /= total;
    }
    let log_total = total.ln();
    let plain = log_total - at_label;
    // Where the labels are not smoothed an infinite logit elsewhere must not make 0 · ∞.
    if smoothing == 0.0 {
        plain
    } else {
        (1.0 - smoothing) * plain + smoothing * (log_total - mean)
    }
}

/// Mean loss over the batch and its gradient. logits: N × C; labels: N, below C.
///
/// # Errors
/// When the tensor is not a contiguous CPU matrix of f32, f16 or bf16, or a label is out of range.
pub fn cross_entropy(
    logits: &Tensor,
    labels: &[u32],
    settings: LossSettings,
) -> Result<LossGradient> {
    let (n, classes) = check_labels(logits, labels)?;
    let LossSettings { smoothing, scale } = settings;
    let factor = scale / n as f32;
    by_dtype!(logits.dtype(), T => {
        let logits = view::<T>(logits)?;
        let mut loss = 0.0_f32;
        let gradient = build::<T>((n, classes), |gradient| {
            let mut row = vec![0.0; classes];
            let rows = gradient.chunks_mut(classes).zip(logits.chunks(classes)).zip(labels);
            for ((gradient, logits), label) in rows {
                T::widen(logits, &mut row);
                loss += row_loss(&mut row, *label as usize, smoothing);
                row[*label as usize] -= 1.0 - smoothing;
                for value in &mut row {
                    *value = (*value - smoothing / classes as f32) * factor;
                }
                T::narrow(&row, gradient);
            }
        })?;
        Ok(LossGradient { loss: loss / n as f32, gradient })
    })
}

/// The loss of each row, without a gradient: for evaluation. Shapes as [`cross_entropy`].
///
/// # Errors
/// As [`cross_entropy`].
pub fn cross_entropy_loss(logits: &Tensor, labels: &[u32]) -> Result<Vec<f32>> {
    let (n, classes) = check_labels(logits, labels)?;
    by_dtype!(logits.dtype(), T => {
        let logits = view::<T>(logits)?;
        Ok(map_indices(n, |i| {
            let mut row = vec![0.0; classes];
            T::widen(&logits[i * classes..(i + 1) * classes], &mut row);
            row_loss(&mut row, labels[i] as usize, 0.0)
        }))
    })
}

/// How many rows have their largest logit at the label. A row with a NaN is not correct.
///
/// # Errors
/// As [`cross_entropy`].
pub fn count_correct(logits: &Tensor, labels: &[u32]) -> Result<u64> {
    let (_, classes) = check_labels(logits, labels)?;
    by_dtype!(logits.dtype(), T => {
        let logits = view::<T>(logits)?;
        let mut row = vec![0.0; classes];
        let mut correct = 0;
        for (logits, label) in logits.chunks(classes).zip(labels) {
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

/// N and C, if every label is below C and there is one a row.
fn check_labels(logits: &Tensor, labels: &[u32]) -> Result<(usize, usize)> {
    let (n, classes) = logits.dims2()?;
    if labels.len() != n || labels.iter().any(|label| *label as usize >= classes) {
        let text = format!("{n} labels below {classes} expected, one a row");
        return Err(candle_core::Error::Msg(text).bt());
    }
    Ok((n, classes))
}
