//! Skipped steps in words: when, whether the loss scale was still settling, and in which layers.

use crate::record::{RunRecord, Skip};

use super::table::Row;
use super::text;

/// The skipped steps of a run while its loss scale settled: [`RunRecord::settling_steps`].
pub(super) fn settling(record: &RunRecord) -> &[Skip] {
    &record.skips[..record.settling_steps() as usize]
}

/// `2¹⁶`, and a scale that is no power of two as a number.
pub(super) fn scale(scale: f64) -> String {
    let exponent = scale.log2();
    if exponent.is_finite() && exponent.fract() == 0.0 {
        format!("2{}", text::raised(exponent as i32))
    } else {
        text::decimal(scale)
    }
}

/// `5 skipped steps, all in steps 0–1 while the loss scale settled from 2¹⁶ to 2¹⁴`; none where none was skipped.
pub(super) fn sentence(row: &Row<'_>) -> Option<String> {
    let all = row.numerics.skipped_steps;
    let recorded: usize = row.records.iter().map(|record| record.skips.len()).sum();
    if all == 0 {
        return None;
    }
    let noun = if all == 1 { "skipped step" } else { "skipped steps" };
    let counted = format!("{} {noun}", text::count(all));
    if recorded as u64 != all {
        // Not every record could be read: a sentence about the rest would not be about all.
        return Some(counted);
    }
    let settling: Vec<&Skip> = row.records.iter().flat_map(|record| settling(record)).collect();
    let later = row.records.iter().flat_map(|record| &record.skips[self::settling(record).len()..]);
    let later: Vec<&Skip> = later.collect();
    let settled = || format!("{} while the loss scale settled{}", steps(&settling), scales(row));
    Some(match (settling.len(), later.len()) {
        (_, 0) => format!("{counted}, {}{}", if all > 1 { "all " } else { "" }, settled()),
        (0, _) => format!("{counted}, {}", steps(&later)),
        (some, _) => format!(
            "{counted}: {} {}, and {} after it had settled, {}",
            text::count(some as u64),
            settled(),
            text::count(later.len() as u64),
            steps(&later)
        ),
    })
}

/// `in step 0`, or `in steps 0–1`.
fn steps(skips: &[&Skip]) -> String {
    let steps = || skips.iter().map(|skip| skip.step);
    match (steps().min(), steps().max()) {
        (Some(first), Some(last)) if first < last => {
            format!("in steps {}–{}", text::count(first), text::count(last))
        }
        (Some(only), _) => format!("in step {}", text::count(only)),
        _ => String::new(),
    }
}

/// ` from 2¹⁶ to 2¹⁴`: the first scale of the runs that skipped a step before their first update, and the lowest that one of
/// them settled at.
fn scales(row: &Row<'_>) -> String {
    let settled = row.records.iter().filter_map(|record| {
        let skipped = settling(record).len() as u64;
        let after = record.scale.iter().take_while(|(step, _)| *step <= skipped).last();
        (skipped > 0).then_some((record.scale.first()?.1, after?.1))
    });
    let (mut from, mut to) = (0.0, f64::INFINITY);
    for (first, after) in settled {
        (from, to) = (f64::max(from, first), f64::min(to, after));
    }
    if from > to { format!(" from {} to {}", scale(from), scale(to)) } else { String::new() }
}

/// The skips of one run by layer, each layer with its steps: `output in steps 0–1`.
pub(super) fn layers(record: &RunRecord) -> String {
    let runs = record.skips.chunk_by(|a, b| a.layer == b.layer && a.step + 1 == b.step);
    let named: Vec<String> = runs
        .map(|run| {
            let layer = text::shorten(&text::printable(&run[0].layer), 24);
            format!("{layer} {}", steps(&run.iter().collect::<Vec<_>>()))
        })
        .collect();
    match named.len() {
        0..=3 => named.join(", "),
        more => {
            format!("{}, {} more times", named[..2].join(", "), text::count(more as u64 - 2))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;
    use crate::report::table::Table;

    /// What is said of the second variant, whose runs skipped these steps and had these scales.
    fn said(runs: &[(&[u64], &[(u64, f64)])]) -> Option<String> {
        let mut loaded = fixture::loaded();
        loaded.records.retain(|record| record.variant == "fp16-mixed");
        loaded.records.truncate(runs.len());
        for (record, (skips, scale)) in loaded.records.iter_mut().zip(runs) {
            let skip = |step: &u64| Skip { step: *step, layer: "output".to_owned() };
            record.skips = skips.iter().map(skip).collect();
            record.scale = scale.to_vec();
        }
        let all = runs.iter().map(|(skips, _)| skips.len() as u64).sum();
        loaded.results.variants[1].numerics.skipped_steps = all;
        sentence(&Table::of(&[loaded]).rows[1])
    }

    #[test]
    fn skipped_steps_are_told_with_what_the_loss_scale_did() {
        let twice: &[(u64, f64)] = &[(0, 65_536.0), (1, 32_768.0), (2, 16_384.0)];
        let once = &twice[..2];
        for (runs, expected) in [
            (vec![(&[][..], &[(0, 65_536.0)][..])], None),
            (
                vec![(&[0, 1][..], twice), (&[0][..], once), (&[0, 1][..], twice)],
                Some(
                    "5 skipped steps, all in steps 0–1 while the loss scale settled from 2¹⁶ to 2¹⁴",
                ),
            ),
            (
                vec![(&[0][..], once)],
                Some("1 skipped step, in step 0 while the loss scale settled from 2¹⁶ to 2¹⁵"),
            ),
            (
                vec![(&[0, 70, 90][..], once)],
                Some(
                    "3 skipped steps: 1 in step 0 while the loss scale settled from 2¹⁶ to 2¹⁵, and 2 after it had settled, in steps 70–90",
                ),
            ),
            (vec![(&[5][..], once)], Some("1 skipped step, in step 5")),
            // Without a loss scale nothing settles.
            (vec![(&[0][..], &[][..])], Some("1 skipped step, in step 0")),
        ] {
            assert_eq!(said(&runs).as_deref(), expected, "{runs:?}");
        }
    }

    #[test]
    fn each_skip_has_its_layer() {
        let mut record = fixture::loaded().records[0].clone();
        let skip = |(step, layer): (u64, &str)| Skip { step, layer: layer.to_owned() };
        record.skips = [(0, "output"), (1, "output"), (7, "hidden.0")].map(skip).to_vec();
        assert_eq!(layers(&record), "output in steps 0–1, hidden.0 in step 7");
        record.skips = (0..10).map(|n| skip((2 * n, "output"))).collect();
        assert_eq!(layers(&record), "output in step 0, output in step 2, 8 more times");
    }
}
