//! For a comment or the summary of a step, short enough for both.

use super::{group, program, to_look_at};
use crate::formatting::{markdown as escape, plural};
use crate::regression::judge::{Judgement, Outcome, Verdict};

/// The most bytes: a comment on GitHub has at most 65,536 characters, a step's summary 1 MiB.
pub(super) const MOST_BYTES: usize = 60_000;

/// Bytes that are kept for what follows the rows.
const END: usize = 4_000;

pub(super) fn render(judgement: &Judgement) -> String {
    let outcome = match judgement.outcome() {
        Outcome::Fine => "no regression",
        Outcome::Regression => "a regression",
        Outcome::NothingJudged => "nothing could be judged",
    };
    let mut page = format!(
        "### Mantissa, {}: {outcome}\n\n{} against {}\n",
        short(&judgement.experiment),
        escape(&program(judgement)),
        short(&judgement.against)
    );
    let (mut rows, mut left_out) = (String::new(), 0);
    let mut push = |row: String| {
        if rows.len() + row.len() + END < MOST_BYTES { rows += &row } else { left_out += 1 }
    };
    for finding in to_look_at(judgement) {
        let mark = match finding.verdict {
            Verdict::Failed => "❌ failed",
            Verdict::Inconclusive => "❔ inconclusive",
            _ => "✔️ allowed",
        };
        let [was, is] = finding.values().map(|value| escape(&value));
        let key = short(&finding.key.to_string());
        push(format!("| {mark} | {key} | {was} | {is} | {} |\n", short(&finding.sentence())));
    }
    if !rows.is_empty() {
        page += "\n| | metric | baseline | now | |\n| --- | --- | ---: | ---: | --- |\n";
        page += &rows;
    }
    if left_out > 0 {
        page += &format!("\n{} more left out here.\n", plural(left_out, "row"));
    }
    for (why, keys) in judgement.not_judged().into_iter().take(MOST_GROUPS) {
        page += &format!("\n- not judged: {}: {}\n", short(&group(&keys)), short(why));
    }
    for note in judgement.notes.iter().take(MOST_GROUPS) {
        page += &format!("\n- {}\n", short(note));
    }
    page + &format!("\n**{}**\n", judgement.summary())
}

/// Groups of what was not judged, and notes, that are told.
const MOST_GROUPS: usize = 10;

/// The start of a text that is too long for a cell, escaped.
fn short(text: &str) -> String {
    /// Characters.
    const MOST: usize = 300;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => escape(&text[..end]) + "…",
        None => escape(text),
    }
}
