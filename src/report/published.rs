//! Published figures of another machine beside an experiment's own, column by column. No verdict is drawn from them.

use crate::precision::Policy;
use crate::record::TestMetric;
use crate::spec::{Reference, ReferenceColumn, ReferenceRow};
use crate::units::Ratio;

use super::load::Loaded;
use super::section::{Section, SectionRow};
use super::table::{Line, Row, Table, memory_cell};
use super::{sentences, text};

/// The heading of these tables.
const HEADING: &str = "Published figures";

/// The columns that published figures can have.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Time,
    Memory,
    Accuracy,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Time, Self::Memory, Self::Accuracy];

    fn column(self, reference: &Reference) -> Option<&ReferenceColumn> {
        let columns = &reference.columns;
        match self {
            Self::Time => columns.time.as_ref(),
            Self::Memory => columns.memory.as_ref(),
            Self::Accuracy => columns.accuracy.as_ref(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Time => "training time",
            Self::Memory => "training memory",
            Self::Accuracy => TestMetric::Accuracy.name(),
        }
    }

    /// What stands in its column of this experiment.
    fn here(self) -> &'static str {
        match self {
            Self::Time => "the median time of a training step",
            Self::Memory => "the peak memory of training",
            Self::Accuracy => "the mean over the seeds ± standard deviation",
        }
    }

    fn value(self, row: &ReferenceRow) -> Option<f64> {
        match self {
            Self::Time => row.time,
            Self::Memory => row.memory,
            Self::Accuracy => row.accuracy,
        }
    }

    /// What was measured here.
    fn cell(self, row: &Row<'_>) -> Vec<Line> {
        match self {
            Self::Time => {
                let time = row.train.as_ref().map(|train| train.step_seconds.value.to_string());
                lines(time, row.time_ratio().map(|ratio| Line::value(ratio.value.to_string())))
            }
            Self::Memory => memory_cell(row.memory.map(|m| m.peak_bytes), row.memory_ratio()),
            Self::Accuracy => {
                let spread = row.spread.filter(|_| row.metric == TestMetric::Accuracy);
                let value = spread.map(|spread| row.spread_text(spread));
                let difference = row.difference().map(|found| row.metric.difference(found.value));
                lines(value, difference.map(Line::value))
            }
        }
    }

    /// What was published, and how it compares with the baseline's row.
    fn published(
        self,
        unit: &str,
        row: &ReferenceRow,
        baseline: Option<&ReferenceRow>,
    ) -> Vec<Line> {
        let value = self.value(row);
        let base = baseline.and_then(|baseline| self.value(baseline));
        let compared = value.zip(base).and_then(|(value, base)| match self {
            Self::Time | Self::Memory => {
                let ratio = value / base;
                ratio.is_finite().then(|| Ratio(ratio).to_string())
            }
            Self::Accuracy => Some(TestMetric::Accuracy.difference((value - base) / 100.0)),
        });
        let value = value.map(|value| match self {
            Self::Time | Self::Memory => text::printable(&format!("{value} {unit}")),
            Self::Accuracy => TestMetric::Accuracy.value(value / 100.0),
        });
        lines(value, compared.map(Line::value))
    }
}

/// A value and a line below it; without the value, a dash alone.
fn lines(value: Option<String>, below: Option<Line>) -> Vec<Line> {
    let Some(value) = value else { return vec![Line::value(text::NOT_MEASURED)] };
    std::iter::once(Line::value(value)).chain(below).collect()
}

/// The tables of the experiments that have published figures.
pub(super) fn published(experiments: &[Loaded]) -> Vec<Section> {
    let tables = experiments.iter().filter_map(|experiment| {
        let reference = experiment.results.reference.as_ref()?;
        Some(Section {
            experiment: sentences::label(experiments, experiment),
            ..beside(reference, &Table::of_one(&experiment.results, &[], None))
        })
    });
    tables.collect()
}

/// Published figures beside the rows of a table: each beside every variant of its policy.
fn beside(reference: &Reference, table: &Table<'_>) -> Section {
    let policy = |row: &Row<'_>| row.policy.parse::<Policy>().ok();
    let base = table.baseline().and_then(policy);
    let baseline = reference.rows.iter().find(|row| base.is_some() && row.policy == base);
    let kinds: Vec<(Kind, &ReferenceColumn)> =
        Kind::ALL.into_iter().filter_map(|kind| Some((kind, kind.column(reference)?))).collect();
    let cells = |published: &ReferenceRow, here: Option<&Row<'_>>| {
        let is_baseline = here.is_some_and(|row| row.is_baseline);
        let name = lines(here.map(Row::label), is_baseline.then(|| Line::detail("baseline")));
        let note = published.note.as_ref().map(|note| Line::detail(text::printable(note)));
        let mut cells = vec![name, lines(Some(text::printable(&published.label)), note)];
        let compared_with = baseline.filter(|baseline| baseline.label != published.label);
        for (kind, column) in &kinds {
            cells.push(here.map_or_else(|| lines(None, None), |row| kind.cell(row)));
            cells.push(kind.published(&column.unit, published, compared_with));
        }
        SectionRow { is_baseline, cells }
    };
    let rows = reference.rows.iter().flat_map(|published| {
        let is_same =
            |row: &&Row<'_>| published.policy.is_some() && policy(row) == published.policy;
        let here: Vec<&Row<'_>> = table.rows.iter().filter(is_same).collect();
        if here.is_empty() {
            return vec![cells(published, None)];
        }
        here.into_iter().map(|row| cells(published, Some(row))).collect()
    });
    let pairs = kinds.iter().flat_map(|(kind, _)| {
        ["here", "another machine's"].map(|whose| format!("{}, {whose}", kind.name()))
    });
    let titles = ["variant", "published as"].map(str::to_owned).into_iter().chain(pairs);
    let base = table.baseline().map_or_else(|| "the baseline".to_owned(), Row::label);
    Section {
        heading: HEADING,
        experiment: None,
        about: about(reference, &kinds, &base),
        titles: titles.collect(),
        rows: rows.collect(),
    }
}

/// Whose figures these are and how to read them.
fn about(reference: &Reference, kinds: &[(Kind, &ReferenceColumn)], baseline: &str) -> Vec<String> {
    let Reference { title, source, machine, settings, notes, .. } = reference;
    let mut said = vec![
        format!("Another machine's: {machine}. None of its figures was measured here"),
        format!("Source: {source}"),
        format!("There: {title}. {settings}"),
    ];
    said.extend(notes.iter().cloned());
    for (kind, ReferenceColumn { measured, .. }) in kinds {
        said.push(format!("{}: there {measured}; here {}", capitalized(kind.name()), kind.here()));
    }
    said.push(format!(
        "Second line: the ratio to {baseline} of the same machine, of an accuracy the difference. Values of two machines cannot be \
         compared, and no verdict is drawn from published figures"
    ));
    let sentence = |text: String| text::printable(&format!("{}.", text.trim_end_matches('.')));
    said.into_iter().map(sentence).collect()
}

fn capitalized(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
