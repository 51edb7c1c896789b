//! How plans differ: a digest, and in words.

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::{CheckpointEvery, Plan};
use crate::formatting;

/// A value that differs is cut after so many characters.
const LONGEST_VALUE: usize = 100;

impl Plan {
    /// SHA-256 of the plan as compact JSON, in hexadecimal digits. Published figures are no part of it, nor when runs are kept
    /// as checkpoints: nothing that is measured depends on them.
    pub fn digest(&self) -> String {
        let mut plan = Self { reference: None, ..self.clone() };
        plan.train.checkpoint_every = CheckpointEvery::default();
        formatting::hex(&Sha256::digest(serde_json::to_vec(&plan).unwrap_or_default()))
    }

    /// The values in which a plan that is here differs from this one, such as `train.steps is 3 there, 4 here`.
    pub fn differences(&self, here: &Self) -> Vec<String> {
        let [there, here] = [self, here].map(|plan| serde_json::to_value(plan).unwrap_or_default());
        values_that_differ("", &there, &here)
    }
}

/// The values that differ, each by its key with both values. Where the kinds differ, that says all.
pub(crate) fn values_that_differ(key: &str, there: &Value, here: &Value) -> Vec<String> {
    let below = |part: &str| if key.is_empty() { part.to_owned() } else { format!("{key}.{part}") };
    match (there, here) {
        _ if there == here => Vec::new(),
        (Value::Object(old), Value::Object(new)) => {
            let kind = (old.get("kind"), new.get("kind"));
            if let (Some(old), Some(new)) = kind
                && old != new
            {
                return values_that_differ(&below("kind"), old, new);
            }
            let missing = |of: &Map<String, Value>, name: &String| {
                of.get(name).cloned().unwrap_or(Value::Null)
            };
            let added = new.keys().filter(|name| !old.contains_key(*name));
            let names = old.keys().chain(added);
            names
                .flat_map(|name| {
                    values_that_differ(&below(name), &missing(old, name), &missing(new, name))
                })
                .collect()
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            let pairs = old.iter().zip(new).enumerate();
            pairs
                .flat_map(|(index, (old, new))| {
                    values_that_differ(&format!("{key}[{index}]"), old, new)
                })
                .collect()
        }
        _ => vec![format!("{key} is {} there, {} here", short(there), short(here))],
    }
}

/// A value as JSON, without its end where that is long; a value that is not given is none.
fn short(value: &Value) -> String {
    if value.is_null() {
        return "none".to_owned();
    }
    let text = value.to_string();
    match text.char_indices().nth(LONGEST_VALUE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_value_that_differs_is_named_with_both() {
        let one =
            json!({"train": {"steps": 3, "clip": null}, "model": {"kind": "mlp", "hidden": [8]}});
        for (changes, expected) in [
            (vec![], vec![]),
            (vec![("/train/steps", json!(4))], vec!["train.steps is 3 there, 4 here"]),
            (vec![("/train/clip", json!(1.5))], vec!["train.clip is none there, 1.5 here"]),
            (vec![("/model/hidden/0", json!(9))], vec!["model.hidden[0] is 8 there, 9 here"]),
            (vec![("/model/hidden", json!([]))], vec!["model.hidden is [8] there, [] here"]),
            (
                vec![("/train/steps", json!(4)), ("/model", json!({"kind": "resnet", "depth": 8}))],
                vec![
                    "model.kind is \"mlp\" there, \"resnet\" here",
                    "train.steps is 3 there, 4 here",
                ],
            ),
            (
                vec![("/train", json!({"clip": null, "steps": 3, "epochs": 2}))],
                vec!["train.epochs is none there, 2 here"],
            ),
        ] {
            let mut other = one.clone();
            for (key, value) in changes {
                *other.pointer_mut(key).unwrap() = value;
            }
            assert_eq!(values_that_differ("", &one, &other), expected);
        }
    }
}
