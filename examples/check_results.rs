//! Checks that a folder holds a finished experiment: `check_results DIR VARIANTS SEEDS`. The continuous integration runs it.
#![expect(clippy::print_stdout, reason = "it reports")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use mantissa::record::files::FIGURES;
use mantissa::record::{Control, Results, SCHEMA, Status, VariantResult};
use mantissa::spec::ControlKind;
use mantissa::store;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, variants, seeds] = arguments.as_slice() else {
        return Err("usage: check_results DIR VARIANTS SEEDS".into());
    };
    let folder = Path::new(folder);
    let (variants, seeds): (usize, usize) = (variants.parse()?, seeds.parse()?);
    let results: Results = serde_json::from_slice(&store::read(&folder.join("results.json"))?)?;
    expect("the schema is this program's", results.schema == SCHEMA)?;
    expect("the experiment is complete", results.complete)?;
    expect("every variant is there", results.variants.len() == variants)?;
    expect("claims were judged", !results.claims.is_empty())?;
    expect("something is said of what to use", results.recommendation.is_some())?;
    for variant in &results.variants {
        check(variant, &results.plan.baseline, seeds)
            .map_err(|error| format!("{}: {error}", variant.name))?;
    }
    expect(
        "every control of the plan is there",
        results.controls.len() == results.plan.controls.len(),
    )?;
    for control in &results.controls {
        check_control(control, &results, seeds)
            .map_err(|error| format!("{}: {error}", control.result.name))?;
    }
    for file in ["report.html", "summary.md", "results.csv", "results.tex"] {
        expect(file, !store::read(&folder.join(file))?.is_empty())?;
    }
    let is_served = results.variants.iter().any(|variant| variant.serving.is_some());
    check_figures(&folder.join("figures"), is_served)?;
    println!("{}: {variants} variants of {seeds} seeds, complete", folder.display());
    Ok(())
}

/// Every figure of a report, that of serving where there was any, light and dark, as a PNG that can be read and as an SVG of the same
/// shape; and nothing else.
fn check_figures(folder: &Path, is_served: bool) -> Result<(), Box<dyn std::error::Error>> {
    let mut expected = BTreeSet::new();
    let figures = FIGURES.iter().filter(|name| is_served || **name != "serving");
    for name in figures.flat_map(|name| [(*name).to_owned(), format!("{name}-dark")]) {
        let [picture, drawing] =
            ["png", "svg"].map(|ending| folder.join(format!("{name}.{ending}")));
        let (width, height) =
            size(&store::read(&picture)?).map_err(|e| format!("{}: {e}", picture.display()))?;
        let text = store::read_to_string(&drawing)?;
        let shape = format!("width=\"{}\" height=\"{}\"", width / 2, height / 2);
        let is_whole = text.starts_with("<svg ") && text.trim_end().ends_with("</svg>");
        expect(&format!("{} is drawn whole", drawing.display()), is_whole)?;
        expect(&format!("{} is {shape}", drawing.display()), text.contains(&shape))?;
        expected.extend([picture, drawing]);
    }
    let found: BTreeSet<PathBuf> = store::list(folder)?.into_iter().collect();
    Ok(expect("the figures are those of a report, and no others", found == expected)?)
}

/// Width and height of a PNG whose pixels can all be read.
fn size(file: &[u8]) -> Result<(u32, u32), Box<dyn std::error::Error>> {
    let mut reader = png::Decoder::new(file).read_info()?;
    let mut pixels = vec![0; reader.output_buffer_size()];
    let info = reader.next_frame(&mut pixels)?;
    Ok((info.width, info.height))
}

/// One variant: its runs went through, and its numbers are ones that can be.
fn check(variant: &VariantResult, baseline: &str, seeds: usize) -> Result<(), String> {
    expect("a run a seed", variant.runs.len() == seeds)?;
    for run in &variant.runs {
        expect("no run failed", run.status != Status::Failed)?;
        let accuracy = run.test_accuracy.unwrap_or(f64::NAN);
        expect("accuracy is a share", (0.0..=1.0).contains(&accuracy))?;
    }
    let train = variant.train.as_ref().ok_or("no training time")?;
    let step = train.step_seconds;
    expect("the interval holds the value", step.low.0 <= step.value.0 && step.value <= step.high)?;
    expect("time passed", step.low.0 > 0.0)?;
    let memory = variant.memory.ok_or("no memory")?;
    let parts = [
        memory.weights,
        memory.master_weights,
        memory.gradients,
        memory.optimizer,
        memory.activations,
    ];
    let sum: u64 = parts.iter().map(|part| part.0).sum();
    expect("the categories add up to the peak", sum == memory.peak_bytes.0)?;
    expect("the census counted", variant.numerics.activations.elements > 0)?;
    expect("updates were made", variant.numerics.updates.elements > 0)?;
    expect(
        "a comparison, but of the baseline",
        variant.against_baseline.is_some() == (variant.name != baseline),
    )
}

/// One control: a run a seed; with the same seeds, the baseline's weights and accuracies, and times.
fn check_control(control: &Control, results: &Results, seeds: usize) -> Result<(), String> {
    expect("a run a seed", control.result.runs.len() == seeds)?;
    let baseline = results.variants.iter().find(|v| v.name == results.plan.baseline);
    let baseline = baseline.ok_or("no baseline")?;
    let against = control.result.against_baseline.as_ref().ok_or("no comparison")?;
    let difference = against.accuracy_difference.as_ref().ok_or("no accuracies")?;
    expect("a pair a seed", difference.pairs == seeds)?;
    if control.kind == ControlKind::SameSeeds {
        let pairs = || control.result.runs.iter().zip(&baseline.runs);
        expect("the same seeds", pairs().all(|(again, first)| again.seed == first.seed))?;
        let same = pairs().all(|(again, first)| again.weights_digest == first.weights_digest);
        expect("the same weights", same)?;
        expect("no difference", difference.value == 0.0)?;
        expect("a ratio of times", against.train_time_ratio.is_some())?;
    }
    Ok(())
}

fn expect(what: &str, holds: bool) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("not so: {what}")) }
}
