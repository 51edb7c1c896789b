//! Progress on stderr: a bar on a terminal, plain lines elsewhere, nothing when quiet.

use std::cell::RefCell;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::say;
use crate::data::{Dataset, Inputs, Targets};
use crate::experiment::Event;
use crate::formatting::{self, printable};
use crate::hub::Transfer;
use crate::record::{RunSummary, Status};
use crate::spec::Plan;

/// Listens to an experiment and shows how far it is.
pub(super) struct Progress {
    quiet: bool,
    bar: Option<ProgressBar>,
    narrator: Narrator,
    forecast: Forecast,
}

impl Progress {
    pub(super) fn new(quiet: bool, plan: &Plan) -> Self {
        let bar = bar(quiet);
        Self { quiet, bar, narrator: Narrator::default(), forecast: Forecast::of(plan) }
    }

    pub(super) fn hear(&mut self, event: &Event<'_>) {
        let line = self.narrator.line(event);
        self.forecast.hear(event);
        if let Some(bar) = &self.bar {
            advance(bar, event, &self.forecast);
        }
        match (line, &self.bar) {
            (Some(line), Some(bar)) => bar.println(printable(&line)),
            (Some(line), None) if !self.quiet => {
                let ended = matches!(event, Event::RunFinished { .. });
                let left = self.forecast.left().filter(|_| ended);
                say(&(line + &left.map(|left| format!(" ({left} left)")).unwrap_or_default()));
            }
            _ => {}
        }
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A bar on a terminal; none elsewhere, and when quiet.
fn bar(quiet: bool) -> Option<ProgressBar> {
    let wanted = !quiet && std::io::stderr().is_terminal();
    // A bar that a terminal cannot show would swallow the lines too.
    let bar = wanted.then(|| ProgressBar::new(0)).filter(|bar| !bar.is_hidden());
    bar.map(|bar| {
        let bar = bar.with_style(style());
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    })
}

/// Shows how many texts have become tokens, on a terminal, from the first time that it hears of some.
pub(super) struct Tokenizing {
    quiet: bool,
    bar: Option<ProgressBar>,
}

impl Tokenizing {
    pub(super) fn new(quiet: bool) -> Self {
        Self { quiet, bar: None }
    }

    pub(super) fn hear(&mut self, done: usize, of: usize) {
        if self.bar.is_none() {
            self.bar = bar(self.quiet);
        }
        if let Some(bar) = &self.bar {
            bar.set_prefix(format!("tokenizing {} texts", formatting::count(of as u64)));
            bar.set_length(of as u64);
            bar.set_position(done as u64);
        }
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Shows how much of a file is downloaded, on a terminal, one file after the other.
pub(super) struct Downloading {
    quiet: bool,
    bar: RefCell<Option<ProgressBar>>,
}

impl Downloading {
    pub(super) fn new(quiet: bool) -> Self {
        Self { quiet, bar: RefCell::new(None) }
    }

    pub(super) fn hear(&self, transfer: &Transfer<'_>) {
        let Transfer { file, done, of } = *transfer;
        let mut shown = self.bar.borrow_mut();
        if shown.is_none() {
            *shown = bar(self.quiet).map(|bar| bar.with_style(style_of(BYTES)));
        }
        if let Some(bar) = shown.as_ref() {
            bar.set_prefix(printable(&format!("downloading {file}")));
            bar.set_length(of);
            bar.set_position(done);
        }
        drop(shown);
        if done == of {
            self.finish();
        }
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// What a bar of steps or texts shows, and one of bytes.
const COUNTED: &str = "{prefix} {wide_bar} {percent}% [{elapsed}{msg}]";
const BYTES: &str = "{prefix} {wide_bar} {bytes} of {total_bytes} [{elapsed}]";

fn style() -> ProgressStyle {
    style_of(COUNTED)
}

fn style_of(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// The bar is about the whole experiment; what it says beside is what runs now.
fn advance(bar: &ProgressBar, event: &Event<'_>, forecast: &Forecast) {
    match event {
        Event::RunStarted { variant, seed } => {
            bar.set_prefix(printable(&format!("{variant}, seed {seed}")));
        }
        Event::TimingBlock { .. } => bar.set_prefix("timing"),
        _ => {}
    }
    bar.set_length(forecast.all);
    bar.set_position(forecast.done());
    bar.set_message(forecast.left().map(|left| format!(", {left} left")).unwrap_or_default());
}

/// How much of the experiment is done, in training steps, and how long the rest will take at the rate so far. A timed step and
/// a batch of inference count as a step each.
struct Forecast {
    steps: u64,
    block: u64,
    /// Of the blocks that are still to be timed.
    timing: u64,
    all: u64,
    /// Steps of runs and timing blocks that are over.
    over: u64,
    /// Steps of the current run.
    current: u64,
    started: Option<Instant>,
}

impl Forecast {
    fn of(plan: &Plan) -> Self {
        // A block trains twice as many steps as its plan says, once by phase, and infers as often.
        let block = 3 * (plan.measure.timing_steps * plan.variants.len()) as u64;
        let timing = block * plan.measure.timing_blocks as u64;
        let steps = plan.train.steps;
        Self { steps, block, timing, all: 0, over: 0, current: 0, started: None }
    }

    fn hear(&mut self, event: &Event<'_>) {
        match event {
            Event::Started { runs, kept } => {
                self.all = runs.saturating_sub(*kept) as u64 * self.steps + self.timing;
                self.started = Some(Instant::now());
            }
            Event::Step { done, .. } => self.current = *done,
            Event::RunFinished { .. } => {
                self.over += self.steps;
                self.current = 0;
            }
            Event::TimingKept { blocks } => {
                let kept = *blocks as u64 * self.block;
                self.timing = self.timing.saturating_sub(kept);
                self.all = self.all.saturating_sub(kept);
            }
            Event::TimingBlock { done, .. } => {
                let runs = self.all.saturating_sub(self.timing);
                self.over = runs + *done as u64 * self.block;
            }
            _ => {}
        }
    }

    fn done(&self) -> u64 {
        (self.over + self.current).min(self.all)
    }

    /// `about 40 s`; none before anything is done.
    fn left(&self) -> Option<String> {
        self.left_after(self.started?.elapsed())
    }

    fn left_after(&self, elapsed: Duration) -> Option<String> {
        let (done, all) = (self.done(), self.all);
        (done > 0).then(|| {
            let seconds = elapsed.as_secs_f64() * (all - done) as f64 / done as f64;
            about(seconds)
        })
    }
}

/// A time that is estimated: `about 40 s`.
pub(super) fn about(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("about {s:.0} s"),
        s if s < 90.0 * 60.0 => format!("about {:.0} min", s / 60.0),
        s => format!("about {:.1} h", s / 3600.0),
    }
}

/// Turns events into the lines that are worth keeping.
#[derive(Default)]
struct Narrator {
    runs: usize,
    started: usize,
    seed: u64,
    timing: bool,
}

impl Narrator {
    fn line(&mut self, event: &Event<'_>) -> Option<String> {
        match event {
            Event::Loaded(data) => Some(contents(data)),
            Event::Note(note) => Some(format!("note: {note}")),
            Event::Started { runs, kept } => {
                (self.runs, self.started) = (*runs, *kept);
                (*kept > 0)
                    .then(|| format!("{kept} of {runs} runs were finished before and are kept"))
            }
            Event::Finished => Some(
                "every run was finished before, and nothing is trained; --force trains again"
                    .to_owned(),
            ),
            Event::NotKept { variant, seed, reason } => {
                Some(format!("{variant}, seed {seed}, is done again: {reason}"))
            }
            Event::TimingKept { blocks } => {
                let blocks = formatting::plural(*blocks, "timed block");
                Some(format!("{blocks} of every variant were finished before and are kept"))
            }
            Event::TimedAgain { reason } => Some(format!("all variants are timed again: {reason}")),
            Event::RunStarted { seed, .. } => {
                self.started += 1;
                self.seed = *seed;
                None
            }
            Event::RunFinished { variant, summary } => {
                // One run alone is not counted.
                let place = (self.runs > 0).then(|| format!("[{}/{}] ", self.started, self.runs));
                let (place, outcome) = (place.unwrap_or_default(), outcome(summary));
                Some(format!("{place}{variant}, seed {}: {outcome}", self.seed))
            }
            Event::Resumed { variant, seed, steps } => {
                let steps = formatting::plural(*steps as usize, "step");
                Some(format!("{variant}, seed {seed}, goes on from its checkpoint after {steps}"))
            }
            Event::CheckpointNotUsed { variant, seed, reason } => {
                Some(format!("{variant}, seed {seed}, begins anew: {reason}"))
            }
            Event::TimesNotKept { reason } => Some(format!("times are left out: {reason}")),
            Event::TimingBlock { of, .. } => {
                let first = !std::mem::replace(&mut self.timing, true);
                first.then(|| format!("timing: {}", formatting::plural(*of, "block")))
            }
            Event::Step { .. } | Event::Saved(_) => None,
        }
    }
}

/// What the data is.
fn contents(data: &Dataset) -> String {
    let [train, test] = data.samples().map(|samples| formatting::count(samples as u64));
    if let ([_, _, length], Targets::NextTokens(_)) = (data.shape(), &data.train().targets) {
        let tokens = formatting::count(data.outputs() as u64);
        return format!(
            "data: {train} training and {test} test sequences of {length} tokens, of {tokens}"
        );
    }
    let shape = match (data.vocabulary(), data.shape()) {
        (Some(tokens), [_, _, length]) => {
            format!("at most {length} tokens, of {}", formatting::count(tokens as u64))
        }
        (None, shape) => shape.map(|size| size.to_string()).join(" × "),
    };
    let outputs = formatting::count(data.outputs() as u64);
    let outputs = match (data.is_classification(), data.outputs()) {
        (true, 1) => "1 class".to_owned(),
        (true, _) => format!("{outputs} classes"),
        (false, 1) => "1 target value".to_owned(),
        (false, _) => format!("{outputs} target values"),
    };
    let noun = match data.train().inputs {
        Inputs::Pixels(_) => "images",
        Inputs::Values(_) => "samples",
        Inputs::Tokens(_) => "texts",
    };
    format!("data: {train} training and {test} test {noun} of {shape}, {outputs}")
}

/// How a run ended, in one line.
fn outcome(summary: &RunSummary) -> String {
    let mut parts = Vec::new();
    if let Some(accuracy) = summary.test_accuracy {
        parts.push(format!("accuracy {:.2} %", 100.0 * accuracy));
    }
    if let Some(error) = summary.test_squared_error {
        parts.push(format!("error {}", formatting::four_digits(error)));
    }
    if let Some(perplexity) = summary.test_perplexity {
        parts.push(format!("perplexity {}", formatting::four_digits(perplexity)));
    }
    if let Some(loss) = summary.final_loss {
        parts.push(format!("loss {}", formatting::four_digits(loss)));
    }
    match summary.skipped_steps {
        0 => {}
        1 => parts.push("1 step skipped".to_owned()),
        skipped => parts.push(format!("{skipped} steps skipped")),
    }
    let ended = match summary.status {
        Status::Completed => None,
        Status::Diverged => Some("diverged"),
        Status::Failed => Some("failed"),
    };
    if let Some(ended) = ended {
        parts.insert(0, format!("{ended}{}", cause(summary)));
    }
    parts.join(", ")
}

fn cause(summary: &RunSummary) -> String {
    let Some(failure) = &summary.failure else {
        return String::new();
    };
    let layer = failure.layer.as_ref().map(|layer| format!(" in {layer}"));
    format!(
        " at step {}{} ({})",
        failure.step,
        layer.unwrap_or_default(),
        failure.reason.trim_end_matches('.')
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::data::{Split, Targets};
    use crate::record::Failure;
    use crate::spec::{DEFAULT, Overrides};

    fn summary(status: Status) -> RunSummary {
        RunSummary {
            seed: 7,
            status,
            test_accuracy: Some(0.964),
            test_squared_error: None,
            test_perplexity: None,
            final_loss: Some(0.123_46),
            steps: 400,
            skipped_steps: 0,
            weights_digest: Some(String::new()),
            failure: None,
        }
    }

    #[test]
    fn a_run_is_one_line_and_steps_are_none() {
        let completed = summary(Status::Completed);
        let diverged = RunSummary {
            final_loss: None,
            skipped_steps: 12,
            failure: Some(Failure {
                step: 31,
                layer: Some("conv2".into()),
                reason: "the loss is not finite.".into(),
            }),
            ..summary(Status::Diverged)
        };
        let failed = RunSummary {
            test_accuracy: None,
            test_squared_error: None,
            test_perplexity: None,
            final_loss: None,
            skipped_steps: 1,
            ..summary(Status::Failed)
        };
        let growing = RunSummary {
            final_loss: Some(184_275_846_999_772_713_239_990_981_623_808.0),
            ..summary(Status::Completed)
        };
        let start = |seed| Event::RunStarted { variant: "fp32", seed };
        let finish = |summary| Event::RunFinished { variant: "fp32", summary };
        let mut narrator = Narrator::default();
        for (event, line) in [
            (
                Event::Started { runs: 5, kept: 2 },
                Some("2 of 5 runs were finished before and are kept"),
            ),
            (start(7), None),
            (Event::Step { done: 1, of: 400 }, None),
            (finish(&completed), Some("[3/5] fp32, seed 7: accuracy 96.40 %, loss 0.1235")),
            (Event::Saved(Path::new("results.json")), None),
            (start(8), None),
            (
                finish(&diverged),
                Some(
                    "[4/5] fp32, seed 8: diverged at step 31 in conv2 (the loss is not finite), accuracy 96.40 %, 12 \
                     steps skipped",
                ),
            ),
            (start(9), None),
            (finish(&failed), Some("[5/5] fp32, seed 9: failed, 1 step skipped")),
            (finish(&growing), Some("[5/5] fp32, seed 9: accuracy 96.40 %, loss 1.843e+32")),
            (Event::TimingBlock { done: 1, of: 60 }, Some("timing: 60 blocks")),
            (Event::TimingBlock { done: 2, of: 60 }, None),
        ] {
            assert_eq!(narrator.line(&event).as_deref(), line, "{event:?}");
        }
    }

    /// Two runs of 100 steps and 4 blocks of 3 × 5 × 2 steps are 320.
    #[test]
    fn the_time_left_is_that_of_the_whole_experiment() {
        let mut plan = Plan::read("default", DEFAULT, &Overrides::default()).unwrap();
        plan.train.steps = 100;
        plan.variants.truncate(2);
        (plan.measure.timing_steps, plan.measure.timing_blocks) = (5, 4);
        let mut forecast = Forecast::of(&plan);
        let mut after = |events: &[Event<'_>], seconds, done, left: Option<&str>| {
            for event in events {
                forecast.hear(event);
            }
            assert_eq!(forecast.done(), done);
            assert_eq!(forecast.left_after(Duration::from_secs(seconds)).as_deref(), left);
        };
        let summary = summary(Status::Diverged);
        after(&[], 0, 0, None);
        after(&[Event::Started { runs: 3, kept: 1 }], 1, 0, None);
        after(&[Event::Step { done: 50, of: 100 }], 10, 50, Some("about 54 s"));
        // It stopped early.
        after(
            &[Event::RunFinished { variant: "fp32", summary: &summary }],
            50,
            100,
            Some("about 2 min"),
        );
        after(&[Event::TimingBlock { done: 1, of: 4 }], 23_000, 230, Some("about 2.5 h"));
        after(&[Event::TimingBlock { done: 4, of: 4 }], 90, 320, Some("about 0 s"));
    }

    #[test]
    fn what_is_there_before_the_first_run_is_told() {
        let images = |count: usize| Split {
            inputs: Inputs::Pixels(vec![0; 6 * count]),
            targets: Targets::Labels(vec![0; count]),
        };
        let data = Dataset::new([1, 2, 3], 256, images(8000), images(2)).unwrap();
        let table = |count: usize| Split {
            inputs: Inputs::Values(vec![0.0; 8 * count]),
            targets: Targets::Values(vec![0.0; count]),
        };
        let regression = Dataset::new([8, 1, 1], 1, table(3), table(1)).unwrap();
        for (event, line) in [
            (
                Event::Loaded(&data),
                "data: 8,000 training and 2 test images of 1 × 2 × 3, 256 classes",
            ),
            (
                Event::Loaded(&regression),
                "data: 3 training and 1 test samples of 8 × 1 × 1, 1 target value",
            ),
            (Event::Note("Labels 1 to 255 do not occur."), "note: Labels 1 to 255 do not occur."),
            (
                Event::NotKept { variant: "fp32", seed: 7, reason: "its record is missing" },
                "fp32, seed 7, is done again: its record is missing",
            ),
            (
                Event::TimingKept { blocks: 12 },
                "12 timed blocks of every variant were finished before and are kept",
            ),
            (
                Event::TimedAgain { reason: "its record is missing" },
                "all variants are timed again: its record is missing",
            ),
            (
                Event::Finished,
                "every run was finished before, and nothing is trained; --force trains again",
            ),
        ] {
            assert_eq!(Narrator::default().line(&event).as_deref(), Some(line), "{event:?}");
        }
    }
}
