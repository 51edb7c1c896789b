//! Numbers, lists and texts of others as a reader sees them, wherever a sentence is made. Knows no record.

use std::borrow::Cow;
use std::fmt::Write as _;

/// `1,234,567`.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 run`, `2 runs`.
pub fn plural(number: usize, noun: &str) -> String {
    let end = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{end}")
}

/// `a, b and c`.
pub fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [only] => only.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

/// A difference of accuracies in percentage points, without the unit: `+0.12`, `−0.12`, `±0.00`.
pub fn points(difference: f64) -> String {
    let text = points_apart(difference);
    let sign = match (text.as_str(), difference < 0.0) {
        ("0.00", _) => "±",
        (_, true) => "−",
        (_, false) => "+",
    };
    format!("{sign}{text}")
}

/// How far two accuracies are apart, whichever is larger, in percentage points and without the unit: `0.12`.
pub fn points_apart(difference: f64) -> String {
    format!("{:.2}", (difference * 100.0).abs())
}

/// A share that somebody chose, from 0 to 1, with all its digits in percent: `1%`, `0.25%`.
pub fn chosen_share(share: f64) -> String {
    // Thirteen digits: a hundred times 0.07 is 7.000000000000001.
    let percent = format!("{:.12e}", share * 100.0).parse().unwrap_or(share * 100.0);
    format!("{percent}%")
}

/// A text of somebody else, safe to show: a character that would command a terminal, turn the direction of the line or not
/// be seen is written as `\u{1b}`. A line feed stays.
pub fn shown(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unseen) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_unseen(c) {
            let _ = write!(escaped, "{}", c.escape_unicode());
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

/// Control characters, those that format without being seen (Unicode's Cf, as far as they leave no mark), line separators,
/// and the two that XML forbids.
fn is_unseen(c: char) -> bool {
    match c {
        '\n' => false,
        '\u{ad}'
        | '\u{61c}'
        | '\u{180e}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{fffe}'
        | '\u{ffff}'
        | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e007f}' => true,
        _ => c.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_seen_is_shown_escaped() {
        for (text, expected) in [
            ("fp16-mixed µ ±2×\nnext", "fp16-mixed µ ±2×\nnext"),
            ("\u{1b}[31mred\u{7}\r\t", r"\u{1b}[31mred\u{7}\u{d}\u{9}"),
            ("\u{7f}\u{9b}31m", r"\u{7f}\u{9b}31m"),
            // "Trojan Source" (CVE-2021-42574): overrides, isolates and marks of direction.
            ("a\u{202e}b\u{2066}c\u{2069}d\u{200f}", r"a\u{202e}b\u{2066}c\u{2069}d\u{200f}"),
            (
                "fp\u{200b}32\u{feff}\u{ad}\u{2028}\u{e0041}",
                r"fp\u{200b}32\u{feff}\u{ad}\u{2028}\u{e0041}",
            ),
        ] {
            assert_eq!(shown(text), expected);
        }
        assert!(matches!(shown("plain"), Cow::Borrowed(_)));
    }

    #[test]
    fn numbers_and_lists_read_as_a_person_would_write_them() {
        let items = ["a", "b", "c"].map(str::to_owned);
        for (printed, expected) in [
            (count(0), "0"),
            (count(999), "999"),
            (count(1000), "1,000"),
            (count(1_234_567), "1,234,567"),
            (plural(0, "run"), "0 runs"),
            (plural(1, "run"), "1 run"),
            (list(&[]), ""),
            (list(&items[..1]), "a"),
            (list(&items[..2]), "a and b"),
            (list(&items), "a, b and c"),
            (points(0.0012), "+0.12"),
            (points(-0.0012), "−0.12"),
            (points(-0.000_01), "±0.00"),
            (points_apart(-0.0012), "0.12"),
            (points_apart(0.0), "0.00"),
            (chosen_share(0.01), "1%"),
            (chosen_share(0.07), "7%"),
            (chosen_share(0.0025), "0.25%"),
            (chosen_share(1e-7), "0.00001%"),
        ] {
            assert_eq!(printed, expected);
        }
    }
}
