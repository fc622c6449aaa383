//! One live object of every kind that the bundles define, and what must never happen to it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::{SOON, Site, crd, eventually, holds};
use crate::lane::differ;

/// A kind and an object of it.
pub(crate) struct Fixture {
    group: &'static str,
    plural: &'static str,
    kind: &'static str,
    /// The version in which new bundles store it.
    stored: &'static str,
    /// A version that older bundles served beside it, where there is one.
    old: Option<&'static str>,
    /// Valid in both.
    spec: Value,
}

/// Name of all of them, in the namespace `default`.
pub(crate) const NAME: &str = "live";

/// All kinds, of Flux and of tofu-controller.
pub(crate) fn fixtures() -> Vec<Fixture> {
    let source = "source.toolkit.fluxcd.io";
    let image = "image.toolkit.fluxcd.io";
    let notification = "notification.toolkit.fluxcd.io";
    let git = json!({"kind": "GitRepository", "name": NAME});
    let of = |group, plural, kind, stored, old, spec| Fixture { group, plural, kind, stored, old, spec };
    vec![
        of(
            source,
            "gitrepositories",
            "GitRepository",
            "v1",
            Some("v1beta2"),
            json!({
                "interval": "5m", "url": "https://git.example/org/fleet", "ref": {"branch": "main"},
            }),
        ),
        of(
            source,
            "ocirepositories",
            "OCIRepository",
            "v1",
            Some("v1beta2"),
            json!({
                "interval": "5m", "url": "oci://registry.example/org/fleet", "ref": {"tag": "latest"},
            }),
        ),
        of(
            source,
            "helmrepositories",
            "HelmRepository",
            "v1",
            Some("v1beta2"),
            json!({
                "interval": "5m", "url": "https://charts.example",
            }),
        ),
        of(
            source,
            "helmcharts",
            "HelmChart",
            "v1",
            Some("v1beta2"),
            json!({
                "interval": "5m", "chart": "podinfo", "sourceRef": {"kind": "HelmRepository", "name": NAME},
            }),
        ),
        of(
            source,
            "buckets",
            "Bucket",
            "v1",
            Some("v1beta2"),
            json!({
                "interval": "5m", "bucketName": "fleet", "endpoint": "s3.example",
            }),
        ),
        of(
            source,
            "externalartifacts",
            "ExternalArtifact",
            "v1",
            None,
            json!({
                "sourceRef": {"apiVersion": "example.org/v1", "kind": "Maker", "name": NAME},
            }),
        ),
        of(
            "kustomize.toolkit.fluxcd.io",
            "kustomizations",
            "Kustomization",
            "v1",
            Some("v1beta2"),
            json!({
                "interval": "5m", "prune": true, "path": "./apps", "sourceRef": git,
            }),
        ),
        of(
            "helm.toolkit.fluxcd.io",
            "helmreleases",
            "HelmRelease",
            "v2",
            Some("v2beta2"),
            json!({
                "interval": "5m", "values": {"replicas": 2},
                "chart": {"spec": {"chart": "podinfo", "sourceRef": {"kind": "HelmRepository", "name": NAME}}},
            }),
        ),
        of(
            notification,
            "alerts",
            "Alert",
            "v1beta3",
            Some("v1beta2"),
            json!({
                "providerRef": {"name": NAME}, "eventSources": [{"kind": "GitRepository", "name": "*"}],
            }),
        ),
        of(
            notification,
            "providers",
            "Provider",
            "v1beta3",
            Some("v1beta2"),
            json!({
                "type": "slack", "channel": "fleet", "address": "https://chat.example/hook",
            }),
        ),
        of(
            notification,
            "receivers",
            "Receiver",
            "v1",
            Some("v1beta2"),
            json!({
                "type": "generic", "secretRef": {"name": NAME},
                "resources": [{"kind": "GitRepository", "name": NAME}],
            }),
        ),
        of(
            image,
            "imagerepositories",
            "ImageRepository",
            "v1",
            Some("v1beta2"),
            json!({
                "interval": "5m", "image": "registry.example/org/app",
            }),
        ),
        of(
            image,
            "imagepolicies",
            "ImagePolicy",
            "v1",
            Some("v1beta2"),
            json!({
                "imageRepositoryRef": {"name": NAME}, "policy": {"semver": {"range": ">=1.0.0"}},
            }),
        ),
        of(
            image,
            "imageupdateautomations",
            "ImageUpdateAutomation",
            "v1",
            Some("v1beta2"),
            json!({
                "interval": "5m", "sourceRef": git,
                "git": {"commit": {"author": {"email": "bot@example.org", "name": "bot"}}},
            }),
        ),
        of(
            "source.extensions.fluxcd.io",
            "artifactgenerators",
            "ArtifactGenerator",
            "v1beta1",
            None,
            json!({
                "sources": [{"alias": "fleet", "kind": "GitRepository", "name": NAME}],
                "artifacts": [{"name": "app", "copy": [{"from": "@fleet/app/**", "to": "@artifact/"}]}],
            }),
        ),
        of(
            "infra.contrib.fluxcd.io",
            "terraforms",
            "Terraform",
            "v1alpha2",
            Some("v1alpha1"),
            json!({
                "interval": "5m", "path": "./", "sourceRef": git, "approvePlan": "auto",
            }),
        ),
    ]
}

impl Fixture {
    /// Name of its CRD.
    pub(crate) fn definition(&self) -> String {
        format!("{}.{}", self.plural, self.group)
    }

    /// Its objects in a version.
    pub(crate) fn collection(&self, version: &str) -> String {
        format!("/apis/{}/{version}/namespaces/default/{}", self.group, self.plural)
    }

    /// Path of its object, in the version in which new bundles store it.
    pub(crate) fn path(&self) -> String {
        format!("{}/{NAME}", self.collection(self.stored))
    }

    /// The version in which new bundles store it.
    pub(crate) fn newest(&self) -> &'static str {
        self.stored
    }

    /// A version that older bundles served beside it, where there is one.
    pub(crate) fn old(&self) -> Option<&'static str> {
        self.old
    }

    /// Creates it in the oldest version, as a user of an old Flux did.
    pub(crate) fn create(&self, site: &Site, name: &str) {
        let version = self.old.unwrap_or(self.stored);
        let object = json!({
            "apiVersion": format!("{}/{version}", self.group), "kind": self.kind,
            "metadata": {"name": name, "namespace": "default", "finalizers": ["example.org/kept"], "labels": {"team": "a"}},
            "spec": self.spec,
        });
        let path = format!("{}?fieldManager=kubectl-client", self.collection(version));
        eventually(&format!("{} is created", self.kind), SOON, || {
            match site.request("POST", &path, Some(("application/json", &object))) {
                Ok(_) | Err((409, _)) => Ok(()),
                Err(error) => Err(format!("{error:?}")),
            }
        });
    }

    /// Makes the server store new objects in this version from now on, as an older Flux did, and waits until it does.
    pub(crate) fn store_as(&self, site: &Site, version: &str) {
        let path = crd(&self.definition());
        let before = self.storage_hash(site);
        let is_stored = |definition: &Value| {
            let versions = definition["spec"]["versions"].as_array().unwrap();
            versions.iter().any(|v| v["name"] == version && v["storage"] == true)
        };
        if is_stored(&site.must_get(&path)) {
            return;
        }
        eventually(&format!("{} stored as {version}", self.kind), SOON, || {
            let mut definition = site.must_get(&path);
            for entry in definition["spec"]["versions"].as_array_mut().unwrap() {
                entry["storage"] = json!(entry["name"] == version);
            }
            site.request("PUT", &path, Some(("application/json", &definition))).map_err(|e| format!("{e:?}"))
        });
        eventually(&format!("the server knows that {} is stored as {version}", self.kind), SOON, || {
            let now = self.storage_hash(site);
            holds(now != before, now)
        });
    }

    /// What discovery says of the version in which it is stored: a hash.
    fn storage_hash(&self, site: &Site) -> Option<Value> {
        let list = site.get(&format!("/apis/{}/{}", self.group, self.stored))?;
        let found = list["resources"].as_array()?.iter().find(|r| r["name"] == self.plural)?;
        Some(found["storageVersionHash"].clone())
    }

    /// The object and what its CRD says of it.
    fn look(&self, site: &Site) -> Result<(Value, Value), String> {
        let object = site.request("GET", &self.path(), None).map_err(|e| format!("{}: {e:?}", self.kind))?;
        Ok((object, site.must_get(&crd(&self.definition()))))
    }

    /// Whether users can still work with it: it is readable in the version stored by new bundles, no field of it is recorded in a
    /// version that is not served, and nothing is stored in any version but the storage version.
    pub(crate) fn check(&self, site: &Site) -> Result<(), String> {
        let (object, definition) = self.look(site)?;
        let versions = definition["spec"]["versions"].as_array().unwrap();
        let names = |wanted: &str| -> Vec<String> {
            let found = versions.iter().filter(|v| v[wanted] == true);
            found.map(|v| v["name"].as_str().unwrap_or_default().to_owned()).collect()
        };
        let (served, storage) = (names("served"), names("storage"));
        holds(
            definition["status"]["storedVersions"] == json!(storage),
            (self.kind, &definition["status"]["storedVersions"]),
        )?;
        for entry in object["metadata"]["managedFields"].as_array().into_iter().flatten() {
            let version = entry["apiVersion"].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default();
            holds(served.iter().any(|s| s == version), (self.kind, "managed in", version, &served))?;
        }
        Ok(())
    }
}

/// Who they are and what users wrote in them, by CRD.
pub(crate) fn identities(site: &Site, fixtures: &[Fixture]) -> BTreeMap<String, Value> {
    let found = fixtures.iter().map(|fixture| {
        let (object, _) = fixture.look(site).unwrap();
        let metadata = &object["metadata"];
        let kept = json!({
            "uid": metadata["uid"], "spec": object["spec"], "labels": metadata["labels"],
            "finalizers": metadata["finalizers"],
        });
        (fixture.definition(), kept)
    });
    found.collect()
}

/// Nothing of what they were is lost or another. A version may have defaults that another has not: these may come.
pub(crate) fn check_identities(site: &Site, fixtures: &[Fixture], before: &BTreeMap<String, Value>) {
    let mut wrong = vec![];
    for (definition, after) in identities(site, fixtures) {
        differ(&definition, &after, &before[&definition], &mut wrong);
    }
    wrong.retain(|difference| !difference.ends_with(", was null"));
    assert!(wrong.is_empty(), "{wrong:#?}");
}
