//! Texts in files, each with a class, as token ids.

mod files;
mod tokens;

use std::collections::BTreeMap;
use std::path::Path;

use super::dataset::{Dataset, Inputs, Split, Targets};
use super::table::{classes, label};
use super::{DataError, held_out};
use crate::spec::TableTest;
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

/// Loads the training texts, and the test split from a file of its own or as a share of the training texts.
pub(super) fn load(
    train: &Path,
    test: &TableTest,
    source: Source<'_>,
) -> Result<Dataset, DataError> {
    let first = Texts::read(train, (source.text, source.target))?;
    let [first, second] = match test {
        TableTest::File(path) => [first, Texts::read(path, (source.text, source.target))?],
        TableTest::Share(share) => {
            let chosen = held_out::choose(train, first.contents.len(), *share)?;
            chosen.map(|chosen| first.part(&chosen))
        }
    };
    let classes = classes(&first.path, source.target, &first.targets)?;
    let tokenizer = match source.tokenizer {
        Some(path) => Tokenizer::read(path, source.length)?,
        None => Tokenizer::train(&first.contents, (source.vocabulary, source.length))?,
    };
    let outputs = classes.len();
    let train = split(&first, &tokenizer, (source.target, &classes))?;
    let test = split(&second, &tokenizer, (source.target, &classes))?;
    Ok(Dataset { shape: [1, 1, source.length], outputs, train, test })
}

fn split(
    texts: &Texts,
    tokenizer: &Tokenizer,
    (target, classes): (&str, &BTreeMap<String, u32>),
) -> Result<Split, DataError> {
    let targets = texts.targets.iter();
    let labels = targets
        .map(|(row, class)| label(&texts.path, &texts.unit.place(*row, target), class, classes));
    let targets = Targets::Labels(labels.collect::<Result<_, _>>()?);
    Ok(Split { inputs: Inputs::Tokens(tokenizer.tokens(texts)?), targets })
}

#[cfg(test)]
mod tests;
