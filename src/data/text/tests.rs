use super::*;
use crate::spec::TestShare;
use crate::store;

const SOURCE: Source<'static> =
    Source { text: "text", target: "label", length: 8, tokenizer: None, vocabulary: 300 };

/// Loads texts as files of these names; an error without the folder's name.
fn loaded(files: [(&str, &str); 2], source: Source<'_>) -> Result<Dataset, String> {
    loaded_with(files, source, Loading::default())
}

fn loaded_with(
    files: [(&str, &str); 2],
    source: Source<'_>,
    loading: Loading<'_>,
) -> Result<Dataset, String> {
    let folder = tempfile::tempdir().unwrap();
    let [train, test] = files.map(|(name, contents)| {
        let path = folder.path().join(name);
        store::write(&path, contents.as_bytes()).unwrap();
        path
    });
    let data = load(&train, &TableTest::File(test), source, loading)
        .and_then(|data| data.check().map(|()| data));
    let folder = format!("{}/", folder.path().display());
    data.map_err(|error| error.to_string().replace(&folder, ""))
}

fn tokens(split: &Split) -> &crate::data::Tokens {
    let Inputs::Tokens(tokens) = &split.inputs else { panic!("{:?}", split.inputs) };
    tokens
}

/// With so many texts every word is a token of its own, from 5 on; 2 and 3 stand around each text, and 1 for what is not known. The
/// same texts are the same tokens from either kind of file.
#[test]
fn words_become_tokens_and_names_classes() {
    let csv = ("train.csv", "label,text\ngood,A good film\nbad,\"a bad film, a bad end\"\n");
    let test = "{\"text\": \"A GOOD film\", \"label\": \"good\"}\n\n{\"label\": \"bad\", \"text\": \"☃ bad\"}\n";
    let data = loaded([csv, ("test.jsonl", test)], SOURCE).unwrap();
    assert_eq!((data.samples(), data.shape(), data.outputs()), ([2, 2], [1, 1, 8], 2));
    assert_eq!(data.train().targets, Targets::Labels(vec![1, 0]));
    assert_eq!(data.test().targets, Targets::Labels(vec![1, 0]));
    let (train, test) = (tokens(data.train()), tokens(data.test()));
    assert_eq!(train.text(0).len(), 5);
    assert_eq!(test.text(0), train.text(0));
    assert_eq!((train.text(0)[0], train.text(0)[4]), (2, 3));
    // "bad" is the second word of the second text.
    assert_eq!(test.text(1), [2, 1, train.text(1)[2], 3]);
    // a bad film , a bad end, and two more: the last is still the end of the text.
    assert_eq!((train.text(1).len(), train.text(1)[7], train.cut, test.cut), (8, 3, 1, 0));
    assert_eq!(data.notes(), ["Cut to 8 tokens: 1 training text and 0 test texts."]);
    assert_eq!(data.vocabulary(), Some(train.vocabulary));
    assert!(train.ids.iter().chain(&test.ids).all(|id| (*id as usize) < train.vocabulary));
    assert_eq!(data.facts().vocabulary, data.vocabulary());
}

#[test]
fn the_same_texts_make_the_same_tokenizer() {
    let words = ["alpha", "beta", "gamma", "delta", "epsilon"];
    let rows = (0..200_usize).map(|i| {
        let text: Vec<&str> = (0..12).map(|k| words[(i * 7 + k * k) % 5]).collect();
        format!("{},{}\n", i % 2, text.join(" "))
    });
    let csv = format!("label,text\n{}", rows.collect::<String>());
    let files = [("train.csv", csv.as_str()), ("test.csv", csv.as_str())];
    let first = loaded(files, SOURCE).unwrap();
    assert_eq!(loaded(files, SOURCE).unwrap(), first);
}

/// Every word occurs once, so that nothing but ties decides which pieces there are: the library numbered the characters inside words
/// in the order of a hash map, and made another tokenizer each time.
#[test]
fn pieces_that_are_equally_frequent_make_the_same_tokenizer_too() {
    let letter = |number: usize| char::from(b'a' + (number % 26) as u8);
    let rows = (0..400_usize).map(|i| {
        let word: String = (0..6).map(|k| letter(i * (2 * k + 1) + i / 26 + k * k)).collect();
        format!("{},{word}\n", i % 2)
    });
    let csv = format!("label,text\n{}", rows.collect::<String>());
    let files = [("train.csv", csv.as_str()), ("test.csv", csv.as_str())];
    let first = loaded(files, SOURCE).unwrap();
    for threads in [1, 2, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool.install(|| loaded(files, SOURCE)).unwrap(), first, "{threads} threads");
    }
}

#[test]
fn a_share_of_the_texts_is_held_out_before_a_tokenizer_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("all.csv");
    let names = ["zero", "one", "two", "three", "four", "five", "six", "seven"];
    let rows = names.iter().enumerate().map(|(i, name)| format!("{},{name}\n", i % 2));
    store::write(&path, format!("label,text\n{}", rows.collect::<String>()).as_bytes()).unwrap();
    let share = TableTest::Share(TestShare { share: 0.25, seed: 0 });
    let data = load(&path, &share, SOURCE, Loading::default()).unwrap();
    assert_eq!(data.samples(), [6, 2]);
    // A word that occurs once is a token where the tokenizer has seen it.
    assert!(tokens(data.train()).ids.iter().all(|id| *id != 1));
}

#[test]
fn what_cannot_be_learnt_from_is_named_with_its_place() {
    let good = "label,text\n0,a\n1,b\n";
    let missing = Source { tokenizer: Some(Path::new("train.csv")), ..SOURCE };
    for (name, train, source, message) in [
        (
            "t.txt",
            "a",
            SOURCE,
            "t.txt: a name that ends in \"txt\"; expected a name that ends in .parquet, .csv or .jsonl",
        ),
        (
            "t.csv",
            "label,text\n0,a\n1,\" \"\n",
            SOURCE,
            "t.csv: line 3, column text: nothing; expected a text",
        ),
        (
            "t.csv",
            "label,words\n0,a\n",
            SOURCE,
            "t.csv: no column \"text\" in its header row; expected one of \"label\" and \"words\"",
        ),
        (
            "t.csv",
            "label,text\n,a\n",
            SOURCE,
            "t.csv: line 2, column label: nothing; expected a class",
        ),
        (
            "t.jsonl",
            "{\"text\": 5, \"label\": 0}",
            SOURCE,
            "t.jsonl: line 1, column text: 5; expected a text in quotation marks",
        ),
        (
            "t.jsonl",
            "{\"text\": \"a\"}",
            SOURCE,
            "t.jsonl: line 1, column label: nothing; expected a class: a whole number or a name",
        ),
        (
            "t.jsonl",
            "{\"text\": \"a\", \"label\": [1]}",
            SOURCE,
            "t.jsonl: line 1, column label: [1]; expected a class: a whole number or a name",
        ),
        (
            "t.jsonl",
            "[1]",
            SOURCE,
            "t.jsonl: line 1: invalid type: sequence, expected a map at line 1 column 0; expected a JSON object a line",
        ),
        ("t.parquet", "PAR1", SOURCE, "t.parquet: "),
        ("t.csv", good, missing, "train.csv: cannot read: No such file or directory (os error 2)"),
    ] {
        let error = loaded([(name, train), ("test.csv", good)], source).unwrap_err();
        assert!(error.starts_with(message), "{error:?}, not {message:?}");
    }
    let error = loaded([("a.csv", good), ("b.csv", "label,text\n7,a\n")], SOURCE).unwrap_err();
    let expected = "b.csv: line 2, column label: class \"7\", which no training row has; expected a class to learn from";
    assert_eq!(error, expected);
}

const CSV: (&str, &str) =
    ("train.csv", "label,text\ngood,A good film\nbad,\"a bad film, a bad end\"\n");
const JSONL: (&str, &str) = ("test.jsonl", "{\"text\": \"a bad film\", \"label\": \"bad\"}\n");

/// The same texts are loaded from what is kept of them, whatever their files are called; others, and damaged files, are read.
#[test]
fn tokens_that_are_kept_are_those_that_are_made() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("new/tokens");
    // Whether the texts were tokenized.
    let load = |files, source| {
        let mut heard = false;
        let mut listen = |_, _| heard = true;
        let loading = Loading { cache: Some(&cache), progress: Some(&mut listen), download: None };
        let data = loaded_with(files, source, loading);
        (data, heard)
    };
    let made = loaded([CSV, JSONL], SOURCE).unwrap();
    assert_eq!(load([CSV, JSONL], SOURCE), (Ok(made.clone()), true));
    assert_eq!(load([CSV, JSONL], SOURCE), (Ok(made.clone()), false));
    assert_eq!(load([("other.csv", CSV.1), JSONL], SOURCE), (Ok(made.clone()), false));
    let shorter = Source { length: 6, ..SOURCE };
    let made_shorter = loaded([CSV, JSONL], shorter).unwrap();
    assert_ne!(made_shorter, made);
    assert_eq!(load([CSV, JSONL], shorter), (Ok(made_shorter.clone()), true));
    assert_eq!(load([CSV, JSONL], shorter), (Ok(made_shorter), false));
    assert_eq!(load([CSV, JSONL], SOURCE), (Ok(made.clone()), false));

    for file in store::list(&cache).unwrap() {
        let bytes = store::read(&file).unwrap();
        store::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    }
    assert_eq!(load([CSV, JSONL], SOURCE), (Ok(made.clone()), true));
    assert_eq!(load([CSV, JSONL], SOURCE), (Ok(made.clone()), false));

    // An error is the same with a cache, and nothing is kept of it.
    let kept = store::list(&cache).unwrap();
    let wrong = [CSV, ("test.jsonl", "{\"text\": 5}")];
    let error = loaded(wrong, SOURCE).unwrap_err();
    assert_eq!(load(wrong, SOURCE).0, Err(error));
    assert_eq!(store::list(&cache).unwrap(), kept);

    // A folder that cannot be made.
    let file = folder.path().join("file");
    store::write(&file, b"").unwrap();
    let loading = Loading { cache: Some(&file), ..Loading::default() };
    assert_eq!(loaded_with([CSV, JSONL], SOURCE, loading), Ok(made));
}

/// The first 1024 of 1500 texts are encoded together, then the rest, then the one of the test split.
#[test]
fn a_listener_hears_how_many_texts_are_tokens_and_all_threads_make_them() {
    let csv = format!("label,text\n{}", "0,a\n1,b\n".repeat(750));
    let files = [("train.csv", csv.as_str()), ("test.csv", "label,text\n1,b\n")];
    let mut heard = Vec::new();
    let mut listen = |done, of| heard.push((done, of));
    let loading = Loading { progress: Some(&mut listen), ..Loading::default() };
    loaded_with(files, SOURCE, loading).unwrap();
    assert_eq!(heard, [0, 1024, 1500, 1501].map(|done| (done, 1501)));
    // Unless who runs this does not want that.
    assert!(
        tokenizers::parallelism::has_parallelism_been_used()
            || !tokenizers::parallelism::get_parallelism()
    );
}
