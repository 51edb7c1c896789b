//! The results on a terminal.

use comfy_table::presets::{NOTHING, UTF8_HORIZONTAL_ONLY};
use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table as Grid};

use crate::record::Results;

use super::load::Loaded;
use super::section::{Section, sections};
use super::sentences::{Advice, Judged, advice, judged};
use super::summary::{self, Column, columns};
use super::table::Table;
use super::text;

/// How much of the results is printed.
///
/// ```
/// use mantissa::report::{self, Verbosity};
///
/// /// All that there is to say, for a terminal of 100 columns.
/// fn text(results: &mantissa::record::Results) -> String {
///     report::terminal(results, Verbosity::Full, 100)
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// What to use, and one line per variant.
    Summary,
    /// That, the whole comparison, and the claims.
    Full,
}

/// Which variant to use, the comparison of the variants and, in full, the claims, as text for a terminal of so many columns, without
/// colours. No word is split; columns that do not fit are left out, and named.
///
/// ```no_run
/// use mantissa::report::{self, Verbosity};
///
/// let loaded = report::load("results/default".as_ref())?;
/// println!("{}", report::terminal(&loaded.results, Verbosity::Summary, 100));
/// # Ok::<(), mantissa::report::ReportError>(())
/// ```
pub fn terminal(results: &Results, detail: Verbosity, width: usize) -> String {
    let table = Table::of_one(results, &[], None);
    let label = String::new();
    let loaded = Loaded { label, results: results.clone(), records: Vec::new(), notes: Vec::new() };
    let experiments = [loaded];
    let mut parts = Vec::new();
    for Advice { heading, reason, more, caveats, .. } in advice(&experiments) {
        parts.push(text::wrap(&format!("{heading}. {reason}"), width));
        parts.extend(more.iter().map(|sentence| text::wrap(sentence, width)));
        // A caveat belongs to the conclusion above it.
        parts.extend(caveats.iter().map(|note| text::wrap(&format!("Note: {note}"), width)));
    }
    parts.push(String::new());
    parts.push(lines(&table, width));
    if detail == Verbosity::Full {
        parts.push(String::new());
        parts.push(comparison(&table));
        let claims = judged(&experiments);
        if !claims.is_empty() {
            parts.push(claims_table(&claims, width));
        }
        parts.extend(sections(&experiments).iter().map(|section| section_table(section, width)));
    }
    parts.join("\n")
}

/// One line per variant, with as many columns as there is room for.
fn lines(table: &Table<'_>, width: usize) -> String {
    let (columns, mut least) = (columns(table), u8::MAX);
    loop {
        let shown: Vec<&Column> = columns.iter().filter(|column| column.rank < least).collect();
        let text = grid(&shown, table);
        let widest = text.lines().map(|line| line.chars().count()).max().unwrap_or_default();
        let left_out = columns.iter().map(|column| column.rank).filter(|rank| *rank < least).max();
        match left_out {
            // The variant and its metric stay, whatever the width.
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
    let hidden: Vec<String> = columns(table)
        .iter()
        .filter(|column| !shown.iter().any(|shown| shown.rank == column.rank))
        .map(|column| column.title.to_owned())
        .collect();
    let mut said = summary::legend(table);
    if !hidden.is_empty() {
        said += &format!(" The terminal is too narrow for: {}.", text::list(&hidden));
    }
    text::wrap(&said, width)
}

fn comparison(table: &Table<'_>) -> String {
    let mut grid = Grid::new();
    grid.load_style(UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(table.titles().map(|title| title.replace(' ', "\n")));
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

fn section_table(section: &Section, width: usize) -> String {
    let mut grid = Grid::new();
    grid.load_style(UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()))
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(section.titles.iter().map(|title| title.replace(' ', "\n")));
    for row in &section.rows {
        grid.add_row(row.cells.iter().map(|cell| {
            let lines: Vec<&str> = cell.iter().map(|line| line.text.as_str()).collect();
            lines.join("\n")
        }));
    }
    for column in grid.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let about = section.about.iter().map(|sentence| text::wrap(sentence, width));
    let parts: Vec<String> =
        [section.heading.to_owned(), grid.to_string()].into_iter().chain(about).collect();
    parts.join("\n")
}
