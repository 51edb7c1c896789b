//! Checkpoints of Hugging Face's Transformers: the small ones in `checkpoints/`, which `scripts/make_checkpoints.py` wrote with
//! that library, give its logits here, and bad ones are refused with every reason.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use mantissa::layers::{Arithmetic, KeyValueCache, Mode, Pass, Sequences};
use mantissa::model::{Model, ModelError};
use mantissa::networks::{self, DataShape};
use mantissa::ops::{self, LossGradient, LossSettings};
use mantissa::precision::Format;
use mantissa::spec::ModelPlan;
use mantissa::store;
use safetensors::SafeTensors;
use serde_json::Value;

/// What the script says of every checkpoint.
const TOKENS: usize = 40;
const POSITIONS: usize = 12;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checkpoints").join(name)
}

fn model(folder: &Path, data: &DataShape) -> Result<Model, ModelError> {
    let (folder, dropout, attention_dropout) = (folder.to_owned(), 0.0, 0.0);
    networks::model(&ModelPlan::Pretrained { folder, dropout, attention_dropout }, data)
}

/// Texts with so many classes, or sequences without any.
fn data(classes: Option<usize>) -> DataShape {
    DataShape {
        shape: [1, 1, POSITIONS],
        vocabulary: Some(TOKENS),
        outputs: classes.unwrap_or(TOKENS),
        next_tokens: classes.is_none(),
    }
}

fn weights(model: &Model) -> Vec<Tensor> {
    let values = model.initial_values(0).collect::<Result<Vec<_>, _>>().unwrap();
    let tensor = |(values, parameter): (Vec<f32>, &mantissa::layers::Parameter)| {
        Tensor::from_vec(values, parameter.shape.as_slice(), &Device::Cpu).unwrap()
    };
    values.into_iter().zip(&model.parameters).map(tensor).collect()
}

/// A matrix of numbers.
fn rows(value: &Value) -> Vec<Vec<f64>> {
    serde_json::from_value(value.clone()).unwrap()
}

/// What comes of a batch: the logits, their mean cross-entropy, and its gradients as a file of weights has them.
struct Trained {
    logits: Vec<f32>,
    loss: f64,
    gradients: Vec<u8>,
}

fn trained(model: &Model, expected: &Value) -> Trained {
    let ids: Vec<Vec<u32>> = serde_json::from_value(expected["ids"].clone()).unwrap();
    let lengths: Vec<u32> = serde_json::from_value(expected["lengths"].clone()).unwrap();
    let shape = (ids.len(), ids[0].len());
    let ids = ops::from_host(ids.concat(), shape, &Device::Cpu).unwrap();
    let lengths = ops::from_host(lengths, shape.0, &Device::Cpu).unwrap();
    let weights = weights(model);
    let arithmetic = Arithmetic { format: Format::F32, wide: false };
    let labels: Vec<u32> = serde_json::from_value(expected["labels"].clone()).unwrap();
    let rows = labels.len();
    let labels = ops::from_host(labels, rows, &Device::Cpu).unwrap();
    let number = ops::from_host(vec![0_u32], 1, &Device::Cpu).unwrap();
    let mut pass = Pass::new(arithmetic, Mode::Training { seed: 0, pass: number }, &weights, &[])
        .with_sequences(Sequences { lengths: Some(lengths), types: None });
    let layers = model.layers(&weights, &[], true).unwrap();
    let logits = layers.forward(ids, &mut pass).unwrap();
    let settings = LossSettings { smoothing: 0.0, micro_batches: 1 };
    let scale = ops::from_host(vec![1.0_f32], 1, &Device::Cpu).unwrap();
    let LossGradient { losses, gradient } =
        ops::cross_entropy(&logits, &labels, settings, &scale).unwrap();
    let losses = ops::to_f32(&losses).unwrap().into_iter().map(f64::from);
    assert!(layers.backward(gradient, &mut pass).unwrap().is_none());
    let gradients = model.weights_file(&pass.finish().unwrap().gradients).unwrap();
    Trained {
        logits: ops::to_f32(&logits).unwrap(),
        loss: losses.sum::<f64>() / rows as f64,
        gradients,
    }
}

/// The library computed in F64: what is here is some roundings of f32 off. In F32 its own logits
/// of BERT are 7 units of the largest off, and its gradients up to 57.
#[test]
fn each_family_gives_the_logits_and_gradients_of_hugging_face() {
    for (name, classes) in
        [("bert", Some(3)), ("distilbert", Some(2)), ("gpt2", None), ("llama", None)]
    {
        let folder = folder(name);
        let model = model(&folder, &data(classes)).unwrap();
        let expected: Value =
            serde_json::from_slice(&store::read(&folder.join("expected.json")).unwrap()).unwrap();
        let there = rows(&expected["logits"]).concat();
        let Trained { logits: here, loss, gradients } = trained(&model, &expected);
        assert_eq!(here.len(), there.len(), "{name}");
        let largest = there.iter().fold(0.0, |largest: f64, logit| largest.max(logit.abs()));
        assert!(largest > 0.5, "{name}: {largest}");
        for (here, there) in here.iter().zip(&there) {
            let off = (f64::from(*here) - there).abs();
            assert!(off <= 32.0 * largest * f64::from(f32::EPSILON), "{name}: {here} {there}");
        }
        let loss_there = expected["loss"].as_f64().unwrap();
        assert!((loss - loss_there).abs() < 2e-6 * loss_there, "{name}: {loss} {loss_there}");
        check_gradients(
            name,
            &gradients,
            &store::read(&folder.join("gradients.safetensors")).unwrap(),
        );
        assert!(
            model.notes[0].starts_with(&format!("Every run starts from the weights of {name}"))
        );
        assert_eq!(model.notes.len(), 1, "{:?}", model.notes);
    }
}

/// The logits behind the first `prompt` tokens of sequences of one length, which pass through the model at once, then behind each
/// further one: of each position N × V.
fn served(model: &Model, ids: &[&[u32]], prompt: usize) -> Vec<Vec<f32>> {
    let (weights, length) = (weights(model), ids[0].len());
    let layers = model.layers(&weights, &[], false).unwrap();
    let arithmetic = Arithmetic { format: Format::F32, wide: false };
    let widths = model.cached().unwrap();
    let mut cache =
        KeyValueCache::new(widths, (ids.len(), length), arithmetic, &Device::Cpu).unwrap();
    let mut logits = Vec::new();
    let parts = std::iter::once((0, prompt)).chain((prompt..length).map(|at| (at, 1)));
    for (first, count) in parts {
        let tokens: Vec<u32> =
            ids.iter().flat_map(|ids| &ids[first..first + count]).copied().collect();
        let tokens = ops::from_host(tokens, (ids.len(), count), &Device::Cpu).unwrap();
        let mut pass = Pass::new(arithmetic, Mode::Inference, &weights, &[]).with_cache(&cache);
        let found = layers.forward(tokens.clone(), &mut pass).unwrap();
        drop(pass);
        cache.advance(count);
        logits.push(ops::to_f32(&found).unwrap());
    }
    // There is no room for another.
    let one = ops::from_host(vec![0_u32; ids.len()], (ids.len(), 1), &Device::Cpu).unwrap();
    let mut pass = Pass::new(arithmetic, Mode::Inference, &weights, &[]).with_cache(&cache);
    assert!(layers.forward(one, &mut pass).is_err());
    logits
}

/// With a cache a position sees what it saw in the whole sequence: the library's logits of that are those here.
#[test]
fn with_a_cache_each_position_has_the_logits_of_hugging_face() {
    for name in ["gpt2", "llama"] {
        let folder = folder(name);
        let model = model(&folder, &data(None)).unwrap();
        let expected: Value =
            serde_json::from_slice(&store::read(&folder.join("expected.json")).unwrap()).unwrap();
        let ids: Vec<Vec<u32>> = serde_json::from_value(expected["ids"].clone()).unwrap();
        let lengths: Vec<usize> = serde_json::from_value(expected["lengths"].clone()).unwrap();
        let (there, width) = (rows(&expected["logits"]), ids[0].len());
        let largest = there.concat().iter().fold(0.0, |most: f64, logit| most.max(logit.abs()));
        let check = |sequences: &[usize], length: usize, prompt: usize| {
            let chosen: Vec<&[u32]> = sequences.iter().map(|at| &ids[*at][..length]).collect();
            for (position, logits) in (prompt - 1..).zip(served(&model, &chosen, prompt)) {
                for (at, logits) in sequences.iter().zip(logits.chunks(TOKENS)) {
                    for (here, there) in logits.iter().zip(&there[at * width + position]) {
                        let off = (f64::from(*here) - there).abs();
                        let bound = 32.0 * largest * f64::from(f32::EPSILON);
                        assert!(off <= bound, "{name}, {at} at {position}: {here} {there}");
                    }
                }
            }
        };
        let all: Vec<usize> = (0..ids.len()).collect();
        let shortest = *lengths.iter().min().unwrap();
        assert!(shortest > 2 && all.len() > 1, "{shortest}");
        for prompt in [1, 2, shortest] {
            check(&all, shortest, prompt);
        }
        for at in all {
            check(&[at], lengths[at], 2);
        }
    }
}

/// What sees later positions cannot be served token by token.
#[test]
fn an_encoder_cannot_keep_keys_and_values() {
    let model = model(&folder("bert"), &data(Some(3))).unwrap();
    let error = model.cached().unwrap_err().to_string();
    let expected =
        "model: it cannot generate tokens one by one: its block1.attention sees later positions";
    assert_eq!(error, expected);
}

/// Each value within some units of the largest of its tensor. The key's bias moves all scores of a query alike, so its gradient is 0,
/// and what either computed is rounding: within units of the largest gradient.
fn check_gradients(name: &str, here: &[u8], there: &[u8]) {
    let (here, there) =
        (SafeTensors::deserialize(here).unwrap(), SafeTensors::deserialize(there).unwrap());
    assert_eq!(here.len(), there.len(), "{name}");
    let values = |bytes: &[u8]| -> Vec<f64> {
        let of = |bytes: &[u8; 4]| f64::from(f32::from_le_bytes(*bytes));
        bytes.as_chunks().0.iter().map(of).collect()
    };
    let largest_of = |values: &[f64]| values.iter().fold(0.0, |most: f64, v| most.max(v.abs()));
    let all: Vec<f64> = there.iter().flat_map(|(_, view)| values(view.data())).collect();
    let least = 1e-2 * largest_of(&all);
    for (tensor, view) in there.iter() {
        let (here, there) = (values(here.tensor(tensor).unwrap().data()), values(view.data()));
        let bound = 128.0 * f64::from(f32::EPSILON) * largest_of(&there).max(least);
        for (here, there) in here.iter().zip(&there) {
            assert!(
                (here - there).abs() <= bound,
                "{name}, {tensor}: {here:e} {there:e} ± {bound:e}"
            );
        }
    }
}

/// Weights are saved with the names and shapes that the library gave them.
#[test]
fn saved_weights_are_a_checkpoint_again() {
    for (name, classes) in
        [("bert", Some(3)), ("distilbert", Some(2)), ("gpt2", None), ("llama", None)]
    {
        let folder = folder(name);
        let model = model(&folder, &data(classes)).unwrap();
        let written = model.weights_file(&weights(&model)).unwrap();
        let written = SafeTensors::deserialize(&written).unwrap();
        let files: Vec<PathBuf> = store::list(&folder)
            .unwrap()
            .into_iter()
            .filter(|path| path.extension().is_some_and(|ending| ending == "safetensors"))
            .filter(|path| !path.ends_with("gradients.safetensors"))
            .collect();
        let mut found = 0;
        for file in files {
            let bytes = store::read(&file).unwrap();
            for (tensor, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
                let here = written.tensor(tensor).unwrap();
                assert_eq!((here.shape(), here.data()), (view.shape(), view.data()), "{tensor}");
                found += 1;
            }
        }
        assert_eq!(written.len(), found, "{name}");
    }
}

/// A copy of a checkpoint, with one of its files changed.
fn changed(name: &str, file: &str, change: impl Fn(Vec<u8>) -> Vec<u8>) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for path in store::list(&folder(name)).unwrap() {
        let name = path.file_name().unwrap();
        let bytes = store::read(&path).unwrap();
        let bytes = if name == file { change(bytes) } else { bytes };
        store::write(&copy.path().join(name), &bytes).unwrap();
    }
    copy
}

fn replaced(from: &str, to: &str) -> impl Fn(Vec<u8>) -> Vec<u8> {
    let (from, to) = (from.to_owned(), to.to_owned());
    move |bytes| {
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains(&from), "{from}");
        text.replace(&from, &to).into_bytes()
    }
}

/// What is wrong with a copy, without its folder.
fn refused(copy: &Path, data: &DataShape) -> String {
    let error = model(copy, data).err().unwrap().to_string();
    let folder = copy.display().to_string();
    assert!(error.contains(&folder), "{error}");
    error.replace(&format!("{folder}/"), "").replace(&folder, "FOLDER")
}

#[test]
fn a_configuration_that_does_not_fit_is_refused() {
    let (texts, sequences) = (data(Some(3)), data(None));
    let long = DataShape { shape: [1, 1, POSITIONS + 1], ..texts };
    let large = DataShape { vocabulary: Some(TOKENS + 1), ..texts };
    for (name, from, to, wanted, message) in [
        ("bert", "\"bert\"", "\"t5\"", texts, "unknown variant `t5`"),
        ("bert", "\"gelu\"", "\"swish\"", texts, "the activation \"swish\" is not known"),
        ("bert", "{", "", texts, "known models: bert, distilbert, gpt2, llama"),
        (
            "bert",
            "\"hidden_size\": 16",
            "\"hidden_size\": 15",
            texts,
            "2 heads do not divide the width, 15",
        ),
        (
            "bert",
            "\"num_hidden_layers\": 2",
            "\"num_hidden_layers\": 0",
            texts,
            "a size is 0 or too large",
        ),
        (
            "llama",
            "\"default\"",
            "\"llama3\"",
            sequences,
            "rotary positions are scaled as \"llama3\"",
        ),
        ("llama", "\"silu\"", "\"relu\"", sequences, "hidden_act is \"relu\""),
        (
            "bert",
            "\"bert\"",
            "\"bert\"",
            long,
            "config.json: 12 positions, and data.length is 13: choose at most 12",
        ),
        (
            "bert",
            "\"bert\"",
            "\"bert\"",
            large,
            "config.json: rows for 40 tokens, and the tokenizer has 41: choose the checkpoint's tokenizer",
        ),
    ] {
        let copy = changed(name, "config.json", replaced(from, to));
        let error = refused(copy.path(), &wanted);
        assert!(error.starts_with("model: config.json: ") && error.contains(message), "{error}");
    }
    let error = model(&folder("gpt2"), &texts).err().unwrap().to_string();
    assert_eq!(error, "model: model.kind = \"pretrained\" takes data.kind = \"plain-text\"");
    let error = model(&folder("bert"), &sequences).err().unwrap().to_string();
    assert_eq!(error, "model: model.kind = \"pretrained\" takes data.kind = \"text\"");
}

#[test]
fn tensors_that_do_not_fit_are_all_named() {
    let renamed = changed("gpt2", "model.safetensors", |mut bytes| {
        // The header is text; names keep their length.
        let from = b"h.0.mlp.c_fc.weight";
        let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
        bytes[at] = b'g';
        bytes
    });
    assert_eq!(
        refused(renamed.path(), &data(None)),
        "model: FOLDER: the weights are not those of this model: transformer.h.0.mlp.c_fc.weight is missing"
    );
    let other =
        changed("gpt2", "config.json", replaced("\"n_positions\": 12", "\"n_positions\": 13"));
    assert_eq!(
        refused(other.path(), &data(None)),
        "model: FOLDER: the weights are not those of this model: transformer.wpe.weight has the shape [12, 16] in the file, \
         and [13, 16] in the model"
    );
    // Its first eight bytes are the length of the header.
    let lies = changed("bert", "model.safetensors", |mut bytes| {
        bytes[6] = 0xff;
        bytes
    });
    let error = refused(lies.path(), &data(Some(3)));
    assert!(error.starts_with("model: model.safetensors: not a file of safetensors: "), "{error}");
    let short = changed("bert", "model.safetensors", |bytes| bytes[..bytes.len() - 4].to_vec());
    let error = refused(short.path(), &data(Some(3)));
    assert!(error.starts_with("model: model.safetensors: not a file of safetensors: "), "{error}");
    let elsewhere = changed(
        "llama",
        "model.safetensors.index.json",
        replaced("model-00001-of-00003", "../model-00001-of-00003"),
    );
    let error = refused(elsewhere.path(), &data(None));
    assert!(
        error.contains(
            "\"../model-00001-of-00003.safetensors\" is not the name of a file beside it"
        ),
        "{error}"
    );
    let missing = tempfile::tempdir().unwrap();
    let error = refused(missing.path(), &data(None));
    assert!(error.starts_with("model: config.json: cannot read: "), "{error}");
}

/// As published encoders are: the layers of the task are drawn, with each seed others.
#[test]
fn a_checkpoint_without_the_layers_of_a_task_gets_them() {
    let bare = changed("distilbert", "model.safetensors", |bytes| {
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let kept = tensors
            .iter()
            .filter_map(|(name, view)| Some((name.strip_prefix("distilbert.")?.to_owned(), view)));
        safetensors::serialize(kept, None).unwrap()
    });
    let model = model(bare.path(), &data(Some(5))).unwrap();
    let note = "The checkpoint lacks these, which start at random: pre_classifier.weight, pre_classifier.bias, classifier.weight and \
                classifier.bias.";
    assert_eq!(model.notes[1], note);
    let values = |seed| model.initial_values(seed).collect::<Result<Vec<_>, _>>().unwrap();
    let (first, second) = (values(0), values(1));
    let differ: Vec<&str> = model
        .parameters
        .iter()
        .zip(first.iter().zip(&second))
        .filter(|(_, (first, second))| first != second)
        .map(|(parameter, _)| parameter.name.as_str())
        .collect();
    assert_eq!(differ, ["head.weight", "output.weight"]);
}
