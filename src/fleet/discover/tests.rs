//! What is made of Secrets, by table.

use super::*;

type Labels = BTreeMap<String, String>;

fn fleet(discover: Value) -> FluxFleet {
    let mut discover = discover;
    if discover["template"].is_null() {
        discover["template"] = json!({"spec": {"distribution": {"version": "2.x"}}});
    }
    serde_json::from_value(json!({
        "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxFleet",
        "metadata": {"name": "prod", "namespace": "n", "uid": "fleet"},
        "spec": {"selector": {"matchLabels": {"env": "prod"}}, "distribution": {"version": "2.x"}, "stages": [{"name": "all"}],
                 "discover": discover},
    }))
    .unwrap()
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Secrets of Cluster API, one for each cluster.
fn clusters(names: &[&str]) -> Vec<(String, Labels)> {
    names.iter().map(|name| (format!("{name}-kubeconfig"), labels(&[(CLUSTER_NAME, name), ("env", "prod")]))).collect()
}

/// Noon.
fn noon() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

fn run<'a>(fleet: &FluxFleet, secrets: &[(String, Labels)], instances: &'a [FluxInstance]) -> Discovery<'a> {
    run_at(0, fleet, secrets, instances)
}

/// So many minutes after noon.
fn run_at<'a>(
    minute: i64,
    fleet: &FluxFleet,
    secrets: &[(String, Labels)],
    instances: &'a [FluxInstance],
) -> Discovery<'a> {
    let now = noon() + SignedDuration::from_mins(minute);
    let sources: Vec<Source<'_>> = secrets.iter().map(|(name, labels)| Source { name, labels }).collect();
    let instances: Vec<&FluxInstance> = instances.iter().collect();
    discover(fleet, fleet.spec.discover.as_ref().unwrap(), &sources, &instances, now).unwrap()
}

/// What the API server would make of what was wanted.
fn stored(object: &Value) -> FluxInstance {
    let mut instance: FluxInstance = serde_json::from_value(object.clone()).unwrap();
    instance.metadata.uid = Some(format!("uid-{}", instance.name_any()));
    instance
}

/// The instances of a fleet that has found these clusters.
fn made(fleet: &FluxFleet, names: &[&str]) -> Vec<FluxInstance> {
    let discovery = run(fleet, &clusters(names), &[]);
    discovery
        .changes
        .iter()
        .map(|change| match change {
            Change::Create { object, .. } => stored(object),
            other => panic!("{other:?}"),
        })
        .collect()
}

fn texts(discovery: &Discovery<'_>) -> Vec<String> {
    let text = |change: &Change<'_>| match change {
        Change::Create { name, .. } => format!("create {name}"),
        Change::Update { instance, .. } => format!("update {}", instance.name_any()),
        Change::Orphan { instance, why } => format!("orphan {}: {why}", instance.name_any()),
        Change::Delete { instance, secret } => format!("delete {} of {secret}", instance.name_any()),
    };
    discovery.changes.iter().map(text).collect()
}

#[test]
fn secrets_of_cluster_api_are_known_by_label_and_name() {
    let fleet = fleet(json!({"clusterAPI": {}}));
    let mut secrets = clusters(&["a"]);
    for (name, of) in [("a-ca", "a"), ("a-user-kubeconfig", "a"), ("b-kubeconfig", "c")] {
        secrets.push((name.to_owned(), labels(&[(CLUSTER_NAME, of)])));
    }
    secrets.push(("d-kubeconfig".to_owned(), labels(&[])));
    let found = run(&fleet, &secrets, &[]);
    assert_eq!(texts(&found), ["create a"]);
}

#[test]
fn an_instance_has_the_labels_of_its_secret_and_of_the_template_and_nothing_it_was_not_told() {
    let fleet = fleet(json!({
        "clusterAPI": {"selector": {"matchLabels": {"env": "prod"}}}, "secrets": {"selector": {"matchLabels": {"fleet": "yes"}}, "key": "config"},
        "template": {"metadata": {"labels": {"ring": "late"}, "annotations": {"team": "x"}}, "spec": {"distribution": {"version": "2.x"}, "wait": false}},
    }));
    let mut secrets = clusters(&["a"]);
    secrets[0].1.extend(labels(&[
        ("ring", "early"),
        ("app.kubernetes.io/instance", "argo"),
        ("kustomize.toolkit.fluxcd.io/name", "x"),
        ("headwater.dev/x", "y"),
    ]));
    secrets.push(("plain".to_owned(), labels(&[("fleet", "yes"), ("env", "prod")])));
    let found = run(&fleet, &secrets, &[]);
    let [Change::Create { object: a, .. }, Change::Create { object: plain, .. }] = &found.changes[..] else {
        panic!("{found:?}")
    };
    assert_eq!(
        a["metadata"]["labels"],
        json!({CLUSTER_NAME: "a", "env": "prod", "ring": "late", DISCOVERED_BY: "fleet"})
    );
    assert_eq!(a["metadata"]["annotations"]["team"], "x");
    assert_eq!(
        a["spec"],
        json!({"distribution": {"version": "2.x"}, "wait": false, "admission": "Fleet", "kubeConfig": {"secretRef": {"name": "a-kubeconfig"}}})
    );
    assert_eq!(plain["metadata"]["name"], "plain");
    assert_eq!(plain["spec"]["kubeConfig"]["secretRef"], json!({"name": "plain", "key": "config"}));
}

#[test]
fn what_is_as_wanted_is_left_alone_and_what_users_add_too() {
    let before = fleet(
        json!({"clusterAPI": {}, "template": {"spec": {"distribution": {"version": "2.x"}, "components": ["a"]}}}),
    );
    let secrets = clusters(&["a"]);
    let mut all = made(&before, &["a"]);
    assert_eq!(texts(&run(&before, &secrets, &all)), [""; 0]);
    all[0].spec.suspend = true;
    all[0].spec.components.as_mut().unwrap().push(crate::api::ComponentName("b".to_owned()));
    all[0].metadata.labels.as_mut().unwrap().insert("mine".to_owned(), "x".to_owned());
    assert_eq!(texts(&run(&before, &secrets, &all)), [""; 0]);
    // Fields of the template are the template's, whether they were changed here or there, or have left it.
    let mut changed = all.clone();
    changed[0].spec.distribution.version = "2.7.x".to_owned();
    assert_eq!(texts(&run(&before, &secrets, &changed)), ["update a"]);
    let less = fleet(json!({"clusterAPI": {}}));
    assert_eq!(texts(&run(&less, &secrets, &all)), ["update a"]);
    let mut relabelled = secrets.clone();
    relabelled[0].1.remove("env");
    assert_eq!(texts(&run(&before, &relabelled, &all)), ["update a"]);
    // One that is on its way out is let go first.
    all[0].metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
    assert_eq!(texts(&run(&less, &secrets, &all)), [""; 0]);
}

#[test]
fn what_others_made_is_left_alone() {
    let fleet = fleet(json!({"clusterAPI": {}, "secrets": {"selector": {"matchLabels": {"x": "y"}}}}));
    let mut all = made(&fleet, &["a", "b"]);
    all[0].metadata.labels.as_mut().unwrap().remove(DISCOVERED_BY);
    all[0].metadata.annotations = None;
    all[1].metadata.annotations.as_mut().unwrap().insert(DISCOVERED_BY.to_owned(), "other".to_owned());
    let mut secrets = clusters(&["a", "b", "c"]);
    secrets.push(("c".to_owned(), labels(&[("x", "y")])));
    let found = run(&fleet, &secrets, &all);
    assert_eq!(texts(&found), [""; 0]);
    let problems: Vec<String> = found.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "Secret a-kubeconfig would be FluxInstance a, which was not made by spec.discover: it is left alone; delete or rename one",
            "Secret b-kubeconfig would be FluxInstance b, which was made by FluxFleet other: it is left alone; delete or rename one",
            "Secrets c-kubeconfig, c would all be FluxInstance c: nothing is done; rename one",
        ]
    );
    // Nor are they gone when their Secrets are.
    assert_eq!(texts(&run(&fleet, &clusters(&["z"]), &all)), ["create z"]);
}

#[test]
fn one_that_the_fleet_does_not_select_is_said() {
    let fleet = fleet(json!({"clusterAPI": {}}));
    let found = run(&fleet, &[("a-kubeconfig".to_owned(), labels(&[(CLUSTER_NAME, "a")]))], &[]);
    assert_eq!(found.problems, [Problem::NotSelected("a".to_owned())]);
}

#[test]
fn an_instance_whose_secret_is_gone_stays_and_says_so() {
    let fleet = fleet(json!({"clusterAPI": {}}));
    let mut all = made(&fleet, &["a", "b"]);
    let found = run(&fleet, &clusters(&["a"]), &all);
    assert_eq!(texts(&found), ["orphan b: Secret b-kubeconfig is gone"]);
    assert_eq!((found.orphans, found.problems), (vec!["b".to_owned()], vec![]));
    mark(&mut all[1], 0);
    assert_eq!(texts(&run(&fleet, &clusters(&["a"]), &all)), [""; 0], "it is said once");
    assert_eq!(texts(&run(&fleet, &clusters(&["a", "b"]), &all)), ["update b"], "it is taken back when the Secret is");
    let mut unlabelled = clusters(&["a", "b"]);
    unlabelled[1].1.remove(CLUSTER_NAME);
    assert_eq!(
        texts(&run(&fleet, &unlabelled, &all)),
        ["orphan b: Secret b-kubeconfig is no longer selected by spec.discover"]
    );
}

/// Its Secret is gone since so many minutes after noon.
fn mark(instance: &mut FluxInstance, minute: i64) {
    let why = format!("Secret {}-kubeconfig is gone", instance.name_any());
    let since = (noon() + SignedDuration::from_mins(minute)).to_string();
    let marks = [(ORPHANED.to_owned(), why), (ORPHANED_SINCE.to_owned(), since)];
    instance.metadata.annotations.get_or_insert_default().extend(marks);
}

/// Deletions, and problems.
fn of(found: &Discovery<'_>) -> (Vec<String>, Vec<Problem>) {
    let deleted = texts(found).into_iter().filter(|text| text.starts_with("delete "));
    (deleted.collect(), found.problems.clone())
}

fn twenty() -> Vec<String> {
    (0..20).map(|number| format!("c{number:02}")).collect()
}

#[test]
fn few_are_deleted_and_many_never() {
    let fleet = fleet(json!({"clusterAPI": {}, "onRemoval": "Delete"}));
    let names = twenty();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut all = made(&fleet, &names);
    for instance in &mut all {
        mark(instance, -10);
    }
    let two = vec!["delete c00 of c00-kubeconfig".to_owned(), "delete c01 of c01-kubeconfig".to_owned()];
    assert_eq!(of(&run(&fleet, &clusters(&names[2..]), &all)), (two, vec![]));
    let none = |lost, all| (vec![], vec![Problem::TooMany(lost, all)]);
    assert_eq!(of(&run(&fleet, &clusters(&names[3..]), &all)), none(3, 20));
    assert_eq!(of(&run(&fleet, &[], &all)), none(20, 20));
    assert_eq!(of(&run(&fleet, &[], &all[..1])), none(1, 1), "an empty list deletes nothing");
    // A Secret that is there, and not selected, is no removal.
    let mut unlabelled = clusters(&names);
    unlabelled[0].1.clear();
    assert_eq!(of(&run(&fleet, &unlabelled, &all)), (vec![], vec![]));
    // One of an earlier fleet of this name is not ours to delete.
    all[0].metadata.labels.as_mut().unwrap().insert(DISCOVERED_BY.to_owned(), "before".to_owned());
    assert_eq!(of(&run(&fleet, &clusters(&names[1..]), &all)), (vec![], vec![]));
}

/// A Secret that is deleted and made anew does not cost its instance.
#[test]
fn a_secret_has_to_be_gone_for_a_while() {
    let fleet = fleet(json!({"clusterAPI": {}, "onRemoval": "Delete"}));
    let mut all = made(&fleet, &["a", "b"]);
    let left = clusters(&["a"]);
    let found = run(&fleet, &left, &all);
    assert_eq!((texts(&found), found.recheck), (vec!["orphan b: Secret b-kubeconfig is gone".to_owned()], Some(GRACE)));
    mark(&mut all[1], 0);
    let found = run_at(9, &fleet, &left, &all);
    assert_eq!((texts(&found), found.recheck), (vec![], Some(SignedDuration::from_mins(1))));
    assert_eq!((found.orphans, found.deletions), (vec!["b".to_owned()], vec![]));
    assert_eq!(of(&run_at(10, &fleet, &left, &all)).0, ["delete b of b-kubeconfig"]);
    assert_eq!(
        texts(&run_at(9, &fleet, &clusters(&["a", "b"]), &all)),
        ["update b"],
        "the mark goes, and with it the time"
    );
    // Marked for another reason, or with a clock that was put back, it waits.
    all[1].metadata.annotations.as_mut().unwrap().insert(ORPHANED.to_owned(), "something else".to_owned());
    assert_eq!(texts(&run_at(60, &fleet, &left, &all)), ["orphan b: Secret b-kubeconfig is gone"]);
    mark(&mut all[1], 0);
    assert_eq!(texts(&run_at(-60, &fleet, &left, &all)), [""; 0]);
}

/// One Secret is lost every ten minutes, and nobody looks: of twenty instances two may go within any hour.
#[test]
fn a_slow_loss_is_as_many_as_a_fast_one() {
    let mut fleet = fleet(json!({"clusterAPI": {}, "onRemoval": "Delete"}));
    let names = twenty();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut all = made(&fleet, &names);
    let mut deleted: Vec<i64> = vec![];
    for minute in 0..180 {
        let lost = usize::try_from(minute / 10 + 1).unwrap().min(names.len() - 1);
        let found = run_at(minute, &fleet, &clusters(&names[lost..]), &all);
        let (mut marked, mut going) = (vec![], vec![]);
        for change in &found.changes {
            match change {
                Change::Orphan { instance, .. } => marked.push(instance.name_any()),
                Change::Delete { instance, .. } => going.push(instance.name_any()),
                other => panic!("{other:?}"),
            }
        }
        deleted.extend(going.iter().map(|_| minute));
        let deletions = found.deletions.iter().map(|at| k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(*at));
        fleet.status.get_or_insert_default().deletions = deletions.collect();
        for instance in all.iter_mut().filter(|i| marked.contains(&i.name_any())) {
            mark(instance, minute);
        }
        all.retain(|instance| !going.contains(&instance.name_any()));
    }
    let within = |hour: i64| deleted.iter().filter(|at| (hour..hour + 60).contains(*at)).count();
    assert!(!deleted.is_empty() && (0..120).all(|hour| within(hour) <= 2), "{deleted:?}");
    assert!(all.len() >= 17, "{} are left", all.len());
}

#[test]
fn a_fleet_that_was_made_anew_goes_on_with_what_is_there() {
    let mut fleet = fleet(json!({"clusterAPI": {}}));
    let all = made(&fleet, &["a"]);
    fleet.metadata.uid = Some("second".to_owned());
    let found = run(&fleet, &clusters(&["a"]), &all);
    let [Change::Update { object, .. }] = &found.changes[..] else { panic!("{found:?}") };
    assert_eq!(object["metadata"]["labels"][DISCOVERED_BY], "second");
}

#[test]
fn the_schema_of_the_template_fills_nothing_in() {
    use kube::CustomResourceExt;
    let crd = serde_json::to_value(FluxFleet::crd()).unwrap();
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/discover/properties/template/properties/spec";
    let spec = crd.pointer(spec).unwrap();
    assert!(spec["properties"]["distribution"]["properties"]["version"].is_object());
    assert!(spec["x-kubernetes-validations"].to_string().contains("!has(self.kubeConfig)"));
    assert!(!spec.to_string().contains("\"default\":"), "{spec:#}");
}
