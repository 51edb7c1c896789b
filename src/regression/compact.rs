//! JSON that reads well in a diff: indented, an entry a line, but for a list of plain values, which is one line.

use serde_json::Value;

/// The text of a value, with a line end. Keys are in the value's order: sorted.
pub(super) fn json(value: &Value) -> String {
    let mut text = String::new();
    write(value, 0, &mut text);
    text.push('\n');
    text
}

fn write(value: &Value, depth: usize, text: &mut String) {
    let line = |text: &mut String, depth: usize| {
        text.push('\n');
        text.push_str(&"  ".repeat(depth));
    };
    match value {
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                text.push_str(if index > 0 { "," } else { "" });
                line(text, depth + 1);
                write(item, depth + 1, text);
            }
            line(text, depth);
            text.push(']');
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(Value::to_string).collect();
            text.push_str(&format!("[{}]", items.join(", ")));
        }
        Value::Object(fields) if !fields.is_empty() => {
            text.push('{');
            for (index, (key, item)) in fields.iter().enumerate() {
                text.push_str(if index > 0 { "," } else { "" });
                line(text, depth + 1);
                text.push_str(&format!("{}: ", Value::from(key.as_str())));
                write(item, depth + 1, text);
            }
            line(text, depth);
            text.push('}');
        }
        plain => text.push_str(&plain.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_plain_values_are_one_line_and_all_else_is_indented() {
        let value =
            serde_json::json!({"b": [1, 2.5, "x"], "a": {"d": [{"e": null}], "c": {}}, "f": []});
        let text = json(&value);
        insta::assert_snapshot!(text, @r#"
        {
          "a": {
            "c": {},
            "d": [
              {
                "e": null
              }
            ]
          },
          "b": [1, 2.5, "x"],
          "f": []
        }
        "#);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }
}
