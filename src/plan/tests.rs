//! Test code: may read files. What the planner decides, as tables and properties.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::api::bundle::Component;
use crate::api::{Drift, DriftIgnore, DriftMode};
use crate::render::Object;

fn owner() -> Owner {
    Owner { namespace: "fleet".to_owned(), name: "eu-west-7".to_owned(), uid: "u".to_owned() }
}

fn kind(group: &str, kind: &str, namespaced: bool) -> Kind {
    Kind {
        group: group.to_owned(),
        version: "v1".to_owned(),
        kind: kind.to_owned(),
        plural: format!("{}s", kind.to_lowercase()),
        namespaced,
    }
}

fn object(kind: &Kind, name: &str, value: &str) -> Desired {
    let namespace = kind.namespaced.then_some("flux-system");
    let object = Object::try_from(json!({
        "apiVersion": kind.api_version(), "kind": kind.kind,
        "metadata": {"name": name, "namespace": namespace}, "value": value,
    }));
    Desired::new(&object.unwrap(), kind.clone())
}

fn set(objects: Vec<Desired>) -> DesiredSet {
    DesiredSet::new(BundleRef { version: "2.9.4".to_owned(), digest: "sha256:b".to_owned() }, objects)
}

fn definitions() -> Kind {
    Kind::crd()
}
fn deployments() -> Kind {
    kind("apps", "Deployment", true)
}
fn services() -> Kind {
    kind("", "Service", true)
}
fn namespaces() -> Kind {
    kind("", "Namespace", false)
}
fn sources() -> Kind {
    kind("source.toolkit.fluxcd.io", "GitRepository", true)
}

fn everything(value: &str) -> DesiredSet {
    set(vec![
        object(&definitions(), "gitrepositories.source.toolkit.fluxcd.io", value),
        object(&namespaces(), "flux-system", value),
        object(&services(), "source-controller", value),
        object(&deployments(), "source-controller", value),
        object(&sources(), "flux-system", value),
    ])
}

/// What a cluster looks like after a plan was executed without a fault.
fn after(plan: &Plan, before: &Observed) -> Observed {
    let mut observed = before.clone();
    observed.inventory = plan.intent.clone();
    let version = observed.seen.values().max().copied().unwrap_or(0) + 1;
    for step in &plan.steps {
        match step {
            Step::Apply { object, .. } => {
                let known = observed.live.get(&object.key).map(|l| l.uid.clone());
                let uid = known.unwrap_or_else(|| format!("{}-{version}", object.key));
                let fields = Some(object.digest.clone());
                let entry = observed.inventory.entries.get_mut(&object.key).unwrap();
                entry.uid = Some(uid.clone());
                entry.resource_version = version;
                entry.digest = Some(object.digest.clone());
                entry.fields.clone_from(&fields);
                let live = Live { uid, resource_version: version, fields, ..Live::default() };
                observed.live.insert(object.key.clone(), live);
            }
            Step::Delete { key, .. } => {
                observed.live.remove(key);
                observed.inventory.entries.remove(key);
            }
            Step::Forget { key, .. } => {
                observed.inventory.entries.remove(key);
            }
            Step::Detach { .. } | Step::Migrate { .. } | Step::Await { .. } | Step::Release { .. } => {}
        }
    }
    let kinds: Vec<Kind> = observed.inventory.entries.values().map(|e| e.kind.clone()).collect();
    for kind in kinds {
        observed.seen.insert((kind.group, kind.kind), version);
    }
    observed
}

/// The plan after somebody gave the word for the deletions it would have.
fn confirmed(desired: &DesiredSet, observed: &Observed) -> Plan {
    let first = plan(&owner(), desired, observed, &Policy::default());
    let confirmed = first.blocked.map(|blocked| blocked.digest);
    plan(&owner(), desired, observed, &Policy { confirmed, ..Policy::default() })
}

fn words(plan: &Plan) -> Vec<String> {
    plan.steps
        .iter()
        .map(|step| match step {
            Step::Apply { stage, reason, object, .. } => format!("{stage:?} {reason:?} {}", object.key),
            Step::Migrate { stage, key, kind, .. } => format!("{stage:?} {} as {}", key.name, kind.version),
            Step::Await { stage, keys } => format!("{stage:?} await {}", keys.len()),
            Step::Delete { key, guard, .. } => format!("delete {key} {guard:?}"),
            Step::Release { key, finalizers } => format!("release {} of {}", key.name, finalizers.join(" ")),
            Step::Detach { release, .. } => format!("detach {release}"),
            Step::Forget { key, reason } => format!("forget {key}: {reason}"),
        })
        .collect()
}

fn installed() -> Observed {
    let nothing = Observed::default();
    after(&plan(&owner(), &everything("a"), &nothing, &Policy::default()), &nothing)
}

#[test]
fn a_first_install_goes_stage_by_stage() {
    let plan = plan(&owner(), &everything("a"), &Observed::default(), &Policy::default());
    assert_eq!(
        words(&plan),
        [
            "Definitions Missing CustomResourceDefinition gitrepositories.source.toolkit.fluxcd.io",
            "Definitions Missing Namespace flux-system",
            "Resources Missing Service flux-system/source-controller",
            "Workloads Missing Deployment flux-system/source-controller",
            "CustomResources Missing GitRepository flux-system/flux-system",
        ]
    );
    assert_eq!(plan.summary(), "5 to create, 0 unchanged");
}

#[test]
fn the_intent_names_everything_before_anything_is_known_of_it() {
    let plan = plan(&owner(), &everything("a"), &Observed::default(), &Policy::default());
    assert_eq!(plan.intent.owner, Some(owner()));
    assert_eq!(plan.intent.entries.len(), 5);
    assert!(plan.intent.entries.values().all(|e| e.uid.is_none() && e.digest.is_none()));
}

#[test]
fn what_is_as_it_should_be_is_left_alone() {
    let plan = plan(&owner(), &everything("a"), &installed(), &Policy::default());
    assert!(plan.is_empty(), "{:?}", words(&plan));
    assert_eq!(plan.unchanged, 5);
    assert_eq!(plan.intent, installed().inventory);
}

/// What happened, how it looks, and what the plan does about it.
type Case = (&'static str, fn(&mut Observed, &ObjectKey), &'static [&'static str]);

#[test]
fn drift_is_told_from_change_and_from_our_own_echo() {
    let service = services().key(Some("flux-system".to_owned()), "source-controller".to_owned());
    let cases: &[Case] = &[
        (
            "a field of ours was taken",
            |o, k| o.live.get_mut(k).unwrap().fields = Some("other".into()),
            &["Resources Drifted Service flux-system/source-controller"],
        ),
        (
            "our manager is gone altogether",
            |o, k| o.live.get_mut(k).unwrap().fields = None,
            &["Resources Drifted Service flux-system/source-controller"],
        ),
        (
            "somebody recreated it",
            |o, k| o.live.get_mut(k).unwrap().uid = "new".into(),
            &["Resources Drifted Service flux-system/source-controller"],
        ),
        ("it is gone", |o, k| drop(o.live.remove(k)), &["Resources Missing Service flux-system/source-controller"]),
        (
            "the watch has not shown our write yet",
            |o, k| {
                o.live.get_mut(k).unwrap().fields = Some("before".into());
                o.live.get_mut(k).unwrap().resource_version = 0;
            },
            &[],
        ),
        (
            "the watch has not shown its creation yet",
            |o, k| {
                o.live.remove(k);
                o.seen.insert((String::new(), "Service".into()), 0);
            },
            &[],
        ),
        ("somebody else changed what is not ours", |o, k| o.live.get_mut(k).unwrap().resource_version = 99, &[]),
        (
            "a write was intended and never confirmed",
            |o, k| o.inventory.entries.get_mut(k).unwrap().digest = None,
            &["Resources Changed Service flux-system/source-controller"],
        ),
    ];
    for (what, change, expected) in cases {
        let mut observed = installed();
        change(&mut observed, &service);
        assert_eq!(words(&plan(&owner(), &everything("a"), &observed, &Policy::default())), *expected, "{what}");
    }
}

/// What others changed under each rule: what is written, and what is said of it.
#[test]
fn what_others_changed_is_treated_as_the_policy_says() {
    let service = services().key(Some("flux-system".to_owned()), "source-controller".to_owned());
    let deployment = deployments().key(Some("flux-system".to_owned()), "source-controller".to_owned());
    let mut observed = installed();
    observed.live.remove(&deployment);
    let live = observed.live.get_mut(&service).unwrap();
    live.fields = Some("other".to_owned());
    live.changed_by = Some("kubectl-edit".into());
    let ignore = |text: &str| vec![DriftIgnore(text.to_owned())];
    let policy = |mode, ignore| Policy { drift: Drift { mode, ignore }, ..Policy::default() };
    let of = |value: &str, policy: &Policy| {
        let plan = plan(&owner(), &everything(value), &observed, policy);
        let drifted: Vec<String> = plan
            .drifted
            .iter()
            .map(|d| format!("{:?} {} by {}", d.treatment, d.key.kind, d.by.as_deref().unwrap_or("?")))
            .collect();
        (plan.steps.len(), drifted.join(", "))
    };

    let both = "Repair Service by kubectl-edit, Repair Deployment by ?".to_owned();
    assert_eq!(of("a", &Policy::default()), (2, both));
    let warned = "Warn Service by kubectl-edit, Warn Deployment by ?".to_owned();
    assert_eq!(of("a", &policy(DriftMode::Warn, Vec::new())), (0, warned));
    assert_eq!(of("a", &policy(DriftMode::Ignore, Vec::new())), (0, String::new()));
    let one = "Repair Deployment by ?".to_owned();
    assert_eq!(of("a", &policy(DriftMode::Correct, ignore("Service"))), (1, one));
    let damped = Policy { damped: [service.clone()].into(), ..Policy::default() };
    let later = "Wait Service by kubectl-edit, Repair Deployment by ?".to_owned();
    assert_eq!(of("a", &damped), (1, later));
    // What we want has changed: that is no drift, whatever others did.
    assert_eq!(of("b", &policy(DriftMode::Ignore, Vec::new())), (5, String::new()));
}

#[test]
fn prune_takes_only_what_is_ours_with_its_uid() {
    let all = everything("a").objects;
    let without = |names: &[&str]| {
        let objects = all.iter().filter(|o| !names.contains(&o.key.kind.as_str())).map(|o| o.as_ref().clone());
        set(objects.collect())
    };
    let less = without(&["Service", "Deployment", CRD, "GitRepository"]);
    assert_eq!(
        words(&confirmed(&less, &installed())),
        [
            "delete Deployment flux-system/source-controller None",
            "delete GitRepository flux-system/flux-system None",
            "delete Service flux-system/source-controller None",
            "delete CustomResourceDefinition gitrepositories.source.toolkit.fluxcd.io NoObjects",
        ]
    );

    let service = services().key(Some("flux-system".to_owned()), "source-controller".to_owned());
    let mut replaced = installed();
    replaced.live.get_mut(&service).unwrap().uid = "another".to_owned();
    assert_eq!(
        words(&plan(&owner(), &without(&["Service"]), &replaced, &Policy::default())),
        ["forget Service flux-system/source-controller: another object has its name now"]
    );
    let mut gone = installed();
    gone.live.remove(&service);
    assert_eq!(
        words(&plan(&owner(), &without(&["Service"]), &gone, &Policy::default())),
        ["forget Service flux-system/source-controller: it is gone"]
    );
}

/// What touches CRDs, and what is much, waits for a word that names exactly these deletions; the rest of the plan does not.
#[test]
fn many_deletions_and_those_of_crds_wait_for_a_word() {
    let without = |kind: &str| {
        let objects = everything("a").objects;
        set(objects.iter().filter(|o| o.key.kind != kind).map(|o| o.as_ref().clone()).collect())
    };
    let quiet = plan(&owner(), &without("Service"), &installed(), &Policy::default());
    assert_eq!((words(&quiet).len(), &quiet.blocked), (1, &None));

    let crd = plan(&owner(), &without(CRD), &installed(), &Policy::default());
    let blocked = crd.blocked.clone().unwrap();
    assert_eq!((words(&crd), blocked.deletions.len(), blocked.of), (vec![], 1, 5));
    assert_eq!(crd.summary(), "1 to delete when confirmed, 4 unchanged");
    let of = |word: &str| {
        let policy = Policy { confirmed: Some(word.to_owned()), ..Policy::default() };
        words(&plan(&owner(), &without(CRD), &installed(), &policy)).len()
    };
    assert_eq!((of(&blocked.digest), of("sha256:another")), (1, 0));
    // Another incarnation is another deletion: the word does not count for it.
    let mut other = installed();
    let key = definitions().key(None, "gitrepositories.source.toolkit.fluxcd.io".to_owned());
    other.live.get_mut(&key).unwrap().uid = "another".to_owned();
    other.inventory.entries.get_mut(&key).unwrap().uid = Some("another".to_owned());
    let policy = Policy { confirmed: Some(blocked.digest), ..Policy::default() };
    assert_eq!(words(&plan(&owner(), &without(CRD), &other, &policy)).len(), 0);

    let named = |names: std::ops::Range<usize>| {
        set(names.map(|i| object(&services(), &format!("s{i:02}"), "a")).collect::<Vec<_>>())
    };
    let nothing = Observed::default();
    let many = after(&plan(&owner(), &named(0..40), &nothing, &Policy::default()), &nothing);
    for (left, is_blocked) in [(35, false), (32, false), (31, true), (0, true)] {
        let plan = plan(&owner(), &named(0..left), &many, &Policy::default());
        assert_eq!(plan.blocked.is_some(), is_blocked, "{left} of 40 are left");
        assert_eq!(plan.steps.is_empty(), is_blocked);
    }
}

/// Going to an older bundle, CRDs stay as the newer one made them, are not pruned, and are put back only when they are gone.
#[test]
fn crds_never_go_back() {
    let of = |version: &str, value: &str| {
        let bundle = BundleRef { version: version.to_owned(), digest: format!("sha256:{version}") };
        DesiredSet { bundle, ..everything(value) }
    };
    let nothing = Observed::default();
    let new = after(&plan(&owner(), &of("2.10.0", "new"), &nothing, &Policy::default()), &nothing);
    let back = plan(&owner(), &of("2.9.4", "old"), &new, &Policy::default());
    assert!(back.keeps_definitions);
    assert!(words(&back).iter().all(|w| !w.contains(CRD)), "{:?}", words(&back));
    assert_eq!(words(&back).len(), 4);
    let old = after(&back, &new);
    assert_eq!(old.inventory.definitions().unwrap().version, "2.10.0");
    assert!(plan(&owner(), &of("2.9.4", "old"), &old, &Policy::default()).is_empty());
    let mut gone = old.clone();
    gone.live.retain(|key, _| key.kind != CRD);
    assert_eq!(words(&plan(&owner(), &of("2.9.4", "old"), &gone, &Policy::default())).len(), 1);
    // Forward again everything is as wanted.
    let forward = plan(&owner(), &of("2.10.0", "new"), &old, &Policy::default());
    assert_eq!((words(&forward).len(), forward.intent.definitions.clone()), (4, None));
    // A rebuild is no other version.
    let rebuilt = plan(&owner(), &of("2.10.0+1", "new"), &after(&forward, &old), &Policy::default());
    assert!(!rebuilt.keeps_definitions);
}

#[test]
fn an_ordinary_pass_never_deletes_a_namespace() {
    let objects =
        everything("a").objects.iter().filter(|o| o.key.kind != "Namespace").map(|o| o.as_ref().clone()).collect();
    assert_eq!(words(&plan(&owner(), &set(objects), &installed(), &Policy::default())), [""; 0]);
}

fn component(name: &str, requires: &[&str], crds: &[&str], finalizers: &[&str]) -> Component {
    serde_json::from_value(json!({
        "name": name, "registry": "r.example", "image": name, "tag": "v1", "requires": requires, "finalizers": finalizers,
        "crds": crds.iter().map(|crd| json!({"name": crd, "served": ["v1"], "stored": "v1"})).collect::<Vec<_>>(),
    }))
    .unwrap()
}

/// Two controllers, one of which needs the other, as the bundle lists them, and one that is not installed.
fn components() -> Vec<Component> {
    vec![
        component("source", &[], &["gitrepositories.source.toolkit.fluxcd.io"], &["finalizers.fluxcd.io"]),
        component("tofu", &["source"], &["terraforms.infra.example"], &["finalizers.tf", "tf.dependency.of.*"]),
        component("notification", &[], &["alerts.example"], &["finalizers.fluxcd.io"]),
    ]
}

fn installed_with_finalizers() -> Observed {
    let mut all: Vec<Desired> = everything("a").objects.iter().map(|o| o.as_ref().clone()).collect();
    all.push(object(&definitions(), "terraforms.infra.example", "a"));
    let desired = set(all).with_finalizers(&components());
    let nothing = Observed::default();
    after(&plan(&owner(), &desired, &nothing, &Policy::default()), &nothing)
}

#[test]
fn a_removal_ends_controllers_before_it_touches_what_they_serve() {
    let mut observed = installed_with_finalizers();
    let expected = [
        "forget Namespace flux-system: it was there before us",
        "delete Deployment flux-system/source-controller None",
        "release terraforms.infra.example of finalizers.tf tf.dependency.of.*",
        "release gitrepositories.source.toolkit.fluxcd.io of finalizers.fluxcd.io",
        "delete GitRepository flux-system/flux-system None",
        "delete Service flux-system/source-controller None",
        "delete CustomResourceDefinition terraforms.infra.example NoObjects",
        "delete CustomResourceDefinition gitrepositories.source.toolkit.fluxcd.io NoObjects",
    ];
    assert_eq!(words(&removal(&owner(), &observed, false)), expected);
    assert_eq!(
        words(&removal(&owner(), &observed, true)),
        expected.map(|word| word.replace("NoObjects", "None")),
        "a removal that may delete objects differs in nothing else"
    );
    observed.inventory.entries.values_mut().for_each(|e| e.created = true);
    let plan = removal(&owner(), &observed, true);
    assert_eq!(words(&plan).last().unwrap(), "delete Namespace flux-system OursAndEmpty");
}

/// Pods may outlive their Deployment, and a controller that was replaced by somebody is not ours to end.
#[test]
fn a_removal_waits_for_pods_whose_deployment_is_gone() {
    let mut observed = installed_with_finalizers();
    let deployment = deployments().key(Some("flux-system".to_owned()), "source-controller".to_owned());
    let of = |observed: &Observed| {
        let steps = words(&removal(&owner(), observed, false));
        steps.into_iter().filter(|word| word.contains("Deployment")).collect::<Vec<_>>()
    };
    observed.live.remove(&deployment);
    assert_eq!(of(&observed), ["forget Deployment flux-system/source-controller: it is gone"]);
    observed.inventory.entries.get_mut(&deployment).unwrap().pods = Some("app=source-controller".to_owned());
    assert_eq!(of(&observed), ["delete Deployment flux-system/source-controller None"]);
    observed.live.insert(deployment, Live { uid: "another".to_owned(), ..Live::default() });
    assert_eq!(of(&observed), ["forget Deployment flux-system/source-controller: another object has its name now"]);
}

#[test]
fn finalizers_of_crds_that_stay_are_remembered_and_circles_end() {
    let before = installed_with_finalizers();
    let less = set(vec![object(&definitions(), "gitrepositories.source.toolkit.fluxcd.io", "a")]);
    let less = less.with_finalizers(&components());
    let crds = |plan: &Plan| plan.intent.finalizers.iter().map(|f| f.crd.clone()).collect::<Vec<_>>();
    let both = ["terraforms.infra.example", "gitrepositories.source.toolkit.fluxcd.io"];
    assert_eq!(crds(&plan(&owner(), &less, &before, &Policy::default())), both);
    let nothing = Observed::default();
    assert_eq!(crds(&plan(&owner(), &less, &nothing, &Policy::default())), both[1..]);

    let names: Vec<String> = (0..64).map(|i| format!("c{i}")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let circle: Vec<Component> = all.iter().map(|name| component(name, &all, &["a.b"], &["f"])).collect();
    assert_eq!(set(Vec::new()).with_finalizers(&circle).finalizers, []);
}

#[test]
fn only_finalizers_that_the_bundle_names_are_ours() {
    let patterns = ["finalizers.tf".to_owned(), "tf.dependency.of.*".to_owned()];
    for (finalizer, expected) in
        [("finalizers.tf", true), ("finalizers.tf.x", false), ("tf.dependency.of.a", true), ("tf.dependency", false)]
    {
        assert_eq!(is_ours(finalizer, &patterns), expected, "{finalizer}");
    }
    let all = ["foregroundDeletion", "example.com/hold"].map(str::to_owned);
    assert_eq!(foreign(&all), ["example.com/hold"]);
}

#[test]
fn a_plan_prints_what_is_executed() {
    let plan = plan(
        &owner(),
        &set(vec![object(&services(), "webhook-receiver", "a")]),
        &Observed::default(),
        &Policy::default(),
    );
    insta::assert_yaml_snapshot!(serde_json::to_value(&plan).unwrap(), {".config" => "[digest]", ".steps[].digest" => "[digest]"}, @r#"
    bundle:
      digest: "sha256:b"
      version: 2.9.4
    config: "[digest]"
    owner:
      name: eu-west-7
      namespace: fleet
      uid: u
    steps:
      - action: apply
        digest: "[digest]"
        group: ""
        kind: Service
        name: webhook-receiver
        namespace: flux-system
        reason: missing
        stage: Resources
    unchanged: 0
    "#);
}

#[test]
fn the_inventory_survives_storage() {
    let inventory = installed().inventory;
    assert_eq!(Inventory::from_json(&inventory.to_json()).unwrap(), inventory);
    assert!(Inventory::from_json("{}").is_err());
}

fn any_set() -> impl Strategy<Value = DesiredSet> {
    let names = ["a", "b", "c"];
    let one = (0..4usize, 0..names.len(), 0..3u8).prop_map(move |(kind, name, value)| {
        let kinds = [services(), deployments(), definitions(), sources()];
        object(&kinds[kind], names[name], &value.to_string())
    });
    proptest::collection::vec(one, 0..8).prop_map(|objects| {
        let mut by_key = BTreeMap::new();
        for object in objects {
            by_key.insert(object.key.clone(), object);
        }
        set(by_key.into_values().collect())
    })
}

proptest! {
    /// Eventually stable: from any history, executing a plan leads to what is wanted and then nothing is left to do; crashes
    /// after any number of steps change neither.
    #[test]
    fn every_history_ends_in_what_is_wanted(sets in proptest::collection::vec((any_set(), 0..10usize), 1..6)) {
        let mut observed = Observed::default();
        for (desired, crash) in &sets {
            let mut cut = plan(&owner(), desired, &observed, &Policy::default());
            cut.steps.truncate(*crash);
            observed = after(&cut, &observed);
        }
        let wanted = &sets.last().unwrap().0;
        observed = after(&confirmed(wanted, &observed), &observed);
        let keys: Vec<_> = wanted.objects.iter().map(|o| &o.key).collect();
        prop_assert!(observed.live.keys().all(|k| keys.contains(&k)));
        prop_assert_eq!(observed.live.len(), keys.len());
        prop_assert!(plan(&owner(), wanted, &observed, &Policy::default()).is_empty());
        prop_assert_eq!(observed.inventory.entries.len(), keys.len());
    }

    /// Whatever lives without being recorded is never deleted.
    #[test]
    fn what_is_not_in_the_inventory_is_never_deleted(desired in any_set(), other in any_set()) {
        let nothing = Observed::default();
        let mut observed = after(&plan(&owner(), &other, &nothing, &Policy::default()), &nothing);
        observed.inventory = Inventory::default();
        let plan = plan(&owner(), &desired, &observed, &Policy::default());
        let only_applies = plan.steps.iter().all(|s| matches!(s, Step::Apply { .. }));
        prop_assert!(only_applies);
    }
}
