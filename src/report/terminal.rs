//! The results on a terminal.

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table as Grid};

use crate::record::Results;

use super::load::Loaded;
use super::reading::{Judged, advice, judged};
use super::table::{TITLES, Table};

/// Columns of a terminal that is not asked for its width.
const WIDTH: u16 = 140;

/// The comparison of an experiment's variants, how the claims fared and what to use, as text for a terminal, without
/// colours.
pub fn terminal(results: &Results) -> String {
    let comparison = comparison(&Table::of_one(results, &[], None));
    let label = String::new();
    let loaded = Loaded { label, results: results.clone(), records: Vec::new(), notes: Vec::new() };
    let experiments = [loaded];
    let claims = judged(&experiments);
    let claims = if claims.is_empty() { String::new() } else { claims_table(&claims) + "\n" };
    let advice = advice(&experiments).into_iter();
    let advice: Vec<String> =
        advice.map(|advice| format!("{}. {}", advice.heading, advice.reason)).collect();
    format!("{comparison}\n{claims}{}", advice.join("\n"))
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

fn claims_table(claims: &[Judged]) -> String {
    let mut grid = Grid::new();
    grid.load_style(UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()))
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH)
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
