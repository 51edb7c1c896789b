//! Scripts that do an experiment on a cluster that Slurm manages: an array of its units, and a job that collects what they left.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;

use super::units::freeze_study;
use super::{Failure, Selection, Study, print};
use crate::store;

/// The most tasks of an array where Slurm does not say otherwise.
const TASKS: usize = 1001;

/// Seconds before the end of its time that a task is told: enough for a step and a checkpoint.
const NOTICE: u32 = 120;

#[derive(Debug, Args)]
pub(super) struct SlurmArguments {
    /// The experiment, a TOML file as in experiments/; left out: synthetic digits, five policies, eight seeds
    spec: Option<PathBuf>,
    /// Folder of the experiment, which every node sees [default: reports/NAME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    selection: Selection,
    /// Seeds 0 to N - 1 in place of the spec's
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// The partition
    #[arg(long, value_name = "NAME")]
    partition: Option<String>,
    /// What a task needs beside processors, such as gpu:1
    #[arg(long, value_name = "LIST")]
    gres: Option<String>,
    /// The time limit of a task, such as 4:00:00; a run that takes longer goes on from its checkpoint
    #[arg(long, value_name = "TIME")]
    time: Option<String>,
    /// Processors of a task, and worker threads unless --threads says otherwise
    #[arg(long, value_name = "N")]
    cpus_per_task: Option<u16>,
    /// Tasks that run at once, at most
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    max_parallel: Option<u32>,
    /// Units of a task, one after the other; more where the cluster's arrays are too small
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    units_per_task: u32,
    /// Another option of sbatch for the tasks, such as --sbatch=--account=me; may be repeated
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    sbatch: Vec<String>,
    /// Leave each run's weights beside its record
    #[arg(long)]
    save_weights: bool,
    /// Replace what an experiment left in --out
    #[arg(long)]
    force: bool,
    /// Print the scripts, and do nothing
    #[arg(long = "print")]
    only_print: bool,
}

/// Plans an experiment and submits its units and the collecting job.
pub(super) fn slurm(arguments: &SlurmArguments) -> Result<(), Failure> {
    let SlurmArguments { spec, selection, seeds, force, only_print, .. } = arguments;
    let study = selection.study(spec.as_deref(), *seeds, false)?;
    let out = arguments.out.clone().unwrap_or_else(|| Path::new("reports").join(study.name()));
    let most = most_tasks();
    let scripts = Scripts {
        arguments,
        program: std::env::current_exe().map_err(Failure::machine)?,
        here: std::env::current_dir().map_err(Failure::machine)?,
        out: std::path::absolute(&out).map_err(Failure::machine)?,
        name: study.name().to_owned(),
        tasks: Tasks::of(study.units(), arguments.units_per_task as usize, most.unwrap_or(TASKS)),
    };
    let (array, collect) = (scripts.array()?, scripts.collect()?);
    if *only_print {
        return print(&format!("{array}\n{collect}"));
    }
    if most.is_none() {
        let what = "scontrol does not answer: is Slurm installed here? --print shows the scripts";
        return Err(Failure::Machine(what.to_owned()));
    }
    submit(study, &scripts, (&array, &collect), *force)
}

/// Writes the scripts beside the plan and hands them to sbatch.
fn submit(
    study: Study,
    scripts: &Scripts<'_>,
    (array, collect): (&str, &str),
    force: bool,
) -> Result<(), Failure> {
    let out = &scripts.out;
    freeze_study(study, out, &scripts.arguments.selection, (true, force))?;
    let write = |name: &str, text: &str| {
        let path = scripts.folder().join(name);
        store::write(&path, text.as_bytes()).map(|()| path)
    };
    let (array, collect) = (write("array.sh", array)?, write("collect.sh", collect)?);
    let job = sbatch(&[], &array)?;
    let after = format!("--dependency=afterany:{job}");
    let collecting = sbatch(&[&after], &collect)?;
    let Tasks { count, each } = scripts.tasks;
    let each = if each == 1 { String::new() } else { format!(" of {each} units") };
    print(&format!(
        "job {job}: {count} tasks{each}; job {collecting} collects when they have ended\nhow far they are: mantissa status {}",
        out.display()
    ))
}

/// Submits a script, and returns the number of its job.
fn sbatch(options: &[&str], script: &Path) -> Result<String, Failure> {
    let mut command = Command::new("sbatch");
    command.arg("--parsable").args(options).arg(script).stdin(Stdio::null());
    let refused = |why: String| Failure::Machine(format!("sbatch {}: {why}", script.display()));
    let output = command.output().map_err(|error| refused(error.to_string()))?;
    if !output.status.success() {
        return Err(refused(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    // The number, and behind a semicolon the cluster.
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(said.trim().split(';').next().unwrap_or_default().to_owned())
}

/// How many tasks an array of this cluster has at most; none where Slurm does not answer.
fn most_tasks() -> Option<usize> {
    let output = Command::new("scontrol").args(["show", "config"]).stdin(Stdio::null()).output();
    let said = output.ok().filter(|output| output.status.success())?.stdout;
    let said = String::from_utf8_lossy(&said);
    let value = said.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == "MaxArraySize").then(|| value.trim().to_owned())
    });
    value?.parse().ok().filter(|most| *most > 0)
}

/// The tasks of an array, and how many units each does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tasks {
    count: usize,
    each: usize,
}

impl Tasks {
    /// As few units a task as are asked for and fit an array of `most` tasks.
    fn of(units: usize, each: usize, most: usize) -> Self {
        let each = each.max(units.div_ceil(most));
        Self { count: units.div_ceil(each), each }
    }
}

/// What the scripts depend on.
struct Scripts<'a> {
    arguments: &'a SlurmArguments,
    program: PathBuf,
    here: PathBuf,
    out: PathBuf,
    name: String,
    tasks: Tasks,
}

impl Scripts<'_> {
    /// Where the scripts and what tasks print are.
    fn folder(&self) -> PathBuf {
        self.out.join("slurm")
    }

    /// The script of the array.
    fn array(&self) -> Result<String, Failure> {
        let SlurmArguments { partition, gres, time, cpus_per_task, max_parallel, sbatch, .. } =
            self.arguments;
        let Tasks { count, each } = self.tasks;
        let last = count - 1;
        let at_once = max_parallel.map(|most| format!("%{most}")).unwrap_or_default();
        let mut options = vec![
            format!("--job-name={}", self.name),
            format!("--array=0-{last}{at_once}"),
            format!("--chdir={}", option(&self.here)?),
            format!("--output={}/%A_%a.txt", option(&self.folder())?),
            "--open-mode=append".to_owned(),
            "--requeue".to_owned(),
            format!("--signal=B:USR2@{NOTICE}"),
        ];
        let asked = [("partition", partition), ("gres", gres), ("time", time)];
        let given = asked
            .into_iter()
            .filter_map(|(name, value)| value.as_ref().map(|value| format!("--{name}={value}")));
        options.extend(given);
        options.extend(cpus_per_task.map(|count| format!("--cpus-per-task={count}")));
        options.extend(sbatch.iter().cloned());
        let units = if each == 1 { String::new() } else { format!(" --units-per-task {each}") };
        let run =
            format!("{} run {}{units}{}", shell(&self.program)?, shell(&self.out)?, self.more());
        Ok(format!(
            "#!/bin/bash\n\
             # The units of the experiment {}, written by mantissa slurm: mantissa status tells how far they are.\n{}\n\
             {run} &\n\
             program=$!\n\
             # {NOTICE} seconds before its time is over this script is told, and tells the program: it keeps a checkpoint and ends with 5.\n\
             trap 'kill -USR2 \"$program\"' USR2\n\
             trap 'kill -TERM \"$program\"' TERM\n\
             while :; do\n  \
             wait \"$program\"\n  \
             code=$?\n  \
             # A signal ends the waiting, and not the program.\n  \
             kill -0 \"$program\" 2>/dev/null || break\n\
             done\n\
             [ \"$code\" -le 128 ] || {{ wait \"$program\"; code=$?; }}\n\
             # The same task goes on when its turn comes again.\n\
             [ \"$code\" -ne 5 ] || scontrol requeue \"$SLURM_JOB_ID\"\n\
             exit \"$code\"\n",
            self.name,
            directives(&options)?
        ))
    }

    /// The script of the collecting job.
    fn collect(&self) -> Result<String, Failure> {
        let mut options = vec![
            format!("--job-name={}-collect", self.name),
            format!("--chdir={}", option(&self.here)?),
            format!("--output={}/collect-%j.txt", option(&self.folder())?),
        ];
        let partition = self.arguments.partition.as_ref();
        options.extend(partition.map(|name| format!("--partition={name}")));
        Ok(format!(
            "#!/bin/bash\n# Results and report of the experiment {}, when its units have ended.\n{}\nexec {} collect {}\n",
            self.name,
            directives(&options)?,
            shell(&self.program)?,
            shell(&self.out)?
        ))
    }

    /// The options of a unit's process.
    fn more(&self) -> String {
        let SlurmArguments { selection, cpus_per_task, save_weights, .. } = self.arguments;
        let mut more = format!(" --device {}", selection.device);
        if let Some(threads) = selection.threads.or(*cpus_per_task) {
            more += &format!(" --threads {threads}");
        }
        if *save_weights {
            more += " --save-weights";
        }
        more
    }
}

/// The lines of a script that sbatch reads.
fn directives(options: &[String]) -> Result<String, Failure> {
    let mut lines = String::new();
    for option in options {
        if option.contains(['\n', '\r']) {
            return Err(Failure::Input(format!("an option of sbatch is one line: {option:?}")));
        }
        lines += &format!("#SBATCH {option}\n");
    }
    Ok(lines)
}

/// A path in an option of sbatch, which would take a percent sign for a pattern and a blank for the end.
fn option(path: &Path) -> Result<String, Failure> {
    let text = path.display().to_string();
    if text.contains(['%', ' ', '\'', '"', '\\', '\n']) {
        let advice = "Slurm takes no path with blanks, quotes, backslashes or percent signs";
        return Err(Failure::Input(format!("{text}: {advice}; choose another folder")));
    }
    Ok(text)
}

/// A path as a word of a shell.
fn shell(path: &Path) -> Result<String, Failure> {
    let unreadable = || Failure::Input(format!("{}: is not UTF-8; move it", path.display()));
    let text = path.to_str().ok_or_else(unreadable)?;
    Ok(format!("'{}'", text.replace('\'', "'\\''")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_packed_where_an_array_is_too_small() {
        for (units, each, most, expected) in [
            (41, 1, 1001, (41, 1)),
            (1001, 1, 1001, (1001, 1)),
            (1002, 1, 1001, (501, 2)),
            (10_001, 1, 1001, (1001, 10)),
            (41, 4, 1001, (11, 4)),
            (1, 4, 1, (1, 4)),
        ] {
            let Tasks { count, each } = Tasks::of(units, each, most);
            assert_eq!((count, each), expected);
            assert!(count <= most && count * each >= units);
        }
    }

    #[test]
    fn paths_are_words_of_a_shell() {
        assert_eq!(shell(Path::new("/a b/it's")).unwrap(), "'/a b/it'\\''s'");
        assert_eq!(option(Path::new("/a/b")).unwrap(), "/a/b");
        for path in ["/a b", "/a%j", "/it's"] {
            assert!(option(Path::new(path)).is_err());
        }
    }
}
