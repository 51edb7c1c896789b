//! Models of candle as tasks: what is computed is what candle computes, and what a module does wrong is said.

#![expect(clippy::unwrap_used, reason = "a test stops where something is not there")]
#![expect(clippy::disallowed_types, reason = "candle's own builder takes a hash map")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use candle_core::{D, DType, Device, ModuleT, Result, Tensor, Var};
use candle_nn::{
    BatchNormConfig, Conv2dConfig, LayerNormConfig, Module, VarBuilder, batch_norm, conv2d, func_t,
    layer_norm, linear, seq,
};
use mantissa::data::{self, Batch, Dataset, Targets};
use mantissa::experiment::{Experiment, Options};
use mantissa::memory::CountingAllocator;
use mantissa::model::Engine;
use mantissa::record::{Environment, Results, Role, RunRecord, Status};
use mantissa::spec::{DataPlan, Plan};
use mantissa::store::Folder;
use mantissa::task::{CandleTask, Task, observe};
use mantissa::train::{self, DeviceBatch, Setup, Trainer};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

fn digits() -> Dataset {
    data::load(&DataPlan::Digits { train: 200, test: 100, seed: 0 }).unwrap()
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "functions that make modules get their builder so"
)]
fn mlp(weights: VarBuilder<'_>) -> Result<impl ModuleT + use<>> {
    let hidden = linear(28 * 28, 16, weights.pp("hidden"))?;
    let output = linear(16, 10, weights.pp("output"))?;
    Ok(seq().add_fn(|x| x.flatten_from(1)).add(hidden).add_fn(Tensor::relu).add(output))
}

fn plan(task: &Task, variants: &str, optimizer: &str) -> Plan {
    let spec = format!(
        "name = \"candle\"\nvariants = [{variants}]\nseeds = 1\n[train]\nsteps = 12\nbatch = 20\noptimizer = {optimizer}\n\
         schedule = {{ kind = \"constant\", warmup = 0 }}\n[measure]\ncensus_every = 5\ntiming_blocks = 0\n"
    );
    task.plan("test", &spec).unwrap()
}

const ADAMW: &str = "{ kind = \"adamw\", lr = 1e-3 }";

fn record(task: &Task, policy: &str) -> std::result::Result<RunRecord, String> {
    let plan = plan(task, &format!("\"{policy}\""), ADAMW);
    let setup = Setup::new(&plan, task, &Device::Cpu);
    let trained = train::run(setup, (&plan.variants[0], 0), None, &mut |_: u64| ());
    trained.map(|ended| ended.trained().unwrap().record).map_err(|error| error.to_string())
}

/// The labels of a batch of 20.
fn labels(batch: &Batch) -> Tensor {
    let Targets::Labels(labels) = &batch.targets else { panic!("labels") };
    Tensor::from_vec(labels.clone(), 20, &Device::Cpu).unwrap()
}

/// Three steps of SGD, against candle's own loop on the same initial values, batches and loss. Both are sums in f32 of the same
/// products; the gradient of the loss differs in its last bits.
#[test]
fn a_step_is_what_candle_and_plain_sgd_make_of_it() {
    let task = CandleTask::new(digits(), mlp).build().unwrap();
    let plan = plan(&task, "\"fp32\"", "{ kind = \"sgd\", lr = 0.1 }");
    let setup = Setup::new(&plan, &task, &Device::Cpu);
    let mut trainer = Trainer::new(setup, plan.variants[0].policy, 0).unwrap();
    let mut batches = setup.batches(0).unwrap();

    let variables: HashMap<String, Var> = task
        .model
        .parameters
        .iter()
        .zip(task.model.initial_values(0))
        .map(|(parameter, values)| {
            let shape = parameter.shape.as_slice();
            let tensor = Tensor::from_vec(values.unwrap(), shape, &Device::Cpu).unwrap();
            (parameter.name.clone(), Var::from_tensor(&tensor).unwrap())
        })
        .collect();
    let tensors: HashMap<String, Tensor> = variables
        .iter()
        .map(|(name, variable)| (name.clone(), variable.as_tensor().clone()))
        .collect();
    let module = mlp(VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu)).unwrap();

    for step in 0..3 {
        let batch = batches.batch(step).unwrap();
        let images = Tensor::from_vec(batch.inputs.clone(), (20, 1, 28, 28), &Device::Cpu).unwrap();
        let labels = labels(&batch);
        let logits = module.forward_t(&images, true).unwrap();
        let gradients =
            candle_nn::loss::cross_entropy(&logits, &labels).unwrap().backward().unwrap();
        for variable in variables.values() {
            let update = (gradients.get(variable).unwrap() * 0.1).unwrap();
            variable.set(&(variable.as_tensor() - update).unwrap()).unwrap();
        }
        let batch = DeviceBatch::new(batch, [1, 28, 28], &Device::Cpu).unwrap();
        trainer.step(&mut |_| Ok(batch.clone()), None).unwrap();
        trainer.outcomes().unwrap();

        let expected = module.forward_t(&images, false).unwrap();
        let found = trainer.for_inference().unwrap().forward(&batch).unwrap();
        let difference = (expected.detach() - found).unwrap().abs().unwrap().max_all().unwrap();
        let difference = difference.to_scalar::<f32>().unwrap();
        assert!(difference < 2e-5, "step {step}: {difference}");
    }
}

#[test]
fn every_native_policy_trains_and_the_record_says_what_can_be_known() {
    let task = CandleTask::new(digits(), |weights| {
        let hidden = linear(28 * 28, 16, weights.pp("hidden"))?;
        let output = linear(16, 10, weights.pp("output"))?;
        Ok(func_t(move |x, _| {
            let y = output.forward(&hidden.forward(&x.flatten_from(1)?)?.relu()?)?;
            observe("scores", &y);
            Ok(y)
        }))
    })
    .build()
    .unwrap();
    assert_eq!(task.model.layer_names, ["hidden", "output", "scores"]);
    for policy in ["fp32", "fp16-mixed", "bf16-mixed", "fp16-true", "bf16-true"] {
        let found = record(&task, policy).unwrap();
        assert_eq!(found, record(&task, policy).unwrap(), "{policy}: again");
        assert_eq!(found.summary.status, Status::Completed, "{policy}");
        let seen: Vec<_> = found
            .census
            .iter()
            .map(|census| (census.layer.as_str(), census.role, census.counts.is_some()))
            .collect();
        let expected = [
            ("hidden", Role::Weights, true),
            ("hidden", Role::WeightGradients, false),
            ("hidden", Role::Updates, true),
            ("output", Role::Weights, true),
            ("output", Role::Activations, false),
            ("output", Role::WeightGradients, false),
            ("output", Role::Updates, true),
            ("scores", Role::Activations, false),
        ];
        let activation_gradients = |role: &Role| *role == Role::ActivationGradients;
        assert!(!seen.iter().any(|(_, role, _)| activation_gradients(role)), "{policy}");
        assert_eq!(seen, expected, "{policy}");
        // Every value of a role is in its histogram: 12 steps, of which 0, 5 and 10 are counted.
        let scores = found.census.last().unwrap();
        let all: u64 = scores.exponents.bins.iter().sum();
        assert_eq!(all + scores.exponents.zeros + scores.exponents.non_finite, 3 * 20 * 10);
        let memory = found.memory.unwrap();
        let values: u64 = 784 * 16 + 16 + 16 * 10 + 10;
        let bytes = |format: &str| if policy == "fp32" || format == "f32" { 4 } else { 2 };
        assert_eq!(memory.weights.0, bytes("compute") * values, "{policy}");
        let masters = if policy.ends_with("mixed") { 4 * values } else { 0 };
        assert_eq!(memory.master_weights.0, masters, "{policy}");
    }
}

/// f16's largest value is 65,504: a loss scale of 2²⁴ makes gradients overflow, and steps are skipped until it has come down.
#[test]
fn the_loss_scale_skips_and_settles() {
    let task = CandleTask::new(digits(), mlp).build().unwrap();
    let policy = "params=f32,compute=f16,reduce=f32,scale=dynamic:init=16777216";
    let plan = plan(&task, &format!("{{ name = \"high\", policy = \"{policy}\" }}"), ADAMW);
    let setup = Setup::new(&plan, &task, &Device::Cpu);
    let record = train::run(setup, (&plan.variants[0], 0), None, &mut |_: u64| ())
        .unwrap()
        .trained()
        .unwrap()
        .record;
    assert!(record.summary.skipped_steps > 0);
    assert!(record.gradients.infinite + record.gradients.nan > 0);
    let last = record.scale.last().unwrap().1;
    assert_eq!(last, 16_777_216.0 / 2_f64.powi(record.summary.skipped_steps as i32));
}

#[test]
fn what_candle_refuses_is_a_result_and_the_others_go_on() {
    let task = CandleTask::new(digits(), |weights| {
        let conv = conv2d(1, 2, 3, Conv2dConfig::default(), weights.pp("conv"))?;
        let output = linear(2 * 26 * 26, 10, weights.pp("output"))?;
        Ok(seq().add(conv).add_fn(|x| x.flatten_from(1)).add(output))
    })
    .build()
    .unwrap();
    let plan = plan(&task, "\"fp32\", \"bf16-mixed\"", ADAMW);
    let results = run(plan, task);
    let [fp32, bf16] = [&results.variants[0].runs[0], &results.variants[1].runs[0]];
    assert_eq!(fp32.status, Status::Completed);
    assert_eq!(bf16.status, Status::Failed);
    let reason = &bf16.failure.as_ref().unwrap().reason;
    assert!(reason.contains("unsupported dtype BF16"), "{reason}");
}

/// What candle computes of values in f32 would be f32's results under another name.
#[test]
fn formats_that_candle_does_not_have_are_refused() {
    let task = CandleTask::new(digits(), mlp).build().unwrap();
    let expected = "candle has no arithmetic of tf32; its models compute in f32, f16 or bf16";
    assert_eq!(record(&task, "tf32").unwrap_err(), expected);
}

fn run(plan: Plan, task: Task) -> Results {
    let folder = tempfile::tempdir().unwrap();
    let lock = Folder::lock(folder.path(), "a test").unwrap();
    let environment = Environment::default();
    let options = Options {
        folder: &lock,
        force: false,
        save_weights: false,
        stop: None,
        device: &Device::Cpu,
        environment: &environment,
    };
    Experiment::new(plan, task).unwrap().run(options, &mut |_| ()).unwrap()
}

/// The results say whose operations they are of, and hold null for what only own operations tell.
#[test]
fn results_say_that_candle_computed() {
    let task = CandleTask::new(digits(), mlp).build().unwrap();
    let plan = plan(&task, "\"fp32\", \"fp16-mixed\"", ADAMW);
    let results = run(plan, task);
    assert_eq!(results.engine, Engine::Candle);
    let says = |note: &String| note.starts_with("candle's own operations computed these models");
    assert!(results.environment.notes.iter().any(says), "{:?}", results.environment.notes);
    let json = serde_json::to_value(&results).unwrap();
    assert_eq!(json["engine"], "candle");
    let numerics = &json["variants"][1]["numerics"];
    for role in ["activations", "activation_gradients", "weight_gradients"] {
        assert!(numerics[role].is_null(), "{role}: {numerics}");
    }
    assert!(numerics["weights"]["elements"].as_u64().unwrap() > 0);
    assert!(numerics["gradients"]["elements"].as_u64().unwrap() > 0);
    let again: Results = serde_json::from_value(json).unwrap();
    assert_eq!(again, results);
}

/// candle's layer norm on contiguous input is fused and has no backward; its running statistics are no parameters.
#[test]
fn parameters_without_a_gradient_are_named_and_keep_their_values() {
    let task = CandleTask::new(digits(), |weights| {
        let norm = layer_norm(784, LayerNormConfig::default(), weights.pp("norm"))?;
        let output = linear(784, 10, weights.pp("output"))?;
        Ok(func_t(move |x: &Tensor, _| {
            let x = x.flatten_from(1)?;
            // The fused norm cuts the graph: only what is behind it trains.
            output.forward(&norm.forward(&x)?)
        }))
    })
    .build()
    .unwrap();
    let note = "candle gives no gradient for norm.weight and norm.bias: they are not trained, and keep their initial values unless \
                the module itself changes them.";
    assert_eq!(task.notes, [note]);
    let names: Vec<&str> = task.model.parameters.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["output.weight", "output.bias"]);
    let results = run(plan(&task, "\"fp32\"", ADAMW), task);
    assert!(results.environment.notes.iter().any(|known| known == note));
}

/// Inference uses the running statistics that training left in the module: on the images that it was trained on, all but the
/// statistics being as in training, they are near those of the batch.
#[test]
fn running_statistics_go_from_training_to_inference() {
    let config = BatchNormConfig { momentum: 1.0, ..BatchNormConfig::default() };
    let task = CandleTask::new(digits(), move |weights| {
        let norm = batch_norm(1, config, weights.pp("norm"))?;
        let output = linear(784, 10, weights.pp("output"))?;
        Ok(func_t(move |x: &Tensor, train| {
            output.forward(&norm.forward_t(x, train)?.flatten_from(1)?)
        }))
    })
    .build()
    .unwrap();
    let state: Vec<&str> = task.model.state.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(state, ["norm.running_mean", "norm.running_var"]);
    let plan = plan(&task, "\"fp32\"", "{ kind = \"sgd\", lr = 1e-9 }");
    let setup = Setup::new(&plan, &task, &Device::Cpu);
    let mut trainer = Trainer::new(setup, plan.variants[0].policy, 0).unwrap();
    let mut batches = setup.batches(0).unwrap();
    let batch = DeviceBatch::new(batches.batch(0).unwrap(), [1, 28, 28], &Device::Cpu).unwrap();
    let before = trainer.for_inference().unwrap().forward(&batch).unwrap();
    trainer.step(&mut |_| Ok(batch.clone()), None).unwrap();
    trainer.outcomes().unwrap();
    let after = trainer.for_inference().unwrap().forward(&batch).unwrap();
    let apart = |a: &Tensor, b: &Tensor| {
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap()
    };
    // The batch is standardized with the whole split's statistics, its own differ a little.
    assert!(apart(&before, &after) > 1e-4);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn what_a_module_does_wrong_is_said() {
    type Make = Box<dyn Fn(VarBuilder<'_>) -> Result<Boxed> + Send + Sync>;
    struct Boxed(Box<dyn ModuleT>);
    impl ModuleT for Boxed {
        fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
            self.0.forward_t(x, train)
        }
    }
    /// A module that a closure makes of the logits of a linear layer.
    fn with(change: impl Fn(Tensor) -> Result<Tensor> + Send + Sync + Clone + 'static) -> Make {
        Box::new(move |weights| {
            let (output, change) = (linear(784, 10, weights.pp("output"))?, change.clone());
            Ok(Boxed(Box::new(func_t(move |x: &Tensor, _| {
                change(output.forward(&x.flatten_from(1)?)?)
            }))))
        })
    }
    let kept: Arc<Mutex<Vec<Tensor>>> = Arc::default();
    let table: Vec<(Make, &str)> = vec![
        (with(|_| panic!("no luck")), "model: the module panicked in its forward pass: no luck"),
        (
            with(|y| y / 0.0),
            "model: the module's result is not finite on the first training images, in f32",
        ),
        (
            with(|y| y.narrow(D::Minus1, 0, 3)),
            "model: the module's result has the shape [2, 3] for 2 samples; expected [2, 10], samples × outputs",
        ),
        (with(|y| Ok(y.detach())), "model: no parameter of the module gets a gradient"),
        (
            with(move |y| {
                kept.lock().unwrap().push(y.clone());
                Ok(y)
            }),
            "model: the module keeps ",
        ),
        (
            Box::new(|_| {
                Ok(Boxed(Box::new(func_t(|x: &Tensor, _| x.flatten_from(1)?.narrow(1, 0, 10)))))
            }),
            "model: the module asks its builder for no parameter",
        ),
        (
            Box::new(|weights| {
                weights.get((2, 3), "w")?;
                weights.get((3, 2), "w")?;
                Ok(Boxed(Box::new(func_t(|x: &Tensor, _| Ok(x.clone())))))
            }),
            "model: w is asked for with the shape [3, 2], and before with [2, 3]",
        ),
        (
            Box::new(|weights| {
                let output = linear(100, 10, weights.pp("output"))?;
                Ok(Boxed(Box::new(func_t(move |x: &Tensor, _| {
                    output.forward(&x.flatten_from(1)?)
                }))))
            }),
            "model: shape mismatch in matmul",
        ),
    ];
    for (make, expected) in table {
        let task = CandleTask::new(digits(), make).build();
        let found = task.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(
            found.starts_with(expected) && !found.contains('\n'),
            "{found:?}, not {expected:?}"
        );
    }
}

#[test]
fn a_task_has_the_only_data_and_model() {
    let task = CandleTask::new(digits(), mlp).build().unwrap();
    let refused = |spec: &str| task.plan("own.toml", spec).unwrap_err().to_string();
    let start = "name = \"x\"\nvariants = [\"fp32\"]\n\
                 train = { steps = 1, batch = 1, optimizer = { kind = \"sgd\", lr = 0.1 } }\n";
    assert_eq!(
        refused(&format!("{start}[data]\nkind = \"digits\"\n")),
        "own.toml:4:2: data: the task brings its own; remove this key"
    );
}
