//! Texts and checkpoints of the Hugging Face hub, which here is a server of this test: what is downloaded, what is taken from the cache,
//! and what is said where neither can be. No connection leaves the machine.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use assert_cmd::Command;
use mantissa::{formatting, store};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Requests that a server answers, at most.
const MOST: usize = 100;

/// How a file is sent.
#[derive(Clone, Copy, PartialEq)]
enum Sent {
    Whole,
    /// The connection ends at the middle, though the length was told.
    Cut,
    /// As before, and no length was told.
    Short,
    /// Every byte is another.
    Wrong,
}

/// The files of repositories by `KIND/OWNER/NAME/PATH`, and how each is sent.
type Files = Arc<Mutex<BTreeMap<String, (Vec<u8>, Sent)>>>;

/// A hub with these files, until it is dropped.
struct Server {
    address: SocketAddr,
    files: Files,
    /// The paths that were asked for, with the range.
    heard: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn new(files: &[(&str, Vec<u8>)]) -> Self {
        let files =
            files.iter().map(|(name, bytes)| ((*name).to_owned(), (bytes.clone(), Sent::Whole)));
        let files: Files = Arc::new(Mutex::new(files.collect()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (heard, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (files_there, heard_there, stop_there) = (files.clone(), heard.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().take(MOST) {
                if stop_there.load(Ordering::SeqCst) {
                    break;
                }
                answer(&mut stream.unwrap(), &files_there, &heard_there);
            }
        });
        Self { address, files, heard, stop, thread: Some(thread) }
    }

    fn send(&self, name: &str, sent: Sent) {
        self.files.lock().unwrap().get_mut(name).unwrap().1 = sent;
    }

    /// What was asked for since it was last looked.
    fn heard(&self) -> Vec<String> {
        std::mem::take(&mut self.heard.lock().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Reads one request, and answers it as the hub does.
fn answer(stream: &mut TcpStream, files: &Files, heard: &Mutex<Vec<String>>) {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
        request.push(byte[0]);
    }
    let request = String::from_utf8(request).unwrap();
    let path = request.split(' ').nth(1).unwrap();
    let range = request.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("range").then(|| value.strip_prefix("bytes=").unwrap())
    });
    heard.lock().unwrap().push(format!("{path} {}", range.unwrap_or_default()).trim().to_owned());
    let files = files.lock().unwrap();
    // `/api/datasets/OWNER/NAME/revision/main`
    if let Some(repository) = path.strip_prefix("/api/") {
        let (repository, _) = repository.split_once("/revision/").unwrap();
        let below = |name: &String| name.strip_prefix(&format!("{repository}/")).map(str::to_owned);
        let names: Vec<Value> =
            files.keys().filter_map(below).map(|name| json!({ "rfilename": name })).collect();
        let body = json!({ "sha": "c0ffee", "siblings": names }).to_string();
        return match names.len() {
            0 => end(stream, "401 Unauthorized"),
            _ => head(
                stream,
                "200 OK",
                &[("Content-Length", &body.len().to_string())],
                body.as_bytes(),
            ),
        };
    }
    // `/datasets/OWNER/NAME/resolve/main/PATH`, and `/OWNER/NAME/resolve/main/PATH` of a model.
    let place = path.split_once("/resolve/").and_then(|(repository, rest)| {
        let (_, file) = rest.split_once('/')?;
        let kind = if repository.starts_with("/datasets/") { "" } else { "models/" };
        Some(format!("{kind}{}/{file}", &repository[1..]))
    });
    match place.and_then(|place| files.get(&place)) {
        Some((bytes, sent)) => send(stream, (bytes, *sent), range.unwrap()),
        None => end(stream, "404 Not Found"),
    }
}

fn end(stream: &mut TcpStream, status: &str) {
    head(stream, status, &[("Content-Length", "0")], b"");
}

fn head(stream: &mut TcpStream, status: &str, headers: &[(&str, &str)], body: &[u8]) {
    let mut text = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    text += "\r\n";
    stream.write_all(text.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
}

/// A range of a file: `0-0`, or from a byte to the end.
fn send(stream: &mut TcpStream, (bytes, sent): (&[u8], Sent), range: &str) {
    let digest = formatting::hex(&Sha256::digest(bytes));
    let (first, last) = range.split_once('-').unwrap();
    let first: usize = first.parse().unwrap();
    let last = last.parse().unwrap_or(bytes.len() - 1);
    let (etag, all) = (format!("\"{digest}\""), bytes.len());
    let (content_range, length) =
        (format!("bytes {first}-{last}/{all}"), (last + 1 - first).to_string());
    let mut headers = vec![
        ("ETag", etag.as_str()),
        ("X-Repo-Commit", "c0ffee"),
        ("Content-Range", &content_range),
    ];
    let sent = if range == "0-0" { Sent::Whole } else { sent };
    if sent != Sent::Short {
        headers.push(("Content-Length", &length));
    }
    let body = match sent {
        Sent::Whole => bytes[first..=last].to_vec(),
        Sent::Cut | Sent::Short => bytes[first..all / 2].to_vec(),
        Sent::Wrong => bytes[first..=last].iter().map(|byte| !byte).collect(),
    };
    head(stream, "206 Partial Content", &headers, &body);
}

/// A Parquet file of texts, each with its class.
fn parquet(texts: &[(&str, i64)]) -> Vec<u8> {
    let schema =
        parse_message_type("message m { required binary text (UTF8); required int64 label; }")
            .unwrap();
    let mut writer =
        SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let words: Vec<ByteArray> = texts.iter().map(|(text, _)| ByteArray::from(*text)).collect();
    let labels: Vec<i64> = texts.iter().map(|(_, label)| *label).collect();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&words, None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(&labels, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.into_inner().unwrap()
}

const TRAIN: &str = "plain_text/train-00000-of-00001.parquet";
const TEST: &str = "plain_text/test-00000-of-00001.parquet";

/// A data set of `someone/texts`.
fn texts() -> Vec<(String, Vec<u8>)> {
    let train = [("a good film", 1), ("a bad film", 0)].repeat(12);
    let test = [("good", 1), ("bad", 0), ("a film", 0)];
    let at = |name: &str| format!("datasets/someone/texts/{name}");
    vec![
        (at("README.md"), b"# Texts".to_vec()),
        (at(TRAIN), parquet(&train)),
        (at(TEST), parquet(&test)),
        (at("plain_text/unsupervised-00000-of-00001.parquet"), b"none".to_vec()),
        (at("plain.txt"), "the cat sat on the mat. ".repeat(40).into_bytes()),
    ]
}

fn server(files: &[(String, Vec<u8>)]) -> Server {
    let files: Vec<_> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    Server::new(&files)
}

const SPEC: &str = r#"
name = "hub"
seeds = 1
variants = ["fp32"]
data = { kind = "text", source = "hub:someone/texts", length = 8, vocabulary = 256 }
model = { kind = "encoder", width = 8, depth = 1, heads = 1 }
measure = { census_every = 0, timing_blocks = 0, timing_steps = 1, timing_warmup = 0 }
train = { steps = 1, batch = 4, optimizer = { kind = "sgd", lr = 0.01 }, schedule = { warmup = 0 } }
"#;

/// A folder with the spec, and what a server at this address makes of it.
struct Place {
    folder: tempfile::TempDir,
    endpoint: String,
}

impl Place {
    fn new(server: &Server) -> Self {
        let folder = tempfile::tempdir().unwrap();
        store::write(&folder.path().join("hub.toml"), SPEC.as_bytes()).unwrap();
        Self { folder, endpoint: format!("http://{}", server.address) }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The exit code, stdout and stderr of `mantissa experiment`.
    fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
        let mut command = Command::cargo_bin("mantissa").unwrap();
        command.current_dir(self.folder.path()).env("MANTISSA_CACHE", "cache");
        command.env("HF_HOME", "hf").env("HF_ENDPOINT", &self.endpoint);
        for name in ["HF_HUB_OFFLINE", "HF_TOKEN", "ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"] {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        command.envs(variables.iter().copied()).args(["experiment", "hub.toml", "--device=cpu"]);
        let output = command.args(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// What a dry run prints, which says nothing on stderr.
    fn dry_run(&self, arguments: &[&str]) -> String {
        let (exit, stdout, stderr) = self.run(&[&["--dry-run"], arguments].concat(), &[]);
        assert_eq!((exit, stderr.as_str()), (Some(0), ""), "{stdout}");
        stdout
    }

    /// The one line that a run is refused with.
    fn refusal(&self, arguments: &[&str]) -> String {
        let (exit, stdout, stderr) = self.run(&[&["--dry-run"], arguments].concat(), &[]);
        assert_eq!((exit, stdout.as_str()), (Some(2), ""), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        stderr.trim_end().to_owned()
    }
}

const FOLDER: &str = "download its train- and test- Parquet files by any means into a folder, and set data.source=FOLDER";

#[test]
fn texts_are_downloaded_once() {
    let server = server(&texts());
    let place = Place::new(&server);
    let (exit, _, stderr) = place.run(&["--out=out"], &[]);
    assert_eq!(exit, Some(0), "{stderr}");
    let first = stderr.lines().next().unwrap();
    assert!(
        first.starts_with("data: 24 training and 3 test texts of at most 8 tokens"),
        "{stderr}"
    );
    let resolve = "/datasets/someone/texts/resolve/main";
    let expected = [
        "/api/datasets/someone/texts/revision/main".to_owned(),
        format!("{resolve}/{TRAIN} 0-0"),
        format!("{resolve}/{TRAIN} 0-"),
        format!("{resolve}/{TEST} 0-0"),
        format!("{resolve}/{TEST} 0-"),
    ];
    assert_eq!(server.heard(), expected);
    // The plan says where they come from, and not where they are.
    let results = String::from_utf8(store::read(&place.at("out/results.json")).unwrap()).unwrap();
    let results: Value = serde_json::from_str(&results).unwrap();
    assert_eq!(results["plan"]["data"]["source"], "hub:someone/texts");
    assert_eq!(results["plan"]["data"].get("train"), None);
    assert!(!results.to_string().contains("snapshots"));

    drop(server);
    let (exit, _, stderr) = place.run(&["--out=out"], &[]);
    assert_eq!(exit, Some(0), "{stderr}");
    assert!(stderr.contains("finished before"), "{stderr}");
    // The same files in a folder are the same data.
    let snapshot = place.at("hf/hub/datasets--someone--texts/snapshots/c0ffee");
    for name in [TRAIN, TEST] {
        let bytes = store::read(&snapshot.join(name)).unwrap();
        store::write(&place.at("folder").join(name), &bytes).unwrap();
    }
    let (exit, _, stderr) = place.run(&["--out=out", "--set=data.source=folder"], &[]);
    assert_eq!(exit, Some(0), "{stderr}");
    assert!(stderr.contains("finished before"), "{stderr}");
}

#[test]
fn one_file_at_a_revision_can_be_named() {
    let server = server(&texts());
    let place = Place::new(&server);
    let train = format!("hub:someone/texts@v1/{TRAIN}");
    let data =
        format!("data={{kind='text', train='{train}', test_share=0.5, length=8, vocabulary=256}}");
    let page = place.dry_run(&["--set", &data]);
    assert!(page.contains(&format!("train = {train:?}")), "{page}");
    assert!(page.contains("12 training and 12 test texts"), "{page}");
    let resolve = "/datasets/someone/texts/resolve/v1";
    assert_eq!(server.heard(), ["0-0", "0-"].map(|range| format!("{resolve}/{TRAIN} {range}")));
    let data =
        "data={kind='plain-text', train='hub:someone/texts/plain.txt', test_share=0.2, length=8}";
    let model = "model={kind='decoder', width=8, depth=1, heads=1}";
    let arguments = ["--set", data, "--set", model];
    let page = place.dry_run(&arguments);
    drop(server);
    assert_eq!(place.dry_run(&arguments).lines().next(), page.lines().next());
}

#[test]
fn without_a_connection_the_error_says_what_to_do() {
    let server = server(&texts());
    let place = Place::new(&server);
    let offline = place.run(&["--dry-run"], &[("HF_HUB_OFFLINE", "1")]);
    let error = format!(
        "mantissa: data: hub:someone/texts: its files cannot be listed: HF_HUB_OFFLINE is set; {FOLDER}\n"
    );
    assert_eq!(offline, (Some(2), String::new(), error));
    assert_eq!(server.heard(), [""; 0]);
    drop(server);
    let error = place.refusal(&[]);
    let start = "mantissa: data: hub:someone/texts: its files cannot be listed: ";
    assert!(error.starts_with(start) && error.ends_with(&format!("; {FOLDER}")), "{error}");
    let data = format!("data={{kind='text', train='hub:someone/texts/{TRAIN}', test_share=0.5}}");
    let error = place.refusal(&["--set", &data]);
    let start = format!("mantissa: data: hub:someone/texts: {TRAIN} cannot be downloaded: ");
    let end = "; download it by any means, and set data.train=FILE";
    assert!(error.starts_with(&start) && error.ends_with(end), "{error}");
    let model = "model={kind='pretrained', folder='hub:someone/model'}";
    let error =
        place.refusal(&["--set", model, "--set=data.vocabulary=", "--set=data.source=none"]);
    assert!(error.contains("none: no file train-….parquet"), "{error}");
}

#[test]
fn what_the_hub_refuses_is_said() {
    let mut files = texts();
    files.push(("datasets/someone/more/a/train-0.parquet".to_owned(), vec![1]));
    files.push(("datasets/someone/more/b/train-0.parquet".to_owned(), vec![1]));
    let server = server(&files);
    let place = Place::new(&server);
    let error = place.refusal(&["--set=data.source=hub:no/such"]);
    let expected = format!(
        "mantissa: data: hub:no/such: its files cannot be listed: HTTP status 401: there is no such repository, or it takes a \
         token; {FOLDER}"
    );
    assert_eq!(error, expected);
    let data = format!(
        "data={{kind='text', train='hub:someone/texts/{TRAIN}', test='hub:someone/texts/a.csv'}}"
    );
    assert_eq!(
        place.refusal(&["--set", &data]),
        "mantissa: data: hub:someone/texts: a.csv cannot be downloaded: HTTP status 404: there is no such repository, revision or \
         file; download it by any means, and set data.test=FILE"
    );
    let error = place.refusal(&["--set=data.source=hub:someone/more"]);
    let start = "mantissa: data: hub:someone/more: 2 files train-….parquet: a/train-0.parquet and b/train-0.parquet; expected one";
    assert!(error.starts_with(start), "{error}");
    for (change, message) in [
        ("data.train=a.csv", "data.source: has both splits; remove data.train and data.test"),
        (
            "data.source=hub:texts",
            "data.source: \"hub:texts\" is no name of the hub; it is hub:OWNER/NAME",
        ),
        ("data.source=hub:a/b/c", "data.source: \"hub:a/b/c\" names a file; give hub:OWNER/NAME"),
        ("data.source=", "data: give train, or source"),
        ("data.tokenizer=hub:a/b", "data.tokenizer: \"hub:a/b\" names no file; add /FILE"),
    ] {
        let set = format!("--set={change}");
        let mut arguments = vec![set.as_str()];
        if change.starts_with("data.tokenizer") {
            arguments.push("--set=data.vocabulary=");
        }
        let error = place.refusal(&arguments);
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn a_file_that_does_not_come_whole_is_not_taken() {
    let server = server(&texts());
    let place = Place::new(&server);
    let name = format!("datasets/someone/texts/{TRAIN}");
    let size = server.files.lock().unwrap()[&name].0.len();
    let start = format!("mantissa: data: hub:someone/texts: {TRAIN} cannot be downloaded: ");
    for (sent, why) in [
        (Sent::Short, format!("{} of {size} bytes came; try again; ", size / 2)),
        (Sent::Wrong, "other bytes came than the hub has; try again; ".to_owned()),
        (Sent::Cut, String::new()),
    ] {
        server.send(&name, sent);
        let error = place.refusal(&[]);
        assert!(error.starts_with(&(start.clone() + &why)), "{error}");
    }
    // What came of it is kept, and the rest asked for.
    server.heard();
    server.send(&name, Sent::Whole);
    place.dry_run(&[]);
    let rest = format!("/datasets/someone/texts/resolve/main/{TRAIN} {}-", size / 2);
    assert!(server.heard().contains(&rest));
}

/// A tokenizer of so many tokens.
fn tokenizer() -> Vec<u8> {
    let words = ["[UNK]", "a", "good", "bad", "film"];
    let ids: serde_json::Map<String, Value> =
        words.iter().zip(0..).map(|(word, id)| ((*word).to_owned(), id.into())).collect();
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": ids, "unk_token": "[UNK]" },
    });
    file.to_string().into_bytes()
}

/// `DistilBERT` is one file, and Llama three.
#[test]
fn checkpoints_are_downloaded_once() {
    let mut files = texts();
    for name in ["distilbert", "llama"] {
        let there = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checkpoints").join(name);
        let at = |file: &str| format!("models/someone/{name}/{file}");
        for path in store::list(&there).unwrap() {
            let file = path.file_name().unwrap().to_str().unwrap();
            files.push((at(file), store::read(&path).unwrap()));
        }
        files.push((at("tokenizer.json"), tokenizer()));
    }
    let server = server(&files);
    let place = Place::new(&server);
    let plain =
        "data={kind='plain-text', train='hub:someone/texts/plain.txt', test_share=0.2, length=8}";
    for (name, data) in [("distilbert", "data.vocabulary="), ("llama", plain)] {
        let model = format!("model={{kind='pretrained', folder='hub:someone/{name}'}}");
        let out = format!("--out={name}");
        let arguments = [out.as_str(), "--set", &model, "--set", data];
        let (exit, _, stderr) = place.run(&arguments, &[]);
        assert_eq!(exit, Some(0), "{stderr}");
        let note =
            format!("note: Every run starts from the weights of hub:someone/{name}, SHA-256 ");
        assert!(stderr.contains(&note), "{stderr}");
        let bodies = server.heard().iter().filter(|path| path.ends_with(" 0-")).count();
        // Two of texts, or one; config.json, tokenizer.json and the weights, or their table and three files.
        assert_eq!(bodies, if name == "distilbert" { 5 } else { 7 });
        let (exit, _, stderr) = place.run(&arguments, &[("HF_HUB_OFFLINE", "1")]);
        assert_eq!(exit, Some(0), "{stderr}");
        assert!(stderr.contains("finished before"), "{stderr}");
        assert_eq!(server.heard(), [""; 0]);
    }
    let model = "model={kind='pretrained', folder='hub:someone/none'}";
    let tokenizer = "--set=data.tokenizer=hub:someone/distilbert/tokenizer.json";
    let error = place.refusal(&["--set", model, "--set=data.vocabulary=", tokenizer]);
    assert_eq!(
        error,
        "mantissa: model: hub:someone/none: config.json cannot be downloaded: HTTP status 404: there is no such repository, revision \
         or file; download the checkpoint's files by any means into a folder, and set model.folder=FOLDER"
    );
}
