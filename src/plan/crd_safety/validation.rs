//! CEL rules: `x-kubernetes-validations`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Severity, words};

/// Compares the rules at one place of a schema.
///
/// A rule that is new can only refuse more. Whether it refuses what exists cannot be told without evaluating it on every
/// object; but one that speaks of a field or value which is new itself is most likely about that alone.
pub(super) fn compare(old: &Value, new: &Value) -> Vec<(Severity, String)> {
    let (was, is) = (rules(old), rules(new));
    let mut gone: Vec<&Value> = was.iter().filter(|a| !is.iter().any(|b| same(a, b))).collect();
    let added: Vec<&Value> = is.iter().filter(|a| !was.iter().any(|b| same(a, b))).collect();
    let single = gone.len() == 1 && added.len() == 1;
    let mut found = Vec::new();
    for rule in added {
        let replaced =
            gone.iter().position(|g| single || (g["message"].is_string() && g["message"] == rule["message"]));
        let what = match replaced.map(|at| gone.swap_remove(at)) {
            Some(before) => format!("the rule `{}` becomes `{}`", expression(before), expression(rule)),
            None => format!("there is a new rule `{}`", expression(rule)),
        };
        let (known, all) = (vocabulary(old), vocabulary(new));
        let novelties: Vec<&str> = all.difference(&known).copied().filter(|w| names(expression(rule), w)).collect();
        found.push(if novelties.is_empty() {
            let text = format!("{what}: objects that do not fulfil it are refused when this part of them changes");
            (Severity::Breaking, text)
        } else {
            let text = format!(
                "{what}: it speaks of {}, new here, so objects that exist are most likely not concerned; read it",
                novelties.join(", ")
            );
            (Severity::Warn, text)
        });
    }
    found.extend(gone.into_iter().map(|rule| {
        (Severity::Safe, format!("the rule `{}` is gone: nothing is refused by it any more", expression(rule)))
    }));
    found
}

fn rules(schema: &Value) -> &[Value] {
    schema["x-kubernetes-validations"].as_array().map_or(&[], Vec::as_slice)
}

/// What a rule says to whom it refuses does not matter.
fn same(a: &Value, b: &Value) -> bool {
    a["rule"] == b["rule"] && a["optionalOldSelf"] == b["optionalOldSelf"]
}

fn expression(rule: &Value) -> &str {
    rule["rule"].as_str().unwrap_or_default().trim()
}

/// Names of fields and texts of enums below a schema.
fn vocabulary(schema: &Value) -> BTreeSet<&str> {
    let mut all = words(&schema["enum"]);
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        all.insert(name);
        all.extend(vocabulary(field));
    }
    for inner in ["items", "additionalProperties"] {
        if schema[inner].is_object() {
            all.extend(vocabulary(&schema[inner]));
        }
    }
    all
}

/// Whether an expression names a field or value, as a word of its own.
fn names(expression: &str, word: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    !word.is_empty()
        && expression
            .match_indices(word)
            .any(|(at, _)| !expression[..at].ends_with(inside) && !expression[at + word.len()..].starts_with(inside))
}
