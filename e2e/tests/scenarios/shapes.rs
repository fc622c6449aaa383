//! Every shape in which a bundle can be installed, held against a real API server.

use std::collections::BTreeMap;

use headwater::api::{Cluster, ClusterSize, Sync, Tofu};
use headwater::bundle::{read_folder, versions};
use headwater::render::{Bundle, Kind, Object, ObjectKey, RenderError, Settings, render, source};
use headwater_e2e::Kind as ClusterKind;
use serde_json::{Value, json};

use crate::harness::{SOON, Site, crd, eventually, holds, in_repository};

fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// All selections of components, those that are refused included.
fn selections(names: &[String]) -> impl Iterator<Item = Vec<String>> {
    (1..1_u32 << names.len()).map(|chosen| {
        names.iter().enumerate().filter(|(i, _)| chosen & (1 << i) != 0).map(|(_, n)| n.clone()).collect()
    })
}

/// Every selection as it is, and all components with everything else that a spec can ask for.
fn shapes(bundle: &Bundle) -> Vec<Settings> {
    let names: Vec<String> = bundle.manifest().components.iter().map(|c| c.name.clone()).collect();
    let plain =
        |components| Settings { namespace: "flux-system".into(), components: Some(components), ..Settings::default() };
    let mut shapes: Vec<Settings> = selections(&names).map(plain).collect();
    let all = plain(names);
    let git = json!({"kind": "GitRepository", "url": "https://example.com/x", "ref": "refs/heads/main", "wait": true, "timeout": "3m"});
    let oci = json!({"kind": "OCIRepository", "url": "oci://example.com/x", "ref": "latest", "provider": "aws", "insecure": true});
    let bucket = json!({"kind": "Bucket", "url": "s3.example.com", "ref": "bucket", "pullSecret": "creds"});
    for sync in [git, oci, bucket] {
        shapes.push(Settings { sync: Some(of::<Sync>(sync)), ..all.clone() });
    }
    for size in [ClusterSize::Small, ClusterSize::Medium, ClusterSize::Large] {
        let cluster = Cluster { size: Some(size), network_policy: false, ..Cluster::default() };
        shapes.push(Settings { cluster, ..all.clone() });
    }
    let runner = json!({"serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/x"}}});
    let tofu = json!({"allowedNamespaces": ["team-a"], "runner": runner, "branchPlanner": true, "awsPackage": true});
    shapes.push(Settings { tofu: Some(of::<Tofu>(tofu)), ..all });
    shapes
}

fn path(kind: &Kind, object: &Object) -> String {
    let root = if kind.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", kind.group) };
    let inside = object.key().namespace.as_ref().map(|n| format!("/namespaces/{n}")).unwrap_or_default();
    format!("{root}/{}{inside}/{}/{}", kind.version, kind.plural, object.key().name)
}

/// Whatever components are chosen, either it is refused for a requirement that is named, or the API server takes every object
/// without a field it does not know, and establishes every CRD: for all versions, one after the other.
#[test]
fn every_allowed_shape_is_accepted() {
    let site = Site::start(ClusterKind::Plain);
    site.create("/api/v1/namespaces", &json!({"metadata": {"name": "flux-system"}}));
    let files = read_folder(in_repository("bundles/flux").as_ref()).unwrap();
    for version in versions(&files) {
        let bundle = Bundle::parse(&source::compose(&files, &version.to_string()).unwrap()).unwrap();
        let (mut allowed, mut refused) = (0, 0);
        let mut different: BTreeMap<ObjectKey, Vec<Object>> = BTreeMap::new();
        for settings in shapes(&bundle) {
            match render(&bundle, &settings) {
                Ok(rendered) => {
                    allowed += 1;
                    for object in rendered {
                        let known = different.entry(object.key().clone()).or_default();
                        if !known.contains(&object) {
                            known.push(object);
                        }
                    }
                }
                Err(RenderError::Components(why)) => {
                    refused += 1;
                    assert!(why.contains(" needs ") && why.ends_with("; add it to spec.components"), "{why}");
                }
                Err(error) => panic!("{version}: {:?}: {error}", settings.components),
            }
        }
        assert!(allowed > 8 && refused > 8, "{version}: {allowed} allowed, {refused} refused");

        let (definitions, others): (Vec<&Object>, Vec<&Object>) =
            different.values().flatten().partition(|o| o.key().kind == "CustomResourceDefinition");
        let apply = |object: &Object, more: &str| {
            let path = path(&bundle.kind_of(object).unwrap(), object);
            let query = format!("?fieldManager=headwater&force=true&fieldValidation=Strict{more}");
            let body = Some(("application/apply-patch+yaml", object.value()));
            // A kind is served a moment after its CRD is established.
            eventually(&format!("{version}: {} is served", object.key()), SOON, || {
                match site.request("PATCH", &format!("{path}{query}"), body) {
                    Err((404 | 429, why)) => Err(why),
                    other => Ok(other),
                }
            })
            .unwrap_or_else(|refused| panic!("{version}: {}: {refused:?}\n{:#}", object.key(), object.value()));
        };
        for object in &definitions {
            apply(object, "");
        }
        for object in &definitions {
            eventually(&format!("{version}: {} is established", object.key()), SOON, || {
                let live = site.must_get(&crd(&object.key().name));
                let conditions = live["status"]["conditions"].clone();
                let is = |name: &str| {
                    conditions.as_array().is_some_and(|c| c.iter().any(|c| c["type"] == name && c["status"] == "True"))
                };
                holds(is("Established") && is("NamesAccepted"), &conditions)
            });
        }
        for object in &others {
            apply(object, "&dryRun=All");
        }
        eprintln!(
            "{version}: {} different objects of {allowed} shapes; {refused} are refused",
            definitions.len() + others.len()
        );
    }
}
