//! `summary.md`: what to use and why, the comparison and the figures, for a terminal pager, a code host or a chat; and
//! `pull-request.md`, the conclusion and one line per variant, to paste into a comment.

use std::fmt::Write as _;

use super::figure::Figure;
use super::section::Section;
use super::sentences::Judged;
use super::summary::columns;
use super::table::{Line, Table};
use super::{Report, text};
use crate::formatting::markdown as escape;

/// The whole file.
pub(super) fn render(report: &Report<'_>, figures: &[Figure]) -> String {
    let mut page = format!("# {}\n\n", escape(&report.title));
    for experiment in report.experiments {
        page +=
            &format!("{}\n\n", escape(&text::origin(&experiment.results.environment).join(" · ")));
    }
    page += &advice(report);
    page += "## Comparison\n\n";
    page += &comparison(&report.table);
    page += "\n## What this shows\n\n";
    for sentence in &report.sentences {
        let _ = writeln!(page, "- {}", escape(sentence));
    }
    if !report.claims.is_empty() {
        page += &claims(&report.claims);
    }
    for sections in report.sections.chunk_by(|one, next| one.heading == next.heading) {
        let _ = write!(page, "\n## {}\n", sections[0].heading);
        page.extend(sections.iter().map(section));
    }
    page += "\n## Figures\n";
    for figure in figures {
        let (alt, title) = (escape(&figure.alt), escape(&figure.title));
        let _ = write!(page, "\n### {title}\n\n![{alt}](figures/{}.png)\n", figure.file);
        for note in &figure.notes {
            let _ = write!(page, "\n{}\n", escape(note));
        }
    }
    page += "\n## How to read the table\n\n";
    for line in report.table.legend() {
        let _ = writeln!(page, "- {}", escape(&line));
    }
    page
}

/// Columns of greater rank are left out of the compact table.
const LAST_RANK: u8 = 7;

/// The conclusion, and one line per variant: the whole of `pull-request.md`.
pub(super) fn compact(report: &Report<'_>) -> String {
    let all = columns(&report.table);
    let columns = || all.iter().filter(|column| column.rank <= LAST_RANK);
    let titles: Vec<&str> = columns().map(|column| column.title).collect();
    let mut page = advice(report);
    let _ = writeln!(page, "| {} |", titles.join(" | "));
    let _ = writeln!(page, "| --- |{}", " ---: |".repeat(titles.len() - 1));
    for row in &report.table.rows {
        let cells: Vec<String> = columns().map(|column| escape(&(column.cell)(row))).collect();
        let _ = writeln!(page, "| {} |", cells.join(" | "));
    }
    let origins =
        report.experiments.iter().map(|e| text::origin(&e.results.environment).join(" · "));
    let origins: Vec<String> = origins.map(|origin| escape(&origin)).collect();
    page + "\n" + &origins.join("\n") + "\n"
}

/// What to use, of each experiment.
fn advice(report: &Report<'_>) -> String {
    let mut lines = String::new();
    for advice in &report.advice {
        let experiment = advice.experiment.as_ref().map(|name| format!("{}: ", escape(name)));
        let (heading, reason) = (escape(&advice.heading), escape(&advice.reason));
        let _ = writeln!(lines, "**{}{heading}.** {reason}\n", experiment.unwrap_or_default());
        for sentence in &advice.more {
            let _ = writeln!(lines, "{}\n", escape(sentence));
        }
        for caveat in &advice.caveats {
            let _ = writeln!(lines, "- {}", escape(caveat));
        }
        if !advice.caveats.is_empty() {
            lines.push('\n');
        }
    }
    lines
}

fn comparison(table: &Table<'_>) -> String {
    let ratio = table.ratio_title();
    let titles =
        table.titles().map(str::to_owned).into_iter().chain(ratio.as_ref().map(|r| escape(r)));
    let titles: Vec<String> = titles.collect();
    let mut lines = format!("| {} |\n|", titles.join(" | "));
    lines += " --- |";
    lines += &" ---: |".repeat(titles.len() - 1);
    lines.push('\n');
    for row in &table.rows {
        let cells = row.cells().into_iter().chain(ratio.as_ref().map(|_| table.ratio_cell(row)));
        let cells: Vec<String> = cells.map(|lines| cell(&lines)).collect();
        let _ = writeln!(lines, "| {} |", cells.join(" | "));
    }
    lines
}

/// The lines of a cell.
fn cell(lines: &[Line]) -> String {
    let lines: Vec<String> = lines.iter().map(|line| escape(&line.text)).collect();
    lines.join("<br>")
}

fn section(section: &Section) -> String {
    let experiment = section.experiment.as_ref().map(|name| format!("\n### {}\n", escape(name)));
    let titles: Vec<String> = section.titles.iter().map(|title| escape(title)).collect();
    let mut lines = format!("{}\n| {} |\n", experiment.unwrap_or_default(), titles.join(" | "));
    lines += &format!("| --- | --- |{}\n", " ---: |".repeat(titles.len().saturating_sub(2)));
    for row in &section.rows {
        let cells: Vec<String> = row.cells.iter().map(|lines| cell(lines)).collect();
        let _ = writeln!(lines, "| {} |", cells.join(" | "));
    }
    lines.push('\n');
    for sentence in &section.about {
        let _ = writeln!(lines, "- {}", escape(sentence));
    }
    lines
}

fn claims(claims: &[Judged]) -> String {
    let mut lines = format!("\n## Claims\n\n| {} |\n", Judged::TITLES.join(" | "));
    lines += &format!("|{}\n", " --- |".repeat(Judged::TITLES.len()));
    for claim in claims {
        let _ = writeln!(lines, "| {} |", claim.cells().map(escape).join(" | "));
    }
    lines
}
