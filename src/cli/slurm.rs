//! Scripts that do an experiment on a cluster that Slurm manages: an array of its units, and a job that collects what they left.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;

use super::units::freeze_study;
use super::{Failure, StudyArguments, print};
use crate::experiment::Unit;
use crate::spec::check_names;
use crate::store;

/// The most tasks of an array where Slurm does not say otherwise.
const TASKS: usize = 1001;

/// Seconds before the end of its time that a task is told: enough for a step and a checkpoint.
const NOTICE: u32 = 120;

#[derive(Debug, Args)]
pub(super) struct SlurmArguments {
    #[command(flatten)]
    study: StudyArguments,
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
    /// Time all variants on this kind of machine, in a job of its own on a node that has NAME as a feature, or that OPTION of sbatch
    /// chooses, such as --kind h100=--gres=gpu:h100:1; may be repeated
    #[arg(long = "kind", value_name = "NAME[=OPTION]")]
    kinds: Vec<String>,
    /// Leave each run's weights beside its record
    #[arg(long)]
    save_weights: bool,
    /// Print the scripts, and do nothing
    #[arg(long = "print")]
    only_print: bool,
}

/// A kind of machine, and the option of sbatch that chooses such nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kind {
    name: String,
    option: String,
}

impl Kind {
    /// What `--kind` says.
    fn of(text: &str) -> Result<Self, Failure> {
        let (name, option) = match text.split_once('=') {
            Some((name, option)) => (name, option.to_owned()),
            None => (text, format!("--constraint={text}")),
        };
        if !option.starts_with('-') {
            let example = "--kind h100=--gres=gpu:h100:1";
            let why = format!("--kind {text}: {option:?} is no option of sbatch; write {example}");
            return Err(Failure::Input(why));
        }
        Ok(Self { name: name.to_owned(), option })
    }
}

/// Plans an experiment and submits its units and the collecting job.
pub(super) fn slurm(arguments: &SlurmArguments) -> Result<(), Failure> {
    let kinds: Vec<Kind> =
        arguments.kinds.iter().map(|text| Kind::of(text)).collect::<Result<_, _>>()?;
    let names: Vec<String> = kinds.iter().map(|kind| kind.name.clone()).collect();
    check_names("--kind", &names).map_err(Failure::Input)?;
    let study = arguments.study.study(false)?;
    let out = arguments.study.folder(&study);
    let (most, each) = (most_tasks(), arguments.units_per_task as usize);
    let units = study.units(&names);
    let scripts = Scripts {
        arguments,
        program: std::env::current_exe().map_err(Failure::machine)?,
        here: std::env::current_dir().map_err(Failure::machine)?,
        out: std::path::absolute(&out).map_err(Failure::machine)?,
        name: study.name().to_owned(),
        tasks: Tasks::of(in_array(&units), each, most.unwrap_or(TASKS)),
        kinds,
    };
    let texts = scripts.all()?;
    if arguments.only_print {
        let texts: Vec<&str> = texts.iter().map(|script| &*script.text).collect();
        return print(&texts.join("\n"));
    }
    if most.is_none() {
        let what = "scontrol does not answer: is Slurm installed here? --print shows the scripts";
        return Err(Failure::Machine(what.to_owned()));
    }
    freeze_study(study, &scripts.out, &arguments.study, &names, true)?;
    submit(&scripts, &texts)
}

/// How many units an array is for: those up to the last that is no job of its own.
fn in_array(units: &[Unit]) -> usize {
    let is_own = |unit: &Unit| matches!(unit, Unit::Timing { kind: Some(_) });
    units.iter().rposition(|unit| !is_own(unit)).map_or(0, |last| last + 1)
}

/// Writes the scripts beside the plan and hands them to sbatch: the last when the jobs of the others have ended.
fn submit(scripts: &Scripts<'_>, texts: &[Script]) -> Result<(), Failure> {
    let mut jobs: Vec<String> = Vec::new();
    for (index, Script { file, text }) in texts.iter().enumerate() {
        let path = scripts.folder().join(file);
        store::write(&path, text.as_bytes())?;
        let is_last = index + 1 == texts.len();
        let after = is_last.then(|| format!("--dependency=afterany:{}", jobs.join(":")));
        jobs.push(sbatch(after.as_deref(), &path)?);
    }
    let (Some(array), Some(collecting)) = (jobs.first(), jobs.last()) else { return Ok(()) };
    let Tasks { count, each } = scripts.tasks;
    let each = if each == 1 { String::new() } else { format!(" of {each} units") };
    let timing = scripts.kinds.iter().zip(&jobs[1..]);
    let timing = timing.map(|(kind, job)| format!("; job {job} times on {}", kind.name));
    print(&format!(
        "job {array}: {count} tasks{each}{}; job {collecting} collects when they have ended\nhow far they are: mantissa status {}",
        timing.collect::<String>(),
        scripts.out.display()
    ))
}

/// Submits a script, and returns the number of its job.
fn sbatch(option: Option<&str>, script: &Path) -> Result<String, Failure> {
    let mut command = Command::new("sbatch");
    command.arg("--parsable").args(option).arg(script).stdin(Stdio::null());
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

/// A script and the name of its file.
struct Script {
    file: String,
    text: String,
}

/// What the scripts depend on.
struct Scripts<'a> {
    arguments: &'a SlurmArguments,
    program: PathBuf,
    here: PathBuf,
    out: PathBuf,
    name: String,
    tasks: Tasks,
    kinds: Vec<Kind>,
}

impl Scripts<'_> {
    /// Where the scripts and what tasks print are.
    fn folder(&self) -> PathBuf {
        self.out.join("slurm")
    }

    /// The array, a job for each kind of machine, and the collecting job.
    fn all(&self) -> Result<Vec<Script>, Failure> {
        let array = Script { file: "array.sh".to_owned(), text: self.array()? };
        let collect = Script { file: "collect.sh".to_owned(), text: self.collect()? };
        let timing = self.kinds.iter().map(|kind| {
            Ok::<_, Failure>(Script {
                file: format!("timing-{}.sh", kind.name),
                text: self.timing(kind)?,
            })
        });
        let timing: Vec<Script> = timing.collect::<Result<_, _>>()?;
        Ok(std::iter::once(array).chain(timing).chain([collect]).collect())
    }

    /// The script of the array.
    fn array(&self) -> Result<String, Failure> {
        let Tasks { count, each } = self.tasks;
        let last = count.saturating_sub(1);
        let most = self.arguments.max_parallel;
        let at_once = most.map(|most| format!("%{most}")).unwrap_or_default();
        let options = [
            format!("--job-name={}", self.name),
            format!("--array=0-{last}{at_once}"),
            format!("--output={}/%A_%a.txt", option(&self.folder())?),
        ];
        let mut run = if each == 1 { String::new() } else { format!(" --units-per-task {each}") };
        if !self.kinds.is_empty() {
            run += " --runs-only";
        }
        self.script(&format!("The experiment {}", self.name), &options, &[], &run)
    }

    /// The script of the job that times on a kind of machine. No other job shares its node.
    fn timing(&self, kind: &Kind) -> Result<String, Failure> {
        let Kind { name, option: chosen } = kind;
        let options = [
            format!("--job-name={}-timing-{name}", self.name),
            format!("--output={}/timing-{name}-%j.txt", option(&self.folder())?),
        ];
        let last = ["--exclusive".to_owned(), chosen.clone()];
        let what = format!("The timing of the experiment {} on {name}", self.name);
        self.script(&what, &options, &last, &format!(" --kind {name}"))
    }

    /// A script that does units and goes on with them: what it is for, its options, those that stand behind what the person gave,
    /// and those of `mantissa run`.
    fn script(
        &self,
        what: &str,
        first: &[String],
        last: &[String],
        run: &str,
    ) -> Result<String, Failure> {
        let SlurmArguments { partition, gres, time, cpus_per_task, sbatch, .. } = self.arguments;
        let mut options = first.to_vec();
        options.extend([
            format!("--chdir={}", option(&self.here)?),
            "--open-mode=append".to_owned(),
            "--requeue".to_owned(),
            format!("--signal=B:USR2@{NOTICE}"),
        ]);
        let asked = [("partition", partition), ("gres", gres), ("time", time)];
        let given = asked
            .into_iter()
            .filter_map(|(name, value)| value.as_ref().map(|value| format!("--{name}={value}")));
        options.extend(given);
        options.extend(cpus_per_task.map(|count| format!("--cpus-per-task={count}")));
        options.extend(sbatch.iter().chain(last).cloned());
        let run =
            format!("{} run {}{run}{}", shell(&self.program)?, shell(&self.out)?, self.more());
        Ok(format!(
            "#!/bin/bash\n\
             # {what}, written by mantissa slurm: mantissa status tells how far it is.\n{}\n\
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
        let SlurmArguments { study, cpus_per_task, save_weights, .. } = self.arguments;
        let selection = &study.selection;
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

    #[derive(clap::Parser)]
    struct Called {
        #[command(flatten)]
        arguments: SlurmArguments,
    }

    /// The scripts of an experiment of 8 runs that is called like this.
    fn scripts(more: &[&str]) -> Result<Vec<Script>, Failure> {
        let Called { arguments } = clap::Parser::parse_from([&["slurm"], more].concat());
        let kinds: Vec<Kind> =
            arguments.kinds.iter().map(|text| Kind::of(text)).collect::<Result<_, _>>()?;
        let scripts = Scripts {
            arguments: &arguments,
            program: "/bin/mantissa".into(),
            here: "/home".into(),
            out: "/study".into(),
            name: "small".to_owned(),
            tasks: Tasks { count: 8, each: 1 },
            kinds,
        };
        scripts.all()
    }

    /// The lines of a script that sbatch reads, and those that call the program.
    fn read_lines(script: &Script) -> Vec<&str> {
        let is_read = |line: &&str| line.starts_with("#SBATCH") || line.contains("/bin/mantissa");
        script.text.lines().filter(is_read).collect()
    }

    #[test]
    fn an_array_without_kinds_of_machine_has_all_units() {
        let all = scripts(&["--time", "1:00:00", "--sbatch=--account=me"]).unwrap();
        let files: Vec<&str> = all.iter().map(|script| &*script.file).collect();
        assert_eq!(files, ["array.sh", "collect.sh"]);
        let expected = [
            "#SBATCH --job-name=small",
            "#SBATCH --array=0-7",
            "#SBATCH --output=/study/slurm/%A_%a.txt",
            "#SBATCH --chdir=/home",
            "#SBATCH --open-mode=append",
            "#SBATCH --requeue",
            "#SBATCH --signal=B:USR2@120",
            "#SBATCH --time=1:00:00",
            "#SBATCH --account=me",
            "'/bin/mantissa' run '/study' --device auto &",
        ];
        assert_eq!(read_lines(&all[0]), expected);
    }

    #[test]
    fn each_kind_of_machine_has_a_job_of_its_own() {
        let gpu = "--kind=h100=--gres=gpu:h100:1";
        let all = scripts(&["--kind=cpu", gpu, "--gres", "gpu:1"]).unwrap();
        let files: Vec<&str> = all.iter().map(|script| &*script.file).collect();
        assert_eq!(files, ["array.sh", "timing-cpu.sh", "timing-h100.sh", "collect.sh"]);
        let last = |script| *read_lines(script).last().unwrap();
        assert_eq!(last(&all[0]), "'/bin/mantissa' run '/study' --runs-only --device auto &");
        // Of two values of an option sbatch takes the last.
        for (script, chosen, name) in
            [(&all[1], "--constraint=cpu", "cpu"), (&all[2], "--gres=gpu:h100:1", "h100")]
        {
            let expected = [
                format!("#SBATCH --job-name=small-timing-{name}"),
                format!("#SBATCH --output=/study/slurm/timing-{name}-%j.txt"),
                "#SBATCH --chdir=/home".to_owned(),
                "#SBATCH --open-mode=append".to_owned(),
                "#SBATCH --requeue".to_owned(),
                "#SBATCH --signal=B:USR2@120".to_owned(),
                "#SBATCH --gres=gpu:1".to_owned(),
                "#SBATCH --exclusive".to_owned(),
                format!("#SBATCH {chosen}"),
                format!("'/bin/mantissa' run '/study' --kind {name} --device auto &"),
            ];
            assert_eq!(read_lines(script), expected);
        }
        let wrong = scripts(&["--kind=h100=gpu"]).err().unwrap().to_string();
        let expected =
            "--kind h100=gpu: \"gpu\" is no option of sbatch; write --kind h100=--gres=gpu:h100:1";
        assert_eq!(wrong, expected);
    }

    #[test]
    fn the_array_ends_before_what_is_a_job_of_its_own() {
        let run = |seed| Unit::Run { variant: "fp32".to_owned(), seed };
        let timing = |kind: Option<&str>| Unit::Timing { kind: kind.map(str::to_owned) };
        for (units, expected) in [
            (vec![run(0), run(1), timing(None)], 3),
            (vec![run(0), run(1), timing(Some("a")), timing(Some("b"))], 2),
            // Those of two cells.
            (vec![run(0), timing(Some("a")), run(0), timing(Some("a"))], 3),
        ] {
            assert_eq!(in_array(&units), expected);
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
