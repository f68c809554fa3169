//! Tools as the model reads them: declarations, calls, responses, values.
//!
//! In: `Tool`, `ToolCall`, JSON values. Out: segments of a prompt.
//! Source: Gemma 4 chat template, published 2026-07-09, with Python's way of printing values.
//! Invariant: strings are delimited by marker tokens, so their content needs no escapes.

use std::fmt::Write as _;

use serde_json::Map;
use serde_json::Value;

use crate::error::Error;
use crate::error::Result;
use crate::text::conversation::DEPTH_MAX;
use crate::text::conversation::Tool;
use crate::text::conversation::ToolCall;
use crate::text::template::Writer;
use crate::text::vocabulary::Marker;

/// Keys of a schema that are no properties of their own.
const SCHEMA_KEYS: [&str; 5] = ["description", "type", "properties", "required", "nullable"];

/// Writes the declaration of `tool`, without its markers.
///
/// # Errors   `Input` if the schema is nested too deeply
pub(super) fn declaration(out: &mut Writer, tool: &Tool) -> Result<()> {
    let function = &tool.function;
    function.values().try_for_each(check_depth)?;
    out.text("declaration:");
    out.text(&printed(function.get("name")));
    out.text("{description:");
    out.quoted(&printed(function.get("description")));
    if let Some(parameters) = function.get("parameters").filter(|v| is_true(v)) {
        out.text(",parameters:{");
        if let Some(properties) = field(parameters, "properties") {
            out.text("properties:{");
            write_properties(out, properties, false);
            out.text("},");
        }
        if let Some(required) = field(parameters, "required") {
            out.text("required:");
            names(out, required);
            out.text(",");
        }
        if let Some(kind) = field(parameters, "type") {
            out.text("type:");
            out.quoted(&upper(kind));
            out.text("}");
        }
    }
    if let Some(response) = function.get("response") {
        out.text(",response:{");
        if let Some(description) = field(response, "description") {
            out.text("description:");
            out.quoted(&printed(Some(description)));
            out.text(",");
        }
        if let Some(kind) = field(response, "type").map(upper).filter(|kind| kind == "OBJECT") {
            out.text("type:");
            out.quoted(&kind);
            out.text("}");
        }
    }
    out.text("}");
    Ok(())
}

/// Writes `call` with its markers.
///
/// # Errors   `Input` if the arguments are nested too deeply
pub(super) fn call(out: &mut Writer, call: &ToolCall) -> Result<()> {
    call.arguments.values().try_for_each(check_depth)?;
    out.marker(Marker::CallOpen);
    out.text("call:");
    out.text(&call.name);
    out.text("{");
    write_fields(out, &call.arguments, false);
    out.text("}");
    out.marker(Marker::CallClose);
    Ok(())
}

/// Writes what the tool `name` gave back, with its markers.
///
/// # Errors   `Input` if the value is nested too deeply
pub(super) fn response(out: &mut Writer, name: &str, value: &Value) -> Result<()> {
    check_depth(value)?;
    out.marker(Marker::ResponseOpen);
    out.text("response:");
    out.text(name);
    out.text("{");
    match value {
        Value::Object(fields) => write_fields(out, fields, false),
        other => {
            out.text("value:");
            write_value(out, other, false);
        }
    }
    out.text("}");
    out.marker(Marker::ResponseClose);
    Ok(())
}

/// Writes the properties of a schema; with `skip_schema_keys`, a schema taken for its properties.
fn write_properties(out: &mut Writer, properties: &Value, skip_schema_keys: bool) {
    let Value::Object(properties) = properties else { return };
    let mut comma = Comma::default();
    for (key, schema) in sorted(properties) {
        if skip_schema_keys && SCHEMA_KEYS.contains(&key.as_str()) {
            continue;
        }
        comma.before(out);
        out.text(key);
        out.text(":{");
        write_schema(out, schema);
        out.text("}");
    }
}

fn write_schema(out: &mut Writer, schema: &Value) {
    let mut comma = Comma::default();
    if let Some(description) = field(schema, "description") {
        comma.before(out);
        out.text("description:");
        out.quoted(&printed(Some(description)));
    }
    let kind = schema.get("type").map(upper).unwrap_or_default();
    if kind == "STRING"
        && let Some(values) = field(schema, "enum")
    {
        comma.before(out);
        out.text("enum:");
        write_value(out, values, true);
    }
    if kind == "ARRAY"
        && let Some(Value::Object(items)) = field(schema, "items")
    {
        comma.before(out);
        out.text("items:{");
        write_items(out, items);
        out.text("}");
    }
    if field(schema, "nullable").is_some() {
        comma.before(out);
        out.text("nullable:true");
    }
    if kind == "OBJECT" {
        comma.before(out);
        out.text("properties:{");
        match schema.get("properties") {
            Some(own @ Value::Object(_)) => write_properties(out, own, false),
            _ => write_properties(out, schema, true),
        }
        out.text("}");
        if let Some(required) = field(schema, "required") {
            comma.before(out);
            out.text("required:");
            names(out, required);
        }
    }
    comma.before(out);
    out.text("type:");
    out.quoted(&kind);
}

/// Writes the schema of an array's elements.
fn write_items(out: &mut Writer, items: &Map<String, Value>) {
    let mut comma = Comma::default();
    for (key, value) in sorted(items) {
        if value.is_null() {
            continue;
        }
        comma.before(out);
        match (key.as_str(), value) {
            ("properties", properties) => {
                out.text("properties:{");
                write_properties(out, properties, false);
                out.text("}");
            }
            ("required", required) => {
                out.text("required:");
                names(out, required);
            }
            ("type", Value::Array(kinds)) => {
                let kinds = kinds.iter().map(|kind| Value::String(upper(kind))).collect();
                out.text("type:");
                write_value(out, &Value::Array(kinds), true);
            }
            ("type", kind) => {
                out.text("type:");
                out.quoted(&upper(kind));
            }
            (key, value) => {
                out.text(key);
                out.text(":");
                write_value(out, value, true);
            }
        }
    }
}

/// Writes a list of names.
fn names(out: &mut Writer, list: &Value) {
    let mut comma = Comma::default();
    out.text("[");
    for name in list.as_array().into_iter().flatten() {
        comma.before(out);
        out.quoted(&printed(Some(name)));
    }
    out.text("]");
}

fn write_value(out: &mut Writer, value: &Value, quote_keys: bool) {
    match value {
        Value::Null => out.text("null"),
        Value::Bool(true) => out.text("true"),
        Value::Bool(false) => out.text("false"),
        Value::Number(_) => out.text(&printed(Some(value))),
        Value::String(text) => out.quoted(text),
        Value::Object(fields) => {
            out.text("{");
            write_fields(out, fields, quote_keys);
            out.text("}");
        }
        Value::Array(values) => {
            let mut comma = Comma::default();
            out.text("[");
            for value in values {
                comma.before(out);
                write_value(out, value, quote_keys);
            }
            out.text("]");
        }
    }
}

fn write_fields(out: &mut Writer, fields: &Map<String, Value>, quote_keys: bool) {
    let mut comma = Comma::default();
    for (key, value) in sorted(fields) {
        comma.before(out);
        if quote_keys {
            out.quoted(key);
        } else {
            out.text(key);
        }
        out.text(":");
        write_value(out, value, quote_keys);
    }
}

/// Writes a comma before every element but the first.
#[derive(Default)]
struct Comma {
    is_due: bool,
}

impl Comma {
    fn before(&mut self, out: &mut Writer) {
        if self.is_due {
            out.text(",");
        }
        self.is_due = true;
    }
}

/// Returns the fields sorted by lower-case key; equal ones keep their order.
fn sorted(fields: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut fields: Vec<_> = fields.iter().collect();
    fields.sort_by_cached_key(|(key, _)| key.to_lowercase());
    fields
}

/// Returns field `key` if it is there and holds more than nothing, zero or false.
fn field<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    value.get(key).filter(|v| is_true(v))
}

fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(on) => *on,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

fn upper(value: &Value) -> String {
    printed(Some(value)).to_uppercase()
}

/// Returns `value` as Python prints it; a missing one prints nothing.
fn printed(value: Option<&Value>) -> String {
    match value {
        None => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => {
            let mut text = String::new();
            print_inner(&mut text, other);
            text
        }
    }
}

fn print_inner(text: &mut String, value: &Value) {
    match value {
        Value::Null => text.push_str("None"),
        Value::Bool(true) => text.push_str("True"),
        Value::Bool(false) => text.push_str("False"),
        Value::Number(n) => match n.as_f64().filter(|_| n.is_f64()) {
            Some(float) => text.push_str(&printed_float(float)),
            None => text.push_str(&n.to_string()),
        },
        Value::String(inner) => print_string(text, inner),
        Value::Array(values) => {
            text.push('[');
            for (index, value) in values.iter().enumerate() {
                text.push_str(if index == 0 { "" } else { ", " });
                print_inner(text, value);
            }
            text.push(']');
        }
        Value::Object(fields) => {
            text.push('{');
            for (index, (key, value)) in fields.iter().enumerate() {
                text.push_str(if index == 0 { "" } else { ", " });
                print_string(text, key);
                text.push_str(": ");
                print_inner(text, value);
            }
            text.push('}');
        }
    }
}

fn print_string(text: &mut String, inner: &str) {
    let quote = if inner.contains('\'') && !inner.contains('"') { '"' } else { '\'' };
    text.push(quote);
    for c in inner.chars() {
        match c {
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\\' => text.push_str("\\\\"),
            c if c == quote => text.extend(['\\', c]),
            c if c.is_ascii_control() => {
                // Writing to a `String` cannot fail.
                let _ = write!(text, "\\x{:02x}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text.push(quote);
}

/// Returns the shortest digits that give `float` again, in Python's layout.
fn printed_float(float: f64) -> String {
    let scientific = format!("{float:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..16).contains(&exponent) {
        let plain = float.to_string();
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// Returns an error if `value` is nested deeper than [`DEPTH_MAX`].
fn check_depth(value: &Value) -> Result<()> {
    fn fits(value: &Value, left: usize) -> bool {
        match value {
            _ if left == 0 => false,
            Value::Array(values) => values.iter().all(|v| fits(v, left - 1)),
            Value::Object(fields) => fields.values().all(|v| fits(v, left - 1)),
            _ => true,
        }
    }
    if fits(value, DEPTH_MAX) {
        return Ok(());
    }
    Err(Error::input(format!("a JSON value is nested deeper than {DEPTH_MAX}; flatten it")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn values_are_printed_as_python_prints_them() {
        let cases = [
            (json!(1.0), "1.0"),
            (json!(-0.5), "-0.5"),
            (json!(1e15), "1000000000000000.0"),
            (json!(1e16), "1e+16"),
            (json!(1.5e300), "1.5e+300"),
            (json!(0.0001), "0.0001"),
            (json!(0.00001), "1e-05"),
            (json!(2.5e-7), "2.5e-07"),
            (json!(u64::MAX), "18446744073709551615"),
            (json!(null), "None"),
            (json!(true), "True"),
            (json!("it's"), "it's"),
            (json!(["string", "null"]), "['string', 'null']"),
            (
                json!({"a": "it's", "b": "\"'\n\u{1}\\"}),
                "{'a': \"it's\", 'b': '\"\\'\\n\\x01\\\\'}",
            ),
        ];
        for (value, expected) in cases {
            assert_eq!(printed(Some(&value)), expected);
        }
        assert_eq!(printed(None), "");
    }

    #[test]
    fn zero_and_empty_count_as_absent() {
        for value in [json!(null), json!(0), json!(0.0), json!(""), json!([]), json!({})] {
            assert!(!is_true(&value), "{value}");
        }
        for value in [json!(1), json!("a"), json!([0]), json!({"a": 0}), json!(true)] {
            assert!(is_true(&value), "{value}");
        }
    }

    #[test]
    fn deep_values_are_refused() {
        let mut value = json!(1);
        for _ in 0..DEPTH_MAX {
            value = json!([value]);
        }
        let mut out = Writer::default();
        let error = response(&mut out, "f", &value).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input);
        assert!(response(&mut out, "f", &value[0]).is_ok());
    }
}
