//! Plain text, cut into sequences of one length: what a language model learns to continue.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::dataset::{Dataset, Inputs, Split, Targets, Tokens};
use super::{DataError, malformed};
use crate::spec::{TextTest, TokensPlan, limits};
use crate::store;

/// Loads the text to train on, and the test split from a text of its own or as the last share of it. A sample is `length` tokens
/// and the one after them; the next begins with that one. Tokens that fill no whole sample are left out.
pub(super) fn load(
    train: &Path,
    test: &TextTest,
    (length, tokens): (usize, &TokensPlan),
) -> Result<Dataset, DataError> {
    let all = read(train)?;
    let (first, path, second) = match test {
        TextTest::File(path) => (all.as_str(), path.as_path(), read(path)?),
        TextTest::Last(share) => {
            let (first, second) = last(&all, *share);
            (first, train, second.to_owned())
        }
    };
    let encoder = Encoder::new(tokens, first)?;
    let train = sequences(train, &encoder.encode(train, first)?, length, "train")?;
    let test = sequences(path, &encoder.encode(path, &second)?, length, "test")?;
    let split = |(ids, ends): (Vec<u32>, Vec<usize>)| {
        let targets = Targets::NextTokens(ends.len());
        let tokens = Tokens { ids, ends, vocabulary: encoder.vocabulary, cut: 0 };
        Split { inputs: Inputs::Tokens(tokens), targets }
    };
    let (train, test) = (split(train), split(test));
    Ok(Dataset { shape: [1, 1, length], outputs: encoder.vocabulary, train, test })
}

/// The text of a file, or of the files in a folder and its folders, in the order of their paths, with a line break between two. Names
/// that begin with a dot are hidden, and left out.
fn read(path: &Path) -> Result<String, DataError> {
    let mut files = Vec::new();
    if path.is_dir() {
        gather(path, 0, &mut files)?;
    } else {
        files.push(path.to_owned());
    }
    let mut text = String::new();
    for file in &files {
        let more = String::from_utf8(store::read(file)?).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            malformed(file, format!("byte {at} is not part of UTF-8"), "a text in UTF-8")
        })?;
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&more);
    }
    if text.trim().is_empty() {
        return Err(malformed(path, "no text", "a text file, or a folder of them"));
    }
    Ok(text)
}

fn gather(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), DataError> {
    if depth > limits::NESTED {
        let found = format!("folders nested {depth} times");
        return Err(malformed(folder, found, format!("at most {}", limits::NESTED)));
    }
    for path in store::list(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            gather(&path, depth + 1, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// A text without its last share of bytes, and that share; both end between two characters.
fn last(text: &str, share: f64) -> (&str, &str) {
    let wanted = text.len() as f64 * (1.0 - share);
    text.split_at(text.ceil_char_boundary(wanted.round() as usize))
}

/// Makes tokens of text.
struct Encoder {
    kind: Kind,
    vocabulary: usize,
}

enum Kind {
    /// The characters of the training text, in order; the id of the first is 1, and 0 is any other character.
    Characters(Vec<char>),
    Tokenizer(Box<tokenizers::Tokenizer>),
}

impl Encoder {
    fn new(plan: &TokensPlan, text: &str) -> Result<Self, DataError> {
        match plan {
            TokensPlan::Characters => {
                let characters: BTreeSet<char> = text.chars().collect();
                let vocabulary = characters.len() + 1;
                let kind = Kind::Characters(characters.into_iter().collect());
                Ok(Self { kind, vocabulary })
            }
            TokensPlan::Tokenizer(path) => {
                let bytes = store::read(path)?;
                let tokenizer = tokenizers::Tokenizer::from_bytes(&bytes).map_err(|error| {
                    let expected = "a tokenizer.json of Hugging Face's tokenizers";
                    malformed(path, error.to_string(), expected)
                })?;
                Ok(Self::of(tokenizer))
            }
            TokensPlan::Made(vocabulary) => {
                made(text, *vocabulary).map(Self::of).map_err(|error| {
                    DataError::Invalid(format!("a tokenizer cannot be made: {error}"))
                })
            }
        }
    }

    fn of(mut tokenizer: tokenizers::Tokenizer) -> Self {
        tokenizer.with_padding(None);
        // It removes truncation, and only setting one can fail.
        drop(tokenizer.with_truncation(None).err());
        let last = tokenizer.get_vocab(true).into_values().max();
        let vocabulary = last.map_or(0, |last| last as usize + 1);
        Self { kind: Kind::Tokenizer(Box::new(tokenizer)), vocabulary }
    }

    fn encode(&self, path: &Path, text: &str) -> Result<Vec<u32>, DataError> {
        match &self.kind {
            Kind::Characters(characters) => {
                let id = |c| characters.binary_search(&c).map_or(0, |place| place as u32 + 1);
                Ok(text.chars().map(id).collect())
            }
            Kind::Tokenizer(tokenizer) => {
                let encoded = tokenizer.encode_fast(text, false).map_err(|error| {
                    malformed(path, error.to_string(), "a text that the tokenizer knows")
                })?;
                Ok(encoded.get_ids().to_vec())
            }
        }
    }
}

/// A tokenizer of byte pairs (Sennrich et al. 2016, arXiv 1508.07909) over bytes, as GPT-2's, of at most so many tokens.
fn made(text: &str, vocabulary: usize) -> tokenizers::Result<tokenizers::Tokenizer> {
    let mut tokenizer = tokenizers::Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(false)));
    let mut trainer: TrainerWrapper = BpeTrainer::builder()
        .vocab_size(vocabulary)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build()
        .into();
    tokenizer.train(&mut trainer, text.lines())?;
    Ok(tokenizer)
}

/// Tokens as samples of `length` and the next one, and where each ends.
fn sequences(
    path: &Path,
    ids: &[u32],
    length: usize,
    split: &str,
) -> Result<(Vec<u32>, Vec<usize>), DataError> {
    let count = ids.len().saturating_sub(1) / length;
    if count == 0 {
        let found = format!("{} tokens in the {split} split", ids.len());
        return Err(malformed(path, found, format!("at least {}", length + 1)));
    }
    let starts = (0..count).map(|sample| sample * length);
    let samples: Vec<u32> =
        starts.flat_map(|start| &ids[start..=start + length]).copied().collect();
    let ends = (1..=count).map(|sample| sample * (length + 1)).collect();
    Ok((samples, ends))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loads texts as `train.txt` and `test.txt`; an error without the folder's name.
    fn loaded(texts: [&[u8]; 2], length: usize, tokens: &TokensPlan) -> Result<Dataset, String> {
        let folder = tempfile::tempdir().unwrap();
        let [train, test] = ["train.txt", "test.txt"].map(|name| folder.path().join(name));
        store::write(&train, texts[0]).unwrap();
        store::write(&test, texts[1]).unwrap();
        let data = load(&train, &TextTest::File(test), (length, tokens))
            .and_then(|data| data.check().map(|()| data));
        let folder = format!("{}/", folder.path().display());
        data.map_err(|error| error.to_string().replace(&folder, ""))
    }

    fn tokens(split: &Split) -> &Tokens {
        let Inputs::Tokens(tokens) = &split.inputs else { panic!("{:?}", split.inputs) };
        tokens
    }

    /// a, b and c are 1, 2 and 3; what the training text lacks is 0. The eighth character fills no sample.
    #[test]
    fn characters_are_tokens_and_a_sample_ends_with_what_follows_it() {
        let data = loaded([b"abcabcab", b"cxba"], 3, &TokensPlan::Characters).unwrap();
        assert_eq!((data.samples(), data.shape(), data.outputs()), ([2, 1], [1, 1, 3], 4));
        assert_eq!(tokens(data.train()).text(0), [1, 2, 3, 1]);
        assert_eq!(tokens(data.train()).text(1), [1, 2, 3, 1]);
        assert_eq!(tokens(data.test()).text(0), [3, 0, 2, 1]);
        assert!(data.facts().next_tokens);
        let facts = data.facts().to_string();
        assert!(facts.starts_with("2 training and 1 test sequences of 3 tokens, of 4"), "{facts}");
    }

    #[test]
    fn the_last_share_of_a_text_is_held_out() {
        assert_eq!(last("aaaaaaaabb", 0.2), ("aaaaaaaa", "bb"));
        // Not within a character: of 10 bytes the first 8 end in the middle of the third ☃.
        assert_eq!(last("☃☃☃b", 0.2), ("☃☃☃", "b"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("all.txt");
        store::write(&path, b"abababababcdcd").unwrap();
        let data = load(&path, &TextTest::Last(0.3), (2, &TokensPlan::Characters)).unwrap();
        // c and d are not in the training text.
        assert_eq!((data.outputs(), data.samples()), (3, [4, 1]));
        assert_eq!(tokens(data.test()).text(0), [0, 0, 0]);
    }

    #[test]
    fn a_folder_is_its_files_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("b.md", "b"), ("a/z.txt", "z"), (".hidden", "?"), ("a/y.rs", "y")] {
            store::write(&folder.path().join(name), text.as_bytes()).unwrap();
        }
        assert_eq!(read(folder.path()).unwrap(), "y\nz\nb");
    }

    /// All 256 bytes are tokens of their own, so no text has an unknown token.
    #[test]
    fn a_tokenizer_that_is_made_knows_every_text() {
        let text = "the cat and the dog and the cat ".repeat(20);
        let made = TokensPlan::Made(300);
        let data = loaded([text.as_bytes(), "the ☃ and the dog".as_bytes()], 4, &made).unwrap();
        let (train, test) = (tokens(data.train()), tokens(data.test()));
        assert!((257..=300).contains(&data.outputs()), "{}", data.outputs());
        // Words that occur often are one token each, with the space before them.
        assert!(train.ids.len() < text.len() / 2, "{}", train.ids.len());
        assert!(train.ids.iter().chain(&test.ids).all(|id| (*id as usize) < data.outputs()));
        assert_eq!(
            loaded([text.as_bytes(), b"the the the the the"], 4, &made).unwrap().train,
            data.train
        );
    }

    #[test]
    fn what_cannot_be_learnt_from_is_named() {
        for (texts, message) in [
            (
                [&b"ab\xffc"[..], b"abcd"],
                "train.txt: byte 2 is not part of UTF-8; expected a text in UTF-8",
            ),
            ([b" \n", b"abcd"], "train.txt: no text; expected a text file, or a folder of them"),
            ([b"abcd", b"abc"], "test.txt: 3 tokens in the test split; expected at least 4"),
            ([b"abc", b"abcd"], "train.txt: 3 tokens in the train split; expected at least 4"),
        ] {
            assert_eq!(loaded(texts, 3, &TokensPlan::Characters).unwrap_err(), message);
        }
    }
}
