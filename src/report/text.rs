//! Numbers and names as a reader sees them. Every renderer takes its words from here.

use std::fmt::Display;

use crate::record::{
    ClaimMeasure, ClaimVerdict, Environment, Estimate, Failure, MetricVerdict, Role, Status,
    TestMetric,
};

pub(super) use crate::formatting::{count, list, plural, printable};

/// What stands where nothing was measured.
pub(super) const NOT_MEASURED: &str = "—";

/// A share from 0 to 1 in percent with two significant digits: `12%`, `0.034%`, `2.1e-5%`, and `0%` only for 0.
pub(super) fn share(value: f64) -> String {
    let percent = value * 100.0;
    match percent {
        0.0 => "0%".to_owned(),
        p if p < 0.000_95 => format!("{p:.1e}%"),
        p if p < 0.0095 => format!("{p:.4}%"),
        p if p < 0.095 => format!("{p:.3}%"),
        p if p < 0.95 => format!("{p:.2}%"),
        p if p < 9.95 => format!("{p:.1}%"),
        p => format!("{p:.0}%"),
    }
}

/// An interval with its unit said once: `12.1–12.5 ms`.
pub(super) fn interval<T: Display>(low: T, high: T) -> String {
    let (low, high) = (low.to_string(), high.to_string());
    let unit = |text: &str| {
        let end = text.rfind(|c: char| c.is_ascii_digit()).map_or(0, |at| at + 1);
        text[end..].to_owned()
    };
    let shared = unit(&low);
    if shared == unit(&high) {
        let bare = low.strip_suffix(shared.as_str()).unwrap_or(&low);
        format!("{bare}–{high}")
    } else {
        format!("{low}–{high}")
    }
}

/// A point with its interval: `0.52× (0.51–0.53×)`.
pub(super) fn estimate<T: Display + Copy>(estimate: Estimate<T>) -> String {
    format!("{} ({})", estimate.value, interval(estimate.low, estimate.high))
}

/// The number a claim was judged by, with its interval where it has one: by the claim, a difference of the metric, a share
/// or a ratio.
pub(super) fn measure(claim: &str, metric: TestMetric, measured: Option<ClaimMeasure>) -> String {
    let Some(measured) = measured else {
        return NOT_MEASURED.to_owned();
    };
    let signed = |value| metric.signed(value);
    let (print, unit): (&dyn Fn(f64) -> String, _) = match claim {
        "accuracy-kept" | "master-weights" => (&signed, metric.unit_of_differences()),
        "loss-scaling" => (&share, ""),
        _ => (&decimal, "×"),
    };
    let value = print(measured.value) + unit;
    match (measured.low, measured.high) {
        (Some(low), Some(high)) => format!("{value} ({} to {})", print(low), print(high)),
        _ => value,
    }
}

/// Three significant digits, with an exponent where zeros would fill the line.
pub(super) fn decimal(value: f64) -> String {
    let text = match value.abs() {
        0.0 => "0".to_owned(),
        v if !(0.001..1e6).contains(&v) => format!("{value:.2e}"),
        v => {
            let decimals = (2.0 - v.log10().floor()).clamp(0.0, 5.0) as usize;
            format!("{value:.decimals$}")
        }
    };
    text.replace('-', "−")
}

/// So many a second: three significant digits, and all digits before the point.
pub(super) fn rate(value: f64) -> String {
    if value < 100.0 { decimal(value) } else { count(value.round() as u64) }
}

/// A number as an exponent.
pub(super) fn raised(number: i32) -> String {
    let digit = |c: char| match c {
        '-' => '⁻',
        '0' => '⁰',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        '4' => '⁴',
        '5' => '⁵',
        '6' => '⁶',
        '7' => '⁷',
        '8' => '⁸',
        _ => '⁹',
    };
    number.to_string().chars().map(digit).collect()
}

/// At most `length` characters: the start and the end, with `…` for what is left out between.
pub(super) fn shorten(text: &str, length: usize) -> String {
    let all: Vec<char> = text.chars().collect();
    if all.len() <= length {
        return text.to_owned();
    }
    let end = length / 3;
    let start = length.saturating_sub(end + 1);
    let (start, end) = (&all[..start], &all[all.len() - end..]);
    start.iter().chain(&['…']).chain(end).collect()
}

/// Lines of at most `width` characters, broken between words. A longer word has a line of its own.
pub(super) fn wrap(text: &str, width: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

/// Where and with what an experiment ran, in a few parts.
pub(super) fn origin(environment: &Environment) -> Vec<String> {
    let threads = environment.threads;
    let parts = [
        environment.device.clone(),
        environment.device_name.clone(),
        if threads > 0 { plural(threads, "thread") } else { String::new() },
        format!("mantissa {}", environment.version),
        environment.started.clone(),
    ];
    parts.into_iter().filter(|part| !part.is_empty()).map(|part| printable(&part)).collect()
}

/// How a run ended, in a word.
pub(super) fn status(status: Status) -> &'static str {
    match status {
        Status::Completed => "completed",
        Status::Diverged => "diverged",
        Status::Failed => "failed",
    }
}

/// Where and why a run stopped, on one line: `at step 130 in layer hidden.1: the loss is not finite`.
pub(super) fn failure(failure: &Failure) -> String {
    let layer = failure.layer.as_ref().map(|layer| format!(" in layer {layer}"));
    let reason = failure.reason.lines().next().unwrap_or_default();
    format!(
        "at step {}{}: {}",
        count(failure.step),
        layer.unwrap_or_default(),
        reason.trim_end_matches('.')
    )
}

/// What the differences allow to say, in a word.
pub(super) fn verdict(verdict: MetricVerdict) -> &'static str {
    match verdict {
        MetricVerdict::Worse => "worse",
        MetricVerdict::Better => "better",
        MetricVerdict::Equivalent => "equivalent",
        MetricVerdict::Inconclusive => "inconclusive",
    }
}

/// How a claim fared here, without praise or blame: a claim that did not hold may be good news.
pub(super) fn claim_verdict(verdict: ClaimVerdict) -> &'static str {
    match verdict {
        ClaimVerdict::Confirmed => "held",
        ClaimVerdict::Refuted => "did not hold",
        ClaimVerdict::Inconclusive => "open",
        ClaimVerdict::NotMeasured => "not measured",
    }
}

/// The role of a tensor, in words.
pub(super) fn role(role: Role) -> &'static str {
    match role {
        Role::Weights => "weights",
        Role::Activations => "activations",
        Role::ActivationGradients => "activation gradients",
        Role::WeightGradients => "weight gradients",
        Role::Updates => "updates",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Bytes, Ratio, Seconds};

    #[test]
    fn numbers_read_as_a_person_would_write_them() {
        for (printed, expected) in [
            (share(0.0), "0%"),
            (share(1.0), "100%"),
            (share(0.0123), "1.2%"),
            (share(0.000_34), "0.034%"),
            (share(2.1e-7), "2.1e-5%"),
            (interval(Seconds(0.0121), Seconds(0.0125)), "12.1–12.5 ms"),
            (interval(Seconds(0.9), Seconds(1.1)), "900 ms–1.10 s"),
            (interval(Ratio(0.51), Ratio(0.53)), "0.51–0.53×"),
            (interval(Bytes(5), Bytes(7)), "5–7 B"),
            (decimal(0.516), "0.516"),
            (decimal(-12.34), "−12.3"),
            (decimal(1234.5), "1234"),
            (decimal(2.5e-7), "2.50e−7"),
            (printable("a\u{1b}[31mb\n"), "a\\u{1b}[31mb\\u{a}"),
            (shorten("precision-seven", 9), "preci…ven"),
            (wrap("a step is slower", 9), "a step is\nslower"),
            (wrap("unsplittable a b", 5), "unsplittable\na b"),
        ] {
            assert_eq!(printed, expected);
        }
    }
}
