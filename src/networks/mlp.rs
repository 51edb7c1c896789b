//! Linear layers with an activation between: a model of its own, and the head of the convolutional one.

use crate::layers::{Activate, BoxedLayer, Dropout, Flatten, Linear, Registry, Sequential};
use crate::spec::Activation;

/// The hidden layers.
pub(super) struct Head<'a> {
    /// Their widths.
    pub(super) hidden: &'a [usize],
    /// After each.
    pub(super) activation: Activation,
    /// Probability of dropping their results.
    pub(super) dropout: f32,
}

/// Images flattened, then hidden layers, then one to the classes. The data enters at the first linear layer.
pub(super) fn layers(
    registry: &mut Registry,
    inputs: usize,
    classes: usize,
    settings: &Head<'_>,
) -> Sequential {
    let mut layers: Vec<BoxedLayer> = vec![Box::new(Flatten)];
    layers.extend(head(registry, (inputs, classes), settings, true));
    Sequential(layers)
}

/// Hidden layers, then one to the classes.
pub(super) fn head(
    registry: &mut Registry,
    (inputs, classes): (usize, usize),
    settings: &Head<'_>,
    takes_data: bool,
) -> Vec<BoxedLayer> {
    let mut layers: Vec<BoxedLayer> = Vec::new();
    let mut width = inputs;
    for (index, next) in settings.hidden.iter().enumerate() {
        let number = index + 1;
        let name = format!("linear{number}");
        registry.activation(name.clone(), &[*next]);
        let linear = Linear::new(registry, &name, (width, *next), takes_data && index == 0);
        let name = format!("activation.linear{number}");
        if settings.activation == Activation::Relu {
            layers.push(Box::new(linear.with_relu(registry, &name)));
        } else {
            layers.push(Box::new(linear));
            layers.push(Box::new(Activate::new(registry, &name, settings.activation)));
        }
        if settings.dropout > 0.0 {
            let name = format!("dropout{number}");
            layers.push(Box::new(Dropout::new(registry, &name, settings.dropout)));
        }
        width = *next;
    }
    let takes_data = takes_data && settings.hidden.is_empty();
    registry.activation("output".to_owned(), &[classes]);
    layers.push(Box::new(Linear::new(registry, "output", (width, classes), takes_data)));
    layers
}
