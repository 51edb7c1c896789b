//! The tokenizer, read from a file of Hugging Face's `tokenizers` or made of the training texts.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use tokenizers::models::wordpiece::{WordPiece, WordPieceTrainer};
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{
    AddedToken, Encoding, NormalizedString, Normalizer as _, OffsetReferential, OffsetType,
    PreTokenizedString, PreTokenizer as _, Trainer as _, TruncationParams,
};

use super::super::dataset::Tokens;
use super::super::{DataError, malformed};
use super::files::Texts;
use crate::store;

/// The special tokens of a tokenizer that is made, with ids from 0, as BERT has them.
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// The ids of `[CLS]` and `[SEP]`.
const CLS: u32 = 2;
const SEP: u32 = 3;

/// Texts that are encoded at a time: what holds their offsets is larger than they are.
const AT_A_TIME: usize = 1024;

/// Makes token ids of texts.
pub(super) struct Tokenizer {
    tokenizer: tokenizers::Tokenizer,
    vocabulary: usize,
}

impl Tokenizer {
    /// The tokenizer of a file, which cuts texts to `length` tokens.
    pub(super) fn read(path: &Path, length: usize) -> Result<Self, DataError> {
        let expected = "a tokenizer.json of Hugging Face's tokenizers";
        let bytes = store::read(path)?;
        let tokenizer = tokenizers::Tokenizer::from_bytes(&bytes)
            .map_err(|error| malformed(path, error.to_string(), expected))?;
        Self::cutting(tokenizer, length).map_err(|error| malformed(path, error, expected))
    }

    /// A `WordPiece` tokenizer of at most so many tokens, made of these texts: lower case, split at spaces and punctuation, as BERT's
    /// uncased one. A token stands at the start of each text, and one at its end.
    pub(super) fn train(
        texts: &[String],
        (vocabulary, length): (usize, usize),
    ) -> Result<Self, DataError> {
        let made = || -> tokenizers::Result<tokenizers::Tokenizer> {
            let mut tokenizer = tokenizers::Tokenizer::new(word_pieces(texts, vocabulary)?);
            tokenizer.with_normalizer(Some(BertNormalizer::default()))?;
            tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
            tokenizer.add_special_tokens(SPECIAL.map(|token| AddedToken::from(token, true)))?;
            let ends = [(SEP, "[SEP]"), (CLS, "[CLS]")].map(|(id, token)| (token.to_owned(), id));
            let [sep, cls] = ends;
            tokenizer.with_post_processor(Some(BertProcessing::new(sep, cls)));
            Ok(tokenizer)
        };
        let cannot =
            |error: String| DataError::Invalid(format!("a tokenizer cannot be made: {error}"));
        let tokenizer = made().map_err(|error| cannot(error.to_string()))?;
        Self::cutting(tokenizer, length).map_err(cannot)
    }

    fn cutting(mut tokenizer: tokenizers::Tokenizer, length: usize) -> Result<Self, String> {
        let truncation = TruncationParams { max_length: length, ..TruncationParams::default() };
        let added = tokenizer.get_vocab(true).into_values().max();
        let vocabulary = added.map_or(0, |last| last as usize + 1);
        tokenizer.with_padding(None);
        tokenizer.with_truncation(Some(truncation)).map_err(|error| error.to_string())?;
        Ok(Self { tokenizer, vocabulary })
    }

    /// The tokens of texts, on all threads. `listen` is told how many texts are done.
    pub(super) fn tokens(
        &self,
        texts: &Texts,
        listen: &mut dyn FnMut(usize),
    ) -> Result<Tokens, DataError> {
        let mut tokens = Tokens { vocabulary: self.vocabulary, ..Tokens::default() };
        let rows = texts.contents.chunks(AT_A_TIME).zip(texts.targets.chunks(AT_A_TIME));
        for (texts_now, targets) in rows {
            let inputs: Vec<&str> = texts_now.iter().map(String::as_str).collect();
            let encoded = self.tokenizer.encode_batch_fast(inputs, true).map_err(|error| {
                DataError::Invalid(format!("{}: {error}", texts.path.display()))
            })?;
            for (encoding, (row, _)) in encoded.iter().zip(targets) {
                if encoding.get_ids().is_empty() {
                    let found = format!("{} {row}: a text without a token", texts.unit);
                    return Err(malformed(&texts.path, found, "a text that the tokenizer knows"));
                }
                add(&mut tokens, encoding);
            }
            listen(tokens.ends.len());
        }
        Ok(tokens)
    }
}

/// The pieces of words of which these texts are made, on all threads.
fn word_pieces(texts: &[String], vocabulary: usize) -> tokenizers::Result<WordPiece> {
    let mut trainer =
        WordPieceTrainer::builder().vocab_size(vocabulary).show_progress(false).build();
    let continuing = Mutex::new(BTreeSet::new());
    trainer.feed(texts.iter(), |text| {
        let words = words(text)?;
        let inside: BTreeSet<char> = words.iter().flat_map(|word| word.chars().skip(1)).collect();
        continuing.lock().unwrap_or_else(PoisonError::into_inner).extend(inside);
        Ok(words)
    })?;
    // The trainer would number the characters that continue a word as it meets them in a hash map, each time in another order, and
    // ties between pieces follow the numbers. So they are given, as tokens that come first.
    let continuing = continuing.into_inner().unwrap_or_else(PoisonError::into_inner);
    let continuing = continuing.into_iter().map(|character| format!("##{character}"));
    let first = SPECIAL.map(str::to_owned).into_iter().chain(continuing);
    trainer.set_special_tokens(first.map(|token| AddedToken::from(token, false)).collect());
    let mut model = WordPiece::builder().unk_token("[UNK]".to_owned()).build()?;
    trainer.train(&mut model)?;
    Ok(model)
}

/// The words of a text, as BERT's uncased tokenizer has them.
fn words(text: &str) -> tokenizers::Result<Vec<String>> {
    let mut normalized = NormalizedString::from(text);
    BertNormalizer::default().normalize(&mut normalized)?;
    let mut split = PreTokenizedString::from(normalized);
    BertPreTokenizer.pre_tokenize(&mut split)?;
    let words = split.get_splits(OffsetReferential::Original, OffsetType::Byte).into_iter();
    Ok(words.map(|(word, ..)| word.to_owned()).collect())
}

fn add(tokens: &mut Tokens, encoding: &Encoding) {
    tokens.ids.extend(encoding.get_ids());
    tokens.ends.push(tokens.ids.len());
    tokens.cut += usize::from(!encoding.get_overflowing().is_empty());
}
