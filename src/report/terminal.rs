//! The comparison on a terminal.

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, ContentArrangement, Table as Grid};

use crate::record::Results;

use super::table::{TITLES, Table};

/// The comparison of an experiment's variants as text for a terminal, without colours.
pub fn terminal_table(results: &Results) -> String {
    let mut grid = Grid::new();
    grid.load_style(UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(TITLES.map(|title| title.replace(' ', "\n")));
    for row in Table::of(results).rows {
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
