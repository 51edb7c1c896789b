//! The results on a terminal.

use comfy_table::presets::{NOTHING, UTF8_HORIZONTAL_ONLY};
use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table as Grid};

use crate::record::Results;

use super::load::Loaded;
use super::reading::{Judged, advice, judged};
use super::table::{Row, TITLES, Table};
use super::text;

/// How much of the results is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// What to use, and one line per variant.
    Summary,
    /// That, the whole comparison, and the claims.
    Full,
}

/// Which variant to use, the comparison of the variants and, in full, the claims, as text for a terminal of so many columns, without
/// colours. No word is split; columns that do not fit are left out, and named.
pub fn terminal(results: &Results, detail: Verbosity, width: usize) -> String {
    let table = Table::of_one(results, &[], None);
    let label = String::new();
    let loaded = Loaded { label, results: results.clone(), records: Vec::new(), notes: Vec::new() };
    let experiments = [loaded];
    let mut parts: Vec<String> = advice(&experiments)
        .iter()
        .map(|advice| text::wrap(&format!("{}. {}", advice.heading, advice.reason), width))
        .collect();
    parts.extend(results.environment.notes.iter().map(|note| {
        // A note belongs to the conclusion above it.
        text::wrap(&format!("Note: {}", text::printable(note)), width)
    }));
    parts.push(String::new());
    parts.push(summary(&table, width));
    if detail == Verbosity::Full {
        parts.push(String::new());
        parts.push(comparison(&table));
        let claims = judged(&experiments);
        if !claims.is_empty() {
            parts.push(claims_table(&claims, width));
        }
    }
    parts.join("\n")
}

/// A column of the summary.
pub(super) struct Column {
    pub(super) title: &'static str,
    /// Columns of the greatest rank are left out first.
    pub(super) rank: u8,
    pub(super) cell: fn(&Row<'_>) -> String,
}

/// The columns in the order in which they stand. The first says which variant a line is about.
pub(super) const COLUMNS: [Column; 10] = [
    Column { title: "variant", rank: 0, cell: name },
    Column { title: "accuracy", rank: 1, cell: accuracy },
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
    if row.emulated { format!("{} (emulated)", row.label()) } else { row.label() }
}

/// The difference to the baseline and what it allows to say; of the baseline, the accuracy itself.
fn accuracy(row: &Row<'_>) -> String {
    match (row.difference(), row.accuracy) {
        (Some(difference), _) => {
            let verdict = text::accuracy_verdict(difference.verdict);
            format!("{} pp, {verdict}", text::points(difference.value))
        }
        (None, Some(accuracy)) => text::percent(accuracy.mean),
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
    let rate = train.map(|train| text::decimal(train.samples_per_second.value));
    rate.unwrap_or_else(|| text::NOT_MEASURED.to_owned())
}

fn runs(row: &Row<'_>) -> String {
    let completed = format!("{} of {}", row.runs.completed, row.runs.planned);
    [vec![completed], row.runs.troubles()].concat().join(", ")
}

/// One line per variant, with as many columns as there is room for.
fn summary(table: &Table<'_>, width: usize) -> String {
    let mut least = u8::MAX;
    loop {
        let shown: Vec<&Column> = COLUMNS.iter().filter(|column| column.rank < least).collect();
        let text = grid(&shown, table);
        let widest = text.lines().map(|line| line.chars().count()).max().unwrap_or_default();
        let left_out = COLUMNS.iter().map(|column| column.rank).filter(|rank| *rank < least).max();
        match left_out {
            // The variant and its accuracy stay, whatever the width.
            Some(rank) if widest > width && rank > 1 => least = rank,
            _ => return text + "\n" + &legend(table, &shown, width),
        }
    }
}

fn grid(columns: &[&Column], table: &Table<'_>) -> String {
    let mut grid = Grid::new();
    grid.load_style(NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(columns.iter().map(|column| column.title));
    for row in &table.rows {
        grid.add_row(columns.iter().map(|column| (column.cell)(row)));
    }
    for column in grid.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let lines: Vec<String> = grid.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// What the columns are about, and which were left out.
fn legend(table: &Table<'_>, shown: &[&Column], width: usize) -> String {
    let baseline = table.baseline().map(Row::label).unwrap_or_default();
    let mut said = format!(
        "Against {baseline}: accuracy on the test data in percentage points (pp), speed of training (above 1 is faster), and memory of \
         training. — means not measured."
    );
    let hidden: Vec<String> = COLUMNS
        .iter()
        .filter(|column| !shown.iter().any(|shown| shown.rank == column.rank))
        .map(|column| column.title.to_owned())
        .collect();
    if !hidden.is_empty() {
        said += &format!(" The terminal is too narrow for: {}.", text::list(&hidden));
    }
    text::wrap(&said, width)
}

fn comparison(table: &Table<'_>) -> String {
    let mut grid = Grid::new();
    grid.load_style(UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(TITLES.map(|title| title.replace(' ', "\n")));
    for row in &table.rows {
        grid.add_row(row.cells().map(|cell| {
            let lines: Vec<&str> = cell.iter().map(|line| line.text.as_str()).collect();
            lines.join("\n")
        }));
    }
    for column in grid.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    grid.to_string()
}

fn claims_table(claims: &[Judged], width: usize) -> String {
    let mut grid = Grid::new();
    grid.load_style(UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()))
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(u16::try_from(width).unwrap_or(u16::MAX))
        .set_header(Judged::TITLES);
    for group in claims.chunk_by(Judged::is_of_one_claim) {
        for (index, judged) in group.iter().enumerate() {
            let [id, variant, verdict, measured, threshold, missing] = judged.cells();
            let once = |text: &'static str, said| if index == 0 { said } else { text };
            grid.add_row([once("", id), variant, verdict, measured, once("", threshold), missing]);
        }
    }
    grid.to_string()
}
