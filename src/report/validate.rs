//! Refuses numbers that no measurement gives: an accuracy above 1, a step of years, more overflows than values. A file that was edited
//! or damaged holds such, and a report would show them as measured. The ranges are wide: what a strange machine might measure
//! is accepted.

use serde_json::{Map, Value};

/// The range of numbers by the end of their place; an estimate's value and ends have its own. Anything else is below 10¹⁸.
const RANGES: [(&str, f64, f64); 53] = [
    ("test_accuracy", 0.0, 1.0),
    ("evaluations.accuracy", 0.0, 1.0),
    ("accuracy_difference.value", -1.0, 1.0),
    // Its ends lie outside −1 to 1 where seeds are few.
    ("accuracy_difference", -1e3, 1e3),
    ("test_squared_error", 0.0, 3.5e38),
    ("evaluations.squared_error", 0.0, 3.5e38),
    ("test_perplexity", 1.0, f64::MAX),
    ("evaluations.perplexity", 1.0, f64::MAX),
    // A difference of errors, and its interval.
    ("squared_error_difference", -3.5e40, 3.5e40),
    ("perplexity_difference", -f64::MAX, f64::MAX),
    ("p", 0.0, 1.0),
    ("p_holm", 0.0, 1.0),
    ("probability_better", 0.0, 1.0),
    // A loss is computed in f32; rounding may leave a little under 0.
    ("loss", -0.01, 3.5e38),
    ("final_loss", -0.01, 3.5e38),
    ("scale", 0.0, 3.5e38),
    // From a picosecond to a year.
    ("step_seconds", 1e-12, 3.2e7),
    ("batch_seconds", 1e-12, 3.2e7),
    ("blocks", 1e-12, 3.2e7),
    ("phases.data", 0.0, 3.2e7),
    ("phases.forward", 0.0, 3.2e7),
    ("phases.backward", 0.0, 3.2e7),
    ("phases.unscale", 0.0, 3.2e7),
    ("phases.update", 0.0, 3.2e7),
    ("samples_per_second", 1e-8, 1e16),
    // Operations per second: the fastest computer of 2025 does about 10¹⁸.
    ("work.rate", 1e-3, 1e20),
    ("work.peak", 1e-3, 1e20),
    // Above 1 where the peak was measured while the machine was busy.
    ("work.share_of_peak", 0.0, 1e3),
    ("step_joules", 0.0, 1e12),
    ("power_watts", 0.0, 1e6),
    ("train_time_ratio", 1e-6, 1e6),
    ("train_memory_ratio", 1e-6, 1e6),
    ("inference_time_ratio", 1e-6, 1e6),
    ("inference_memory_ratio", 1e-6, 1e6),
    ("prefill_tokens_per_second", 1e-8, 1e16),
    ("decode_tokens_per_second", 1e-8, 1e16),
    ("prefill_blocks", 1e-12, 3.2e7),
    ("decode_blocks", 1e-12, 3.2e7),
    ("prefill_time_ratio", 1e-6, 1e6),
    ("decode_time_ratio", 1e-6, 1e6),
    ("memory_ratio", 1e-6, 1e6),
    ("agreement.equal_tokens", 0.0, 1e9),
    // Rounding may leave a little under 0.
    ("kl_divergence", -1e-6, 1e9),
    // Exponents of all that f64 holds.
    ("exponents.first", -1100.0, 1100.0),
    // Counts of one layer in one run: their sum over 10,000 runs fits 64 bits.
    ("exponents.bins", 0.0, 1e15),
    ("exponents.zeros", 0.0, 1e15),
    ("exponents.non_finite", 0.0, 1e15),
    ("census.counts.elements", 0.0, 1e15),
    ("settling_census.counts.elements", 0.0, 1e15),
    ("rejected_census.counts.elements", 0.0, 1e15),
    ("step", 0.0, 1e9),
    ("steps", 0.0, 1e9),
    ("seed", 0.0, u64::MAX as f64),
];

/// What is at most as large as another number of the same object.
const AT_MOST: [(&str, &str); 17] = [
    ("low", "high"),
    ("overflow", "elements"),
    ("underflow", "elements"),
    ("subnormal", "elements"),
    ("nan", "elements"),
    ("zero", "elements"),
    ("infinite", "elements"),
    ("lost", "elements"),
    ("skipped_steps", "steps"),
    ("weights", "peak_bytes"),
    ("master_weights", "peak_bytes"),
    ("gradients", "peak_bytes"),
    ("optimizer", "peak_bytes"),
    ("activations", "peak_bytes"),
    ("work_space", "activations"),
    ("cache", "peak_bytes"),
    ("equal_tokens", "tokens"),
];

/// Says of a results file or a run's record which of its numbers cannot have been measured, if any: the first one.
pub(super) fn numbers(file: &mut Value) -> Result<(), String> {
    if let Some(fields) = file.as_object_mut() {
        // Chosen by a person, and reported by the machine.
        fields.retain(|name, _| !["plan", "environment", "identity"].contains(&name.as_str()));
    }
    below(file, "", "")
}

/// The same of what stands at a place, which is called `kind` without the numbers of its items.
fn below(value: &Value, place: &str, kind: &str) -> Result<(), String> {
    match value {
        Value::Number(number) => number.as_f64().map_or(Ok(()), |number| one(number, place, kind)),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(index, item)| below(item, &format!("{place}[{index}]"), kind)),
        Value::Object(fields) => {
            ordered(fields, place)?;
            let join = |above: &str, name: &str| match above {
                "" => name.to_owned(),
                above => format!("{above}.{name}"),
            };
            fields
                .iter()
                .try_for_each(|(name, field)| below(field, &join(place, name), &join(kind, name)))
        }
        _ => Ok(()),
    }
}

/// Whether a number is in the range of its kind.
fn one(number: f64, place: &str, kind: &str) -> Result<(), String> {
    let estimated = ["value", "low", "high"].iter().find_map(|end| kind.strip_suffix(end));
    let estimated = estimated.and_then(|kind| kind.strip_suffix('.')).unwrap_or(kind);
    let ends = |whole: &str, end: &str| {
        whole.strip_suffix(end).is_some_and(|start| start.is_empty() || start.ends_with('.'))
    };
    let range = RANGES.iter().find(|(end, ..)| ends(kind, end) || ends(estimated, end));
    let (least, most) = range.map_or((-1e18, 1e18), |(_, least, most)| (*least, *most));
    if (least..=most).contains(&number) {
        return Ok(());
    }
    Err(format!("{place} is {}, outside {} to {}", shown(number), shown(least), shown(most)))
}

/// Whether the numbers of an object are as large as they can be beside each other.
fn ordered(fields: &Map<String, Value>, place: &str) -> Result<(), String> {
    for (name, whole) in AT_MOST {
        let number = |name| fields.get(name).and_then(Value::as_f64);
        if let (Some(part), Some(most)) = (number(name), number(whole))
            && part > most
        {
            let (part, most) = (shown(part), shown(most));
            return Err(format!("{place}.{name} is {part}, above its {whole} of {most}"));
        }
    }
    Ok(())
}

/// A number as a file has it.
fn shown(number: f64) -> String {
    format!("{number:?}").trim_end_matches(".0").to_owned()
}

#[cfg(test)]
mod tests;
