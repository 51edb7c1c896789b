//! What is judged: the metrics, how far each may move, and the values that they have.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::formatting;
use crate::units::{Bytes, Ratio, Seconds};

/// What a check looks at, in the order of its reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// 1 where the run of a seed diverged, 0 where it did all its steps.
    Diverged,
    /// Test accuracy at the end of a seed's run.
    TestAccuracy,
    /// Test mean squared error at the end of a seed's run of a regression.
    TestSquaredError,
    /// Test perplexity at the end of a seed's run of a language model.
    TestPerplexity,
    /// Training loss of the last step of a seed's run.
    FinalLoss,
    /// SHA-256 of the final weights of a seed's run.
    WeightsDigest,
    /// Steps of a seed's run whose update was skipped.
    SkippedSteps,
    /// Weights that overflowed on the census steps, over all seeds.
    OverflowWeights,
    /// Activations that overflowed.
    OverflowActivations,
    /// Gradients with respect to activations that overflowed.
    OverflowActivationGradients,
    /// Gradients with respect to weights that overflowed.
    OverflowWeightGradients,
    /// Weights that underflowed on the census steps, over all seeds.
    UnderflowWeights,
    /// Activations that underflowed.
    UnderflowActivations,
    /// Gradients with respect to activations that underflowed.
    UnderflowActivationGradients,
    /// Gradients with respect to weights that underflowed.
    UnderflowWeightGradients,
    /// Updates that changed nothing, over all seeds.
    LostUpdates,
    /// Peak of the memory of training.
    TrainPeakBytes,
    /// Peak of the memory of inference.
    InferencePeakBytes,
    /// Share of positions at which a language model that is served finds the same token the most probable as FP32.
    TokenAgreement,
    /// How far its distributions of the next token are from those of FP32, in nats.
    TokenDivergence,
    /// Peak of the memory in which it serves one sequence alone.
    ServingAlonePeakBytes,
    /// Peak of the memory in which it serves a batch.
    ServingBatchPeakBytes,
    /// Time of a training step. Samples a second follow from it.
    StepSeconds,
    /// Time of a training step ÷ that of the experiment's baseline variant in the same block.
    StepRatio,
    /// Time of the forward pass in a training step.
    ForwardSeconds,
    /// Time of the backward pass.
    BackwardSeconds,
    /// Time of unscaling the gradients and looking for infinities.
    UnscaleSeconds,
    /// Time of the update.
    UpdateSeconds,
    /// Time of a batch of inference.
    InferenceSeconds,
    /// Time of a batch of inference ÷ that of the experiment's baseline variant in the same block.
    InferenceRatio,
    /// Time in which the prompt of one sequence alone passes through a language model that is served. Tokens a second follow from it,
    /// as from the other times of serving.
    ServingAlonePrefillSeconds,
    /// Time of a pass that gives one sequence alone its next token.
    ServingAloneDecodeSeconds,
    /// Time in which the prompts of a batch pass.
    ServingBatchPrefillSeconds,
    /// Time of a pass that gives each sequence of a batch its next token.
    ServingBatchDecodeSeconds,
    /// Time of a prefill alone ÷ that of the experiment's baseline variant in the same block.
    ServingAlonePrefillRatio,
    /// The same of decode alone.
    ServingAloneDecodeRatio,
    /// The same of a batch's prefill.
    ServingBatchPrefillRatio,
    /// The same of a batch's decode.
    ServingBatchDecodeRatio,
    /// Energy of a training step: one value a timing phase, so it is reported and not judged.
    StepJoules,
}

/// How a metric is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It repeats to the bit, so any change beyond the margin counts, in either direction.
    Exact,
    /// It is measured, so a change counts that lies beyond the margin and beyond chance.
    Noisy,
}

/// Which direction is an improvement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Less.
    Lower,
    /// More.
    Higher,
    /// There is none: it is the same or not.
    Neither,
}

/// How far bytes may move, as a share of the baseline's: what the containers of another version of the standard library take.
/// A copy of weights is far more.
pub const BYTES_MARGIN: f64 = 0.001;

/// How far times may move, as a share of the baseline's, before a change of them counts.
pub const TIME_MARGIN: f64 = 0.10;

/// A metric's name and how it is judged.
struct Row(Metric, &'static str, Kind, Better, f64);

/// One row a metric, in their order.
const TABLE: [Row; 39] = {
    use Better::{Higher, Lower, Neither};
    use Kind::{Exact, Noisy};
    use Metric as M;
    [
        Row(M::Diverged, "diverged", Exact, Lower, 0.0),
        Row(M::TestAccuracy, "test_accuracy", Exact, Higher, 0.0),
        Row(M::TestSquaredError, "test_squared_error", Exact, Lower, 0.0),
        Row(M::TestPerplexity, "test_perplexity", Exact, Lower, 0.0),
        Row(M::FinalLoss, "final_loss", Exact, Lower, 0.0),
        Row(M::WeightsDigest, "weights_digest", Exact, Neither, 0.0),
        Row(M::SkippedSteps, "skipped_steps", Exact, Lower, 0.0),
        Row(M::OverflowWeights, "overflow_weights", Exact, Lower, 0.0),
        Row(M::OverflowActivations, "overflow_activations", Exact, Lower, 0.0),
        Row(M::OverflowActivationGradients, "overflow_activation_gradients", Exact, Lower, 0.0),
        Row(M::OverflowWeightGradients, "overflow_weight_gradients", Exact, Lower, 0.0),
        Row(M::UnderflowWeights, "underflow_weights", Exact, Lower, 0.0),
        Row(M::UnderflowActivations, "underflow_activations", Exact, Lower, 0.0),
        Row(M::UnderflowActivationGradients, "underflow_activation_gradients", Exact, Lower, 0.0),
        Row(M::UnderflowWeightGradients, "underflow_weight_gradients", Exact, Lower, 0.0),
        Row(M::LostUpdates, "lost_updates", Exact, Lower, 0.0),
        Row(M::TrainPeakBytes, "train_peak_bytes", Exact, Lower, BYTES_MARGIN),
        Row(M::InferencePeakBytes, "inference_peak_bytes", Exact, Lower, BYTES_MARGIN),
        Row(M::TokenAgreement, "token_agreement", Exact, Higher, 0.0),
        Row(M::TokenDivergence, "token_divergence_nats", Exact, Lower, 0.0),
        Row(M::ServingAlonePeakBytes, "serving_alone_peak_bytes", Exact, Lower, BYTES_MARGIN),
        Row(M::ServingBatchPeakBytes, "serving_batch_peak_bytes", Exact, Lower, BYTES_MARGIN),
        Row(M::StepSeconds, "step_seconds", Noisy, Lower, TIME_MARGIN),
        Row(M::StepRatio, "step_ratio", Noisy, Lower, TIME_MARGIN),
        Row(M::ForwardSeconds, "forward_seconds", Noisy, Lower, TIME_MARGIN),
        Row(M::BackwardSeconds, "backward_seconds", Noisy, Lower, TIME_MARGIN),
        Row(M::UnscaleSeconds, "unscale_seconds", Noisy, Lower, TIME_MARGIN),
        Row(M::UpdateSeconds, "update_seconds", Noisy, Lower, TIME_MARGIN),
        Row(M::InferenceSeconds, "inference_seconds", Noisy, Lower, TIME_MARGIN),
        Row(M::InferenceRatio, "inference_ratio", Noisy, Lower, TIME_MARGIN),
        Row(
            M::ServingAlonePrefillSeconds,
            "serving_alone_prefill_seconds",
            Noisy,
            Lower,
            TIME_MARGIN,
        ),
        Row(
            M::ServingAloneDecodeSeconds,
            "serving_alone_decode_seconds",
            Noisy,
            Lower,
            TIME_MARGIN,
        ),
        Row(
            M::ServingBatchPrefillSeconds,
            "serving_batch_prefill_seconds",
            Noisy,
            Lower,
            TIME_MARGIN,
        ),
        Row(
            M::ServingBatchDecodeSeconds,
            "serving_batch_decode_seconds",
            Noisy,
            Lower,
            TIME_MARGIN,
        ),
        Row(M::ServingAlonePrefillRatio, "serving_alone_prefill_ratio", Noisy, Lower, TIME_MARGIN),
        Row(M::ServingAloneDecodeRatio, "serving_alone_decode_ratio", Noisy, Lower, TIME_MARGIN),
        Row(M::ServingBatchPrefillRatio, "serving_batch_prefill_ratio", Noisy, Lower, TIME_MARGIN),
        Row(M::ServingBatchDecodeRatio, "serving_batch_decode_ratio", Noisy, Lower, TIME_MARGIN),
        Row(M::StepJoules, "step_joules", Noisy, Lower, TIME_MARGIN),
    ]
};

impl Metric {
    /// All of them, in their order.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.0)
    }

    fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// The name in files and on the command line, such as `test_accuracy`.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// How it is compared.
    pub fn kind(self) -> Kind {
        self.row().2
    }

    /// Which direction is an improvement.
    pub fn better(self) -> Better {
        self.row().3
    }

    /// How far it may move, as a share of the baseline's value.
    pub fn margin(self) -> f64 {
        self.row().4
    }

    /// Whether it is an absolute time, which moves with the machine's speed.
    pub fn moves_with_machine(self) -> bool {
        matches!(
            self,
            Self::StepSeconds
                | Self::ForwardSeconds
                | Self::BackwardSeconds
                | Self::UnscaleSeconds
                | Self::UpdateSeconds
                | Self::InferenceSeconds
                | Self::ServingAlonePrefillSeconds
                | Self::ServingAloneDecodeSeconds
                | Self::ServingBatchPrefillSeconds
                | Self::ServingBatchDecodeSeconds
        )
    }

    /// Of an absolute time, the ratio to the baseline variant's that is judged beside it.
    pub fn ratio(self) -> Option<Self> {
        Some(match self {
            Self::StepSeconds => Self::StepRatio,
            Self::InferenceSeconds => Self::InferenceRatio,
            Self::ServingAlonePrefillSeconds => Self::ServingAlonePrefillRatio,
            Self::ServingAloneDecodeSeconds => Self::ServingAloneDecodeRatio,
            Self::ServingBatchPrefillSeconds => Self::ServingBatchPrefillRatio,
            Self::ServingBatchDecodeSeconds => Self::ServingBatchDecodeRatio,
            _ => return None,
        })
    }

    /// The times of prefill and decode of so many sequences served together.
    pub fn of_serving(batch: usize) -> [Self; 2] {
        if batch == 1 {
            [Self::ServingAlonePrefillSeconds, Self::ServingAloneDecodeSeconds]
        } else {
            [Self::ServingBatchPrefillSeconds, Self::ServingBatchDecodeSeconds]
        }
    }

    /// Whether it is a ratio to the baseline variant.
    fn is_ratio(self) -> bool {
        Self::all().any(|metric| metric.ratio() == Some(self))
    }

    /// Whether it is bytes of memory.
    fn is_bytes(self) -> bool {
        matches!(
            self,
            Self::TrainPeakBytes
                | Self::InferencePeakBytes
                | Self::ServingAlonePeakBytes
                | Self::ServingBatchPeakBytes
        )
    }

    /// Whether it is one of a seed's run, and not of all seeds together.
    pub fn is_per_seed(self) -> bool {
        self <= Self::SkippedSteps
    }

    /// Whether it follows from the values that training went through, rather than from the shapes of tensors.
    pub fn follows_from_values(self) -> bool {
        self.kind() == Kind::Exact && !self.is_bytes()
    }

    /// Its unit, in the words of OpenMetrics where that has one; empty for counts, shares and ratios.
    pub fn unit(self) -> &'static str {
        match self {
            _ if self.is_bytes() => "bytes",
            _ if self.moves_with_machine() => "seconds",
            Self::StepJoules => "joules",
            _ if self.is_ratio() => "ratio",
            Self::TokenDivergence => "nats",
            _ => "",
        }
    }

    /// A value of it as a reader sees it.
    pub fn text(self, value: &Measured) -> String {
        match (self, value) {
            (_, Measured::Count(bytes)) if self.is_bytes() => {
                format!("{} ({} bytes)", Bytes(*bytes), formatting::count(*bytes))
            }
            (_, Measured::Number(value)) if self.moves_with_machine() => {
                Seconds(*value).to_string()
            }
            (_, Measured::Number(value)) if self.is_ratio() => format!("{value:.3}×"),
            (Self::StepJoules, Measured::Number(value)) => {
                format!("{} J", formatting::four_digits(*value))
            }
            (Self::WeightsDigest, Measured::Text(digest)) => {
                format!("{}…", digest.get(..12).unwrap_or(digest))
            }
            (_, value) => value.to_string(),
        }
    }
}

impl FromStr for Metric {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Self::all().find(|metric| metric.name() == name).ok_or(())
    }
}

/// A metric of a variant and, where it is one of a run, of a seed. Text form: `bf16-mixed/lost_updates`,
/// `bf16-mixed/test_accuracy/seed-0`. A variant's name has no `/` in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The variant's name.
    pub variant: String,
    /// The metric.
    pub metric: Metric,
    /// The seed; none where all seeds are taken together.
    pub seed: Option<u64>,
}

impl Key {
    /// That of all seeds.
    pub fn of(variant: &str, metric: Metric) -> Self {
        Self { variant: variant.to_owned(), metric, seed: None }
    }

    /// That of one seed.
    pub fn of_seed(variant: &str, metric: Metric, seed: u64) -> Self {
        Self { variant: variant.to_owned(), metric, seed: Some(seed) }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { variant, metric, seed } = self;
        let seed = seed.map(|seed| format!("/seed-{seed}")).unwrap_or_default();
        f.pad(&format!("{variant}/{}{seed}", metric.name()))
    }
}

impl FromStr for Key {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let parts: Vec<&str> = text.split('/').collect();
        let (variant, metric, seed) = match parts.as_slice() {
            [variant, metric] => (variant, metric, None),
            [variant, metric, seed] => {
                let digits = seed.strip_prefix("seed-").ok_or(())?;
                (variant, metric, Some(digits.parse().map_err(|_| ())?))
            }
            _ => return Err(()),
        };
        let metric: Metric = metric.parse()?;
        if metric.is_per_seed() != seed.is_some() || variant.is_empty() {
            return Err(());
        }
        Ok(Self { variant: (*variant).to_owned(), metric, seed })
    }
}

/// A metric's value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Measured {
    /// A count, or bytes.
    Count(u64),
    /// A finite number.
    Number(f64),
    /// A text that is the same or not.
    Text(String),
    /// There was a value, and it was not finite: `null`.
    NotFinite,
}

impl Measured {
    /// A number, if it is finite.
    pub fn number(value: f64) -> Self {
        if value.is_finite() { Self::Number(value) } else { Self::NotFinite }
    }

    /// Its value, where it is a number.
    pub fn value(&self) -> Option<f64> {
        match self {
            Self::Count(count) => Some(*count as f64),
            Self::Number(number) => Some(*number),
            Self::Text(_) | Self::NotFinite => None,
        }
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => f.pad(&formatting::count(*count)),
            Self::Number(number) => f.pad(&number.to_string()),
            Self::Text(text) => f.pad(text),
            Self::NotFinite => f.pad("not a finite number"),
        }
    }
}

impl From<Ratio> for Measured {
    fn from(ratio: Ratio) -> Self {
        Self::number(ratio.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_for_each_metric_in_their_order() {
        for (at, row) in TABLE.iter().enumerate() {
            assert_eq!(row.0 as usize, at, "{}", row.1);
            assert_eq!(row.1.parse(), Ok(row.0));
        }
        assert_eq!(Metric::StepJoules as usize + 1, TABLE.len());
    }

    #[test]
    fn a_key_is_read_as_it_is_written() {
        for text in ["fp32/lost_updates", "a-b/test_accuracy/seed-12", "x/step_ratio"] {
            assert_eq!(text.parse::<Key>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "fp32",
            "fp32/",
            "/lost_updates",
            "fp32/unknown",
            "fp32/lost_updates/seed-1",
            "fp32/test_accuracy",
            "fp32/test_accuracy/1",
            "fp32/test_accuracy/seed-",
            "fp32/test_accuracy/seed-1/x",
        ] {
            assert_eq!(text.parse::<Key>(), Err(()), "{text}");
        }
    }

    #[test]
    fn a_value_is_json_and_is_read_as_what_it_was() {
        for (value, text) in [
            (Measured::Count(12), "12"),
            (Measured::number(0.5), "0.5"),
            (Measured::number(2.0), "2.0"),
            (Measured::number(f64::NAN), "null"),
            (Measured::Text("ab".to_owned()), "\"ab\""),
        ] {
            assert_eq!(serde_json::to_string(&value).unwrap(), text);
            assert_eq!(serde_json::from_str::<Measured>(text).unwrap(), value);
        }
    }
}
