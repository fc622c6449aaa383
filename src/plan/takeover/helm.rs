//! Helm releases. `helm uninstall` deletes what the manifest in a release's Secret names, whatever the marks on the live objects say,
//! and finds the Secret by its labels. So a release whose objects become ours is detached: with another `owner` on its Secrets Helm does not
//! find it any more. Nothing of it is lost, and putting the label back undoes it.

use std::collections::BTreeMap;
use std::io::Read;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Tool;
use crate::plan::Step;
use crate::render::{Object, ObjectKey, yaml};

/// Label and value by which Helm finds the Secrets of its releases.
pub const OWNER: (&str, &str) = ("owner", "helm");
/// What becomes of the value.
const DETACHED: &str = "headwater";
/// Label with the name of the release.
pub const NAME: &str = "name";

/// A release is at most 1 MiB packed, as all that etcd keeps; texts pack about ten to one.
const MANIFEST_LIMIT: u64 = 32 << 20;

/// A release, as its Secrets tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Release {
    /// Its Secrets, one per revision: name and UID.
    pub secrets: BTreeMap<String, String>,
    /// What the manifest of the deployed revision names. Without namespace where it does not say one.
    pub objects: Vec<ObjectKey>,
}

/// The change that makes Helm forget a Secret of this UID.
pub fn detached(uid: &str) -> Value {
    json!({"metadata": {"uid": uid, "labels": {(OWNER.0): DETACHED}}})
}

/// The objects in the manifest of a release's Secret; none when it cannot be read.
pub fn objects(secret: &Value) -> Option<Vec<ObjectKey>> {
    // Base64 of Kubernetes around base64 of Helm.
    let text = STANDARD.decode(secret["data"]["release"].as_str()?).ok()?;
    let packed = STANDARD.decode(text).ok()?;
    let mut json = Vec::new();
    flate2::bufread::GzDecoder::new(packed.as_slice()).take(MANIFEST_LIMIT).read_to_end(&mut json).ok()?;
    let release: Value = serde_json::from_slice(&json).ok()?;
    let documents = yaml::parse("manifest", release["manifest"].as_str()?).ok()?;
    Some(documents.into_iter().filter_map(|d| Object::try_from(d).ok()).map(|o| o.key().clone()).collect())
}

/// Steps that detach the releases to which objects belong that these steps adopt.
pub(super) fn detach(steps: &[Step], releases: &BTreeMap<(String, String), Release>) -> Vec<Step> {
    let applied: Vec<&ObjectKey> =
        steps.iter().filter(|s| matches!(s, Step::Apply { .. })).filter_map(Step::key).collect();
    let is_adopted =
        |tool: &Tool| steps.iter().any(|s| matches!(s, Step::Apply { adoption: Some(a), .. } if a.from.contains(tool)));
    let mut found = Vec::new();
    for ((namespace, name), release) in releases {
        let tool = Tool::Helm { namespace: namespace.clone(), name: name.clone() };
        let Some(newest) = release.secrets.keys().next_back().filter(|_| is_adopted(&tool)) else { continue };
        let is_ours = |object: &ObjectKey| {
            applied.iter().any(|key| {
                let same_namespace = object.namespace.is_none() || object.namespace == key.namespace;
                (&key.group, &key.kind, &key.name) == (&object.group, &object.kind, &object.name) && same_namespace
            })
        };
        found.push(Step::Detach {
            key: ObjectKey {
                group: String::new(),
                kind: "Secret".to_owned(),
                namespace: Some(namespace.clone()),
                name: newest.clone(),
            },
            release: tool,
            secrets: release.secrets.clone(),
            left: release.objects.iter().filter(|object| !is_ours(object)).cloned().collect(),
        });
    }
    found
}
