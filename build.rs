//! Tells the program which source and compiler it was built from, without git or outside a checkout too. With the feature
//! `cuda` it also compiles the kernels.

use std::path::Path;
use std::process::{Command, ExitCode};

#[path = "build/cuda.rs"]
mod cuda;

fn main() -> ExitCode {
    for path in ["src", "build", "build.rs", "Cargo.toml", "Cargo.lock"] {
        rerun_if_changed(path);
    }
    tell_source_and_compiler();
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

fn tell_source_and_compiler() {
    if let Some(commit) = commit() {
        println!("cargo::rustc-env=MANTISSA_COMMIT={commit}");
    }
    let profile = std::env::var("PROFILE").unwrap_or_default();
    let compiler = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version =
        output(&compiler, &["--version"]).unwrap_or_else(|| "unknown compiler".to_owned());
    println!("cargo::rustc-env=MANTISSA_BUILD={version}, {profile}");
}

/// The commit of the checkout that this folder is the root of, with `-dirty` where tracked files were changed.
fn commit() -> Option<String> {
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
    let dirty = if changes.is_empty() { "" } else { "-dirty" };
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
