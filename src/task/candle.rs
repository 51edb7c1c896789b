//! Models of candle as they are: made through a `VarBuilder`, computed and differentiated by candle. What is around them is this
//! crate's: weights in the policy's formats, loss, loss scale, skipped steps, clipping, optimizer, schedule, memory and time.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Error, ModuleT, Result, Shape, Tensor, Var};
use candle_nn::init::NormalOrUniform;
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init as CandleInit, VarBuilder};

use super::{Task, TaskError};
use crate::data::{Batches, Dataset};
use crate::formatting::list;
use crate::layers::{Init, Layer, Parameter, Pass, Registry, Saved};
use crate::memory::HostMeter;
use crate::model::{Build, Model, ModelError, draw};
use crate::numerics::Role;
use crate::ops;
use crate::spec::Augment;

/// The layer that a module's result, and a parameter without a path, belong to.
const OUTPUT: &str = "output";

/// Images of the training split that a module is tried on.
const TRIED: usize = 2;

thread_local! {
    /// What [`observe`] was given while a pass counts; none otherwise.
    static OBSERVED: RefCell<Option<Vec<(String, Tensor)>>> = const { RefCell::new(None) };
}

/// Marks a tensor of a candle model for the census: its exponents are counted under `name` on census steps. Call it inside
/// `forward`; it does nothing anywhere else.
///
/// ```
/// use candle_core::{Module, Result, Tensor};
/// use mantissa::task::observe;
///
/// struct Scaled(candle_nn::Linear);
///
/// impl Module for Scaled {
///     fn forward(&self, x: &Tensor) -> Result<Tensor> {
///         let scores = self.0.forward(x)?;
///         observe("scores", &scores);
///         candle_nn::ops::softmax(&scores, 1)
///     }
/// }
/// ```
pub fn observe(name: &str, tensor: &Tensor) {
    OBSERVED.with_borrow_mut(|observed| {
        if let Some(observed) = observed {
            observed.push((name.to_owned(), tensor.clone()));
        }
    });
}

type Module = Box<dyn ModuleT>;
type MakeModule = dyn Fn(VarBuilder<'_>) -> Result<Module> + Send + Sync;

/// A model of candle and the data that it learns from.
///
/// The closure makes the module from a `VarBuilder`, as for training with candle alone. It is called once for every run and
/// policy, with a builder of the policy's compute format. A module maps images, N × C × H × W, to logits, N × classes. A
/// function `Fn(&Tensor, bool) -> Result<Tensor>` is a module too, by [`candle_nn::func_t`].
///
/// Initial values follow from the seed and from what the module asks for, not from candle's own generator. What candle computes
/// does not keep this crate's arithmetic contract, and is not counted before rounding: results say so.
///
/// ```
/// use candle_nn::{Module, linear, seq};
/// use mantissa::data;
/// use mantissa::spec::DataPlan;
/// use mantissa::task::CandleTask;
///
/// let data = data::load(&DataPlan::Digits { train: 100, test: 50, seed: 0 })?;
/// let task = CandleTask::new(data, |weights| {
///     let hidden = linear(28 * 28, 32, weights.pp("hidden"))?;
///     let output = linear(32, 10, weights.pp("output"))?;
///     Ok(seq().add_fn(|x| x.flatten_from(1)).add(hidden).add_fn(|x| x.relu()).add(output))
/// })
/// .build()?;
/// assert_eq!(task.model.parameters.len(), 4);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct CandleTask {
    data: Dataset,
    augment: Augment,
    make: Arc<MakeModule>,
}

impl CandleTask {
    /// A task of `data` and the module that `make` makes.
    pub fn new<M: ModuleT + 'static>(
        data: Dataset,
        make: impl Fn(VarBuilder<'_>) -> Result<M> + Send + Sync + 'static,
    ) -> Self {
        let make = move |builder: VarBuilder<'_>| Ok(Box::new(make(builder)?) as Module);
        Self { data, augment: Augment::default(), make: Arc::new(make) }
    }

    /// With training images augmented like this.
    #[must_use]
    pub fn augmented(self, augment: Augment) -> Self {
        Self { augment, ..self }
    }

    /// The task. The module is made and tried in f32 on a few training images, to learn its parameters and which of them get a
    /// gradient: candle's fused operations, such as its layer norm and softmax, give none. The others are not trained, and the
    /// results say so.
    ///
    /// # Errors
    /// When the module has no parameters, panics or fails, gives another shape or values that are not finite, or keeps tensors of
    /// every pass.
    pub fn build(self) -> std::result::Result<Task, TaskError> {
        let Self { data, augment, make } = self;
        let asked = asked_for(&make).map_err(|error| problem(&error))?;
        if asked.is_empty() {
            return Err(ModelError("the module asks its builder for no parameter".into()).into());
        }
        let images = tried_images(&data)?;
        let trial =
            trial(&make, &asked, &images, data.outputs()).map_err(|error| problem(&error))?;
        let (parameters, state): (Vec<_>, Vec<_>) =
            asked.into_iter().partition(|parameter| trial.trained.contains(&parameter.name));
        if parameters.is_empty() {
            return Err(ModelError("no parameter of the module gets a gradient".into()).into());
        }
        let mut registry = Registry { parameters, ..Registry::default() };
        let layers = registry.parameters.iter().map(|parameter| &parameter.layer);
        for layer in layers.chain(&trial.observed).chain([&OUTPUT.to_owned()]) {
            if !registry.layers.contains(layer) {
                registry.layers.push(layer.clone());
            }
        }
        let names: Vec<String> = state.iter().map(|parameter| parameter.name.clone()).collect();
        let notes = (!names.is_empty()).then(|| format!(
            "candle gives no gradient for {}: they are not trained, and keep their initial values unless the module itself changes them.",
            list(&names)
        ));
        let builder = Builder {
            make,
            names: registry.parameters.iter().map(|parameter| parameter.name.clone()).collect(),
            layers: registry.parameters.iter().map(|parameter| parameter.layer.clone()).collect(),
            state: names,
            outputs: data.outputs(),
        };
        let model = Model::of_build(data.shape(), registry, state, Box::new(builder))?;
        Ok(Task { model, data, augment, notes: notes.into_iter().collect() })
    }
}

/// What a module did wrong.
fn problem(error: &Error) -> ModelError {
    ModelError(error.to_string().lines().next().unwrap_or_default().to_owned())
}

/// The first images of the training split, in f32.
fn tried_images(data: &Dataset) -> std::result::Result<Tensor, TaskError> {
    let count = TRIED.min(data.samples()[0]).max(1);
    let mut batches = Batches::new(data, count, Augment::default(), 0)?;
    let failed = |error: Error| TaskError::from(problem(&error));
    let batch = batches.batch(0).map_err(|error| failed(error.into()))?;
    let [c, h, w] = data.shape();
    ops::from_host(batch.inputs, (count, c, h, w), &Device::Cpu).map_err(failed)
}

/// The parameters that a module asks its builder for, in that order.
fn asked_for(make: &Arc<MakeModule>) -> Result<Vec<Parameter>> {
    let recorder = Recorder::default();
    let asked = recorder.asked.clone();
    made(make, Box::new(recorder), DType::F32, &Device::Cpu)?;
    let asked = asked.lock().map_or_else(|poisoned| poisoned.into_inner().clone(), |a| a.clone());
    Ok(asked)
}

/// What a trial of a module found.
struct Trial {
    /// The parameters that get a gradient.
    trained: Vec<String>,
    /// The names of observed tensors.
    observed: Vec<String>,
}

/// Forward and backward passes in f32.
fn trial(
    make: &Arc<MakeModule>,
    asked: &[Parameter],
    images: &Tensor,
    outputs: usize,
) -> Result<Trial> {
    let mut tensors = BTreeMap::new();
    for (parameter, values) in asked.iter().zip(draw(asked, 0)) {
        let values = ops::from_host(values?, parameter.shape.as_slice(), &Device::Cpu)?;
        tensors.insert(parameter.name.clone(), Var::from_tensor(&values)?.into_inner());
    }
    let module = made(make, Box::new(Given(tensors.clone())), DType::F32, &Device::Cpu)?;
    OBSERVED.set(Some(Vec::new()));
    let result = output(module.as_ref(), images, true, outputs);
    let observed = OBSERVED.take().unwrap_or_default();
    let result = result?;
    let finite = ops::all_finite(&result.detach().contiguous()?)?;
    if !finite {
        let text = "the module's result is not finite on the first training images, in f32";
        return Err(Error::Msg(text.into()).bt());
    }
    let gradients = guarded("its backward pass", || result.sum_all()?.backward())?;
    let has_gradient = |parameter: &&Parameter| gradients.get(&tensors[&parameter.name]).is_some();
    let trained = asked.iter().filter(has_gradient).map(|p| p.name.clone()).collect();
    drop((result, gradients));
    let mut names: Vec<String> = Vec::new();
    for (name, _) in observed {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    keeps_nothing(module.as_ref(), images, outputs)?;
    Ok(Trial { trained, observed: names })
}

/// Three more passes, none of which may leave more behind than a result takes. Only looked at where memory is counted.
fn keeps_nothing(module: &dyn ModuleT, images: &Tensor, outputs: usize) -> Result<()> {
    let result_bytes = (images.dim(0)? * outputs * size_of::<f32>()) as u64;
    let mut least = u64::MAX;
    for _ in 0..3 {
        let Some(meter) = HostMeter::start() else { return Ok(()) };
        let pass = || output(module, images, true, outputs)?.sum_all()?.backward().map(drop);
        guarded("its backward pass", pass)?;
        least = least.min(meter.live().0);
    }
    if least < result_bytes {
        return Ok(());
    }
    let text = format!(
        "the module keeps {least} bytes of every pass alive: it must not store tensors that it computes, unless detached"
    );
    Err(Error::Msg(text).bt())
}

/// The module over what `backend` hands out.
fn made(
    make: &Arc<MakeModule>,
    backend: Box<dyn SimpleBackend>,
    dtype: DType,
    device: &Device,
) -> Result<Module> {
    let builder = VarBuilder::from_backend(backend, dtype, device.clone());
    guarded("making it", || make(builder))
}

/// The module's result, of the shape that it must have.
fn output(module: &dyn ModuleT, x: &Tensor, train: bool, outputs: usize) -> Result<Tensor> {
    let y = guarded("its forward pass", || module.forward_t(x, train))?;
    let expected = [x.dim(0)?, outputs];
    if y.dims() != expected {
        let text = format!(
            "the module's result has the shape {:?} for {} samples; expected {expected:?}, samples × outputs",
            y.dims(),
            expected[0]
        );
        return Err(Error::Msg(text).bt());
    }
    Ok(y)
}

/// What somebody else's code gives, or an error where it panics.
fn guarded<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = format!("the module panicked in {what}: {}", message(panic.as_ref()));
        Err(Error::Msg(text).bt())
    })
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

/// Notes what is asked for.
#[derive(Default)]
struct Recorder {
    asked: Arc<Mutex<Vec<Parameter>>>,
}

impl SimpleBackend for Recorder {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: CandleInit,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let mut asked =
            self.asked.lock().map_err(|_| Error::Msg("a builder panicked".into()).bt())?;
        match asked.iter().find(|parameter| parameter.name == name) {
            Some(known) if known.shape != shape.dims() => {
                let text = format!(
                    "{name} is asked for with the shape {:?}, and before with {:?}",
                    shape.dims(),
                    known.shape
                );
                return Err(Error::Msg(text).bt());
            }
            Some(_) => {}
            None => asked.push(Parameter {
                name: name.to_owned(),
                layer: name.rsplit_once('.').map_or(OUTPUT, |(layer, _)| layer).to_owned(),
                shape: shape.dims().to_vec(),
                init: initial(init, &shape),
            }),
        }
        Tensor::zeros(shape, dtype, device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let asked = self.asked.lock().map_err(|_| Error::Msg("a builder panicked".into()).bt())?;
        let known = asked.iter().find(|parameter| parameter.name == name);
        let known = known.ok_or_else(|| unknown(name))?;
        Tensor::zeros(known.shape.as_slice(), dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.asked.lock().is_ok_and(|asked| asked.iter().any(|known| known.name == name))
    }
}

fn unknown(name: &str) -> Error {
    Error::Msg(format!("{name} is asked for without a shape before it is known")).bt()
}

/// What a parameter starts from, as candle describes it.
fn initial(init: CandleInit, shape: &Shape) -> Init {
    match init {
        CandleInit::Const(value) => Init::Constant(value as f32),
        CandleInit::Uniform { lo, up } => Init::Uniform { low: lo as f32, high: up as f32 },
        CandleInit::Randn { mean, stdev } => {
            Init::Normal { mean: mean as f32, deviation: stdev as f32 }
        }
        CandleInit::Kaiming { dist, fan, non_linearity } => {
            let deviation = non_linearity.gain() / (fan.for_shape(shape).max(1) as f64).sqrt();
            match dist {
                NormalOrUniform::Uniform => {
                    let bound = (3_f64.sqrt() * deviation) as f32;
                    Init::Uniform { low: -bound, high: bound }
                }
                NormalOrUniform::Normal => Init::Normal { mean: 0.0, deviation: deviation as f32 },
            }
        }
    }
}

/// Hands out tensors by their names.
struct Given(BTreeMap<String, Tensor>);

impl Given {
    fn named(&self, name: &str, dtype: DType) -> Result<Tensor> {
        let tensor = self.0.get(name).ok_or_else(|| {
            let text = format!("{name} is asked for, and was not when the module was first made");
            Error::Msg(text).bt()
        })?;
        if tensor.dtype() != dtype {
            let (held, asked) = (tensor.dtype().as_str(), dtype.as_str());
            let text = format!(
                "{name} is asked for in {asked}, and this policy computes in {held}: use the builder's own type"
            );
            return Err(Error::Msg(text).bt());
        }
        Ok(tensor.clone())
    }
}

impl SimpleBackend for Given {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: CandleInit,
        dtype: DType,
        _: &Device,
    ) -> Result<Tensor> {
        let tensor = self.named(name, dtype)?;
        if tensor.dims() != shape.dims() {
            let (asked, held) = (shape.dims(), tensor.dims());
            let text =
                format!("{name} is asked for with the shape {asked:?}, and before with {held:?}");
            return Err(Error::Msg(text).bt());
        }
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, _: &Device) -> Result<Tensor> {
        self.named(name, dtype)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

/// Makes a module over its weights.
struct Builder {
    make: Arc<MakeModule>,
    /// Of each parameter: its name, and its layer's.
    names: Vec<String>,
    layers: Vec<String>,
    /// The names of what gets no gradient.
    state: Vec<String>,
    outputs: usize,
}

impl Build for Builder {
    fn build(&self, weights: &[Tensor], state: &[Tensor], trains: bool) -> Result<Box<dyn Layer>> {
        let named = |names: &[String], tensors: &[Tensor]| {
            names.iter().cloned().zip(tensors.iter().cloned()).collect::<Vec<_>>()
        };
        let tensors = named(&self.names, weights).into_iter().chain(named(&self.state, state));
        let first = weights.first().ok_or_else(|| unknown(OUTPUT))?;
        let (dtype, device) = (first.dtype(), first.device());
        let module = made(&self.make, Box::new(Given(tensors.collect())), dtype, device)?;
        Ok(Box::new(CandleLayer {
            module,
            weights: if trains { weights.to_vec() } else { Vec::new() },
            layers: self.layers.clone(),
            outputs: self.outputs,
        }))
    }
}

/// A whole module as one layer.
struct CandleLayer {
    module: Module,
    /// The variables; none where it does not train.
    weights: Vec<Tensor>,
    /// The layer of each.
    layers: Vec<String>,
    outputs: usize,
}

impl Layer for CandleLayer {
    fn forward(&self, x: Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let counts = pass.counts();
        OBSERVED.set(counts.then(Vec::new));
        let y = output(self.module.as_ref(), &x, pass.is_training(), self.outputs);
        let observed = OBSERVED.take().unwrap_or_default();
        let y = y?;
        for (name, tensor) in observed {
            pass.observe(&name, Role::Activations, &tensor)?;
        }
        pass.observe(OUTPUT, Role::Activations, &y)?;
        // Without a graph: what follows is not candle's.
        let result = y.detach().contiguous()?;
        pass.save(Saved::Tensor(y));
        pass.activation(OUTPUT, result)
    }

    /// candle starts a backward pass from a scalar: that of y · dy has dy as its gradient with respect to y.
    fn backward(&self, dy: Tensor, pass: &mut Pass<'_>) -> Result<Option<Tensor>> {
        let y = pass.take_tensor()?;
        let gradients = guarded("its backward pass", || (y * dy.detach())?.sum_all()?.backward())?;
        for (index, (weight, layer)) in self.weights.iter().zip(&self.layers).enumerate() {
            let gradient = gradients.get(weight).ok_or_else(|| {
                let text = format!("candle gives no gradient for a parameter of {layer} any more");
                Error::Msg(text).bt()
            })?;
            let gradient = gradient.detach().contiguous()?;
            pass.observe(layer, Role::WeightGradients, &gradient)?;
            pass.weight_gradient(layer, index, gradient)?;
        }
        Ok(None)
    }
}
