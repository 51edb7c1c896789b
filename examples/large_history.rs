//! How long a long history takes: one of so many commits, made of the results of one experiment, with noise and changes.
//!
//! `cargo run --release --example large_history -- DIR FILE 2000` makes FILE of the results in DIR, and then reads all series
//! and looks for changes as `mantissa history show --history FILE` does.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::path::Path;
use std::time::Instant;

use mantissa::history::{Filter, History};
use mantissa::record::Results;
use mantissa::report::{self, Trend};
use mantissa::units::Seconds;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, file, commits] = arguments.as_slice() else {
        return Err("give a folder of results, a file, and a number of commits".into());
    };
    let (results, file, commits) =
        (report::load_results(Path::new(dir))?, Path::new(file), commits.parse::<usize>()?);
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let clock = Instant::now();
    let mut history = History::make(file)?;
    let mut rows = 0;
    for number in 0..commits {
        rows += history.add(&of_commit(&results, (number, commits), &mut rng))?.values;
    }
    println!("{rows} values of {commits} commits added in {:.2} s", clock.elapsed().as_secs_f64());

    let clock = Instant::now();
    let all = History::open(file)?.series(&Filter::default())?;
    println!("{} series read in {:.3} s", all.len(), clock.elapsed().as_secs_f64());
    let clock = Instant::now();
    let trends: Vec<Trend<'_>> = all.iter().map(Trend::of).collect();
    let changes: usize = trends.iter().map(|trend| trend.changes.len()).sum();
    println!("{changes} changes found in {:.3} s", clock.elapsed().as_secs_f64());
    Ok(())
}

/// The results as of a commit: halfway training gets 10 % slower and loses one more update, and each time has 2 % of noise.
fn of_commit(results: &Results, (number, of): (usize, usize), rng: &mut ChaCha8Rng) -> Results {
    let mut results = results.clone();
    results.environment.git = Some(format!("{number:012x}"));
    results.environment.started = format!("2026-{number:08}");
    let is_late = number >= of / 2;
    for variant in &mut results.variants {
        variant.numerics.updates.lost += u64::from(is_late);
        let shift = if is_late { 1.1 } else { 1.0 };
        let mut vary = |blocks: &mut Vec<Seconds>, shift: f64| {
            let factor = shift * (1.0 + rng.random_range(-0.02..0.02));
            for block in blocks {
                block.0 *= factor;
            }
        };
        if let Some(train) = &mut variant.train {
            vary(&mut train.blocks, shift);
        }
        if let Some(inference) = &mut variant.inference {
            vary(&mut inference.blocks, 1.0);
        }
    }
    results
}
