//! A results file that is not whole: cut short, with NaN in it, or of a newer schema. What can be understood is kept, and
//! each thing that cannot is told.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::error::Category;
use serde_path_to_error::Segment;

use crate::record::{Recommendation, Results, SCHEMA};

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
    let text = String::from_utf8_lossy(bytes);
    let is_text = matches!(text, Cow::Borrowed(_));
    let Whole { text, not_numbers, is_cut } = whole(&text);
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
    if !is_text {
        notes.push(
            "results.json holds bytes that are no text: names with � in them were others."
                .to_owned(),
        );
    }
    let mut results = results(&mut value, &mut notes).ok_or(match schema {
        _ if is_cut => Hopeless::CutShort(strict.clone()),
        Some(newer) if newer > u64::from(SCHEMA) => Hopeless::Newer(newer),
        _ => Hopeless::NotResults(strict),
    })?;
    if is_cut {
        results.complete = false;
        results.recommendation = Some(Recommendation {
            variant: None,
            reason: "The results file is cut short, and what is missing may decide.".to_owned(),
            ..Recommendation::default()
        });
    }
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
    // Up to where all values are whole, and how much is open there: nothing of that is closed before the next such place.
    let mut safe = (0, 0);
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
            safe = (text.len(), open.len());
        }
        text.push(c);
        match c {
            '{' => open.push('}'),
            '[' => open.push(']'),
            '}' | ']' => drop(open.pop()),
            _ => (),
        }
        if matches!(c, '{' | '[' | '}' | ']') {
            safe = (text.len(), open.len());
        }
        rest = &rest[c.len_utf8()..];
    }
    let is_cut = !open.is_empty();
    if is_cut {
        text.truncate(safe.0);
        text.extend(open[..safe.1].iter().rev());
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

/// What does not fit is taken out one by one up to this number: a file with more of it is not ours.
const MOST_TAKEN: usize = 500;

/// Notes on what was taken out; more would say no more.
const MOST_NOTES: usize = 10;

/// The results in a value from which everything that does not fit is taken, with a note for each; none where all would go.
fn results(value: &mut Value, notes: &mut Vec<String>) -> Option<Results> {
    let fields = value.as_object_mut()?;
    fields.entry("complete").or_insert(false.into());
    for list in ["variants", "claims"] {
        fields.entry(list).or_insert(Value::Array(Vec::new()));
    }
    let mut taken = Taken::default();
    for _ in 0..MOST_TAKEN {
        let error = match serde_path_to_error::deserialize(&*value) {
            Ok(results) => {
                notes.extend(taken.notes());
                return Some(results);
            }
            Err(error) => error,
        };
        let path: Vec<Segment> = error.path().iter().cloned().collect();
        let gone = take(value, &path)?;
        taken.note(gone, error.inner().to_string());
    }
    None
}

/// What was taken out of a value, under the places that it had there at first.
#[derive(Default)]
struct Taken {
    /// How many items were taken out of each list.
    items: BTreeMap<String, usize>,
    /// Each place, and why it went.
    places: Vec<(String, String)>,
}

impl Taken {
    /// Notes what went from a path.
    fn note(&mut self, gone: &[Segment], why: String) {
        let mut place = String::new();
        for (depth, segment) in gone.iter().enumerate() {
            if let Segment::Seq { index } = segment {
                let before = self.items.entry(place.clone()).or_default();
                // Items are taken from the front on: those that went stood before this one.
                let first = index + *before;
                *before += usize::from(depth + 1 == gone.len());
                place = format!("{place}[{first}]");
            } else if place.is_empty() {
                place = segment.to_string();
            } else {
                place = format!("{place}.{segment}");
            }
        }
        // What held it went too: one note is enough.
        let is_part = |part: &str| {
            part.strip_prefix(&place)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.places.retain(|(part, _)| !is_part(part));
        self.places.push((place, why));
    }

    fn notes(self) -> Vec<String> {
        let note =
            |(place, why): &(String, String)| format!("results.json: {place} is not shown: {why}.");
        let mut notes: Vec<String> = self.places.iter().take(MOST_NOTES).map(note).collect();
        if self.places.len() > MOST_NOTES {
            let more = self.places.len() - MOST_NOTES;
            notes.push(format!("results.json: {more} more parts are not shown."));
        }
        notes
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
        (Some(Value::Object(fields)), Segment::Map { key }) if fields.contains_key(key) => {
            fields.remove(key);
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
        let (json, whole) = (json(), fixture::loaded().results);
        let mut most = 0;
        for end in (0..json.len()).step_by(97) {
            let mended = match read(&json.as_bytes()[..end]) {
                Ok(mended) => mended,
                Err(Hopeless::CutShort(_)) => continue,
                Err(other) => panic!("{end}: {other:?}"),
            };
            assert!(mended.notes[0].contains("cut short"), "{end}");
            let Results { complete, variants, claims, recommendation, .. } = mended.results;
            assert_eq!((complete, recommendation.unwrap().variant), (false, None), "{end}");
            most = most.max(variants.len());
            // The last may lack its end; nothing is made up.
            let before = variants.len().saturating_sub(1);
            assert_eq!(variants[..before], whole.variants[..before], "{end}");
            let judged = claims.len().saturating_sub(1);
            assert_eq!(claims[..judged], whole.claims[..judged], "{end}");
            if let Some(last) = claims.last() {
                let whole = &whole.claims[judged];
                assert_eq!((&last.id, &last.variant), (&whole.id, &whole.variant), "{end}");
                assert!([None, Some(last.verdict)].contains(&Some(whole.verdict)), "{end}");
                assert!(last.missing.is_none() || last.missing == whole.missing, "{end}");
            }
            if let Some(last) = variants.last() {
                assert!(whole.variants[before].runs.starts_with(&last.runs), "{end}");
            }
        }
        assert_eq!(most, 5);
    }

    #[test]
    fn each_part_that_goes_is_told_where_it_stood() {
        let mut value: Value = serde_json::from_str(&json()).unwrap();
        value["variants"][1]["runs"][0]["seed"] = "x".into();
        value["variants"][1]["runs"][2]["seed"] = "x".into();
        value["variants"][3]["name"] = 5.into();
        value["plan"]["claims"]["later"] = 5.into();
        let mended = read(value.to_string().as_bytes()).unwrap();
        let places: Vec<&str> =
            mended.notes.iter().map(|note| note.split(" is not").next().unwrap()).collect();
        let expected = ["variants[1].runs[0]", "variants[1].runs[2]", "variants[3]"];
        assert_eq!(places, expected.map(|place| format!("results.json: {place}")));
        assert_eq!(mended.results.variants.len(), 4);
        let many = value["claims"].as_array_mut().unwrap();
        many.extend(vec![Value::from("no claim"); 100]);
        let mended = read(value.to_string().as_bytes()).unwrap();
        assert_eq!(mended.notes.len(), MOST_NOTES + 1);
    }

    /// With a stack copied at each bracket this would take minutes.
    #[test]
    fn open_brackets_without_end_are_refused() {
        assert!(matches!(
            read("[".repeat(400_000).as_bytes()),
            Err(Hopeless::NotResults(_) | Hopeless::CutShort(_))
        ));
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
