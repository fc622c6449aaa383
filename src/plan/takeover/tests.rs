//! Test code: may read files. Who is taken over from, and how.

use proptest::prelude::*;

use super::fields::{is_replaced, take_over, union};
use super::*;
use crate::plan::Live;

fn foreign(metadata: Value) -> Foreign {
    let live = Live { uid: "u".to_owned(), resource_version: 7, ..Live::default() };
    Foreign { live, metadata }
}

fn entry(manager: &str, operation: &str, fields: &Value) -> Value {
    json!({"manager": manager, "operation": operation, "apiVersion": "apps/v1", "fieldsType": "FieldsV1", "fieldsV1": fields})
}

#[test]
fn owners_are_told_by_their_marks() {
    let spec = json!({"f:spec": {}});
    let cases = [
        (json!({}), vec![]),
        (json!({"managedFields": [entry("flux", "Apply", &spec)]}), vec!["flux install"]),
        (
            json!({
                "labels": {"kustomize.toolkit.fluxcd.io/name": "flux-system", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"},
                "managedFields": [entry("kustomize-controller", "Apply", &spec), entry("flux", "Apply", &spec)],
            }),
            vec!["flux install", "Kustomization flux-system/flux-system"],
        ),
        (
            json!({"annotations": {"meta.helm.sh/release-name": "flux2", "meta.helm.sh/release-namespace": "flux"}}),
            vec![
                "Helm release flux/flux2: `helm uninstall` would delete it: make Helm forget the release by `kubectl label secrets -n flux -l \
                  owner=helm,name=flux2 owner=headwater --overwrite`",
            ],
        ),
        (
            json!({"labels": {"fluxcd.controlplane.io/name": "flux", "fluxcd.controlplane.io/namespace": "flux-system"}}),
            vec![
                "flux-operator's FluxInstance flux-system/flux: flux-operator would put back what it installed: `kubectl annotate \
                  fluxinstances.fluxcd.controlplane.io -n flux-system flux fluxcd.controlplane.io/reconcile=disabled --overwrite`, which also \
                  makes deleting that object harmless; or scale flux-operator down to 0",
            ],
        ),
        (json!({"managedFields": [entry("kubectl-client-side-apply", "Update", &spec)]}), vec!["kubectl"]),
        (json!({"managedFields": [entry("kubectl-edit", "Update", &spec), entry("hpa", "Update", &spec)]}), vec![]),
        (
            json!({"labels": {"headwater.dev/installation": "other"}}),
            vec![
                "the installation of Headwater in namespace other: delete the FluxInstance that installed it with deletionPolicy Orphan, which \
                  hands it over; or remove the label headwater.dev/installation, if there is no such installation any more",
            ],
        ),
        (
            json!({"ownerReferences": [{"kind": "App", "name": "a", "controller": true}, {"kind": "B", "name": "b"}]}),
            vec![
                "App a: its owner reference says that App a controls it and would put it back or delete it: make that let \
                  go of it, or remove the owner reference",
            ],
        ),
    ];
    for (metadata, expected) in cases {
        let said: Vec<String> = owners(&foreign(metadata))
            .into_iter()
            .map(|owner| owner.remedy.map_or(owner.tool.to_string(), |remedy| format!("{}: {remedy}", owner.tool)))
            .collect();
        assert_eq!(said, expected);
    }
}

#[test]
fn what_is_gone_or_at_rest_is_no_obstacle() {
    let peer =
        json!({"labels": {"fluxcd.controlplane.io/name": "flux", "fluxcd.controlplane.io/namespace": "flux-system"}});
    let helm =
        json!({"annotations": {"meta.helm.sh/release-name": "flux", "meta.helm.sh/release-namespace": "flux-system"}});
    let key = |name: &str| ObjectKey {
        group: String::new(),
        kind: "Service".to_owned(),
        namespace: None,
        name: name.to_owned(),
    };
    let place = ("flux-system".to_owned(), "flux".to_owned());
    let mut survey = Survey {
        foreign: [(key("a"), foreign(peer.clone())), (key("b"), foreign(helm)), (key("c"), foreign(peer))].into(),
        ..Survey::default()
    };
    let found = obstacles(&survey);
    assert_eq!(found.iter().map(|o| o.objects.len()).collect::<Vec<_>>(), [1, 2], "{found:?}");
    survey.others.releases.insert(place.clone(), Release::default());
    for (peer, expected) in [(Peer::Active, 1), (Peer::Disabled, 0), (Peer::Stopped, 0), (Peer::Gone, 0)] {
        survey.others.peers.insert(place.clone(), peer);
        assert_eq!(obstacles(&survey).len(), expected, "{peer:?}");
    }
}

/// A Deployment that `flux install` made, `kubectl apply` and bootstrap's Kustomization changed, and people worked on.
fn worked_on() -> Foreign {
    let template = |fields: Value| json!({"f:spec": {"f:template": fields}});
    foreign(json!({
        "labels": {
            "app.kubernetes.io/part-of": "flux", "app.kubernetes.io/managed-by": "Helm", "helm.sh/chart": "flux2-2.18.3", "team": "infra",
            "kustomize.toolkit.fluxcd.io/name": "flux-system", "kustomize.toolkit.fluxcd.io/namespace": "flux-system",
        },
        "annotations": {
            "kubectl.kubernetes.io/last-applied-configuration": "{}", "meta.helm.sh/release-name": "flux2",
            "meta.helm.sh/release-namespace": "flux-system", "note": "ours",
        },
        "managedFields": [
            entry("flux", "Apply", &json!({
                "f:metadata": {"f:labels": {"f:team": {}}},
                "f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"k:{\"name\":\"GOMAXPROCS\"}": {".": {}, "f:name": {}}}}},
            })),
            entry("kubectl", "Apply", &template(json!({
                "f:metadata": {"f:annotations": {"f:kubectl.kubernetes.io/restartedAt": {}}}, "f:spec": {"f:hostNetwork": {}},
            }))),
            entry("kubectl-rollout", "Update", &template(json!({
                "f:metadata": {"f:annotations": {".": {}, "f:kubectl.kubernetes.io/restartedAt": {}}},
            }))),
            entry("kubectl-edit", "Update", &template(json!({"f:spec": {"f:dnsPolicy": {}}}))),
            entry("istio", "Apply", &template(json!({"f:spec": {"f:x": {}}}))),
            json!({
                "manager": "kube-controller-manager", "operation": "Update", "apiVersion": "apps/v1", "subresource": "status",
                "fieldsType": "FieldsV1", "fieldsV1": {"f:status": {}},
            }),
        ],
    }))
}

#[test]
fn marks_go_and_fields_of_manifests_become_ours() {
    let adoption = adoption("apps/v1", &worked_on());
    insta::assert_yaml_snapshot!(adoption.patch.unwrap(), @r#"
    metadata:
      annotations:
        kubectl.kubernetes.io/last-applied-configuration: ~
        meta.helm.sh/release-name: ~
        meta.helm.sh/release-namespace: ~
      labels:
        app.kubernetes.io/managed-by: ~
        helm.sh/chart: ~
        kustomize.toolkit.fluxcd.io/name: ~
        kustomize.toolkit.fluxcd.io/namespace: ~
      managedFields:
        - apiVersion: apps/v1
          fieldsType: FieldsV1
          fieldsV1:
            "f:metadata":
              "f:labels":
                "f:headwater.dev/installation": {}
            "f:spec":
              "f:replicas": {}
              "f:template":
                "f:spec":
                  "f:hostNetwork": {}
                  "k:{\"name\":\"GOMAXPROCS\"}":
                    ".": {}
                    "f:name": {}
          manager: headwater
          operation: Apply
        - apiVersion: apps/v1
          fieldsType: FieldsV1
          fieldsV1:
            "f:spec":
              "f:template":
                "f:metadata":
                  "f:annotations":
                    ".": {}
                    "f:kubectl.kubernetes.io/restartedAt": {}
          manager: kubectl-rollout
          operation: Update
        - apiVersion: apps/v1
          fieldsType: FieldsV1
          fieldsV1:
            "f:spec":
              "f:template":
                "f:spec":
                  "f:dnsPolicy": {}
          manager: kubectl-edit
          operation: Update
        - apiVersion: apps/v1
          fieldsType: FieldsV1
          fieldsV1:
            "f:spec":
              "f:template":
                "f:spec":
                  "f:x": {}
          manager: istio
          operation: Apply
        - apiVersion: apps/v1
          fieldsType: FieldsV1
          fieldsV1:
            "f:status": {}
          manager: kube-controller-manager
          operation: Update
          subresource: status
      resourceVersion: "7"
      uid: u
    "#);
}

#[test]
fn what_has_no_marks_is_not_changed_before_it_is_applied() {
    for metadata in [
        json!({}),
        json!({"labels": {"a": "b"}, "managedFields": [entry("headwater", "Apply", &json!({"f:spec": {}})), entry("hpa", "Update", &json!({}))]}),
    ] {
        assert_eq!(adoption("apps/v1", &foreign(metadata)).patch, None);
    }
}

#[test]
fn giving_back_takes_our_marks_and_nothing_else() {
    let metadata = json!({
        "uid": "u", "resourceVersion": "7",
        "labels": {
            "headwater.dev/installation": "flux-system", "app.kubernetes.io/managed-by": "headwater", "team": "infra",
            "kustomize.toolkit.fluxcd.io/ssa": "Ignore", "kustomize.toolkit.fluxcd.io/prune": "Disabled",
        },
        "annotations": {"kustomize.toolkit.fluxcd.io/prune": "disabled", "note": "ours"},
        "managedFields": [entry("headwater", "Apply", &json!({})), entry("headwater", "Update", &json!({})), entry("a", "Update", &json!({}))],
    });
    assert_eq!(
        hand_back(&metadata).unwrap(),
        json!({"metadata": {
            "uid": "u", "resourceVersion": "7",
            "labels": {
                "headwater.dev/installation": null, "app.kubernetes.io/managed-by": null, "kustomize.toolkit.fluxcd.io/ssa": null,
            },
            "managedFields": [entry("a", "Update", &json!({}))],
        }})
    );
    let only_ours =
        json!({"uid": "u", "resourceVersion": "7", "managedFields": [entry("headwater", "Apply", &json!({}))]});
    assert_eq!(hand_back(&only_ours).unwrap()["metadata"]["managedFields"], json!([{}]));
    assert_eq!(hand_back(&json!({"labels": {"app.kubernetes.io/managed-by": "somebody"}, "managedFields": []})), None);
}

/// Merge patch of metadata, as a server would apply it.
fn patched(metadata: &Value, patch: &Value) -> Value {
    let mut metadata = metadata.clone();
    for (field, change) in patch["metadata"].as_object().unwrap() {
        match change {
            Value::Object(names) => {
                for name in names.keys() {
                    metadata[field].as_object_mut().unwrap().remove(name);
                }
            }
            other => metadata[field] = other.clone(),
        }
    }
    metadata
}

/// All members of a set, as paths.
fn members(set: &Value, path: &str, found: &mut BTreeSet<String>) {
    match set.as_object() {
        Some(children) if !children.is_empty() => {
            for (name, child) in children {
                if name == "." {
                    found.insert(path.to_owned());
                } else {
                    members(child, &format!("{path}/{name}"), found);
                }
            }
        }
        _ => drop(found.insert(path.to_owned())),
    }
}

fn all_members(set: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    members(set, "", &mut found);
    found.remove("");
    found
}

fn set() -> impl Strategy<Value = Value> {
    let leaf = Just(json!({}));
    let node = leaf.prop_recursive(4, 24, 3, |inner| {
        let name = prop_oneof![
            Just("f:metadata".to_owned()),
            Just("f:spec".to_owned()),
            Just("f:template".to_owned()),
            Just("f:annotations".to_owned()),
            Just("f:kubectl.kubernetes.io/restartedAt".to_owned()),
            Just(".".to_owned()),
            Just("f:a".to_owned()),
        ];
        proptest::collection::btree_map(name, inner, 1..4).prop_map(|map| {
            let dotted =
                map.into_iter().map(|(name, child)| if name == "." { (name, json!({})) } else { (name, child) });
            Value::Object(dotted.collect())
        })
    });
    proptest::collection::btree_map("f:(spec|metadata|data|status)", node, 1..4)
        .prop_map(|map| Value::Object(map.into_iter().collect()))
}

fn entries() -> impl Strategy<Value = Vec<Value>> {
    let manager = proptest::sample::select(vec![
        "flux",
        "kustomize-controller",
        "helm",
        "flux-operator",
        "kubectl",
        "kubectl-client-side-apply",
        "kubectl-edit",
        "kubectl-rollout",
        "before-first-apply",
        "headwater",
        "istio",
    ]);
    let one = (manager, any::<bool>(), set()).prop_map(|(manager, apply, set)| {
        ((manager, apply), entry(manager, if apply { "Apply" } else { "Update" }, &set))
    });
    // The server merges entries of one manager and operation.
    proptest::collection::vec(one, 0..6)
        .prop_map(|list| list.into_iter().collect::<BTreeMap<_, _>>().into_values().collect())
}

proptest! {
    #[test]
    fn the_union_of_two_sets_has_the_members_of_both(a in set(), b in set()) {
        let mut both = a.clone();
        union(&mut both, &b);
        let expected: BTreeSet<String> = all_members(&a).union(&all_members(&b)).cloned().collect();
        prop_assert_eq!(all_members(&both), expected);
    }

    /// Every field outside of metadata and status that a replaced manifest set is ours afterwards, except that pods were restarted; no
    /// entry of others is changed; and doing it again changes nothing.
    #[test]
    fn fields_of_manifests_are_ours_afterwards(entries in entries()) {
        let Some(after) = take_over(&entries, "apps/v1") else {
            prop_assert!(!entries.iter().any(is_replaced));
            return Ok(());
        };
        prop_assert!(!after.iter().any(is_replaced));
        let ours: Vec<_> = after.iter().filter(|e| e["manager"] == FIELD_MANAGER && e["operation"] == "Apply").collect();
        prop_assert_eq!(ours.len(), 1);
        let ours = all_members(&ours[0]["fieldsV1"]);
        for entry in &entries {
            let is_moved = is_replaced(entry);
            if is_moved || (entry["manager"] == FIELD_MANAGER && entry["operation"] == "Apply") {
                for member in all_members(&entry["fieldsV1"]) {
                    let stays = is_moved && (member.starts_with("/f:metadata") || member.starts_with("/f:status")
                        || member.starts_with("/f:spec/f:template/f:metadata/f:annotations/f:kubectl.kubernetes.io/restartedAt"));
                    prop_assert!(stays || ours.contains(&member), "{}", member);
                }
            } else {
                prop_assert!(after.contains(entry));
            }
        }
        prop_assert_eq!(take_over(&after, "apps/v1"), None);
    }

    /// Labels and annotations that are no marks stay; marks go; a second look finds nothing to do.
    #[test]
    fn unknown_labels_and_annotations_are_kept(
        entries in entries(),
        names in proptest::collection::btree_set(proptest::sample::select([&MARKS[..], &["team", "a.example/b"]].concat()), 0..8),
        map in proptest::sample::select(vec!["labels", "annotations"]),
    ) {
        let values: Map<String, Value> = names.iter().map(|name| ((*name).to_owned(), json!("x"))).collect();
        let before = json!({"managedFields": entries, (map): values});
        if let Some(patch) = adoption("apps/v1", &foreign(before.clone())).patch {
            let after = patched(&before, &patch);
            let left: BTreeSet<&str> = after[map].as_object().unwrap().keys().map(String::as_str).collect();
            let expected: BTreeSet<&str> = names.into_iter().filter(|name| !MARKS.contains(name)).collect();
            prop_assert_eq!(left, expected);
            prop_assert_eq!(adoption("apps/v1", &foreign(after)).patch, None);
        }
    }
}
