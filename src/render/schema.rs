//! Holds a value against a JSON Schema, as far as our own manifest and our own kinds use JSON Schema. Serde would refuse most of the same
//! values, but cannot tell where in the file they are.

use serde_json::Value;

use super::text::{cut, did_you_mean, list, meant};

/// Says what is wrong with a value, and where: `components[0].tag is missing`.
pub(crate) fn check(schema: &Value, value: &Value) -> Result<(), String> {
    check_at(schema, schema, value, "")
}

fn check_at(root: &Value, schema: &Value, value: &Value, path: &str) -> Result<(), String> {
    let schema = match schema.get("$ref").and_then(Value::as_str) {
        Some(reference) => root.pointer(reference.trim_start_matches('#')).unwrap_or(&Value::Null),
        None => schema,
    };
    let at = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let here = if path.is_empty() { "it" } else { path };
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let types: Vec<&str> = match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if value.is_null() && schema["nullable"] == true {
        return Ok(());
    }
    let is_whole = |number: &Value| number.is_i64() || number.is_u64();
    let is_of = |wanted: &&str| *wanted == found || *wanted == "integer" && is_whole(value);
    if !types.is_empty() && !types.iter().any(is_of) {
        return Err(format!("{here} is of type {found}; it has to be of type {}", types.join(" or ")));
    }
    let is_count = value.as_u64().is_some_and(|count| u32::try_from(count).is_ok());
    if schema["x-kubernetes-int-or-string"] == true && !is_count && !value.is_string() {
        let rule = schema.pointer("/x-kubernetes-validations/0/message").and_then(Value::as_str);
        return Err(format!(
            "{here} is {}: {}",
            cut(&value.to_string(), 80),
            rule.unwrap_or("must be a number or a text")
        ));
    }
    if let Some(Value::Array(allowed)) = schema.get("enum")
        && !allowed.contains(value)
    {
        let allowed = allowed.iter().filter_map(Value::as_str);
        return Err(format!("{here} is {}; it has to be one of: {}", cut(&value.to_string(), 80), list(allowed)));
    }
    match value {
        Value::Object(fields) => {
            if let Some(Value::Array(allowed)) = schema.pointer("/propertyNames/enum")
                && let Some(name) = fields.keys().find(|name| !allowed.iter().any(|allowed| allowed == *name))
            {
                return Err(unknown(&at(name), name, allowed.iter().filter_map(Value::as_str)));
            }
            if let Some(schema) = schema.get("additionalProperties").filter(|s| s.is_object()) {
                return fields.iter().try_for_each(|(name, value)| check_at(root, schema, value, &at(name)));
            }
            let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return Ok(()) };
            for (name, value) in fields {
                match properties.get(name) {
                    Some(schema) => check_at(root, schema, value, &at(name))?,
                    None => return Err(unknown(&at(name), name, properties.keys())),
                }
            }
            for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
            {
                if !fields.contains_key(name) {
                    return Err(format!("{} is missing", at(name)));
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                for (i, item) in items.iter().enumerate() {
                    check_at(root, schema, item, &format!("{path}[{i}]"))?;
                }
            }
            if items.is_empty() && schema.get("minItems").and_then(Value::as_u64).is_some_and(|min| min > 0) {
                return Err(format!("{here} is empty; at least one entry is needed"));
            }
        }
        Value::String(text) => {
            if let Some(pattern) = schema.get("pattern").and_then(Value::as_str) {
                let matches = regex::Regex::new(pattern).is_ok_and(|regex| regex.is_match(text));
                if !matches {
                    return Err(format!("{here} is {:?}; it has to match {pattern}", cut(text, 80)));
                }
            }
        }
        _ => {}
    }
    Ok(())
}

fn unknown<T: AsRef<str>>(place: &str, name: &str, allowed: impl Iterator<Item = T> + Clone) -> String {
    let hint = meant(name, allowed.clone().map(|allowed| allowed.as_ref().to_owned()));
    format!("{place} is not a field; allowed are: {}{}", list(allowed), did_you_mean(hint))
}
