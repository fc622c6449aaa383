//! Test code: may read files. What the planner decides, as tables and properties.

use proptest::prelude::*;
use serde_json::json;

use super::*;

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
                let live = Live { uid, resource_version: version, fields, deleting: false };
                observed.live.insert(object.key.clone(), live);
            }
            Step::Delete { key, .. } => {
                observed.live.remove(key);
                observed.inventory.entries.remove(key);
            }
            Step::Forget { key, .. } => {
                observed.inventory.entries.remove(key);
            }
        }
    }
    let kinds: Vec<Kind> = observed.inventory.entries.values().map(|e| e.kind.clone()).collect();
    for kind in kinds {
        observed.seen.insert((kind.group, kind.kind), version);
    }
    observed
}

fn words(plan: &Plan) -> Vec<String> {
    plan.steps
        .iter()
        .map(|step| match step {
            Step::Apply { stage, reason, object } => format!("{stage:?} {reason:?} {}", object.key),
            Step::Delete { key, guard, drop_finalizers, .. } => {
                format!("delete {key} {guard:?}{}", if *drop_finalizers { " finalizers" } else { "" })
            }
            Step::Forget { key, reason } => format!("forget {key}: {reason}"),
        })
        .collect()
}

fn installed() -> Observed {
    let nothing = Observed::default();
    after(&plan(&owner(), &everything("a"), &nothing), &nothing)
}

#[test]
fn a_first_install_goes_stage_by_stage() {
    let plan = plan(&owner(), &everything("a"), &Observed::default());
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
    let plan = plan(&owner(), &everything("a"), &Observed::default());
    assert_eq!(plan.intent.owner, Some(owner()));
    assert_eq!(plan.intent.entries.len(), 5);
    assert!(plan.intent.entries.values().all(|e| e.uid.is_none() && e.digest.is_none()));
}

#[test]
fn what_is_as_it_should_be_is_left_alone() {
    let plan = plan(&owner(), &everything("a"), &installed());
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
        assert_eq!(words(&plan(&owner(), &everything("a"), &observed)), *expected, "{what}");
    }
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
        words(&plan(&owner(), &less, &installed())),
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
        words(&plan(&owner(), &without(&["Service"]), &replaced)),
        ["forget Service flux-system/source-controller: another object has its name now"]
    );
    let mut gone = installed();
    gone.live.remove(&service);
    assert_eq!(
        words(&plan(&owner(), &without(&["Service"]), &gone)),
        ["forget Service flux-system/source-controller: it is gone"]
    );
}

#[test]
fn an_ordinary_pass_never_deletes_a_namespace() {
    let objects =
        everything("a").objects.iter().filter(|o| o.key.kind != "Namespace").map(|o| o.as_ref().clone()).collect();
    assert_eq!(words(&plan(&owner(), &set(objects), &installed())), [""; 0]);
}

#[test]
fn a_removal_ends_controllers_before_it_touches_what_they_serve() {
    let mut observed = installed();
    assert_eq!(
        words(&removal(&owner(), &observed)),
        [
            "forget Namespace flux-system: it was there before us",
            "delete Deployment flux-system/source-controller None",
            "delete GitRepository flux-system/flux-system None finalizers",
            "delete Service flux-system/source-controller None",
            "delete CustomResourceDefinition gitrepositories.source.toolkit.fluxcd.io NoObjects",
        ]
    );
    observed.inventory.entries.values_mut().for_each(|e| e.created = true);
    assert_eq!(words(&removal(&owner(), &observed)).last().unwrap(), "delete Namespace flux-system OursAndEmpty");
}

#[test]
fn a_plan_prints_what_is_executed() {
    let plan = plan(&owner(), &set(vec![object(&services(), "webhook-receiver", "a")]), &Observed::default());
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
            let mut cut = plan(&owner(), desired, &observed);
            cut.steps.truncate(*crash);
            observed = after(&cut, &observed);
        }
        let wanted = &sets.last().unwrap().0;
        observed = after(&plan(&owner(), wanted, &observed), &observed);
        let keys: Vec<_> = wanted.objects.iter().map(|o| &o.key).collect();
        prop_assert!(observed.live.keys().all(|k| keys.contains(&k)));
        prop_assert_eq!(observed.live.len(), keys.len());
        prop_assert!(plan(&owner(), wanted, &observed).is_empty());
        prop_assert_eq!(observed.inventory.entries.len(), keys.len());
    }

    /// Whatever lives without being recorded is never deleted.
    #[test]
    fn what_is_not_in_the_inventory_is_never_deleted(desired in any_set(), other in any_set()) {
        let nothing = Observed::default();
        let mut observed = after(&plan(&owner(), &other, &nothing), &nothing);
        observed.inventory = Inventory::default();
        let plan = plan(&owner(), &desired, &observed);
        let only_applies = plan.steps.iter().all(|s| matches!(s, Step::Apply { .. }));
        prop_assert!(only_applies);
    }
}
