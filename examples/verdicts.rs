//! How often the statistics behind a verdict err, on drawn accuracies whose truth is known: the share of 95 % intervals of a mean
//! paired difference that cover it, the program's, Student's and the bootstrap's; of `better` or `worse` where nothing differs; and of
//! `equivalent` where the difference is as large as the margin.
//!
//! `cargo run --release --example verdicts -- 2000` takes three minutes or so; the number is that of experiments for each row.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use mantissa::record::{AccuracyVerdict, Estimate};
use mantissa::stats::{self, LEVEL};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What goes wrong here, to be printed.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Seeds of an experiment.
const SEEDS: [usize; 3] = [6, 10, 30];

/// Test images of an experiment.
const IMAGES: u32 = 2000;

/// The mean difference that intervals are to cover.
const TRUTH: f64 = 0.002;

/// Margin of equivalence, wide enough that six seeds can show it.
const MARGIN: f64 = 0.01;

/// Accuracies of a variant and of the baseline for one seed, whose true difference is the last argument.
type Draw = fn(&mut ChaCha8Rng, f64) -> (f64, f64);

/// A number of the standard normal distribution, by Box and Muller's method.
fn normal(random: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (1.0 - random.random::<f64>(), random.random());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// Both share what the seed does to them, and differ by normal noise.
fn normal_pair(random: &mut ChaCha8Rng, difference: f64) -> (f64, f64) {
    let shared = 0.95 + 0.01 * normal(random);
    (shared + difference + 0.004 * normal(random), shared)
}

/// Correct images of a finite test split: few different values, with ties.
fn counted_pair(random: &mut ChaCha8Rng, difference: f64) -> (f64, f64) {
    let count = |random: &mut ChaCha8Rng, share: f64| {
        let hits = (0..IMAGES).filter(|_| random.random::<f64>() < share).count();
        hits as f64 / f64::from(IMAGES)
    };
    (count(random, 0.95 + difference), count(random, 0.95))
}

/// Now and then a seed goes badly for one of the two: skewed, with a long tail.
fn skewed_pair(random: &mut ChaCha8Rng, difference: f64) -> (f64, f64) {
    let noise = |random: &mut ChaCha8Rng| 0.004 * (1.0 + (1.0 - random.random::<f64>()).ln());
    (0.95 + difference + noise(random), 0.95 + 0.002 * normal(random))
}

/// Seeds far off are more common than by a normal distribution, on both sides: Student's t with 3 degrees of freedom.
fn long_tailed_pair(random: &mut ChaCha8Rng, difference: f64) -> (f64, f64) {
    let squares: f64 = (0..3).map(|_| normal(random).powi(2)).sum();
    (0.95 + difference + 0.003 * normal(random) / (squares / 3.0).sqrt(), 0.95)
}

fn main() -> Result<(), Failure> {
    let count: usize = std::env::args().nth(1).unwrap_or_else(|| "2000".to_owned()).parse()?;
    println!(
        "| differences | seeds | covers | Student covers | BCa covers | better or worse of nothing | \
         equivalent at the margin |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|");
    let draws: [(&str, Draw); 4] = [
        ("normal", normal_pair),
        ("counted", counted_pair),
        ("long-tailed", long_tailed_pair),
        ("skewed", skewed_pair),
    ];
    for (name, draw) in draws {
        for seeds in SEEDS {
            let share = |hits: usize| format!("{:.1} %", 100.0 * hits as f64 / count as f64);
            println!(
                "| {name} | {seeds} | {} |",
                errors(draw, seeds, count).map(share).join(" | ")
            );
        }
    }
    Ok(())
}

/// Of `count` experiments: intervals of each kind that cover the truth, and wrong verdicts of either kind.
fn errors(draw: Draw, seeds: usize, count: usize) -> [usize; 5] {
    let mut random = ChaCha8Rng::seed_from_u64(seeds as u64);
    let mut hits = [0; 5];
    for _ in 0..count {
        let mut pairs = |difference| -> (Vec<f64>, Vec<f64>) {
            (0..seeds).map(|_| draw(&mut random, difference)).unzip()
        };
        let (variant, baseline) = pairs(TRUTH);
        let differences: Vec<f64> = variant.iter().zip(&baseline).map(|(v, b)| v - b).collect();
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let covers = |interval: Option<Estimate<f64>>| {
            interval.is_some_and(|i| i.low <= TRUTH && TRUTH <= i.high)
        };
        // No margin: that nothing is called equivalent leaves every chance to err.
        let nothing = verdict(pairs(0.0), 0.0);
        let found = [
            covers(stats::mean_difference(&variant, &baseline)),
            covers(stats::student_interval(&differences, LEVEL)),
            covers(stats::bca(&differences, mean, LEVEL)),
            matches!(nothing, Some(AccuracyVerdict::Better | AccuracyVerdict::Worse)),
            verdict(pairs(-MARGIN), MARGIN) == Some(AccuracyVerdict::Equivalent),
        ];
        for (hits, found) in hits.iter_mut().zip(found) {
            *hits += usize::from(found);
        }
    }
    hits
}

/// The verdict on accuracies that are paired by place.
fn verdict(pairs: (Vec<f64>, Vec<f64>), margin: f64) -> Option<AccuracyVerdict> {
    let by_seed = |accuracies: Vec<f64>| -> Vec<(u64, f64)> { (0..).zip(accuracies).collect() };
    let (variant, baseline) = (by_seed(pairs.0), by_seed(pairs.1));
    stats::accuracy_difference(&variant, &baseline, margin).map(|judged| judged.verdict)
}
