//! A data set in memory: what a model learns from and is tested on.

use std::fmt;
use std::ops::RangeInclusive;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::DataError;
use super::batches::evenly;
use crate::formatting;

/// A data set in memory: samples to train on and samples to test on.
///
/// ```
/// use mantissa::data::{Dataset, Inputs, Split, Targets};
///
/// // y = 2 a − b, of rows of two columns.
/// let split = |rows: &[[f32; 2]]| Split {
///     inputs: Inputs::Values(rows.concat()),
///     targets: Targets::Values(rows.iter().map(|[a, b]| 2.0 * a - b).collect()),
/// };
/// let train = split(&[[0.0, 1.0], [1.0, 0.5], [2.0, 3.0]]);
/// let data = Dataset::new([2, 1, 1], 1, train, split(&[[1.0, 1.0]]))?;
/// assert_eq!(data.samples(), [3, 1]);
///
/// let labelled = |labels: &[u32]| Split {
///     inputs: Inputs::Pixels(vec![0; 4 * labels.len()]),
///     targets: Targets::Labels(labels.to_vec()),
/// };
/// let error = Dataset::new([1, 2, 2], 2, labelled(&[0, 1]), labelled(&[2])).unwrap_err();
/// assert_eq!(error.to_string(), "test split, sample 0: label 2 is not below 2, the number of classes");
/// # Ok::<(), mantissa::data::DataError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    pub(super) shape: [usize; 3],
    pub(super) outputs: usize,
    pub(super) train: Split,
    pub(super) test: Split,
}

/// The data that runs learn from: runs on other data belong to another experiment.
///
/// ```
/// use mantissa::data;
/// use mantissa::spec::DataPlan;
///
/// let facts = data::load(&DataPlan::Digits { train: 50, test: 20, seed: 0 })?.facts();
/// assert_eq!((facts.train, facts.test, facts.classes, facts.shape), (50, 20, 10, [1, 28, 28]));
/// assert_eq!(facts.digest.len(), 64, "a SHA-256");
/// # Ok::<(), mantissa::data::DataError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DataFacts {
    /// SHA-256 of all of it, in hexadecimal digits: `Dataset::facts` says in which order.
    pub digest: String,
    /// Samples of the training split.
    pub train: usize,
    /// Samples of the test split.
    pub test: usize,
    /// Classes; 0 of a regression.
    pub classes: usize,
    /// Values of a target of a regression; none of a classification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_values: Option<usize>,
    /// Tokens that texts are made of; none of other data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<usize>,
    /// Whether the next token of each position is to be predicted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub next_tokens: bool,
    /// Channels, height and width of a sample; of texts the width is the most tokens of one.
    pub shape: [usize; 3],
}

impl fmt::Display for DataFacts {
    /// One line, with the beginning of the digest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { digest, train, test, classes, target_values, vocabulary, next_tokens, .. } =
            self;
        let [channels, height, width] = self.shape;
        let digest = digest.get(..12).unwrap_or(digest);
        let targets = match target_values {
            Some(1) => "1 target value".to_owned(),
            Some(values) => format!("{values} target values"),
            None => format!("{classes} classes"),
        };
        if *next_tokens {
            let tokens = vocabulary.unwrap_or_default();
            return write!(
                f,
                "{train} training and {test} test sequences of {width} tokens, of {tokens}, SHA-256 {digest}…"
            );
        }
        let samples = match vocabulary {
            Some(tokens) => format!("texts of at most {width} tokens, of {tokens}"),
            None => format!("samples of {channels} × {height} × {width}"),
        };
        write!(f, "{train} training and {test} test {samples}, {targets}, SHA-256 {digest}…")
    }
}

/// Samples and their targets.
///
/// ```
/// use mantissa::data::{Dataset, Inputs, Split, Targets};
///
/// // Two grey images of 2 × 2 pixels, one a class, to train and to test on.
/// let split = Split { inputs: Inputs::Pixels(vec![0, 0, 0, 0, 9, 9, 9, 9]), targets: Targets::Labels(vec![0, 1]) };
/// let data = Dataset::new([1, 2, 2], 2, split.clone(), split)?;
/// assert_eq!((data.samples(), data.shape()), ([2, 2], [1, 2, 2]));
/// # Ok::<(), mantissa::data::DataError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// Sample after sample, each in C × H × W.
    pub inputs: Inputs,
    /// What is to be predicted of each.
    pub targets: Targets,
}

/// What is known of samples.
///
/// ```
/// use mantissa::data::{Dataset, Inputs, Split, Targets};
///
/// // A row of a table, with three columns.
/// let split = || Split { inputs: Inputs::Values(vec![0.1, 0.2, 0.3]), targets: Targets::Values(vec![1.0]) };
/// let data = Dataset::new([3, 1, 1], 1, split(), split())?;
/// assert!(matches!(&data.train().inputs, Inputs::Values(values) if values.len() == 3));
/// # Ok::<(), mantissa::data::DataError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Inputs {
    /// Pixels, 0 to 255.
    Pixels(Vec<u8>),
    /// Finite numbers.
    Values(Vec<f32>),
    /// Texts.
    Tokens(Tokens),
}

/// Texts as token ids.
///
/// ```
/// use mantissa::data::Tokens;
///
/// // Two texts, of three tokens and of one.
/// let texts = Tokens { ids: vec![5, 7, 7, 2], ends: vec![3, 4], vocabulary: 10, cut: 0 };
/// assert_eq!(texts.text(0), [5, 7, 7]);
/// assert_eq!(texts.text(1), [2]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Text after text.
    pub ids: Vec<u32>,
    /// Where each text ends in `ids`.
    pub ends: Vec<usize>,
    /// How many tokens there are: an id is below it.
    pub vocabulary: usize,
    /// Texts that had more tokens than a sample takes, and were cut.
    pub cut: usize,
}

impl Tokens {
    /// The ids of a text.
    ///
    /// # Panics
    /// When there is no such text.
    pub fn text(&self, index: usize) -> &[u32] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.ids[start..self.ends[index]]
    }

    /// Some of the texts. That any was cut is not known of them.
    pub(super) fn part(&self, chosen: &[usize]) -> Self {
        let mut part = Self { vocabulary: self.vocabulary, ..Self::default() };
        for &index in chosen {
            part.ids.extend(self.text(index));
            part.ends.push(part.ids.len());
        }
        part
    }

    /// What is wrong with them as texts of so many tokens, and at which text.
    fn problem(&self, lengths: &RangeInclusive<usize>) -> Option<(usize, String)> {
        let whole =
            self.ends.is_sorted() && self.ends.last().copied().unwrap_or(0) == self.ids.len();
        if !whole {
            return Some((0, "the ends of texts do not fit the tokens".to_owned()));
        }
        (0..self.ends.len()).find_map(|index| {
            let text = self.text(index);
            let what = match text.iter().find(|id| **id as usize >= self.vocabulary) {
                Some(id) => {
                    format!("token {id} is not below {}, the number of tokens", self.vocabulary)
                }
                None if lengths.contains(&text.len()) => return None,
                None => {
                    format!("{} tokens, of {} to {}", text.len(), lengths.start(), lengths.end())
                }
            };
            Some((index, what))
        })
    }
}

/// What is to be predicted of samples.
///
/// ```
/// use mantissa::data::Targets;
///
/// assert_eq!(Targets::Labels(vec![3, 1, 4]).samples(10), 3);
/// // Two values a sample.
/// assert_eq!(Targets::Values(vec![0.1, 0.2, 0.3, 0.4]).samples(2), 2);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Targets {
    /// Classification: one class each, from 0.
    Labels(Vec<u32>),
    /// Regression: finite numbers, as many for each sample.
    Values(Vec<f32>),
    /// A language model: at each position of a text but its last, the token after it. The number of texts, each of T + 1 tokens.
    NextTokens(usize),
}

/// Labelled images, as readers of image files gather them.
#[derive(Clone, Debug, Default)]
pub(super) struct Images {
    /// Pixels, image after image.
    pub(super) pixels: Vec<u8>,
    /// One class an image.
    pub(super) labels: Vec<u32>,
}

impl From<Images> for Split {
    fn from(Images { pixels, labels }: Images) -> Self {
        Self { inputs: Inputs::Pixels(pixels), targets: Targets::Labels(labels) }
    }
}

#[cfg(test)]
impl Split {
    /// The pixels of labelled images.
    pub(super) fn pixels(&self) -> &[u8] {
        let Inputs::Pixels(pixels) = &self.inputs else { panic!("{:?}", self.inputs) };
        pixels
    }

    /// The labels of labelled images.
    pub(super) fn labels(&self) -> &[u32] {
        self.targets.labels()
    }
}

#[cfg(test)]
impl Targets {
    /// The labels that they are.
    pub(super) fn labels(&self) -> &[u32] {
        let Self::Labels(labels) = self else { panic!("{self:?}") };
        labels
    }
}

impl Inputs {
    /// Number of values of all samples.
    fn len(&self) -> usize {
        match self {
            Self::Pixels(pixels) => pixels.len(),
            Self::Values(values) => values.len(),
            Self::Tokens(tokens) => tokens.ids.len(),
        }
    }

    /// Whether they are those of so many samples of so many values: of texts, whether there are so many.
    fn are_of(&self, samples: usize, sample: usize) -> bool {
        match self {
            Self::Pixels(_) | Self::Values(_) => samples.checked_mul(sample) == Some(self.len()),
            Self::Tokens(tokens) => tokens.ends.len() == samples,
        }
    }
}

impl Targets {
    /// Targets of how many samples, where one of a regression has `outputs` values.
    pub fn samples(&self, outputs: usize) -> usize {
        match self {
            Self::Labels(labels) => labels.len(),
            Self::Values(values) => values.len() / outputs.max(1),
            Self::NextTokens(texts) => *texts,
        }
    }

    /// Whether these are labels.
    pub fn is_classification(&self) -> bool {
        matches!(self, Self::Labels(_))
    }

    /// Overwrites `into` with the targets of some samples, in the memory it has.
    pub(super) fn gather(
        &self,
        outputs: usize,
        chosen: impl Iterator<Item = usize>,
        into: &mut Self,
    ) {
        match (self, into) {
            (Self::Labels(labels), Self::Labels(into)) => {
                into.clear();
                into.extend(chosen.map(|sample| labels[sample]));
            }
            (Self::Values(values), Self::Values(into)) => {
                into.clear();
                into.extend(chosen.flat_map(|i| &values[i * outputs..(i + 1) * outputs]));
            }
            // They are in the texts themselves.
            (Self::NextTokens(_), _) => {}
            (Self::Labels(_), into) => {
                *into = Self::Labels(Vec::new());
                self.gather(outputs, chosen, into);
            }
            (Self::Values(_), into) => {
                *into = Self::Values(Vec::new());
                self.gather(outputs, chosen, into);
            }
        }
    }
}

impl Default for Targets {
    fn default() -> Self {
        Self::Labels(Vec::new())
    }
}

impl Dataset {
    /// A data set of these splits. `shape` is channels, height and width of a sample; a row of a table with D columns is D × 1 × 1,
    /// a text of at most T tokens 1 × 1 × T.
    /// `outputs` is the number of classes, of the values of a target, or of tokens.
    ///
    /// # Errors
    /// When a split has no samples, the lengths do not fit each other, the splits are of different kinds, a label is not below
    /// the number of classes, or a value is not finite.
    pub fn new(
        shape: [usize; 3],
        outputs: usize,
        train: Split,
        test: Split,
    ) -> Result<Self, DataError> {
        let data = Self { shape, outputs, train, test };
        data.check()?;
        Ok(data)
    }

    /// Channels, height and width of a sample.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// What a model gives for a sample: as many logits as there are classes, or as many numbers as a target has; for each position
    /// of a text, as many logits as there are tokens.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The most tokens of a sequence, of a language model; none of other data.
    pub fn context(&self) -> Option<usize> {
        matches!(self.train.targets, Targets::NextTokens(_)).then_some(self.shape[2])
    }

    /// The first `length` tokens of sequences of the test split, at most `count` of them, at even distances, one after the other; none
    /// where no sequence is so long.
    pub fn prompts(&self, count: usize, length: usize) -> Vec<u32> {
        let Inputs::Tokens(tokens) = &self.test.inputs else { return Vec::new() };
        let texts = (0..tokens.ends.len()).map(|index| tokens.text(index));
        let long: Vec<&[u32]> = texts.filter(|text| text.len() >= length).collect();
        let places = evenly(count, long.len());
        places.flat_map(|place| &long[place][..length]).copied().collect()
    }

    /// The training split.
    pub fn train(&self) -> &Split {
        &self.train
    }

    /// The test split.
    pub fn test(&self) -> &Split {
        &self.test
    }

    /// Number of training samples, and of test samples.
    pub fn samples(&self) -> [usize; 2] {
        [&self.train, &self.test].map(|split| split.targets.samples(self.outputs))
    }

    /// How many tokens texts are made of; none of other data.
    pub fn vocabulary(&self) -> Option<usize> {
        match &self.train.inputs {
            Inputs::Tokens(tokens) => Some(tokens.vocabulary),
            Inputs::Pixels(_) | Inputs::Values(_) => None,
        }
    }

    /// Whether its targets are labels.
    pub fn is_classification(&self) -> bool {
        self.train.targets.is_classification()
    }

    /// Values of one sample.
    pub(super) fn sample_len(&self) -> usize {
        self.shape.iter().product()
    }

    /// As [`Dataset::new`] says.
    pub(super) fn check(&self) -> Result<(), DataError> {
        let invalid = |what| Err(DataError::Invalid(what));
        let [c, h, w] = self.shape;
        if self.shape.contains(&0) {
            return invalid(format!(
                "a sample of {c} × {h} × {w} holds nothing: give 1 or more each"
            ));
        }
        if self.outputs == 0 {
            let things =
                if self.is_classification() { "classes" } else { "values for each target" };
            return invalid(format!("0 {things}: give at least 1"));
        }
        for (name, split) in [("train", &self.train), ("test", &self.test)] {
            self.check_split(name, split)?;
        }
        let kind = |split: &Split| {
            (std::mem::discriminant(&split.inputs), std::mem::discriminant(&split.targets))
        };
        if kind(&self.train) != kind(&self.test) {
            let what = "the train and the test split are of different kinds: give both pixels or both values, and both labels \
                        or both values as targets";
            return invalid(what.to_owned());
        }
        if let (Inputs::Tokens(train), Inputs::Tokens(test)) =
            (&self.train.inputs, &self.test.inputs)
            && train.vocabulary != test.vocabulary
        {
            return invalid(format!(
                "the train split has {} tokens, the test split {}: give both the same tokenizer",
                train.vocabulary, test.vocabulary
            ));
        }
        Ok(())
    }

    fn check_split(&self, name: &'static str, split: &Split) -> Result<(), DataError> {
        let samples = split.targets.samples(self.outputs);
        let (values, sample) = (split.inputs.len(), self.sample_len());
        if values == 0 && samples == 0 {
            return Err(DataError::Empty { split: name });
        }
        let whole = match &split.targets {
            Targets::Labels(_) => true,
            Targets::Values(values) => values.len() == samples * self.outputs,
            Targets::NextTokens(_) => matches!(split.inputs, Inputs::Tokens(_)),
        };
        if !whole || !split.inputs.are_of(samples, sample) {
            let targets = match &split.targets {
                Targets::Labels(labels) => formatting::plural(labels.len(), "label"),
                Targets::Values(values) => format!(
                    "{} of {} each",
                    formatting::plural(values.len(), "target value"),
                    self.outputs
                ),
                Targets::NextTokens(texts) => {
                    format!("the next tokens of {}", formatting::plural(*texts, "text"))
                }
            };
            let [c, h, w] = self.shape;
            return Err(DataError::Invalid(format!(
                "{name} split: {} do not belong to {targets}: a sample is {c} × {h} × {w}",
                formatting::plural(values, "input value"),
            )));
        }
        let not_finite = |values: &[f32], each: usize, what: &str| {
            let at = values.iter().position(|value| !value.is_finite())?;
            Some(format!(
                "{name} split, sample {}: {what} {} is {}",
                at / each,
                at % each,
                values[at]
            ))
        };
        let problem = match &split.inputs {
            Inputs::Pixels(_) => None,
            Inputs::Values(values) => not_finite(values, sample, "input value"),
            Inputs::Tokens(tokens) => {
                let next = split.targets == Targets::NextTokens(samples);
                let lengths = if next { sample + 1..=sample + 1 } else { 1..=sample };
                let problem = tokens.problem(&lengths);
                problem.map(|(at, what)| format!("{name} split, sample {at}: {what}"))
            }
        };
        let problem = problem.or_else(|| match &split.targets {
            Targets::NextTokens(_) => None,
            Targets::Values(values) => not_finite(values, self.outputs, "target value"),
            Targets::Labels(labels) => {
                let at = labels.iter().position(|label| *label as usize >= self.outputs)?;
                Some(format!(
                    "{name} split, sample {at}: label {} is not below {}, the number of classes",
                    labels[at], self.outputs
                ))
            }
        });
        problem.map_or(Ok(()), |what| Err(DataError::Invalid(what)))
    }

    /// What tells this data set from any other. The digest of pixels with labels is that of `mantissa data 1`, then channels,
    /// height, width and classes, then for each split, training first, the number of samples, the pixels and the labels. That of
    /// other data begins with `mantissa data 2`, then `pixels`, `values` or `tokens`, then `labels`, `targets` or `next tokens`, and goes on alike, with
    /// the values of a target for the classes. Tokens are the size of their vocabulary, where each text ends, and the ids. Numbers and labels are 64 bits, values and targets the bits of an f32, all
    /// little-endian.
    pub fn facts(&self) -> DataFacts {
        let mut digest = Sha256::new();
        match (&self.train.inputs, &self.train.targets) {
            (Inputs::Pixels(_), Targets::Labels(_)) => digest.update(b"mantissa data 1"),
            (inputs, targets) => {
                digest.update(b"mantissa data 2");
                digest.update(match inputs {
                    Inputs::Pixels(_) => "pixels",
                    Inputs::Values(_) => "values",
                    Inputs::Tokens(_) => "tokens",
                });
                digest.update(match targets {
                    Targets::Labels(_) => "labels",
                    Targets::Values(_) => "targets",
                    Targets::NextTokens(_) => "next tokens",
                });
            }
        }
        for number in self.shape.into_iter().chain([self.outputs]) {
            digest.update((number as u64).to_le_bytes());
        }
        let [train, test] = self.samples();
        for (split, samples) in [(&self.train, train), (&self.test, test)] {
            digest.update((samples as u64).to_le_bytes());
            match &split.inputs {
                Inputs::Pixels(pixels) => digest.update(pixels),
                Inputs::Values(values) => update(&mut digest, values, f32::to_le_bytes),
                Inputs::Tokens(tokens) => {
                    let number = |number: usize| (number as u64).to_le_bytes();
                    digest.update(number(tokens.vocabulary));
                    update(&mut digest, &tokens.ends, number);
                    update(&mut digest, &tokens.ids, |id| u64::from(id).to_le_bytes());
                }
            }
            match &split.targets {
                Targets::Labels(labels) => {
                    update(&mut digest, labels, |label| u64::from(label).to_le_bytes());
                }
                Targets::Values(values) => update(&mut digest, values, f32::to_le_bytes),
                Targets::NextTokens(_) => {}
            }
        }
        let classification = self.is_classification();
        let next_tokens = matches!(self.train.targets, Targets::NextTokens(_));
        DataFacts {
            digest: formatting::hex(&digest.finalize()),
            train,
            test,
            classes: if classification { self.outputs } else { 0 },
            target_values: (!classification && !next_tokens).then_some(self.outputs),
            vocabulary: self.vocabulary(),
            next_tokens,
            shape: self.shape,
        }
    }

    /// That texts were cut, if any were.
    fn cut(&self) -> Option<String> {
        let [_, _, length] = self.shape;
        let [train, test] = [&self.train, &self.test].map(|split| match &split.inputs {
            Inputs::Tokens(tokens) => tokens.cut,
            Inputs::Pixels(_) | Inputs::Values(_) => 0,
        });
        (train + test > 0).then(|| {
            let train = formatting::plural(train, "training text");
            let test = formatting::plural(test, "test text");
            format!("Cut to {length} tokens: {train} and {test}.")
        })
    }

    /// What to know of the data before trusting a result, a sentence each: which classes have no samples, or none to learn
    /// from.
    pub fn notes(&self) -> Vec<String> {
        let (Targets::Labels(train), Targets::Labels(test)) =
            (&self.train.targets, &self.test.targets)
        else {
            return Vec::new();
        };
        let noun = match self.train.inputs {
            Inputs::Pixels(_) => "image",
            Inputs::Values(_) => "sample",
            Inputs::Tokens(_) => "text",
        };
        let occurs = |labels: &[u32]| {
            let mut occurs = vec![false; self.outputs];
            for &label in labels {
                occurs[label as usize] = true;
            }
            occurs
        };
        let (train, test) = (occurs(train), occurs(test));
        let labels =
            |chosen: &dyn Fn(usize) -> bool| runs((0..self.outputs).filter(|&i| chosen(i)));
        let nowhere = labels(&|class| !train[class] && !test[class]);
        let not_learnt = labels(&|class| !train[class] && test[class]);
        let classes = formatting::count(self.outputs as u64);
        let nowhere = nowhere.map(|(labels, several)| {
            let (occur, count) = if several { ("do", "count") } else { ("does", "counts") };
            format!(
                "{labels} {occur} not occur in the data, yet {count} among its {classes} classes."
            )
        });
        let not_learnt = not_learnt.map(|(labels, several)| {
            let occur = if several { "occur" } else { "occurs" };
            format!(
                "{labels} {occur} in test {noun}s only: no training {noun} shows what to learn."
            )
        });
        nowhere.into_iter().chain(not_learnt).chain(self.cut()).collect()
    }
}

/// Takes the bytes of values into a digest.
fn update<T: Copy, const N: usize>(
    digest: &mut Sha256,
    values: &[T],
    bytes: impl Fn(T) -> [u8; N],
) {
    for values in values.chunks(4096) {
        digest.update(values.iter().flat_map(|value| bytes(*value)).collect::<Vec<u8>>());
    }
}

/// Labels in words, and whether they are several: `Labels 0, 4 to 254 and 256`. None of none.
fn runs(labels: impl Iterator<Item = usize>) -> Option<(String, bool)> {
    /// More runs of labels than these are only counted.
    const MOST: usize = 8;
    let (mut runs, mut number) = (Vec::<(usize, usize)>::new(), 0);
    for label in labels {
        number += 1;
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == label => *last = label,
            _ => runs.push((label, label)),
        }
    }
    let shown = runs.iter().take(MOST).flat_map(|&(first, last)| match last - first {
        0 => vec![first.to_string()],
        1 => vec![first.to_string(), last.to_string()],
        _ => vec![format!("{first} to {last}")],
    });
    let mut shown: Vec<String> = shown.collect();
    let shown_count: usize = runs.iter().take(MOST).map(|(first, last)| last - first + 1).sum();
    if shown_count < number {
        shown.push(format!("{} others", formatting::count((number - shown_count) as u64)));
    }
    let noun = if number == 1 { "Label" } else { "Labels" };
    (number > 0).then(|| (format!("{noun} {}", formatting::list(&shown)), number > 1))
}

#[cfg(test)]
mod tests;
