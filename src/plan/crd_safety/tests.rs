//! Test code: may read files. Each rule in a table, properties over made-up schemas, and the bundles of this repository.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use Severity::{Breaking, Safe, Warn};

/// A CRD of one version whose `spec` has the schema.
fn crd(spec: &Value) -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}});
    of(&json!([{"name": "v1", "served": true, "storage": true, "schema": schema}]))
}

fn of(versions: &Value) -> Value {
    json!({
        "metadata": {"name": "things.example.org"},
        "spec": {"group": "example.org", "scope": "Namespaced", "names": {"kind": "Thing", "plural": "things"}, "versions": versions},
    })
}

/// `v1`, `v1-` (not served), `v1*` (stored), each with the same open schema.
fn versions(list: &[&str]) -> Value {
    let version = |text: &&str| {
        let name = text.trim_end_matches(['*', '-']);
        json!({"name": name, "served": !text.ends_with('-'), "storage": text.ends_with('*'), "schema": {"openAPIV3Schema": {"type": "object"}}})
    };
    of(&list.iter().map(version).collect())
}

fn with(mut crd: Value, pointer: &str, value: Value) -> Value {
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    crd.pointer_mut(parent).unwrap()[field] = value;
    crd
}

fn seen(old: &Value, new: &Value) -> Vec<(Severity, Rule, String)> {
    compare(old, new).into_iter().map(|f| (f.severity, f.rule, f.path)).collect()
}

/// What stands at `spec`, what takes its place, and what is found: how bad, which rule, where, and a part of the text.
type Row = (Value, Value, Severity, Rule, &'static str, &'static str);

fn check(rows: impl IntoIterator<Item = Row>) {
    for (old, new, severity, rule, path, says) in rows {
        let found = compare(&crd(&old), &crd(&new));
        let [one] = found.as_slice() else { panic!("{old}\n{new}\n{found:#?}") };
        assert_eq!((one.severity, one.rule, one.path.as_str()), (severity, rule, path), "{old}\n{new}\n{one:?}");
        assert!(one.text.contains(says), "{}\n  should say\n{says}", one.text);
        assert_eq!((one.crd.as_str(), one.version.as_deref()), ("things.example.org", Some("v1")));
    }
}

fn text() -> Value {
    json!({"type": "string"})
}

fn number() -> Value {
    json!({"type": "integer"})
}

fn string(keyword: &str, value: Value) -> Value {
    with(text(), &format!("/{keyword}"), value)
}

fn object(fields: &Value) -> Value {
    json!({"type": "object", "properties": fields})
}

#[test]
fn fields_and_types_have_rules() {
    let either = json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]});
    let map = |inner: Value| json!({"type": "object", "additionalProperties": inner});
    let required = |names: Value| json!({"type": "object", "properties": {"a": text(), "b": {"type": "string", "default": "x"}}, "required": names});
    check([
        // Fields.
        (object(&json!({"a": text()})), object(&json!({})), Breaking, Rule::Field, "spec.a", "objects lose its value"),
        (
            object(&json!({})),
            object(&json!({"a": text()})),
            Safe,
            Rule::Field,
            "spec.a",
            "objects that exist do not have it",
        ),
        (
            object(&json!({})),
            object(&json!({"a": string("default", json!("x"))})),
            Safe,
            Rule::Field,
            "spec.a",
            "read as \"x\"",
        ),
        (object(&json!({"a": text()})), map(text()), Safe, Rule::Field, "spec.*", "more is allowed"),
        (map(text()), json!({"type": "object"}), Breaking, Rule::Field, "spec.*", "less is allowed"),
        (map(text()), map(number()), Breaking, Rule::Type, "spec.*", "from string to integer"),
        (map(text()), json!({"type": "object", "additionalProperties": true}), Safe, Rule::Field, "spec.*", "more is"),
        // Required.
        (
            required(json!([])),
            required(json!(["a"])),
            Breaking,
            Rule::Required,
            "spec.a",
            "objects without it are refused",
        ),
        (
            required(json!([])),
            required(json!(["b"])),
            Safe,
            Rule::Required,
            "spec.b",
            "objects without it read as \"x\"",
        ),
        (required(json!(["a"])), required(json!([])), Safe, Rule::Required, "spec.a", "may be left out"),
        // Types.
        (text(), number(), Breaking, Rule::Type, "spec", "cannot be read or written"),
        (number(), json!({"type": "number"}), Safe, Rule::Type, "spec", "from integer to number"),
        (text(), either.clone(), Safe, Rule::Type, "spec", "from string to integer or string"),
        (either, text(), Breaking, Rule::Type, "spec", "from integer or string to string"),
        (text(), string("format", json!("date")), Breaking, Rule::Format, "spec", "has to be date"),
        (string("format", json!("date")), text(), Safe, Rule::Format, "spec", "no longer has to be date"),
        (
            json!({"type": "integer", "format": "int32"}),
            json!({"type": "integer", "format": "int64"}),
            Safe,
            Rule::Format,
            "spec",
            "may be larger",
        ),
    ]);
}

#[test]
fn values_have_rules() {
    check([
        // Values.
        (text(), string("enum", json!(["a"])), Breaking, Rule::Enum, "spec", "only \"a\" are allowed"),
        (
            string("enum", json!(["a", "b"])),
            string("enum", json!(["a"])),
            Breaking,
            Rule::Enum,
            "spec",
            "no longer allowed: \"b\"",
        ),
        (
            string("enum", json!(["a"])),
            string("enum", json!(["a", "b"])),
            Safe,
            Rule::Enum,
            "spec",
            "now allowed too: \"b\"",
        ),
        (string("enum", json!(["a"])), text(), Safe, Rule::Enum, "spec", "any value"),
        (text(), string("default", json!("x")), Warn, Rule::Default, "spec", "now read as \"x\""),
        (
            string("default", json!("x")),
            string("default", json!("y")),
            Warn,
            Rule::Default,
            "spec",
            "keep \"x\", new ones get \"y\"",
        ),
        (string("default", json!("x")), text(), Warn, Rule::Default, "spec", "no longer filled in with \"x\""),
        (text(), string("pattern", json!("^a$")), Breaking, Rule::Pattern, "spec", "has to match ^a$"),
        (
            string("pattern", json!("^a$")),
            string("pattern", json!("a")),
            Breaking,
            Rule::Pattern,
            "spec",
            "comparing cannot tell",
        ),
        (string("pattern", json!("^a$")), text(), Safe, Rule::Pattern, "spec", "no longer has to match"),
        (string("nullable", json!(true)), text(), Breaking, Rule::Nullable, "spec", "no longer allowed"),
        (text(), string("nullable", json!(true)), Safe, Rule::Nullable, "spec", "null is allowed"),
    ]);
}

#[test]
fn rules_and_merging_have_rules_and_the_rest_fails_closed() {
    let rules =
        |list: Value| json!({"type": "object", "properties": {"a": number()}, "x-kubernetes-validations": list});
    let list = |kind: &str, keys: Value| json!({"type": "array", "items": {"type": "object", "properties": {"k": text(), "l": text()}}, "x-kubernetes-list-type": kind, "x-kubernetes-list-map-keys": keys});
    check([
        // CEL.
        (
            rules(json!([])),
            rules(json!([{"rule": "self.a > 1"}])),
            Breaking,
            Rule::Validation,
            "spec",
            "a new rule `self.a > 1`",
        ),
        (
            rules(json!([{"rule": "self.a > 1", "message": "m"}])),
            rules(json!([{"rule": "self.a > 2", "message": "m"}])),
            Breaking,
            Rule::Validation,
            "spec",
            "the rule `self.a > 1` becomes `self.a > 2`",
        ),
        (
            rules(json!([{"rule": "self.a > 1"}])),
            rules(json!([])),
            Safe,
            Rule::Validation,
            "spec",
            "nothing is refused",
        ),
        // Merging.
        (list("atomic", Value::Null), list("set", Value::Null), Breaking, Rule::Merging, "spec", "two equal entries"),
        (list("set", Value::Null), list("atomic", Value::Null), Warn, Rule::Merging, "spec", "replaces the entries"),
        (list("map", json!(["k"])), list("map", json!(["l"])), Breaking, Rule::Merging, "spec", "by other fields"),
        (
            object(&json!({})),
            with(object(&json!({})), "/x-kubernetes-map-type", json!("atomic")),
            Warn,
            Rule::Merging,
            "spec",
            "granular to atomic",
        ),
        // Unknown fields.
        (
            with(object(&json!({})), "/x-kubernetes-preserve-unknown-fields", json!(true)),
            object(&json!({})),
            Breaking,
            Rule::UnknownFields,
            "spec",
            "objects lose them",
        ),
        (
            object(&json!({})),
            with(object(&json!({})), "/x-kubernetes-preserve-unknown-fields", json!(true)),
            Safe,
            Rule::UnknownFields,
            "spec",
            "now kept",
        ),
        (
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": text()}}),
            Breaking,
            Rule::Field,
            "spec.a",
            "could hold anything before",
        ),
        // Everything else fails closed.
        (text(), string("not", json!({"enum": ["x"]})), Breaking, Rule::Unhandled, "spec", "no rule for that"),
        (text(), string("x-kubernetes-embedded-resource", json!(true)), Breaking, Rule::Unhandled, "spec", "no rule"),
    ]);
}

#[test]
fn limits_are_breaking_when_added_or_tightened() {
    for (rule, keywords, tighter, looser) in [
        (Rule::Maximum, ["maximum", "maxLength", "maxItems", "maxProperties"], 4, 6),
        (Rule::Minimum, ["minimum", "minLength", "minItems", "minProperties"], 6, 4),
    ] {
        for keyword in keywords {
            let node = |value: Value| crd(&json!({"type": "string", keyword: value}));
            let without = crd(&json!({"type": "string"}));
            let path = "spec".to_owned();
            assert_eq!(seen(&without, &node(json!(5))), [(Breaking, rule, path.clone())], "{keyword} added");
            assert_eq!(
                seen(&node(json!(5)), &node(json!(tighter))),
                [(Breaking, rule, path.clone())],
                "{keyword} tightened"
            );
            assert_eq!(seen(&node(json!(5)), &node(json!(looser))), [(Safe, rule, path.clone())], "{keyword} loosened");
            assert_eq!(seen(&node(json!(5)), &without), [(Safe, rule, path)], "{keyword} removed");
        }
    }
    let trivial = crd(&json!({"type": "string", "minLength": 0}));
    assert_eq!(seen(&crd(&json!({"type": "string"})), &trivial), [(Safe, Rule::Minimum, "spec".to_owned())]);
}

#[test]
fn a_rule_about_something_new_is_a_warning() {
    let old = json!({"type": "object", "properties": {"kind": {"type": "string", "enum": ["a"]}}});
    let mut new = json!({"type": "object", "properties": {"kind": {"type": "string", "enum": ["a", "b-c"]}}});
    for (rule, severity) in [
        ("self.kind != 'b-c' || size(self.kind) > 1", Warn),
        // Part of another word is not the word.
        ("self.kind != 'b-c-d'", Breaking),
        ("self.kind == 'a'", Breaking),
    ] {
        new["x-kubernetes-validations"] = json!([{"rule": rule}]);
        let found = compare(&crd(&old), &crd(&new));
        let found = found.iter().find(|f| f.rule == Rule::Validation).unwrap();
        assert_eq!(found.severity, severity, "{found:?}");
    }
}

#[test]
fn versions_come_and_go() {
    let one = |severity, rule, version: &str| vec![(severity, rule, version.to_owned())];
    for (old, new, expected) in [
        (vec!["v1*"], vec!["v1*"], vec![]),
        (vec!["v1*", "v1beta1"], vec!["v1*"], one(Breaking, Rule::ServedVersion, "v1beta1")),
        (vec!["v1*", "v1beta1"], vec!["v1*", "v1beta1-"], one(Breaking, Rule::ServedVersion, "v1beta1")),
        (vec!["v1*", "v1beta1-"], vec!["v1*"], vec![]),
        (vec!["v1*"], vec!["v1*", "v2"], one(Safe, Rule::ServedVersion, "v2")),
        (vec!["v1", "v1beta1*"], vec!["v1*", "v1beta1"], one(Warn, Rule::StorageVersion, "v1")),
        (vec!["v1*", "v1beta1"], vec!["v1", "v1beta1*"], one(Breaking, Rule::StorageVersion, "v1beta1")),
        (
            vec!["v1", "v1beta1*"],
            vec!["v1*"],
            vec![
                (Breaking, Rule::StoredVersion, "v1beta1".to_owned()),
                (Breaking, Rule::ServedVersion, "v1beta1".to_owned()),
                (Warn, Rule::StorageVersion, "v1".to_owned()),
            ],
        ),
    ] {
        let found = compare(&versions(&old), &versions(&new));
        let found: Vec<_> = found.into_iter().map(|f| (f.severity, f.rule, f.version.unwrap())).collect();
        assert_eq!(found, expected, "{old:?} {new:?}");
    }
    assert!(
        definition::age("v1alpha1") < definition::age("v1beta1")
            && definition::age("v1beta2") < definition::age("v1")
            && definition::age("v1") < definition::age("v2")
    );
    assert!(
        definition::age("v2beta1") < definition::age("v1")
            && definition::age("v10") > definition::age("v2")
            && definition::age("other") < definition::age("v1alpha1")
    );
}

/// What is stored in which version is read from the cluster where it is known.
#[test]
fn recorded_stored_versions_count() {
    let (old, new) = (versions(&["v1*", "v1beta1-"]), versions(&["v1*"]));
    let recorded = |list: Value| with(old.clone(), "/status", json!({"storedVersions": list}));
    assert_eq!(seen(&recorded(json!(["v1"])), &new), []);
    let both = compare(&recorded(json!(["v1beta1", "v1"])), &new);
    assert_eq!(both.len(), 1);
    assert_eq!((both[0].rule, both[0].severity), (Rule::StoredVersion, Breaking));
    assert!(both[0].text.contains("taken out of status.storedVersions"));
}

#[test]
fn the_rest_of_a_crd_has_rules_too() {
    let base = versions(&["v1*"]);
    let webhook = json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"]}});
    let other = json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v2"]}});
    let conversion = |value: &Value| with(base.clone(), "/spec/conversion", value.clone());
    let first = |field: &str, value: Value| with(base.clone(), &format!("/spec/versions/0/{field}"), value);
    let names = |field: &str, value: Value| with(base.clone(), &format!("/spec/names/{field}"), value);
    for (old, new, severity, rule) in [
        (base.clone(), with(base.clone(), "/spec/scope", json!("Cluster")), Breaking, Rule::Scope),
        (base.clone(), with(base.clone(), "/spec/group", json!("example.com")), Breaking, Rule::Names),
        (base.clone(), names("listKind", json!("Things")), Breaking, Rule::Names),
        (base.clone(), names("shortNames", json!(["t"])), Safe, Rule::Names),
        (names("categories", json!(["all"])), base.clone(), Warn, Rule::Names),
        (base.clone(), conversion(&webhook), Warn, Rule::Conversion),
        (conversion(&webhook), conversion(&other), Warn, Rule::Conversion),
        (conversion(&webhook), base.clone(), Breaking, Rule::Conversion),
        (base.clone(), first("deprecated", json!(true)), Warn, Rule::Deprecation),
        (first("deprecated", json!(true)), base.clone(), Safe, Rule::Deprecation),
        (base.clone(), first("subresources", json!({"status": {}})), Warn, Rule::Subresources),
        (first("subresources", json!({"status": {}})), base.clone(), Breaking, Rule::Subresources),
        (base.clone(), first("subresources", json!({"scale": {"a": 1}})), Safe, Rule::Subresources),
        (
            first("subresources", json!({"scale": {"a": 1}})),
            first("subresources", json!({"scale": {"a": 2}})),
            Breaking,
            Rule::Subresources,
        ),
        (base.clone(), first("selectableFields", json!([{"jsonPath": ".spec.a"}])), Safe, Rule::SelectableFields),
        (first("selectableFields", json!([{"jsonPath": ".spec.a"}])), base.clone(), Breaking, Rule::SelectableFields),
        (base.clone(), with(base.clone(), "/spec/preserveUnknownFields", json!(true)), Breaking, Rule::Unhandled),
        (base.clone(), first("novelty", json!(1)), Breaking, Rule::Unhandled),
    ] {
        assert_eq!(seen(&old, &new), [(severity, rule, String::new())], "{new}");
    }
    // What the API server fills in, and what only people read, is no change.
    let mut filled = base.clone();
    filled["spec"]["conversion"] = json!({"strategy": "None"});
    filled["spec"]["preserveUnknownFields"] = json!(false);
    filled["spec"]["names"]["listKind"] = json!("ThingList");
    filled["spec"]["names"]["singular"] = json!("thing");
    filled["spec"]["versions"][0]["additionalPrinterColumns"] = json!([{"name": "A"}]);
    filled["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"] = json!("text");
    assert_eq!((seen(&base, &filled), seen(&filled, &base)), (vec![], vec![]));
}

#[test]
fn served_versions_are_held_against_each_other_unless_it_was_so_before() {
    let version = |name: &str, stored: bool, limit: u32| {
        let schema =
            json!({"openAPIV3Schema": {"type": "object", "properties": {"a": {"type": "string", "maxLength": limit}}}});
        json!({"name": name, "served": true, "storage": stored, "schema": schema})
    };
    let single = of(&json!([version("v1", true, 10)]));
    let both = |limit| of(&json!([version("v1", true, 10), version("v2", false, limit)]));
    let found = compare(&single, &both(5));
    assert_eq!((found[0].severity, found[0].rule, found[0].version.as_deref()), (Breaking, Rule::Maximum, Some("v2")));
    assert!(
        found[0].text.starts_with("written as v1, read as v2: maxLength changes from 10 to 5"),
        "{}",
        found[0].text
    );
    assert_eq!(seen(&single, &both(10)), [(Safe, Rule::ServedVersion, String::new())]);
    assert_eq!(compare(&both(5), &both(5)), [], "it was so before");
    let webhook = with(both(5), "/spec/conversion", json!({"strategy": "Webhook"}));
    assert!(compare(&webhook, &webhook).is_empty(), "a webhook converts");
    assert!(compare(&single, &webhook).iter().all(|f| f.rule != Rule::Maximum));
    // A version that takes the place of the one that stored is compared with that.
    let replaced = compare(&single, &of(&json!([version("v2", true, 5)])));
    assert!(
        replaced.iter().any(|f| f.text.starts_with("objects stored as v1 are read as v2: maxLength")),
        "{replaced:?}"
    );
}

#[test]
fn crds_come_and_go() {
    let crd = versions(&["v1*"]);
    let (none, some) = (BTreeMap::new(), BTreeMap::from([("things.example.org".to_owned(), crd)]));
    assert_eq!(compare_all(&some, &some), []);
    let come = compare_all(&none, &some);
    assert_eq!((come[0].rule, come[0].severity), (Rule::Crd, Safe));
    let gone = compare_all(&some, &none);
    assert_eq!((gone[0].rule, gone[0].severity), (Rule::Crd, Breaking));
    assert!(gone[0].text.contains("no controller works on them"));
}

fn schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({"type": "string"})),
        Just(json!({"type": "string", "enum": ["a", "b"], "default": "a"})),
        (0..9u32).prop_map(|n| json!({"type": "string", "maxLength": n, "pattern": "^a"})),
        (0..9i32).prop_map(|n| json!({"type": "integer", "minimum": n, "nullable": true})),
        Just(json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|items| json!({"type": "array", "items": items})),
            inner.clone().prop_map(|any| json!({"type": "object", "additionalProperties": any})),
            object_of(inner),
        ]
    })
}

fn object_of(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    proptest::collection::btree_map("[a-d]", inner, 1..4).prop_map(|fields| {
        let first: Vec<_> = fields.keys().take(1).cloned().collect();
        json!({"type": "object", "properties": fields, "required": first, "x-kubernetes-validations": [{"rule": "true"}]})
    })
}

proptest! {
    #[test]
    fn a_crd_is_safe_against_itself(spec in schema()) {
        prop_assert_eq!(compare(&crd(&spec), &crd(&spec)), []);
    }

    #[test]
    fn a_new_optional_field_is_never_breaking(spec in object_of(schema()), field in schema(), name in "[e-h]") {
        let new = with(spec.clone(), &format!("/properties/{name}"), field);
        let found = compare(&crd(&spec), &crd(&new));
        prop_assert_eq!(found.len(), 1);
        prop_assert_eq!(found[0].severity, Safe);
        // And the way back loses it.
        prop_assert!(compare(&crd(&new), &crd(&spec)).iter().any(|f| f.severity == Breaking));
    }

    /// Whatever is not the same is said.
    #[test]
    fn no_change_is_overlooked(old in schema(), new in schema()) {
        prop_assert_eq!(compare(&crd(&old), &crd(&new)).is_empty(), old == new);
    }
}

/// Reviewed by hand: the versions that 2.9 drops, the receivers' rules that speak of the new type, and what is added.
#[test]
fn the_step_from_2_8_to_2_9_is_as_reviewed() {
    let (old, new) = (crds("2.8.8"), crds("2.9.4"));
    let lines: Vec<String> = compare_all(&by_name(&old), &by_name(&new))
        .into_iter()
        .filter(|f| f.rule != Rule::Names)
        .map(|f| format!("{:?} {f}", f.severity))
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

fn by_name(crds: &[Value]) -> BTreeMap<String, Value> {
    crds.iter().map(|crd| (crd["metadata"]["name"].as_str().unwrap().to_owned(), crd.clone())).collect()
}

fn crds(version: &str) -> Vec<Value> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles/flux").join(version).join("crds");
    let read = |file: std::fs::DirEntry| {
        let text = std::fs::read_to_string(file.path()).unwrap();
        crate::render::yaml::parse_one(&file.path().display().to_string(), &text).unwrap()
    };
    std::fs::read_dir(folder).unwrap().map(|file| read(file.unwrap())).collect()
}
