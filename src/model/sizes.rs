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
