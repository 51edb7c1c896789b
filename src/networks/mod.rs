//! The networks that a spec can name, made of layers.

mod checkpoint;
mod cnn;
mod decoder;
mod encoder;
mod list;
mod mlp;
mod resnet;

use crate::data::Dataset;
use crate::hub::Listener;
use crate::model::{Model, ModelError};
use crate::record::TestMetric;
use crate::spec::ModelPlan;
use decoder::Decoder;
use encoder::Encoder;

/// What a model must know of its data.
///
/// ```
/// use mantissa::data;
/// use mantissa::networks::DataShape;
/// use mantissa::spec::DataPlan;
///
/// let data = data::load(&DataPlan::Digits { train: 50, test: 20, seed: 0 })?;
/// let expected = DataShape { shape: [1, 28, 28], vocabulary: None, outputs: 10, next_tokens: false };
/// assert_eq!(DataShape::of(&data), expected);
/// # Ok::<(), mantissa::data::DataError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataShape {
    /// Channels, height and width of a sample; texts are 1 × 1 × T.
    pub shape: [usize; 3],
    /// How many tokens texts are made of; none of other data.
    pub vocabulary: Option<usize>,
    /// Classes, values of a target, or tokens.
    pub outputs: usize,
    /// Whether the next token of each position is to be predicted.
    pub next_tokens: bool,
}

impl DataShape {
    /// That of a data set.
    pub fn of(data: &Dataset) -> Self {
        Self {
            shape: data.shape(),
            vocabulary: data.vocabulary(),
            outputs: data.outputs(),
            next_tokens: TestMetric::of(&data.train().targets) == TestMetric::Perplexity,
        }
    }

    /// The tokens of texts, for a model of this kind, which has an output a text or one a position.
    fn tokens(&self, kind: &str, next_tokens: bool) -> Result<usize, ModelError> {
        match self.vocabulary {
            Some(tokens) if self.next_tokens == next_tokens => Ok(tokens),
            _ => {
                let data = if next_tokens { "plain-text" } else { "text" };
                Err(ModelError(format!("model.kind = {kind:?} takes data.kind = {data:?}")))
            }
        }
    }
}

/// The model of a plan, for such data.
///
/// ```
/// use mantissa::networks::{self, DataShape};
/// use mantissa::spec::{Activation, ModelPlan};
///
/// let plan = ModelPlan::Mlp { hidden: vec![64], activation: Activation::Relu, dropout: 0.0 };
/// let data = DataShape { shape: [1, 28, 28], vocabulary: None, outputs: 10, next_tokens: false };
/// let model = networks::model(&plan, &data)?;
/// assert_eq!(model.parameters.iter().map(|parameter| parameter.len()).sum::<usize>(), 784 * 64 + 64 + 64 * 10 + 10);
/// # Ok::<(), mantissa::model::ModelError>(())
/// ```
///
/// # Errors
/// When the model is not made for such samples, a convolution or pooling does not fit the images, a checkpoint cannot be read or does
/// not fit, or a parameter or what an image becomes has more than 2⁴⁰ values.
pub fn model(plan: &ModelPlan, data: &DataShape) -> Result<Model, ModelError> {
    model_with(plan, data, None)
}

/// As [`model`]; `listen` is told of every file that is downloaded from the hub.
///
/// # Errors
/// As [`model`].
pub(crate) fn model_with(
    plan: &ModelPlan,
    data: &DataShape,
    listen: Option<Listener<'_>>,
) -> Result<Model, ModelError> {
    let DataShape { shape, outputs, .. } = *data;
    let [_, _, length] = shape;
    match plan {
        ModelPlan::Encoder(plan) => {
            let encoder = Encoder::of_plan(*plan, data.tokens("encoder", false)?, length);
            Model::of_layers(shape, |registry| Ok(encoder.layers(registry, length, outputs)))
        }
        ModelPlan::Decoder(plan) => {
            let decoder = Decoder::of_plan(*plan, data.tokens("decoder", true)?, length);
            Model::of_layers(shape, |registry| Ok(decoder.layers(registry, length)))
        }
        ModelPlan::Pretrained { folder, dropout, attention_dropout } => {
            let drops =
                checkpoint::Drops { dropout: *dropout, attention_dropout: *attention_dropout };
            checkpoint::model((folder, drops), data, listen)
        }
        ModelPlan::Own { .. } => Err(ModelError(
            "it is that of a task made in Rust: only the program that made it has its layers"
                .into(),
        )),
        _ if data.vocabulary.is_some() => Err(ModelError(
            "it takes no texts: choose model.kind = \"encoder\", \"decoder\" or \"pretrained\""
                .into(),
        )),
        ModelPlan::Mlp { hidden, activation, dropout } => Model::of_layers(shape, |registry| {
            let inputs = shape.into_iter().fold(1, usize::saturating_mul);
            let settings = mlp::Head { hidden, activation: *activation, dropout: *dropout };
            Ok(mlp::layers(registry, inputs, outputs, &settings))
        }),
        ModelPlan::Cnn { .. } => {
            Model::of_layers(shape, |registry| cnn::layers(registry, plan, shape, outputs))
        }
        ModelPlan::Layers { layers } => {
            Model::of_layers(shape, |registry| list::layers(registry, layers, shape, outputs))
        }
        ModelPlan::Resnet { depth, width } => Model::of_layers(shape, |registry| {
            resnet::layers(registry, (*depth, *width), shape, outputs)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Activation, ConvBlock, DEFAULT, Overrides, Plan, Pool};

    /// The model of a plan for images and so many classes.
    fn model(plan: &ModelPlan, shape: [usize; 3], outputs: usize) -> Result<Model, ModelError> {
        let data = DataShape { shape, vocabulary: None, outputs, next_tokens: false };
        super::model(plan, &data)
    }

    /// A block of one channel.
    const BLOCK: ConvBlock = ConvBlock {
        channels: 1,
        kernel: 3,
        stride: 1,
        padding: 0,
        dilation: 1,
        groups: 1,
        pool: Pool::None,
    };

    fn cnn(blocks: Vec<ConvBlock>, batch_norm: bool) -> ModelPlan {
        let (hidden, activation, dropout) = (vec![], Activation::Relu, 0.0);
        ModelPlan::Cnn { blocks, hidden, activation, batch_norm, dropout }
    }

    /// What `torch.nn.BatchNorm2d(1)(torch.ones(1, 1, 1, 1))` says in PyTorch 2.15: "Expected more than 1 value per channel when
    /// training, got input size torch.Size([1, 1, 1, 1])". Of 2 images, or 1 × 2 pixels, it says nothing.
    #[test]
    fn batch_norm_of_one_value_a_channel_is_refused() {
        let pooled = ConvBlock { pool: Pool::Max, ..BLOCK };
        #[rustfmt::skip]
        let table = [
            // model, height and width of the images, the norm that a batch of one image is too small for
            (cnn(vec![BLOCK], true), (3, 3), Some("norm1")),
            (cnn(vec![BLOCK], true), (3, 4), None),
            (cnn(vec![BLOCK], false), (3, 3), None),
            // Pooling comes after batch norm: 2 × 2 pixels, then 1 × 1.
            (cnn(vec![pooled], true), (4, 4), None),
            (cnn(vec![pooled, ConvBlock { kernel: 1, ..BLOCK }], true), (4, 4), Some("norm2")),
            (cnn(vec![ConvBlock { stride: 9, ..BLOCK }], true), (9, 9), Some("norm1")),
            (cnn(vec![ConvBlock { padding: 1, dilation: 2, ..BLOCK }], true), (3, 3), Some("norm1")),
            (ModelPlan::Resnet { depth: 8, width: 1 }, (4, 4), Some("stage3.block1.1.norm")),
            (ModelPlan::Resnet { depth: 8, width: 1 }, (4, 5), None),
            (ModelPlan::Mlp { hidden: vec![1], activation: Activation::Relu, dropout: 0.0 }, (1, 1), None),
        ];
        for (plan, (height, width), norm) in table {
            let model = model(&plan, [1, height, width], 2).unwrap();
            let what = format!("{plan:?} on {height} × {width}");
            let refusal = model.check_normalization(1).err().map(|error| error.to_string());
            let expected = norm.map(|norm| format!(
                "model: train.batch is 1, and {norm} sees 1 × 1 pixels of an image: batch norm needs more than one value a \
                 channel; set train.batch to 2 or more"
            ));
            assert_eq!(refusal, expected, "{what}");
            assert_eq!(model.check_normalization(2), Ok(()), "{what}");
        }
    }

    /// The number of values of all parameters of a model of texts.
    fn values(model: &str, (length, vocabulary, outputs): (usize, usize, usize)) -> usize {
        let next_tokens = model.contains("decoder");
        let data = if next_tokens { "plain-text" } else { "text" };
        let set = ["data={kind='DATA',train='t.csv',test='t.csv'}", "model=MODEL"];
        let set = set.map(|set| set.replace("DATA", data).replace("MODEL", model)).to_vec();
        let overrides = Overrides { set, ..Overrides::default() };
        let plan = Plan::read("default.toml", DEFAULT, &overrides).unwrap();
        let vocabulary = Some(vocabulary);
        let data = DataShape { shape: [1, 1, length], vocabulary, outputs, next_tokens };
        let model = super::model(&plan.model, &data).unwrap();
        model.parameters.iter().map(crate::layers::Parameter::len).sum()
    }

    /// ```python
    /// from transformers import *
    /// print(GPT2LMHeadModel(GPT2Config()).num_parameters(), DistilBertModel(DistilBertConfig()).num_parameters())
    /// c = LlamaConfig(vocab_size=100, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
    ///                 intermediate_size=688)
    /// print(LlamaForCausalLM(c).num_parameters())
    /// # 124439808 66362880 2953472
    /// ```
    #[test]
    fn named_sizes_have_the_parameters_of_their_namesakes() {
        assert_eq!(values("{kind='decoder',size='gpt2'}", (1024, 50_257, 50_257)), 124_439_808);
        // And the layer of the task, 768 to 2.
        let distilbert = values("{kind='encoder',size='distilbert'}", (512, 30_522, 2));
        assert_eq!(distilbert, 66_362_880 + 768 * 2 + 2);
        let llama = "{kind='decoder',size='mini',style='llama',kv_heads=2}";
        assert_eq!(values(llama, (64, 100, 100)), 2_953_472);
    }

    fn mlp(hidden: &[usize]) -> ModelPlan {
        ModelPlan::Mlp { hidden: hidden.to_vec(), activation: Activation::Relu, dropout: 0.0 }
    }

    /// `count` blocks, each of which makes the image larger.
    fn growing(count: usize, channels: usize, pool: Pool) -> ModelPlan {
        let (kernel, stride, padding, dilation, groups) = (1, 1, 1024, 1, 1);
        let block = ConvBlock { channels, kernel, stride, padding, dilation, groups, pool };
        ModelPlan::Cnn {
            blocks: vec![block; count],
            hidden: vec![65_536],
            activation: Activation::Relu,
            batch_norm: false,
            dropout: 0.0,
        }
    }

    #[test]
    fn what_no_machine_holds_is_refused() {
        // Unchecked, the first weight has 2⁶⁴ values, of which 64 bits keep 0.
        // Python: 8 * (28 + 2048 * 181)**2 <= 2**40 < 8 * (28 + 2048 * 182)**2; 8 * (28 + 2048)**2 == 34478208
        let deep = "blocks[181]: 8 × 372764 × 372764";
        for (plan, shape, message) in [
            (mlp(&[65_536]), [1, 1 << 24, 1 << 24], "the images: 1 × 16777216 × 16777216"),
            (mlp(&[8]), [1, 1 << 32, 1 << 32], "the images: 1 × 4294967296 × 4294967296"),
            (mlp(&[65_536]), [1, 1 << 20, 1 << 20], "linear1.weight: 65536 × 1099511627776"),
            (growing(1000, 8, Pool::None), [1, 28, 28], deep),
            (growing(1, 8, Pool::None), [1, 28, 28], "linear1.weight: 65536 × 34478208"),
            (
                ModelPlan::Resnet { depth: 8, width: 65_536 },
                [3, 2048, 2048],
                "patches of stage1: 65536 × 3 × 3 × 2048 × 2048",
            ),
        ] {
            let error = model(&plan, shape, 10).err().unwrap().to_string();
            let rest = "values; at most 1099511627776: choose smaller sizes";
            assert_eq!(error, format!("model: {message} {rest}"));
        }
    }

    #[test]
    fn what_a_batch_takes_is_counted_with_all_its_images() {
        let model = model(&growing(1, 64, Pool::Global), [1, 28, 28], 10).unwrap();
        // Python: 2**40 // (64 * (28 + 2048)**2) == 3986
        assert_eq!(model.check_batch(3986), Ok(()));
        assert_eq!(
            model.check_batch(3987).unwrap_err().to_string(),
            "model: a batch of 3987, blocks[0]: 3987 × 275825664 values; at most 1099511627776: choose smaller sizes"
        );
    }
}
