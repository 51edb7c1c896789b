//! What an experiment would do, found out from its data, its shapes and a few timed steps.

use candle_core::Device;

use super::{Experiment, first_seed};
use crate::data::Dataset;
use crate::precision::Policy;
use crate::record::DataFacts;
use crate::spec::Plan;
use crate::train::{Phase, RunError, ServingTimes, Timing, Trainer};
use crate::units::{Bytes, Seconds};

/// What an experiment would do.
///
/// ```
/// use candle_core::Device;
/// use mantissa::experiment::Experiment;
/// use mantissa::spec::{Overrides, Plan};
/// use mantissa::task::Task;
///
/// let spec = "
///     name = 'small'
///     variants = ['fp32']
///     seeds = 1
///     data = { kind = 'digits', train = 50, test = 20 }
///     model = { kind = 'mlp', hidden = [8] }
///     train = { steps = 2, batch = 10, optimizer = { kind = 'sgd', lr = 0.1 }, schedule = { warmup = 0 } }
///     measure = { timing_blocks = 1, timing_steps = 1 }
/// ";
/// let plan = Plan::read("the example", spec, &Overrides::default())?;
/// let task = Task::of_plan(&plan)?;
/// let dry_run = Experiment::new(plan, task)?.dry_run(&Device::Cpu)?;
/// assert_eq!(dry_run.parameters[0].1, [8, 28 * 28], "the shape of the first weight");
/// assert_eq!(dry_run.variants.len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct DryRun {
    /// The data.
    pub data: DataFacts,
    /// Name and shape of each parameter.
    pub parameters: Vec<(String, Vec<usize>)>,
    /// Each variant, in the plan's order.
    pub variants: Vec<DryVariant>,
    /// How long the variants that were timed will take, by their timed steps, with evaluation and the timing phase.
    pub estimate: Option<Seconds>,
}

/// What training a variant would take.
///
/// ```
/// use mantissa::experiment::DryRun;
///
/// /// The bytes that each variant needs for weights, master weights, gradients and the optimizer.
/// fn bytes(dry_run: &DryRun) -> Vec<(&str, u64)> {
///     let of = |bytes: &[mantissa::units::Bytes]| bytes.iter().map(|bytes| bytes.0).sum();
///     dry_run.variants.iter().map(|variant| (&variant.name[..], of(&variant.memory))).collect()
/// }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct DryVariant {
    /// Its name.
    pub name: String,
    /// Bytes of the weights that compute, the master weights, the gradients and the optimizer's state, as the shapes give them.
    pub memory: [Bytes; 4],
    /// A training step, if its arithmetic is native.
    pub step: Option<Seconds>,
    /// Why it was not timed, where it could be expected.
    pub failure: Option<String>,
}

impl Experiment {
    /// Times one block of every variant with native arithmetic, and says what the experiment would take.
    ///
    /// # Errors
    /// When a variant's state does not fit the machine's memory, or a batch cannot be made.
    pub fn dry_run(&self, device: &Device) -> Result<DryRun, RunError> {
        let Self { plan, task, .. } = self;
        let setup = self.setup_on(device);
        let bytes = |policy: Policy| -> Result<[Bytes; 4], RunError> {
            let trainer = Trainer::new(setup, policy, first_seed(plan))?;
            let [weights, master_weights, optimizer] = trainer.tensor_bytes();
            let gradients = trainer.gradient_bytes();
            Ok([weights, master_weights, gradients, optimizer].map(Bytes))
        };
        let memory = plan.variants.iter().map(|variant| bytes(variant.policy));
        let memory = memory.collect::<Result<Vec<_>, _>>()?;
        let timings = self.time_blocks(device, Phase { blocks: 0..1, products: false })?;
        let estimate = estimate(plan, &task.data, &timings);
        let variants = plan.variants.iter().zip(memory).zip(timings);
        let variants = variants.map(|((variant, memory), timing)| DryVariant {
            name: variant.name.clone(),
            memory,
            step: timing.train.first().copied(),
            failure: timing.failure,
        });
        let parameters = task.model.parameters.iter();
        Ok(DryRun {
            data: task.data.facts(),
            parameters: parameters.map(|p| (p.name.clone(), p.shape.clone())).collect(),
            variants: variants.collect(),
            estimate,
        })
    }
}

/// The time of the runs and of the timing phase, of the variants that have times.
fn estimate(plan: &Plan, data: &Dataset, timings: &[Timing]) -> Option<Seconds> {
    let [_, test] = data.samples();
    let test_batches = test.div_ceil(plan.measure.inference_batch) as f64;
    let last = plan.train.steps.saturating_sub(1);
    let tests = 1 + plan.train.evaluate_every.map_or(0, |every| last / every);
    let measure = plan.measure;
    // Each block is steps that are timed as a whole, as many by phase, and batches of inference.
    let in_phase = measure.timing_warmup + measure.timing_blocks * 2 * measure.timing_steps;
    let inferred = measure.timing_blocks * measure.timing_steps;
    let controls = plan.control_plans();
    let seconds = plan.variants.iter().zip(timings).filter_map(|(variant, timing)| {
        let step = match timing.train.first() {
            None if plan.train.steps == 0 => 0.0,
            step => step?.0,
        };
        let batch = timing.inference.first()?.0;
        let own = controls.iter().filter(|control| control.variant.policy == variant.policy);
        let is_baseline = variant.name == plan.baseline;
        let again: usize = own.filter(|_| is_baseline).map(|control| control.seeds.len()).sum();
        let runs = (plan.seeds.len() + again) as f64;
        let [compared, served] = serving(plan, timing);
        let run = plan.train.steps as f64 * step + tests as f64 * test_batches * batch + compared;
        let served = measure.timing_blocks as f64 * served;
        Some(runs * run + in_phase as f64 * step + inferred as f64 * batch + served)
    });
    let seconds: Vec<f64> = seconds.collect();
    (!seconds.is_empty()).then(|| Seconds(seconds.iter().sum()))
}

/// Seconds in which the tokens of a run are compared with FP32's, and in which a block serves; none without serving.
fn serving(plan: &Plan, timing: &Timing) -> [f64; 2] {
    let Some(asked) = plan.measure.serving else { return [0.0; 2] };
    let once = |times: &ServingTimes| times.once(asked.generate).unwrap_or_default();
    let comparisons = 2 * asked.prompts.div_ceil(asked.batch);
    let compared = timing.serving.last().map_or(0.0, once) * comparisons as f64;
    [compared, timing.serving.iter().map(once).sum::<f64>() * ServingTimes::ROUNDS as f64]
}
