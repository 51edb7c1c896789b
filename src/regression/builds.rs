//! Two builds that were timed in turns on one machine: the times of B against those of A, block by block. A drifting machine
//! moves both blocks of a pair, so absolute times can be judged, and ratios to the baseline variant would say nothing more.

#[cfg(test)]
mod tests;

use super::block::TimedBlock;
use super::comparison::{Blocks, Comparison, Old, Sides};
use super::fingerprint::Machine;
use super::judge::{Asked, Judgement, with_allowances};
use crate::spec;

/// A timing phase of two builds: a block of each in every round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rounds {
    /// Blocks of build A, the older one.
    pub a: Vec<TimedBlock>,
    /// Blocks of build B, the newer one.
    pub b: Vec<TimedBlock>,
}

/// Why two blocks cannot be compared; none where they can.
pub fn unlike(a: &TimedBlock, b: &TimedBlock) -> Option<String> {
    if a.plan_digest != b.plan_digest {
        let differences = spec::values_that_differ("", &a.plan, &b.plan);
        let first = differences.first().map_or_else(String::new, |first| format!(": {first}"));
        let [a, b] = [a, b].map(|block| block.plan_digest.get(..12).unwrap_or(&block.plan_digest));
        return Some(format!(
            "A and B read the spec differently, as plans {a} and {b}{first}; give a spec that both read alike"
        ));
    }
    if a.data_digest != b.data_digest {
        return Some("A and B read other data: their digests differ".to_owned());
    }
    // How products run is the builds' own doing, and takes the time that it takes.
    let arithmetic = a.machine.arithmetic.clone();
    a.machine.difference(&Machine { arithmetic, ..b.machine.clone() })
}

/// Judges build B by build A. `second` is a second timing phase, once it was done.
pub fn judge_builds(first: &Rounds, second: Option<&Rounds>, asked: &Asked<'_>) -> Judgement {
    let [a, b] = [&first.a, &first.b].map(|blocks| blocks.first());
    let mut notes = Vec::new();
    if let (Some(a), Some(b)) = (a, b)
        && a.machine.arithmetic != b.machine.arithmetic
    {
        let [a, b] = [a, b].map(|block| &block.machine.arithmetic);
        notes.push(format!("A and B multiply in other ways: their arithmetic is {a} and {b}."));
    }
    let comparison = Comparison {
        of: Old::BuildA,
        strict: asked.strict,
        first: sides(first),
        second: second.map(|second| Ok(sides(second))),
        untimed: &|variant| b?.untimed.get(variant).cloned(),
    };
    let (findings, wants_second_timing) = comparison.findings();
    let judgement = Judgement {
        experiment: b.map_or_else(String::new, |block| block.experiment.clone()),
        program: b.map_or_else(Default::default, |block| block.program.clone()),
        against: asked.against.to_owned(),
        strict: asked.strict,
        notes,
        wants_second_timing,
        findings: Vec::new(),
    };
    with_allowances(judgement, findings, asked.allowed)
}

fn sides(rounds: &Rounds) -> Sides {
    Sides { old: blocks(&rounds.a), new: blocks(&rounds.b), ..Sides::default() }
}

/// The blocks of each metric that every round has: those of both builds are pairs, and a gap would shift them.
fn blocks(rounds: &[TimedBlock]) -> Blocks {
    let mut all = Blocks::new();
    for (key, time) in rounds.iter().flat_map(TimedBlock::keyed) {
        all.entry(key).or_default().push(time);
    }
    all.retain(|_, blocks| blocks.len() == rounds.len());
    all
}
