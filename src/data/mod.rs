//! Data sets and deterministic batches. What a batch holds depends on the seed and the step alone.

/// A data set in memory: train and test split of labelled images.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// Channels, height and width of an image.
    pub shape: [usize; 3],
    /// Number of classes; labels are below it.
    pub classes: usize,
    /// The training split.
    pub train: Split,
    /// The test split.
    pub test: Split,
}

/// Labelled images.
#[derive(Clone, Debug)]
pub struct Split {
    /// Pixels, 0 to 255, image after image in C × H × W.
    pub pixels: Vec<u8>,
    /// One class an image.
    pub labels: Vec<u32>,
}

/// One batch: `images` is N × C × H × W, standardized with the training split's mean and deviation a channel.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Standardized pixels.
    pub images: Vec<f32>,
    /// One class an image.
    pub labels: Vec<u32>,
}
