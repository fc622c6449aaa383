//! What a new CRD means for the objects that exist: may the API server refuse what it accepted, or lose what it kept? Pure;
//! what needs a live cluster (who still writes a version, what is stored in which) is not decided here, but `status` of
//! the old CRD is read where it is there.
//!
//! The rules for the CRD as a whole and its versions are in `definition.rs`, those for one schema against another in
//! `schema.rs`, those for CEL in `validation.rs`.

mod definition;
mod schema;
#[cfg(test)]
mod tests;
mod validation;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;
use serde_json::Value;

/// How bad a change is for objects and manifests that exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// What was accepted is accepted, and means the same.
    Safe,
    /// Nothing is refused or lost for certain, but somebody has to look: what is left out may mean something else, objects are
    /// to be migrated, or comparing cannot tell.
    Warn,
    /// Something that was accepted is refused or lost; or there is no rule for the change (it fails closed).
    Breaking,
}

/// What kind of change it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Rule {
    /// The CRD itself came or went.
    Crd,
    /// `spec.scope`.
    Scope,
    /// `spec.group` and `spec.names`.
    Names,
    /// How objects are converted between versions.
    Conversion,
    /// A version in which objects may be stored is gone.
    StoredVersion,
    /// A version that was served no longer is, or a version is new.
    ServedVersion,
    /// Another version is the one in which objects are stored.
    StorageVersion,
    /// A version became deprecated, or no longer is.
    Deprecation,
    /// The status and scale subresources.
    Subresources,
    /// Fields that `kubectl --field-selector` knows.
    SelectableFields,
    /// A field came or went.
    Field,
    /// Fields that have to be set.
    Required,
    /// Type of a value.
    Type,
    /// Format of a value.
    Format,
    /// Values that are allowed.
    Enum,
    /// What is filled in.
    Default,
    /// Largest number, length or count.
    Maximum,
    /// Smallest number, length or count.
    Minimum,
    /// Regular expression for a text.
    Pattern,
    /// Whether null is a value.
    Nullable,
    /// CEL rules: `x-kubernetes-validations`.
    Validation,
    /// How lists and maps are merged: `x-kubernetes-list-type` and the like.
    Merging,
    /// Whether fields that the schema does not know are kept.
    UnknownFields,
    /// A change there is no rule for.
    Unhandled,
}

/// One change, and what it means.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of change it is.
    pub rule: Rule,
    /// Name of the CRD.
    pub crd: String,
    /// API version; none for the CRD as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Field, as in `spec.items[].name`; empty for the version or the CRD as a whole.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// What it means for objects that exist.
    pub text: String,
}

/// `receivers.notification.toolkit.fluxcd.io v1 spec.type: what it means`
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = [Some(self.crd.as_str()), self.version.as_deref(), Some(self.path.as_str())];
        let place: Vec<&str> = place.into_iter().flatten().filter(|part| !part.is_empty()).collect();
        write!(f, "{}: {}", place.join(" "), self.text)
    }
}

/// Compares a CRD with the one that is to take its place; the worst comes first.
///
/// Versions of the same name are compared. A version that is new has no predecessor, unless it stores what a version that
/// is gone has stored. Without a conversion webhook the served versions of the new CRD are also held against each other,
/// leaving out what was so between the same versions before. Descriptions and printed columns are ignored.
pub fn compare(old: &Value, new: &Value) -> Vec<Finding> {
    let name = new.pointer("/metadata/name").or_else(|| old.pointer("/metadata/name"));
    let mut report = Report { crd: name.and_then(Value::as_str).unwrap_or_default().to_owned(), findings: Vec::new() };
    let (before, after) = (Versions::of(old), Versions::of(new));

    definition::whole(&mut report, &old["spec"], &new["spec"]);
    definition::conversion(&mut report, &old["spec"]["conversion"], &new["spec"]["conversion"]);
    definition::stored(&mut report, old, &before, &after);
    definition::served(&mut report, &before, &after);
    for (name, version) in &after.all {
        if let Some(predecessor) = before.all.get(name) {
            definition::same_version(&mut report, name, predecessor, version);
        } else if after.storage == Some(*name)
            && let Some(stored) = before.storage
            && !after.all.contains_key(stored)
        {
            let lead = format!("objects stored as {stored} are read as {name}: ");
            report.add_all(name, &lead, schema::compare(&before.all[stored]["schema"], &version["schema"]));
        }
    }
    between_versions(&mut report, old, &before, new, &after);

    let mut findings = report.findings;
    findings.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.cmp(b)));
    findings
}

/// Compares all CRDs of one set with those of the set that is to take its place; each is a list of CRDs by name.
pub fn compare_all(old: &BTreeMap<String, Value>, new: &BTreeMap<String, Value>) -> Vec<Finding> {
    let whole = |severity, crd: &str, text: &str| Finding {
        severity,
        rule: Rule::Crd,
        crd: crd.to_owned(),
        version: None,
        path: String::new(),
        text: text.to_owned(),
    };
    let mut findings = Vec::new();
    for (name, crd) in new {
        match old.get(name) {
            Some(before) => findings.extend(compare(before, crd)),
            None => findings.push(whole(Severity::Safe, name, "the CRD is new: no objects exist")),
        }
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        let text = "the CRD is gone: objects that exist keep it alive, but no controller works on them any more";
        findings.push(whole(Severity::Breaking, name, text));
    }
    findings.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.cmp(b)));
    findings
}

struct Report {
    crd: String,
    findings: Vec<Finding>,
}

impl Report {
    fn add(&mut self, rule: Rule, severity: Severity, version: Option<&str>, path: &str, text: impl Into<String>) {
        self.findings.push(Finding {
            severity,
            rule,
            crd: self.crd.clone(),
            version: version.map(str::to_owned),
            path: path.to_owned(),
            text: text.into(),
        });
    }

    fn add_all(&mut self, version: &str, lead: &str, changes: Vec<schema::Change>) {
        for change in changes {
            self.add(change.rule, change.severity, Some(version), &change.path, format!("{lead}{}", change.text));
        }
    }
}

/// Versions of a CRD by name.
struct Versions<'a> {
    all: BTreeMap<&'a str, &'a Value>,
    storage: Option<&'a str>,
}

impl<'a> Versions<'a> {
    fn of(crd: &'a Value) -> Self {
        let list = crd.pointer("/spec/versions").and_then(Value::as_array).into_iter().flatten();
        let all: BTreeMap<&str, &Value> = list.filter_map(|v| Some((v["name"].as_str()?, v))).collect();
        let storage = all.iter().find(|(_, v)| v["storage"] == true).map(|(name, _)| *name);
        Self { all, storage }
    }

    fn served(&self) -> impl Iterator<Item = &'a str> {
        self.all.iter().filter(|(_, v)| v["served"] == true).map(|(name, _)| *name)
    }

    fn serves(&self, name: &str) -> bool {
        self.all.get(name).is_some_and(|v| v["served"] == true)
    }
}

fn strategy(conversion: &Value) -> &str {
    conversion["strategy"].as_str().unwrap_or("None")
}

/// Without a webhook an object is the same in every version but for `apiVersion`: what is written as one has to be good as
/// every other. What was so before is left out.
fn between_versions(report: &mut Report, old: &Value, before: &Versions, new: &Value, after: &Versions) {
    if strategy(&new["spec"]["conversion"]) != "None" {
        return;
    }
    let ratchet = strategy(&old["spec"]["conversion"]) == "None";
    let mut served: Vec<&str> = after.served().collect();
    served.sort_by_key(|name| definition::age(name));
    for (i, from) in served.iter().enumerate() {
        for to in &served[i + 1..] {
            let between = |versions: &Versions| match (versions.all.get(from), versions.all.get(to)) {
                (Some(a), Some(b)) => schema::compare(&a["schema"], &b["schema"]),
                _ => Vec::new(),
            };
            let known = if ratchet { between(before) } else { Vec::new() };
            let mut changes = between(after);
            changes.retain(|change| change.severity > Severity::Safe && !known.contains(change));
            report.add_all(to, &format!("written as {from}, read as {to}: "), changes);
        }
    }
}

/// Fields that differ and are none of the known ones. False and absent are the same.
fn unknown_words<'a>(old: &'a Value, new: &'a Value, known: &[&str]) -> Vec<&'a str> {
    let is_set = |v: &Value| !v.is_null() && *v != false;
    let all = fields(old).into_iter().chain(fields(new)).collect::<BTreeSet<_>>();
    all.into_iter().filter(|f| !known.contains(f) && old[f] != new[f] && (is_set(&old[f]) || is_set(&new[f]))).collect()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn words(value: &Value) -> BTreeSet<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn fields(value: &Value) -> BTreeSet<&str> {
    value.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect()
}
