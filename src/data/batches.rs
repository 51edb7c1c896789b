//! Batches. A training batch is a pure function of the data, the seed and the step; a test batch of its place.

use std::cmp::Reverse;

use rayon::prelude::*;

use super::DataError;
use super::dataset::{Dataset, Inputs, Split, Targets, Tokens};
use super::random::{Purpose, Random};
use super::standardize::Standardize;
use crate::memory::{self, OutOfMemory, uncounted};
use crate::spec::Augment;

/// One batch: `inputs` is N × C × H × W, standardized with the training split's mean and deviation a channel; of texts there are
/// `texts` instead.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Standardized inputs; none of texts.
    pub inputs: Vec<f32>,
    /// Texts; none of other data.
    pub texts: Option<TextBatch>,
    /// What is to be predicted of each sample, as the data set has it; for next tokens a label at each position, N × T.
    pub targets: Targets,
}

/// The texts of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextBatch {
    /// Token ids, N × T, where T is the number of tokens of the longest text. Behind the end of a shorter one stand zeros.
    pub ids: Vec<u32>,
    /// How many tokens each text has, N.
    pub lengths: Vec<u32>,
}

impl TextBatch {
    /// Overwrites it with some texts, in the memory it has.
    fn fill(&mut self, tokens: &Tokens, chosen: &[usize]) -> Result<(), OutOfMemory> {
        let longest = chosen.iter().map(|&index| tokens.text(index).len()).max().unwrap_or(0);
        let len = chosen.len() * longest;
        if self.ids.capacity() < len {
            self.ids = memory::reserve(len)?;
        }
        self.ids.clear();
        self.lengths.clear();
        for &index in chosen {
            let text = tokens.text(index);
            self.ids.extend(text);
            self.ids.resize(self.ids.len() + longest - text.len(), 0);
            self.lengths.push(text.len() as u32);
        }
        Ok(())
    }

    /// As [`TextBatch::fill`], of texts of one length: each without its last token, and as labels each without its first.
    fn fill_next(
        &mut self,
        tokens: &Tokens,
        chosen: &[usize],
        targets: &mut Targets,
    ) -> Result<(), OutOfMemory> {
        let length = chosen.first().map_or(0, |&index| tokens.text(index).len() - 1);
        let len = chosen.len() * length;
        let mut labels = match std::mem::take(targets) {
            Targets::Labels(labels) => labels,
            _ => Vec::new(),
        };
        for values in [&mut self.ids, &mut labels] {
            if values.capacity() < len {
                *values = memory::reserve(len)?;
            }
            values.clear();
        }
        self.lengths.clear();
        for &index in chosen {
            let text = tokens.text(index);
            self.ids.extend(&text[..length]);
            labels.extend(&text[1..]);
            self.lengths.push(length as u32);
        }
        *targets = Targets::Labels(labels);
        Ok(())
    }
}

/// Batches of texts that are put together at a time: more make batches of less padding, fewer make them more random. It is the number of
/// `LengthGroupedSampler` in Hugging Face's `transformers`.
const POOL: usize = 50;

/// The batches of a data set.
///
/// Every epoch goes through the training split once, in an order drawn from the seed and the epoch; the samples left
/// over when no whole batch remains are dropped. Batches of texts are of similar lengths: the order is cut into pools of 50 batches, each
/// pool is sorted by length and cut into batches, and all batches of the epoch are put in an order that is drawn, too. A pixel p of channel c standardizeds (p/255 − mean) / deviation, with that
/// channel's mean and population deviation over the training split, or p/255 − mean where the deviation is 0. Inputs that are
/// no pixels likewise, without the division by 255.
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    data: &'a Dataset,
    batch: usize,
    augment: Augment,
    seed: u64,
    standardize: Standardize,
    /// The epoch whose order is at hand.
    epoch: u64,
    order: Vec<usize>,
}

impl<'a> Batches<'a> {
    /// Batches of `batch` samples; the order and the augmentation follow from `seed`.
    ///
    /// # Errors
    /// When a batch is empty or larger than the training split, or the crop padding reaches over an image.
    pub fn new(
        data: &'a Dataset,
        batch: usize,
        augment: Augment,
        seed: u64,
    ) -> Result<Self, DataError> {
        let [samples, _] = data.samples();
        if batch == 0 || batch > samples {
            return Err(DataError::Batch { batch, samples });
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
            standardize: Standardize::by(&data.train.inputs, data.shape),
            epoch: 0,
            order: epoch_order(data, batch, (seed, 0)),
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
            self.order = epoch_order(self.data, self.batch, (self.seed, epoch));
            self.epoch = epoch;
        }
        let chosen = &self.order[first..first + self.batch];
        self.data.train.targets.gather(
            self.data.outputs,
            chosen.iter().copied(),
            &mut into.targets,
        );
        self.gather(&self.data.train, chosen, into, |place| {
            Crop::draw(self.augment, self.seed, epoch, (first + place) as u64)
        })
    }

    /// Whole batches in an epoch: at least 1.
    pub fn steps_per_epoch(&self) -> u64 {
        (self.order.len() / self.batch) as u64
    }

    /// Whether all batches of one number of samples are of one size: texts of classes are not.
    pub fn are_alike(&self) -> bool {
        of_many_lengths(&self.data.train).is_none()
    }

    /// A batch of the longest training texts: no batch of any epoch is larger. None of other data, whose batches are all alike.
    ///
    /// # Errors
    /// As [`Batches::batch`].
    pub fn largest(&self) -> Result<Option<Batch>, OutOfMemory> {
        let train = &self.data.train;
        let Some(tokens) = of_many_lengths(train) else { return Ok(None) };
        Ok(Some(self.shown(train, &longest_first(tokens)[..self.batch])?))
    }

    /// Steps of the first epoch that stand for all of it where steps are timed, at most `count`; a step has `accumulate` batches. Of
    /// texts they are at even distances in the steps sorted by size; of other data they are the first.
    pub fn timed_steps(&self, count: usize, accumulate: usize) -> Vec<u64> {
        let Some(tokens) = of_many_lengths(&self.data.train) else {
            return (0..count as u64).collect();
        };
        let length = |&text: &usize| tokens.text(text).len();
        let order = epoch_order(self.data, self.batch, (self.seed, 0));
        let batches = order.chunks_exact(self.batch);
        let sizes: Vec<usize> = batches.map(|b| b.iter().map(length).max().unwrap_or(0)).collect();
        let steps = sizes.chunks_exact(accumulate.max(1)).map(|sizes| sizes.iter().sum::<usize>());
        let mut steps: Vec<(usize, u64)> = steps.zip(0..).collect();
        if steps.is_empty() {
            // A step is longer than an epoch.
            return vec![0];
        }
        steps.sort_unstable();
        evenly(count, steps.len()).map(|place| steps[place].1).collect()
    }

    /// The test split, `batch` samples at a time (0 counts as 1); the last batch may hold fewer. Texts come sorted by length, the longest
    /// first, and texts of one length in their own order; other samples come in their own order. An error where there is no memory for
    /// a batch.
    pub fn test_batches(
        &self,
        batch: usize,
    ) -> impl Iterator<Item = Result<Batch, OutOfMemory>> + '_ {
        let order = test_order(self.data);
        let batch = batch.max(1);
        (0..order.len()).step_by(batch).map(move |first| {
            self.shown(&self.data.test, &order[first..order.len().min(first + batch)])
        })
    }

    /// Test batches that stand for all of them where inference is timed, at most `count`, and all of `batch` samples where there are as
    /// many. Of texts they are at even distances among the batches, which are sorted; of other data it is the first.
    ///
    /// # Errors
    /// As [`Batches::batch`].
    pub fn timed_test_batches(
        &self,
        batch: usize,
        count: usize,
    ) -> Result<Vec<Batch>, OutOfMemory> {
        let order = test_order(self.data);
        let batch = batch.clamp(1, order.len().max(1));
        let whole: Vec<&[usize]> = order.chunks_exact(batch).collect();
        let among = if self.are_alike() { whole.len().min(1) } else { whole.len() };
        let places = evenly(count, among);
        places.map(|place| self.shown(&self.data.test, whole[place])).collect()
    }

    /// Some samples of a split as they are.
    fn shown(&self, split: &Split, chosen: &[usize]) -> Result<Batch, OutOfMemory> {
        let mut batch = Batch::default();
        split.targets.gather(self.data.outputs, chosen.iter().copied(), &mut batch.targets);
        self.gather(split, chosen, &mut batch, |_| Crop::WHOLE)?;
        Ok(batch)
    }

    /// Writes the chosen inputs of a split, each as its view shows it.
    fn gather(
        &self,
        split: &Split,
        chosen: &[usize],
        into: &mut Batch,
        view: impl Fn(usize) -> Crop + Sync,
    ) -> Result<(), OutOfMemory> {
        /// Samples a task: less work than this is not worth handing to another thread.
        const TASK: usize = 16;
        if let Inputs::Tokens(tokens) = &split.inputs {
            let texts = into.texts.get_or_insert_default();
            return match split.targets {
                Targets::NextTokens(_) => texts.fill_next(tokens, chosen, &mut into.targets),
                _ => texts.fill(tokens, chosen),
            };
        }
        let sample = self.data.sample_len();
        let len = chosen.len() * sample;
        if into.inputs.capacity() < len {
            // What is there is not needed, and is not to be in the way.
            into.inputs = Vec::new();
            into.inputs = memory::reserve(len)?;
        }
        into.inputs.resize(len, 0.0);
        let tasks = into.inputs.par_chunks_exact_mut(sample).with_min_len(TASK).zip(chosen);
        uncounted(|| {
            tasks.enumerate().for_each(|(place, (out, &index))| {
                self.show(&split.inputs, index, view(place), out);
            });
        });
        Ok(())
    }

    /// Standardizes the inputs of one sample as `view` shows them.
    fn show(&self, inputs: &Inputs, index: usize, view: Crop, out: &mut [f32]) {
        let [_, height, width] = self.data.shape;
        let area = height * width;
        let range = index * out.len()..(index + 1) * out.len();
        let channels = out.chunks_exact_mut(area).enumerate();
        match (inputs, &self.standardize) {
            (Inputs::Pixels(pixels), Standardize::Pixels(tables)) => {
                for ((channel, out), pixels) in channels.zip(pixels[range].chunks_exact(area)) {
                    let table = &tables[channel];
                    view.show(pixels, width, out, |pixel| table[usize::from(pixel)]);
                }
            }
            (Inputs::Values(values), Standardize::Values(moments)) => {
                for ((channel, out), values) in channels.zip(values[range].chunks_exact(area)) {
                    let [mean, divisor] = moments[channel];
                    view.show(values, width, out, |v| ((f64::from(v) - mean) / divisor) as f32);
                }
            }
            _ => unreachable!("the inputs of both splits are of one kind"),
        }
    }
}

/// What is seen of an image: a window of its own size, moved over the image with black (0, before
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

    /// Writes what is seen of one channel, each value as `standardized` says.
    fn show<T: Copy + Default>(
        self,
        channel: &[T],
        width: usize,
        out: &mut [f32],
        standardized: impl Fn(T) -> f32,
    ) {
        if self == Self::WHOLE {
            for (out, &value) in out.iter_mut().zip(channel) {
                *out = standardized(value);
            }
            return;
        }
        for (y, row) in out.chunks_exact_mut(width).enumerate() {
            let source = usize::try_from(y.cast_signed() + self.down)
                .ok()
                .and_then(|y| channel.chunks_exact(width).nth(y));
            for (x, out) in row.iter_mut().enumerate() {
                let x = if self.mirrored { width - 1 - x } else { x };
                let x = usize::try_from(x.cast_signed() + self.right).ok();
                let value = source.zip(x).and_then(|(row, x)| row.get(x));
                *out = standardized(value.copied().unwrap_or_default());
            }
        }
    }
}

/// The order of an epoch's samples, batch after batch.
fn epoch_order(data: &Dataset, batch: usize, (seed, epoch): (u64, u64)) -> Vec<usize> {
    let [samples, _] = data.samples();
    let mut order = Random::new(Purpose::Order, seed, epoch, 0).permutation(samples);
    let Some(tokens) = of_many_lengths(&data.train) else { return order };
    let batches = samples / batch;
    order.truncate(batches * batch);
    for pool in order.chunks_mut(POOL * batch) {
        pool.sort_by_key(|&text| tokens.text(text).len());
    }
    let places = Random::new(Purpose::BatchOrder, seed, epoch, 0).permutation(batches);
    places.into_iter().flat_map(|place| &order[place * batch..][..batch]).copied().collect()
}

/// The order in which test samples come.
fn test_order(data: &Dataset) -> Vec<usize> {
    let [_, samples] = data.samples();
    match of_many_lengths(&data.test) {
        Some(tokens) => longest_first(tokens),
        None => (0..samples).collect(),
    }
}

/// Texts that are not all of one length, as those of a language model are.
fn of_many_lengths(split: &Split) -> Option<&Tokens> {
    match (&split.inputs, &split.targets) {
        (Inputs::Tokens(tokens), Targets::Labels(_) | Targets::Values(_)) => Some(tokens),
        _ => None,
    }
}

/// Texts from the longest to the shortest; those of one length in their own order.
fn longest_first(tokens: &Tokens) -> Vec<usize> {
    let mut order: Vec<usize> = (0..tokens.ends.len()).collect();
    order.sort_by_key(|&text| Reverse(tokens.text(text).len()));
    order
}

/// At most `count` places below `len`, each in the middle of an equal part.
pub(super) fn evenly(count: usize, len: usize) -> impl Iterator<Item = usize> {
    let count = count.min(len);
    (0..count).map(move |part| (2 * part + 1) * len / (2 * count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::HostMeter;
    use crate::units::Bytes;

    /// `train` and `test` images of 2 × 3 × 4, all different; every pixel of an image's first channel is its label.
    fn data(train: u8, test: u8) -> Dataset {
        let image = |i: u8| {
            let second = (0..12).map(move |k| i.wrapping_mul(31).wrapping_add(17 * k));
            [i; 12].into_iter().chain(second)
        };
        let split = |images: std::ops::Range<u8>| Split {
            inputs: Inputs::Pixels(images.clone().flat_map(image).collect()),
            targets: Targets::Labels(images.map(u32::from).collect()),
        };
        let classes = usize::from(train) + usize::from(test);
        Dataset::new([2, 3, 4], classes, split(0..train), split(train..train + test)).unwrap()
    }

    fn tables<'a>(batches: &'a Batches<'_>) -> &'a [[f32; 256]] {
        let Standardize::Pixels(tables) = &batches.standardize else { panic!("{batches:?}") };
        tables
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
            let order: Vec<u32> = steps
                .flat_map(|step| batches.batch(step).unwrap().targets.labels().to_vec())
                .collect();
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
        let table = tables(&batches)[0];
        for (image, &label) in batch.inputs.chunks_exact(24).zip(batch.targets.labels()) {
            assert_eq!(image[..12], [table[label as usize]; 12]);
        }
    }

    /// The definition in f64, in two passes over the pixels.
    #[test]
    fn pixels_are_standardized_by_the_training_split() {
        let data = data(50, 9);
        let batches = Batches::new(&data, 1, PLAIN, 0).unwrap();
        for channel in 0..2 {
            let planes = data.train.pixels().chunks_exact(12).skip(channel).step_by(2);
            let values: Vec<f64> = planes.flatten().map(|&p| f64::from(p) / 255.0).collect();
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
            for pixel in 0..=255_u8 {
                let expected = (f64::from(pixel) / 255.0 - mean) / deviation;
                let found = f64::from(tables(&batches)[channel][usize::from(pixel)]);
                // Two roundings to f32 of numbers up to 1 before the division.
                let bound = 2e-7 * (1.0 + expected.abs()) / deviation;
                assert!((found - expected).abs() < bound, "{found} {expected}");
            }
        }
    }

    #[test]
    fn a_channel_of_equal_pixels_standardizeds_0() {
        let split = |pixels: &[u8], labels: &[u32]| Split {
            inputs: Inputs::Pixels(pixels.to_vec()),
            targets: Targets::Labels(labels.to_vec()),
        };
        let (train, test) = (split(&[51; 4], &[0; 2]), split(&[51, 255], &[0]));
        let data = Dataset::new([1, 1, 2], 1, train, test).unwrap();
        let mut batches = Batches::new(&data, 2, PLAIN, 0).unwrap();
        assert_eq!(batches.batch(0).unwrap().inputs, [0.0; 4]);
        let test: Vec<Batch> = batches.test_batches(1).map(Result::unwrap).collect();
        assert_eq!(test[0].inputs, [0.0, 1.0 - 0.2]);
    }

    /// Rows of three columns and two targets. The second column is the same everywhere, though 0.1 + 0.1 + 0.1 is not 3 × 0.1. Of 1
    /// and 2 and 6 the mean is 3 and the deviation √14/√3.
    #[test]
    fn a_table_is_standardized_by_column_and_keeps_its_targets() {
        let split = |rows: &[f32], targets: &[f32]| Split {
            inputs: Inputs::Values(rows.to_vec()),
            targets: Targets::Values(targets.to_vec()),
        };
        let train = split(
            &[1.0, 0.1, -1e30, 2.0, 0.1, 0.0, 6.0, 0.1, 1e30],
            &[10.0, 11.0, 20.0, 21.0, 60.0, 61.0],
        );
        let test = split(&[3.0, 1.1, 2e30], &[7.0, 8.0]);
        let data = Dataset::new([3, 1, 1], 2, train, test).unwrap();
        let mut batches = Batches::new(&data, 3, PLAIN, 0).unwrap();
        let batch = batches.batch(0).unwrap();
        let Targets::Values(targets) = &batch.targets else { panic!("{:?}", batch.targets) };
        let deviation = (14.0_f64 / 3.0).sqrt();
        let third = 1.5_f64.sqrt();
        for (row, target) in batch.inputs.chunks(3).zip(targets.chunks(2)) {
            let first = target[0] / 10.0;
            assert_eq!(target[1], target[0] + 1.0);
            let last = if first == 1.0 {
                -third
            } else if first == 2.0 {
                0.0
            } else {
                third
            };
            let expected = [(f64::from(first) - 3.0) / deviation, 0.0, last];
            for (found, expected) in row.iter().zip(expected) {
                assert!((f64::from(*found) - expected).abs() < 1e-6, "{found} {expected}");
            }
        }
        let test = batches.test_batches(4).next().unwrap().unwrap();
        assert_eq!(test.targets, data.test.targets);
        let centred = (f64::from(1.1_f32) - f64::from(0.1_f32)) as f32;
        assert_eq!(test.inputs[..2], [0.0, centred]);
        assert!((f64::from(test.inputs[2]) - 2.0 * third).abs() < 1e-6);
    }

    /// Against the definition: pad with zeros, cut out, mirror.
    #[test]
    fn a_view_pads_crops_and_mirrors() {
        let data = data(9, 1);
        let batches = Batches::new(&data, 1, FULL, 0).unwrap();
        let image = &data.train.pixels()[3 * 24..4 * 24];
        for (down, right, mirrored) in (-2..=2)
            .flat_map(|down| (-2..=2).map(move |right| (down, right)))
            .flat_map(|(down, right)| [(down, right, false), (down, right, true)])
        {
            let mut padded = [[[0_u8; 8]; 7]; 2];
            for (at, &pixel) in image.iter().enumerate() {
                padded[at / 12][at % 12 / 4 + 2][at % 4 + 2] = pixel;
            }
            let mut expected = Vec::new();
            for (channel, table) in padded.iter().zip(tables(&batches)) {
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
            batches.show(&data.train.inputs, 3, view, &mut shown);
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
        let table = tables(&batches);
        let pixels = data.test.pixels().iter().enumerate();
        let expected: Vec<f32> = pixels.map(|(i, &p)| table[i / 12 % 2][usize::from(p)]).collect();
        assert_eq!((&whole[0].inputs, &whole[0].targets), (&expected, &data.test.targets));
        for (batch, sizes) in [(3, vec![3, 3, 1]), (100, vec![7]), (0, vec![1; 7])] {
            let parts: Vec<Batch> = batches.test_batches(batch).map(Result::unwrap).collect();
            assert_eq!(parts.iter().map(|b| b.targets.labels().len()).collect::<Vec<_>>(), sizes);
            let inputs: Vec<f32> = parts.into_iter().flat_map(|b| b.inputs).collect();
            assert_eq!(inputs, expected);
        }
    }

    #[test]
    fn batches_that_cannot_be_filled_are_errors() {
        let crop = |crop| Augment { crop, flip: false };
        for (batch, augment, message) in [
            (0, PLAIN, "a batch of 0 cannot be filled from 5 training samples: choose 1 to 5"),
            (6, PLAIN, "a batch of 6 cannot be filled from 5 training samples: choose 1 to 5"),
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

    /// Texts of these lengths: the first token of each is its number, and so is its label.
    fn texts(lengths: &[usize]) -> Split {
        let mut tokens = Tokens { vocabulary: 10_000, ..Tokens::default() };
        for (number, length) in lengths.iter().enumerate() {
            tokens.ids.push(number as u32);
            tokens.ids.resize(tokens.ids.len() + length - 1, 9_999);
            tokens.ends.push(tokens.ids.len());
        }
        let labels = Targets::Labels((0..lengths.len() as u32).collect());
        Split { inputs: Inputs::Tokens(tokens), targets: labels }
    }

    fn data_of_texts(train: &[usize], test: &[usize]) -> Dataset {
        let outputs = train.len().max(test.len());
        Dataset::new([1, 1, 200], outputs, texts(train), texts(test)).unwrap()
    }

    /// `count` lengths from 1 to 199, in no order.
    fn lengths(count: usize) -> Vec<usize> {
        (0..count).map(|i| 1 + i * i * 31 % 199).collect()
    }

    fn numbers(batch: &Batch) -> Vec<u32> {
        let texts = batch.texts.as_ref().unwrap();
        let longest = texts.lengths.iter().copied().max().unwrap();
        let rows: Vec<&[u32]> = texts.ids.chunks(longest as usize).collect();
        assert_eq!(rows.len(), texts.lengths.len());
        for (row, length) in rows.iter().zip(&texts.lengths) {
            assert!(row[*length as usize..].iter().all(|id| *id == 0));
        }
        assert_eq!(rows.iter().map(|row| row[0]).collect::<Vec<_>>(), batch.targets.labels());
        batch.targets.labels().to_vec()
    }

    /// The definition: the seed's permutation in pools of 50 batches, each sorted by length, and then the batches shuffled. 104 batches
    /// of 4 are two pools and the beginning of a third, and 3 texts are left over.
    #[test]
    fn a_batch_of_texts_has_similar_lengths() {
        let lengths = lengths(4 * 104 + 3);
        let data = data_of_texts(&lengths, &[1]);
        let mut batches = Batches::new(&data, 4, PLAIN, 7).unwrap();
        assert_eq!(batches.steps_per_epoch(), 104);
        for epoch in [0, 2] {
            let order = Random::new(Purpose::Order, 7, epoch, 0).permutation(lengths.len());
            let mut sorted: Vec<(usize, usize, usize)> = Vec::new();
            for (place, text) in order.iter().take(416).enumerate() {
                sorted.push((place / 200, lengths[*text], place));
            }
            sorted.sort_unstable();
            let mut expected: Vec<Vec<u32>> = sorted
                .chunks(4)
                .map(|batch| batch.iter().map(|(_, _, place)| order[*place] as u32).collect())
                .collect();
            let steps = 104 * epoch..104 * (epoch + 1);
            let found: Vec<Vec<u32>> =
                steps.map(|step| numbers(&batches.batch(step).unwrap())).collect();
            assert_ne!(found, expected);
            let mut regardless = found.clone();
            regardless.sort_unstable();
            expected.sort_unstable();
            assert_eq!(regardless, expected);
        }
    }

    #[test]
    fn batches_of_texts_depend_on_the_seed_and_the_step_alone() {
        let data = data_of_texts(&lengths(130), &[1]);
        let all = |seed| {
            let mut batches = Batches::new(&data, 8, PLAIN, seed).unwrap();
            (0..40).map(|step| batches.batch(step).unwrap()).collect::<Vec<_>>()
        };
        let expected = all(7);
        let mut batches = Batches::new(&data, 8, PLAIN, 7).unwrap();
        let mut reused = Batch::default();
        for step in [39, 3, 3, 0, 16, 15] {
            batches.fill(step, &mut reused).unwrap();
            assert_eq!(reused, expected[step as usize]);
        }
        assert_ne!(all(8), expected);
        assert_ne!(expected[..16], expected[16..32]);
    }

    #[test]
    fn every_test_text_comes_once_the_longest_first() {
        let data = data_of_texts(&[1, 1], &[3, 9, 3, 1, 9, 9, 2]);
        let batches = Batches::new(&data, 2, PLAIN, 0).unwrap();
        for (batch, sizes) in [(3, vec![3, 3, 1]), (100, vec![7]), (0, vec![1; 7])] {
            let parts: Vec<Batch> = batches.test_batches(batch).map(Result::unwrap).collect();
            assert_eq!(parts.iter().map(|b| numbers(b).len()).collect::<Vec<_>>(), sizes);
            assert_eq!(parts.iter().flat_map(numbers).collect::<Vec<_>>(), [1, 4, 5, 0, 2, 6, 3]);
        }
    }

    /// Of 12 batches in order of their size, three parts of four have the middles 2, 6 and 10.
    #[test]
    fn what_is_timed_stands_for_all_texts() {
        let data = data_of_texts(&lengths(24), &lengths(25));
        let mut batches = Batches::new(&data, 2, PLAIN, 3).unwrap();
        let mut size = |step| {
            let texts = batches.batch(step).unwrap().texts.unwrap();
            texts.ids.len() / texts.lengths.len()
        };
        let mut sizes: Vec<usize> = (0..12).map(&mut size).collect();
        let pairs: Vec<usize> = sizes.chunks(2).map(|pair| pair.iter().sum()).collect();
        sizes.sort_unstable();
        let batches = Batches::new(&data, 2, PLAIN, 3).unwrap();
        let steps = |count, accumulate| batches.timed_steps(count, accumulate);
        let found: Vec<usize> = steps(3, 1).into_iter().map(&mut size).collect();
        assert_eq!(found, [2, 6, 10].map(|place| sizes[place]));
        // Steps of two batches: of six, the one in the middle.
        let mut sorted = pairs.clone();
        sorted.sort_unstable();
        assert_eq!(pairs[steps(1, 2)[0] as usize], sorted[3]);
        let mut every = steps(100, 1);
        every.sort_unstable();
        assert_eq!(every, (0..12).collect::<Vec<_>>());
        assert_eq!(steps(5, 13), [0]);

        // 25 test texts are 8 batches of 3, and one that is left over.
        let all: Vec<Batch> = batches.test_batches(3).map(Result::unwrap).collect();
        let timed = batches.timed_test_batches(3, 2).unwrap();
        assert_eq!(timed, [all[2].clone(), all[6].clone()]);
        assert_eq!(batches.timed_test_batches(3, 50).unwrap(), all[..8]);
        let whole = batches.timed_test_batches(100, 4).unwrap();
        assert_eq!(whole.iter().map(|b| numbers(b).len()).collect::<Vec<_>>(), [25]);
    }

    #[test]
    fn no_batch_of_texts_is_larger_than_the_largest() {
        let data = data_of_texts(&lengths(60), &[1]);
        let mut batches = Batches::new(&data, 8, PLAIN, 1).unwrap();
        let largest = batches.largest().unwrap().unwrap();
        assert_eq!(numbers(&largest).len(), 8);
        let size = |batch: Batch| batch.texts.unwrap().ids.len();
        let largest = size(largest);
        assert_eq!(largest, 8 * lengths(60).into_iter().max().unwrap());
        assert!((0..70).all(|step| size(batches.batch(step).unwrap()) <= largest));
        assert!((0..70).any(|step| size(batches.batch(step).unwrap()) < largest));
    }

    /// Of a text of 4 tokens the first three are known, and the last three to be predicted. All texts are of one length, so their order
    /// is that of images.
    #[test]
    fn next_tokens_are_the_labels_of_a_language_model() {
        let split = |texts: u32| Split {
            inputs: Inputs::Tokens(Tokens {
                ids: (0..4 * texts).map(|i| i % 9).collect(),
                ends: (1..=texts as usize).map(|text| 4 * text).collect(),
                vocabulary: 9,
                cut: 0,
            }),
            targets: Targets::NextTokens(texts as usize),
        };
        let data = Dataset::new([1, 1, 3], 9, split(5), split(2)).unwrap();
        let mut batches = Batches::new(&data, 2, PLAIN, 0).unwrap();
        assert!(batches.are_alike());
        let test: Vec<Batch> = batches.test_batches(2).map(Result::unwrap).collect();
        assert_eq!(test.len(), 1);
        assert_eq!(test[0].targets, Targets::Labels(vec![1, 2, 3, 5, 6, 7]));
        let texts = test[0].texts.as_ref().unwrap();
        assert_eq!((&texts.ids[..], &texts.lengths[..]), (&[0, 1, 2, 4, 5, 6][..], &[3, 3][..]));
        let order = Random::new(Purpose::Order, 0, 0, 0).permutation(5);
        let mut into = Batch::default();
        for (step, chosen) in order.chunks_exact(2).enumerate() {
            batches.fill(step as u64, &mut into).unwrap();
            let first = |text: usize| (4 * text % 9) as u32;
            let texts = into.texts.as_ref().unwrap();
            assert_eq!([texts.ids[0], texts.ids[3]], [first(chosen[0]), first(chosen[1])]);
        }
    }

    #[test]
    fn batches_of_images_are_alike() {
        let data = data(20, 7);
        let batches = Batches::new(&data, 4, PLAIN, 0).unwrap();
        assert!(batches.are_alike());
        assert_eq!(batches.largest().unwrap(), None);
        assert_eq!(batches.timed_steps(3, 2), [0, 1, 2]);
        let first = batches.test_batches(3).next().unwrap().unwrap();
        assert_eq!(batches.timed_test_batches(3, 5).unwrap(), [first]);
    }
}
