//! `summary.md`: the comparison, what it shows and the figures, for a terminal pager, a code host or a chat.

use std::fmt::Write as _;

use crate::record::ClaimResult;

use super::figure::Figure;
use super::load::Loaded;
use super::table::{LEGEND, TITLES, Table};
use super::text;

/// The whole file.
pub(super) fn render(
    loaded: &Loaded,
    table: &Table,
    reading: &[String],
    figures: &[Figure],
) -> String {
    let results = &loaded.results;
    let mut page = format!("# {}\n\n", escape(&results.experiment));
    page += &origin(loaded);
    page += &comparison(table);
    page += "\n## What this shows\n\n";
    for sentence in reading {
        let _ = writeln!(page, "- {}", escape(sentence));
    }
    if !results.claims.is_empty() {
        page += &claims(&results.claims);
    }
    page += "\n## Figures\n";
    for figure in figures {
        let (alt, title) = (escape(&figure.alt), escape(&figure.title));
        let _ = write!(page, "\n### {title}\n\n![{alt}](figures/{}.png)\n", figure.file);
    }
    page += "\n## How to read the table\n\n";
    for line in LEGEND {
        let _ = writeln!(page, "- {}", escape(line));
    }
    page
}

fn origin(loaded: &Loaded) -> String {
    let environment = &loaded.results.environment;
    format!(
        "{} · {} · {} threads · mantissa {} · {}\n\n",
        escape(&environment.device),
        escape(&environment.device_name),
        environment.threads,
        escape(&environment.version),
        escape(&environment.started),
    )
}

fn comparison(table: &Table) -> String {
    let mut lines = format!("| {} |\n|", TITLES.join(" | "));
    lines += " --- |";
    lines += &" ---: |".repeat(TITLES.len() - 1);
    lines.push('\n');
    for row in &table.rows {
        let cells = row.cells().map(|cell| {
            let lines: Vec<String> = cell.iter().map(|line| escape(&line.text)).collect();
            lines.join("<br>")
        });
        let _ = writeln!(lines, "| {} |", cells.join(" | "));
    }
    lines
}

fn claims(claims: &[ClaimResult]) -> String {
    let mut lines = "\n## Claims\n\n| claim | variant | verdict | measured | threshold | what would settle it |\n| --- | --- | --- | --- | --- | --- |\n".to_owned();
    for claim in claims {
        let cells = [
            claim.id.clone(),
            claim.variant.clone(),
            text::claim_verdict(claim.verdict).to_owned(),
            text::measure(claim.measured),
            claim.threshold.clone(),
            claim.missing.clone().unwrap_or_default(),
        ];
        let _ = writeln!(lines, "| {} |", cells.map(|cell| escape(&cell)).join(" | "));
    }
    lines
}

/// Text that Markdown shows as it is: on one line, without markup, HTML or table bars.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text::printable(text).chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '#' => {
                escaped.push('\\');
                escaped.push(c);
            }
            _ => escaped.push(c),
        }
    }
    escaped
}
