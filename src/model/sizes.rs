//! The sizes of a model: products of numbers of which each is small enough. Checked here, before anything is made of them.

use super::ModelError;
use crate::layers::Registry;
use crate::spec::limits;

/// The largest thing that each image of a batch takes.
#[derive(Clone, Debug)]
pub(super) struct Largest {
    what: String,
    values: usize,
}

/// Checks every parameter, and what one image of `shape` and its activations take; returns the largest of these.
pub(super) fn check(registry: &Registry, shape: [usize; 3]) -> Result<Largest, ModelError> {
    let mut largest = Largest { what: "the images".to_owned(), values: 0 };
    let image = (largest.what.clone(), shape.to_vec());
    for (what, shape) in std::iter::once(&image).chain(&registry.activations) {
        let values = values(what, shape)?;
        if values > largest.values {
            largest = Largest { what: what.clone(), values };
        }
    }
    for parameter in &registry.parameters {
        values(&parameter.name, &parameter.shape)?;
    }
    Ok(largest)
}

impl Largest {
    /// Checks what a batch takes.
    pub(super) fn check_batch(&self, batch: usize) -> Result<(), ModelError> {
        values(&format!("a batch of {batch}, {}", self.what), &[batch, self.values]).map(drop)
    }
}

/// The number of values of a shape.
fn values(what: &str, shape: &[usize]) -> Result<usize, ModelError> {
    let product = shape.iter().try_fold(1, |product: usize, size| product.checked_mul(*size));
    product.filter(|values| *values <= limits::VALUES).ok_or_else(|| {
        let sizes: Vec<String> = shape.iter().map(ToString::to_string).collect();
        let sizes = sizes.join(" × ");
        ModelError(format!(
            "{what}: {sizes} values; at most {}: choose smaller sizes",
            limits::VALUES
        ))
    })
}

#[cfg(test)]
mod tests {
    use crate::model::Model;
    use crate::spec::{Activation, ConvBlock, ModelPlan, Pool};

    fn mlp(hidden: &[usize]) -> ModelPlan {
        ModelPlan::Mlp { hidden: hidden.to_vec(), activation: Activation::Relu, dropout: 0.0 }
    }

    /// `count` blocks, each of which makes the image larger.
    fn cnn(count: usize, channels: usize, pool: Pool) -> ModelPlan {
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
            (cnn(1000, 8, Pool::None), [1, 28, 28], deep),
            (cnn(1, 8, Pool::None), [1, 28, 28], "linear1.weight: 65536 × 34478208"),
            (
                ModelPlan::Resnet { depth: 8, width: 65_536 },
                [3, 2048, 2048],
                "patches of stage1: 65536 × 3 × 3 × 2048 × 2048",
            ),
        ] {
            let error = Model::new(&plan, shape, 10).err().unwrap().to_string();
            let rest = "values; at most 1099511627776: choose smaller sizes";
            assert_eq!(error, format!("model: {message} {rest}"));
        }
    }

    #[test]
    fn what_a_batch_takes_is_counted_with_all_its_images() {
        let model = Model::new(&cnn(1, 64, Pool::Global), [1, 28, 28], 10).unwrap();
        // Python: 2**40 // (64 * (28 + 2048)**2) == 3986
        assert_eq!(model.check_batch(3986), Ok(()));
        assert_eq!(
            model.check_batch(3987).unwrap_err().to_string(),
            "model: a batch of 3987, blocks[0]: 3987 × 275825664 values; at most 1099511627776: choose smaller sizes"
        );
    }
}
