//! Texts in files, each with a class, as token ids.

mod cache;
mod files;
mod tokens;

use std::collections::BTreeMap;
use std::path::Path;

use super::dataset::{Dataset, Inputs, Split, Targets};
use super::table::{classes, label};
use super::{DataError, Loading, held_out};
use crate::spec::TableTest;
use cache::Place;
use files::Texts;
use tokens::Tokenizer;

/// What of files is learnt from what, and how texts become tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    /// The column of the texts.
    pub(super) text: &'a str,
    /// The column of the classes.
    pub(super) target: &'a str,
    /// Tokens of a text, at most.
    pub(super) length: usize,
    /// The tokenizer's file; none: one is made of the training texts.
    pub(super) tokenizer: Option<&'a Path>,
    /// Tokens of a tokenizer that is made, at most.
    pub(super) vocabulary: usize,
}

/// Loads the training texts, and the test split from a file of its own or as a share of the training texts; or what is kept of them.
pub(super) fn load(
    train: &Path,
    test: &TableTest,
    source: Source<'_>,
    Loading { cache, mut progress, .. }: Loading<'_>,
) -> Result<Dataset, DataError> {
    // Where a file cannot be read, reading the texts says so.
    let place = || cache.and_then(|folder| Place::of(folder, (train, test), source).ok());
    let found = place();
    if let Some(data) = found.as_ref().and_then(Place::read) {
        return Ok(data);
    }
    let mut listen = |done, of| {
        if let Some(progress) = &mut progress {
            progress(done, of);
        }
    };
    let data = read((train, test), source, &mut listen)?;
    if let Some(place_now) = place()
        && found.as_ref() == Some(&place_now)
    {
        // Nobody has changed the files meanwhile.
        place_now.write(&data);
    }
    Ok(data)
}

/// Reads the texts and makes tokens of them, on all threads.
fn read(
    (train, test): (&Path, &TableTest),
    source: Source<'_>,
    listen: &mut dyn FnMut(usize, usize),
) -> Result<Dataset, DataError> {
    let texts = |path: &Path| Texts::read(path, (source.text, source.target));
    let [first, second] = match test {
        TableTest::File(path) => {
            let (first, second) = rayon::join(|| texts(train), || texts(path));
            [first?, second?]
        }
        TableTest::Share(share) => {
            let first = texts(train)?;
            let chosen = held_out::choose(train, first.contents.len(), *share)?;
            chosen.map(|chosen| first.part(&chosen))
        }
    };
    let classes = classes(&first.path, source.target, &first.targets)?;
    let (train, test) = (first.contents.len(), second.contents.len());
    let mut listen = |done| listen(done, train + test);
    listen(0);
    let tokenizer = match source.tokenizer {
        Some(path) => Tokenizer::read(path, source.length)?,
        None => Tokenizer::train(&first.contents, (source.vocabulary, source.length))?,
    };
    let outputs = classes.len();
    let columns = (source.target, &classes);
    let before = train;
    let train = split(&first, &tokenizer, columns, &mut listen)?;
    let test = split(&second, &tokenizer, columns, &mut |done| listen(before + done))?;
    Ok(Dataset { shape: [1, 1, source.length], outputs, train, test })
}

fn split(
    texts: &Texts,
    tokenizer: &Tokenizer,
    (target, classes): (&str, &BTreeMap<String, u32>),
    listen: &mut dyn FnMut(usize),
) -> Result<Split, DataError> {
    let targets = texts.targets.iter();
    let labels = targets
        .map(|(row, class)| label(&texts.path, &texts.unit.place(*row, target), class, classes));
    let targets = Targets::Labels(labels.collect::<Result<_, _>>()?);
    Ok(Split { inputs: Inputs::Tokens(tokenizer.tokens(texts, listen)?), targets })
}

#[cfg(test)]
mod tests;
