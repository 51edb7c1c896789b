//! Annotations of GitHub's workflows: commands on stdout, of which GitHub shows ten of a kind a step. The last line is plain.

use super::{group, to_look_at};
use crate::formatting::{plural, printable};
use crate::regression::judge::{Judgement, Verdict};

/// The most annotations.
const MOST: usize = 10;

pub(super) fn render(judgement: &Judgement) -> String {
    let of_findings = to_look_at(judgement).map(|finding| {
        let command = match finding.verdict {
            Verdict::Failed => "error",
            Verdict::Inconclusive if judgement.strict => "error",
            Verdict::Inconclusive => "warning",
            _ => "notice",
        };
        let title = format!("{}: {}", finding.verdict.name(), finding.key);
        (command, title, finding.sentence())
    });
    let notes = judgement.notes.iter().map(|note| ("warning", "check".to_owned(), note.clone()));
    let groups = judgement
        .not_judged()
        .into_iter()
        .map(|(why, keys)| ("notice", "not judged".to_owned(), format!("{}: {why}", group(&keys))));
    let all: Vec<_> = of_findings.chain(notes).chain(groups).collect();
    let mut text = String::new();
    for (command, title, message) in all.iter().take(MOST) {
        let title = property(&format!("mantissa, {title}"));
        text += &format!("::{command} title={title}::{}\n", data(message));
    }
    if all.len() > MOST {
        text += &format!("{} more left out here.\n", plural(all.len() - MOST, "annotation"));
    }
    text + &judgement.summary() + "\n"
}

/// A message, escaped as the workflow toolkit does; what cannot be seen is written out before.
fn data(text: &str) -> String {
    printable(text).replace('%', "%25")
}

/// A property's value.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
