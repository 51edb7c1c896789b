//! The residual network for small images of He et al. 2015 (arXiv 1512.03385), section 4.2: three stages of n blocks of two
//! 3 × 3 convolutions, depth 6n + 2. Where a stage changes the shape, the shortcut is a 1 × 1 convolution with batch norm
//! (their option B; the paper's CIFAR models use the parameter-free option A).

use crate::layers::{
    BatchNorm, BoxedLayer, Conv2d, ConvSizes, Linear, Pooling, Registry, Residual, Sequential,
};
use crate::model::ModelError;
use crate::ops::ConvSettings;
use crate::spec::Pool;

/// Stages; each but the first halves the image and doubles the channels.
const STAGES: usize = 3;

/// The layers of a residual network of (depth, width).
pub(super) fn layers(
    registry: &mut Registry,
    (depth, width): (usize, usize),
    [channels, height, image_width]: [usize; 3],
    classes: usize,
) -> Result<Sequential, ModelError> {
    if height.min(image_width) < 1 << (STAGES - 1) {
        let text = format!("{height} × {image_width} is too small for a residual network's stages");
        return Err(ModelError(text));
    }
    let mut layers = convolution(registry, "stem", Convolution::new(channels, width), Place::Stem);
    registry.activation("patches of stem".to_owned(), &[channels, 3, 3, height, image_width]);
    let mut inputs = width;
    let mut sides = (height, image_width);
    for stage in 0..STAGES {
        let outputs = width << stage;
        if stage > 0 {
            sides = (sides.0.div_ceil(2), sides.1.div_ceil(2));
            registry.normalizes(&format!("stage{}.block1.1.norm", stage + 1), sides);
        }
        // Nothing in a stage is larger than the patches of its convolutions that keep the image.
        let patches = [outputs, 3, 3, sides.0, sides.1];
        registry.activation(format!("patches of stage{}", stage + 1), &patches);
        for block in 0..(depth - 2) / (2 * STAGES) {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let name = format!("stage{}.block{}", stage + 1, block + 1);
            layers.push(residual(registry, &name, (inputs, outputs), stride));
            inputs = outputs;
        }
    }
    layers.push(Box::new(Pooling::new(registry, "pool", Pool::Global)));
    layers.push(Box::new(Linear::new(registry, "output", (inputs, classes), false)));
    Ok(Sequential(layers))
}

/// The sizes of a convolution without bias that keeps, or with stride 2 halves, the image.
#[derive(Clone, Copy)]
struct Convolution {
    inputs: usize,
    outputs: usize,
    kernel: usize,
    stride: usize,
}

impl Convolution {
    fn new(inputs: usize, outputs: usize) -> Self {
        Self { inputs, outputs, kernel: 3, stride: 1 }
    }
}

/// Where a convolution stands: what follows its batch norm, and whether the data enter at it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// First of all, with a `ReLU`.
    Stem,
    /// First of a block, with a `ReLU`.
    First,
    /// Before a sum.
    Last,
}

/// A convolution, its batch norm, and what follows.
fn convolution(
    registry: &mut Registry,
    name: &str,
    convolution: Convolution,
    place: Place,
) -> Vec<BoxedLayer> {
    let Convolution { inputs, outputs, kernel, stride } = convolution;
    let settings = ConvSettings { stride, padding: kernel / 2, dilation: 1, groups: 1 };
    let sizes = ConvSizes { inputs, outputs, kernel, bias: false };
    let takes_data = place == Place::Stem;
    let conv = Conv2d::new(registry, &format!("{name}.conv"), sizes, settings, takes_data);
    let mut norm = BatchNorm::new(registry, &format!("{name}.norm"), outputs);
    if place != Place::Last {
        norm = norm.with_relu(registry, &format!("{name}.relu"));
    }
    vec![Box::new(conv), Box::new(norm)]
}

/// Two convolutions beside a shortcut, and a `ReLU` of their sum.
fn residual(
    registry: &mut Registry,
    name: &str,
    (inputs, outputs): (usize, usize),
    stride: usize,
) -> BoxedLayer {
    let first = Convolution { stride, ..Convolution::new(inputs, outputs) };
    let mut body = convolution(registry, &format!("{name}.1"), first, Place::First);
    let second = Convolution::new(outputs, outputs);
    body.extend(convolution(registry, &format!("{name}.2"), second, Place::Last));
    let shortcut = if stride == 1 && inputs == outputs {
        Vec::new()
    } else {
        let projection = Convolution { inputs, outputs, kernel: 1, stride };
        convolution(registry, &format!("{name}.shortcut"), projection, Place::Last)
    };
    Box::new(Residual::new(registry, name, Sequential(body), Sequential(shortcut)))
}
