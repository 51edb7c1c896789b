//! Batches. A training batch is a pure function of the data, the seed and the step; a test batch of its place.

use rayon::prelude::*;

use super::random::{Purpose, Random};
use super::{DataError, Dataset, Split};
use crate::memory::{self, OutOfMemory, uncounted};
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
            return Err(DataError::Crop { crop: augment.crop, height, width });
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
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn batch(&mut self, step: u64) -> Result<Batch, OutOfMemory> {
        let mut batch = Batch::default();
        self.fill(step, &mut batch)?;
        Ok(batch)
    }

    /// Overwrites `into` with the training batch of a step, in the memory it has.
    ///
    /// # Errors
    /// As [`Batches::batch`].
    pub fn fill(&mut self, step: u64, into: &mut Batch) -> Result<(), OutOfMemory> {
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
            Crop::draw(self.augment, self.seed, epoch, (first + place) as u64)
        })
    }

    /// Whole batches in an epoch: at least 1.
    pub fn steps_per_epoch(&self) -> u64 {
        (self.order.len() / self.batch) as u64
    }

    /// The test split in its own order, `batch` images at a time (0 counts as 1); the last batch may hold fewer. An error where
    /// there is no memory for a batch.
    pub fn test_batches(
        &self,
        batch: usize,
    ) -> impl Iterator<Item = Result<Batch, OutOfMemory>> + '_ {
        let batch = batch.max(1);
        let test = &self.data.test;
        (0..test.labels.len()).step_by(batch).map(move |first| {
            let end = test.labels.len().min(first + batch);
            let chosen: Vec<usize> = (first..end).collect();
            let mut batch = Batch { images: Vec::new(), labels: test.labels[first..end].to_vec() };
            self.gather(test, &chosen, &mut batch, |_| Crop::WHOLE)?;
            Ok(batch)
        })
    }

    /// Writes the chosen images of a split, each as its view shows it.
    fn gather(
        &self,
        split: &Split,
        chosen: &[usize],
        into: &mut Batch,
        view: impl Fn(usize) -> Crop + Sync,
    ) -> Result<(), OutOfMemory> {
        /// Images a task: less work than this is not worth handing to another thread.
        const TASK: usize = 16;
        let image = self.data.shape.iter().product::<usize>();
        let len = chosen.len() * image;
        if into.images.capacity() < len {
            // What is there is not needed, and is not to be in the way.
            into.images = Vec::new();
            into.images = memory::reserve(len)?;
        }
        into.images.resize(len, 0.0);
        let tasks = into.images.par_chunks_exact_mut(image).with_min_len(TASK).zip(chosen);
        uncounted(|| {
            tasks.enumerate().for_each(|(place, (out, &index))| {
                let pixels = &split.pixels[index * image..(index + 1) * image];
                self.show(pixels, view(place), out);
            });
        });
        Ok(())
    }

    /// Standardizes one image as `view` shows it.
    fn show(&self, pixels: &[u8], view: Crop, out: &mut [f32]) {
        let [_, height, width] = self.data.shape;
        let area = height * width;
        let channels = out.chunks_exact_mut(area).zip(pixels.chunks_exact(area));
        for ((out, pixels), table) in channels.zip(&self.standardized) {
            if view == Crop::WHOLE {
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
struct Crop {
    /// Rows by which the window is moved down.
    down: isize,
    /// Columns by which it is moved right.
    right: isize,
    /// Left and right are swapped.
    mirrored: bool,
}

impl Crop {
    /// The image as it is.
    const WHOLE: Self = Self { down: 0, right: 0, mirrored: false };

    /// The view of the image at a position of an epoch.
    fn draw(augment: Augment, seed: u64, epoch: u64, position: u64) -> Self {
        if augment == Augment::default() {
            return Self::WHOLE;
        }
        let mut random = Random::new(Purpose::Augmentation, seed, epoch, position);
        let crop = augment.crop;
        let mut shift = || random.below(2 * crop + 1).cast_signed() - crop.cast_signed();
        let (down, right) = (shift(), shift());
        Self { down, right, mirrored: augment.flip && random.below(2) == 1 }
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
        let terms = (0_u128..).zip(counts).map(|(p, &n)| p.pow(power) * u128::from(n));
        terms.sum()
    };
    let (n, sum, squares) = (moment(0), moment(1), moment(2));
    let scale = 255.0 * n as f64;
    let mean = (sum as f64 / scale) as f32;
    let deviation = (((n * squares - sum * sum) as f64).sqrt() / scale) as f32;
    let divisor = if deviation == 0.0 { 1.0 } else { deviation };
    std::array::from_fn(|pixel| (pixel as f32 / 255.0 - mean) / divisor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::HostMeter;
    use crate::units::Bytes;

    /// `train` and `test` images of 2 × 3 × 4, all different; every pixel of an image's first channel is its label.
    fn data(train: u8, test: u8) -> Dataset {
        let split = |images: std::ops::Range<u8>| Split {
            pixels: images
                .clone()
                .flat_map(|i| {
                    let second = (0..12).map(move |k| i.wrapping_mul(31).wrapping_add(17 * k));
                    [i; 12].into_iter().chain(second)
                })
                .collect(),
            labels: images.map(u32::from).collect(),
        };
        Dataset {
            shape: [2, 3, 4],
            classes: usize::from(train) + usize::from(test),
            train: split(0..train),
            test: split(train..train + test),
        }
    }

    const PLAIN: Augment = Augment { crop: 0, flip: false };
    const FULL: Augment = Augment { crop: 2, flip: true };

    #[test]
    fn an_epoch_shows_every_image_once_but_for_the_rest() {
        let data = data(23, 1);
        let mut batches = Batches::new(&data, 5, PLAIN, 7).unwrap();
        assert_eq!(batches.steps_per_epoch(), 4);
        let mut epochs = Vec::new();
        for epoch in 0..3 {
            let steps = 4 * epoch..4 * (epoch + 1);
            let order: Vec<u32> =
                steps.flat_map(|step| batches.batch(step).unwrap().labels).collect();
            let mut sorted = order.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), 20);
            assert!(!epochs.contains(&order) && !order.is_sorted());
            epochs.push(order);
        }
    }

    #[test]
    fn a_batch_depends_on_the_seed_and_the_step_alone() {
        let data = data(40, 1);
        let mut in_order = Batches::new(&data, 8, FULL, 7).unwrap();
        let expected: Vec<Batch> = (0..15).map(|step| in_order.batch(step).unwrap()).collect();
        let mut reused = Batch::default();
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let pool = pool.build().unwrap();
            let mut batches = Batches::new(&data, 8, FULL, 7).unwrap();
            for step in [14, 3, 3, 0, 9, 5, 1] {
                pool.install(|| batches.fill(step, &mut reused)).unwrap();
                assert_eq!(reused, expected[step as usize]);
            }
        }
        let mut other = Batches::new(&data, 8, FULL, 8).unwrap();
        assert_ne!(other.batch(0).unwrap(), expected[0]);
    }

    /// See the test of `ops::parallel` for what could stay.
    #[test]
    fn drawing_batches_leaves_no_memory_behind() {
        let data = data(64, 1);
        let mut batches = Batches::new(&data, 64, PLAIN, 7).unwrap();
        let mut batch = batches.batch(0).unwrap();
        let meter = HostMeter::start().unwrap();
        for step in 0..200 {
            batches.fill(step, &mut batch).unwrap();
        }
        assert_eq!(meter.live(), Bytes(0));
    }

    #[test]
    fn images_keep_their_labels() {
        let data = data(23, 4);
        let mut batches = Batches::new(&data, 23, PLAIN, 0).unwrap();
        let batch = batches.batch(5).unwrap();
        let table = batches.standardized[0];
        for (image, &label) in batch.images.chunks_exact(24).zip(&batch.labels) {
            assert_eq!(image[..12], [table[label as usize]; 12]);
        }
    }

    /// The definition in f64, in two passes over the pixels.
    #[test]
    fn pixels_are_standardized_by_the_training_split() {
        let data = data(50, 9);
        let batches = Batches::new(&data, 1, PLAIN, 0).unwrap();
        for channel in 0..2 {
            let planes = data.train.pixels.chunks_exact(12).skip(channel).step_by(2);
            let values: Vec<f64> = planes.flatten().map(|&p| f64::from(p) / 255.0).collect();
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
            for pixel in 0..=255_u8 {
                let expected = (f64::from(pixel) / 255.0 - mean) / deviation;
                let found = f64::from(batches.standardized[channel][usize::from(pixel)]);
                // Two roundings to f32 of numbers up to 1 before the division.
                let bound = 2e-7 * (1.0 + expected.abs()) / deviation;
                assert!((found - expected).abs() < bound, "{found} {expected}");
            }
        }
    }

    #[test]
    fn a_channel_of_equal_pixels_becomes_0() {
        let data = Dataset {
            shape: [1, 1, 2],
            classes: 1,
            train: Split { pixels: vec![51; 4], labels: vec![0; 2] },
            test: Split { pixels: vec![51, 255], labels: vec![0] },
        };
        let mut batches = Batches::new(&data, 2, PLAIN, 0).unwrap();
        assert_eq!(batches.batch(0).unwrap().images, [0.0; 4]);
        let test: Vec<Batch> = batches.test_batches(1).map(Result::unwrap).collect();
        assert_eq!(test[0].images, [0.0, 1.0 - 0.2]);
    }

    /// Against the definition: pad with zeros, cut out, mirror.
    #[test]
    fn a_view_pads_crops_and_mirrors() {
        let data = data(9, 1);
        let batches = Batches::new(&data, 1, FULL, 0).unwrap();
        let image = &data.train.pixels[3 * 24..4 * 24];
        for (down, right, mirrored) in (-2..=2)
            .flat_map(|down| (-2..=2).map(move |right| (down, right)))
            .flat_map(|(down, right)| [(down, right, false), (down, right, true)])
        {
            let mut padded = [[[0_u8; 8]; 7]; 2];
            for (at, &pixel) in image.iter().enumerate() {
                padded[at / 12][at % 12 / 4 + 2][at % 4 + 2] = pixel;
            }
            let mut expected = Vec::new();
            for (channel, table) in padded.iter().zip(&batches.standardized) {
                for y in 0..3 {
                    let row = &channel[(y + 2 + down) as usize];
                    let mut row = row[(2 + right) as usize..][..4].to_vec();
                    if mirrored {
                        row.reverse();
                    }
                    expected.extend(row.iter().map(|&p| table[usize::from(p)]));
                }
            }
            let mut shown = [f32::NAN; 24];
            let view = Crop { down: down as isize, right: right as isize, mirrored };
            batches.show(image, view, &mut shown);
            assert_eq!(shown.as_slice(), expected);
        }
    }

    #[test]
    fn views_are_drawn_from_all_that_augmentation_allows() {
        let draws = |augment| {
            let views = (0..2000).map(|position| Crop::draw(augment, 3, 1, position));
            let views = views.map(|v| (v.down, v.right, v.mirrored));
            views.collect::<std::collections::BTreeSet<_>>()
        };
        let allowed = |crop: isize, flips: &[bool]| {
            let places =
                (-crop..=crop).flat_map(|down| (-crop..=crop).map(move |right| (down, right)));
            let views =
                places.flat_map(|(down, right)| flips.iter().map(move |&m| (down, right, m)));
            views.collect::<std::collections::BTreeSet<_>>()
        };
        let only = |crop, flip| Augment { crop, flip };
        assert_eq!(draws(FULL), allowed(2, &[false, true]));
        assert_eq!(draws(only(2, false)), allowed(2, &[false]));
        assert_eq!(draws(only(0, true)), allowed(0, &[false, true]));
        assert_eq!(draws(PLAIN), allowed(0, &[false]));
    }

    #[test]
    fn test_batches_go_through_the_test_split_in_order() {
        let data = data(5, 7);
        let batches = Batches::new(&data, 2, FULL, 0).unwrap();
        let whole: Vec<Batch> = batches.test_batches(7).map(Result::unwrap).collect();
        assert_eq!(whole.len(), 1);
        let table = &batches.standardized;
        let pixels = data.test.pixels.iter().enumerate();
        let expected: Vec<f32> = pixels.map(|(i, &p)| table[i / 12 % 2][usize::from(p)]).collect();
        assert_eq!((&whole[0].images, &whole[0].labels), (&expected, &data.test.labels));
        for (batch, sizes) in [(3, vec![3, 3, 1]), (100, vec![7]), (0, vec![1; 7])] {
            let parts: Vec<Batch> = batches.test_batches(batch).map(Result::unwrap).collect();
            assert_eq!(parts.iter().map(|b| b.labels.len()).collect::<Vec<_>>(), sizes);
            let images: Vec<f32> = parts.into_iter().flat_map(|b| b.images).collect();
            assert_eq!(images, expected);
        }
    }

    #[test]
    fn batches_that_cannot_be_filled_are_errors() {
        let crop = |crop| Augment { crop, flip: false };
        for (batch, augment, message) in [
            (0, PLAIN, "a batch of 0 cannot be filled from 5 training images: choose 1 to 5"),
            (6, PLAIN, "a batch of 6 cannot be filled from 5 training images: choose 1 to 5"),
            (
                5,
                crop(3),
                "crop padding 3 is too large for images of 3 × 4: choose less than either",
            ),
        ] {
            let error = Batches::new(&data(5, 1), batch, augment, 0).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }
}
