//! The end of a step, over several steps with skipped ones among them: the CPU's bits and counts.

use candle_core::Tensor;
use half::{bf16, f16};
use mantissa::ops::{self, AdamW, Conversion, GradientSummary, Sgd, Update, UpdateTensors};
use mantissa::precision::{DynamicScale, Format, LossScale, NON_FINITE_LOSSES, Rounder};
use mantissa::record::GradientCounts;

use crate::emulation::{Array, Device, Geometry, devices, line};
use crate::support::{Storage, array, assert_same, narrow, tensor, uniform, values};

/// Values of a piece.
const PIECE: usize = 16 * 1024;
/// Values of each parameter: less than a lane, one more than a block of a sum, several pieces.
const LENGTHS: [usize; 5] = [1, 17, 1025, PIECE, 2 * PIECE + 777];
const STEPS: usize = 6;
/// Places for outcomes: fewer than steps, so that the first ones are written over.
const PLACES: usize = 4;
const CLIP_NORM: f64 = 60.0;

#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
struct StepControl {
    scale: f32,
    unscale: f32,
    clip: f32,
    learning_rate: f32,
    correction1: f32,
    correction2: f32,
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

#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
struct StepOutcome {
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

#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
struct ParameterSummary {
    squares: f64,
    zero: u64,
    subnormal: u64,
    infinite: u64,
    nan: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
struct PieceSummary {
    squares: f64,
    counts: [u32; 4],
}

#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
struct Shape {
    length: u64,
    first_piece: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
struct Rates {
    learning_rate: f32,
    correction1: f32,
    correction2: f32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
struct ParameterTensors {
    weights: *mut u8,
    copy: *mut u8,
    first: *mut f32,
    second: *mut f32,
    delta: *mut f32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct StorageOf {
    code: u32,
    rounds: u32,
    rounder: Rounder,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Conversions {
    weights: StorageOf,
    copy: StorageOf,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct SgdRule {
    momentum: f32,
    weight_decay: f32,
    nesterov: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct AdamRule {
    beta1: f32,
    beta2: f32,
    eps: f32,
    weight_decay: f32,
}

impl StorageOf {
    fn new<T: Storage>(format: Format) -> Self {
        let rounds = u32::from(T::SUFFIX == "f32" && format != Format::F32);
        Self { code: T::CODE, rounds, rounder: Rounder::new(format) }
    }
}

/// One way to train.
#[derive(Clone, Copy, Debug)]
struct Setup {
    /// Its learning rate and corrections are those of the first update.
    rule: Update,
    params: Format,
    compute: Format,
    with_copy: bool,
    scale: LossScale,
}

impl Setup {
    fn states(&self) -> usize {
        match self.rule {
            Update::Sgd(sgd) => usize::from(sgd.momentum != 0.0),
            Update::AdamW(_) => 2,
        }
    }

    /// Rates of update `index`; they change from one to the next.
    fn rates(&self, index: usize) -> Rates {
        let later = 1.0 + index as f32;
        match self.rule {
            Update::Sgd(sgd) => {
                Rates { learning_rate: sgd.lr / later, correction1: 0.0, correction2: 0.0 }
            }
            Update::AdamW(adam) => Rates {
                learning_rate: adam.lr / later,
                correction1: adam.correction1 / later,
                correction2: adam.correction2 / later,
            },
        }
    }

    /// The rule with the rates of update `index`.
    fn rule_at(&self, index: usize) -> Update {
        let Rates { learning_rate: lr, correction1, correction2 } = self.rates(index);
        match self.rule {
            Update::Sgd(sgd) => Update::Sgd(Sgd { lr, ..sgd }),
            Update::AdamW(adam) => Update::AdamW(AdamW { lr, correction1, correction2, ..adam }),
        }
    }
}

/// The tensors of one parameter on both sides.
struct Parameter<W, C> {
    weights: (Array<W>, Tensor),
    copy: Option<(Array<C>, Tensor)>,
    states: Vec<(Array<f32>, Tensor)>,
    delta: (Array<f32>, Tensor),
}

fn both<T: Storage>(values: &[T]) -> (Array<T>, Tensor) {
    (array(values), tensor(values, values.len()))
}

impl<W: Storage, C: Storage> Parameter<W, C> {
    fn new(setup: Setup, index: usize) -> Self {
        let count = LENGTHS[index];
        let zeros = vec![0.0_f32; count];
        Self {
            weights: both(&uniform::<W>(index as u64, count, (-1.0, 1.0))),
            copy: setup.with_copy.then(|| both(&vec![C::default(); count])),
            states: (0..setup.states()).map(|_| both(&zeros)).collect(),
            delta: both(&zeros),
        }
    }

    /// Every second parameter's Δw is looked at.
    fn table(&self, index: usize) -> ParameterTensors {
        let null = std::ptr::null_mut();
        let state = |i: usize| self.states.get(i).map_or(null, |state| state.0.pointer());
        ParameterTensors {
            weights: self.weights.0.pointer().cast(),
            copy: self.copy.as_ref().map_or(null.cast(), |copy| copy.0.pointer().cast()),
            first: state(0),
            second: state(1),
            delta: if index.is_multiple_of(2) { self.delta.0.pointer() } else { null },
        }
    }

    fn update(&self, index: usize, rule: Update, gradient: &Tensor, how: Conversion) -> u64 {
        let tensors = UpdateTensors {
            weights: &self.weights.1,
            copy: self.copy.as_ref().map(|copy| &copy.1),
            gradient,
            first: self.states.first().map(|state| &state.1),
            second: self.states.get(1).map(|state| &state.1),
            delta: index.is_multiple_of(2).then_some(&self.delta.1),
        };
        ops::update(rule, tensors, how).unwrap()
    }

    fn check(&self) {
        assert_same("weights", &self.weights.0.values(), &values::<W>(&self.weights.1));
        if let Some((got, expected)) = &self.copy {
            assert_same("copy", &got.values(), &values::<C>(expected));
        }
        for (got, expected) in self.states.iter().chain([&self.delta]) {
            assert_same("moments and Δw", &got.values(), &values::<f32>(expected));
        }
    }
}

/// Gradients of one step, times S: small ones, zeros and subnormals among them; in steps 2 and 3 not all finite.
fn gradients<G: Storage>(step: usize, scale: f32) -> Vec<Vec<G>> {
    let of_parameter = |(index, count): (usize, &usize)| {
        let seed = (step * 10 + index) as u64;
        let mut values: Vec<G> = uniform::<f32>(seed, *count, (-1.0, 1.0))
            .into_iter()
            .enumerate()
            .map(|(i, v)| narrow(v * scale * [1.0, 0.0, 1e-8, 0.3, 1e-3][(i + step) % 5]))
            .collect();
        let last = values.len() - 1;
        match (step, index) {
            (2, 1 | 3) => values[last / 2] = narrow(f32::INFINITY),
            (3, 2) => values[last] = narrow(f32::NAN),
            _ => {}
        }
        values
    };
    LENGTHS.iter().enumerate().map(of_parameter).collect()
}

/// What the device holds between steps, beside the tensors.
struct Tables {
    shapes: Array<Shape>,
    owners: Array<u32>,
    tensors: Array<ParameterTensors>,
    rates: Array<Rates>,
    control: Array<StepControl>,
    pieces: Array<PieceSummary>,
    parameters: Array<ParameterSummary>,
    outcomes: Array<StepOutcome>,
}

impl Tables {
    fn new(setup: Setup, tensors: &[ParameterTensors]) -> Self {
        let (mut shapes, mut owners) = (vec![], vec![]);
        for (index, length) in LENGTHS.into_iter().enumerate() {
            shapes.push(Shape { length: length as u64, first_piece: owners.len() as u64 });
            owners.extend(vec![index as u32; length.div_ceil(PIECE)]);
        }
        let rates: Vec<_> = (0..STEPS).map(|update| setup.rates(update)).collect();
        let (pieces, outcomes) = (owners.len(), [StepOutcome::default(); PLACES]);
        Self {
            shapes: Array::new(&shapes, shapes[0]),
            owners: Array::new(&owners, 999),
            tensors: Array::new(tensors, tensors[0]),
            rates: Array::new(&rates, rates[0]),
            control: Array::new(&[start(setup.scale)], start(LossScale::None)),
            pieces: Array::new(&vec![PieceSummary::default(); pieces], PieceSummary::default()),
            parameters: Array::new(&[ParameterSummary::default(); 5], ParameterSummary::default()),
            outcomes: Array::new(&outcomes, StepOutcome { lost: 9, ..StepOutcome::default() }),
        }
    }

    fn control(&self) -> StepControl {
        self.control.values()[0]
    }

    /// A step from its gradients on, in three launches.
    fn step<W: Storage, C: Storage, G: Storage>(
        &self,
        device: Device,
        setup: Setup,
        gradients: &[Array<G>],
        loss: f32,
    ) {
        let pointers: Vec<_> = gradients.iter().map(Array::pointer).collect();
        let pointers = Array::new(&pointers, std::ptr::null_mut());
        let (loss, pieces) = (array(&[loss]), self.pieces.values().len() as u32);
        let arguments = (
            pointers.pointer(),
            self.shapes.pointer(),
            self.owners.pointer(),
            pieces,
            setup.compute.min_normal() as f32,
            self.control.pointer(),
            self.pieces.pointer(),
        );
        device.launch(&format!("inspect_{}", G::SUFFIX), line(3, 256), arguments);
        let arguments = (
            self.control.pointer(),
            self.pieces.pointer(),
            self.shapes.pointer(),
            LENGTHS.len() as u32,
            self.parameters.pointer(),
            self.rates.pointer(),
            STEPS as u64,
            loss.pointer(),
            self.outcomes.pointer(),
            PLACES as u64,
        );
        device.launch("advance", line(1, 3), arguments);
        let conversions = Conversions {
            weights: StorageOf::new::<W>(setup.params),
            copy: StorageOf::new::<C>(setup.compute),
        };
        match setup.rule {
            Update::Sgd(Sgd { momentum, weight_decay, nesterov, .. }) => {
                let rule = SgdRule { momentum, weight_decay, nesterov: nesterov.into() };
                self.update::<G>((device, "sgd"), &pointers, rule, conversions);
            }
            Update::AdamW(AdamW { beta1, beta2, eps, weight_decay, .. }) => {
                let rule = AdamRule { beta1, beta2, eps, weight_decay };
                self.update::<G>((device, "adamw"), &pointers, rule, conversions);
            }
        }
    }

    fn update<G: Storage>(
        &self,
        (device, name): (Device, &str),
        gradients: &Array<*mut G>,
        rule: impl Copy,
        conversions: Conversions,
    ) {
        let arguments = (
            gradients.pointer(),
            self.tensors.pointer(),
            self.shapes.pointer(),
            self.owners.pointer(),
            self.pieces.values().len() as u32,
            rule,
            conversions,
            self.control.pointer(),
            self.outcomes.pointer(),
            PLACES as u64,
        );
        let geometry = Geometry { grid: (3, 2), block: (64, 1) };
        device.launch(&format!("update_{name}_{}", G::SUFFIX), geometry, arguments);
    }
}

/// The control block of a run that begins.
fn start(scale: LossScale) -> StepControl {
    let dynamic = match scale {
        LossScale::Dynamic(dynamic) => dynamic,
        LossScale::None | LossScale::Static(_) => DynamicScale::DEFAULT,
    };
    StepControl {
        scale: scale.value(),
        unscale: 0.0,
        clip: 0.0,
        learning_rate: 0.0,
        correction1: 0.0,
        correction2: 0.0,
        apply: 0,
        dynamic: u32::from(matches!(scale, LossScale::Dynamic(_))),
        growth: dynamic.growth,
        backoff: dynamic.backoff,
        clip_norm: CLIP_NORM,
        floor: dynamic.floor,
        ceiling: dynamic.ceiling,
        interval: dynamic.interval,
        finite_steps: 0,
        non_finite_losses: 0,
        most_non_finite_losses: NON_FINITE_LOSSES,
        steps: 0,
        updates: 0,
        skipped: 0,
        ended: 0,
    }
}

/// The state of a run of the CPU.
struct Cpu {
    scale: LossScale,
    updates: usize,
    skipped: u64,
}

impl Cpu {
    /// A step as `train` makes it, and what the device should say of it.
    fn step<W: Storage, C: Storage, G: Storage>(
        &mut self,
        setup: Setup,
        parameters: &[Parameter<W, C>],
        gradients: &[Vec<G>],
    ) -> (StepOutcome, Vec<ParameterSummary>) {
        let scale = self.scale.value();
        let gradients: Vec<_> =
            gradients.iter().map(|values| tensor(values, values.len())).collect();
        let summaries: Vec<_> = gradients
            .iter()
            .map(|gradient| ops::inspect_gradient(gradient, setup.compute, 1.0 / scale).unwrap())
            .collect();
        let total = summaries.iter().fold(GradientSummary::default(), |sum, s| sum.plus(*s));
        self.scale = self.scale.after(total.is_finite());
        let (mut clip, mut lost) = (1.0, 0);
        if total.is_finite() {
            clip = (CLIP_NORM / (total.squares.sqrt() + 1e-6)).min(1.0) as f32;
            let rule = setup.rule_at(self.updates);
            let Setup { params, compute, .. } = setup;
            let how = Conversion { unscale: 1.0 / scale, clip, params, compute };
            for (index, (parameter, gradient)) in parameters.iter().zip(&gradients).enumerate() {
                lost += parameter.update(index, rule, gradient, how);
            }
            self.updates += 1;
        } else {
            self.skipped += 1;
        }
        let blamed = summaries.iter().rposition(|s| !s.is_finite()).map_or(u32::MAX, |i| i as u32);
        let GradientCounts { elements, zero, subnormal, infinite, nan } = total.counts;
        let outcome = StepOutcome {
            squares: total.squares,
            elements,
            zero,
            subnormal,
            infinite,
            nan,
            lost,
            loss: 0.5,
            scale,
            clip,
            blamed,
        };
        (outcome, summaries.into_iter().map(parameter_summary).collect())
    }
}

fn parameter_summary(summary: GradientSummary) -> ParameterSummary {
    let GradientCounts { zero, subnormal, infinite, nan, .. } = summary.counts;
    ParameterSummary { squares: summary.squares, zero, subnormal, infinite, nan }
}

/// Bits, so that NaN is equal to itself: a sum of squares may be one.
fn assert_outcome(got: StepOutcome, expected: StepOutcome) {
    let same =
        got.squares == expected.squares || (got.squares.is_nan() && expected.squares.is_nan());
    let finite = |outcome| StepOutcome { squares: 0.0, ..outcome };
    assert!(same, "{} is not {}", got.squares, expected.squares);
    assert_eq!(finite(got), finite(expected));
}

/// Trains for some steps on both sides. Storage types: of weights, of their copy, of gradients.
fn check<W: Storage, C: Storage, G: Storage>(device: Device, setup: Setup) {
    let parameters: Vec<_> =
        (0..LENGTHS.len()).map(|index| Parameter::<W, C>::new(setup, index)).collect();
    let tables: Vec<_> =
        parameters.iter().enumerate().map(|(index, parameter)| parameter.table(index)).collect();
    let tables = Tables::new(setup, &tables);
    let mut cpu = Cpu { scale: setup.scale, updates: 0, skipped: 0 };
    for step in 0..STEPS {
        let gradients = gradients::<G>(step, cpu.scale.value());
        let arrays: Vec<_> = gradients.iter().map(|values| array(values)).collect();
        tables.step::<W, C, G>(device, setup, &arrays, 0.5);
        let (outcome, summaries) = cpu.step(setup, &parameters, &gradients);
        assert_outcome(tables.outcomes.values()[step % PLACES], outcome);
        for (got, expected) in tables.parameters.values().iter().zip(&summaries) {
            let squares = |summary: &ParameterSummary| summary.squares.to_bits();
            assert!(squares(got) == squares(expected) || expected.squares.is_nan());
            let counts = |s: &ParameterSummary| [s.zero, s.subnormal, s.infinite, s.nan];
            assert_eq!(counts(got), counts(expected));
        }
        parameters.iter().for_each(Parameter::check);
        let control = tables.control();
        assert_eq!(control.scale, cpu.scale.value(), "step {step}");
        assert_eq!(
            (control.steps, control.updates, control.skipped, control.ended),
            (step as u64 + 1, cpu.updates as u64, cpu.skipped, 0)
        );
        assert_eq!(control.apply, u32::from(outcome.blamed == u32::MAX));
    }
    assert_eq!(cpu.skipped, 2, "some steps are skipped");
}

const SGD: Sgd = Sgd { lr: 0.5, momentum: 0.9, nesterov: false, weight_decay: 0.01 };
const PLAIN: Sgd = Sgd { momentum: 0.0, weight_decay: 0.0, ..SGD };
const NESTEROV: Sgd = Sgd { nesterov: true, ..SGD };
const ADAM_W: AdamW = AdamW {
    lr: 1e-3,
    beta1: 0.9,
    beta2: 0.999,
    eps: 1e-8,
    weight_decay: 0.01,
    correction1: 10.0,
    correction2: 31.6,
};

/// A scale that grows after two finite steps.
fn dynamic() -> LossScale {
    let settings =
        DynamicScale { scale: 1024.0, growth: 1.5, interval: 2, ..DynamicScale::DEFAULT };
    LossScale::Dynamic(settings)
}

fn setup(rule: Update, [params, compute]: [Format; 2], with_copy: bool, scale: LossScale) -> Setup {
    Setup { rule, params, compute, with_copy, scale }
}

#[test]
fn steps_of_every_policy_are_the_cpu_bit_by_bit() {
    const F32: Format = Format::F32;
    const F16: Format = Format::F16;
    const BF16: Format = Format::BF16;
    let [sgd, plain, nesterov] = [SGD, PLAIN, NESTEROV].map(Update::Sgd);
    let adam = Update::AdamW(ADAM_W);
    let (none, scaled) = (LossScale::None, dynamic());
    let (e5m2, e4m3) = ("e5m2".parse().unwrap(), "fp8-e4m3".parse().unwrap());
    for device in devices() {
        check::<f32, f32, f32>(device, setup(sgd, [F32, F32], false, none));
        check::<f32, f16, f16>(device, setup(adam, [F32, F16], true, scaled));
        check::<f32, bf16, bf16>(device, setup(nesterov, [F32, BF16], true, none));
        check::<f16, f16, f16>(device, setup(plain, [F16, F16], false, LossScale::Static(256.0)));
        check::<bf16, bf16, bf16>(device, setup(adam, [BF16, BF16], false, none));
        check::<f32, f16, f32>(device, setup(plain, [F32, F16], true, scaled));
        check::<f32, f32, f32>(device, setup(adam, [e5m2, e4m3], true, scaled));
        check::<bf16, f16, f16>(device, setup(sgd, [BF16, F16], true, scaled));
    }
}

/// One step after the other with the gradients of one, and the losses given: the control block after each.
fn controls(device: Device, scale: LossScale, gradient: f32, losses: &[f32]) -> Vec<StepControl> {
    let setup = setup(Update::Sgd(PLAIN), [Format::F32; 2], false, scale);
    let parameters: Vec<_> =
        (0..LENGTHS.len()).map(|index| Parameter::<f32, f32>::new(setup, index)).collect();
    let tables: Vec<_> =
        parameters.iter().enumerate().map(|(index, parameter)| parameter.table(index)).collect();
    let tables = Tables::new(setup, &tables);
    let gradients: Vec<_> = LENGTHS.iter().map(|count| array(&vec![gradient; *count])).collect();
    let step = |loss: &f32| {
        tables.step::<f32, f32, f32>(device, setup, &gradients, *loss);
        tables.control()
    };
    losses.iter().map(step).collect()
}

#[test]
fn a_run_ends_when_its_loss_is_not_finite_and_stays_as_it_was() {
    for device in devices() {
        for bad in [f32::NAN, f32::INFINITY] {
            let after = controls(device, LossScale::None, 1e-3, &[1.0, bad, 1.0, 1.0]);
            assert_eq!(after.iter().map(|control| control.ended).collect::<Vec<_>>(), [0, 2, 2, 2]);
            // The step with the bad loss updates nothing, as on the CPU.
            assert_eq!((after[0].apply, after[1].apply), (1, 0));
            assert_eq!((after[1].updates, after[1].skipped), (1, 1));
            assert_eq!(after[2], after[1]);
            assert_eq!(after[3], after[2]);
        }
    }
}

/// Under a dynamic scale a loss that is not finite is a skipped step; so many in a row end the run.
#[test]
fn a_loss_that_is_not_finite_is_skipped_under_a_dynamic_scale() {
    let settings = DynamicScale { floor: f32::MIN_POSITIVE, ..DynamicScale::DEFAULT };
    for device in devices() {
        let bad = [f32::NAN; NON_FINITE_LOSSES as usize];
        let losses = [&[1.0, f32::INFINITY, 1.0][..], &bad, &[1.0]].concat();
        let after = controls(device, LossScale::Dynamic(settings), 1e-3, &losses);
        let first: Vec<_> = after[..4].iter().map(|c| (c.apply, c.scale, c.updates)).collect();
        let expected = [(1, 65536.0, 1), (0, 32768.0, 1), (1, 32768.0, 2), (0, 16384.0, 2)];
        assert_eq!(first, expected);
        let counts: Vec<_> = after[..4].iter().map(|control| control.non_finite_losses).collect();
        assert_eq!(counts, [0, 1, 0, 1]);
        let end = 3 + bad.len();
        assert_eq!((after[end - 2].ended, after[end - 1].ended), (0, end as u64));
        assert_eq!(after[end], after[end - 1]);
    }
}

/// Squares that f32 does not hold: the sum and the factor of clipping by their definitions, in f64.
#[test]
fn the_norm_of_very_large_and_very_small_gradients_is_that_of_f64() {
    for device in devices() {
        for gradient in [1e22_f32, 3e-25] {
            let setup = setup(Update::Sgd(PLAIN), [Format::F32; 2], false, LossScale::None);
            let parameters: Vec<_> =
                (0..LENGTHS.len()).map(|i| Parameter::<f32, f32>::new(setup, i)).collect();
            let tables: Vec<_> =
                parameters.iter().enumerate().map(|(i, parameter)| parameter.table(i)).collect();
            let tables = Tables::new(setup, &tables);
            let gradients: Vec<_> =
                LENGTHS.iter().map(|count| array(&vec![gradient; *count])).collect();
            tables.step::<f32, f32, f32>(device, setup, &gradients, 1.0);
            let outcome = tables.outcomes.values()[0];
            let count: usize = LENGTHS.iter().sum();
            let norm = f64::from(gradient) * (count as f64).sqrt();
            assert!((outcome.squares / (norm * norm) - 1.0).abs() < 1e-9, "{}", outcome.squares);
            let clip = (CLIP_NORM / (norm + 1e-6)).min(1.0);
            assert!((f64::from(outcome.clip) / clip - 1.0).abs() < 1e-6, "{}", outcome.clip);
        }
    }
}

#[test]
fn a_run_ends_when_its_scale_falls_under_the_floor() {
    let settings = DynamicScale { scale: 4.0, floor: 1.0, ..DynamicScale::DEFAULT };
    for device in devices() {
        let after = controls(device, LossScale::Dynamic(settings), f32::INFINITY, &[1.0; 5]);
        let scales: Vec<_> = after.iter().map(|control| control.scale).collect();
        assert_eq!(scales, [2.0, 1.0, 0.5, 0.5, 0.5]);
        assert_eq!(after[2].ended, 3);
        assert_eq!((after[4].steps, after[4].skipped, after[4].updates), (3, 3, 0));
    }
}

#[test]
fn a_scale_grows_to_its_ceiling_and_rates_come_round() {
    let settings = DynamicScale { scale: 4.0, interval: 1, ceiling: 16.0, ..DynamicScale::DEFAULT };
    for device in devices() {
        let after = controls(device, LossScale::Dynamic(settings), 1e-3, &[1.0; STEPS + 2]);
        let scales: Vec<_> = after.iter().map(|control| control.scale).collect();
        assert_eq!(scales[..4], [8.0, 16.0, 16.0, 16.0]);
        assert_eq!(after[STEPS + 1].learning_rate, after[1].learning_rate);
        assert_ne!(after[1].learning_rate, after[STEPS - 1].learning_rate);
    }
}
