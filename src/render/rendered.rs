//! What the bundles in `bundles/` render, setting by setting.
//!
//! Test code: may read files.

use std::fs;

use serde_json::Value;

use super::testing::{bundle, defaults, root, sources, sync, versions};
use super::*;
use crate::api::bundle::json_schema;

#[test]
fn every_bundle_passes_the_validator() {
    for version in versions() {
        check(&bundle(&version)).unwrap();
    }
}

/// One operator may hold many of them, and they travel to every site.
#[test]
fn bundles_are_small() {
    for version in versions() {
        let size = crate::bundle::pack(&source::compose(&sources(), &version).unwrap()).unwrap().bytes.len();
        assert!(size <= 60_000, "Flux {version} has {size} bytes");
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
         kustomize-controller, helm-controller, notification-controller, image-reflector-controller, \
         image-automation-controller, source-watcher, tofu-controller; did you mean kustomize-controller?"
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
