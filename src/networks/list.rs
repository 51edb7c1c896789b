//! The layers of a list, then one to the outputs.

use std::collections::BTreeMap;

use crate::layers::{
    Activate, BatchNorm, BoxedLayer, Conv2d, ConvSizes, Dropout, Flatten, Linear, Pooling,
    Registry, Residual, Sequential,
};
use crate::model::ModelError;
use crate::ops::ConvSettings;
use crate::spec::{Activation, ConvPlan, LayerPlan, Pool};

/// What goes from one layer to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Channels, height and width.
    Image([usize; 3]),
    /// Values in one row.
    Row(usize),
}

impl Shape {
    fn len(self) -> usize {
        match self {
            Self::Image(sides) => sides.into_iter().fold(1, usize::saturating_mul),
            Self::Row(len) => len,
        }
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Image([c, h, w]) => write!(f, "images of {c} × {h} × {w}"),
            Self::Row(len) => write!(f, "rows of {len} values"),
        }
    }
}

/// The layers of a list on images of `shape`.
pub(super) fn layers(
    registry: &mut Registry,
    list: &[LayerPlan],
    shape: [usize; 3],
    outputs: usize,
) -> Result<Sequential, ModelError> {
    let mut maker = Maker { registry, counts: BTreeMap::new(), takes_data: true };
    let (mut layers, shape) = maker.list("layers", "", list, Shape::Image(shape))?;
    let width = flattened(&mut layers, shape);
    maker.registry.activation("output".to_owned(), &[outputs]);
    let takes_data = maker.takes_data;
    layers.push(Box::new(Linear::new(maker.registry, "output", (width, outputs), takes_data)));
    Ok(Sequential(layers))
}

/// Makes rows of images; returns the length of a row.
fn flattened(layers: &mut Vec<BoxedLayer>, shape: Shape) -> usize {
    if matches!(shape, Shape::Image(_)) {
        layers.push(Box::new(Flatten));
    }
    shape.len()
}

/// Where a layer stands.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// In the spec.
    key: &'a str,
    /// The start of its name.
    within: &'a str,
    /// Whether it does the `ReLU` that follows it.
    relu: bool,
}

impl Place<'_> {
    fn takes(self, wanted: &str, shape: Shape) -> ModelError {
        ModelError(format!("{}: takes {wanted}, and gets {shape}", self.key))
    }

    fn image(self, shape: Shape) -> Result<[usize; 3], ModelError> {
        match shape {
            Shape::Image(sides) => Ok(sides),
            Shape::Row(_) => Err(self.takes("images", shape)),
        }
    }
}

struct Maker<'r> {
    registry: &'r mut Registry,
    /// Layers of each kind so far, by the start of their names.
    counts: BTreeMap<String, usize>,
    /// Whether the data enters at the next layer with weights: nobody asks for the gradient before it.
    takes_data: bool,
}

impl Maker<'_> {
    /// `conv2` for the second convolution of a model or a residual layer.
    fn name(&mut self, within: &str, kind: &str) -> String {
        let start = format!("{within}{kind}");
        let count = self.counts.entry(start.clone()).or_default();
        *count += 1;
        format!("{start}{count}")
    }

    /// Layers one after the other, on `shape`; returns the shape behind them. `key` is where the list stands in the spec, `within`
    /// the start of its layers' names.
    fn list(
        &mut self,
        key: &str,
        within: &str,
        list: &[LayerPlan],
        mut shape: Shape,
    ) -> Result<(Vec<BoxedLayer>, Shape), ModelError> {
        let mut layers = Vec::new();
        let mut rest = list.iter().enumerate().peekable();
        while let Some((index, plan)) = rest.next() {
            let key = format!("{key}[{index}]");
            // Done in the same pass over memory by a layer that has it in itself.
            let is_fused =
                matches!(plan, LayerPlan::Linear(_) | LayerPlan::Conv(_) | LayerPlan::BatchNorm);
            let relu = rest.next_if(|(_, next)| is_fused && **next == LayerPlan::Relu).is_some();
            let at = Place { key: &key, within, relu };
            shape = self.layer(at, plan, (&mut layers, shape))?;
        }
        Ok((layers, shape))
    }

    /// One layer, behind `layers`.
    fn layer(
        &mut self,
        at: Place<'_>,
        plan: &LayerPlan,
        (layers, shape): (&mut Vec<BoxedLayer>, Shape),
    ) -> Result<Shape, ModelError> {
        match plan {
            LayerPlan::Linear(width) => Ok(self.linear(at, *width, (layers, shape))),
            LayerPlan::Conv(conv) => self.conv(at, conv, (layers, at.image(shape)?)),
            LayerPlan::BatchNorm => Ok(self.batch_norm(at, (layers, at.image(shape)?))),
            LayerPlan::Relu => Ok(self.activate(at, ("relu", Activation::Relu), (layers, shape))),
            LayerPlan::Gelu => Ok(self.activate(at, ("gelu", Activation::Gelu), (layers, shape))),
            LayerPlan::GeluTanh => {
                Ok(self.activate(at, ("gelu_tanh", Activation::GeluTanh), (layers, shape)))
            }
            LayerPlan::Tanh => Ok(self.activate(at, ("tanh", Activation::Tanh), (layers, shape))),
            LayerPlan::MaxPool => self.pool(at, Pool::Max, (layers, at.image(shape)?)),
            LayerPlan::AvgPool => self.pool(at, Pool::Avg, (layers, at.image(shape)?)),
            LayerPlan::GlobalAvgPool => self.pool(at, Pool::Global, (layers, at.image(shape)?)),
            LayerPlan::Flatten => {
                at.image(shape)?;
                Ok(Shape::Row(flattened(layers, shape)))
            }
            LayerPlan::Dropout(p) => {
                let name = self.name(at.within, "dropout");
                layers.push(Box::new(Dropout::new(self.registry, &name, *p)));
                Ok(shape)
            }
            LayerPlan::Residual(list) => self.residual(at, list, (layers, shape)),
        }
    }

    fn linear(
        &mut self,
        at: Place<'_>,
        width: usize,
        (layers, shape): (&mut Vec<BoxedLayer>, Shape),
    ) -> Shape {
        let inputs = flattened(layers, shape);
        let name = self.name(at.within, "linear");
        self.registry.activation(name.clone(), &[width]);
        let takes_data = std::mem::take(&mut self.takes_data);
        let linear = Linear::new(self.registry, &name, (inputs, width), takes_data);
        layers.push(match self.fused_relu(at) {
            Some(relu) => Box::new(linear.with_relu(self.registry, &relu)),
            None => Box::new(linear),
        });
        Shape::Row(width)
    }

    fn batch_norm(
        &mut self,
        at: Place<'_>,
        (layers, [channels, height, width]): (&mut Vec<BoxedLayer>, [usize; 3]),
    ) -> Shape {
        let name = self.name(at.within, "norm");
        self.registry.normalizes(&name, (height, width));
        let norm = BatchNorm::new(self.registry, &name, channels);
        layers.push(match self.fused_relu(at) {
            Some(relu) => Box::new(norm.with_relu(self.registry, &relu)),
            None => Box::new(norm),
        });
        self.takes_data = false;
        Shape::Image([channels, height, width])
    }

    fn activate(
        &mut self,
        at: Place<'_>,
        (name, kind): (&str, Activation),
        (layers, shape): (&mut Vec<BoxedLayer>, Shape),
    ) -> Shape {
        let name = self.name(at.within, name);
        layers.push(Box::new(Activate::new(self.registry, &name, kind)));
        shape
    }

    fn pool(
        &mut self,
        at: Place<'_>,
        kind: Pool,
        (layers, [channels, height, width]): (&mut Vec<BoxedLayer>, [usize; 3]),
    ) -> Result<Shape, ModelError> {
        let behind = match kind {
            Pool::Global => Shape::Row(channels),
            _ => Shape::Image([channels, height / 2, width / 2]),
        };
        if behind.len() == 0 {
            let shape = Shape::Image([channels, height, width]);
            return Err(at.takes("images of 2 × 2 pixels or more", shape));
        }
        let name = self.name(at.within, "pool");
        layers.push(Box::new(Pooling::new(self.registry, &name, kind)));
        Ok(behind)
    }

    /// The name of the `ReLU` that a layer does in the same pass over memory, if one follows it.
    fn fused_relu(&mut self, at: Place<'_>) -> Option<String> {
        at.relu.then(|| self.name(at.within, "relu"))
    }

    fn conv(
        &mut self,
        at: Place<'_>,
        conv: &ConvPlan,
        (layers, [inputs, height, width]): (&mut Vec<BoxedLayer>, [usize; 3]),
    ) -> Result<Shape, ModelError> {
        let ConvPlan { channels: outputs, kernel, stride, padding, dilation, groups, bias } = *conv;
        if !inputs.is_multiple_of(groups) || !outputs.is_multiple_of(groups) {
            return Err(ModelError(format!(
                "{}: groups = {groups} does not divide {inputs} and {outputs} channels",
                at.key
            )));
        }
        let reach = dilation * (kernel - 1) + 1;
        let behind = |side: usize| {
            let padded = side + 2 * padding;
            (padded >= reach).then(|| (padded - reach) / stride + 1)
        };
        let sides = behind(height).zip(behind(width)).ok_or_else(|| {
            ModelError(format!(
                "{}: a kernel of {kernel} with padding {padding} does not fit {height} × {width}",
                at.key
            ))
        })?;
        let name = self.name(at.within, "conv");
        self.registry.activation(name.clone(), &[outputs, sides.0, sides.1]);
        let patches = [inputs, kernel, kernel, sides.0, sides.1];
        self.registry.activation(format!("patches of {name}"), &patches);
        let sizes = ConvSizes { inputs, outputs, kernel, bias };
        let settings = ConvSettings { stride, padding, dilation, groups };
        let takes_data = std::mem::take(&mut self.takes_data);
        let conv = Conv2d::new(self.registry, &name, sizes, settings, takes_data);
        layers.push(match self.fused_relu(at) {
            Some(relu) => Box::new(conv.with_relu(self.registry, &relu)),
            None => Box::new(conv),
        });
        Ok(Shape::Image([outputs, sides.0, sides.1]))
    }

    fn residual(
        &mut self,
        at: Place<'_>,
        list: &[LayerPlan],
        (layers, shape): (&mut Vec<BoxedLayer>, Shape),
    ) -> Result<Shape, ModelError> {
        let name = self.name(at.within, "residual");
        // Both ways give the gradient of the x that they start from: a way that stops short would leave on the tape what the layers
        // before it saved.
        self.takes_data = false;
        let inside = format!("{name}.");
        let (body, behind) = self.list(&format!("{}.residual", at.key), &inside, list, shape)?;
        let shortcut = self.shortcut((at.key, &inside), (shape, behind))?;
        let residual = Residual::new(self.registry, &name, Sequential(body), shortcut);
        layers.push(Box::new(residual));
        Ok(behind)
    }

    /// x as it is where the shape stays, else what makes it fit.
    fn shortcut(
        &mut self,
        (key, inside): (&str, &str),
        (before, behind): (Shape, Shape),
    ) -> Result<Sequential, ModelError> {
        if before == behind {
            return Ok(Sequential::default());
        }
        let name = format!("{inside}shortcut");
        match (before, behind) {
            (Shape::Image([inputs, height, width]), Shape::Image([outputs, high, wide])) => {
                let stride = height.div_ceil(high);
                if [height, width].map(|side| side.div_ceil(stride)) != [high, wide] {
                    return Err(ModelError(format!(
                        "{key}: its layers make {high} × {wide} pixels of {height} × {width}, which no convolution of 1 × 1 does: \
                         keep the pixels, or let one stride divide both sides"
                    )));
                }
                self.registry.activation(name.clone(), &[outputs, high, wide]);
                let sizes = ConvSizes { inputs, outputs, kernel: 1, bias: false };
                let settings = ConvSettings { stride, padding: 0, dilation: 1, groups: 1 };
                let conv = Conv2d::new(self.registry, &name, sizes, settings, false);
                let norm_name = format!("{name}.norm");
                self.registry.normalizes(&norm_name, (high, wide));
                let norm = BatchNorm::new(self.registry, &norm_name, outputs);
                Ok(Sequential(vec![Box::new(conv), Box::new(norm)]))
            }
            (_, Shape::Row(outputs)) => {
                let mut layers = Vec::new();
                let inputs = flattened(&mut layers, before);
                self.registry.activation(name.clone(), &[outputs]);
                let linear = Linear::new(self.registry, &name, (inputs, outputs), false);
                layers.push(Box::new(linear));
                Ok(Sequential(layers))
            }
            (Shape::Row(_), Shape::Image(_)) => {
                Err(ModelError(format!("{key}: makes {behind} of {before}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::networks::{DataShape, model};
    use crate::spec::{ConvBlock, ModelPlan};

    const CONV: ConvPlan = ConvPlan {
        channels: 4,
        kernel: 3,
        stride: 1,
        padding: 1,
        dilation: 1,
        groups: 1,
        bias: true,
    };

    /// 10 classes of images of 8 × 8.
    const IMAGES: DataShape =
        DataShape { shape: [1, 8, 8], vocabulary: None, outputs: 10, next_tokens: false };

    fn of(layers: Vec<LayerPlan>) -> Result<crate::model::Model, String> {
        let plan = ModelPlan::Layers { layers };
        model(&plan, &IMAGES).map_err(|error| error.to_string())
    }

    /// A list that is the model of another kind has its parameters: the same shapes from the same values.
    #[test]
    fn a_list_can_be_the_other_kinds() {
        let activation = Activation::Relu;
        let mlp = ModelPlan::Mlp { hidden: vec![12, 5], activation, dropout: 0.0 };
        let relu = LayerPlan::Relu;
        let list = vec![LayerPlan::Linear(12), relu.clone(), LayerPlan::Linear(5), relu.clone()];
        let ConvPlan { channels, kernel, stride, padding, dilation, groups, .. } = CONV;
        let pool = Pool::Max;
        let block = ConvBlock { channels, kernel, stride, padding, dilation, groups, pool };
        let (blocks, hidden) = (vec![block], vec![6]);
        let cnn = ModelPlan::Cnn { blocks, hidden, activation, batch_norm: false, dropout: 0.0 };
        let cnn_list = vec![
            LayerPlan::Conv(CONV),
            relu.clone(),
            LayerPlan::MaxPool,
            LayerPlan::Linear(6),
            relu,
        ];
        for (plan, list) in [(mlp, list), (cnn, cnn_list)] {
            let (kind, list) = (model(&plan, &IMAGES).unwrap(), of(list).unwrap());
            assert_eq!(kind.parameters, list.parameters);
            let values = |model: &crate::model::Model| {
                model.initial_values(3).collect::<Result<Vec<_>, _>>().unwrap()
            };
            assert_eq!(values(&kind), values(&list));
        }
    }

    #[test]
    fn every_layer_has_its_name_and_the_shape_that_it_leaves() {
        let inner = vec![
            LayerPlan::Conv(ConvPlan { stride: 2, bias: false, ..CONV }),
            LayerPlan::BatchNorm,
            LayerPlan::Gelu,
            LayerPlan::Conv(CONV),
        ];
        let model = of(vec![
            LayerPlan::Residual(inner),
            LayerPlan::AvgPool,
            LayerPlan::Dropout(0.5),
            LayerPlan::Residual(vec![LayerPlan::Conv(CONV)]),
            LayerPlan::GlobalAvgPool,
            LayerPlan::Residual(vec![LayerPlan::Linear(4), LayerPlan::Relu]),
        ])
        .unwrap();
        let expected = [
            "residual1.conv1",
            "residual1.norm1",
            "residual1.gelu1",
            "residual1.conv2",
            "residual1.shortcut",
            "residual1.shortcut.norm",
            "residual1.sum",
            "residual1.relu",
            "pool1",
            "dropout1",
            "residual2.conv1",
            "residual2.sum",
            "residual2.relu",
            "pool2",
            "residual3.linear1",
            "residual3.relu1",
            "residual3.sum",
            "residual3.relu",
            "output",
        ];
        assert_eq!(model.layer_names, expected);
        let output = model.parameters.iter().find(|p| p.name == "output.weight").unwrap();
        assert_eq!(output.shape, [10, 4]);
    }

    #[test]
    fn what_does_not_fit_says_where() {
        let table = [
            (
                vec![LayerPlan::Linear(3), LayerPlan::MaxPool],
                "layers[1]: takes images, and gets rows of 3 values",
            ),
            (
                vec![LayerPlan::MaxPool; 4],
                "layers[3]: takes images of 2 × 2 pixels or more, and gets images of 1 × 1 × 1",
            ),
            (
                vec![LayerPlan::Conv(ConvPlan { kernel: 11, ..CONV })],
                "layers[0]: a kernel of 11 with padding 1 does not fit 8 × 8",
            ),
            (
                vec![LayerPlan::Residual(vec![LayerPlan::Conv(ConvPlan { groups: 2, ..CONV })])],
                "layers[0].residual[0]: groups = 2 does not divide 1 and 4 channels",
            ),
            (
                vec![LayerPlan::Residual(vec![LayerPlan::Conv(ConvPlan { padding: 0, ..CONV })])],
                "layers[0]: its layers make 6 × 6 pixels of 8 × 8, which no convolution of 1 × 1 does: keep the pixels, or let one \
                 stride divide both sides",
            ),
            (
                vec![LayerPlan::Flatten, LayerPlan::Flatten],
                "layers[1]: takes images, and gets rows of 64 values",
            ),
        ];
        for (layers, message) in table {
            assert_eq!(of(layers).err().unwrap(), format!("model: {message}"));
        }
    }
}
