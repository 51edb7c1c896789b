//! A results file that is not whole: cut short, with NaN in it, or of a newer schema. What can be understood is kept, and
//! each thing that cannot is told.

use serde_json::Value;
use serde_json::error::Category;
use serde_path_to_error::Segment;

use crate::record::{Results, SCHEMA};

/// What is understood of a results file.
#[derive(Debug)]
pub(super) struct Mended {
    /// The results.
    pub(super) results: Results,
    /// One sentence for each thing that is missing.
    pub(super) notes: Vec<String>,
}

/// Why nothing is understood.
#[derive(Debug, PartialEq)]
pub(super) enum Hopeless {
    /// The file ends before what every report needs.
    CutShort(String),
    /// Of this newer schema, and too different.
    Newer(u64),
    /// Something else.
    NotResults(String),
}

/// Reads a results file as far as it goes.
pub(super) fn read(bytes: &[u8]) -> Result<Mended, Hopeless> {
    let strict = match serde_json::from_slice::<Results>(bytes) {
        Ok(results) if results.schema <= SCHEMA => {
            return Ok(Mended { results, notes: Vec::new() });
        }
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    };
    let Whole { text, not_numbers, is_cut } = whole(&String::from_utf8_lossy(bytes));
    let mut value: Value = serde_json::from_str(&text).map_err(|error| {
        let is_empty = error.classify() == Category::Eof;
        if is_empty {
            Hopeless::CutShort(strict.clone())
        } else {
            Hopeless::NotResults(strict.clone())
        }
    })?;
    let schema = value.get("schema").and_then(Value::as_u64);
    let mut notes = Vec::new();
    if is_cut {
        notes.push("results.json is cut short: what follows covers only what is in it. Copy it again, or run the experiment again.".to_owned());
    }
    if not_numbers > 0 {
        notes.push(format!("results.json holds NaN or infinity {not_numbers} times where numbers belong: what was measured there is unknown."));
    }
    if let Some(newer) = schema.filter(|schema| *schema > u64::from(SCHEMA)) {
        notes.push(format!("results.json is of schema {newer}, newer than this program's {SCHEMA}: what it does not know is not shown."));
    }
    let results = results(&mut value, &mut notes).ok_or(match schema {
        _ if is_cut => Hopeless::CutShort(strict.clone()),
        Some(newer) if newer > u64::from(SCHEMA) => Hopeless::Newer(newer),
        _ => Hopeless::NotResults(strict),
    })?;
    Ok(Mended { results, notes })
}

/// JSON with its brackets closed.
struct Whole {
    text: String,
    not_numbers: usize,
    is_cut: bool,
}

/// Closes what is open at the end of a JSON text after its last whole value, and puts null for NaN and infinities.
fn whole(json: &str) -> Whole {
    let mut text = String::with_capacity(json.len());
    let mut open: Vec<char> = Vec::new();
    // Up to where all values are whole, and what is open there.
    let mut safe = (0, Vec::new());
    let mut not_numbers = 0;
    let mut rest = json;
    while let Some(c) = rest.chars().next() {
        if c == '"' {
            let end = end_of_string(rest);
            text.push_str(&rest[..end]);
            rest = &rest[end..];
            continue;
        }
        let known =
            ["NaN", "Infinity", "-Infinity"].into_iter().find(|word| rest.starts_with(word));
        if let Some(word) = known {
            text.push_str("null");
            not_numbers += 1;
            rest = &rest[word.len()..];
            continue;
        }
        if c == ',' {
            safe = (text.len(), open.clone());
        }
        text.push(c);
        match c {
            '{' => open.push('}'),
            '[' => open.push(']'),
            '}' | ']' => drop(open.pop()),
            _ => (),
        }
        if matches!(c, '{' | '[' | '}' | ']') {
            safe = (text.len(), open.clone());
        }
        rest = &rest[c.len_utf8()..];
    }
    let is_cut = !open.is_empty();
    if is_cut {
        text.truncate(safe.0);
        text.extend(safe.1.iter().rev());
    }
    Whole { text, not_numbers, is_cut }
}

/// Where the string that `text` begins with ends: past its closing quote, or at the end.
fn end_of_string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => (),
        }
    }
    text.len()
}

/// The results in a value from which everything that does not fit is taken, with a note for each; none where all would go.
fn results(value: &mut Value, notes: &mut Vec<String>) -> Option<Results> {
    let fields = value.as_object_mut()?;
    fields.entry("complete").or_insert(false.into());
    for list in ["variants", "claims"] {
        fields.entry(list).or_insert(Value::Array(Vec::new()));
    }
    let mut taken: Vec<(String, String)> = Vec::new();
    loop {
        let error = match serde_path_to_error::deserialize(&*value) {
            Ok(results) => {
                let note = |(place, why)| format!("results.json: {place} is not shown: {why}.");
                notes.extend(taken.into_iter().map(note));
                return Some(results);
            }
            Err(error) => error,
        };
        let path: Vec<Segment> = error.path().iter().cloned().collect();
        let gone = take(value, &path)?;
        let place = gone.iter().fold(String::new(), |place, segment| match segment {
            Segment::Seq { index } => format!("{place}[{index}]"),
            _ if place.is_empty() => segment.to_string(),
            _ => format!("{place}.{segment}"),
        });
        // What holds it goes too: one note is enough.
        taken.retain(|(part, _)| !part.starts_with(&place));
        taken.push((place, error.inner().to_string()));
    }
}

/// Takes what stands at a path out of a value, or what holds it, if nothing stands there any more; where that was.
fn take<'a>(value: &mut Value, path: &'a [Segment]) -> Option<&'a [Segment]> {
    let (last, above) = path.split_last()?;
    let holder = above.iter().try_fold(&mut *value, |value, segment| match segment {
        Segment::Seq { index } => value.get_mut(index),
        Segment::Map { key } => value.get_mut(key),
        _ => None,
    });
    match (holder, last) {
        (Some(Value::Array(items)), Segment::Seq { index }) if *index < items.len() => {
            items.remove(*index);
            Some(path)
        }
        (Some(Value::Object(fields)), Segment::Map { key })
            if fields.get(key).is_some_and(|field| !field.is_null()) =>
        {
            fields.insert(key.clone(), Value::Null);
            Some(path)
        }
        _ => take(value, above),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    fn json() -> String {
        serde_json::to_string(&fixture::loaded().results).unwrap()
    }

    #[test]
    fn what_is_open_is_closed_after_the_last_whole_value() {
        for (cut, closed) in [
            (r#"{"a": [1, 2"#, r#"{"a": [1]}"#),
            (r#"{"a": {"b": "x\"y"}, "c": "no"#, r#"{"a": {"b": "x\"y"}}"#),
            (r#"{"a": [{"b": 1}, {"c": NaN"#, r#"{"a": [{"b": 1}, {}]}"#),
            (r#"["NaN", -Infinity]"#, r#"["NaN", null]"#),
        ] {
            assert_eq!(whole(cut).text, closed, "{cut}");
        }
    }

    /// Every prefix of a results file is read as far as it goes, or refused, and never shows what is not in it.
    #[test]
    fn a_file_may_end_anywhere() {
        let json = json();
        let mut most = 0;
        for end in (0..json.len()).step_by(97).filter(|end| json.is_char_boundary(*end)) {
            match read(&json.as_bytes()[..end]) {
                Ok(mended) => {
                    assert!(mended.notes[0].contains("cut short"), "{end}");
                    most = most.max(mended.results.variants.len());
                }
                Err(Hopeless::CutShort(_)) => (),
                Err(other) => panic!("{end}: {other:?}"),
            }
        }
        assert_eq!(most, 5);
    }

    #[test]
    fn nan_takes_what_was_measured_there_and_nothing_else() {
        let step = r#""step_seconds":{"value":0.0042"#;
        let mended =
            read(json().replacen(step, r#""step_seconds":{"value":NaN"#, 1).as_bytes()).unwrap();
        let mut expected = fixture::loaded().results;
        expected.variants[0].train = None;
        assert_eq!(mended.results, expected);
        assert_eq!(mended.notes.len(), 2);
        assert!(mended.notes[1].contains("variants[0].train is not shown"), "{:?}", mended.notes);
    }

    #[test]
    fn a_newer_schema_is_read_as_far_as_it_is_known() {
        let newer = json().replacen(r#""schema":1"#, r#""schema":2,"more":[1]"#, 1);
        let mended = read(newer.as_bytes()).unwrap();
        assert_eq!(mended.results.variants, fixture::loaded().results.variants);
        assert!(mended.notes[0].contains("schema 2"), "{:?}", mended.notes);
        assert_eq!(read(br#"{"schema": 2, "other": []}"#).unwrap_err(), Hopeless::Newer(2));
    }
}
