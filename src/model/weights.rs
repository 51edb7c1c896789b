//! Weights in files: safetensors with the names of parameters, `LAYER.running_mean` and `LAYER.running_var` of a batch norm.

use candle_core::Tensor;
use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use sha2::{Digest as _, Sha256};

use super::Model;
use crate::formatting::{self, list};

/// More tensors that do not fit are only counted.
const MOST_SHOWN: usize = 8;

/// A file whose weights are not those of a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeightsError {
    /// It is no safetensors file, or is cut short.
    #[error("not a file of safetensors: {0}")]
    Malformed(String),
    /// Tensors are missing, left over, or of another shape or type.
    #[error("the weights are not those of this model: {0}")]
    Mismatch(String),
}

/// Values that a model starts from instead of drawn ones: the same for every seed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Given {
    /// In the order of the parameters.
    pub(super) parameters: Vec<Vec<f32>>,
    /// In the order of the state.
    pub(super) state: Vec<Vec<f32>>,
    /// Mean and variance of each batch norm.
    pub(super) statistics: Vec<[Vec<f32>; 2]>,
    /// SHA-256 of the file.
    pub(super) digest: String,
}

/// A tensor that a file of a model's weights has.
struct Wanted {
    name: String,
    shape: Vec<usize>,
}

impl Given {
    /// Reads a file of a model's weights: f32, f64, f16 or bf16, each widened or rounded to f32.
    pub(super) fn read(model: &Model, file: &[u8]) -> Result<Self, WeightsError> {
        let malformed =
            |error: safetensors::SafeTensorError| WeightsError::Malformed(error.to_string());
        let tensors = SafeTensors::deserialize(file).map_err(malformed)?;
        let wanted = wanted(model);
        let mut problems = Vec::new();
        let mut values = Vec::with_capacity(wanted.len());
        for Wanted { name, shape } in &wanted {
            match tensors.tensor(name).map_err(|_| format!("{name} is missing")) {
                Ok(view) if view.shape() != shape.as_slice() => problems.push(format!(
                    "{name} has the shape {:?} in the file, and {shape:?} in the model",
                    view.shape()
                )),
                Ok(view) => match to_f32(&view) {
                    Some(read) => values.push(read),
                    None => problems.push(format!("{name} is of the type {:?}", view.dtype())),
                },
                Err(missing) => problems.push(missing),
            }
        }
        let known = |name: &str| wanted.iter().any(|wanted| wanted.name == name);
        let mut more: Vec<&str> = tensors.names().into_iter().filter(|name| !known(name)).collect();
        more.sort_unstable();
        problems.extend(more.into_iter().map(|name| format!("{name} is not in the model")));
        if !problems.is_empty() {
            return Err(WeightsError::Mismatch(shown(problems)));
        }
        let mut values = values.into_iter();
        let mut take = |count: usize| values.by_ref().take(count).collect::<Vec<_>>();
        let (parameters, state) = (take(model.parameters.len()), take(model.state.len()));
        let statistics =
            model.statistics.iter().map(|_| [take(1), take(1)].map(|one| one.concat()));
        let statistics = statistics.collect();
        let digest = formatting::hex(&Sha256::digest(file));
        Ok(Self { parameters, state, statistics, digest })
    }
}

/// What a file of a model's weights has, in order.
fn wanted(model: &Model) -> Vec<Wanted> {
    let parameters = model.parameters.iter().chain(&model.state);
    let parameters = parameters
        .map(|parameter| Wanted { name: parameter.name.clone(), shape: parameter.shape.clone() });
    let statistics = model.statistics.iter().flat_map(|norm| {
        ["running_mean", "running_var"].map(|part| Wanted {
            name: format!("{}.{part}", norm.layer),
            shape: vec![norm.channels],
        })
    });
    parameters.chain(statistics).collect()
}

fn shown(mut problems: Vec<String>) -> String {
    let more = problems.len().saturating_sub(MOST_SHOWN);
    problems.truncate(MOST_SHOWN);
    if more > 0 {
        problems.push(format!("{} more", formatting::count(more as u64)));
    }
    list(&problems)
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
        let names = wanted(self).into_iter().map(|wanted| wanted.name);
        Ok(safetensors::serialize(names.zip(tensors), None)?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::layers::{BatchNorm, BoxedLayer, Conv2d, ConvSizes, Flatten, Linear, Sequential};
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

    #[test]
    fn every_mismatch_is_listed() {
        let mut model = model();
        let mut other: Vec<(String, Tensor)> = wanted(&model)
            .into_iter()
            .zip(tensors(&model, DType::F32))
            .map(|(wanted, tensor)| (wanted.name, tensor))
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
