//! Blocks of convolution, optional batch norm, activation and pooling; then linear layers.

use super::mlp::{Head, head};
use crate::layers::{
    Activate, BatchNorm, BoxedLayer, Conv2d, ConvSizes, Flatten, Pooling, Registry, Sequential,
};
use crate::model::ModelError;
use crate::ops::ConvSettings;
use crate::spec::{Activation, ConvBlock, ModelPlan, Pool};

/// The layers of a [`ModelPlan::Cnn`].
pub(super) fn layers(
    registry: &mut Registry,
    plan: &ModelPlan,
    shape: [usize; 3],
    classes: usize,
) -> Result<Sequential, ModelError> {
    let ModelPlan::Cnn { blocks, hidden, activation, batch_norm, dropout } = plan else {
        return Err(ModelError("not a convolutional model".to_owned()));
    };
    let mut layers: Vec<BoxedLayer> = Vec::new();
    let [mut channels, mut height, mut width] = shape;
    let mut is_flat = false;
    for (index, block) in blocks.iter().enumerate() {
        let choice = (*activation, *batch_norm);
        layers.extend(block_layers(registry, block, (index, channels), choice)?);
        let at = (index, channels);
        (height, width) = register(registry, block, at, (height, width), *batch_norm)?;
        channels = block.channels;
        is_flat = block.pool == Pool::Global;
        if is_flat && index + 1 < blocks.len() {
            return Err(ModelError(format!(
                "blocks[{index}]: global pooling leaves no image for the next block"
            )));
        }
    }
    if !is_flat {
        layers.push(Box::new(Flatten));
    }
    let settings = Head { hidden, activation: *activation, dropout: *dropout };
    // What has too many is refused by `sizes` with all else.
    let features = channels.saturating_mul(height).saturating_mul(width);
    layers.extend(head(registry, (features, classes), &settings, blocks.is_empty()));
    Ok(Sequential(layers))
}

/// Convolution, batch norm if asked for, activation and pooling of one block.
fn block_layers(
    registry: &mut Registry,
    block: &ConvBlock,
    (index, inputs): (usize, usize),
    (activation, batch_norm): (Activation, bool),
) -> Result<Vec<BoxedLayer>, ModelError> {
    let ConvBlock { channels: outputs, kernel, stride, padding, dilation, groups, pool } = *block;
    if !inputs.is_multiple_of(groups) || !outputs.is_multiple_of(groups) {
        return Err(ModelError(format!(
            "blocks[{index}]: groups = {groups} does not divide {inputs} and {outputs} channels"
        )));
    }
    let number = index + 1;
    let settings = ConvSettings { stride, padding, dilation, groups };
    let sizes = ConvSizes { inputs, outputs, kernel, bias: !batch_norm };
    let name = format!("conv{number}");
    let conv = Conv2d::new(registry, &name, sizes, settings, index == 0);
    let norm = batch_norm.then(|| BatchNorm::new(registry, &format!("norm{number}"), outputs));
    let name = format!("activation.conv{number}");
    let mut layers: Vec<BoxedLayer> = match (norm, activation) {
        (Some(norm), Activation::Relu) => {
            vec![Box::new(conv), Box::new(norm.with_relu(registry, &name))]
        }
        (None, Activation::Relu) => vec![Box::new(conv.with_relu(registry, &name))],
        (norm, activation) => {
            let mut layers: Vec<BoxedLayer> = vec![Box::new(conv)];
            layers.extend(norm.map(|norm| Box::new(norm) as BoxedLayer));
            layers.push(Box::new(Activate::new(registry, &name, activation)));
            layers
        }
    };
    if pool != Pool::None {
        layers.push(Box::new(Pooling::new(registry, &format!("pool{number}"), pool)));
    }
    Ok(layers)
}

/// Registers what an image becomes in a block; returns its height and width behind it.
fn register(
    registry: &mut Registry,
    block: &ConvBlock,
    (index, inputs): (usize, usize),
    (height, width): (usize, usize),
    batch_norm: bool,
) -> Result<(usize, usize), ModelError> {
    let reach = block.dilation * (block.kernel - 1) + 1;
    let convolved = |size: usize| {
        let padded = size + 2 * block.padding;
        (padded >= reach).then(|| (padded - reach) / block.stride + 1)
    };
    let pooled = |size: usize| match block.pool {
        Pool::None => Some(size),
        Pool::Max | Pool::Avg => (size >= 2).then_some(size / 2),
        Pool::Global => Some(1),
    };
    let behind = |size| Some((convolved(size)?, pooled(convolved(size)?)?));
    let ((high, behind_high), (wide, behind_wide)) =
        behind(height).zip(behind(width)).ok_or_else(|| {
            ModelError(format!(
                "blocks[{index}]: a kernel of {} with padding {} and its pooling does not fit {height} × {width}",
                block.kernel, block.padding
            ))
        })?;
    let name = format!("blocks[{index}]");
    registry.activation(name.clone(), &[block.channels, high, wide]);
    if batch_norm {
        registry.normalizes(&format!("norm{}", index + 1), (high, wide));
    }
    let patches = [inputs, block.kernel, block.kernel, high, wide];
    registry.activation(format!("patches of {name}"), &patches);
    Ok((behind_high, behind_wide))
}
