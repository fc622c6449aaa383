//! A `FluxInstance` of flux-operator, told as one of ours. What both have a field for is carried over; what we have none for is
//! said, with what to do instead, and never guessed.

use serde_json::{Map, Value, json};

use super::DISABLED;
use crate::api::{FLUX_NAMESPACE, FluxInstanceSpec, Interval, Timeout};

/// What a `FluxInstance` of flux-operator says, in our words.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared {
    /// Its name.
    pub name: String,
    /// Our spec that means the same, as far as it can.
    pub spec: FluxInstanceSpec,
    /// What is said in another way here, or needs no saying.
    pub notes: Vec<String>,
    /// What the spec leaves out, so that the cluster would be another one: to be looked at before anything is created.
    pub left_out: Vec<String>,
}

/// Why no spec can be made of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It is something else.
    #[error(
        "expected one FluxInstance of {VERSION}, found {kind} of {version}; one of headwater.dev needs no migration"
    )]
    Other {
        /// What it says to be.
        kind: Value,
        /// And of which API.
        version: Value,
    },
    /// A field that both have holds what ours cannot take.
    #[error("{field}: {problem}")]
    Field {
        /// The field.
        field: String,
        /// What is wrong.
        problem: String,
    },
}

const VERSION: &str = "fluxcd.controlplane.io/v1";
const UNKNOWN: &str = "unknown field; nothing is known that means the same";
const ANNOTATIONS: &str = "fluxcd.controlplane.io/";

/// Fields that mean the same here and there.
const SAME: [&str; 18] = [
    "components",
    "wait",
    "commonMetadata.labels",
    "commonMetadata.annotations",
    "cluster.domain",
    "cluster.networkPolicy",
    "cluster.size",
    "distribution.version",
    "distribution.registry",
    "kustomize.patches",
    "sync.name",
    "sync.interval",
    "sync.kind",
    "sync.url",
    "sync.ref",
    "sync.path",
    "sync.pullSecret",
    "sync.provider",
];

/// Fields that are not needed here, and why.
const NEEDLESS: [(&str, &str); 3] = [
    (
        "distribution.artifact",
        "it is of another format; the bundles that come with the operator are used, or those of a spec.distribution.artifact in \
         Headwater's format",
    ),
    ("distribution.artifactPullSecret", "it is for spec.distribution.artifact, which is not carried over either"),
    (
        "distribution.variant",
        "images come from spec.distribution.registry whatever their variant; spec.distribution.pinImages pins the digests that the \
         bundle knows",
    ),
];

/// Fields that we do not have, and what to do instead.
const INSTEAD: [(&str, &str); 10] = [
    (
        "distribution.imagePullSecret",
        "add a patch of kind Deployment in spec.kustomize.patches that sets spec.template.spec.imagePullSecrets",
    ),
    (
        "cluster.multitenant",
        "tenants are not locked down: add patches in spec.kustomize.patches that add --no-cross-namespace-refs=true to the arguments of \
         the controllers, --no-remote-bases=true to the Kustomize controller, --default-service-account to the Kustomize controller and \
         the Helm controller, and the service account of the Kustomize controller as serviceAccountName to the Kustomization of spec.sync",
    ),
    (
        "cluster.tenantDefaultServiceAccount",
        "add a patch in spec.kustomize.patches that adds --default-service-account to the arguments of the Kustomize controller and \
         the Helm controller",
    ),
    (
        "cluster.multitenantWorkloadIdentity",
        "add a patch in spec.kustomize.patches that adds --default-service-account to the arguments of the source controller, \
         the notification controller and the image reflector",
    ),
    (
        "cluster.tenantDefaultDecryptionServiceAccount",
        "add a patch in spec.kustomize.patches that adds --default-decryption-service-account to the arguments of the Kustomize controller",
    ),
    (
        "cluster.tenantDefaultKubeConfigServiceAccount",
        "add a patch in spec.kustomize.patches that adds --default-kubeconfig-service-account to the arguments of the Kustomize controller \
         and the Helm controller",
    ),
    (
        "cluster.objectLevelWorkloadIdentity",
        "add a patch in spec.kustomize.patches that adds --feature-gates=ObjectLevelWorkloadIdentity=true to the arguments of the \
         controllers",
    ),
    (
        "sharding",
        "no controllers are installed for shards: declare their Deployments yourself, and add a patch in spec.kustomize.patches that adds \
         --watch-label-selector with the key of the shards, negated, to the arguments of those that are installed",
    ),
    (
        "storage",
        "make the PersistentVolumeClaim yourself, and add a patch in spec.kustomize.patches that puts it in place of the volume data of \
         the Deployment of the source controller",
    ),
    (
        "migrateResources",
        "stored objects are migrated before a version of their CRD goes, and only then; this cannot be turned off",
    ),
];

/// What a `FluxInstance` of flux-operator says, in our words.
///
/// # Errors
/// When it is something else, or a field holds what the same field of ours cannot take.
pub fn declare_peer(peer: &Value) -> Result<Declared, PeerError> {
    if peer["kind"] != "FluxInstance" || peer["apiVersion"] != VERSION {
        return Err(PeerError::Other { kind: peer["kind"].clone(), version: peer["apiVersion"].clone() });
    }
    let (mut ours, mut notes, mut left_out) = (Map::new(), Vec::new(), Vec::new());
    for (path, value) in fields(&peer["spec"]) {
        let about = |list: &[(&str, &'static str)]| list.iter().find(|(name, _)| *name == path).map(|(_, text)| *text);
        if SAME.contains(&path.as_str()) {
            set(&mut ours, &path, value);
        } else if let Some(text) = about(&NEEDLESS) {
            notes.push(format!("spec.{path}: not carried over: {text}"));
        } else if path == "cluster.type" {
            // The other types change nothing there either.
            if value == "openshift" {
                left_out.push(format!(
                    "spec.{path}: openshift: add a patch of kind Deployment in spec.kustomize.patches that removes the securityContext of pods, \
                     and runAsNonRoot and seccompProfile of containers"
                ));
            }
        } else if *value != default(&path) {
            let text = about(&INSTEAD).unwrap_or(UNKNOWN);
            left_out.push(format!("spec.{path}: {text}"));
        }
    }
    metadata(&peer["metadata"], &mut ours, &mut notes, &mut left_out);
    if let Some(interval) = ours.get_mut("sync").and_then(Value::as_object_mut)
        && let Some(Value::String(text)) = interval.get("interval").cloned()
        && let Err(error) = Interval(text).get()
    {
        interval.remove("interval");
        left_out.push(format!("spec.sync.interval: {error}"));
    }
    // Each by itself first, so that an error tells where.
    let version = ours.get("distribution").cloned().unwrap_or(json!({}));
    for (section, value) in &ours {
        let mut alone = json!({"distribution": version});
        alone[section] = value.clone();
        typed(&alone).map_err(|problem| PeerError::Field { field: format!("spec.{section}"), problem })?;
    }
    let ours = Value::Object(ours);
    let spec = typed(&ours).map_err(|problem| PeerError::Field { field: "spec".to_owned(), problem })?;
    lost("spec", &ours, &serde_json::to_value(&spec).unwrap_or_default(), &mut left_out);
    let name = peer["metadata"]["name"].as_str().unwrap_or("flux").to_owned();
    Ok(Declared { name, spec, notes, left_out })
}

fn typed(spec: &Value) -> Result<FluxInstanceSpec, String> {
    serde_json::from_value(spec.clone()).map_err(|error| error.to_string())
}

/// Sections of which each field is judged by itself; all else is judged as a whole.
const SECTIONS: [&str; 5] = ["cluster", "commonMetadata", "distribution", "kustomize", "sync"];

/// Fields of a spec that say anything, by their paths.
fn fields(spec: &Value) -> Vec<(String, &Value)> {
    let mut found = Vec::new();
    for (name, value) in spec.as_object().into_iter().flatten() {
        match value.as_object().filter(|_| SECTIONS.contains(&name.as_str())) {
            Some(section) => found.extend(section.iter().map(|(field, value)| (format!("{name}.{field}"), value))),
            None => found.push((name.clone(), value)),
        }
    }
    found.retain(|(_, value)| !value.is_null() && **value != "" && **value != json!([]) && **value != json!({}));
    found
}

fn set(ours: &mut Map<String, Value>, path: &str, value: &Value) {
    match path.split_once('.') {
        None => ours.insert(path.to_owned(), value.clone()),
        Some((section, field)) => {
            let section = ours.entry(section).or_insert_with(|| json!({}));
            section.as_object_mut().and_then(|section| section.insert(field.to_owned(), value.clone()))
        }
    };
}

/// The value that says nothing of a field that we do not have; null where every value says something.
fn default(path: &str) -> Value {
    match path {
        "cluster.multitenant" | "cluster.multitenantWorkloadIdentity" | "cluster.objectLevelWorkloadIdentity" => {
            false.into()
        }
        "migrateResources" => true.into(),
        _ => Value::Null,
    }
}

/// What annotations say there, fields say here.
fn metadata(metadata: &Value, ours: &mut Map<String, Value>, notes: &mut Vec<String>, left_out: &mut Vec<String>) {
    if let Some(namespace) = metadata["namespace"].as_str().filter(|namespace| *namespace != FLUX_NAMESPACE) {
        left_out.push(format!(
            "metadata.namespace: {namespace:?} is where Flux runs; Headwater installs it into {FLUX_NAMESPACE} only, and would not take over \
             what is in {namespace:?}: move what Flux syncs from to {FLUX_NAMESPACE}, and remove that installation first"
        ));
    }
    for (name, value) in metadata["annotations"].as_object().into_iter().flatten() {
        let text = value.as_str().unwrap_or_default();
        let mut bounded = |field: &str, parsed: Result<(), String>| match parsed {
            Ok(()) => set(ours, field, value),
            Err(error) => left_out.push(format!("metadata.annotations[{name:?}]: for spec.{field}, {error}")),
        };
        match name.strip_prefix(ANNOTATIONS) {
            Some("reconcileEvery") => {
                let parsed = Interval(text.to_owned()).get();
                bounded("interval", parsed.map(|_| ()).map_err(|error| error.to_string()));
            }
            Some("reconcileTimeout") => {
                let parsed = Timeout(text.to_owned()).get();
                bounded("timeout", parsed.map(|_| ()).map_err(|error| error.to_string()));
            }
            Some("reconcile") if text == "enabled" => {}
            Some("reconcile") if text == "disabled" => {
                set(ours, "suspend", &true.into());
                notes.push(format!(
                    "spec.suspend is true, as the annotation {DISABLED} is \"disabled\": nothing is taken over until it is false"
                ));
            }
            Some("reconcileArtifactEvery") => notes.push(format!(
                "metadata.annotations[{name:?}]: not carried over: spec.interval is also how often a bundle repository is looked at"
            )),
            None if is_bookkeeping(name) => {}
            _ => left_out.push(format!("metadata.annotations[{name:?}]: {text:?} is not known here; add it if it is wanted")),
        }
    }
    for name in metadata["labels"].as_object().into_iter().flat_map(Map::keys).filter(|name| !is_bookkeeping(name)) {
        notes.push(format!("metadata.labels[{name:?}]: not carried over; add it if it is wanted"));
    }
}

/// What tools write down on an object for themselves.
fn is_bookkeeping(name: &str) -> bool {
    super::MARKS.contains(&name) || name == super::MANAGED_BY || name.starts_with("reconcile.fluxcd.io/")
}

/// What of a value our types do not know, such as an unknown field of a patch.
fn lost(path: &str, from: &Value, to: &Value, left_out: &mut Vec<String>) {
    match (from, to) {
        (Value::Object(from), Value::Object(to)) => {
            for (name, value) in from.iter().filter(|(_, value)| !value.is_null()) {
                match to.get(name) {
                    Some(to) => lost(&format!("{path}.{name}"), value, to, left_out),
                    // What is empty is not written.
                    None if *value == json!({}) => {}
                    None => left_out.push(format!("{path}.{name}: {UNKNOWN}")),
                }
            }
        }
        (Value::Array(from), Value::Array(to)) => {
            for (index, (from, to)) in from.iter().zip(to).enumerate() {
                lost(&format!("{path}[{index}]"), from, to, left_out);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(annotations: &Value, more: &Value) -> Value {
        let mut spec = json!({"distribution": {"version": "2.8.x", "registry": "ghcr.io/fluxcd"}});
        json_patch::merge(&mut spec, more);
        json!({
            "apiVersion": VERSION, "kind": "FluxInstance",
            "metadata": {"name": "flux", "namespace": "flux-system", "annotations": annotations}, "spec": spec, "status": {"a": 1},
        })
    }

    /// Everything both have is in ours, with the same value.
    #[test]
    fn what_both_have_is_carried_over() {
        let spec = json!({
            "components": ["source-controller", "kustomize-controller"],
            "commonMetadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}},
            "cluster": {
                "domain": "example.local", "networkPolicy": false, "size": "large", "type": "aws", "multitenant": false,
                "objectLevelWorkloadIdentity": false,
            },
            "kustomize": {"patches": [{"patch": "- op: remove\n  path: /spec/a\n", "target": {"kind": "Deployment", "labelSelector": "a=b"}}]},
            "sync": {
                "name": "fleet", "interval": "5m", "kind": "GitRepository", "url": "https://git.example/fleet", "ref": "refs/heads/main",
                "path": "clusters/a", "pullSecret": "git", "provider": "github",
            },
            "wait": false, "migrateResources": true, "sharding": null,
        });
        let annotations = json!({
            "fluxcd.controlplane.io/reconcile": "enabled", "fluxcd.controlplane.io/reconcileEvery": "1h",
            "fluxcd.controlplane.io/reconcileTimeout": "90s", "reconcile.fluxcd.io/requestedAt": "now",
            "kubectl.kubernetes.io/last-applied-configuration": "{}",
        });
        let declared = declare_peer(&peer(&annotations, &spec)).unwrap();
        assert_eq!((declared.notes, declared.left_out), (vec![], vec![]));
        let ours = serde_json::to_value(declared.spec).unwrap();
        for path in SAME {
            let pointer = format!("/{}", path.replace('.', "/"));
            let given = peer(&annotations, &spec)["spec"].pointer(&pointer).cloned();
            assert!(given.is_some(), "{path} is not in the example");
            assert_eq!(ours.pointer(&pointer), given.as_ref(), "{path}");
        }
        assert_eq!(
            (&ours["interval"], &ours["timeout"], &ours["suspend"]),
            (&json!("1h"), &json!("90s"), &json!(false))
        );
    }

    /// One sentence for each thing that ours does not say, that begins with where it is.
    #[test]
    fn what_we_have_no_field_for_is_said() {
        let empty = json!({});
        let annotation = |name: &str, value: &str| json!({format!("{ANNOTATIONS}{name}"): value});
        let notes = [
            (empty.clone(), json!({"distribution": {"artifact": "oci://a.example/b"}}), "spec.distribution.artifact: "),
            (
                empty.clone(),
                json!({"distribution": {"artifactPullSecret": "a"}}),
                "spec.distribution.artifactPullSecret: ",
            ),
            (empty.clone(), json!({"distribution": {"variant": "upstream-alpine"}}), "spec.distribution.variant: "),
            (annotation("reconcile", "disabled"), empty.clone(), "spec.suspend is true"),
            (annotation("reconcileArtifactEvery", "1m"), empty.clone(), "metadata.annotations["),
        ];
        for (annotations, spec, expected) in notes {
            let declared = declare_peer(&peer(&annotations, &spec)).unwrap();
            assert!(matches!(&declared.notes[..], [said] if said.starts_with(expected)), "{expected}: {declared:?}");
            assert!(declared.left_out.is_empty(), "{declared:?}");
            assert_eq!(declared.spec.distribution.artifact, None);
            assert_eq!(declared.spec.suspend, expected.contains("suspend"));
        }
        let left_out = [
            (
                empty.clone(),
                json!({"distribution": {"imagePullSecret": "a"}}),
                "spec.distribution.imagePullSecret: add a patch",
            ),
            (
                empty.clone(),
                json!({"cluster": {"multitenant": true}}),
                "spec.cluster.multitenant: tenants are not locked down",
            ),
            (
                empty.clone(),
                json!({"cluster": {"tenantDefaultServiceAccount": "a"}}),
                "spec.cluster.tenantDefaultServiceAccount: add",
            ),
            (
                empty.clone(),
                json!({"cluster": {"objectLevelWorkloadIdentity": true}}),
                "spec.cluster.objectLevelWorkloadIdentity: add",
            ),
            (empty.clone(), json!({"cluster": {"type": "openshift"}}), "spec.cluster.type: openshift: add a patch"),
            (empty.clone(), json!({"sharding": {"shards": ["a"]}}), "spec.sharding: no controllers"),
            (
                empty.clone(),
                json!({"storage": {"class": "a", "size": "1Gi"}}),
                "spec.storage: make the PersistentVolumeClaim",
            ),
            (empty.clone(), json!({"migrateResources": false}), "spec.migrateResources: stored objects"),
            // Fields of ours are none of theirs.
            (empty.clone(), json!({"deletionPolicy": "Uninstall"}), "spec.deletionPolicy: unknown field"),
            (empty.clone(), json!({"cluster": {"colour": "red"}}), "spec.cluster.colour: unknown field"),
            (
                empty.clone(),
                json!({"kustomize": {"patches": [{"patch": "a: b", "target": {"kind": "A", "fieldSpec": "b"}}]}}),
                "spec.kustomize.patches[0].target.fieldSpec: unknown field",
            ),
            (
                empty.clone(),
                json!({"sync": {"kind": "OCIRepository", "url": "oci://a.example/b", "ref": "latest", "path": "./", "interval": "5s"}}),
                "spec.sync.interval: \"5s\" must be a duration such as 10m, between 30s and 24h",
            ),
            (
                annotation("reconcile", "off"),
                empty.clone(),
                "metadata.annotations[\"fluxcd.controlplane.io/reconcile\"]: \"off\"",
            ),
            (
                annotation("reconcileEvery", "1d"),
                empty.clone(),
                "metadata.annotations[\"fluxcd.controlplane.io/reconcileEvery\"]: for spec.interval",
            ),
            (json!({"team": "infra"}), empty, "metadata.annotations[\"team\"]: "),
        ];
        for (annotations, spec, expected) in left_out {
            let declared = declare_peer(&peer(&annotations, &spec)).unwrap();
            assert!(matches!(&declared.left_out[..], [text] if text.starts_with(expected)), "{expected}: {declared:?}");
            assert!(declared.notes.is_empty(), "{declared:?}");
        }
        let mut elsewhere = peer(&json!({}), &json!({}));
        elsewhere["metadata"]["namespace"] = "flux".into();
        let said = declare_peer(&elsewhere).unwrap().left_out;
        assert!(matches!(&said[..], [text] if text.starts_with("metadata.namespace: \"flux\"")), "{said:?}");
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let said = |peer: &Value| declare_peer(peer).unwrap_err().to_string();
        let other = json!({"apiVersion": "headwater.dev/v1alpha1", "kind": "FluxInstance"});
        assert!(said(&other).contains("found \"FluxInstance\" of \"headwater.dev/v1alpha1\""), "{}", said(&other));
        let huge = said(&peer(&json!({}), &json!({"cluster": {"size": "huge"}})));
        assert!(huge.starts_with("spec.cluster: unknown variant `huge`, expected one of `small`"), "{huge}");
        let nothing = said(&json!({"apiVersion": VERSION, "kind": "FluxInstance", "metadata": {"name": "flux"}}));
        assert!(nothing.starts_with("spec: missing field `distribution`"), "{nothing}");
        let half = said(&peer(&json!({}), &json!({"sync": {"kind": "GitRepository"}})));
        assert!(half.starts_with("spec.sync: missing field `url`"), "{half}");
    }
}
