//! What `mantissa experiment --dry-run` prints.

use super::Failure;
use super::progress::about;
use crate::experiment::{DryRun, DryVariant};
use crate::formatting::{count, list};
use crate::spec::Plan;
use crate::units::Bytes;

/// The plan as TOML, then what it would take.
pub(super) fn page(plan: &Plan, found: &DryRun) -> Result<String, Failure> {
    let plan_text = toml::to_string(plan).map_err(Failure::machine)?;
    let parts = [
        format!("# The plan, with every default filled in\n{plan_text}"),
        format!("# The data\n{}\n", found.data),
        parameters(&found.parameters),
        memory(&found.variants),
        time(plan, found),
    ];
    Ok(parts.join("\n"))
}

fn parameters(parameters: &[(String, Vec<usize>)]) -> String {
    let values = |shape: &[usize]| shape.iter().map(|size| *size as u64).product::<u64>();
    let rows = parameters.iter().map(|(name, shape)| {
        let sizes: Vec<String> = shape.iter().map(ToString::to_string).collect();
        [name.clone(), sizes.join(" × "), count(values(shape))]
    });
    let all = parameters.iter().map(|(_, shape)| values(shape)).sum();
    let rows: Vec<_> = rows.chain([["all".to_owned(), String::new(), count(all)]]).collect();
    format!("# Parameters\n{}", columns(&rows))
}

fn memory(variants: &[DryVariant]) -> String {
    let titles = ["variant", "weights", "master weights", "gradients", "optimizer"];
    let row = |variant: &DryVariant| {
        let [weights, master_weights, gradients, optimizer] =
            variant.memory.map(|bytes: Bytes| bytes.to_string());
        [variant.name.clone(), weights, master_weights, gradients, optimizer]
    };
    let rows: Vec<_> =
        [titles.map(str::to_owned)].into_iter().chain(variants.iter().map(row)).collect();
    format!("# Memory of training, without activations\n{}", columns(&rows))
}

fn time(plan: &Plan, found: &DryRun) -> String {
    let steps = found.variants.iter().filter_map(|variant| {
        let step = variant.step?;
        Some([variant.name.clone(), format!("{step} per step")])
    });
    let steps: Vec<_> = steps.collect();
    let untimed = found.variants.iter().filter(|variant| variant.step.is_none());
    let untimed: Vec<String> = untimed
        .map(|variant| match &variant.failure {
            Some(failure) => format!("{} ({failure})", variant.name),
            None => format!("{} (emulated)", variant.name),
        })
        .collect();
    let mut text = format!(
        "# Time, from {} steps per variant\n{}",
        plan.measure.timing_steps,
        columns(&steps)
    );
    if let Some(estimate) = found.estimate {
        text += &format!("In all {}", about(estimate.0));
        if untimed.is_empty() {
            text += ".\n";
        } else {
            text += &format!(", without {}.\n", list(&untimed));
        }
    } else {
        text += &format!("No time for {}.\n", list(&untimed));
    }
    text
}

/// Rows under each other, the first column to the left, the others to the right.
fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).enumerate().map(|(place, (cell, width))| match place {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}
