//! Lines for a terminal or a log.

use super::{group, program, to_look_at};
use crate::formatting::printable;
use crate::regression::judge::Judgement;

pub(super) fn render(judgement: &Judgement) -> String {
    let Judgement { experiment, against, .. } = judgement;
    let mut lines =
        vec![format!("{experiment}: mantissa {} against {against}", program(judgement))];
    lines.extend(to_look_at(judgement).map(|finding| {
        format!("{}: {} {}.", finding.verdict.name(), finding.key, finding.sentence())
    }));
    lines.extend(
        judgement
            .not_judged()
            .into_iter()
            .map(|(why, keys)| format!("not judged: {}: {why}.", group(&keys))),
    );
    lines.extend(judgement.notes.iter().map(|note| format!("note: {note}")));
    lines.push(judgement.summary());
    lines.iter().map(|line| printable(line) + "\n").collect()
}
