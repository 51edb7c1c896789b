//! The end of a step on a GPU against the CPU's, to the bit: the same sums in the same order, the same decisions, the same weights.

use candle_core::{DType, Device, Tensor};
use mantissa::ops::{
    self, AdamW, ParameterTensors, RateSchedule, Rates, Sgd, StepEnd, StepOutcome, StepSettings,
    Update,
};
use mantissa::precision::{Format, LossScale, Policy};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::gpu;

/// Sizes of parameters: smaller and larger than what a block works on at a time, whole and with a rest.
const SHAPES: [&[usize]; 4] = [&[3], &[40, 41], &[1], &[16 * 1024 + 37]];

const STEPS: usize = 9;

fn dtype(format: Format) -> DType {
    match format {
        Format::F16 => DType::F16,
        Format::BF16 => DType::BF16,
        _ => DType::F32,
    }
}

/// Small numbers, each format's own subnormals among them, of a type on a device.
fn numbers(seed: u64, shape: &[usize], dtype: DType, device: &Device) -> Tensor {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let count = shape.iter().product();
    let value = |random: &mut ChaCha8Rng| {
        let size: f32 = random.random_range(-1.0..1.0);
        size * 2f32.powi(random.random_range(-20..1))
    };
    let values: Vec<f32> = (0..count).map(|_| value(&mut random)).collect();
    ops::from_f32(&values, shape, dtype, device).unwrap()
}

/// The gradients of one step; in the third and fourth the second parameter's has an infinity, in the fourth the last a NaN.
fn gradients(step: usize, dtype: DType, device: &Device) -> Vec<Tensor> {
    let gradient = |(index, shape): (usize, &&[usize])| {
        let gradient = numbers(100 * step as u64 + index as u64, shape, dtype, device);
        let odd = match (step, index) {
            (2 | 3, 1) => f32::INFINITY,
            (3, 3) => f32::NAN,
            _ => return gradient,
        };
        let mut values = ops::to_f32(&gradient).unwrap();
        values[7] = odd;
        ops::from_f32(&values, *shape, dtype, device).unwrap()
    };
    SHAPES.iter().enumerate().map(gradient).collect()
}

/// The parameters of a run at its start.
fn parameters(rule: Update, policy: Policy, device: &Device) -> Vec<ParameterTensors> {
    let states = match rule {
        Update::Sgd(sgd) => usize::from(sgd.momentum != 0.0),
        Update::AdamW(_) => 2,
    };
    let parameter = |(index, shape): (usize, &&[usize])| {
        let weights = numbers(index as u64, shape, DType::F32, device);
        let stored = |format: Format| {
            let tensor = ops::copy(&weights).unwrap();
            ops::round(&tensor, format).unwrap();
            ops::cast(&tensor, dtype(format)).unwrap()
        };
        let state = |number| (number < states).then(|| ops::zeros(*shape, device).unwrap());
        ParameterTensors {
            weights: stored(policy.params),
            copy: (policy.params != policy.compute).then(|| stored(policy.compute)),
            first: state(0),
            second: state(1),
        }
    };
    SHAPES.iter().enumerate().map(parameter).collect()
}

/// What is there after all steps: what each did, every tensor of every parameter, and the Δw of the last.
fn after_all(
    rule: Update,
    policy: Policy,
    clip_norm: Option<f64>,
    device: &Device,
) -> (Vec<StepOutcome>, Vec<Vec<u32>>) {
    let parameters = parameters(rule, policy, device);
    let rate = |update: u64| Rates {
        lr: 0.5 / (update + 1) as f32,
        correction1: 1.0 + 1.0 / (update + 1) as f32,
        correction2: 1.0 + 0.5 / (update + 1) as f32,
    };
    let settings = StepSettings {
        rule,
        rates: RateSchedule::new(rate),
        scale: policy.scale,
        clip_norm,
        params: policy.params,
        compute: policy.compute,
    };
    let mut end = StepEnd::new(settings, parameters, device).unwrap();
    let mut outcomes = vec![];
    let mut deltas = vec![];
    for step in 0..STEPS {
        let loss = ops::from_host(vec![0.25 + step as f32], 1, device).unwrap();
        ops::copy_into(end.loss(), &loss).unwrap();
        let last = step + 1 == STEPS;
        deltas = SHAPES.map(|shape| ops::zeros(shape, device).unwrap()).to_vec();
        let watched = last.then_some(deltas.as_slice());
        let gradients = gradients(step, dtype(policy.compute), device);
        end.finish(&gradients, watched, &mut |_| Ok(())).unwrap();
        if step % 4 == 3 || last {
            outcomes.extend(end.outcomes().unwrap());
        }
    }
    let bits = |tensor: &Tensor| -> Vec<u32> {
        ops::to_f32(tensor).unwrap().iter().map(|value| value.to_bits()).collect()
    };
    let mut tensors: Vec<Vec<u32>> = deltas.iter().map(bits).collect();
    for ParameterTensors { weights, copy, first, second } in end.parameters() {
        let all = [Some(weights), copy.as_ref(), first.as_ref(), second.as_ref()];
        tensors.extend(all.into_iter().flatten().map(bits));
    }
    tensors.push(bits(end.scale()));
    for outcome in outcomes.iter_mut().filter(|outcome| outcome.blamed.is_some()) {
        // Infinite or NaN, and one NaN is not another.
        assert!(!outcome.gradients.squares.is_finite());
        outcome.gradients.squares = 0.0;
    }
    (outcomes, tensors)
}

#[test]
fn steps_end_as_on_the_cpu_to_the_bit() {
    let Some((device, _guard)) = gpu() else { return };
    let sgd = Sgd { lr: 0.0, momentum: 0.9, nesterov: false, weight_decay: 0.01 };
    let rules = [
        Update::Sgd(sgd),
        Update::Sgd(Sgd { nesterov: true, ..sgd }),
        Update::Sgd(Sgd { momentum: 0.0, weight_decay: 0.0, ..sgd }),
        Update::AdamW(AdamW {
            lr: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
            correction1: 0.0,
            correction2: 0.0,
        }),
    ];
    for text in [
        "fp32",
        "bf16-true",
        "fp16-true",
        "params=f32,compute=f16,reduce=f32,scale=dynamic:init=1024:interval=3",
        "params=f32,compute=bf16,reduce=f32,scale=static:8",
        "params=e4m3,compute=e4m3,reduce=f32,scale=none",
    ] {
        let policy: Policy = text.parse().unwrap();
        for rule in rules {
            for clip in [None, Some(0.75)] {
                let case = format!("{text}, {rule:?}, clip {clip:?}");
                let here = after_all(rule, policy, clip, &Device::Cpu);
                let there = after_all(rule, policy, clip, &device);
                assert_eq!(here.0, there.0, "{case}");
                assert_eq!(here.1, there.1, "{case}");
                assert_eq!(here.0.len(), STEPS, "{case}");
                let blamed: Vec<_> = here.0.iter().map(|outcome| outcome.blamed).collect();
                assert_eq!(blamed[2..4], [Some(1), Some(3)], "{case}");
                if let LossScale::Dynamic(_) = policy.scale {
                    let scales: Vec<f32> = here.0.iter().map(|outcome| outcome.scale).collect();
                    // Two skips halve it twice; three finite steps double it.
                    assert_eq!(scales[2..], [1024.0, 512.0, 256.0, 256.0, 256.0, 512.0, 512.0]);
                }
            }
        }
    }
}

/// More steps than a GPU keeps outcomes of: whether they ended the run is known, and what later ones did is told as ever.
#[test]
fn a_long_block_of_steps_tells_whether_it_ended_the_run() {
    let Some((device, _guard)) = gpu() else { return };
    for device in [&Device::Cpu, &device] {
        let weights = numbers(1, &[9], DType::F32, device);
        let parameter = ParameterTensors { weights, copy: None, first: None, second: None };
        let settings = StepSettings {
            rule: Update::Sgd(Sgd { lr: 0.0, momentum: 0.0, nesterov: false, weight_decay: 0.0 }),
            rates: RateSchedule::new(|_| Rates { lr: 0.5, correction1: 1.0, correction2: 1.0 }),
            scale: LossScale::None,
            clip_norm: None,
            params: Format::F32,
            compute: Format::F32,
        };
        let mut end = StepEnd::new(settings, vec![parameter], device).unwrap();
        let steps = |end: &mut StepEnd, count: usize, loss: f32| {
            for _ in 0..count {
                let loss = ops::from_host(vec![loss], 1, device).unwrap();
                ops::copy_into(end.loss(), &loss).unwrap();
                let gradients = [numbers(2, &[9], DType::F32, device)];
                end.finish(&gradients, None, &mut |_| Ok(())).unwrap();
            }
        };
        steps(&mut end, 130, 1.0);
        assert!(!end.is_over().unwrap());
        assert!(end.outcomes().unwrap().is_empty());
        steps(&mut end, 3, 2.0);
        let losses: Vec<f32> = end.outcomes().unwrap().iter().map(|told| told.loss).collect();
        assert_eq!(losses, [2.0; 3]);
        steps(&mut end, 70, 1.0);
        steps(&mut end, 1, f32::NAN);
        steps(&mut end, 70, 1.0);
        assert!(end.is_over().unwrap());
        assert!(end.is_over().unwrap(), "asked again");
    }
}

/// A loss that is not finite ends the run: later steps change nothing and are not told of.
#[test]
fn nothing_happens_after_the_end() {
    let Some((device, _guard)) = gpu() else { return };
    for device in [&Device::Cpu, &device] {
        let weights = numbers(1, &[9], DType::F32, device);
        let parameter =
            ParameterTensors { weights: weights.clone(), copy: None, first: None, second: None };
        let settings = StepSettings {
            rule: Update::Sgd(Sgd { lr: 0.0, momentum: 0.0, nesterov: false, weight_decay: 0.0 }),
            rates: RateSchedule::new(|_| Rates { lr: 0.5, correction1: 1.0, correction2: 1.0 }),
            scale: LossScale::None,
            clip_norm: None,
            params: Format::F32,
            compute: Format::F32,
        };
        let mut end = StepEnd::new(settings, vec![parameter], device).unwrap();
        let mut seen = vec![];
        for loss in [1.0, f32::NAN, 1.0] {
            let loss = ops::from_host(vec![loss], 1, device).unwrap();
            ops::copy_into(end.loss(), &loss).unwrap();
            let gradients = [numbers(2, &[9], DType::F32, device)];
            end.finish(&gradients, None, &mut |_| Ok(())).unwrap();
            seen.push(ops::to_f32(&weights).unwrap());
        }
        let outcomes = end.outcomes().unwrap();
        assert_eq!(outcomes.iter().map(|outcome| outcome.ends).collect::<Vec<_>>(), [false, true]);
        assert_eq!(
            outcomes.iter().map(|outcome| outcome.applied).collect::<Vec<_>>(),
            [true, false]
        );
        assert_eq!(seen[0], seen[1], "the step that ends the run updates nothing");
        assert_eq!(seen[1], seen[2]);
    }
}

/// More updates than a GPU holds the rates of: each has its own, whenever the host reads.
#[test]
fn every_update_of_a_long_run_has_its_own_rates() {
    const UPDATES: u64 = 2_100;
    let Some((device, _guard)) = gpu() else { return };
    let weights_after = |device: &Device| {
        let weights = ops::zeros(1, device).unwrap();
        let parameter =
            ParameterTensors { weights: weights.clone(), copy: None, first: None, second: None };
        let settings = StepSettings {
            rule: Update::Sgd(Sgd { lr: 0.0, momentum: 0.0, nesterov: false, weight_decay: 0.0 }),
            rates: RateSchedule::new(|update| Rates {
                lr: update as f32,
                correction1: 1.0,
                correction2: 1.0,
            }),
            scale: LossScale::None,
            clip_norm: None,
            params: Format::F32,
            compute: Format::F32,
        };
        let mut end = StepEnd::new(settings, vec![parameter], device).unwrap();
        let gradient = [ops::from_host(vec![-1.0_f32], 1, device).unwrap()];
        for step in 0..UPDATES {
            end.finish(&gradient, None, &mut |_| Ok(())).unwrap();
            if step % 60 == 59 {
                end.outcomes().unwrap();
            }
        }
        ops::to_f32(&weights).unwrap()[0]
    };
    // The sum of the rates 0, 1, 2 …: below 2²⁴, so that f32 is exact.
    let expected = (UPDATES * (UPDATES - 1) / 2) as f32;
    for device in [&Device::Cpu, &device] {
        assert_eq!(weights_after(device), expected, "{device:?}");
    }
}
