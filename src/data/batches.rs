//! Batches. A training batch is a pure function of the data, the seed and the step; a test batch of its place.

use rayon::prelude::*;

use super::random::{Purpose, Random};
use super::{DataError, Dataset, Split};
use crate::spec::Augment;

/// One batch: `images` is N × C × H × W, standardized with the training split's mean and deviation a channel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Standardized pixels.
    pub images: Vec<f32>,
    /// One class an image.
    pub labels: Vec<u32>,
}

/// The batches of a data set.
///
/// Every epoch goes through the training split once, in an order drawn from the seed and the epoch; the images left
/// over when no whole batch remains are dropped. A pixel p of channel c becomes (p/255 − mean) / deviation, with that
/// channel's mean and population deviation over the training split, or p/255 − mean where the deviation is 0.
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    data: &'a Dataset,
    batch: usize,
    augment: Augment,
    seed: u64,
    /// What each of the 256 pixel values becomes, a channel.
    standardized: Vec<[f32; 256]>,
    /// The epoch whose order is at hand.
    epoch: u64,
    order: Vec<usize>,
}

impl<'a> Batches<'a> {
    /// Batches of `batch` images; the order and the augmentation follow from `seed`.
    ///
    /// # Errors
    /// When a batch is empty or larger than the training split, or the crop padding reaches over an image.
    pub fn new(
        data: &'a Dataset,
        batch: usize,
        augment: Augment,
        seed: u64,
    ) -> Result<Self, DataError> {
        let images = data.train.labels.len();
        if batch == 0 || batch > images {
            return Err(DataError::Batch { batch, images });
        }
        let [_, height, width] = data.shape;
        if augment.crop >= height.min(width) {
            return Err(DataError::Crop {
                crop: augment.crop,
                height,
                width,
            });
        }
        Ok(Self {
            data,
            batch,
            augment,
            seed,
            standardized: standardize(&data.train.pixels, data.shape),
            epoch: 0,
            order: epoch_order(seed, 0, images),
        })
    }

    /// The training batch of a step, counted from 0. Any step may be asked for at any time.
    pub fn batch(&mut self, step: u64) -> Batch {
        let mut batch = Batch::default();
        self.fill(step, &mut batch);
        batch
    }

    /// Overwrites `into` with the training batch of a step, in the memory it has.
    pub fn fill(&mut self, step: u64, into: &mut Batch) {
        let steps = self.steps_per_epoch();
        let (epoch, first) = (step / steps, (step % steps) as usize * self.batch);
        if epoch != self.epoch {
            self.order = epoch_order(self.seed, epoch, self.order.len());
            self.epoch = epoch;
        }
        let chosen = &self.order[first..first + self.batch];
        let labels = chosen.iter().map(|&i| self.data.train.labels[i]);
        into.labels.clear();
        into.labels.extend(labels);
        self.gather(&self.data.train, chosen, into, |place| {
            View::draw(self.augment, self.seed, epoch, (first + place) as u64)
        });
    }

    /// Whole batches in an epoch: at least 1.
    pub fn steps_per_epoch(&self) -> u64 {
        (self.order.len() / self.batch) as u64
    }

    /// The test split in its own order, `batch` images at a time (0 counts as 1); the last batch may hold fewer.
    pub fn test_batches(&self, batch: usize) -> impl Iterator<Item = Batch> + '_ {
        let batch = batch.max(1);
        let test = &self.data.test;
        (0..test.labels.len()).step_by(batch).map(move |first| {
            let end = test.labels.len().min(first + batch);
            let chosen: Vec<usize> = (first..end).collect();
            let mut batch = Batch {
                images: Vec::new(),
                labels: test.labels[first..end].to_vec(),
            };
            self.gather(test, &chosen, &mut batch, |_| View::WHOLE);
            batch
        })
    }

    /// Writes the chosen images of a split, each as its view shows it.
    fn gather(
        &self,
        split: &Split,
        chosen: &[usize],
        into: &mut Batch,
        view: impl Fn(usize) -> View + Sync,
    ) {
        /// Images a task: less work than this is not worth handing to another thread.
        const TASK: usize = 16;
        let image = self.data.shape.iter().product::<usize>();
        into.images.resize(chosen.len() * image, 0.0);
        into.images
            .par_chunks_exact_mut(image)
            .with_min_len(TASK)
            .zip(chosen)
            .enumerate()
            .for_each(|(place, (out, &index))| {
                let pixels = &split.pixels[index * image..(index + 1) * image];
                self.show(pixels, view(place), out);
            });
    }

    /// Standardizes one image as `view` shows it.
    fn show(&self, pixels: &[u8], view: View, out: &mut [f32]) {
        let [_, height, width] = self.data.shape;
        let area = height * width;
        let channels = out.chunks_exact_mut(area).zip(pixels.chunks_exact(area));
        for ((out, pixels), table) in channels.zip(&self.standardized) {
            if view == View::WHOLE {
                for (out, &pixel) in out.iter_mut().zip(pixels) {
                    *out = table[usize::from(pixel)];
                }
                continue;
            }
            for (y, row) in out.chunks_exact_mut(width).enumerate() {
                let source = usize::try_from(y.cast_signed() + view.down)
                    .ok()
                    .and_then(|y| pixels.chunks_exact(width).nth(y));
                for (x, out) in row.iter_mut().enumerate() {
                    let x = if view.mirrored { width - 1 - x } else { x };
                    let x = usize::try_from(x.cast_signed() + view.right).ok();
                    let pixel = source.zip(x).and_then(|(row, x)| row.get(x));
                    *out = table[usize::from(pixel.copied().unwrap_or(0))];
                }
            }
        }
    }
}

/// What is seen of an image: a window of its own size, moved over the image with black (pixel value 0, before
/// standardization) around it, then perhaps mirrored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct View {
    /// Rows by which the window is moved down.
    down: isize,
    /// Columns by which it is moved right.
    right: isize,
    /// Left and right are swapped.
    mirrored: bool,
}

impl View {
    /// The image as it is.
    const WHOLE: Self = Self {
        down: 0,
        right: 0,
        mirrored: false,
    };

    /// The view of the image at a position of an epoch.
    fn draw(augment: Augment, seed: u64, epoch: u64, position: u64) -> Self {
        if augment == Augment::default() {
            return Self::WHOLE;
        }
        let mut random = Random::new(Purpose::Augmentation, seed, epoch, position);
        let crop = augment.crop;
        let mut shift = || random.below(2 * crop + 1).cast_signed() - crop.cast_signed();
        let (down, right) = (shift(), shift());
        Self {
            down,
            right,
            mirrored: augment.flip && random.below(2) == 1,
        }
    }
}

/// The order of an epoch's images.
fn epoch_order(seed: u64, epoch: u64, images: usize) -> Vec<usize> {
    Random::new(Purpose::Order, seed, epoch, 0).permutation(images)
}

/// What each pixel value becomes, a channel. Sums are exact, in integers; mean and deviation are rounded once to f32.
fn standardize(pixels: &[u8], [channels, height, width]: [usize; 3]) -> Vec<[f32; 256]> {
    let mut counts = vec![[0_u64; 256]; channels];
    for (plane, pixels) in pixels.chunks_exact(height * width).enumerate() {
        for &pixel in pixels {
            counts[plane % channels][usize::from(pixel)] += 1;
        }
    }
    counts.iter().map(standardized).collect()
}

/// One channel's table from how often each pixel value occurs.
fn standardized(counts: &[u64; 256]) -> [f32; 256] {
    let moment = |power: u32| -> u128 {
        let terms = (0_u128..)
            .zip(counts)
            .map(|(p, &n)| p.pow(power) * u128::from(n));
        terms.sum()
    };
    let (n, sum, squares) = (moment(0), moment(1), moment(2));
    let scale = 255.0 * n as f64;
    let mean = (sum as f64 / scale) as f32;
    let deviation = (((n * squares - sum * sum) as f64).sqrt() / scale) as f32;
    let divisor = if deviation == 0.0 { 1.0 } else { deviation };
    std::array::from_fn(|pixel| (pixel as f32 / 255.0 - mean) / divisor)
}
