//! Blocks of convolution, optional batch norm, activation and pooling; then linear layers.

use super::ModelError;
use super::mlp::{Head, head};
use crate::layers::{
    Activate, BatchNorm, Conv2d, ConvSizes, Flatten, Layer, Pooling, Registry, Sequential,
};
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
    let mut layers: Vec<Box<dyn Layer>> = Vec::new();
    let [mut channels, mut height, mut width] = shape;
    let mut is_flat = false;
    for (index, block) in blocks.iter().enumerate() {
        let choice = (*activation, *batch_norm);
        layers.extend(block_layers(registry, block, (index, channels), choice)?);
        if *batch_norm {
            let convolution = ConvBlock { pool: Pool::None, ..*block };
            let convolved = sides_after(&convolution, (height, width), index + 1)?;
            registry.normalizes(&format!("norm{}", index + 1), convolved);
        }
        (height, width) = sides_after(block, (height, width), index + 1)?;
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
    let features = channels * height * width;
    layers.extend(head(registry, (features, classes), &settings, blocks.is_empty()));
    Ok(Sequential(layers))
}

/// Convolution, batch norm if asked for, activation and pooling of one block.
fn block_layers(
    registry: &mut Registry,
    block: &ConvBlock,
    (index, inputs): (usize, usize),
    (activation, batch_norm): (Activation, bool),
) -> Result<Vec<Box<dyn Layer>>, ModelError> {
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
    let mut layers: Vec<Box<dyn Layer>> = vec![Box::new(conv)];
    if batch_norm {
        layers.push(Box::new(BatchNorm::new(registry, &format!("norm{number}"), outputs)));
    }
    let name = format!("activation.conv{number}");
    layers.push(Box::new(Activate::new(registry, &name, activation)));
    if pool != Pool::None {
        layers.push(Box::new(Pooling::new(registry, &format!("pool{number}"), pool)));
    }
    Ok(layers)
}

/// Height and width after a block's convolution and pooling.
fn sides_after(
    block: &ConvBlock,
    (height, width): (usize, usize),
    number: usize,
) -> Result<(usize, usize), ModelError> {
    let reach = block.dilation * (block.kernel - 1) + 1;
    let side = |size: usize| {
        let padded = size + 2 * block.padding;
        let out = (padded >= reach).then(|| (padded - reach) / block.stride + 1)?;
        match block.pool {
            Pool::None => Some(out),
            Pool::Max | Pool::Avg => (out >= 2).then_some(out / 2),
            Pool::Global => Some(1),
        }
    };
    side(height).zip(side(width)).ok_or_else(|| {
        ModelError(format!(
            "blocks[{}]: a kernel of {} with padding {} and its pooling does not fit {height} × {width}",
            number - 1,
            block.kernel,
            block.padding
        ))
    })
}
