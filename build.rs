//! Tells the program which source and compiler it was built from, without git or outside a checkout too. With the feature
//! `cuda` it also compiles the kernels.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use sha2::{Digest as _, Sha256};

#[path = "build/cuda.rs"]
mod cuda;

/// All that the program is made of.
const SOURCES: [&str; 6] =
    ["src", "build", "build.rs", "Cargo.toml", "Cargo.lock", "experiments/default.toml"];

fn main() -> ExitCode {
    for path in SOURCES {
        rerun_if_changed(path);
    }
    if let Err(error) = tell_source_and_compiler() {
        println!("cargo::error=cannot read the sources: {error}");
        return ExitCode::FAILURE;
    }
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return ExitCode::SUCCESS;
    }
    let out = std::env::var_os("OUT_DIR").unwrap_or_default();
    let Err(message) = cuda::prepare(Path::new(&out)) else {
        return ExitCode::SUCCESS;
    };
    for line in message.lines() {
        println!("cargo::error={line}");
    }
    ExitCode::FAILURE
}

fn tell_source_and_compiler() -> std::io::Result<()> {
    let source = source_digest()?;
    println!("cargo::rustc-env=MANTISSA_SOURCE={source}");
    if let Some(commit) = commit(&source) {
        println!("cargo::rustc-env=MANTISSA_COMMIT={commit}");
    }
    let profile = std::env::var("PROFILE").unwrap_or_default();
    let compiler = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version =
        output(&compiler, &["--version"]).unwrap_or_else(|| "unknown compiler".to_owned());
    println!("cargo::rustc-env=MANTISSA_BUILD={version}, {profile}");
    Ok(())
}

/// The start of the SHA-256 of all source files, with their paths, in hexadecimal digits. A commit does not tell two states
/// of a changed checkout apart, and outside a checkout there is none.
fn source_digest() -> std::io::Result<String> {
    let mut files = Vec::new();
    for path in SOURCES.map(Path::new) {
        collect(path, &mut files)?;
    }
    files.sort();
    let mut digest = Sha256::new();
    for file in files {
        let contents = std::fs::read(&file)?;
        for part in [file.to_string_lossy().as_bytes(), &contents] {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
    }
    let start = &digest.finalize()[..6];
    Ok(start.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}")))
}

/// The files at and below a path; none where nothing is.
fn collect(path: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if path.is_dir() {
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            // What tools leave behind is no source.
            if !entry.file_name().to_string_lossy().starts_with('.') {
                collect(&entry.path(), files)?;
            }
        }
    } else if path.is_file() {
        files.push(path.to_owned());
    }
    Ok(())
}

/// The commit of the checkout that this folder is the root of, with `-dirty-` and the sources' digest where tracked files were
/// changed.
fn commit(source: &str) -> Option<String> {
    // In a folder below another project's checkout the commit would be that project's.
    if !output("git", &["rev-parse", "--show-prefix"])?.is_empty() {
        return None;
    }
    let head = output("git", &["rev-parse", "--short=12", "HEAD"])?;
    let mut names = vec!["HEAD".to_owned(), "index".to_owned(), "packed-refs".to_owned()];
    names.extend(output("git", &["symbolic-ref", "-q", "HEAD"]));
    for name in names {
        if let Some(path) = output("git", &["rev-parse", "--git-path", &name]) {
            rerun_if_changed(&path);
        }
    }
    let changes = output("git", &["status", "--porcelain", "--untracked-files=no"])?;
    let dirty = if changes.is_empty() { String::new() } else { format!("-dirty-{source}") };
    Some(format!("{head}{dirty}"))
}

/// What a command prints, trimmed; none if it is not there or fails.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = output.status.success().then_some(output.stdout)?;
    Some(String::from_utf8(text).ok()?.trim().to_owned())
}

/// A path that is not there would run this script at every build.
fn rerun_if_changed(path: &str) {
    if Path::new(path).exists() {
        println!("cargo::rerun-if-changed={path}");
    }
}
