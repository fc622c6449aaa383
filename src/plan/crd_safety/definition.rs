//! The rules for a CRD as a whole, and for its versions but for their schemas.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Report, Rule, Severity, Versions, schema, strategy, text, unknown_words, words};

/// Everything below `spec` that is neither version nor conversion.
pub(super) fn whole(report: &mut Report, old: &Value, new: &Value) {
    if old["scope"] != new["scope"] {
        let text = format!(
            "scope changes from {} to {}: the API server refuses it until the CRD is deleted, and all objects with it",
            text(&old["scope"]),
            text(&new["scope"])
        );
        report.add(Rule::Scope, Severity::Breaking, None, "", text);
    }
    let name = |spec: &Value, field: &str| {
        let names = &spec["names"];
        let kind = names["kind"].as_str().unwrap_or_default();
        // What the API server fills in: a CRD from a cluster has it, one from a file may not.
        let filled = match field {
            "listKind" => format!("{kind}List"),
            "singular" => kind.to_lowercase(),
            _ => String::new(),
        };
        names[field].as_str().map_or(filled, str::to_owned)
    };
    for field in ["kind", "listKind", "plural", "singular"] {
        let (was, is) = (name(old, field), name(new, field));
        if was != is {
            let text = format!("names.{field} changes from {was} to {is}: clients and manifests that use {was} fail");
            report.add(Rule::Names, Severity::Breaking, None, "", text);
        }
    }
    for field in ["shortNames", "categories"] {
        let (was, is) = (words(&old["names"][field]), words(&new["names"][field]));
        let list = |words: Vec<&str>| if words.is_empty() { None } else { Some(words.join(", ")) };
        if let Some(gone) = list(was.difference(&is).copied().collect()) {
            let text = format!("no longer in names.{field}: {gone}; commands that use it find no objects");
            report.add(Rule::Names, Severity::Warn, None, "", text);
        }
        if let Some(added) = list(is.difference(&was).copied().collect()) {
            let text = format!("new in names.{field}: {added}; objects are found by it");
            report.add(Rule::Names, Severity::Safe, None, "", text);
        }
    }
    if old["group"] != new["group"] {
        let text = format!("group changes from {} to {}: it is another API", text(&old["group"]), text(&new["group"]));
        report.add(Rule::Names, Severity::Breaking, None, "", text);
    }
    unhandled(report, None, old, new, &["scope", "names", "group", "versions", "conversion"]);
    let known = ["kind", "listKind", "plural", "singular", "shortNames", "categories"];
    unhandled(report, None, &old["names"], &new["names"], &known);
}

/// A change of a field for which there is no rule counts as breaking.
fn unhandled(report: &mut Report, version: Option<&str>, old: &Value, new: &Value, known: &[&str]) {
    for field in unknown_words(old, new, known) {
        let text = format!("{field} changes, and there is no rule for that: look at what it means for objects");
        report.add(Rule::Unhandled, Severity::Breaking, version, "", text);
    }
}

pub(super) fn conversion(report: &mut Report, old: &Value, new: &Value) {
    let (severity, text) = match (strategy(old), strategy(new)) {
        ("None", "None") => return,
        ("None", _) => (
            Severity::Warn,
            "objects are now converted by a webhook: until its service answers, they can only be read in the version in which \
             they are stored",
        ),
        (_, "None") => (
            Severity::Breaking,
            "objects are no longer converted by a webhook: what it translated between versions is lost",
        ),
        _ if old == new => return,
        _ => (Severity::Warn, "objects are converted by another webhook: it has to answer before the old one goes"),
    };
    report.add(Rule::Conversion, severity, None, "", text);
}

pub(super) fn stored(report: &mut Report, crd: &Value, before: &Versions, after: &Versions) {
    let recorded = words(&crd["status"]["storedVersions"]);
    let stored = if recorded.is_empty() { before.storage.into_iter().collect() } else { recorded };
    for name in stored.into_iter().filter(|name| !after.all.contains_key(name)) {
        let text = format!(
            "objects may be stored as {name}, which is gone: the API server refuses the CRD until they are written anew in \
             another version and {name} is taken out of status.storedVersions"
        );
        report.add(Rule::StoredVersion, Severity::Breaking, Some(name), "", text);
    }
    let (Some(was), Some(is)) = (before.storage, after.storage) else { return };
    if was == is {
        return;
    }
    let (severity, text) = if age(is) < age(was) {
        let text = format!(
            "objects are stored as {is}, which is older than {was}: fields that only {was} has are lost when they are \
             written"
        );
        (Severity::Breaking, text)
    } else {
        let text = format!(
            "objects are stored as {is} from now on: those that exist stay as {was} until they are written anew, which has \
             to be done before {was} goes"
        );
        (Severity::Warn, text)
    };
    report.add(Rule::StorageVersion, severity, Some(is), "", text);
}

pub(super) fn served(report: &mut Report, before: &Versions, after: &Versions) {
    for name in before.served().filter(|name| !after.serves(name)) {
        let text = format!(
            "{name} is no longer served: objects stay, but manifests and clients that say {name} are refused; so are applies to \
             objects that a field manager last wrote as {name}"
        );
        report.add(Rule::ServedVersion, Severity::Breaking, Some(name), "", text);
    }
    for name in after.served().filter(|name| !before.serves(name)) {
        report.add(Rule::ServedVersion, Severity::Safe, Some(name), "", format!("{name} is now served"));
    }
}

pub(super) fn same_version(report: &mut Report, name: &str, old: &Value, new: &Value) {
    let version = Some(name);
    match (old["deprecated"] == true, new["deprecated"] == true) {
        (false, true) => {
            let text = format!("{name} is deprecated: objects stay, but whoever uses {name} should move on");
            report.add(Rule::Deprecation, Severity::Warn, version, "", text);
        }
        (true, false) => {
            report.add(Rule::Deprecation, Severity::Safe, version, "", format!("{name} is no longer deprecated"));
        }
        _ => {}
    }
    for field in ["status", "scale"] {
        let (was, is) = (&old["subresources"][field], &new["subresources"][field]);
        let (severity, text) = match (was.is_null(), is.is_null()) {
            _ if was == is => continue,
            (true, _) if field == "scale" => (Severity::Safe, "objects can now be scaled".to_owned()),
            (true, _) => (
                Severity::Warn,
                "status is now written apart: clients that write it with the object change nothing".to_owned(),
            ),
            (false, true) => (
                Severity::Breaking,
                format!("the subresource {field} is gone: clients and controllers that write it fail"),
            ),
            _ => (Severity::Breaking, format!("the subresource {field} means other fields: scaling acts on them")),
        };
        report.add(Rule::Subresources, severity, version, "", text);
    }
    let selectable = |v: &Value| -> BTreeSet<String> {
        let list = v["selectableFields"].as_array().into_iter().flatten();
        list.filter_map(|f| f["jsonPath"].as_str()).map(str::to_owned).collect()
    };
    let (was, is) = (selectable(old), selectable(new));
    for path in was.difference(&is) {
        let text = format!("objects can no longer be selected by {path}: clients that do so fail");
        report.add(Rule::SelectableFields, Severity::Breaking, version, "", text);
    }
    for path in is.difference(&was) {
        let text = format!("objects can now be selected by {path}");
        report.add(Rule::SelectableFields, Severity::Safe, version, "", text);
    }
    let known = [
        "name",
        "served",
        "storage",
        "schema",
        "subresources",
        "selectableFields",
        "deprecated",
        "deprecationWarning",
        "additionalPrinterColumns",
    ];
    unhandled(report, version, old, new, &known);
    report.add_all(name, "", schema::compare(&old["schema"], &new["schema"]));
}

/// Age of a version as Kubernetes orders them: `v1alpha1 < v1beta1 < v1 < v2`. Names of another form are the oldest.
pub(super) fn age(name: &str) -> (u8, u32, u32) {
    let parse = || {
        let rest = name.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (major, tail) = rest.split_at(digits);
        let major = major.parse().ok()?;
        match tail.strip_prefix("alpha").map(|n| (1, n)).or_else(|| tail.strip_prefix("beta").map(|n| (2, n))) {
            None if tail.is_empty() => Some((3, major, 0)),
            None => None,
            Some((stage, n)) => Some((stage, major, n.parse().ok()?)),
        }
    };
    parse().unwrap_or((0, 0, 0))
}
