//! One pass over a model: its arithmetic, the weights it reads, the tape, the gradients it collects, and the census.

use candle_core::{DType, Device, Error, Result, Tensor};

use super::{BatchStatistics, KeyValueCache, RunningStatistics};
use crate::numerics::{Census, Role};
use crate::ops::{self, BatchNormSaved, Operands, RandomStream, Then};
use crate::precision::Format;

/// The format of operands and results, and how they are held.
///
/// ```
/// use candle_core::DType;
/// use mantissa::layers::Arithmetic;
/// use mantissa::precision::Format;
///
/// assert_eq!(Arithmetic::of(Format::F16).dtype(), DType::F16);
/// // Emulated: held in f32.
/// let emulated = Arithmetic::of(Format::FP8_E4M3);
/// assert!(emulated.wide && emulated.dtype() == DType::F32);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arithmetic {
    /// The compute format.
    pub format: Format,
    /// Wide: tensors in f32, each result rounded to the format. Native otherwise: tensors stored in the format.
    pub wide: bool,
}

impl Arithmetic {
    /// Native where the format has storage of its own, wide where it is emulated.
    pub fn of(format: Format) -> Self {
        Self { format, wide: !format.is_native() }
    }

    /// As [`Arithmetic::of`], but for TF32 on a GPU, which multiplies it natively: tensors are in f32 and are not rounded, only
    /// the operands of products are, inside the tensor cores.
    pub fn on(format: Format, device: &Device) -> Self {
        Self { format, wide: !format.has_arithmetic(device.is_cuda()) }
    }

    /// The format that tensors are stored in.
    pub fn storage(self) -> Format {
        match self.format {
            Format::F16 | Format::BF16 if !self.wide => self.format,
            _ => Format::F32,
        }
    }

    /// The storage type of tensors.
    pub fn dtype(self) -> DType {
        match self.storage() {
            Format::F16 => DType::F16,
            Format::BF16 => DType::BF16,
            _ => DType::F32,
        }
    }
}

/// What a pass is for.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::layers::{Arithmetic, Mode, Pass};
/// use mantissa::precision::Format;
///
/// let training = Mode::Training { seed: 0, pass: Tensor::new(&[0_u32], &Device::Cpu)? };
/// let arithmetic = Arithmetic::of(Format::F32);
/// assert!(Pass::new(arithmetic, training, &[], &[]).is_training());
/// assert!(!Pass::new(arithmetic, Mode::Inference, &[], &[]).is_training());
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub enum Mode {
    /// Forward and backward: keeps a tape, drops, uses the batch's statistics.
    Training {
        /// The run's seed, for dropout.
        seed: u64,
        /// Number of the forward pass in the run, for dropout: one u32 on the tensors' device.
        pass: Tensor,
    },
    /// Forward only: no tape, no dropout, running statistics.
    Inference,
}

/// What a layer keeps from forward for backward.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::layers::{Arithmetic, Mode, Pass, Saved};
/// use mantissa::precision::Format;
///
/// let mode = Mode::Training { seed: 0, pass: Tensor::new(&[0_u32], &Device::Cpu)? };
/// let mut pass = Pass::new(Arithmetic::of(Format::F32), mode, &[], &[]);
/// pass.save(Saved::Shape([8, 3, 32, 32]));
/// pass.save(Saved::Positions(16));
/// // What was saved last comes back first.
/// assert_eq!(pass.take_positions()?, 16);
/// assert_eq!(pass.take_shape()?, [8, 3, 32, 32]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug)]
pub enum Saved {
    /// A tensor: an argument or a result.
    Tensor(Tensor),
    /// The argument and statistics of a batch norm.
    BatchNorm(Tensor, BatchNormSaved),
    /// A shape of four dimensions.
    Shape([usize; 4]),
    /// The number of positions of a batch of sequences.
    Positions(usize),
}

/// What belongs to a batch of sequences beside its token ids: tensors of u32 on the same device.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::layers::{Arithmetic, Layer, Mode, Pass, PoolSequence, Registry, SequencePool, Sequences};
/// use mantissa::precision::Format;
///
/// // The last position of the only sequence is behind its end.
/// let lengths = Some(Tensor::new(&[2_u32], &Device::Cpu)?);
/// let mut pass = Pass::new(Arithmetic::of(Format::F32), Mode::Inference, &[], &[])
///     .with_sequences(Sequences { lengths, types: None });
/// let layer = PoolSequence::new(&mut Registry::default(), "pool", SequencePool::Mean);
/// let y = layer.forward(Tensor::new(&[[[1.0_f32], [3.0], [100.0]]], &Device::Cpu)?, &mut pass)?;
/// assert_eq!(y.to_vec2::<f32>()?, [[2.0]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Sequences {
    /// How many positions of each sequence are there, N; all where there are none.
    pub lengths: Option<Tensor>,
    /// The type of each token, N × T; 0 each where there are none.
    pub types: Option<Tensor>,
}

/// What a pass of forward and backward leaves behind.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::layers::{Arithmetic, Finished, Layer, Linear, Mode, Pass, Registry};
/// use mantissa::precision::Format;
///
/// let layer = Linear::new(&mut Registry::default(), "output", (2, 1), true);
/// let weights = [Tensor::new(&[[3.0_f32, 4.0]], &Device::Cpu)?, Tensor::new(&[0.5_f32], &Device::Cpu)?];
/// let mode = Mode::Training { seed: 0, pass: Tensor::new(&[0_u32], &Device::Cpu)? };
/// let mut pass = Pass::new(Arithmetic::of(Format::F32), mode, &weights, &[]);
/// layer.forward(Tensor::new(&[[1.0_f32, 2.0]], &Device::Cpu)?, &mut pass)?;
/// layer.backward(Tensor::new(&[[10.0_f32]], &Device::Cpu)?, &mut pass)?;
/// let Finished { gradients, .. } = pass.finish()?;
/// assert_eq!(gradients[0].to_vec2::<f32>()?, [[10.0, 20.0]]);
/// assert_eq!(gradients[1].to_vec1::<f32>()?, [10.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Finished {
    /// The gradients, one per parameter.
    pub gradients: Vec<Tensor>,
    /// The statistics of the batch, in the order of the layers.
    pub statistics: Vec<BatchStatistics>,
}

/// Whether the pass looks for results that are not finite.
enum Watch {
    Off,
    On,
    /// The first layer with one.
    Found(String),
}

/// One pass over a model.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::layers::{Activate, Arithmetic, Layer, Mode, Pass, Registry};
/// use mantissa::precision::Format;
/// use mantissa::spec::Activation;
///
/// let layer = Activate::new(&mut Registry::default(), "tanh", Activation::Tanh);
/// let mode = Mode::Training { seed: 0, pass: Tensor::new(&[0_u32], &Device::Cpu)? };
/// let mut pass = Pass::new(Arithmetic::of(Format::F32), mode, &[], &[]);
/// let y = layer.forward(Tensor::new(&[0.0_f32], &Device::Cpu)?, &mut pass)?;
/// assert_eq!(y.to_vec1::<f32>()?, [0.0]);
/// // The derivative of tanh at 0 is 1.
/// let dx = layer.backward(Tensor::new(&[5.0_f32], &Device::Cpu)?, &mut pass)?;
/// assert_eq!(dx.map(|dx| dx.to_vec1::<f32>()).transpose()?, Some(vec![5.0]));
/// # Ok::<(), candle_core::Error>(())
/// ```
pub struct Pass<'a> {
    arithmetic: Arithmetic,
    mode: Mode,
    weights: &'a [Tensor],
    statistics: &'a [RunningStatistics],
    sequences: Sequences,
    cache: Option<&'a KeyValueCache>,
    census: Option<&'a mut Census>,
    tape: Vec<Saved>,
    gradients: Vec<Option<Tensor>>,
    batch_statistics: Vec<BatchStatistics>,
    watch: Watch,
}

impl<'a> Pass<'a> {
    /// A pass that reads `weights`, one per parameter, in the arithmetic's storage type.
    pub fn new(
        arithmetic: Arithmetic,
        mode: Mode,
        weights: &'a [Tensor],
        statistics: &'a [RunningStatistics],
    ) -> Self {
        let gradients = vec![None; weights.len()];
        let (tape, batch_statistics) = (Vec::new(), Vec::new());
        let (census, watch, sequences) = (None, Watch::Off, Sequences::default());
        let cache = None;
        Self {
            arithmetic,
            mode,
            weights,
            statistics,
            sequences,
            cache,
            census,
            tape,
            gradients,
            batch_statistics,
            watch,
        }
    }

    /// Counts what rounding does, in a wide pass.
    #[must_use]
    pub fn with_census(mut self, census: Option<&'a mut Census>) -> Self {
        self.census = census;
        self
    }

    /// Looks for the first layer whose result is not finite.
    #[must_use]
    pub fn watching(mut self) -> Self {
        self.watch = Watch::On;
        self
    }

    /// The first layer whose result was not finite, if the pass was watching.
    pub fn first_non_finite(&self) -> Option<&str> {
        if let Watch::Found(layer) = &self.watch { Some(layer) } else { None }
    }

    /// How this pass computes.
    pub fn arithmetic(&self) -> Arithmetic {
        self.arithmetic
    }

    /// With what belongs to the batch beside its values.
    #[must_use]
    pub fn with_sequences(mut self, sequences: Sequences) -> Self {
        self.sequences = sequences;
        self
    }

    /// How many positions of each sequence of the batch are there, N; all where there are none.
    pub fn lengths(&self) -> Option<&Tensor> {
        self.sequences.lengths.as_ref()
    }

    /// The type of each token of the batch, N × T, if it has any.
    pub fn token_types(&self) -> Option<&Tensor> {
        self.sequences.types.as_ref()
    }

    /// Over the positions behind those of a cache, which takes in theirs: of the last one alone there is a result. Forward only. When the
    /// pass is over, [`KeyValueCache::advance`] must be called.
    #[must_use]
    pub fn with_cache(mut self, cache: &'a KeyValueCache) -> Self {
        self.cache = Some(cache);
        self
    }

    /// The keys and values of earlier positions, where they are kept.
    pub fn cache(&self) -> Option<&'a KeyValueCache> {
        self.cache
    }

    /// The first position of the batch's sequences: 0 without a cache.
    pub fn first_position(&self) -> usize {
        self.cache.map_or(0, KeyValueCache::len)
    }

    /// Whether a backward pass will follow.
    pub fn is_training(&self) -> bool {
        matches!(self.mode, Mode::Training { .. })
    }

    /// How products treat f32 operands.
    pub fn operands(&self) -> Operands {
        match self.arithmetic {
            Arithmetic { format: Format::TF32, wide: false } => Operands::Tf32,
            _ => Operands::Exact,
        }
    }

    /// What an operation does in the same pass over memory where a `ReLU` follows it: that, unless its result is rounded, and
    /// counted, before.
    pub fn then_relu(&self, relu: bool) -> Then {
        if relu && !self.arithmetic.wide { Then::Relu } else { Then::Nothing }
    }

    /// The `ReLU` that follows an operation, where that has not done it.
    ///
    /// # Errors
    /// When the tensor is not the engine's own.
    pub fn relu_after(&self, relu: bool, done: Then, y: Tensor) -> Result<Tensor> {
        if relu && done == Then::Nothing { ops::relu(&y) } else { Ok(y) }
    }

    /// [`Pass::relu_after`], whose result is kept for [`Pass::before_relu`].
    ///
    /// # Errors
    /// As there.
    pub fn save_relu(&mut self, relu: bool, done: Then, y: Tensor) -> Result<Tensor> {
        let y = self.relu_after(relu, done, y)?;
        if relu {
            self.save(Saved::Tensor(y.clone()));
        }
        Ok(y)
    }

    /// The gradient before the `ReLU` that follows an operation, if one does.
    ///
    /// # Errors
    /// When its result was not kept.
    pub fn before_relu(&mut self, relu: bool, dy: Tensor) -> Result<Tensor> {
        if relu { ops::relu_backward(&dy, &self.take_tensor()?) } else { Ok(dy) }
    }

    /// Whether this pass counts.
    pub fn counts(&self) -> bool {
        self.census.is_some()
    }

    /// Counts the values of a tensor as they came out of rounding, where this pass counts: what a value was before is not known.
    ///
    /// # Errors
    /// When the tensor cannot be read.
    pub fn observe(&mut self, layer: &str, role: Role, tensor: &Tensor) -> Result<()> {
        if let Some(census) = &mut self.census {
            let values = ops::cast(&tensor.detach().contiguous()?, DType::F32)?;
            census.add_rounded(layer, role, &ops::observe(&values)?);
        }
        Ok(())
    }

    /// A parameter's value in the compute format.
    pub fn weight(&self, parameter: usize) -> Tensor {
        self.weights[parameter].clone()
    }

    /// Running statistics of one batch norm.
    pub fn statistics(&self, index: usize) -> &RunningStatistics {
        &self.statistics[index]
    }

    /// Keeps the statistics of a batch until the end of the step: running statistics take in only those of steps that are
    /// applied.
    pub fn keep_statistics(&mut self, statistics: BatchStatistics) {
        self.batch_statistics.push(statistics);
    }

    /// Random numbers for one use in this pass; none in inference.
    pub fn random(&self, stream: u32) -> Option<RandomStream> {
        match &self.mode {
            Mode::Training { seed, pass, .. } => {
                Some(RandomStream { seed: *seed, stream, pass: pass.clone() })
            }
            Mode::Inference => None,
        }
    }

    /// Keeps something for backward; forgets it in inference.
    pub fn save(&mut self, saved: Saved) {
        if self.is_training() {
            self.tape.push(saved);
        }
    }

    fn pop(&mut self) -> Result<Saved> {
        self.tape.pop().ok_or_else(|| Error::Msg("backward without forward".to_owned()).bt())
    }

    /// Takes back a tensor that forward saved.
    ///
    /// # Errors
    /// When forward did not save one last.
    pub fn take_tensor(&mut self) -> Result<Tensor> {
        match self.pop()? {
            Saved::Tensor(tensor) => Ok(tensor),
            other => Err(Error::Msg(format!("the tape holds {other:?}, not a tensor")).bt()),
        }
    }

    /// Takes back what a batch norm saved.
    ///
    /// # Errors
    /// When forward did not save it last.
    pub fn take_batch_norm(&mut self) -> Result<(Tensor, BatchNormSaved)> {
        match self.pop()? {
            Saved::BatchNorm(x, saved) => Ok((x, saved)),
            other => Err(Error::Msg(format!("the tape holds {other:?}, not a norm's")).bt()),
        }
    }

    /// Takes back a number of positions that forward saved.
    ///
    /// # Errors
    /// When forward did not save one last.
    pub fn take_positions(&mut self) -> Result<usize> {
        match self.pop()? {
            Saved::Positions(positions) => Ok(positions),
            other => Err(Error::Msg(format!("the tape holds {other:?}, not positions")).bt()),
        }
    }

    /// Takes back a shape that forward saved.
    ///
    /// # Errors
    /// When forward did not save one last.
    pub fn take_shape(&mut self) -> Result<[usize; 4]> {
        match self.pop()? {
            Saved::Shape(shape) => Ok(shape),
            other => Err(Error::Msg(format!("the tape holds {other:?}, not a shape")).bt()),
        }
    }

    /// Passes on a result of the forward pass. In wide mode this is where it is rounded, and counted.
    ///
    /// # Errors
    /// When the tensor is not the engine's own.
    pub fn activation(&mut self, layer: &str, result: Tensor) -> Result<Tensor> {
        self.round(layer, Role::Activations, &result)?;
        if matches!(self.watch, Watch::On) && !ops::all_finite(&result)? {
            self.watch = Watch::Found(layer.to_owned());
        }
        Ok(result)
    }

    /// Passes on a gradient with respect to an activation, rounded and counted as [`Pass::activation`].
    ///
    /// # Errors
    /// As [`Pass::activation`].
    pub fn activation_gradient(&mut self, layer: &str, gradient: Tensor) -> Result<Tensor> {
        self.round(layer, Role::ActivationGradients, &gradient)?;
        Ok(gradient)
    }

    /// Keeps the gradient of a parameter, rounded and counted as [`Pass::activation`]. Where layers share the parameter their
    /// gradients add up, rounded and counted again.
    ///
    /// # Errors
    /// As [`Pass::activation`].
    pub fn weight_gradient(
        &mut self,
        layer: &str,
        parameter: usize,
        gradient: Tensor,
    ) -> Result<()> {
        self.round(layer, Role::WeightGradients, &gradient)?;
        let all = match self.gradients[parameter].take() {
            Some(first) => {
                let sum = ops::add(&first, &gradient, Then::Nothing)?;
                self.round(layer, Role::WeightGradients, &sum)?;
                sum
            }
            None => gradient,
        };
        self.gradients[parameter] = Some(all);
        Ok(())
    }

    fn round(&mut self, layer: &str, role: Role, tensor: &Tensor) -> Result<()> {
        let format = self.arithmetic.format;
        match &mut self.census {
            _ if !self.arithmetic.wide => Ok(()),
            Some(census) => {
                census.add(layer, role, &ops::round_counted(tensor, format)?);
                Ok(())
            }
            None => ops::round(tensor, format),
        }
    }

    /// What a pass leaves behind.
    ///
    /// # Errors
    /// When a parameter has no gradient: backward did not run to the end.
    pub fn finish(self) -> Result<Finished> {
        let missing = || Error::Msg("a parameter has no gradient".to_owned()).bt();
        let gradients = self.gradients.into_iter().map(|gradient| gradient.ok_or_else(missing));
        Ok(Finished {
            gradients: gradients.collect::<Result<_>>()?,
            statistics: self.batch_statistics,
        })
    }
}
