//! How often the statistics behind a verdict err, on drawn accuracies whose truth is known.
//!
//! `cargo run --release --example verdicts -- intervals 2000`: the share of 95 % intervals of a mean paired difference that cover it,
//! the program's, Student's and the bootstrap's, and of `better` or `worse` where nothing differs. Six minutes or so.
//!
//! `cargo run --release --example verdicts -- equivalence 10000`: the share of `equivalent` by the program's rule and by others, where
//! the mean difference is as large as the margin, and where nothing differs. A minute or so.
//!
//! The number is that of experiments for each row; with a word behind it, only rows whose names begin so.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use mantissa::record::{Estimate, MetricVerdict, TestMetric};
use mantissa::stats::{self, FAR_OFF, LEVEL};
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

/// Standard deviation of the differences where nothing else is said.
const SPREAD: f64 = 0.004;

/// Level of the interval that two one-sided tests at 5 % amount to.
const TOST_LEVEL: f64 = 0.90;

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
    (shared + difference + SPREAD * normal(random), shared)
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

/// One seed in `RARELY` of the variant goes far off, by `FAR` standard deviations; the others are normal. `difference` is the mean
/// over all seeds.
fn far_pair<const RARELY: u32, const FAR: u32>(
    random: &mut ChaCha8Rng,
    difference: f64,
) -> (f64, f64) {
    let (far, baseline) = (f64::from(FAR) * SPREAD, 0.95);
    let goes_off = random.random_range(0..RARELY) == 0;
    let typical = baseline + difference + far / f64::from(RARELY) + SPREAD * normal(random);
    (if goes_off { typical - far } else { typical }, baseline)
}

/// The kinds of differences, by name.
const DRAWS: [(&str, Draw); 8] = [
    ("normal", normal_pair),
    ("counted", counted_pair),
    ("long-tailed", long_tailed_pair),
    ("skewed", skewed_pair),
    ("far: one in 20 by 5 sd", far_pair::<20, 5>),
    ("far: one in 20 by 10 sd", far_pair::<20, 10>),
    ("far: one in 10 by 5 sd", far_pair::<10, 5>),
    ("far: one in 10 by 10 sd", far_pair::<10, 10>),
];

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let usage = "usage: verdicts intervals|equivalence EXPERIMENTS [ROWS]";
    let (what, count, rows) = match arguments.as_slice() {
        [what, count] => (what, count.parse()?, ""),
        [what, count, rows] => (what, count.parse()?, rows.as_str()),
        _ => return Err(usage.into()),
    };
    match what.as_str() {
        "intervals" => intervals(count, rows),
        "equivalence" => equivalence(count, rows),
        _ => return Err(usage.into()),
    }
    Ok(())
}

/// Prints a row for each kind of differences and number of seeds: shares of `count` in percent.
fn table<const N: usize>(
    titles: [&str; N],
    (count, rows): (usize, &str),
    hits: impl Fn(Draw, usize) -> [usize; N],
) {
    println!("| differences | seeds | {} |", titles.join(" | "));
    println!("|---|---:|{}", "---:|".repeat(N));
    for (name, draw) in DRAWS.iter().filter(|(name, _)| name.starts_with(rows)) {
        for seeds in SEEDS {
            let share = |hits: usize| format!("{:.1} %", 100.0 * hits as f64 / count as f64);
            println!("| {name} | {seeds} | {} |", hits(*draw, seeds).map(share).join(" | "));
        }
    }
}

/// Intervals that cover the truth, and verdicts where there is nothing.
fn intervals(count: usize, rows: &str) {
    let titles = ["covers", "Student covers", "BCa covers", "better or worse of nothing"];
    table(titles, (count, rows), |draw, seeds| errors(draw, seeds, count));
}

/// Of `count` experiments: intervals of each kind that cover the truth, and wrong verdicts.
fn errors(draw: Draw, seeds: usize, count: usize) -> [usize; 4] {
    let mut random = ChaCha8Rng::seed_from_u64(seeds as u64);
    let mut hits = [0; 4];
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
            matches!(nothing, Some(MetricVerdict::Better | MetricVerdict::Worse)),
        ];
        count_up(&mut hits, found);
    }
    hits
}

fn count_up<const N: usize>(hits: &mut [usize; N], found: [bool; N]) {
    for (hits, found) in hits.iter_mut().zip(found) {
        *hits += usize::from(found);
    }
}

/// The verdict on accuracies that are paired by place.
fn verdict(pairs: (Vec<f64>, Vec<f64>), margin: f64) -> Option<MetricVerdict> {
    let by_seed = |accuracies: Vec<f64>| -> Vec<(u64, f64)> { (0..).zip(accuracies).collect() };
    let (variant, baseline) = (by_seed(pairs.0), by_seed(pairs.1));
    stats::metric_difference(TestMetric::Accuracy, &variant, &baseline, margin)
        .map(|judged| judged.verdict)
}

/// Ends of an interval that lies within the margin where differences are equivalent.
type Rule = fn(&[f64]) -> Option<[f64; 2]>;

/// The rules that were tried beside the program's, by name.
const RULES: [(&str, Rule); 6] = [
    ("90 % interval alone", |d| stats::mean_interval(d, TOST_LEVEL).map(ends)),
    ("Student", |d| stats::student_interval(d, TOST_LEVEL).map(ends)),
    ("median", median_interval),
    ("signed ranks", signed_ranks_interval),
    ("one more at 3 sd", |d| one_more(d, 3.0)),
    ("one more at 10 sd", |d| one_more(d, 10.0)),
];

fn ends(interval: Estimate<f64>) -> [f64; 2] {
    [interval.low, interval.high]
}

/// The program's rule, with another seed than one [`FAR_OFF`] standard deviations off.
fn one_more(differences: &[f64], far: f64) -> Option<[f64; 2]> {
    let [low, high] = ends(stats::mean_interval(differences, TOST_LEVEL)?);
    let student = ends(stats::student_interval(differences, TOST_LEVEL)?);
    let shift = far * stats::sd(differences)? / (differences.len() + 1) as f64;
    Some([low.min(student[0] - shift), high.max(student[1] + shift)])
}

/// The interval of a median by order statistics: as many values are left out on either side as the binomial distribution allows.
fn median_interval(differences: &[f64]) -> Option<[f64; 2]> {
    let n = differences.len();
    let mut shares = vec![0.5_f64.powi(i32::try_from(n).ok()?)];
    for k in 1..n {
        shares.push(shares[k - 1] * (n - k + 1) as f64 / k as f64);
    }
    between(differences.to_vec(), &shares)
}

/// The interval of the middle of a symmetric distribution by Wilcoxon's signed ranks: ordered means of pairs, each value with itself
/// too.
fn signed_ranks_interval(differences: &[f64]) -> Option<[f64; 2]> {
    let n = differences.len();
    let pairs = (0..n).flat_map(|i| (i..n).map(move |j| (i, j)));
    let means: Vec<f64> =
        pairs.map(|(i, j)| f64::midpoint(differences[i], differences[j])).collect();
    // Ways to get each sum of ranks, of 2ⁿ.
    let mut ways = vec![0.0; means.len() + 1];
    ways[0] = 0.5_f64.powi(i32::try_from(n).ok()?);
    for rank in 1..=n {
        for sum in (rank..ways.len()).rev() {
            ways[sum] += ways[sum - rank];
        }
    }
    between(means, &ways)
}

/// The ordered values within both tails of `shares`, each at most 5 %.
fn between(mut values: Vec<f64>, shares: &[f64]) -> Option<[f64; 2]> {
    values.sort_by(f64::total_cmp);
    let mut below = 0.0;
    let beyond = shares.iter().take_while(|share| {
        below += **share;
        below <= (1.0 - TOST_LEVEL) / 2.0
    });
    let place = beyond.count().checked_sub(1)?;
    Some([*values.get(place)?, *values.get(values.len() - 1 - place)?])
}

/// `equivalent` where the mean difference is as large as the margin, and where nothing differs with a margin of 2.5 and of 1.25
/// standard deviations.
fn equivalence(count: usize, rows: &str) {
    let program = format!("the program's: one more at {FAR_OFF} sd");
    let titles: Vec<&str> =
        std::iter::once(program.as_str()).chain(RULES.map(|(name, _)| name)).collect();
    let titles: [&str; 7] = std::array::from_fn(|index| titles[index]);
    for (what, difference, margin) in [
        ("The mean difference as large as the margin: wrong", -MARGIN, MARGIN),
        ("Nothing differs, margin 2.5 sd: right", 0.0, 2.5 * SPREAD),
        ("Nothing differs, margin 1.25 sd: right", 0.0, 1.25 * SPREAD),
    ] {
        println!("\n{what}\n");
        table(titles, (count, rows), |draw, seeds| {
            equivalents(draw, seeds, count, (difference, margin))
        });
    }
}

/// How many of `count` experiments each rule calls equivalent.
fn equivalents(
    draw: Draw,
    seeds: usize,
    count: usize,
    (difference, margin): (f64, f64),
) -> [usize; 7] {
    let mut random = ChaCha8Rng::seed_from_u64(seeds as u64);
    let mut hits = [0; 7];
    for _ in 0..count {
        let pairs = (0..seeds).map(|_| draw(&mut random, difference));
        let differences: Vec<f64> = pairs.map(|(variant, baseline)| variant - baseline).collect();
        let inside = |[low, high]: [f64; 2]| -margin < low && high < margin;
        let found = std::array::from_fn(|index| match index {
            0 => stats::equivalent(&differences, margin) == Some(true),
            _ => (RULES[index - 1].1)(&differences).is_some_and(inside),
        });
        count_up(&mut hits, found);
    }
    hits
}
