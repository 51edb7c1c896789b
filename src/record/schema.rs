//! The JSON schema of the files that tools outside the project read. It follows from the types and their documentation, without the
//! examples in Rust.

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};

use super::{Results, RunRecord};

/// The schema of `results.json`.
pub fn results() -> Schema {
    schema::<Results>()
}

/// The schema of `runs/<variant>/seed-<n>/record.json`.
pub fn record() -> Schema {
    schema::<RunRecord>()
}

fn schema<T: JsonSchema>() -> Schema {
    let settings = SchemaSettings::default().with_transform(RecursiveTransform(cut_example));
    settings.into_generator().into_root_schema_for::<T>()
}

/// Leaves out of a description what follows from the first block of code on.
fn cut_example(schema: &mut Schema) {
    let description = schema.get("description").and_then(|text| text.as_str());
    let Some((text, _)) = description.and_then(|text| text.split_once("```")) else { return };
    let text = text.trim_end().to_owned();
    schema.insert("description".to_owned(), text.into());
}
