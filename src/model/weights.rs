//! Weights in files: safetensors with the names of parameters, `LAYER.running_mean` and `LAYER.running_var` of a batch norm.

use std::collections::BTreeSet;

use candle_core::Tensor;
use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorView};
use sha2::{Digest as _, Sha256};

use super::Model;
use crate::formatting::{self, list_of_at_most};
use crate::layers::Parameter;

/// More tensors that do not fit are only counted.
const MOST_SHOWN: usize = 8;

/// A file whose weights are not those of a model.
///
/// ```
/// use mantissa::layers::Sequential;
/// use mantissa::model::{Model, WeightsError};
///
/// let mut model = Model::of_layers([1, 28, 28], |_| Ok(Sequential::default()))?;
/// assert!(matches!(model.start_from(b"no safetensors"), Err(WeightsError::Malformed(_))));
/// # Ok::<(), mantissa::model::ModelError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeightsError {
    /// It is no safetensors file, or is cut short.
    #[error("not a file of safetensors: {0}")]
    Malformed(String),
    /// Tensors are missing, left over, or of another shape or type.
    #[error("the weights are not those of this model: {0}")]
    Mismatch(String),
}

/// Where a file of weights has a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileTensor {
    /// The name of the tensor.
    pub name: String,
    /// Whether a matrix is stored as inputs × outputs; the parameter is outputs × inputs.
    pub transposed: bool,
    /// Which part of the tensor the parameter is, from 0, and of how many: they stand one behind the other along the outputs.
    pub part: (usize, usize),
    /// Whether a file may lack it, as one without the layers of a task does. It is drawn then.
    pub optional: bool,
}

impl FileTensor {
    /// A tensor of this name that is the parameter as it is.
    pub(crate) fn as_it_is(name: impl Into<String>) -> Self {
        Self { name: name.into(), transposed: false, part: (0, 1), optional: false }
    }
}

/// A safetensors file whose table of tensors was read.
pub(crate) struct WeightsFile<'a> {
    bytes: &'a [u8],
    tensors: SafeTensors<'a>,
}

impl<'a> WeightsFile<'a> {
    /// Reads the table of a file.
    ///
    /// # Errors
    /// When it is no safetensors file, or is cut short.
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, WeightsError> {
        let malformed = |error: SafeTensorError| WeightsError::Malformed(error.to_string());
        Ok(Self { bytes, tensors: SafeTensors::deserialize(bytes).map_err(malformed)? })
    }

    /// The names of its tensors.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.tensors.names()
    }
}

/// What a checkpoint and a model do not share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NotShared {
    /// Tensors that the model lacks.
    pub unused: Vec<String>,
    /// Parameters that are drawn since the checkpoint lacks them.
    pub drawn: Vec<String>,
}

/// Values that a model starts from instead of drawn ones: the same for every seed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Given {
    /// In the order of the parameters; none of one that is drawn.
    pub(super) parameters: Vec<Option<Vec<f32>>>,
    /// In the order of the state.
    pub(super) state: Vec<Option<Vec<f32>>>,
    /// Mean and variance of each batch norm.
    pub(super) statistics: Vec<[Vec<f32>; 2]>,
    /// SHA-256 of the file, or of the files one behind the other.
    pub(super) digest: String,
}

/// A tensor that a file of a model's weights has.
struct Wanted {
    file_tensor: FileTensor,
    /// Of the parameter.
    shape: Vec<usize>,
}

impl Wanted {
    /// The shape in the file.
    fn stored_shape(&self) -> Vec<usize> {
        let mut shape = self.shape.clone();
        if let Some(outputs) = shape.first_mut() {
            *outputs *= self.file_tensor.part.1;
        }
        if self.file_tensor.transposed {
            shape.reverse();
        }
        shape
    }

    /// The values of the parameter, from those of the tensor in the file.
    fn taken(&self, values: Vec<f32>) -> Vec<f32> {
        let (part, parts) = self.file_tensor.part;
        let outputs = self.shape.first().copied().unwrap_or(1);
        let inputs = self.shape.iter().skip(1).product::<usize>();
        let first = part * outputs;
        if self.file_tensor.transposed {
            let all = parts * outputs;
            let of = |output: usize| (0..inputs).map(move |input| input * all + output);
            return (first..first + outputs).flat_map(of).map(|at| values[at]).collect();
        }
        if parts == 1 {
            values
        } else {
            values[first * inputs..(first + outputs) * inputs].to_vec()
        }
    }
}

impl Given {
    /// Reads files of a model's weights: f32, f64, f16 or bf16, each widened or rounded to f32.
    fn read(model: &Model, files: &[WeightsFile<'_>]) -> Result<(Self, NotShared), WeightsError> {
        let wanted = wanted(model);
        let (mut problems, mut not_shared) = (Vec::new(), NotShared::default());
        let mut values = Vec::with_capacity(wanted.len());
        for wanted in &wanted {
            let (name, shape) = (&wanted.file_tensor.name, wanted.stored_shape());
            let read = match files.iter().find_map(|file| file.tensors.tensor(name).ok()) {
                None if wanted.file_tensor.optional => {
                    not_shared.drawn.push(name.clone());
                    Ok(None)
                }
                None => Err(format!("{name} is missing")),
                Some(view) if view.shape() != shape => Err(format!(
                    "{name} has the shape {:?} in the file, and {shape:?} in the model",
                    view.shape()
                )),
                Some(view) => match to_f32(&view) {
                    Some(read) => Ok(Some(wanted.taken(read))),
                    None => Err(format!("{name} is of the type {:?}", view.dtype())),
                },
            };
            match read {
                Ok(read) => values.push(read),
                Err(problem) => problems.push(problem),
            }
        }
        let known: BTreeSet<&str> =
            wanted.iter().map(|wanted| wanted.file_tensor.name.as_str()).collect();
        let names = files.iter().flat_map(WeightsFile::names);
        not_shared.unused = names.filter(|name| !known.contains(name)).map(str::to_owned).collect();
        not_shared.unused.sort_unstable();
        // The parts of one tensor have the same problem.
        problems.dedup();
        if model.file_tensors.is_none() {
            let more = &not_shared.unused;
            problems.extend(more.iter().map(|name| format!("{name} is not in the model")));
        }
        if !problems.is_empty() {
            return Err(WeightsError::Mismatch(list_of_at_most(MOST_SHOWN, problems)));
        }
        let mut values = values.into_iter();
        let mut take = |count: usize| values.by_ref().take(count).collect::<Vec<_>>();
        let (parameters, state) = (take(model.parameters.len()), take(model.state.len()));
        let mut one = || take(1).into_iter().flatten().flatten().collect();
        let statistics = model.statistics.iter().map(|_| [one(), one()]).collect();
        let mut digest = Sha256::new();
        for file in files {
            digest.update(file.bytes);
        }
        let digest = formatting::hex(&digest.finalize());
        Ok((Self { parameters, state, statistics, digest }, not_shared))
    }
}

/// What a file of a model's weights has, in order.
fn wanted(model: &Model) -> Vec<Wanted> {
    let place = |(index, parameter): (usize, &Parameter)| Wanted {
        file_tensor: match &model.file_tensors {
            Some(tensors) => tensors[index].clone(),
            None => FileTensor::as_it_is(&parameter.name),
        },
        shape: parameter.shape.clone(),
    };
    let parameters = model.parameters.iter().enumerate().map(place);
    let state = model.state.iter().map(|state| Wanted {
        file_tensor: FileTensor::as_it_is(&state.name),
        shape: state.shape.clone(),
    });
    let statistics = model.statistics.iter().flat_map(|norm| {
        ["running_mean", "running_var"].map(|part| Wanted {
            file_tensor: FileTensor::as_it_is(format!("{}.{part}", norm.layer)),
            shape: vec![norm.channels],
        })
    });
    parameters.chain(state).chain(statistics).collect()
}

/// The values of a tensor; none of a type that is no floating-point number of 16 bits or more.
fn to_f32(view: &TensorView<'_>) -> Option<Vec<f32>> {
    fn read<const N: usize>(bytes: &[u8], value: fn([u8; N]) -> f32) -> Vec<f32> {
        bytes.as_chunks::<N>().0.iter().map(|bytes| value(*bytes)).collect()
    }
    let bytes = view.data();
    match view.dtype() {
        Dtype::F32 => Some(read(bytes, f32::from_le_bytes)),
        Dtype::F64 => Some(read(bytes, |bytes| f64::from_le_bytes(bytes) as f32)),
        Dtype::F16 => Some(read(bytes, |bytes| f16::from_le_bytes(bytes).to_f32())),
        Dtype::BF16 => Some(read(bytes, |bytes| bf16::from_le_bytes(bytes).to_f32())),
        _ => None,
    }
}

impl Model {
    /// A file of weights of this model: `tensors` are the parameters, then the state, then mean and variance of each batch norm,
    /// each in the type that it has.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn weights_file(&self, tensors: &[Tensor]) -> candle_core::Result<Vec<u8>> {
        let wanted = wanted(self);
        let mut named = Vec::with_capacity(wanted.len());
        for Wanted { file_tensor: FileTensor { name, transposed, part, .. }, .. } in &wanted {
            if part.0 > 0 {
                continue;
            }
            let all = wanted.iter().zip(tensors);
            let parts: Vec<&Tensor> = all
                .filter(|(wanted, _)| wanted.file_tensor.name == *name)
                .map(|(_, tensor)| tensor)
                .collect();
            let whole = if let [one] = parts[..] { one.clone() } else { Tensor::cat(&parts, 0)? };
            let whole = if *transposed { whole.t()?.contiguous()? } else { whole };
            named.push((name.clone(), whole));
        }
        Ok(safetensors::serialize(named, None)?)
    }

    /// Lets every run start from the weights of a checkpoint, whatever its seed, and saves weights like it. `tensors` has one entry a
    /// parameter; the parameters that are parts of one tensor come in their order.
    ///
    /// # Errors
    /// When a tensor is missing or does not fit: every one is named.
    pub(crate) fn start_from_checkpoint(
        &mut self,
        files: &[WeightsFile<'_>],
        tensors: Vec<FileTensor>,
    ) -> Result<NotShared, WeightsError> {
        self.file_tensors = Some(tensors);
        let (given, not_shared) = Given::read(self, files)?;
        self.given = Some(given);
        Ok(not_shared)
    }

    /// Lets every run start from the weights of a safetensors file, whatever its seed.
    ///
    /// # Errors
    /// When it is no such file, or its tensors are not those of this model: every one that does not fit is named.
    pub fn start_from(&mut self, file: &[u8]) -> Result<(), WeightsError> {
        self.given = Some(Given::read(self, &[WeightsFile::new(file)?])?.0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::layers::{
        BatchNorm, BoxedLayer, Conv2d, ConvSizes, Flatten, Init, Linear, Sequential,
    };
    use crate::ops::ConvSettings;

    /// A convolution of 1 × 1, batch norm, and a linear layer on 2 channels of 1 × 2 pixels.
    fn model() -> Model {
        Model::of_layers([1, 1, 2], |registry| {
            let sizes = ConvSizes { inputs: 1, outputs: 2, kernel: 1, bias: false };
            let settings = ConvSettings { stride: 1, padding: 0, dilation: 1, groups: 1 };
            let conv = Conv2d::new(registry, "conv", sizes, settings, true);
            let norm = BatchNorm::new(registry, "norm", 2);
            let linear = Linear::new(registry, "output", (4, 3), false);
            let layers: Vec<BoxedLayer> =
                vec![Box::new(conv), Box::new(norm), Box::new(Flatten), Box::new(linear)];
            Ok(Sequential(layers))
        })
        .unwrap()
    }

    /// Tensors of a model that count up from 0 by halves, which every type holds.
    fn tensors(model: &Model, dtype: DType) -> Vec<Tensor> {
        let mut next = 0.0;
        let mut tensor = |wanted: Wanted| {
            let values: Vec<f32> = (0..wanted.shape.iter().product())
                .map(|_| {
                    next += 0.5;
                    next
                })
                .collect();
            let tensor = Tensor::from_vec(values, wanted.shape, &Device::Cpu).unwrap();
            tensor.to_dtype(dtype).unwrap()
        };
        wanted(model).into_iter().map(&mut tensor).collect()
    }

    #[test]
    fn what_was_written_is_what_a_model_starts_from() {
        for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
            let mut model = model();
            let tensors = tensors(&model, dtype);
            let file = model.weights_file(&tensors).unwrap();
            model.start_from(&file).unwrap();
            let expected: Vec<Vec<f32>> = tensors
                .iter()
                .map(|tensor| {
                    let tensor = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
                    tensor.to_vec1().unwrap()
                })
                .collect();
            for seed in [0, 7] {
                let found = model.initial_values(seed).collect::<Result<Vec<_>, _>>().unwrap();
                assert_eq!(found, expected[..model.parameters.len()], "{dtype:?}");
            }
            let [mean, variance] = model.initial_statistics(0).unwrap();
            assert_eq!([mean, variance], [&expected[5], &expected[6]], "{dtype:?}");
        }
    }

    /// Two layers whose weights are the halves of one transposed matrix: stored[i][o] of inputs i and outputs o, as in GPT-2.
    #[test]
    fn parts_and_transposed_matrices_are_taken_apart_and_put_together() {
        let mut model = Model::of_layers([2, 1, 1], |registry| {
            for name in ["query", "key"] {
                registry.layer(name);
                registry.parameter(name, "weight", &[1, 2], Init::Constant(0.0));
            }
            for name in ["query", "key"] {
                registry.parameter(name, "bias", &[1], Init::Constant(0.0));
            }
            registry.parameter("head", "weight", &[1], Init::Constant(7.0));
            Ok(Sequential(vec![]))
        })
        .unwrap();
        let of = |name: &str, transposed, part| FileTensor {
            transposed,
            part: (part, 2),
            ..FileTensor::as_it_is(name)
        };
        let head = FileTensor { optional: true, ..FileTensor::as_it_is("head") };
        let stored =
            vec![of("w", true, 0), of("w", true, 1), of("b", false, 0), of("b", false, 1), head];
        let tensor = |values: &[f32], shape: &[usize]| {
            Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
        };
        // Inputs 0 and 1 of query: 1 and 3; of key: 2 and 4.
        let w = tensor(&[1.0, 2.0, 3.0, 4.0], &[2, 2]);
        let (b, more) = (tensor(&[5.0, 6.0], &[2]), tensor(&[0.0], &[1]));
        let file = |tensors: [(&str, &Tensor); 3]| safetensors::serialize(tensors, None).unwrap();
        let whole = file([("w", &w), ("b", &b), ("more", &more)]);
        let table = |bytes| WeightsFile::new(bytes).unwrap();
        let not_shared = model.start_from_checkpoint(&[table(&whole)], stored.clone()).unwrap();
        assert_eq!(not_shared.unused, ["more"]);
        assert_eq!(not_shared.drawn, ["head"]);
        let found = model.initial_values(0).collect::<Result<Vec<_>, _>>().unwrap();
        let expected = [vec![1.0, 3.0], vec![2.0, 4.0], vec![5.0], vec![6.0], vec![7.0]];
        assert_eq!(found, expected);
        let tensors: Vec<Tensor> = found
            .iter()
            .zip(&model.parameters)
            .map(|(values, parameter)| tensor(values, &parameter.shape))
            .collect();
        let written = model.weights_file(&tensors).unwrap();
        let read = SafeTensors::deserialize(&written).unwrap();
        assert_eq!(read.tensor("w").unwrap().shape(), [2, 2]);
        assert_eq!(to_f32(&read.tensor("w").unwrap()).unwrap(), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(to_f32(&read.tensor("b").unwrap()).unwrap(), [5.0, 6.0]);
        let short = file([("w", &b), ("v", &b), ("more", &more)]);
        assert_eq!(
            model.start_from_checkpoint(&[table(&short)], stored).unwrap_err().to_string(),
            "the weights are not those of this model: w has the shape [2] in the file, and [2, 2] in the model and b is missing"
        );
    }

    #[test]
    fn every_mismatch_is_listed() {
        let mut model = model();
        let mut other: Vec<(String, Tensor)> = wanted(&model)
            .into_iter()
            .zip(tensors(&model, DType::F32))
            .map(|(wanted, tensor)| (wanted.file_tensor.name, tensor))
            .collect();
        other[0].0 = "conv.kernel".to_owned();
        other[1].1 = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
        other[2].1 = Tensor::zeros(2, DType::U8, &Device::Cpu).unwrap();
        let file = safetensors::serialize(other.iter().map(|(name, t)| (name, t)), None).unwrap();
        let message = "the weights are not those of this model: conv.weight is missing, norm.gamma has the shape [3] in the file, \
                       and [2] in the model, norm.beta is of the type U8 and conv.kernel is not in the model";
        assert_eq!(model.start_from(&file).unwrap_err().to_string(), message);
        for damaged in [&file[..file.len() - 1], &file[..20], &[], &[0xff; 64]] {
            let error = model.start_from(damaged).unwrap_err();
            assert!(matches!(error, WeightsError::Malformed(_)), "{error}");
        }
        assert_eq!(model.given_digest(), None);
    }
}
