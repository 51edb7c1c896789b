//! `mantissa check`, `compare` and `baseline`: results judged, and accepted as what later ones are held against.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, Subcommand};

use super::{Failure, print, say, worker_threads};
use crate::device::{self, Device};
use crate::formatting::{plural, printable};
use crate::ops;
use crate::record::{Environment, Results};
use crate::regression::baseline::{self, FOLDER};
use crate::regression::export::{Format, UnknownFormat};
use crate::regression::{
    self, Allowance, Asked, Baseline, BaselineError, Judgement, Outcome, Second,
};
use crate::report;
use crate::spec::Plan;
use crate::store;

/// What `check` and `compare` have in common.
#[derive(Debug, Args)]
pub(super) struct How {
    /// Fail where a metric is inconclusive too
    #[arg(long)]
    pub(super) strict: bool,
    /// Metrics that may fail, each with a reason.
    #[arg(
        long,
        value_name = "METRIC=REASON",
        help = "Let a metric fail, for a reason: lost_updates, VARIANT/lost_updates or VARIANT/test_accuracy/seed-N; may be repeated"
    )]
    allow: Vec<String>,
    /// How to print the judgement: text, json, markdown, junit, github, bencher, benchmark-action or openmetrics
    #[arg(long, default_value_t)]
    format: Format,
    /// Also write the judgement to a file in another format, such as junit=junit.xml; may be repeated
    #[arg(long, value_name = "FORMAT=PATH")]
    write: Vec<Written>,
}

/// A format of the judgement, and the file to write it to.
#[derive(Clone, Debug)]
struct Written {
    format: Format,
    path: PathBuf,
}

impl FromStr for Written {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (format, path) = text.split_once('=').unwrap_or((text, ""));
        if path.is_empty() {
            return Err("expected FORMAT=PATH, such as junit=junit.xml".to_owned());
        }
        let format = format.parse().map_err(|error: UnknownFormat| error.to_string())?;
        Ok(Self { format, path: PathBuf::from(path) })
    }
}

impl How {
    pub(super) fn allowed(&self) -> Result<Vec<Allowance>, Failure> {
        self.allow.iter().map(|text| text.parse().map_err(Failure::input)).collect()
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum BaselineCommand {
    /// Make results the baseline that `mantissa check` holds later ones against
    Accept {
        /// Folder that `mantissa experiment` wrote
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// Why, for whoever reads the file's history
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
        /// Folder of the baselines
        #[arg(long, value_name = "PATH", default_value = FOLDER)]
        baseline: PathBuf,
    },
    /// List the baselines that there are
    List {
        /// Folder of the baselines
        #[arg(long, value_name = "PATH", default_value = FOLDER)]
        baseline: PathBuf,
    },
    /// Print what a baseline says
    Show {
        /// File of the baseline
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

impl From<BaselineError> for Failure {
    fn from(error: BaselineError) -> Self {
        match error {
            BaselineError::Name(_) => Self::input(error),
            _ => Self::NotComparable(error.to_string()),
        }
    }
}

/// `mantissa check`.
pub(super) fn check(folder: &Path, baseline: &Path, how: &How) -> Result<(), Failure> {
    let allowed = how.allowed()?;
    let results = finished(folder)?;
    let asked = Asked { strict: how.strict, allowed: &allowed, ..Asked::default() };
    match baseline::find(baseline, &results) {
        Ok((found, path, notes)) => {
            for note in notes {
                say(&note);
            }
            let commit = found.program.commit.as_deref().unwrap_or("no commit");
            let against = format!("{} ({commit})", path.display());
            let asked = Asked { against: &against, ..asked };
            conclude(&judged_twice(&found, &results, asked)?, how, &allowed)
        }
        Err(BaselineError::Name(name)) => Err(BaselineError::Name(name).into()),
        Err(error) => {
            let against = baseline.display().to_string();
            let asked = Asked { against: &against, ..asked };
            conclude(&regression::refused(&results, &asked, error.to_string()), how, &allowed)
        }
    }
}

/// `mantissa compare` of two folders: the second results by the first.
pub(super) fn compare(old: &Path, new: &Path, how: &How) -> Result<(), Failure> {
    let allowed = how.allowed()?;
    let (before, results) = (finished(old)?, finished(new)?);
    let before = Baseline::of(&before, "");
    let commit = before.program.commit.as_deref().unwrap_or("no commit");
    let against = format!("{} ({commit})", old.display());
    let asked = Asked { against: &against, strict: how.strict, allowed: &allowed, second: None };
    conclude(&judged_twice(&before, &results, asked)?, how, &allowed)
}

/// `mantissa baseline`.
pub(super) fn baseline(command: &BaselineCommand) -> Result<(), Failure> {
    match command {
        BaselineCommand::Accept { folder, reason, baseline } => accept(folder, reason, baseline),
        BaselineCommand::List { baseline } => list(baseline),
        BaselineCommand::Show { file } => {
            let found = Baseline::read(file)?;
            print(&description(file, &found).join("\n"))?;
            print(found.text().trim_end())
        }
    }
}

fn accept(folder: &Path, reason: &str, at: &Path) -> Result<(), Failure> {
    let results = finished(folder)?;
    let baseline = Baseline::of(&results, reason);
    let name = baseline.place()?;
    let path = at.join(&name);
    // What is there may be damaged, and accepting is how it is mended; only its other machines' times are lost then.
    let baseline = match Baseline::read(&path) {
        Ok(older) => baseline.with_machines_of(&older),
        Err(BaselineError::Malformed { .. } | BaselineError::Missing(_)) => baseline,
        Err(error) => return Err(error.into()),
    };
    store::write_below(at, &name, baseline.text().as_bytes())?;
    print(&description(&path, &baseline).join("\n"))
}

fn list(at: &Path) -> Result<(), Failure> {
    let mut lines = Vec::new();
    let mut broken = Vec::new();
    for path in baseline::list(at)? {
        match Baseline::read(&path) {
            Ok(baseline) => lines.extend(description(&path, &baseline)),
            Err(error) => broken.push(error.to_string()),
        }
    }
    if lines.is_empty() && broken.is_empty() {
        return Err(BaselineError::Missing(at.to_owned()).into());
    }
    print(&lines.join("\n"))?;
    match broken.first() {
        Some(error) => Err(Failure::NotComparable(error.clone())),
        None => Ok(()),
    }
}

/// What a baseline is, in lines.
fn description(path: &Path, baseline: &Baseline) -> Vec<String> {
    let Baseline {
        experiment, program, reason, arithmetic, plan_digest, metrics, machines, ..
    } = baseline;
    let commit = program.commit.as_deref().unwrap_or("no commit");
    let mut lines = vec![
        path.display().to_string(),
        format!(
            "  {experiment}, plan {}, of mantissa {} ({commit})",
            plan_digest.get(..12).unwrap_or(plan_digest),
            program.version
        ),
    ];
    if !reason.is_empty() {
        lines.push(format!("  reason: {reason}"));
    }
    let gpu = arithmetic.gpu.as_ref().map(|gpu| gpu.name.clone());
    let on = gpu.unwrap_or_else(|| arithmetic.product_paths.join("; "));
    lines.push(format!(
        "  {} on {}: {on}",
        plural(metrics.len(), "exact metric"),
        arithmetic.device
    ));
    for times in machines.values() {
        let machine = &times.machine;
        lines.push(format!(
            "  times of {}, {}, {}",
            machine.device_name,
            plural(machine.threads, "thread"),
            machine.profile
        ));
    }
    lines.iter().map(|line| printable(line)).collect()
}

/// The results of an experiment that is finished, and of which no run failed: of others nothing can be said.
pub(super) fn finished(folder: &Path) -> Result<Results, Failure> {
    let results = report::load_results(folder)?;
    let place = folder.display();
    if !results.complete {
        let what = "the experiment is not finished; run it again with the same --out to go on";
        return Err(Failure::Machine(format!("{place}: {what}")));
    }
    super::failed_runs(&results)?;
    Ok(results)
}

/// Judges, and where a time may be slower times the plan's variants once more, to see whether that repeats.
fn judged_twice(
    baseline: &Baseline,
    results: &Results,
    asked: Asked<'_>,
) -> Result<Judgement, Failure> {
    let judgement = regression::judge(baseline, results, &asked);
    if !judgement.wants_second_timing {
        return Ok(judgement);
    }
    say("a time may be slower than in the baseline: timing a second time");
    let second = second_timing(results)?;
    Ok(regression::judge(baseline, results, &Asked { second: Some(&second), ..asked }))
}

/// A second timing phase, on the device and with the threads of the first.
fn second_timing(results: &Results) -> Result<Second, Failure> {
    let there = &results.environment;
    let device: Device = match there.device.parse() {
        Ok(device) => device,
        Err(error) => return Ok(Second::Impossible(format!("{error}"))),
    };
    let opened = device.resolve().and_then(|choice| Ok((choice.open()?, choice)));
    let (opened, choice) = match opened {
        Ok(opened) => opened,
        Err(error) => return Ok(Second::Impossible(error.to_string())),
    };
    let products = ops::product_paths().map_err(Failure::input)?;
    let here = device::environment(&choice, there.threads, products);
    if let Some(difference) = other_place(there, &here) {
        return Ok(Second::Impossible(difference));
    }
    let pool = worker_threads(u16::try_from(there.threads).ok())?;
    // Times do not depend on published figures, whose file may be gone.
    let plan = Plan { reference: None, ..results.plan.clone() };
    let experiment = match super::experiment_of(plan, true) {
        Ok(experiment) => experiment,
        Err(error) => return Ok(Second::Impossible(error.to_string())),
    };
    match pool.install(|| experiment.time_again(results, &opened)) {
        Ok(again) => Ok(Second::Done(regression::Times::of(&again))),
        Err(error) => Ok(Second::Impossible(error.to_string())),
    }
}

/// Why this process cannot time again what was timed there.
fn other_place(there: &Environment, here: &Environment) -> Option<String> {
    use regression::fingerprint::Machine;
    if there.source != here.source {
        return Some("the results are of another build than this program".to_owned());
    }
    Machine::of(there).difference(&Machine::of(here))
}

/// Prints the judgement, and says what it comes to.
pub(super) fn conclude(
    judgement: &Judgement,
    how: &How,
    allowed: &[Allowance],
) -> Result<(), Failure> {
    for allowance in allowed {
        allowance.check(judgement).map_err(Failure::input)?;
    }
    print(&how.format.render(judgement).map_err(Failure::machine)?)?;
    for Written { format, path } in &how.write {
        let text = format.render(judgement).map_err(Failure::machine)?;
        store::write(path, text.as_bytes())?;
    }
    let summary = judgement.summary();
    match judgement.outcome() {
        Outcome::Fine => {
            if how.format != Format::Text {
                say(&format!("mantissa: {summary}"));
            }
            Ok(())
        }
        Outcome::Regression => Err(Failure::Regression(summary)),
        Outcome::NothingJudged => {
            let why = judgement.notes.first().map(String::as_str);
            let first = judgement.not_judged().first().map(|(why, _)| (*why).to_owned());
            let inconclusive = || "every metric is inconclusive".to_owned();
            let why = why.map(str::to_owned).or(first).unwrap_or_else(inconclusive);
            Err(Failure::NotComparable(format!("nothing could be judged: {why}; {summary}")))
        }
    }
}
