//! One structural schema against another, keyword by keyword.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Rule, Severity, fields, unknown_words, validation, words};
use Severity::{Breaking, Safe, Warn};

/// What changed at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) rule: Rule,
    pub(super) severity: Severity,
    pub(super) path: String,
    pub(super) text: String,
}

/// Keywords that the rules below look at, or that mean nothing for objects.
const KNOWN: &[&str] = &[
    "additionalProperties",
    "default",
    "description",
    "enum",
    "example",
    "externalDocs",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "nullable",
    "pattern",
    "properties",
    "required",
    "title",
    "type",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
];

/// Compares two values of `spec.versions[].schema`.
pub(super) fn compare(old: &Value, new: &Value) -> Vec<Change> {
    let mut walk = Walk { changes: Vec::new() };
    walk.node("", &old["openAPIV3Schema"], &new["openAPIV3Schema"]);
    walk.changes
}

struct Walk {
    changes: Vec<Change>,
}

impl Walk {
    fn add(&mut self, rule: Rule, severity: Severity, path: &str, text: impl Into<String>) {
        self.changes.push(Change { rule, severity, path: path.to_owned(), text: text.into() });
    }

    fn node(&mut self, path: &str, old: &Value, new: &Value) {
        if old == new || !self.types(path, old, new) {
            return;
        }
        self.format(path, old, new);
        self.values(path, old, new);
        self.defaults(path, old, new);
        self.limits(path, old, new);
        self.pattern(path, old, new);
        self.nullable(path, old, new);
        for (severity, text) in validation::compare(old, new) {
            self.add(Rule::Validation, severity, path, text);
        }
        self.merging(path, old, new);
        self.children(path, old, new);
        self.required(path, old, new);
        for keyword in unknown_words(old, new, KNOWN) {
            let is_choice = keyword == "anyOf" && [old, new].iter().all(|v| v[keyword].is_null() || int_or_string(v));
            if !is_choice {
                let text = format!("{keyword} changes, and there is no rule for that: objects may be refused");
                self.add(Rule::Unhandled, Breaking, path, text);
            }
        }
    }

    /// False when the two are so different that nothing else is worth comparing.
    fn types(&mut self, path: &str, old: &Value, new: &Value) -> bool {
        let (was, is) = (types(old), types(new));
        if was == is {
            return true;
        }
        let covered = match (&was, &is) {
            (_, None) => true,
            (None, _) => false,
            (Some(was), Some(is)) => was.is_subset(is),
        };
        let change = format!("type changes from {} to {}", name(old), name(new));
        if covered {
            self.add(Rule::Type, Safe, path, format!("{change}, which allows what was allowed"));
        } else {
            let text =
                format!("{change}: objects that hold the old type cannot be read or written by clients of the new one");
            self.add(Rule::Type, Breaking, path, text);
        }
        covered
    }

    fn format(&mut self, path: &str, old: &Value, new: &Value) {
        match (old["format"].as_str(), new["format"].as_str()) {
            (was, is) if was == is => {}
            (Some(was), None) => self.add(Rule::Format, Safe, path, format!("the format no longer has to be {was}")),
            (Some("int32"), Some("int64")) => self.add(Rule::Format, Safe, path, "numbers may be larger"),
            (_, is) => {
                let is = is.unwrap_or_default();
                self.add(
                    Rule::Format,
                    Breaking,
                    path,
                    format!("the format has to be {is}: objects with others are refused"),
                );
            }
        }
    }

    fn values(&mut self, path: &str, old: &Value, new: &Value) {
        let list = |v: &Value| v["enum"].as_array().cloned();
        let join = |list: &[&Value]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match (list(old), list(new)) {
            (None, None) => {}
            (None, Some(is)) => {
                let allowed = join(&is.iter().collect::<Vec<_>>());
                let text = format!("only {allowed} are allowed now: objects with other values are refused");
                self.add(Rule::Enum, Breaking, path, text);
            }
            (Some(_), None) => self.add(Rule::Enum, Safe, path, "any value is allowed now"),
            (Some(was), Some(is)) => {
                let gone: Vec<&Value> = was.iter().filter(|v| !is.contains(v)).collect();
                let come: Vec<&Value> = is.iter().filter(|v| !was.contains(v)).collect();
                if !gone.is_empty() {
                    let text = format!("no longer allowed: {}; objects with such a value are refused", join(&gone));
                    self.add(Rule::Enum, Breaking, path, text);
                }
                if !come.is_empty() {
                    self.add(Rule::Enum, Safe, path, format!("now allowed too: {}", join(&come)));
                }
            }
        }
    }

    fn defaults(&mut self, path: &str, old: &Value, new: &Value) {
        let text = match (&old["default"], &new["default"]) {
            (was, is) if was == is => return,
            (Value::Null, is) => format!("objects that leave it out now read as {is}"),
            (was, Value::Null) => {
                format!(
                    "it is no longer filled in with {was}: objects that leave it out read without it, as new ones do"
                )
            }
            (was, is) => {
                format!("the default changes from {was} to {is}: objects written so far keep {was}, new ones get {is}")
            }
        };
        self.add(Rule::Default, Warn, path, text);
    }

    fn limits(&mut self, path: &str, old: &Value, new: &Value) {
        for (keyword, refused) in [
            ("maximum", "larger number"),
            ("maxLength", "longer text"),
            ("maxItems", "longer list"),
            ("maxProperties", "larger map"),
        ] {
            let limit = |v: &Value| v[keyword].as_f64().unwrap_or(f64::INFINITY);
            let tighter = limit(new) < limit(old);
            self.limit(Rule::Maximum, path, keyword, (&old[keyword], &new[keyword]), (tighter, refused));
        }
        for (keyword, refused) in [
            ("minimum", "smaller number"),
            ("minLength", "shorter text"),
            ("minItems", "shorter list"),
            ("minProperties", "smaller map"),
        ] {
            // Nothing is shorter than 0.
            let least = if keyword == "minimum" { f64::NEG_INFINITY } else { 0.0 };
            let limit = |v: &Value| v[keyword].as_f64().unwrap_or(least);
            let tighter = limit(new) > limit(old);
            self.limit(Rule::Minimum, path, keyword, (&old[keyword], &new[keyword]), (tighter, refused));
        }
    }

    fn limit(
        &mut self,
        rule: Rule,
        path: &str,
        keyword: &str,
        (old, new): (&Value, &Value),
        (tighter, refused): (bool, &str),
    ) {
        if old == new {
            return;
        }
        let change = match (old, new) {
            (Value::Null, is) => format!("{keyword} is new: {is}"),
            (was, Value::Null) => format!("{keyword} {was} is gone"),
            (was, is) => format!("{keyword} changes from {was} to {is}"),
        };
        if tighter {
            self.add(rule, Breaking, path, format!("{change}; objects with a {refused} are refused"));
        } else {
            self.add(rule, Safe, path, format!("{change}, which allows what was allowed"));
        }
    }

    fn pattern(&mut self, path: &str, old: &Value, new: &Value) {
        match (old["pattern"].as_str(), new["pattern"].as_str()) {
            (None, None) => {}
            (Some(_), None) => self.add(Rule::Pattern, Safe, path, "it no longer has to match a pattern"),
            (None, Some(is)) => {
                self.add(
                    Rule::Pattern,
                    Breaking,
                    path,
                    format!("it has to match {is}: objects that do not are refused"),
                );
            }
            (Some(was), Some(is)) if was == is => {}
            (Some(was), Some(is)) => {
                let text = format!(
                    "the pattern changes from {was} to {is}: objects that match only the old one are refused; comparing cannot \
                     tell whether there can be such"
                );
                self.add(Rule::Pattern, Breaking, path, text);
            }
        }
    }

    fn nullable(&mut self, path: &str, old: &Value, new: &Value) {
        match (old["nullable"] == true, new["nullable"] == true) {
            (true, false) => {
                self.add(
                    Rule::Nullable,
                    Breaking,
                    path,
                    "null is no longer allowed: objects that hold it are refused or lose it",
                );
            }
            (false, true) => self.add(Rule::Nullable, Safe, path, "null is allowed now"),
            _ => {}
        }
    }

    fn merging(&mut self, path: &str, old: &Value, new: &Value) {
        for (keyword, usual) in [("x-kubernetes-list-type", "atomic"), ("x-kubernetes-map-type", "granular")] {
            let (was, is) = (old[keyword].as_str().unwrap_or(usual), new[keyword].as_str().unwrap_or(usual));
            if was == is {
                continue;
            }
            let (severity, meaning) = match is {
                "atomic" => (Warn, "an apply replaces the entries of all other managers"),
                "granular" => (Warn, "an apply leaves the entries of other managers"),
                _ => (Breaking, "objects with two equal entries are refused, and an apply merges instead of replacing"),
            };
            self.add(Rule::Merging, severity, path, format!("{keyword} changes from {was} to {is}: {meaning}"));
        }
        let keyword = "x-kubernetes-list-map-keys";
        let (was, is) = (words(&old[keyword]), words(&new[keyword]));
        if was != is && old["x-kubernetes-list-type"] == new["x-kubernetes-list-type"] {
            let text =
                "entries of the list are told apart by other fields: objects in which these are equal are refused";
            self.add(Rule::Merging, Breaking, path, text);
        }
    }

    fn children(&mut self, path: &str, old: &Value, new: &Value) {
        let keeps = |v: &Value| v["x-kubernetes-preserve-unknown-fields"] == true;
        match (keeps(old), keeps(new)) {
            (true, false) => {
                let text =
                    "fields that the schema does not know are no longer kept: objects lose them when they are written";
                self.add(Rule::UnknownFields, Breaking, path, text);
            }
            (false, true) => {
                self.add(Rule::UnknownFields, Safe, path, "fields that the schema does not know are now kept");
            }
            _ => {}
        }
        let at = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        let (was, is) = (&old["properties"], &new["properties"]);
        for name in fields(was) {
            if !is[name].is_null() {
                self.node(&at(name), &was[name], &is[name]);
            } else if new["additionalProperties"].is_object() {
                self.node(&at(name), &was[name], &new["additionalProperties"]);
            } else if !keeps(new) && new["additionalProperties"] != true {
                let text = "the field is gone: objects lose its value when they are written, and strict clients refuse manifests \
                            that set it";
                self.add(Rule::Field, Breaking, &at(name), text);
            }
        }
        for name in fields(is).difference(&fields(was)) {
            if old["additionalProperties"].is_object() {
                self.node(&at(name), &old["additionalProperties"], &is[*name]);
                continue;
            }
            if keeps(old) || old["additionalProperties"] == true {
                let text =
                    "the field has a schema now, and could hold anything before: objects that do not fit are refused";
                self.add(Rule::Field, Breaking, &at(name), text);
                continue;
            }
            let filled = &is[*name]["default"];
            let text = if filled.is_null() {
                "the field is new: objects that exist do not have it".to_owned()
            } else {
                format!("the field is new: objects that exist read as {filled}")
            };
            self.add(Rule::Field, Safe, &at(name), text);
        }
        self.inner(&format!("{path}[]"), &old["items"], &new["items"]);
        self.inner(&at("*"), &old["additionalProperties"], &new["additionalProperties"]);
    }

    /// The schema of what a list or a map holds; `true` allows anything.
    fn inner(&mut self, path: &str, old: &Value, new: &Value) {
        let open = |v: &Value| *v == true;
        let closed = |v: &Value| v.is_null() || *v == false;
        if old == new || (closed(old) && closed(new)) {
        } else if old.is_object() && new.is_object() {
            self.node(path, old, new);
        } else if open(new) || closed(old) {
            self.add(Rule::Field, Safe, path, "more is allowed here than before");
        } else {
            let text = "less is allowed here than before: objects lose it when they are written, or are refused";
            self.add(Rule::Field, Breaking, path, text);
        }
    }

    fn required(&mut self, path: &str, old: &Value, new: &Value) {
        let at = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        let (was, is) = (words(&old["required"]), words(&new["required"]));
        for name in is.difference(&was) {
            let filled = &new["properties"][*name]["default"];
            if filled.is_null() {
                self.add(Rule::Required, Breaking, &at(name), "it has to be set now: objects without it are refused");
            } else {
                let text = format!("it has to be set now; objects without it read as {filled}");
                self.add(Rule::Required, Safe, &at(name), text);
            }
        }
        for name in was.difference(&is) {
            self.add(Rule::Required, Safe, &at(name), "it may be left out now");
        }
    }
}

fn int_or_string(schema: &Value) -> bool {
    schema["x-kubernetes-int-or-string"] == true
}

/// The types a value may have; none for any.
fn types(schema: &Value) -> Option<BTreeSet<&str>> {
    match schema["type"].as_str() {
        _ if int_or_string(schema) => Some(BTreeSet::from(["integer", "string"])),
        Some("number") => Some(BTreeSet::from(["integer", "number"])),
        Some(one) => Some(BTreeSet::from([one])),
        None => None,
    }
}

fn name(schema: &Value) -> &str {
    if int_or_string(schema) { "integer or string" } else { schema["type"].as_str().unwrap_or("any") }
}
