//! A test split that is a share of the samples, drawn by a seed.

use std::path::Path;

use super::DataError;
use super::dataset::{Inputs, Split, Targets};
use super::random::{Purpose, Random};
use crate::spec::TestShare;

/// Splits samples of this shape and number of outputs into those to train on and those to test on, each in the order that they had.
///
/// # Errors
/// When the share would leave none to train on or none to test on.
pub(super) fn split(
    path: &Path,
    all: &Split,
    (shape, outputs): ([usize; 3], usize),
    share: TestShare,
) -> Result<[Split; 2], DataError> {
    let chosen = choose(path, all.targets.samples(outputs), share)?;
    let each = shape.iter().product();
    Ok(chosen.map(|chosen| Split {
        inputs: match &all.inputs {
            Inputs::Pixels(pixels) => Inputs::Pixels(gather(pixels, each, &chosen)),
            Inputs::Values(values) => Inputs::Values(gather(values, each, &chosen)),
            Inputs::Tokens(tokens) => Inputs::Tokens(tokens.part(&chosen)),
        },
        targets: match &all.targets {
            Targets::Labels(labels) => Targets::Labels(gather(labels, 1, &chosen)),
            Targets::Values(values) => Targets::Values(gather(values, outputs, &chosen)),
            Targets::NextTokens(_) => Targets::NextTokens(chosen.len()),
        },
    }))
}

/// Which samples of a file to train on and which to test on, in the order that they have.
///
/// # Errors
/// As [`split`].
pub(super) fn choose(
    path: &Path,
    samples: usize,
    TestShare { share, seed }: TestShare,
) -> Result<[Vec<usize>; 2], DataError> {
    let test = (share * samples as f64).round() as usize;
    if test == 0 || test >= samples {
        return Err(DataError::Share { path: path.to_owned(), share, samples, test });
    }
    let mut order = Random::new(Purpose::TestShare, seed, 0, 0).permutation(samples);
    let mut train = order.split_off(test);
    order.sort_unstable();
    train.sort_unstable();
    Ok([train, order])
}

/// The values of the chosen samples, `each` of one.
fn gather<T: Copy>(values: &[T], each: usize, chosen: &[usize]) -> Vec<T> {
    chosen.iter().flat_map(|&sample| &values[sample * each..(sample + 1) * each]).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_takes_each_sample_once_and_keeps_what_belongs_together() {
        let all = Split {
            inputs: Inputs::Values((0..40).map(|i| i as f32).collect()),
            targets: Targets::Values((0..20).map(|i| 100.0 + i as f32).collect()),
        };
        let share = |seed| TestShare { share: 0.25, seed };
        let split = |seed| split(Path::new("x"), &all, ([2, 1, 1], 1), share(seed)).unwrap();
        let [train, test] = split(0);
        let mut seen = Vec::new();
        for (part, expected) in [(&train, 15), (&test, 5)] {
            let (Inputs::Values(inputs), Targets::Values(targets)) = (&part.inputs, &part.targets)
            else {
                panic!("{part:?}")
            };
            assert_eq!(targets.len(), expected);
            assert!(targets.is_sorted());
            for (row, target) in inputs.chunks(2).zip(targets) {
                let sample = target - 100.0;
                assert_eq!(row, [2.0 * sample, 2.0 * sample + 1.0]);
                seen.push(sample);
            }
        }
        seen.sort_by(f32::total_cmp);
        assert_eq!(seen, (0..20).map(|i| i as f32).collect::<Vec<_>>());
        assert_eq!(split(0), [train, test.clone()]);
        assert_ne!(split(1)[1], test);
    }

    #[test]
    fn a_share_of_nothing_or_of_all_is_an_error() {
        let all =
            Split { inputs: Inputs::Pixels(vec![0; 3]), targets: Targets::Labels(vec![0; 3]) };
        for (share, found) in [(0.1, "0"), (0.9, "3")] {
            let share = TestShare { share, seed: 0 };
            let error = split(Path::new("t.csv"), &all, ([1, 1, 1], 1), share).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "t.csv: test_share = {} of 3 samples is {found}: choose a share that leaves at least 1 to train on and 1 to test on",
                    share.share
                )
            );
        }
    }
}
