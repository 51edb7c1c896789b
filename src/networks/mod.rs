//! The networks that a spec can name, made of layers.

mod cnn;
mod encoder;
mod list;
mod mlp;
mod resnet;

use crate::model::{Model, ModelError};
use crate::spec::ModelPlan;

/// The model of a plan for samples of `shape` (C, H, W) and a number of outputs; texts are 1 × 1 × T, of tokens of a vocabulary.
///
/// ```
/// use mantissa::networks;
/// use mantissa::spec::{Activation, ModelPlan};
///
/// let plan = ModelPlan::Mlp { hidden: vec![64], activation: Activation::Relu, dropout: 0.0 };
/// let model = networks::model(&plan, ([1, 28, 28], None), 10)?;
/// assert_eq!(model.parameters.iter().map(|parameter| parameter.len()).sum::<usize>(), 784 * 64 + 64 + 64 * 10 + 10);
/// # Ok::<(), mantissa::model::ModelError>(())
/// ```
///
/// # Errors
/// When the model is not made for such samples, a convolution or pooling does not fit the images, or a parameter or what an image becomes has more than
/// [`VALUES`](crate::spec::limits::VALUES).
pub fn model(
    plan: &ModelPlan,
    (shape, vocabulary): ([usize; 3], Option<usize>),
    outputs: usize,
) -> Result<Model, ModelError> {
    let vocabulary = match (plan, vocabulary) {
        (ModelPlan::Encoder { .. }, Some(vocabulary)) => vocabulary,
        (ModelPlan::Encoder { .. }, None) => {
            return Err(ModelError(
                "an encoder takes texts: choose data.kind = \"text\"".to_owned(),
            ));
        }
        (_, Some(_)) => {
            return Err(ModelError(
                "only an encoder takes texts: choose model.kind = \"encoder\"".to_owned(),
            ));
        }
        (_, None) => 0,
    };
    Model::of_layers(shape, |registry| match plan {
        ModelPlan::Mlp { hidden, activation, dropout } => {
            let inputs = shape.into_iter().fold(1, usize::saturating_mul);
            let settings = mlp::Head { hidden, activation: *activation, dropout: *dropout };
            Ok(mlp::layers(registry, inputs, outputs, &settings))
        }
        ModelPlan::Own { .. } => Err(ModelError(
            "it is that of a task made in Rust: only the program that made it has its layers"
                .into(),
        )),
        ModelPlan::Cnn { .. } => cnn::layers(registry, plan, shape, outputs),
        ModelPlan::Encoder { .. } => {
            let [_, _, length] = shape;
            Ok(encoder::layers(registry, plan, (vocabulary, length), outputs))
        }
        ModelPlan::Layers { layers } => list::layers(registry, layers, shape, outputs),
        ModelPlan::Resnet { depth, width } => {
            resnet::layers(registry, (*depth, *width), shape, outputs)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Activation, ConvBlock, Pool};

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
            let model = model(&plan, ([1, height, width], None), 2).unwrap();
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
            let error = model(&plan, (shape, None), 10).err().unwrap().to_string();
            let rest = "values; at most 1099511627776: choose smaller sizes";
            assert_eq!(error, format!("model: {message} {rest}"));
        }
    }

    #[test]
    fn what_a_batch_takes_is_counted_with_all_its_images() {
        let model = model(&growing(1, 64, Pool::Global), ([1, 28, 28], None), 10).unwrap();
        // Python: 2**40 // (64 * (28 + 2048)**2) == 3986
        assert_eq!(model.check_batch(3986), Ok(()));
        assert_eq!(
            model.check_batch(3987).unwrap_err().to_string(),
            "model: a batch of 3987, blocks[0]: 3987 × 275825664 values; at most 1099511627776: choose smaller sizes"
        );
    }
}
