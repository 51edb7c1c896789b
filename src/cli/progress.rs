//! Progress on stderr: a bar on a terminal, plain lines elsewhere, nothing when quiet.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::say;
use crate::data::Dataset;
use crate::experiment::Event;
use crate::record::{RunSummary, Status};
use crate::words::{self, printable};

/// Listens to an experiment and shows how far it is.
pub(super) struct Progress {
    quiet: bool,
    bar: Option<ProgressBar>,
    narrator: Narrator,
}

impl Progress {
    pub(super) fn new(quiet: bool) -> Self {
        let wanted = !quiet && std::io::stderr().is_terminal();
        // A bar that a terminal cannot show would swallow the lines too.
        let bar = wanted.then(|| ProgressBar::new(0)).filter(|bar| !bar.is_hidden());
        let bar = bar.map(|bar| {
            let bar = bar.with_style(style());
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { quiet, bar, narrator: Narrator::default() }
    }

    pub(super) fn hear(&mut self, event: &Event<'_>) {
        let line = self.narrator.line(event);
        if let Some(bar) = &self.bar {
            advance(bar, event);
        }
        match (line, &self.bar) {
            (Some(line), Some(bar)) => bar.println(printable(&line)),
            (Some(line), None) if !self.quiet => say(&line),
            _ => {}
        }
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} [{elapsed}, {eta} left]")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn advance(bar: &ProgressBar, event: &Event<'_>) {
    match event {
        Event::RunStarted { variant, seed } => {
            bar.reset();
            bar.set_message(printable(&format!("{variant}, seed {seed}")));
        }
        Event::Step { done, of } => {
            bar.set_length(*of);
            bar.set_position(*done);
        }
        Event::TimingBlock { done, of } => {
            if *done <= 1 {
                bar.reset();
                bar.set_message("timing");
            }
            bar.set_length(*of as u64);
            bar.set_position(*done as u64);
        }
        Event::Loaded(_)
        | Event::Note(_)
        | Event::Started { .. }
        | Event::Finished
        | Event::NotKept { .. }
        | Event::TimingKept { .. }
        | Event::TimedAgain { .. }
        | Event::RunFinished { .. }
        | Event::Saved(_) => {}
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
                let blocks = words::plural(*blocks, "timed block");
                Some(format!("{blocks} of every variant were finished before and are kept"))
            }
            Event::TimedAgain { reason } => Some(format!("all variants are timed again: {reason}")),
            Event::RunStarted { seed, .. } => {
                self.started += 1;
                self.seed = *seed;
                None
            }
            Event::RunFinished { variant, summary } => Some(format!(
                "[{}/{}] {variant}, seed {}: {}",
                self.started,
                self.runs,
                self.seed,
                outcome(summary)
            )),
            Event::TimingBlock { of, .. } => {
                let first = !std::mem::replace(&mut self.timing, true);
                first.then(|| format!("timing: {of} blocks"))
            }
            Event::Step { .. } | Event::Saved(_) => None,
        }
    }
}

/// What the data is.
fn contents(data: &Dataset) -> String {
    let [train, test] =
        [&data.train, &data.test].map(|split| words::count(split.labels.len() as u64));
    let shape = data.shape.map(|size| size.to_string()).join(" × ");
    let classes = words::count(data.classes as u64);
    let noun = if data.classes == 1 { "class" } else { "classes" };
    format!("data: {train} training and {test} test images of {shape}, {classes} {noun}")
}

/// How a run ended, in one line.
fn outcome(summary: &RunSummary) -> String {
    let mut parts = Vec::new();
    if let Some(accuracy) = summary.test_accuracy {
        parts.push(format!("accuracy {:.2} %", 100.0 * accuracy));
    }
    if let Some(loss) = summary.final_loss {
        parts.push(format!("loss {}", words::four_digits(loss)));
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
    use crate::data::Split;
    use crate::record::Failure;

    fn summary(status: Status) -> RunSummary {
        RunSummary {
            seed: 7,
            status,
            test_accuracy: Some(0.964),
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

    #[test]
    fn what_is_there_before_the_first_run_is_told() {
        let images = |count: usize| Split { pixels: Vec::new(), labels: vec![0; count] };
        let (train, test) = (images(8000), images(2));
        let data = Dataset { shape: [1, 28, 28], classes: 256, train, test };
        for (event, line) in [
            (
                Event::Loaded(&data),
                "data: 8,000 training and 2 test images of 1 × 28 × 28, 256 classes",
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
