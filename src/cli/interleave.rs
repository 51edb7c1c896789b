//! `mantissa compare`: two folders of results, or with `--interleave` two builds that are timed in turns, each block by a fresh
//! process. A build decides the memory layout of its process only once, so fresh ones average over it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use clap::Args;

use super::check::{self, How};
use super::time::MOST_ROUNDS;
use super::{Failure, Selection, say};
use crate::device::Device;
use crate::regression::{self, Asked, BlockError, Rounds, TimedBlock};
use crate::store;

/// The most bytes that are read of what a build prints: a block of 1000 variants has less.
const MOST_PRINTED: u64 = 1 << 24;

/// Lines of a failed build's stderr that are shown, its last ones.
const LINES_SHOWN: usize = 3;

#[derive(Debug, Args)]
pub(super) struct CompareArguments {
    /// Folder that `mantissa experiment` wrote; with --interleave, the binary of the older build
    #[arg(value_name = "A")]
    old: PathBuf,
    /// Another, of the same plan; with --interleave, the binary of the newer build
    #[arg(value_name = "B")]
    new: PathBuf,
    /// With --interleave: the experiment whose variants are timed
    #[arg(requires = "interleave")]
    spec: Option<PathBuf>,
    /// Compare two builds: their binaries time the variants of SPEC in turns on this machine
    #[arg(long, requires = "spec")]
    interleave: bool,
    /// With --interleave: blocks of each build.
    #[arg(
        long,
        help = "With --interleave: blocks of each build [default: measure.timing_blocks, or more where fewer could decide nothing]",
        value_name = "N", requires = "interleave", value_parser = clap::value_parser!(u64).range(2..=MOST_ROUNDS))]
    rounds: Option<u64>,
    #[command(flatten, next_help_heading = "With --interleave, as for `mantissa experiment`")]
    selection: Selection,
    #[command(flatten, next_help_heading = "Options")]
    how: How,
}

/// Compares two folders, or two builds.
pub(super) fn compare(arguments: &CompareArguments) -> Result<(), Failure> {
    let CompareArguments { old, new, spec, selection, how, .. } = arguments;
    let Some(spec) = spec else {
        if let Some(option) = selection.forwarded().first() {
            let option = option.split('=').next().unwrap_or_default();
            let problem = format!(
                "{option} is for --interleave, which times builds; folders hold results that are there"
            );
            return Err(Failure::Input(problem));
        }
        return check::compare(old, new, how);
    };
    let allowed = how.allowed()?;
    let mut options = selection.forwarded();
    // Behind `--`, where a name that begins with a dash is no option.
    options.extend(["--".to_owned(), spec.display().to_string()]);
    let mut builds = Builds { a: old, b: new, options, rounds: arguments.rounds };
    builds.check()?;
    let first = builds.phase("timing")?;
    let commit = first.a.first().and_then(|block| block.program.commit.as_deref());
    let against = format!("{} ({})", old.display(), commit.unwrap_or("no commit"));
    let asked = Asked { against: &against, strict: how.strict, allowed: &allowed, second: None };
    let mut judgement = regression::judge_builds(&first, None, &asked);
    if judgement.wants_second_timing {
        say("a time may be slower in B than in A: timing both a second time");
        let second = builds.phase("second timing")?;
        judgement = regression::judge_builds(&first, Some(&second), &asked);
    }
    check::conclude(&judgement, how, &allowed)
}

impl Selection {
    /// The options that were given, for another process.
    fn forwarded(&self) -> Vec<String> {
        let Self { device, mnist, cifar10, variants, set, threads } = self;
        let path = |name: &str, path: &PathBuf| format!("--{name}={}", path.display());
        let device = (*device != Device::Auto).then(|| format!("--device={device}"));
        let options = [
            device,
            mnist.as_ref().map(|folder| path("mnist", folder)),
            cifar10.as_ref().map(|folder| path("cifar10", folder)),
            variants.as_ref().map(|names| format!("--variants={}", names.join(","))),
            threads.map(|threads| format!("--threads={threads}")),
        ];
        let set = set.iter().map(|value| format!("--set={value}"));
        options.into_iter().flatten().chain(set).collect()
    }
}

/// Two builds and how they are timed.
struct Builds<'a> {
    a: &'a Path,
    b: &'a Path,
    /// What stands behind `time --block N`.
    options: Vec<String>,
    /// None until the first block says how many it takes.
    rounds: Option<u64>,
}

impl Builds<'_> {
    /// Makes sure that there are two files.
    fn check(&self) -> Result<(), Failure> {
        for (name, binary) in [("A", self.a), ("B", self.b)] {
            if !store::is_file(binary)? {
                let problem = format!(
                    "{}: not found, or no file; give the binary of build {name}",
                    binary.display()
                );
                return Err(Failure::Input(problem));
            }
        }
        Ok(())
    }

    /// One timing phase: a block of each build in every round, A first in even ones.
    fn phase(&mut self, what: &str) -> Result<Rounds, Failure> {
        let mut rounds = Rounds::default();
        let mut round = 0;
        while self.rounds.is_none_or(|rounds| round < rounds) {
            let of = self.rounds.map_or_else(String::new, |rounds| format!(" of {rounds}"));
            say(&format!("{what}: round {}{of}", round + 1));
            let is_even = round % 2 == 0;
            for is_a in [is_even, !is_even] {
                let (name, binary, blocks) =
                    if is_a { ("A", self.a, &mut rounds.a) } else { ("B", self.b, &mut rounds.b) };
                blocks.push(block(binary, name, round, &self.options)?);
            }
            if let (Some(a), Some(b)) = (rounds.a.last(), rounds.b.last()) {
                if let Some(difference) = regression::unlike(a, b) {
                    return Err(Failure::NotComparable(difference));
                }
                self.rounds.get_or_insert(a.rounds().max(b.rounds()) as u64);
            }
            round += 1;
        }
        Ok(rounds)
    }
}

/// One block of a build, by a process of its own.
fn block(
    binary: &Path,
    name: &str,
    number: u64,
    options: &[String],
) -> Result<TimedBlock, Failure> {
    let number = number.to_string();
    let start = ["time", "--block", &number];
    let arguments: Vec<&str> =
        start.into_iter().chain(options.iter().map(String::as_str)).collect();
    let ran = run(binary, &arguments)?;
    let place = format!("{} (build {name})", binary.display());
    if ran.status.success() {
        return TimedBlock::parse(&ran.stdout).map_err(|error| {
            let advice = "give a binary of mantissa of about this version";
            let problem = format!("{place}: `mantissa time` printed what is {error}; {advice}");
            match error {
                BlockError::Malformed(_) => Failure::Input(problem),
                BlockError::Newer(_) => Failure::NotComparable(problem),
            }
        });
    }
    let lines: Vec<&str> = ran.stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    if ran.status.code() != Some(2) {
        let last = lines[lines.len().saturating_sub(LINES_SHOWN)..].join("; ");
        return Err(Failure::Machine(format!("{place}: {}: {last}", ended(ran.status))));
    }
    // Wrong usage: of the command, which an older build does not know, or of what was asked of it.
    if run(binary, &["time", "--help"])?.status.success() {
        let said = lines.last().copied().unwrap_or_default();
        return Err(Failure::Input(format!("{place}: {said}")));
    }
    let said = lines.first().copied().unwrap_or_default();
    Err(Failure::NotComparable(format!(
        "{place}: is too old to be timed, as it knows no command `time` ({said}); take a commit that has it"
    )))
}

/// How a process ended that failed.
fn ended(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return format!("ended by signal {signal}");
    }
    status
        .code()
        .map_or_else(|| "failed".to_owned(), |code| format!("failed with exit code {code}"))
}

/// What became of a process.
struct Ran {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: String,
}

/// Runs a build to its end. Of what it prints no more is kept than such a program prints.
fn run(binary: &Path, arguments: &[&str]) -> Result<Ran, Failure> {
    let place = binary.display();
    // Absolute: a name without a folder would be looked for among the system's programs.
    let program = std::path::absolute(binary).map_err(Failure::input)?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| {
        Failure::Input(format!("{place}: cannot be run: {error}; give a binary of mantissa"))
    })?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr) = std::thread::scope(|scope| {
        let stderr = scope.spawn(|| start_of(stderr));
        (start_of(stdout), stderr.join().unwrap_or_default())
    });
    let status = child
        .wait()
        .map_err(|error| Failure::Machine(format!("{place}: cannot be waited for: {error}")))?;
    Ok(Ran { status, stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() })
}

/// The first [`MOST_PRINTED`] bytes of a stream. Behind them it is closed, and who goes on writing is ended by that.
fn start_of(stream: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What was read before an error is what there is.
    let _ = stream.map(|stream| stream.take(MOST_PRINTED).read_to_end(&mut bytes));
    bytes
}
