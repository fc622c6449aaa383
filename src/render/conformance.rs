//! The bundles in `bundles/` against the real thing: what we render with default settings is what
//! `flux install --export` gives, but for the differences listed in `bundles/flux/differences.yaml`.
//!
//! The upstream files are not part of the repository; without them (`../shared/upstream`) the comparison says
//! that it was skipped. Everything else here needs only the repository.
//!
//! Test code: may read files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;

use super::*;
use crate::api::bundle::json_schema;

/// Every version there are sources of.
fn versions() -> Vec<String> {
    let versions: Vec<String> =
        sources().keys().filter_map(|path| path.strip_suffix("/version.yaml")).map(str::to_owned).collect();
    assert!(!versions.is_empty());
    versions
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read_folder(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
                files.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    files
}

fn sources() -> BTreeMap<String, Vec<u8>> {
    read_folder(&root().join("bundles/flux"))
}

fn bundle(version: &str) -> Bundle {
    Bundle::parse(&source::compose(&sources(), version).unwrap()).unwrap()
}

fn defaults() -> Settings {
    Settings { namespace: "flux-system".to_owned(), ..Settings::default() }
}

// --- Comparison with upstream ---------------------------------------------------------------

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Allowed {
    object: String,
    path: String,
    kind: String,
    r#type: String,
    reason: String,
}

struct Difference {
    object: String,
    path: Vec<String>,
    kind: &'static str,
    value: Value,
}

impl Allowed {
    fn covers(&self, difference: &Difference) -> bool {
        let object = self
            .object
            .strip_suffix('*')
            .map_or_else(|| self.object == difference.object, |prefix| difference.object.starts_with(prefix));
        let right_type = match self.r#type.as_str() {
            "string" => difference.value.is_string(),
            "list" => difference.value.is_array(),
            "map" => difference.value.is_object(),
            other => panic!("differences.yaml: type {other} is not one of string, list, map"),
        };
        let pattern: Vec<&str> = self.path.split('.').collect();
        object && right_type && self.kind == difference.kind && path_matches(&pattern, &difference.path)
    }
}

fn path_matches(pattern: &[&str], path: &[String]) -> bool {
    match (pattern.first(), path.first()) {
        (None, None) => true,
        (Some(&"**"), _) => {
            path_matches(&pattern[1..], path) || (!path.is_empty() && path_matches(pattern, &path[1..]))
        }
        (Some(&part), Some(field)) => (part == "*" || part == field) && path_matches(&pattern[1..], &path[1..]),
        _ => false,
    }
}

fn differences(object: &str, path: &[String], upstream: &Value, ours: &Value, found: &mut Vec<Difference>) {
    let mut add = |path: Vec<String>, kind, value: &Value| {
        found.push(Difference { object: object.to_owned(), path, kind, value: value.clone() });
    };
    let at = |part: String| path.iter().cloned().chain([part]).collect::<Vec<_>>();
    match (upstream, ours) {
        (Value::Object(a), Value::Object(b)) => {
            b.iter()
                .filter(|(name, _)| !a.contains_key(*name))
                .for_each(|(name, value)| add(at(name.clone()), "extra", value));
            for (name, value) in a {
                match b.get(name) {
                    None => found.push(Difference {
                        object: object.to_owned(),
                        path: at(name.clone()),
                        kind: "missing",
                        value: value.clone(),
                    }),
                    Some(other) => differences(object, &at(name.clone()), value, other, found),
                }
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            for i in 0..a.len().max(b.len()) {
                match (a.get(i), b.get(i)) {
                    (Some(x), Some(y)) => differences(object, &at(i.to_string()), x, y, found),
                    (Some(x), None) => found.push(Difference {
                        object: object.to_owned(),
                        path: at(i.to_string()),
                        kind: "missing",
                        value: x.clone(),
                    }),
                    (None, Some(y)) => found.push(Difference {
                        object: object.to_owned(),
                        path: at(i.to_string()),
                        kind: "extra",
                        value: y.clone(),
                    }),
                    (None, None) => {}
                }
            }
        }
        (a, b) if a != b => add(path.to_vec(), "changed", b),
        _ => {}
    }
}

/// `flux install --export` of the default components, put together from the export of all components and the
/// files of the single controllers, which hold the CRDs.
fn upstream(folder: &Path, bundle: &Bundle) -> BTreeMap<String, Value> {
    let manifest = bundle.manifest();
    let load = |name: String| yaml::parse(&name, &fs::read_to_string(folder.join(&name)).unwrap()).unwrap();
    let default = |name: &str| manifest.components.iter().any(|c| c.default && c.name == name);
    let mut objects: Vec<Value> = load("gotk-components.no-crds.yaml".to_owned());
    objects.retain(|object| object["metadata"]["labels"]["app.kubernetes.io/component"].as_str().is_none_or(default));
    for component in manifest.components.iter().filter(|c| c.default) {
        for mut crd in load(format!("{}.yaml", component.name)) {
            if crd["kind"] == "CustomResourceDefinition" {
                crd["metadata"]["labels"]["app.kubernetes.io/instance"] = "flux-system".into();
                crd["metadata"]["labels"]["app.kubernetes.io/version"] = manifest.app_version.clone().into();
                objects.push(crd);
            }
        }
    }
    let keyed = objects.into_iter().map(|value| (Object::try_from(value.clone()).unwrap().key().to_string(), value));
    keyed.collect()
}

#[test]
fn defaults_render_what_flux_install_gives() {
    let allowed = fs::read_to_string(root().join("bundles/flux/differences.yaml")).unwrap();
    let allowed: Vec<Allowed> = serde_json::from_value(yaml::parse_one("differences.yaml", &allowed).unwrap()).unwrap();
    assert!(allowed.iter().all(|row| !row.reason.is_empty()));
    let mut used = vec![false; allowed.len()];
    let mut all = true;
    for version in versions() {
        let folder = root().join("../shared/upstream/flux").join(format!("v{version}"));
        if !folder.exists() {
            println!("skipped: no upstream manifests of Flux {version} beside the repository");
            all = false;
            continue;
        }
        let bundle = bundle(&version);
        let ours: BTreeMap<String, Value> =
            render(&bundle, &defaults()).unwrap().into_iter().map(|o| (o.key().to_string(), o.into_value())).collect();
        let upstream = upstream(&folder, &bundle);
        assert_eq!(ours.keys().collect::<Vec<_>>(), upstream.keys().collect::<Vec<_>>(), "{version}");
        assert_eq!(ours.len(), 32);
        let mut found = Vec::new();
        for (name, value) in &upstream {
            differences(name, &[], value, &ours[name], &mut found);
        }
        let mut unknown = Vec::new();
        for difference in &found {
            let rows: Vec<usize> = (0..allowed.len()).filter(|i| allowed[*i].covers(difference)).collect();
            for i in &rows {
                used[*i] = true;
            }
            if rows.is_empty() {
                unknown.push(format!(
                    "{}: {} is {}: {}",
                    difference.object,
                    difference.path.join("."),
                    difference.kind,
                    difference.value
                ));
            }
        }
        assert!(unknown.is_empty(), "Flux {version}: {} differences:\n{}", unknown.len(), unknown.join("\n"));
        println!("Flux {version}: {} objects, {} differences, all allowed", ours.len(), found.len());
    }
    for (row, used) in allowed.iter().zip(used) {
        assert!(used || !all, "differences.yaml: the row {} {} matches nothing; remove it", row.object, row.path);
    }
}

// --- The bundles by themselves --------------------------------------------------------------

#[test]
fn every_bundle_passes_the_validator() {
    for version in versions() {
        check(&bundle(&version)).unwrap();
    }
}

#[test]
fn the_schema_is_up_to_date() {
    let path = root().join("bundles/bundle.schema.json");
    let expected = format!("{}\n", serde_json::to_string_pretty(&json_schema()).unwrap());
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap_or_default() == expected,
        "bundles/bundle.schema.json is out of date; run this test with UPDATE_EXPECT=1"
    );
}

#[test]
fn rendering_is_deterministic_and_in_order() {
    let bytes = |bundle: &Bundle| render(bundle, &defaults()).unwrap().iter().map(Object::to_bytes).collect::<Vec<_>>();
    let first = bundle("2.9.4");
    assert_eq!(bytes(&first), bytes(&first));
    assert_eq!(bytes(&first), bytes(&bundle("2.9.4")));
    let kinds: Vec<String> = render(&first, &defaults()).unwrap().iter().map(|o| o.key().kind.clone()).collect();
    let mut unique = kinds.clone();
    unique.dedup();
    assert_eq!(
        unique,
        [
            "CustomResourceDefinition",
            "Namespace",
            "ClusterRole",
            "ClusterRoleBinding",
            "ResourceQuota",
            "ServiceAccount",
            "Service",
            "Deployment",
            "NetworkPolicy"
        ]
    );
}

#[test]
fn components_decide_what_is_rendered() {
    let bundle = bundle("2.9.4");
    let with = |names: &[&str]| {
        let components = Some(names.iter().map(|name| (*name).to_owned()).collect());
        render(&bundle, &Settings { components, ..defaults() })
    };
    let two = with(&["kustomize-controller", "source-controller"]).unwrap();
    let names: Vec<String> = two.iter().map(|o| o.key().to_string()).collect();
    assert!(names.contains(&"Deployment flux-system/source-controller".to_owned()));
    assert!(!names.iter().any(|name| name.contains("helm") && !name.contains("source.toolkit")), "{names:?}");
    // Nobody receives events, so none are sent.
    let args = &two.iter().find(|o| o.key().kind == "Deployment").unwrap().value()["spec"]["template"]["spec"]["containers"]
        [0]["args"];
    assert_eq!(args[0], "--events-addr=");

    let error = |names: &[&str]| with(names).unwrap_err().to_string();
    assert_eq!(
        error(&["source-controller", "kustomise-controller"]),
        "spec.components[1]: \"kustomise-controller\" is not in bundle flux 2.9.4; it has: source-controller, \
         kustomize-controller, helm-controller, notification-controller; did you mean kustomize-controller?"
    );
    assert_eq!(
        error(&["helm-controller"]),
        "spec.components: \"helm-controller\" needs \"source-controller\"; add it to spec.components"
    );
    assert_eq!(
        error(&["source-controller", "source-controller"]),
        "spec.components[1]: \"source-controller\" is there twice; remove one of the two"
    );
}

#[test]
fn settings_reach_the_objects() {
    let bundle = bundle("2.9.4");
    let settings = Settings {
        namespace: "team-flux".to_owned(),
        registry: Some("mirror.example:5000/flux/".to_owned()),
        cluster: api::Cluster { domain: "corp.example".to_owned(), network_policy: false, size: None },
        common_metadata: Some(api::CommonMetadata {
            labels: [("team".to_owned(), "a".to_owned()), ("app.kubernetes.io/part-of".to_owned(), "mine".to_owned())]
                .into(),
            annotations: [("note".to_owned(), "b".to_owned())].into(),
        }),
        owner_labels: [("headwater.dev/instance".to_owned(), "x".to_owned())].into(),
        patches: vec![api::Patch {
            patch: "[{op: add, path: /metadata/labels/headwater.dev~1instance, value: stolen}]".to_owned(),
            target: Some(api::PatchTarget { kind: Some("Namespace".to_owned()), ..api::PatchTarget::default() }),
        }],
        ..Settings::default()
    };
    let objects = render(&bundle, &settings).unwrap();
    assert!(!objects.iter().any(|o| o.key().kind == "NetworkPolicy"));
    for object in &objects {
        assert_eq!(object.label("headwater.dev/instance"), Some("x"), "{}", object.key());
        assert_eq!(object.label("team"), Some("a"));
        assert_eq!(object.annotation("note"), Some("b"));
        assert_eq!(object.label("app.kubernetes.io/part-of"), Some("flux"));
        assert!(object.key().namespace.as_deref().is_none_or(|namespace| namespace == "team-flux"));
    }
    let deployment =
        objects.iter().find(|o| o.key().name == "source-controller" && o.key().kind == "Deployment").unwrap();
    let template = &deployment.value()["spec"]["template"];
    assert_eq!(template["metadata"]["labels"].get("team"), None, "pods are not restarted for a label");
    let container = &template["spec"]["containers"][0];
    assert_eq!(container["image"], "mirror.example:5000/flux/source-controller:v1.9.4");
    assert_eq!(container["args"][6], "--storage-adv-addr=source-controller.$(RUNTIME_NAMESPACE).svc.corp.example.");
    assert_eq!(images(&bundle, &settings).unwrap()[0].written, container["image"].as_str().unwrap());
}

fn sync(kind: api::SyncKind, url: &str, reference: &str) -> api::Sync {
    serde_json::from_value(serde_json::json!({"kind": kind, "url": url, "ref": reference})).unwrap()
}

#[test]
fn sync_becomes_a_source_and_a_kustomization() {
    let bundle = bundle("2.9.4");
    let rendered = |sync: api::Sync| -> Vec<Value> {
        let objects = render(&bundle, &Settings { sync: Some(sync), ..defaults() }).unwrap();
        assert_eq!(objects.len(), 34);
        let mut values: Vec<Value> =
            objects.into_iter().filter(|o| o.key().group.contains("toolkit")).map(Object::into_value).collect();
        values.sort_by_key(|value| value["kind"] == "Kustomization");
        values
    };
    let git = rendered(api::Sync {
        pull_secret: Some("creds".to_owned()),
        path: "clusters/a".to_owned(),
        ..sync(api::SyncKind::GitRepository, "https://git.example/x", "refs/heads/main")
    });
    let (source, kustomization) = (&git[0], &git[1]);
    assert_eq!(
        kustomization["spec"],
        serde_json::json!({"deletionPolicy": "Orphan", "interval": "1m", "path": "clusters/a", "prune": true, "sourceRef": {"kind": "GitRepository", "name": "flux-system"}})
    );
    assert_eq!(
        source["spec"],
        serde_json::json!({"interval": "1m", "url": "https://git.example/x", "ref": {"name": "refs/heads/main"}, "secretRef": {"name": "creds"}})
    );
    let oci = rendered(api::Sync {
        name: Some("apps".to_owned()),
        provider: Some(api::SyncProvider::Aws),
        insecure: true,
        wait: true,
        timeout: Some(api::Timeout("3m".to_owned())),
        ..sync(api::SyncKind::OCIRepository, "oci://r.example/x", "latest")
    });
    let source = oci.iter().find(|o| o["kind"] == "OCIRepository").unwrap();
    assert_eq!(source["metadata"]["name"], "apps");
    assert_eq!(
        source["spec"],
        serde_json::json!({"interval": "1m", "url": "oci://r.example/x", "ref": {"tag": "latest"}, "provider": "aws", "insecure": true, "timeout": "3m"})
    );
    let bucket = rendered(sync(api::SyncKind::Bucket, "s3.example", "manifests"));
    let source = bucket.iter().find(|o| o["kind"] == "Bucket").unwrap();
    assert_eq!(
        source["spec"],
        serde_json::json!({"interval": "1m", "endpoint": "s3.example", "bucketName": "manifests"})
    );
}

/// A bundle whose template gives what it should not.
#[test]
fn wrong_output_of_templates_is_named() {
    let with = |template: &str| {
        let mut files = source::compose(&sources(), "2.9.4").unwrap();
        files.insert("templates/x.yaml".to_owned(), template.as_bytes().to_vec());
        render(&Bundle::parse(&files).unwrap(), &defaults()).unwrap_err().to_string()
    };
    for (template, expected) in [
        (
            "apiVersion: v2\nkind: Pot\nmetadata: {name: a}",
            "bundle flux 2.9.4: Pot a is of v2 Pot, which is neither a kind of Kubernetes",
        ),
        ("apiVersion: v1\nkind: Namespace\nmetadata: {name: flux-system}", "Namespace flux-system is rendered twice"),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, namespace: b}",
            "objects of kind Namespace have no namespace",
        ),
        ("a: 1", "output of templates/x.yaml: apiVersion is missing"),
        ("a: {{ sync.nothing }}", "templates/x.yaml:1:"),
        ("a: [", "output of templates/x.yaml:1:"),
    ] {
        let error = with(template);
        assert!(error.contains(expected) && error.chars().count() <= 512, "{error}\n  should say\n{expected}");
    }
}

// --- Hostile values -------------------------------------------------------------------------

/// Settings in which every text is `mark` and a number, so that each can be found again.
fn marked(mark: &str) -> Settings {
    let text = |n: u8| format!("{mark}{n}");
    Settings {
        namespace: text(0),
        components: None,
        registry: Some(text(1)),
        images: BTreeMap::new(),
        pin_images: false,
        cluster: api::Cluster { domain: text(2), network_policy: true, size: None },
        common_metadata: Some(api::CommonMetadata {
            labels: [("team".to_owned(), text(3))].into(),
            annotations: [("note".to_owned(), text(4)), (text(5), "x".to_owned())].into(),
        }),
        sync: Some(api::Sync {
            name: Some(text(6)),
            path: text(7),
            pull_secret: Some(text(8)),
            interval: api::Interval(text(9)),
            ..sync(api::SyncKind::GitRepository, &text(0), &text(1))
        }),
        patches: Vec::new(),
        owner_labels: [("headwater.dev/instance".to_owned(), text(2))].into(),
    }
}

fn replace(value: &Value, from: &str, to: &str) -> Value {
    match value {
        Value::String(text) => text.replace(from, to).into(),
        Value::Array(items) => items.iter().map(|item| replace(item, from, to)).collect(),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (name.replace(from, to), replace(value, from, to))).collect()
        }
        other => other.clone(),
    }
}

fn stays_text(bundle: &Bundle, hostile: &str) {
    const MARK: &str = "zzmarkzz";
    let sorted = |settings: &Settings| {
        let mut values: Vec<Value> = render(bundle, settings).unwrap().into_iter().map(Object::into_value).collect();
        values.sort_by_key(|v| (v["kind"].to_string(), v["metadata"]["name"].to_string()));
        values
    };
    let mut expected: Vec<Value> = sorted(&marked(MARK)).iter().map(|value| replace(value, MARK, hostile)).collect();
    expected.sort_by_key(|v| (v["kind"].to_string(), v["metadata"]["name"].to_string()));
    assert!(expected == sorted(&marked(hostile)), "{hostile:?} changed the structure of what was rendered");
}

#[test]
fn hostile_values_stay_text() {
    let bundle = bundle("2.9.4");
    for hostile in [
        "a: b",
        " # x",
        "x\n---\nkind: Evil\n",
        "\n- x",
        "{{ namespace }}",
        "{% for x in y %}",
        "\"",
        "'",
        "\\",
        "\\n",
        "yes",
        "0x",
        "!!int ",
        "&a ",
        "*a",
        "|\n  x",
        ">",
        "? ",
        "@",
        "`",
        "%YAML",
        "\t",
        "\r\n",
        "\u{85}",
        "\u{2028}",
        "\u{feff}",
        "\u{0}",
        "😀",
        "]}",
        ", x: ",
        "${X}",
    ] {
        stays_text(&bundle, hostile);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_value_stays_text(hostile in "[\\n\\r\\t :#{}%\\[\\]\"'|>&*!,?\\\\a-z0-9-]{1,24}|.{1,24}") {
        thread_local! {
            static BUNDLE: Bundle = bundle("2.9.4");
        }
        BUNDLE.with(|bundle| stays_text(bundle, &hostile));
    }
}
