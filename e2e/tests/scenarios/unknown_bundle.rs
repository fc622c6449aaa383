//! Bundles are data: a version that nobody had heard of when the operator was built is installed like any other, and one
//! in a format that only a later operator reads is refused while what runs keeps running.

use std::collections::{BTreeMap, BTreeSet};

use headwater::bundle::{pack, push, read_folder, tag_of};
use headwater::registry::{Access, Address, Repository};
use headwater::render::{source, yaml};
use headwater_e2e::Kind;
use serde_json::{Value, json};

use crate::harness::{
    NEW, SOON, Site, Tenant, block_on, crd, eventually, holds, in_flux, in_repository, shared_hub, world,
};

/// Bundle files that a test changes.
pub(crate) struct Sources(BTreeMap<String, Vec<u8>>);

impl Sources {
    /// Those of the newest bundle of this repository.
    pub(crate) fn newest() -> Self {
        let files = read_folder(in_repository("bundles/flux").as_ref()).unwrap();
        Self(source::compose(&files, NEW).unwrap())
    }

    /// Changes a file that is data.
    pub(crate) fn edit(&mut self, path: &str, change: impl FnOnce(&mut Value)) {
        let text = String::from_utf8(self.0[path].clone()).unwrap();
        let mut value = yaml::parse_one(path, &text).unwrap();
        change(&mut value);
        self.add(path, &value);
    }

    fn add(&mut self, path: &str, value: &Value) {
        self.0.insert(path.to_owned(), yaml::emit(value).unwrap().into_bytes());
    }

    /// Replaces a text wherever it is in the templates; it has to be somewhere.
    fn replace(&mut self, from: &str, to: &str) {
        let mut found = false;
        for (_, bytes) in self.0.iter_mut().filter(|(path, _)| path.starts_with("templates/")) {
            let text = String::from_utf8(bytes.clone()).unwrap();
            found |= text.contains(from);
            *bytes = text.replace(from, to).into_bytes();
        }
        assert!(found, "{from:?} is in no template");
    }

    /// Makes it this version.
    pub(crate) fn version(&mut self, version: &str) {
        self.edit("bundle.yaml", |manifest| {
            manifest["version"] = json!(version);
            manifest["appVersion"] = json!(format!("v{}", version.split('+').next().unwrap()));
        });
    }

    /// Pushes the files without reading them, as any other tool would; returns the digest.
    pub(crate) fn push(&self, version: &str, repository: &str) -> String {
        let tag = tag_of(&version.parse().unwrap());
        let access = Access { insecure: true, ..Access::default() };
        let repository = Repository::new(&Address::parse(&world().repository(repository)).unwrap(), &access).unwrap();
        block_on(push(&repository, &tag, &pack(&self.0).unwrap())).unwrap()
    }
}

/// A CRD as controller-gen would write it.
fn definition(group: &str, kind: &str, plural: &str) -> Value {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase(), "listKind": format!("{kind}List")},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    })
}

const ARTIFACTS: &str = "crds/source.toolkit.fluxcd.io_externalartifacts.yaml";

fn component<'a>(manifest: &'a mut Value, name: &str) -> &'a mut Value {
    let components = manifest["components"].as_array_mut().unwrap();
    components.iter_mut().find(|c| c["name"] == name).unwrap()
}

/// A rebuild of the newest bundle in which a CRD serves an old version beside the one it stores.
fn before() -> Sources {
    let mut sources = Sources::newest();
    sources.version(BEFORE);
    sources.edit(ARTIFACTS, |crd| {
        let versions = crd["spec"]["versions"].as_array_mut().unwrap();
        let mut old = versions.iter().find(|v| v["storage"] == true).unwrap().clone();
        old["name"] = json!("v1beta1");
        old["storage"] = json!(false);
        versions.push(old);
    });
    sources.edit("bundle.yaml", |manifest| {
        let crds = component(manifest, "source-controller")["crds"].as_array_mut().unwrap();
        let entry = crds.iter_mut().find(|c| c["name"] == "externalartifacts.source.toolkit.fluxcd.io").unwrap();
        entry["served"] = json!(["v1", "v1beta1"]);
    });
    sources
}

/// What comes after it: another component with a kind of its own, the old version of that CRD no longer served, a feature
/// gate that is new, a flag that is gone, and containers that have another name.
fn after() -> Sources {
    let mut sources = Sources::newest();
    sources.version(AFTER);
    sources.edit("bundle.yaml", |manifest| {
        manifest["upgrade"] = json!({"from": ">=2.9.0"});
        let mut new = component(manifest, "kustomize-controller").clone();
        new["name"] = json!("cache-controller");
        new["image"] = json!("cache-controller");
        new["tag"] = json!("v0.1.0");
        new["digest"] = json!(format!("sha256:{}", "c".repeat(64)));
        new["crds"] = json!([{"name": "caches.cache.toolkit.fluxcd.io", "served": ["v1"], "stored": "v1"}]);
        manifest["components"].as_array_mut().unwrap().push(new);
        for component in manifest["components"].as_array_mut().unwrap() {
            component["featureGates"]["FasterThanLight"] = json!(false);
            component["flags"].as_object_mut().unwrap().remove("watch-all-namespaces").unwrap();
        }
    });
    sources.add("crds/caches.yaml", &definition("cache.toolkit.fluxcd.io", "Cache", "caches"));
    sources.replace("- --watch-all-namespaces=true", "- --feature-gates=FasterThanLight=true");
    sources.replace("name: manager", "name: controller");
    sources.replace("containerName: manager", "containerName: controller");
    sources
}

const BEFORE: &str = "2.9.4+1";
const AFTER: &str = "2.10.0";
const OLD_VERSION: &str = "/apis/source.toolkit.fluxcd.io/v1beta1/externalartifacts";
const STORED_VERSION: &str = "/apis/source.toolkit.fluxcd.io/v1/namespaces/default/externalartifacts";

fn deployments(target: &Site) -> Vec<Value> {
    let list = target.must_get("/apis/apps/v1/namespaces/flux-system/deployments");
    list["items"].as_array().unwrap().clone()
}

/// What must hold wherever the unknown bundle is installed.
fn has_what_is_new(tenant: &Tenant<'_>, target: &Site, digest: &str) {
    let status = tenant.status("a");
    for field in ["applied", "lastGood"] {
        assert_eq!((&status[field]["version"], &status[field]["digest"]), (&json!(AFTER), &json!(digest)), "{field}");
    }
    let running = deployments(target);
    assert_eq!(running.len(), 5);
    assert!(target.get(&in_flux("deployments", "cache-controller")).is_some());
    for deployment in running {
        let containers = deployment["spec"]["template"]["spec"]["containers"].as_array().unwrap();
        let names: Vec<&Value> = containers.iter().map(|c| &c["name"]).collect();
        assert_eq!(names, ["controller"], "{deployment:#}");
        for container in containers {
            let args: BTreeSet<&str> =
                container["args"].as_array().unwrap().iter().map(|a| a.as_str().unwrap()).collect();
            assert!(args.contains("--feature-gates=FasterThanLight=true"), "{args:?}");
            assert!(!args.iter().any(|a| a.starts_with("--watch-all-namespaces")), "{args:?}");
        }
    }
    let cache = json!({"apiVersion": "cache.toolkit.fluxcd.io/v1", "kind": "Cache", "metadata": {"name": "one"}});
    eventually("an object of the new kind", SOON, || {
        let path = "/apis/cache.toolkit.fluxcd.io/v1/namespaces/default/caches";
        target.request("POST", path, Some(("application/json", &cache))).map_err(|refused| format!("{refused:?}"))
    });
    eventually("the old version is no longer served", SOON, || match target.request("GET", OLD_VERSION, None) {
        Err((404, _)) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let versions = target.must_get(&crd("externalartifacts.source.toolkit.fluxcd.io"))["spec"]["versions"].clone();
    assert_eq!(versions.as_array().unwrap().len(), 1, "{versions:#}");
}

/// An operator that has never heard of a version, its component, its kind, its gates and its containers installs it and
/// upgrades to it; what the version does not speak of stays as it is.
#[test]
fn unknown_bundle_is_installed_and_upgraded_to() {
    let targets = Site::start_many(Kind::Full, 2);
    let (fresh, old) = (&targets[0], &targets[1]);
    let tenant = Tenant::new(shared_hub(), "unknown");
    let spec = |name: &str, target: &Site, version: &str, repository: &str| {
        let mut spec = tenant.remote(name, target, version);
        spec["distribution"]["artifact"] = json!(world().repository(repository));
        spec["wait"] = json!(true);
        spec
    };
    before().push(BEFORE, "unknown/flux");
    tenant.create("a", &spec("a", old, "2.9.x", "unknown/flux"));
    tenant.ready("a");
    assert_eq!(tenant.status("a")["applied"]["version"], BEFORE, "a rebuild is a version of its own");
    eventually("the old version is served", SOON, || {
        old.request("GET", OLD_VERSION, None).map_err(|refused| format!("{refused:?}"))
    });
    let artifact = json!({
        "apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "ExternalArtifact",
        "metadata": {"name": "mine"}, "spec": {"sourceRef": {"apiVersion": "v1", "kind": "ConfigMap", "name": "x"}},
    });
    let artifact = old.create(STORED_VERSION, &artifact);
    let theirs = old.create("/api/v1/namespaces/flux-system/configmaps", &json!({"metadata": {"name": "theirs"}}));
    let uids = old.inventory_uids();

    let digest = after().push(AFTER, "unknown/flux");
    let mark = old.audit_mark();
    tenant.patch("a", &json!({"spec": {"distribution": {"version": "2.x"}}}));
    tenant.wait("a", "Ready", SOON, |c| c.status == "True" && c.message.contains(AFTER));
    has_what_is_new(&tenant, old, &digest);
    let history = tenant.status("a")["history"].clone();
    assert_eq!((&history[0]["version"], &history[1]["version"]), (&json!(AFTER), &json!(BEFORE)), "{history:#}");

    let now = old.inventory_uids();
    let gone: Vec<_> = uids.iter().filter(|(key, uid)| now.get(*key) != Some(uid)).collect();
    assert!(gone.is_empty(), "nothing is recreated: {gone:?}");
    let new: Vec<&String> = now.keys().filter(|key| !uids.contains_key(*key)).collect();
    let expected = [
        "CustomResourceDefinition/caches.cache.toolkit.fluxcd.io",
        "Deployment/cache-controller",
        "ServiceAccount/cache-controller",
    ];
    assert_eq!(new, expected);
    let written = old.written_texts(mark);
    let strange: Vec<&String> = written
        .iter()
        .filter(|text| !text.contains("headwater-inventory"))
        .filter(|text| {
            !text.starts_with("patch ") || !now.keys().any(|key| text.ends_with(key.split('/').nth(1).unwrap()))
        })
        .collect();
    assert!(strange.is_empty(), "nothing else is touched: {strange:#?}");
    assert_eq!(old.must_get(&format!("{STORED_VERSION}/mine"))["metadata"]["uid"], artifact["metadata"]["uid"]);
    let still = old.must_get(&in_flux("configmaps", "theirs"));
    assert_eq!(still["metadata"]["resourceVersion"], theirs["metadata"]["resourceVersion"]);
    let mark = old.audit_mark();
    tenant.poke("a");
    assert_eq!(old.written_texts(mark), Vec::<String>::new(), "and that is all there is to do");

    tenant.delete("a");
    tenant.gone("a", SOON);
    tenant.create("a", &spec("a", fresh, AFTER, "unknown/flux"));
    tenant.ready("a");
    has_what_is_new(&tenant, fresh, &digest);
}

/// A bundle of a later format is refused with the sentence that says so, and what runs keeps running; one that can be read
/// is taken as soon as it is there, without anybody touching the instance.
#[test]
fn unknown_format_is_refused_until_a_readable_one_is_there() {
    let target = Site::start(Kind::Full);
    let tenant = Tenant::new(shared_hub(), "format");
    let good = Sources::newest().push(NEW, "format/flux");
    let mut wanted = tenant.remote("a", &target, "2.9.x");
    wanted["distribution"]["artifact"] = json!(world().repository("format/flux"));
    wanted["interval"] = json!("30s");
    wanted["wait"] = json!(true);
    tenant.create("a", &wanted);
    tenant.ready("a");
    let running = || -> Vec<Value> {
        deployments(&target).iter().map(|d| json!([d["metadata"]["uid"], d["metadata"]["generation"]])).collect()
    };
    let before = running();

    let mut later = Sources::newest();
    later.version("2.11.0");
    later.edit("bundle.yaml", |manifest| {
        manifest["formatVersion"] = json!("headwater.dev/bundle/v2");
        manifest["whatTheFutureHolds"] = json!([1, 2, 3]);
    });
    later.push("2.11.0", "format/flux");
    let mark = target.audit_mark();
    tenant.patch("a", &json!({"spec": {"distribution": {"version": "2.x"}}}));
    let said = tenant.fails("a", "ArtifactRejected");
    assert!(
        said.message.ends_with(
            "bundle.yaml: formatVersion is headwater.dev/bundle/v2, which a newer operator reads; this one reads \
             headwater.dev/bundle/v1: upgrade the operator first"
        ),
        "{}",
        said.message
    );
    assert_eq!(running(), before);
    assert_eq!(target.written_texts(mark), Vec::<String>::new());
    for field in ["applied", "lastGood"] {
        assert_eq!(tenant.status("a")[field]["digest"], good.as_str(), "{field}");
    }

    let mut readable = Sources::newest();
    readable.version("2.11.1");
    let digest = readable.push("2.11.1", "format/flux");
    eventually("the readable one is installed", 90, || {
        let applied = tenant.status("a")["applied"].clone();
        holds(applied["digest"] == digest.as_str(), applied)
    });
    tenant.ready("a");
}
