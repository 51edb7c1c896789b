//! The commands, what they print and their exit codes. The only place that prints: results on stdout, progress and
//! complaints on stderr.

mod cells;
mod check;
mod datasets;
mod doctor;
mod dry_run;
mod formats;
mod history;
mod interleave;
mod isolate;
mod progress;
mod signals;
mod slurm;
mod time;
mod units;

use std::ffi::OsString;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::data::{self, Loading};
use crate::device::{self, Device};
use crate::experiment::{self, Experiment, ExperimentError, Machine, MachineError, Options, Unit};
use crate::formatting::printable;
use crate::hub::Transfer;
use crate::ops;
use crate::record::{self, Environment, Results, Status, files};
use crate::regression::baseline;
use crate::report::{self, ReportError, Verbosity};
use crate::spec::{self, Cell, CountImages, DataPlan, Overrides, Plan, SpecError};
use crate::store::{self, Folder, StoreError};
use crate::task::Task;
use progress::{Downloading, Progress, Tokenizing};

/// Which floating-point precision should a model be trained and served in, on this machine?
#[derive(Debug, Parser)]
#[command(name = "mantissa", version, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 fine, 1 a regression, 2 wrong usage, spec or data, 3 a run or the machine failed, 4 the baseline is \
     missing or not comparable, or nothing could be judged, 5 interrupted: go on with the same command";

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a model under several precisions, measure and compare them, and write results and a report
    Experiment(ExperimentArguments),
    /// Fix the plan of an experiment in a folder, and list its units, which any process can do, anywhere
    Plan(units::PlanArguments),
    /// Do one unit of a planned experiment, a run or the timing phase, from its checkpoint where there is one
    Run(units::RunArguments),
    /// Make results and report of what the units of a planned experiment left so far
    Collect(units::CollectArguments),
    /// Plan an experiment, and do its units as an array of jobs on a cluster that Slurm manages
    Slurm(slurm::SlurmArguments),
    /// Tell which units of a planned experiment are finished, running, failed or lost
    Status {
        /// Folder that `mantissa plan` wrote
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// Every unit, as JSON
        #[arg(long)]
        json: bool,
    },
    /// Render the report of an experiment again, finished or still running, or of several side by side
    Report {
        /// Folders that `mantissa experiment` wrote; of several, such as of two machines, one report is made
        #[arg(required = true, value_name = "DIR")]
        folders: Vec<PathBuf>,
        /// Folder of a report on several [default: reports/side-by-side]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Write DIR/tensorboard/ too: event files, which TensorBoard reads
        #[arg(long)]
        tensorboard: bool,
    },
    /// Write a spec to start from: the default experiment, with comments
    Init {
        /// The file, which must not exist yet
        #[arg(value_name = "PATH", default_value = "experiment.toml")]
        file: PathBuf,
    },
    /// Print the results of an experiment, finished or still running
    Show {
        /// Folder that `mantissa experiment` wrote
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        #[command(flatten)]
        printed: Printed,
    },
    /// Judge results by the baseline that was accepted for them
    Check {
        /// Folder that `mantissa experiment` wrote
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// File of a baseline, or the folder of baselines
        #[arg(long, value_name = "PATH", default_value = baseline::FOLDER)]
        baseline: PathBuf,
        #[command(flatten)]
        how: check::How,
    },
    /// Judge the results in B by those in A; with --interleave, the times of build B by those of build A
    Compare(interleave::CompareArguments),
    /// Time one block of every variant of a spec, train nothing, and print the times as JSON
    Time(time::TimeArguments),
    /// Accept, list and show baselines
    #[command(subcommand)]
    Baseline(check::BaselineCommand),
    /// Keep metrics commit by commit, and find where they changed
    #[command(subcommand)]
    History(history::HistoryCommand),
    /// List the floating-point formats and their ranges
    Formats,
    /// Print the JSON schema of a file that experiments write
    Schema {
        /// results: results.json; record: record.json of a run
        #[arg(value_enum, default_value_t)]
        file: SchemaFile,
    },
    /// Print the completions of a shell, for its configuration
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Tell what this machine and this build can do
    Doctor {
        /// As JSON, as in the environment of a results file
        #[arg(long)]
        json: bool,
    },
}

/// The files that have a JSON schema.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum SchemaFile {
    #[default]
    Results,
    Record,
}

/// The experiment that is meant, and where it runs.
#[derive(Debug, Args)]
struct Selection {
    /// Where to run: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: Device,
    /// Train on MNIST, or another data set in its four IDX files, from this folder
    #[arg(long, value_name = "DIR", conflicts_with = "cifar10")]
    mnist: Option<PathBuf>,
    /// Train on CIFAR-10 in its binary version, from this folder
    #[arg(long, value_name = "DIR")]
    cifar10: Option<PathBuf>,
    /// Only these variants of the spec, in this order; a policy's name adds it. Lightning's names are understood: bf16 is
    /// bf16-mixed, fp16 and 16-mixed are fp16-mixed
    #[arg(long, value_name = "A,B,…", value_delimiter = ',')]
    variants: Option<Vec<String>>,
    /// Change a value of the spec, such as train.steps=1e4 or train.epochs=3; KEY= removes it; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Worker threads [default: one per logical processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MOST_THREADS))]
    threads: Option<u16>,
}

/// The experiment or the cells of a matrix that are meant, and their folder.
#[derive(Debug, Args)]
struct StudyArguments {
    /// The experiment, a TOML file as in experiments/; left out: synthetic digits, five policies, eight seeds
    spec: Option<PathBuf>,
    /// Folder of results and report [default: reports/NAME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    selection: Selection,
    /// Seeds 0 to N - 1 in place of the spec's; more than --out has are added to those
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// Replace what an experiment left in --out, and do all of it again
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
struct ExperimentArguments {
    #[command(flatten)]
    study: StudyArguments,
    /// Print the results and nothing else
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    printed: Printed,
    /// Write tensorboard/ in --out too: event files, which TensorBoard reads
    #[arg(long)]
    tensorboard: bool,
    /// Leave each run's weights in runs/VARIANT/seed-N/weights.safetensors; a run that is there without them is trained again
    #[arg(long)]
    save_weights: bool,
    /// Do each run in a process of its own: one that crashes or is killed is a failed run, and the others go on
    #[arg(long)]
    isolate: bool,
    /// Train nothing: print the plan, the parameters, the memory of weights, gradients and optimizer, and an estimate of the time
    #[arg(long)]
    dry_run: bool,
}

/// How much of the results is printed.
#[derive(Clone, Copy, Debug, Args)]
struct Printed {
    /// Print the whole comparison and the claims too
    #[arg(long)]
    full: bool,
}

impl Printed {
    fn verbosity(self) -> Verbosity {
        if self.full { Verbosity::Full } else { Verbosity::Summary }
    }
}

/// More worker threads than this are a slip of the pen.
const MOST_THREADS: i64 = 1024;

/// Why a command could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// What was typed, or a file that it names, is wrong.
    #[error("{0}")]
    Input(String),
    /// A run or the machine failed.
    #[error("{0}")]
    Machine(String),
    /// Results got worse, or changed as nobody said they would.
    #[error("{0}")]
    Regression(String),
    /// There is nothing to compare results with.
    #[error("{0}")]
    NotComparable(String),
    /// It was asked to stop.
    #[error("{0}")]
    Interrupted(String),
}

#[expect(clippy::needless_pass_by_value, reason = "errors are passed on by map_err")]
impl Failure {
    fn input(error: impl ToString) -> Self {
        Self::Input(error.to_string())
    }

    fn machine(error: impl ToString) -> Self {
        Self::Machine(error.to_string())
    }

    fn interrupted() -> Self {
        Self::Interrupted("interrupted; the same command goes on from here".to_owned())
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Input(_) => 2,
            Self::Machine(_) => 3,
            Self::Regression(_) => 1,
            Self::NotComparable(_) => 4,
            Self::Interrupted(_) => 5,
        }
    }
}

impl From<ExperimentError> for Failure {
    fn from(error: ExperimentError) -> Self {
        match error {
            ExperimentError::Store(error) => error.into(),
            ExperimentError::Occupied { .. }
            | ExperimentError::Foreign(_)
            | ExperimentError::Unreadable { .. }
            | ExperimentError::Held { .. }
            | ExperimentError::NoPlan { .. }
            | ExperimentError::NoUnit { .. } => Self::input(error),
        }
    }
}

impl From<MachineError> for Failure {
    fn from(error: MachineError) -> Self {
        match error {
            MachineError::Device(error) => Self::machine(error),
            MachineError::Instructions(error) => Self::input(error),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        if error.is_link() { Self::input(error) } else { Self::machine(error) }
    }
}

impl From<ReportError> for Failure {
    fn from(error: ReportError) -> Self {
        match error {
            ReportError::Missing(_)
            | ReportError::Invalid { .. }
            | ReportError::Newer { .. }
            | ReportError::Metrics { .. } => Self::input(error),
            ReportError::Store(error) => error.into(),
            ReportError::Make { .. } => Self::machine(error),
        }
    }
}

/// Runs the command line `arguments`, the program's name first, and returns its exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let command = match Arguments::try_parse_from(&arguments) {
        Ok(arguments) => arguments.command,
        Err(error) => {
            // The same complaint about what can be shown of the arguments.
            let shown = arguments.iter().map(|argument| printable(&argument.to_string_lossy()));
            let error = Arguments::try_parse_from(shown).err().unwrap_or(error);
            // Help and version go to stdout, complaints to stderr; if that is closed, nobody is left to print to.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let outcome = match command {
        Command::Experiment(arguments) => experiment(&arguments),
        Command::Plan(arguments) => units::plan(&arguments),
        Command::Run(arguments) => units::run(&arguments),
        Command::Collect(arguments) => units::collect(&arguments),
        Command::Slurm(arguments) => slurm::slurm(&arguments),
        Command::Status { folder, json } => units::status(&folder, json),
        Command::Init { file } => init(&file),
        Command::Completions { shell } => completions(shell),
        Command::Show { folder, printed } => show(&folder, printed.verbosity()),
        Command::Report { folders, out, tensorboard } => report(&folders, out, tensorboard),
        Command::Check { folder, baseline, how } => check::check(&folder, &baseline, &how),
        Command::Compare(arguments) => interleave::compare(&arguments),
        Command::Time(arguments) => time::time(&arguments),
        Command::Baseline(command) => check::baseline(&command),
        Command::History(command) => history::history(&command),
        Command::Formats => print(&formats::table()),
        Command::Schema { file } => schema(file),
        Command::Doctor { json } => doctor(json),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(&format!("mantissa: {}", one_line(&failure.to_string())));
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Writes the default experiment where no file is.
fn init(file: &Path) -> Result<(), Failure> {
    if store::exists(file)? {
        let problem = format!("{}: is there already; give another path", file.display());
        return Err(Failure::Input(problem));
    }
    store::write(file, spec::DEFAULT.as_bytes()).map_err(Failure::input)?;
    print(&printable(&format!("{}: edit it, then run mantissa experiment {0}", file.display())))
}

fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "mantissa", &mut script);
    write_out(&script)
}

fn schema(file: SchemaFile) -> Result<(), Failure> {
    let schema = match file {
        SchemaFile::Results => record::schema::results(),
        SchemaFile::Record => record::schema::record(),
    };
    print(&serde_json::to_string_pretty(&schema).map_err(Failure::machine)?)
}

/// A device that is open, worker threads, and what is known of both.
struct Place {
    pool: ThreadPool,
    device: candle_core::Device,
    environment: Environment,
}

/// What a spec asks for.
enum Study {
    /// One experiment.
    One(Box<Plan>),
    /// One for each combination of the values of its matrix.
    Cells(Vec<Cell>),
}

impl Study {
    /// Its units by their numbers, on these kinds of machine.
    fn units(&self, kinds: &[String]) -> Vec<Unit> {
        match self {
            Self::One(plan) => experiment::units(plan, kinds),
            Self::Cells(cells) => {
                cells.iter().flat_map(|cell| experiment::units(&cell.plan, kinds)).collect()
            }
        }
    }

    /// The experiment's name.
    fn name(&self) -> &str {
        match self {
            Self::One(plan) => &plan.name,
            Self::Cells(cells) => cells.first().map_or("", |cell| &cell.plan.name),
        }
    }
}

impl Place {
    /// Opens the device and starts the threads.
    fn open(device: Device, threads: Option<u16>) -> Result<Self, Failure> {
        let pool = worker_threads(threads)?;
        let Machine { device, environment } = pool.install(|| Machine::open(device))?;
        Ok(Self { pool, device, environment })
    }
}

impl Selection {
    fn open(&self) -> Result<Place, Failure> {
        Place::open(self.device, self.threads)
    }

    /// The plan that is meant. Where data are counted for it, progress is shown unless `quiet`.
    fn plan(&self, spec: Option<&Path>, seeds: Option<u64>, quiet: bool) -> Result<Plan, Failure> {
        self.read(spec, seeds, quiet, Plan::read_counting)
    }

    fn read<T>(
        &self,
        spec: Option<&Path>,
        seeds: Option<u64>,
        quiet: bool,
        read: impl Fn((&str, &str), &Overrides, CountImages<'_>) -> Result<T, SpecError>,
    ) -> Result<T, Failure> {
        let mut set =
            datasets::overrides((self.mnist.as_deref(), self.cifar10.as_deref()), spec.is_none())?;
        set.extend(self.set.iter().cloned());
        let (file, text) = match spec {
            Some(path) => {
                (path.display().to_string(), store::read_to_string(path).map_err(Failure::input)?)
            }
            None => ("experiments/default.toml".to_owned(), spec::DEFAULT.to_owned()),
        };
        let overrides = Overrides { set, variants: self.variants.clone(), seeds };
        let count = |data: &DataPlan| {
            let data = loaded(quiet, |loading| data::load_with(data, loading));
            Ok(data.map_err(|error| error.to_string())?.samples()[0])
        };
        read((&file, &text), &overrides, &count).map_err(Failure::input)
    }
}

impl StudyArguments {
    /// What is meant. Where data are counted for it, progress is shown unless `quiet`.
    fn study(&self, quiet: bool) -> Result<Study, Failure> {
        let (selection, spec) = (&self.selection, self.spec.as_deref());
        match selection.read(spec, self.seeds, quiet, Plan::read_cells)? {
            Some(cells) => Ok(Study::Cells(cells)),
            None => selection.plan(spec, self.seeds, quiet).map(|plan| Study::One(Box::new(plan))),
        }
    }

    /// The folder of a study.
    fn folder(&self, study: &Study) -> PathBuf {
        self.out.clone().unwrap_or_else(|| Path::new("reports").join(study.name()))
    }
}

fn experiment(arguments: &ExperimentArguments) -> Result<(), Failure> {
    let study = arguments.study.study(arguments.quiet)?;
    let out = arguments.study.folder(&study);
    match study {
        Study::One(plan) => {
            let stop = signals::stop_flag()?;
            one_experiment(*plan, &out, arguments, &stop)
        }
        Study::Cells(cells) => cells::experiment(cells, &out, arguments),
    }
}

/// Does one experiment in a folder.
fn one_experiment(
    plan: Plan,
    out: &Path,
    arguments: &ExperimentArguments,
    stop: &AtomicBool,
) -> Result<(), Failure> {
    let ExperimentArguments { study, quiet, dry_run, .. } = arguments;
    if *dry_run {
        let Place { pool, device, .. } = study.selection.open()?;
        let experiment = pool.install(|| experiment_of(plan, *quiet))?;
        let found = pool.install(|| experiment.dry_run(&device)).map_err(Failure::machine)?;
        return print(&dry_run::page(experiment.plan(), &found)?);
    }
    if arguments.isolate {
        let isolate::Outcome { results, crash } = isolate::experiment(plan, out, arguments, stop)?;
        let told = tell(&results, out, arguments);
        crash.map_or(Ok(()), |crash| Err(Failure::Machine(crash)))?;
        told?;
        return failed_runs(&results);
    }
    let results = in_this_process(plan, out, arguments, stop)?;
    tell(&results, out, arguments)?;
    failed_runs(&results)
}

fn in_this_process(
    plan: Plan,
    out: &Path,
    arguments: &ExperimentArguments,
    stop: &AtomicBool,
) -> Result<Results, Failure> {
    let ExperimentArguments { study, quiet, save_weights, .. } = arguments;
    let Place { pool, device, environment } = study.selection.open()?;
    let experiment = pool.install(|| experiment_of(plan, *quiet))?;
    let folder = Folder::lock(out, &holder(&environment)).map_err(Failure::input)?;
    let options = Options {
        folder: &folder,
        force: study.force,
        save_weights: *save_weights,
        stop: Some(stop),
        device: &device,
        environment: &environment,
    };
    let mut progress = Progress::new(*quiet, experiment.plan());
    // From inside the pool, where an operation hands out its work without waking a sleeping thread for it.
    let outcome = pool.install(|| experiment.run(options, &mut |event| progress.hear(&event)));
    progress.finish();
    Ok(outcome?)
}

/// Writes the report of an experiment, finished or interrupted, and prints its results.
fn tell(results: &Results, out: &Path, arguments: &ExperimentArguments) -> Result<(), Failure> {
    let ExperimentArguments { quiet, printed, tensorboard, .. } = *arguments;
    // Every run is in: without a report, there is still the table.
    let reported = complete_report(results, out, tensorboard).map_err(Failure::machine);
    print(&report::terminal(results, printed.verbosity(), width()))?;
    reported?;
    if !quiet {
        print(&printable(&format!("report: {}", out.join(files::PAGE).display())))?;
        if tensorboard {
            let folder = out.join(files::TENSORBOARD);
            print(&printable(&format!("tensorboard: {}", folder.display())))?;
        }
    }
    if results.complete { Ok(()) } else { Err(Failure::interrupted()) }
}

/// The experiment of a plan, with its data read and its model made. Progress of that is shown unless `quiet`.
fn experiment_of(plan: Plan, quiet: bool) -> Result<Experiment, Failure> {
    let task = loaded(quiet, |loading| Task::of_plan_with(&plan, loading));
    Experiment::new(plan, task.map_err(Failure::input)?).map_err(Failure::input)
}

/// What `load` loads, with the tokens of texts kept in the user's folder, and progress unless `quiet`.
fn loaded<T>(quiet: bool, load: impl FnOnce(Loading<'_>) -> T) -> T {
    let folder = token_folder(|name| std::env::var_os(name));
    let mut shown = Tokenizing::new(quiet);
    let mut listen = |done, of| shown.hear(done, of);
    let downloading = Downloading::new(quiet);
    let download = |transfer: Transfer<'_>| downloading.hear(&transfer);
    let (cache, progress) = (folder.as_deref(), Some::<&mut dyn FnMut(usize, usize)>(&mut listen));
    let data = load(Loading { cache, progress, download: Some(&download) });
    downloading.finish();
    shown.finish();
    data
}

/// Where tokens of texts are kept, by the environment: in `MANTISSA_CACHE`, else in the user's cache folder. None where that is not
/// known, and where `MANTISSA_CACHE` is empty.
fn token_folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    // As the XDG Base Directory Specification asks, a relative path is as none.
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = match variable("MANTISSA_CACHE") {
        Some(folder) if folder.is_empty() => return None,
        Some(folder) => PathBuf::from(folder),
        None => absolute("XDG_CACHE_HOME")
            .or_else(|| Some(absolute("HOME")?.join(".cache")))?
            .join("mantissa"),
    };
    Some(folder.join("tokens"))
}

/// What another process prints that wants to write to the same folder.
fn holder(environment: &Environment) -> String {
    let host = device::host_name();
    format!("process {} on {host}, since {}", std::process::id(), environment.started)
}

/// Writes of the report what is not there, or not of these results.
fn complete_report(results: &Results, out: &Path, tensorboard: bool) -> Result<(), ReportError> {
    if !report::is_current(out)? {
        report::render(out)?;
    }
    if tensorboard && !report::has_events(out, results)? {
        report::tensorboard(out)?;
    }
    Ok(())
}

/// The pool of worker threads.
fn worker_threads(asked: Option<u16>) -> Result<ThreadPool, Failure> {
    let available = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = asked.map_or_else(available, usize::from);
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|error| Failure::Machine(format!("cannot start {threads} threads: {error}")))
}

/// A run that diverged is a result; one that failed is not, a control's neither.
fn failed_runs(results: &Results) -> Result<(), Failure> {
    let controls = || results.controls.iter().map(|control| &control.result);
    let runs = || results.variants.iter().chain(controls()).flat_map(|variant| &variant.runs);
    let mut failed = runs().filter(|run| run.status == Status::Failed);
    let Some(first) = failed.next() else {
        return Ok(());
    };
    let reason = first.failure.as_ref().map_or("", |failure| &failure.reason);
    Err(Failure::Machine(format!(
        "{} of {} runs failed; the first: {reason}",
        failed.count() + 1,
        runs().count()
    )))
}

fn show(folder: &Path, verbosity: Verbosity) -> Result<(), Failure> {
    let loaded = report::load(folder)?;
    print(&report::terminal(&loaded.results, verbosity, width()))
}

fn report(folders: &[PathBuf], out: Option<PathBuf>, tensorboard: bool) -> Result<(), Failure> {
    let written = match (folders, out) {
        ([only], None) => {
            let written = report::render(only)?;
            show(only, Verbosity::Summary)?;
            written
        }
        (several, out) => side_by_side(several, out)?,
    };
    if let Some(page) = written.iter().find(|file| file.ends_with(files::PAGE)) {
        print(&printable(&format!("report: {}", page.display())))?;
    }
    if tensorboard {
        for folder in folders {
            report::tensorboard(folder)?;
            let events = folder.join(files::TENSORBOARD);
            print(&printable(&format!("tensorboard: {}", events.display())))?;
        }
    }
    Ok(())
}

/// Columns of the terminal; a hundred where there is none.
fn width() -> usize {
    terminal_size::terminal_size().map_or(100, |(width, _)| usize::from(width.0))
}

/// One report on several experiments, in a folder that holds none of them.
fn side_by_side(folders: &[PathBuf], out: Option<PathBuf>) -> Result<Vec<PathBuf>, Failure> {
    let out = out.unwrap_or_else(|| Path::new("reports").join("side-by-side"));
    if store::exists(&out.join("results.json"))? {
        let out = out.display();
        let problem = format!("{out}: holds the results of an experiment; choose another --out");
        return Err(Failure::Input(problem));
    }
    if let Some(file) = files::foreign(&out)? {
        return Err(ExperimentError::Foreign(file).into());
    }
    Ok(report::render_together(folders, &out)?)
}

fn doctor(json: bool) -> Result<(), Failure> {
    let choice = Device::Auto.resolve().map_err(Failure::machine)?;
    let pool = worker_threads(None)?;
    let products = ops::product_paths().map_err(Failure::input)?;
    let environment = device::environment(&choice, pool.current_num_threads(), products);
    if json {
        let json = serde_json::to_string_pretty(&environment).map_err(Failure::machine)?;
        return print(&json);
    }
    let opened = choice.open().map_err(Failure::machine)?;
    let peaks = pool.install(|| doctor::peaks(&opened)).map_err(Failure::machine)?;
    print(&doctor::page(&environment, &device::gpus(), &peaks))
}

/// Prints a result, whose lines are its own. A reader that has gone, as `head` does, is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let lines: Vec<String> = text.trim_end().split('\n').map(printable).collect();
    write_out((lines.join("\n") + "\n").as_bytes())
}

fn write_out(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::Machine(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Prints a line of progress or a complaint.
fn say(line: &str) {
    // Without a stderr there is nobody to tell.
    let _ = writeln!(std::io::stderr().lock(), "{}", printable(line));
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_kept_in_the_users_cache_folder() {
        for (variables, folder) in [
            (&[][..], None),
            (&[("HOME", "/home/me")], Some("/home/me/.cache/mantissa/tokens")),
            (&[("HOME", "/home/me"), ("XDG_CACHE_HOME", "/c")], Some("/c/mantissa/tokens")),
            (
                &[("HOME", "/home/me"), ("XDG_CACHE_HOME", "c")],
                Some("/home/me/.cache/mantissa/tokens"),
            ),
            (&[("HOME", "")], None),
            (&[("HOME", "/home/me"), ("MANTISSA_CACHE", "here")], Some("here/tokens")),
            (&[("HOME", "/home/me"), ("MANTISSA_CACHE", "")], None),
        ] {
            let variable = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| OsString::from(value))
            };
            assert_eq!(token_folder(variable), folder.map(PathBuf::from), "{variables:?}");
        }
    }
}
