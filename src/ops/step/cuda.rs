//! The end of a step on a GPU, by the kernels of update.cu. The host waits only where it reads outcomes.
#![expect(unsafe_code, reason = "structures are read and written as bytes")]

use std::mem::size_of;

use candle_core::cuda::cudarc::driver::CudaSlice;
use candle_core::{CudaDevice, DType, Device, Error, Result, Tensor};

use super::update::{GradientCounts, GradientSummary, Update};
use super::{ParameterTensors, RateSchedule, Rates, StepOutcome, StepSettings, StepState};
use crate::device::Phase;
use crate::ops::cuda::{self, address, blocks, launch, one_block, pointer, suffix};
use crate::ops::host::cuda::{Argument, copy_into, from_host, zeros};
use crate::precision::{Format, LossScale, NON_FINITE_LOSSES, Rounder};

/// Values that one block of the kernels works on at a time.
const PIECE: usize = 16 * 1024;

/// Steps whose outcomes are kept until the host reads them.
const PLACES: u64 = 64;

/// Updates whose rates are on the GPU: more than twice those that it makes between two readings of the host, but in a timed block,
/// whose updates are of no matter: a longer one takes them again.
const RATE_PLACES: u64 = 16 * PLACES;

/// Threads of a block of inspect and of update.
const THREADS: u32 = 256;

/// Blocks that share a piece in an update.
const SHARES: u32 = 4;

/// `StepControl` of update.cu, field by field.
#[repr(C)]
#[derive(Clone, Copy)]
struct Control {
    scale: f32,
    unscale: f32,
    clip: f32,
    rates: [f32; 3],
    apply: u32,
    dynamic: u32,
    growth: f64,
    backoff: f64,
    clip_norm: f64,
    floor: f32,
    ceiling: f32,
    interval: u32,
    finite_steps: u32,
    non_finite_losses: u32,
    most_non_finite_losses: u32,
    steps: u64,
    updates: u64,
    skipped: u64,
    ended: u64,
}

/// Where `apply` is in [`Control`], in words of 32 bits.
const APPLY: usize = std::mem::offset_of!(Control, apply) / 4;

/// Words of 32 bits in a [`Control`].
const CONTROL_WORDS: usize = size_of::<Control>() / 4;

/// `StepOutcome` of update.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct DeviceOutcome {
    squares: f64,
    elements: u64,
    zero: u64,
    subnormal: u64,
    infinite: u64,
    nan: u64,
    lost: u64,
    loss: f32,
    scale: f32,
    clip: f32,
    blamed: u32,
}

/// `Storage` of update.cu: how a tensor is stored.
#[repr(C)]
#[derive(Clone, Copy)]
struct Storage {
    code: u32,
    rounds: u32,
    rounder: Rounder,
}

/// `Conversion` of update.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Conversion {
    weights: Storage,
    copy: Storage,
}

/// `Sgd` of update.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Sgd {
    momentum: f32,
    weight_decay: f32,
    nesterov: u32,
}

/// `AdamW` of update.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct AdamW {
    beta1: f32,
    beta2: f32,
    eps: f32,
    weight_decay: f32,
}

/// Whom the pointers of a step's gradients are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    /// An eager step.
    Now = 0,
    /// A step that is captured: its gradients are elsewhere.
    Recorded = 1,
}

/// The state of a run between its steps, and the tables that its kernels read.
#[derive(Debug)]
pub(crate) struct Step {
    device: CudaDevice,
    /// A [`Control`], held as f32 so that the loss scale is a tensor.
    control: Tensor,
    scale: Tensor,
    applied: Tensor,
    loss: Tensor,
    shapes: CudaSlice<u64>,
    owners: CudaSlice<u32>,
    pieces: u32,
    summaries: CudaSlice<u64>,
    parameter_summaries: CudaSlice<u64>,
    /// [`RATE_PLACES`] of [`Rates`], for the updates before `rates_until`.
    rates: CudaSlice<f32>,
    rates_until: u64,
    schedule: RateSchedule,
    /// The parameters' tensors, without and with places for Δw.
    parameters: CudaSlice<u64>,
    watched: CudaSlice<u64>,
    gradients: [CudaSlice<u64>; 2],
    /// What the first of these tables holds.
    written: Vec<u64>,
    /// The gradients of the step that is captured.
    captured: Option<Vec<u64>>,
    /// [`PLACES`] of [`DeviceOutcome`].
    outcomes: CudaSlice<Argument<DeviceOutcome>>,
    read: u64,
}

impl Step {
    pub(crate) fn new(
        settings: &StepSettings,
        parameters: &[ParameterTensors],
        device: &Device,
    ) -> Result<Self> {
        let gpu = device.as_cuda_device()?.clone();
        let lengths = || parameters.iter().map(|tensors| tensors.weights.elem_count());
        let (mut shapes, mut owners) = (Vec::new(), Vec::new());
        for (index, length) in lengths().enumerate() {
            shapes.extend([length as u64, owners.len() as u64]);
            owners.extend(std::iter::repeat_n(index as u32, length.div_ceil(PIECE)));
        }
        let words = control_words(&Control::new(settings));
        let control = from_host(&words, CONTROL_WORDS, &gpu)?;
        let rates = rate_ring(&settings.rates, 0);
        let table = parameter_table(parameters, None)?;
        let count = parameters.len();
        Ok(Self {
            scale: control.narrow(0, 0, 1)?,
            applied: control.narrow(0, APPLY, 1)?,
            control,
            loss: zeros(1, DType::F32, &gpu)?,
            shapes: gpu.clone_htod(&shapes)?,
            pieces: owners.len() as u32,
            // Three and five words of 64 bits for a piece and a parameter.
            summaries: gpu.alloc_zeros(3 * owners.len())?,
            parameter_summaries: gpu.alloc_zeros(5 * count)?,
            owners: gpu.clone_htod(&owners)?,
            rates: gpu.clone_htod(&rates)?,
            rates_until: RATE_PLACES,
            schedule: settings.rates.clone(),
            parameters: gpu.clone_htod(&table)?,
            watched: gpu.alloc_zeros(table.len())?,
            gradients: [gpu.alloc_zeros(count)?, gpu.alloc_zeros(count)?],
            written: Vec::new(),
            captured: None,
            outcomes: cuda::allocate(&gpu, PLACES as usize)?,
            read: 0,
            device: gpu,
        })
    }

    pub(crate) fn scale(&self) -> &Tensor {
        &self.scale
    }

    pub(crate) fn loss(&self) -> &Tensor {
        &self.loss
    }

    /// Not 0 where the last step's update was made: a u32.
    pub(crate) fn applied(&self) -> &Tensor {
        &self.applied
    }

    pub(crate) fn begin_capture(&mut self) {
        self.captured = Some(Vec::new());
    }

    /// Tells the GPU where the gradients of what was captured are.
    pub(crate) fn end_capture(&mut self) -> Result<()> {
        match self.captured.take() {
            Some(pointers) if !pointers.is_empty() => {
                self.device.memcpy_htod(&pointers, &mut self.gradients[Table::Recorded as usize])
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn finish(
        &mut self,
        settings: &StepSettings,
        (parameters, gradients): (&[ParameterTensors], &[Tensor]),
        deltas: Option<&[Tensor]>,
        enter: &mut dyn FnMut(Phase) -> Result<()>,
    ) -> Result<()> {
        let Some(first) = gradients.first() else { return Ok(()) };
        enter(Phase::Unscale)?;
        check(parameters, gradients)?;
        let pointers = gradients.iter().map(address).collect::<Result<Vec<u64>>>()?;
        let table = if let Some(captured) = &mut self.captured {
            *captured = pointers;
            Table::Recorded
        } else {
            // From one step to the next the pool gives the same memory, mostly.
            if pointers != self.written {
                self.device.memcpy_htod(&pointers, &mut self.gradients[Table::Now as usize])?;
                self.written = pointers;
            }
            Table::Now
        };
        if let Some(deltas) = deltas {
            let watched = parameter_table(parameters, Some(deltas))?;
            self.device.memcpy_htod(&watched, &mut self.watched)?;
        }
        let suffix = suffix(first.dtype())?;
        self.inspect(settings, (table, suffix))?;
        self.advance(parameters.len() as u32)?;
        enter(Phase::Update)?;
        self.update(settings, (table, suffix), deltas.is_some())
    }

    fn inspect(&self, settings: &StepSettings, (table, suffix): (Table, &str)) -> Result<()> {
        let gpu = &self.device;
        launch!(
            gpu,
            UPDATE,
            &format!("inspect_{suffix}"),
            blocks(gpu, self.pieces.into(), (THREADS, 1))?,
            pointer(gpu, &self.gradients[table as usize]),
            pointer(gpu, &self.shapes),
            pointer(gpu, &self.owners),
            self.pieces,
            settings.compute.min_normal() as f32,
            address(&self.control)?,
            pointer(gpu, &self.summaries)
        )
    }

    fn advance(&self, count: u32) -> Result<()> {
        let gpu = &self.device;
        launch!(
            gpu,
            UPDATE,
            "advance",
            one_block(),
            address(&self.control)?,
            pointer(gpu, &self.summaries),
            pointer(gpu, &self.shapes),
            count,
            pointer(gpu, &self.parameter_summaries),
            pointer(gpu, &self.rates),
            RATE_PLACES,
            address(&self.loss)?,
            pointer(gpu, &self.outcomes),
            PLACES
        )
    }

    fn update(
        &self,
        settings: &StepSettings,
        (table, suffix): (Table, &str),
        watches: bool,
    ) -> Result<()> {
        match settings.rule {
            Update::Sgd(rule) => {
                let (momentum, weight_decay) = (rule.momentum, rule.weight_decay);
                let rule = Sgd { momentum, weight_decay, nesterov: rule.nesterov.into() };
                let name = format!("update_sgd_{suffix}");
                self.launch_update(settings, (&name, table, watches), Argument(rule))
            }
            Update::AdamW(rule) => {
                let crate::ops::AdamW { beta1, beta2, eps, weight_decay, .. } = rule;
                let rule = AdamW { beta1, beta2, eps, weight_decay };
                let name = format!("update_adamw_{suffix}");
                self.launch_update(settings, (&name, table, watches), Argument(rule))
            }
        }
    }

    fn launch_update<R: Copy>(
        &self,
        settings: &StepSettings,
        (name, table, watches): (&str, Table, bool),
        rule: Argument<R>,
    ) -> Result<()> {
        let gpu = &self.device;
        let parameters = if watches { &self.watched } else { &self.parameters };
        let conversion = Conversion {
            weights: Storage::of(settings.params),
            copy: Storage::of(settings.compute),
        };
        let mut geometry = blocks(gpu, self.pieces.into(), (THREADS, 1))?;
        geometry.grid_dim.1 = SHARES;
        launch!(
            gpu,
            UPDATE,
            name,
            geometry,
            pointer(gpu, &self.gradients[table as usize]),
            pointer(gpu, parameters),
            pointer(gpu, &self.shapes),
            pointer(gpu, &self.owners),
            self.pieces,
            rule,
            Argument(conversion),
            address(&self.control)?,
            pointer(gpu, &self.outcomes),
            PLACES
        )
    }

    /// What is kept from one step to the next beside tensors.
    pub(crate) fn state(&self) -> Result<StepState> {
        let Control { scale, finite_steps, non_finite_losses, updates, .. } = self.control()?;
        Ok(StepState { scale, finite_steps, non_finite_losses, updates })
    }

    /// Goes on from such a state.
    pub(crate) fn restore(&mut self, state: StepState) -> Result<()> {
        let StepState { scale, finite_steps, non_finite_losses, updates } = state;
        let control =
            Control { scale, finite_steps, non_finite_losses, updates, ..self.control()? };
        let words = from_host(&control_words(&control), CONTROL_WORDS, &self.device)?;
        copy_into(&self.control, &words)?;
        // Those of its first updates are there.
        self.rates_until = 0;
        self.refill_rates(updates)
    }

    /// What the steps since the last call did. Waits for them.
    ///
    /// # Errors
    /// When they are more than there are places for.
    pub(crate) fn outcomes(&mut self) -> Result<Vec<StepOutcome>> {
        let control = self.control()?;
        self.refill_rates(control.updates)?;
        let (steps, ended) = (control.steps, control.ended);
        if steps == self.read {
            return Ok(Vec::new());
        }
        if steps - self.read > PLACES {
            let lost = steps - self.read - PLACES;
            return Err(Error::Msg(format!("the outcomes of {lost} steps were overwritten")).bt());
        }
        let places: Vec<Argument<DeviceOutcome>> = self.device.clone_dtoh(&self.outcomes)?;
        let outcomes = (self.read..steps)
            .map(|step| places[(step % PLACES) as usize].0.step_outcome(ended == step + 1))
            .collect();
        self.read = steps;
        Ok(outcomes)
    }

    /// Whether the run is over. What the steps so far did is forgotten, so that there may be any number of them. Waits
    /// for them.
    pub(crate) fn is_over(&mut self) -> Result<bool> {
        let control = self.control()?;
        self.refill_rates(control.updates)?;
        self.read = control.steps;
        Ok(control.ended > 0)
    }

    /// Sees to it that the rates of the updates that the GPU may make before the next reading are there.
    fn refill_rates(&mut self, updates: u64) -> Result<()> {
        if updates + RATE_PLACES / 2 < self.rates_until {
            return Ok(());
        }
        let rates = rate_ring(&self.schedule, updates);
        self.device.memcpy_htod(&rates, &mut self.rates)?;
        self.rates_until = updates + RATE_PLACES;
        Ok(())
    }

    /// The state as it is on the GPU now.
    fn control(&self) -> Result<Control> {
        let words: Vec<f32> = self.control.to_vec1()?;
        let mut bytes = [0_u8; size_of::<Control>()];
        for (target, word) in bytes.chunks_exact_mut(4).zip(words) {
            target.copy_from_slice(&word.to_bits().to_ne_bytes());
        }
        // SAFETY: any bytes are a valid `Control`, and there are as many as it has.
        Ok(unsafe { std::mem::transmute::<[u8; size_of::<Control>()], Control>(bytes) })
    }
}

impl Control {
    fn new(settings: &StepSettings) -> Self {
        let mut control = Self {
            scale: settings.scale.value(),
            unscale: 1.0,
            clip: 1.0,
            rates: [0.0; 3],
            apply: 0,
            dynamic: 0,
            growth: 1.0,
            backoff: 1.0,
            clip_norm: settings.clip_norm.unwrap_or(f64::INFINITY),
            floor: 0.0,
            ceiling: f32::INFINITY,
            interval: u32::MAX,
            finite_steps: 0,
            non_finite_losses: 0,
            most_non_finite_losses: NON_FINITE_LOSSES,
            steps: 0,
            updates: 0,
            skipped: 0,
            ended: 0,
        };
        if let LossScale::Dynamic(scale) = settings.scale {
            control.dynamic = 1;
            (control.growth, control.backoff) = (scale.growth, scale.backoff);
            (control.floor, control.ceiling) = (scale.floor, scale.ceiling);
            (control.interval, control.finite_steps) = (scale.interval, scale.finite_steps);
        }
        control
    }
}

/// The rates of the updates from `first` on, as many as there are places: update u in place u modulo their number.
fn rate_ring(schedule: &RateSchedule, first: u64) -> Vec<f32> {
    let rates = |place| {
        let update = first + (place + RATE_PLACES - first % RATE_PLACES) % RATE_PLACES;
        let Rates { lr, correction1, correction2 } = schedule.at(update);
        [lr, correction1, correction2]
    };
    (0..RATE_PLACES).flat_map(rates).collect()
}

/// The bits of a state, as the words that hold it.
fn control_words(control: &Control) -> Vec<f32> {
    // SAFETY: `Control` has no padding: its fields of 8 bytes come after an even number of words, and all sizes add up to its
    // own.
    let bytes: [u8; size_of::<Control>()] = unsafe { std::mem::transmute(*control) };
    let word = |bytes: &[u8]| {
        f32::from_bits(bytes.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte)))
    };
    bytes.chunks_exact(4).map(word).collect()
}

impl DeviceOutcome {
    fn step_outcome(self, ends: bool) -> StepOutcome {
        let counts = GradientCounts {
            elements: self.elements,
            zero: self.zero,
            subnormal: self.subnormal,
            infinite: self.infinite,
            nan: self.nan,
        };
        StepOutcome {
            loss: self.loss,
            scale: self.scale,
            clip: self.clip,
            gradients: GradientSummary { counts, squares: self.squares },
            applied: self.loss.is_finite() && counts.infinite == 0 && counts.nan == 0,
            blamed: (self.blamed != u32::MAX).then_some(self.blamed as usize),
            lost: self.lost,
            ends,
        }
    }
}

impl Storage {
    /// How values of a format are stored: natively, or in f32 after rounding.
    fn of(format: Format) -> Self {
        let code = match format {
            Format::F16 => 1,
            Format::BF16 => 2,
            _ => 0,
        };
        let rounds = u32::from(code == 0 && format != Format::F32);
        Self { code, rounds, rounder: Rounder::new(format) }
    }
}

/// The addresses of every parameter's tensors, five a parameter, 0 where there is none.
fn parameter_table(parameters: &[ParameterTensors], deltas: Option<&[Tensor]>) -> Result<Vec<u64>> {
    let mut table = Vec::with_capacity(5 * parameters.len());
    for (index, tensors) in parameters.iter().enumerate() {
        let ParameterTensors { weights, copy, first, second } = tensors;
        let delta = deltas.map(|deltas| &deltas[index]);
        for tensor in [Some(weights), copy.as_ref(), first.as_ref(), second.as_ref(), delta] {
            table.push(tensor.map_or(Ok(0), address)?);
        }
    }
    Ok(table)
}

/// # Errors
/// When there is not one gradient a parameter, of its shape, all of one type.
fn check(parameters: &[ParameterTensors], gradients: &[Tensor]) -> Result<()> {
    let fits = parameters.len() == gradients.len()
        && parameters.iter().zip(gradients).all(|(tensors, gradient)| {
            gradient.dims() == tensors.weights.dims() && gradient.dtype() == gradients[0].dtype()
        });
    if fits {
        return Ok(());
    }
    Err(Error::Msg("the gradients are not those of the parameters".to_owned()).bt())
}
