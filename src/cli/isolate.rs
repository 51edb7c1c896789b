//! An experiment whose runs are processes of their own: what takes one with it, such as the end of the machine's memory or a fault
//! in a driver, is the outcome of that run, and the others go on.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::units::{collect_into, freeze};
use super::{ExperimentArguments, Failure, Place, holder, say};
use crate::experiment::{Options, Unit, UnitState, give_up, status};
use crate::formatting::printable;
use crate::record::Results;
use crate::spec::Plan;
use crate::store::Folder;

/// So many lines of what a process printed last are kept for the case that it crashes.
const LAST_LINES: usize = 5;

/// How often a process is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

/// What is there in the end.
pub(super) struct Outcome {
    pub(super) results: Results,
    /// How the process of the timing phase crashed, if it did: that of a run is in its record.
    pub(super) crash: Option<String>,
}

/// Does every run in a process of its own, and returns the results of what is there then.
pub(super) fn experiment(
    plan: Plan,
    out: &Path,
    arguments: &ExperimentArguments,
    stop: &AtomicBool,
) -> Result<Outcome, Failure> {
    freeze(plan, out, &arguments.study, &[], arguments.quiet)?;
    let statuses = status(out)?;
    let all = statuses.len();
    let mut crash = None;
    for (index, status) in statuses.into_iter().enumerate() {
        if matches!(status.state, UnitState::Finished { .. }) {
            continue;
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let process = Unfinished { out, index, name: format!("[{}/{all}]", index + 1), arguments };
        let Process { status: ended, lines } = process.run(stop)?;
        let last = lines.back().map_or("", |line| line.trim_start_matches("mantissa: ")).to_owned();
        match ended.code() {
            Some(0) => {}
            Some(5) => break,
            Some(2) => return Err(Failure::Input(last)),
            Some(3) if process.has_failed()? => {}
            code => {
                let why = match code {
                    Some(3) => last,
                    _ => crash_of(ended, &lines),
                };
                process.give_up(&status.unit, &why)?;
                if matches!(status.unit, Unit::Timing { .. }) {
                    crash = Some(format!("{}: {why}", status.unit));
                }
            }
        }
    }
    Ok(Outcome { results: collect_into(out, arguments.quiet)?, crash })
}

/// A unit that a process is to do.
struct Unfinished<'a> {
    out: &'a Path,
    index: usize,
    /// Stands before each line that the process prints.
    name: String,
    arguments: &'a ExperimentArguments,
}

/// A process that ended.
struct Process {
    status: ExitStatus,
    /// What it printed last.
    lines: VecDeque<String>,
}

impl Unfinished<'_> {
    /// Does the unit in a process. Where this one is asked to stop, so is that one.
    fn run(&self, stop: &AtomicBool) -> Result<Process, Failure> {
        let mut child = self.start().map_err(|error| {
            Failure::Machine(format!("cannot start a process for unit {}: {error}", self.index))
        })?;
        let stderr = child.stderr.take();
        let (name, quiet) = (self.name.clone(), self.arguments.quiet);
        let reader = std::thread::spawn(move || {
            let mut last = VecDeque::new();
            for line in stderr.into_iter().flat_map(|stderr| BufReader::new(stderr).split(b'\n')) {
                let Ok(line) = line else { break };
                let line = String::from_utf8_lossy(&line).into_owned();
                if !quiet {
                    say(&format!("{name} {line}"));
                }
                last.push_back(line);
                if last.len() > LAST_LINES {
                    last.pop_front();
                }
            }
            last
        });
        let mut is_told = false;
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) => {}
                Err(error) => {
                    return Err(Failure::Machine(format!("cannot wait for a process: {error}")));
                }
            }
            if stop.load(Ordering::Relaxed) && !is_told {
                is_told = true;
                ask_to_stop(&child);
            }
            std::thread::sleep(INTERVAL);
        };
        Ok(Process { status, lines: reader.join().unwrap_or_default() })
    }

    fn start(&self) -> std::io::Result<Child> {
        let ExperimentArguments { study, save_weights, .. } = self.arguments;
        let selection = &study.selection;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("run").arg(self.out).args(["--index", &self.index.to_string()]);
        command.args(["--device", &selection.device.to_string()]);
        if let Some(threads) = selection.threads {
            command.args(["--threads", &threads.to_string()]);
        }
        if *save_weights {
            command.arg("--save-weights");
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()
    }

    /// Whether the unit has the record of a run that failed.
    fn has_failed(&self) -> Result<bool, Failure> {
        let state = status(self.out)?.into_iter().nth(self.index).map(|status| status.state);
        Ok(matches!(state, Some(UnitState::Failed(_))))
    }

    /// Leaves the record of a run whose process crashed.
    fn give_up(&self, unit: &Unit, why: &str) -> Result<(), Failure> {
        if !self.arguments.quiet {
            say(&format!("{} {unit}: failed: {why}", self.name));
        }
        if matches!(unit, Unit::Timing { .. }) {
            return Ok(());
        }
        let Place { device, environment, .. } = self.arguments.study.selection.open()?;
        let folder = Folder::share(self.out, &holder(&environment)).map_err(Failure::machine)?;
        let options = Options {
            folder: &folder,
            force: false,
            save_weights: false,
            stop: None,
            device: &device,
            environment: &environment,
        };
        give_up(options, self.index, printable(why))?;
        Ok(())
    }
}

#[cfg(unix)]
fn ask_to_stop(child: &Child) {
    use rustix::process::{Pid, Signal, kill_process};
    // One that has ended needs no asking.
    let _ = kill_process(Pid::from_child(child), Signal::TERM);
}

/// There is no way to ask: the unit is done to its end.
#[cfg(not(unix))]
fn ask_to_stop(_child: &Child) {}

/// How a process crashed, with what it printed last.
fn crash_of(status: ExitStatus, lines: &VecDeque<String>) -> String {
    let how = match status.code() {
        Some(code) => format!("its process ended with exit code {code}"),
        None => format!("its process was killed by {}", signal(status)),
    };
    let lines: Vec<&str> = lines.iter().map(|line| line.trim()).collect();
    if lines.is_empty() { how } else { format!("{how}; it printed last: {}", lines.join(" / ")) }
}

#[cfg(unix)]
fn signal(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    let number = status.signal().unwrap_or_default();
    let name = signal_hook::low_level::signal_name(number);
    let name = name.map(|name| format!(" ({name})")).unwrap_or_default();
    format!("signal {number}{name}")
}

#[cfg(not(unix))]
fn signal(_status: ExitStatus) -> String {
    "the system".to_owned()
}
