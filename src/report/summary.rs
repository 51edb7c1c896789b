//! The summary: one line per variant, the same on the terminal and on the page.

use super::table::{Row, Table};
use super::text;

/// A column of the summary.
#[derive(Clone, Copy)]
pub(super) struct Column {
    pub(super) title: &'static str,
    /// Where there is no room, columns of the greatest rank are left out first.
    pub(super) rank: u8,
    pub(super) cell: fn(&Row<'_>) -> String,
}

/// The columns in the order in which they stand. The first says which variant a line is about.
pub(super) fn columns(table: &Table<'_>) -> [Column; COUNT] {
    let mut columns = COLUMNS;
    columns[1].title = table.metric().short();
    columns
}

/// How many columns there are.
pub(super) const COUNT: usize = 10;

/// The columns, but for the title of the metric.
const COLUMNS: [Column; COUNT] = [
    Column { title: "variant", rank: 0, cell: name },
    Column { title: "", rank: 1, cell: metric },
    Column { title: "speed", rank: 2, cell: speed },
    Column { title: "memory", rank: 3, cell: memory },
    Column { title: "overflow", rank: 5, cell: |row| counted(row.counted().overflow, row) },
    Column { title: "underflow", rank: 6, cell: |row| counted(row.counts.underflow, row) },
    Column { title: "skipped steps", rank: 7, cell: skipped },
    Column { title: "step time", rank: 8, cell: step_time },
    Column { title: "samples/s", rank: 9, cell: samples },
    Column { title: "runs", rank: 4, cell: runs },
];

fn name(row: &Row<'_>) -> String {
    match row.qualifiers().as_slice() {
        [] => row.label(),
        qualifiers => format!("{} ({})", row.label(), qualifiers.join(", ")),
    }
}

/// The difference to the baseline and what it allows to say; of the baseline, the value itself.
fn metric(row: &Row<'_>) -> String {
    match (row.difference(), row.spread) {
        (Some(difference), _) => {
            let verdict = text::verdict(difference.verdict);
            format!("{}, {verdict}", row.metric.difference(difference.value))
        }
        (None, Some(spread)) => row.metric.value(spread.mean),
        (None, None) => text::NOT_MEASURED.to_owned(),
    }
}

/// How many times as many steps the variant makes in the same time.
fn speed(row: &Row<'_>) -> String {
    match row.time_ratio() {
        Some(ratio) => format!("{:.2}×", 1.0 / ratio.value.0),
        None if row.is_baseline && row.train.is_some() => "1.00×".to_owned(),
        None => text::NOT_MEASURED.to_owned(),
    }
}

/// How much less memory training takes; of the baseline, how much it takes.
fn memory(row: &Row<'_>) -> String {
    match (row.memory_ratio(), row.memory) {
        (Some(ratio), _) => {
            let change = (ratio.0 - 1.0) * 100.0;
            let percent = change.abs().round();
            let sign = match change {
                _ if percent == 0.0 => "±",
                more if more > 0.0 => "+",
                _ => "−",
            };
            format!("{sign}{percent:.0}%")
        }
        (None, Some(memory)) => memory.peak_bytes.to_string(),
        (None, None) => text::NOT_MEASURED.to_owned(),
    }
}

fn counted(count: u64, row: &Row<'_>) -> String {
    if row.counts.elements == 0 { text::NOT_MEASURED.to_owned() } else { text::count(count) }
}

fn skipped(row: &Row<'_>) -> String {
    if row.steps == 0 {
        return text::NOT_MEASURED.to_owned();
    }
    format!("{} of {}", text::count(row.numerics.skipped_steps), text::count(row.steps))
}

fn step_time(row: &Row<'_>) -> String {
    let train = row.train.as_ref();
    train
        .map_or_else(|| text::NOT_MEASURED.to_owned(), |train| train.step_seconds.value.to_string())
}

fn samples(row: &Row<'_>) -> String {
    let train = row.train.as_ref();
    let rate = train.map(|train| text::rate(train.samples_per_second.value));
    rate.unwrap_or_else(|| text::NOT_MEASURED.to_owned())
}

/// Whole samples, and three digits of fewer than a hundred.
fn runs(row: &Row<'_>) -> String {
    let completed = format!("{} of {}", row.runs.completed, row.runs.planned);
    [vec![completed], row.runs.troubles()].concat().join(", ")
}

/// What the columns are about.
pub(super) fn legend(table: &Table<'_>) -> String {
    let against = match table.rows.iter().filter(|row| row.is_baseline).collect::<Vec<_>>()[..] {
        [only] => only.label(),
        _ => "the baseline".to_owned(),
    };
    format!(
        "Against {against}: {} on the test data{}, speed of training (above 1 is faster), and memory of training. — means not measured.",
        table.metric().short(),
        table.metric().in_unit()
    )
}
