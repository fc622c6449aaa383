//! From minor to minor and back, with a live object of every kind: none is lost, all are readable, and nothing is stored or
//! recorded in a version that is gone.

use headwater_e2e::Kind;
use serde_json::{Value, json};

use crate::harness::{SOON, Site, Tenant, crd, in_repository, shared_hub};
use crate::lane::spec;
use crate::live::{Fixture, NAME, check_identities, fixtures, identities};

const COMPONENTS: [&str; 8] = [
    "source-controller",
    "kustomize-controller",
    "helm-controller",
    "notification-controller",
    "image-reflector-controller",
    "image-automation-controller",
    "source-watcher",
    "tofu-controller",
];

fn moves_to(tenant: &Tenant<'_>, version: &str) {
    tenant.patch("a", &json!({"spec": {"distribution": {"version": version}}}));
    tenant.wait("a", "Ready", 2 * SOON, |c| c.status == "True" && c.message.contains(&format!("Flux {version} is")));
}

fn remote(tenant: &Tenant<'_>, target: &Site, version: &str) -> Value {
    let mut wanted = spec(version, &COMPONENTS);
    wanted["kubeConfig"] = tenant.remote("a", target, version)["kubeConfig"].clone();
    wanted
}

fn installed(tenant: &Tenant<'_>, target: &Site, version: &str) {
    tenant.create("a", &remote(tenant, target, version));
    tenant.ready("a");
}

fn check_all(target: &Site, fixtures: &[Fixture]) {
    let wrong: Vec<String> = fixtures.iter().filter_map(|fixture| fixture.check(target).err()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn silent(tenant: &Tenant<'_>, target: &Site) {
    tenant.poke("a");
    let mark = target.audit_mark();
    tenant.poke("a");
    tenant.poke("a");
    assert_eq!(target.written_texts(mark), Vec::<String>::new());
}

/// Objects of every kind, created in the oldest versions there are and stored in them: they live through 2.7.5 → 2.8.8 → 2.9.4
/// and back to 2.8.8 and 2.7.5, which keeps the newest CRDs.
#[test]
fn every_kind_climbs_the_ladder_and_comes_down() {
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "ladder");
    installed(&tenant, &target, "2.7.5");
    let fixtures = fixtures();
    for fixture in &fixtures {
        fixture.create(&target, NAME);
    }
    let before = identities(&target, &fixtures);
    for version in ["2.8.8", "2.9.4"] {
        moves_to(&tenant, version);
        check_identities(&target, &fixtures, &before);
        check_all(&target, &fixtures);
        silent(&tenant, &target);
    }

    let versions = |fixture: &Fixture| target.must_get(&crd(&fixture.definition()))["spec"]["versions"].clone();
    let newest: Vec<Value> = fixtures.iter().map(versions).collect();
    tenant.patch("a", &json!({"spec": {"distribution": {"version": "2.8.8"}}}));
    let refused = tenant.wait("a", "Ready", SOON, |c| c.status == "False");
    assert_eq!(refused.reason, "DowngradeRefused");
    assert!(refused.message.contains("spec.upgrade.allowDowngrade"), "{}", refused.message);
    tenant.patch("a", &json!({"spec": {"upgrade": {"allowDowngrade": true}}}));
    for version in ["2.8.8", "2.7.5"] {
        moves_to(&tenant, version);
        assert_eq!(fixtures.iter().map(versions).collect::<Vec<_>>(), newest, "CRDs stay those of the newest version");
        check_identities(&target, &fixtures, &before);
        check_all(&target, &fixtures);
        silent(&tenant, &target);
    }
}

/// The same in one step, with so many objects of one kind that lists have pages, some of them changed and deleted meanwhile.
#[test]
fn many_objects_leap_over_a_minor() {
    const MANY: usize = 1_200;
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "leap");
    installed(&tenant, &target, "2.7.5");
    let fixtures = fixtures();
    let alerts = fixtures.iter().find(|f| f.definition().starts_with("alerts.")).unwrap();
    // The operator puts back what is done to CRDs.
    tenant.kill();
    for fixture in &fixtures {
        // The CRD of Terraform is the same in both bundles: nobody has a reason to touch it.
        if let Some(old) = fixture.old().filter(|_| !fixture.definition().starts_with("terraforms")) {
            fixture.store_as(&target, old);
        }
        fixture.create(&target, NAME);
    }
    std::thread::scope(|scope| {
        for part in 0..4 {
            let (target, alerts) = (&target, &alerts);
            scope.spawn(move || (0..MANY / 4).for_each(|n| alerts.create(target, &format!("many-{part}-{n}"))));
        }
    });
    let before = identities(&target, &fixtures);
    let uids = |site: &Site| -> Vec<Value> {
        let list = site.must_get(&alerts.collection("v1beta3"));
        list["items"].as_array().unwrap().iter().map(|o| o["metadata"]["uid"].clone()).collect()
    };
    let many = uids(&target);
    assert_eq!(many.len(), MANY + 1);
    tenant.start();
    moves_to(&tenant, "2.9.4");
    check_identities(&target, &fixtures, &before);
    assert_eq!(uids(&target), many);
    check_all(&target, &fixtures);
    let list = target.must_get(&alerts.collection("v1beta3"));
    assert!(!list.to_string().contains("v1beta2"), "not even in managedFields of the last of them");
    silent(&tenant, &target);
}

/// A cluster as Flux 2.6 left it, by another tool: images are known in v1beta2 alone, all others were once stored in their old
/// versions. The newest bundle is reached through the CRDs of 2.7.5, as it declares.
#[test]
fn what_looks_like_an_older_flux_goes_through_the_crds_in_between() {
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "older");
    let fixtures: Vec<Fixture> = fixtures()
        .into_iter()
        .filter(|f| {
            !f.definition().starts_with("externalartifacts") && !f.definition().starts_with("artifactgenerators")
        })
        .collect();
    for fixture in &fixtures {
        let name = fixture.definition();
        let (plural, group) = name.split_once('.').unwrap();
        let file = in_repository(&format!("bundles/flux/2.7.5/crds/{group}_{plural}.yaml"));
        target.kubectl(&["create", "-f", &file]).unwrap();
        let path = crd(&fixture.definition());
        let labels = json!({"app.kubernetes.io/version": "v2.6.4", "app.kubernetes.io/part-of": "flux"});
        target.merge(&path, &json!({"metadata": {"labels": labels}}));
        if let Some(old) = fixture.old() {
            fixture.store_as(&target, old);
        }
        fixture.create(&target, NAME);
    }
    let before = identities(&target, &fixtures);
    for fixture in &fixtures {
        let path = crd(&fixture.definition());
        if group_of_images(&path) {
            // 2.6 knew no other version.
            let mut definition = target.must_get(&path);
            definition["spec"]["versions"].as_array_mut().unwrap().retain(|v| v["name"] == "v1beta2");
            definition["status"]["storedVersions"] = json!(["v1beta2"]);
            target.request("PUT", &format!("{path}/status"), Some(("application/json", &definition))).unwrap();
            let mut definition = target.must_get(&path);
            definition["spec"]["versions"].as_array_mut().unwrap().retain(|v| v["name"] == "v1beta2");
            target.request("PUT", &path, Some(("application/json", &definition))).unwrap();
        } else if let Some(old) = fixture.old() {
            fixture.store_as(&target, fixture.newest());
            let stored = target.must_get(&path)["status"]["storedVersions"].clone();
            assert_eq!(stored, json!([fixture.newest(), old]), "{path}");
        }
    }
    installed(&tenant, &target, "2.9.4");
    check_identities(&target, &fixtures, &before);
    check_all(&target, &fixtures);
    silent(&tenant, &target);
}

fn group_of_images(path: &str) -> bool {
    path.ends_with(".image.toolkit.fluxcd.io")
}
