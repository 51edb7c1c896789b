//! Numbers, lists and texts from outside as a reader sees them, wherever a sentence is made. Knows no record.

use std::ops::RangeInclusive;

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

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// `1 run`, `2,000 runs`.
pub fn plural(number: usize, noun: &str) -> String {
    let end = if number == 1 { "" } else { "s" };
    format!("{} {noun}{end}", count(number as u64))
}

/// A list of at most `most` names; more are only counted.
pub fn list_of_at_most(most: usize, mut names: Vec<String>) -> String {
    let more = names.len().saturating_sub(most);
    names.truncate(most);
    if more > 0 {
        names.push(format!("{} more", count(more as u64)));
    }
    list(&names)
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

/// Four significant digits, with an exponent where that is below −4 or over 3: C's and Python's `%.4g`.
pub fn four_digits(value: f64) -> String {
    let scientific = format!("{value:.3e}");
    let Some((digits, exponent)) = scientific.split_once('e') else {
        return value.to_string();
    };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..4).contains(&exponent) {
        let decimals = (3 - exponent) as usize;
        return without_zeros(&format!("{value:.decimals$}")).to_owned();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", without_zeros(digits), exponent.abs())
}

/// A decimal fraction without zeros at its end.
fn without_zeros(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

/// A text from outside as people see it, on one line: what would command a terminal, break the line, change the direction
/// of writing or not be seen at all stands as Rust writes it, `\u{1b}`.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unseen(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Text that Markdown shows as it is: on one line, without markup, HTML or table bars.
pub fn markdown(text: &str) -> String {
    let mut escaped = String::new();
    for c in printable(text).chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '#' | '$' => {
                escaped.push('\\');
                escaped.push(c);
            }
            _ => escaped.push(c),
        }
    }
    escaped
}

/// Whether a character is a control, or one of those that Unicode calls default ignorable (bidirectional controls among
/// them), a separator of lines, an interlinear mark or no character. Variation selectors are left: emoji have them.
fn is_unseen(c: char) -> bool {
    const UNSEEN: [RangeInclusive<char>; 17] = [
        '\u{ad}'..='\u{ad}',
        '\u{34f}'..='\u{34f}',
        '\u{61c}'..='\u{61c}',
        '\u{115f}'..='\u{1160}',
        '\u{17b4}'..='\u{17b5}',
        '\u{180b}'..='\u{180f}',
        '\u{200b}'..='\u{200f}',
        '\u{2028}'..='\u{202e}',
        '\u{2060}'..='\u{206f}',
        '\u{3164}'..='\u{3164}',
        '\u{feff}'..='\u{feff}',
        '\u{ffa0}'..='\u{ffa0}',
        '\u{fff0}'..='\u{fffb}',
        '\u{fffe}'..='\u{ffff}',
        '\u{1bca0}'..='\u{1bca3}',
        '\u{1d173}'..='\u{1d17a}',
        '\u{e0000}'..='\u{e0fff}',
    ];
    c.is_control() || UNSEEN.iter().any(|range| range.contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Python: [format(x, ".4g") for x in (0.12346, 0.5, 2.0, 0.0, -0.0, 1234.4, 9999.4, 9999.6, 12345.0, 0.0001,
    //     0.00009999, 0.000099996, 184275846999772713239990981623808.0, 1e300, 5e-324, -3.25e-7, 2.3026)]
    #[test]
    fn a_loss_of_any_size_has_four_digits() {
        for (value, expected) in [
            (0.123_46, "0.1235"),
            (0.5, "0.5"),
            (2.0, "2"),
            (0.0, "0"),
            (-0.0, "-0"),
            (1234.4, "1234"),
            (9999.4, "9999"),
            (9999.6, "1e+04"),
            (12345.0, "1.234e+04"),
            (0.0001, "0.0001"),
            (0.000_099_99, "9.999e-05"),
            (0.000_099_996, "0.0001"),
            (184_275_846_999_772_713_239_990_981_623_808.0, "1.843e+32"),
            (1e300, "1e+300"),
            (5e-324, "4.941e-324"),
            (-3.25e-7, "-3.25e-07"),
            (2.5126, "2.513"),
        ] {
            assert_eq!(four_digits(value), expected);
        }
    }

    #[test]
    fn what_cannot_be_seen_is_written_out() {
        for (text, shown) in [
            ("épée 日本 ±2× — “é” ✔\u{fe0f}", "épée 日本 ±2× — “é” ✔\u{fe0f}"),
            ("\u{1b}[31mred\u{7f}\u{9b}2J", "\\u{1b}[31mred\\u{7f}\\u{9b}2J"),
            ("a\nb\tc\r\0", "a\\u{a}b\\u{9}c\\u{d}\\u{0}"),
            ("fp\u{202e}61\u{2069}", "fp\\u{202e}61\\u{2069}"),
            // "Trojan Source" (CVE-2021-42574): overrides, isolates and marks of direction.
            ("a\u{202e}b\u{2066}c\u{2069}d\u{200f}", "a\\u{202e}b\\u{2066}c\\u{2069}d\\u{200f}"),
            ("zero\u{200b}width\u{feff}", "zero\\u{200b}width\\u{feff}"),
            ("tag\u{e0041}", "tag\\u{e0041}"),
        ] {
            assert_eq!(printable(text), shown);
            assert_eq!(printable(shown), shown, "twice is as once");
        }
    }

    // Python: import sys, unicodedata as u
    //   [f"{c:x}" for c in range(sys.maxunicode + 1) if u.category(chr(c)) in ("Cc", "Cf", "Zl", "Zp")]
    // as ranges, without the signs that are drawn over or before digits and letters (600 to 605, 6dd, 70f, 890, 891, 8e2,
    // 110bd, 110cd, 13430 to 1343f).
    #[test]
    fn every_control_and_invisible_format_character_is_written_out() {
        for (first, last) in [
            (0x0, 0x1f),
            (0x7f, 0x9f),
            (0xad, 0xad),
            (0x61c, 0x61c),
            (0x180e, 0x180e),
            (0x200b, 0x200f),
            (0x2028, 0x202e),
            (0x2060, 0x2064),
            (0x2066, 0x206f),
            (0xfeff, 0xfeff),
            (0xfff9, 0xfffb),
            (0x1_bca0, 0x1_bca3),
            (0x1_d173, 0x1_d17a),
            (0xe_0001, 0xe_0001),
            (0xe_0020, 0xe_007f),
        ] {
            for c in (first..=last).filter_map(char::from_u32) {
                assert_eq!(printable(&c.to_string()), format!("\\u{{{:x}}}", u32::from(c)));
            }
        }
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
            (plural(11_708, "training text"), "11,708 training texts"),
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
