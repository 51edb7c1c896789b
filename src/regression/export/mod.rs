//! A judgement in the forms that people and programs read. Each is a function from the judgement to a text; what is said is in
//! the judgement. The last line of each says how many metrics came to what; where a form has no free line, its last element
//! does.

mod bencher;
mod benchmark_action;
mod github;
mod json;
mod junit;
mod markdown;
mod openmetrics;
#[cfg(test)]
mod tests;
mod text;

use std::fmt;
use std::str::FromStr;

use super::judge::{Finding, Judgement, Verdict};
use super::metric::Key;
use crate::formatting::plural;

/// A form of a judgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Lines for a terminal or a log.
    #[default]
    Text,
    /// Everything, for programs.
    Json,
    /// For a comment or the summary of a step.
    Markdown,
    /// JUnit's XML: a test case a metric.
    Junit,
    /// Annotations of GitHub's workflows.
    Github,
    /// Bencher Metric Format.
    Bencher,
    /// `customSmallerIsBetter` of github-action-benchmark.
    BenchmarkAction,
    /// OpenMetrics text, such as for Prometheus.
    OpenMetrics,
}

/// No such form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown format {0:?}; known: {known}", known = Format::NAMES.map(|(_, name)| name).join(", "))]
pub struct UnknownFormat(String);

impl Format {
    /// All of them, with their names.
    pub const NAMES: [(Self, &str); 8] = [
        (Self::Text, "text"),
        (Self::Json, "json"),
        (Self::Markdown, "markdown"),
        (Self::Junit, "junit"),
        (Self::Github, "github"),
        (Self::Bencher, "bencher"),
        (Self::BenchmarkAction, "benchmark-action"),
        (Self::OpenMetrics, "openmetrics"),
    ];

    /// The judgement in this form.
    ///
    /// # Errors
    /// When the form cannot be made, which only JUnit's library could say.
    pub fn render(self, judgement: &Judgement) -> Result<String, String> {
        Ok(match self {
            Self::Text => text::render(judgement),
            Self::Json => json::render(judgement),
            Self::Markdown => markdown::render(judgement),
            Self::Junit => junit::render(judgement)?,
            Self::Github => github::render(judgement),
            Self::Bencher => bencher::render(judgement),
            Self::BenchmarkAction => benchmark_action::render(judgement),
            Self::OpenMetrics => openmetrics::render(judgement),
        })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.into_iter().find(|(format, _)| format == self);
        f.pad(name.map_or("", |(_, name)| name))
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        let found = Self::NAMES.into_iter().find(|(_, name)| *name == text);
        found.map(|(format, _)| format).ok_or_else(|| UnknownFormat(text.to_owned()))
    }
}

/// Keys of a group that are listed by name.
const MOST_NAMED: usize = 3;

/// `3 metrics (a/x, a/y, a/z)`, with `…` for those that are left out.
fn group(keys: &[&Key]) -> String {
    let mut names: Vec<String> = keys.iter().take(MOST_NAMED).map(ToString::to_string).collect();
    if keys.len() > MOST_NAMED {
        names.push("…".to_owned());
    }
    format!("{} ({})", plural(keys.len(), "metric"), names.join(", "))
}

/// What a person must look at: what failed, what is inconclusive and what was allowed, in that order.
fn to_look_at(judgement: &Judgement) -> impl Iterator<Item = &Finding> {
    let names = [Verdict::Failed, Verdict::Inconclusive, Verdict::Allowed(String::new())];
    names.into_iter().flat_map(|verdict| judgement.with(verdict.name()))
}

/// The program's version, with its commit in brackets.
fn program(judgement: &Judgement) -> String {
    let commit = judgement.program.commit.as_deref().unwrap_or("no commit");
    format!("{} ({commit})", judgement.program.version)
}
