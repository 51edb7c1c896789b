//! `results.tex`: the comparison as a table for a paper, with the rules of the package `booktabs`; and
//! `results-compact.tex`, which fits a column of two.

use super::summary::columns;
use super::table::Table;
use super::text;

/// The whole comparison.
pub(super) fn render(table: &Table<'_>) -> String {
    let titles =
        table.titles().map(|title| stack(&title.split(' ').map(escape).collect::<Vec<_>>()));
    let rows = table.rows.iter().map(|row| {
        let cells = row
            .cells()
            .map(|cell| stack(&cell.iter().map(|line| escape(&line.text)).collect::<Vec<_>>()));
        cells.to_vec()
    });
    tabular(&titles, rows)
}

/// Columns of greater rank are left out of the compact table.
const LAST_RANK: u8 = 3;

/// Accuracy, speed and memory, one line per variant.
pub(super) fn compact(table: &Table<'_>) -> String {
    let all = columns(table);
    let columns = || all.iter().filter(|column| column.rank <= LAST_RANK);
    let titles: Vec<String> = columns().map(|column| escape(column.title)).collect();
    let row = |row| columns().map(|column| escape(&(column.cell)(row))).collect();
    tabular(&titles, table.rows.iter().map(row))
}

/// A whole file: the first column to the left, the others to the right.
fn tabular(titles: &[String], rows: impl Iterator<Item = Vec<String>>) -> String {
    let columns = format!("l{}", "r".repeat(titles.len() - 1));
    let mut text =
        "% \\usepackage{booktabs}; needs XeLaTeX or LuaLaTeX, or pdfLaTeX since 2018.\n".to_owned();
    text += &format!(
        "\\begin{{tabular}}{{{columns}}}\n\\toprule\n{} \\\\\n\\midrule\n",
        titles.join(" & ")
    );
    for cells in rows {
        // An empty group: a row that begins with a bracket would be an option of the one before.
        text += &format!("{{}}{} \\\\\n", cells.join(" & "));
    }
    text + "\\bottomrule\n\\end{tabular}\n"
}

/// Lines one above the other in a cell.
fn stack(lines: &[String]) -> String {
    match lines {
        [only] => only.clone(),
        several => format!("\\shortstack[r]{{{}}}", several.join("\\\\")),
    }
}

/// Text that LaTeX sets as it is.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text::printable(text).chars() {
        match c {
            '\\' => escaped += "\\textbackslash{}",
            '~' => escaped += "\\textasciitilde{}",
            '^' => escaped += "\\textasciicircum{}",
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => {
                escaped.push('\\');
                escaped.push(c);
            }
            '<' | '>' | '|' | '"' => escaped += &format!("\\symbol{{{}}}", u32::from(c)),
            '×' => escaped += "$\\times$",
            '±' => escaped += "$\\pm$",
            '−' => escaped += "$-$",
            '–' => escaped += "--",
            '—' => escaped += "---",
            '·' => escaped += "$\\cdot$",
            'µ' => escaped += "\\textmu{}",
            '…' => escaped += "\\dots{}",
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_set_and_not_run() {
        assert_eq!(
            escape("\\input{x}_1 50% ±2×"),
            "\\textbackslash{}input\\{x\\}\\_1 50\\% $\\pm$2$\\times$"
        );
        assert_eq!(escape("a\u{202e}b"), "a\\textbackslash{}u\\{202e\\}b");
    }
}
