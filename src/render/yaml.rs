//! The one place where YAML is read and written, so that every file means the same everywhere.
//!
//! What is read is what kubectl reads (YAML 1.1 booleans, octal numbers, merge keys), except that a
//! duplicate key is an error: it is always a mistake, and silently keeping one of the two hides it.

use serde_json::{Number, Value};

/// Longest text that is looked at. Bundles and patches are far smaller; a kubeconfig or a
/// release manifest is below 1 MiB.
const MAX_BYTES: usize = 8 << 20;

/// Why a text is not usable YAML, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", self.place())]
pub struct YamlError {
    /// Name of the file, or of the field that holds the text.
    pub file: String,
    /// Line, from 1; 0 if the error has no place.
    pub line: u64,
    /// Column, from 1; 0 if the error has no place.
    pub column: u64,
    /// What is wrong.
    pub message: String,
}

impl YamlError {
    fn place(&self) -> String {
        if self.line == 0 { self.file.clone() } else { format!("{}:{}:{}", self.file, self.line, self.column) }
    }
}

/// Reads all documents of a text; empty documents are left out. `file` names the text in errors.
pub fn parse(file: &str, text: &str) -> Result<Vec<Value>, YamlError> {
    let fail = |line, column, message| YamlError { file: file.to_owned(), line, column, message };
    if text.len() > MAX_BYTES {
        return Err(fail(0, 0, format!("is {} bytes long; at most {MAX_BYTES} are allowed", text.len())));
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 96,
            max_nodes: 500_000,
            max_documents: 1_024,
            max_aliases: 1_000,
            max_anchors: 1_000,
            max_recorded_anchor_events: 100_000,
            max_recorded_anchor_bytes: 4 << 20,
            max_total_scalar_bytes: 16 << 20,
            max_merge_keys: 1_000,
        },
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::Error,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    let mut documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
        fail(line, column, first_line(&error.without_snippet().to_string()))
    })?;
    documents.retain(|document| !document.is_null());
    documents.iter_mut().for_each(whole_floats_to_integers);
    Ok(documents)
}

/// Reads a text that has to hold exactly one document.
pub fn parse_one(file: &str, text: &str) -> Result<Value, YamlError> {
    let mut documents = parse(file, text)?;
    match (documents.pop(), documents.len()) {
        (Some(document), 0) => Ok(document),
        (_, found) => Err(YamlError {
            file: file.to_owned(),
            line: 0,
            column: 0,
            message: if found == 0 {
                "is empty; exactly one YAML document is allowed".to_owned()
            } else {
                format!("holds {} YAML documents; exactly one is allowed", found + 1)
            },
        }),
    }
}

/// Writes a value as one YAML document that YAML 1.1 and 1.2 readers understand alike.
pub fn emit(value: &Value) -> Result<String, YamlError> {
    let options = serde_saphyr::ser_options! { compact_list_indent: true, prefer_block_scalars: false };
    serde_saphyr::to_string_with_options(value, options).map_err(|error| YamlError {
        file: "output".to_owned(),
        line: 0,
        column: 0,
        message: first_line(&error.to_string()),
    })
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(300).collect()
}

/// `1.0`, `1e3` and `09` reach the API server as integers when kubectl reads them; typed integer fields refuse `1.0`.
fn whole_floats_to_integers(value: &mut Value) {
    // Beyond this a float no longer tells neighbouring integers apart.
    const LIMIT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) if number.is_f64() => {
            if let Some(float) = number.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < LIMIT) {
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "whole and in the exact range of f64, checked above"
                )]
                let whole = float as i64;
                *number = Number::from(whole);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_floats_to_integers),
        Value::Object(fields) => fields.values_mut().for_each(whole_floats_to_integers),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn scalars_mean_what_kubectl_reads() {
        for (text, expected) in [
            ("yes", json!(true)),
            ("on", json!(true)),
            ("y", json!(true)),
            ("n", json!(false)),
            ("0644", json!(420)),
            ("0o644", json!(420)),
            ("1_000", json!(1000)),
            ("0x10", json!(16)),
            ("09", json!(9)),
            ("1e3", json!(1000)),
            ("1.0", json!(1)),
            ("1.5", json!(1.5)),
            ("-0.0", json!(0)),
            ("!!binary aGk=", json!("hi")),
            ("~", json!(null)),
            ("v1.0", json!("v1.0")),
            ("\"yes\"", json!("yes")),
        ] {
            assert_eq!(parse_one("a.yaml", &format!("k: {text}\n")), Ok(json!({ "k": expected })), "{text}");
        }
    }

    #[test]
    fn merge_keys_are_merged_and_documents_are_split() {
        let text = "---\na: &a {x: 1}\nb: {<<: *a, y: 2}\n---\n---\nc: 3\n";
        assert_eq!(parse("a.yaml", text), Ok(vec![json!({"a": {"x": 1}, "b": {"x": 1, "y": 2}}), json!({"c": 3})]));
        assert_eq!(parse("a.yaml", ""), Ok(vec![]));
        assert_eq!(parse("a.yaml", "# nothing\n"), Ok(vec![]));
    }

    #[test]
    fn errors_tell_the_place() {
        for (text, place) in
            [("a: 1\nb: 2\na: 3\n", "f.yaml:3:1: "), ("a: [1\nb", "f.yaml:"), ("a: .inf\n", "f.yaml:1:")]
        {
            let error = parse("f.yaml", text).unwrap_err().to_string();
            assert!(error.starts_with(place), "{error}");
        }
        assert_eq!(
            parse_one("f.yaml", "a: 1\n---\nb: 2\n").unwrap_err().to_string(),
            "f.yaml: holds 2 YAML documents; exactly one is allowed"
        );
    }

    #[test]
    fn bombs_are_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let refs = vec![format!("*a{}", i - 1); 10].join(", ");
            bomb = format!("{bomb}a{i}: &a{i} [{refs}]\n");
        }
        assert!(parse("bomb.yaml", &bomb).is_err());
        assert!(parse("deep.yaml", &"[".repeat(5000)).is_err());
        assert!(parse("deep.yaml", &"- ".repeat(5000)).is_err());
    }

    #[test]
    fn what_yaml_1_1_would_misread_is_quoted() {
        for text in ["yes", "on", "n", "0644", "1e3", "null", "~", "1_000", "0x10", "", " a", "a: b", "# a", "- a"] {
            let emitted = emit(&json!({ "k": text })).unwrap();
            assert!(emitted.contains(['"', '\'']), "{text:?} became {emitted}");
        }
    }

    proptest! {
        #[test]
        fn strings_survive_a_round_trip(text in "\\PC{0,40}|[\\n\\t :#{}\\[\\]\"'|>%@`&*!,-]{0,30}") {
            let value = json!({ "k": text.clone(), "l": [text] });
            let emitted = emit(&value).unwrap();
            prop_assert_eq!(parse_one("x", &emitted).unwrap(), value);
        }
    }
}
