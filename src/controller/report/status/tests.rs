//! What is said of passes, told by table.

use super::*;
use crate::api::condition::find;
use crate::cluster::{Cluster, ClusterError};
use crate::plan::health::Health;
use crate::plan::{Blocked, Owner};
use crate::render::Kind;

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).unwrap())
}

fn instance() -> FluxInstance {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxInstance",
        "metadata": {"name": "a", "namespace": "b", "generation": 3},
        "spec": {"timeout": "60s", "distribution": {"artifact": "oci://r.example/x", "version": "2.9.4"}},
    }))
    .unwrap()
}

fn bundle() -> BundleRef {
    BundleRef { version: "2.9.4".to_owned(), digest: "sha256:b".to_owned() }
}

fn unhealthy(name: &str, health: Health) -> Vec<(ObjectKey, Health)> {
    let kind = Kind {
        group: "apps".into(),
        version: "v1".into(),
        kind: "Deployment".into(),
        plural: "deployments".into(),
        namespaced: true,
    };
    vec![(kind.key(Some("flux-system".to_owned()), name.to_owned()), health)]
}

fn run(assessment: Assessment) -> Run {
    Run {
        bundle: Some(bundle()),
        config: Some("c".to_owned()),
        applied: true,
        assessment: Some(assessment),
        ..Run::default()
    }
}

fn plan() -> Plan {
    Plan {
        owner: Owner { namespace: "b".into(), name: "a".into(), uid: "u".into() },
        bundle: Some(bundle()),
        config: "c".to_owned(),
        steps: Vec::new(),
        drifted: Vec::new(),
        unchanged: 0,
        keeps_definitions: false,
        blocked: None,
        intent: crate::plan::Inventory::default(),
    }
}

/// The status of an instance whose change began at second 100.
fn begun() -> FluxInstanceStatus {
    begin(&FluxInstanceStatus::default(), Some(3), &Run::default(), &plan(), &at(100)).unwrap()
}

fn line(status: &FluxInstanceStatus, type_: &str) -> String {
    find(&status.conditions, type_).map(|c| format!("{} {}: {}", c.status, c.reason, c.message)).unwrap_or_default()
}

/// Another look at the same, an hour later.
#[test]
fn what_stays_the_same_keeps_its_times() {
    let mut run = run(Assessment::default());
    let blocked = Blocked { digest: "sha256:d".into(), deletions: vec![Kind::crd().key(None, "x".into())], of: 9 };
    run.plan = Some(Plan { blocked: Some(blocked), ..plan() });
    let instance = instance();
    let (first, ..) = compose(&begun(), &instance, &run, None, &at(200));
    assert!(line(&first, "Stalled").starts_with("True PruneBlocked: "), "{}", line(&first, "Stalled"));
    let (second, ..) = compose(&first, &instance, &run, None, &at(3_800));
    assert_eq!(second, first);
}

#[test]
fn a_change_is_said_before_its_first_effect_and_once() {
    let status = begun();
    assert_eq!(line(&status, "Ready"), "Unknown Progressing: applying 2.9.4: 0 unchanged");
    assert_eq!(status.history[0].outcome, Outcome::Progressing);
    assert_eq!(status.attempted.as_ref().unwrap().at, at(100));
}

#[test]
fn healthy_is_ready_and_last_good() {
    let (status, words, next) = compose(&begun(), &instance(), &run(Assessment::default()), None, &at(105));
    assert_eq!(line(&status, "Ready"), "True ReconciliationSucceeded: Flux 2.9.4 is installed and healthy");
    assert_eq!(line(&status, "ControllersReady"), "True Healthy: CRDs are established and controllers available");
    assert_eq!((status.last_good.unwrap().at, status.history[0].outcome), (at(105), Outcome::Succeeded));
    assert_eq!(status.history[0].finished, Some(at(105)));
    assert_eq!((words.len(), next), (1, Next::Interval));
}

#[test]
fn saying_the_same_again_changes_nothing_and_is_no_event() {
    let (status, ..) = compose(&begun(), &instance(), &run(Assessment::default()), None, &at(105));
    let (again, words, _) = compose(&status, &instance(), &run(Assessment::default()), None, &at(999));
    assert_eq!(again, status);
    assert_eq!(words, []);
}

#[test]
fn not_yet_becomes_failed_when_the_timeout_is_over_and_recovers() {
    let waiting = || {
        run(Assessment {
            controllers: unhealthy("x", Health::InProgress("0 of 1 replicas available".into())),
            ..Assessment::default()
        })
    };
    let (status, words, next) = compose(&begun(), &instance(), &waiting(), None, &at(101));
    assert_eq!(
        line(&status, "Ready"),
        "Unknown Progressing: waiting for Deployment flux-system/x: 0 of 1 replicas available"
    );
    assert_eq!((words.len(), next), (0, Next::Soon(WAITING)));
    let (status, words, _) = compose(&status, &instance(), &waiting(), None, &at(162));
    assert_eq!(
        line(&status, "Ready"),
        "False HealthCheckFailed: not healthy within 60s: Deployment flux-system/x: 0 of 1 replicas available"
    );
    assert_eq!((words[0].warning, status.history[0].outcome), (true, Outcome::Failed));
    let (status, ..) = compose(&status, &instance(), &run(Assessment::default()), None, &at(200));
    assert_eq!((line(&status, "Ready").starts_with("True"), status.history[0].outcome), (true, Outcome::Succeeded));
}

#[test]
fn the_timeout_of_what_was_healthy_starts_when_it_stops_being_so() {
    let (status, ..) = compose(&begun(), &instance(), &run(Assessment::default()), None, &at(105));
    let broken =
        run(Assessment { controllers: unhealthy("x", Health::InProgress("gone".into())), ..Assessment::default() });
    let (status, ..) = compose(&status, &instance(), &broken, None, &at(5000));
    assert_eq!(line(&status, "Ready"), "Unknown Progressing: waiting for Deployment flux-system/x: gone");
    let (status, ..) = compose(&status, &instance(), &broken, None, &at(5061));
    assert!(line(&status, "Ready").starts_with("False HealthCheckFailed"));
}

#[test]
fn a_broken_source_never_reads_as_a_broken_flux() {
    let assessment =
        Assessment { sync: Some(unhealthy("git", Health::Failed("no such host".into()))), ..Assessment::default() };
    let (status, ..) = compose(&begun(), &instance(), &run(assessment), None, &at(105));
    assert!(line(&status, "Ready").starts_with("True"));
    assert_eq!(line(&status, "SyncReady"), "False NotSynced: Deployment flux-system/git: no such host");
}

#[test]
fn failures_say_what_can_help() {
    let (good, ..) = compose(&begun(), &instance(), &run(Assessment::default()), None, &at(105));
    let gone = StepError::Cluster(ClusterError::Timeout(Duration::from_secs(15)));
    let (status, words, next) = compose(&good, &instance(), &Run::default(), Some(&gone), &at(300));
    assert_eq!(line(&status, "Reachable"), "False ClusterUnreachable: no answer from the API server within 15 s");
    assert!(line(&status, "Ready").starts_with("False ClusterUnreachable"));
    assert!(line(&status, "ControllersReady").starts_with("Unknown ClusterUnreachable"));
    assert!(line(&status, "Stalled").starts_with("False"));
    assert_eq!((words.len(), next), (1, Next::Backoff));
    // What was installed stays known, and history does not blame the bundle.
    assert_eq!((status.last_good, status.history[0].outcome), (good.last_good.clone(), Outcome::Succeeded));

    let wrong = StepError::Spec("spec.x: no".to_owned());
    let (status, _, next) = compose(&good, &instance(), &Run::default(), Some(&wrong), &at(300));
    assert_eq!(line(&status, "Stalled"), "True InvalidSpec: spec.x: no");
    assert!(line(&status, "Reconciling").starts_with("False"));
    assert_eq!(next, Next::Interval);
}

/// A step has 60 s. The cluster goes away in the middle of it, and comes back after an hour.
#[tokio::test]
async fn the_clock_of_a_step_begins_anew_when_the_cluster_is_back() {
    let key = unhealthy("x", Health::Current).remove(0).0;
    let waiting = || {
        let mut run = run(Assessment::default());
        run.applied = false;
        run.cluster = Some(Cluster::mute());
        run.plan = Some(plan());
        run.executed.waiting = Some((key.clone(), Health::InProgress("0 of 1".into())));
        run
    };
    let good = revision(&BundleRef { version: "2.8.8".to_owned(), digest: "sha256:a".to_owned() }, "b", &at(1));
    let old = FluxInstanceStatus { last_good: Some(good), ..begun() };
    let look = |old: &FluxInstanceStatus, run: &Run, error: Option<&StepError>, second| {
        compose(old, &instance(), run, error, &at(second)).0
    };
    let before = look(&old, &waiting(), None, 130);
    assert_eq!((line(&before, "Reachable").starts_with("True"), &before.held), (true, &None));
    let silent = StepError::Cluster(ClusterError::Timeout(Duration::from_secs(15)));
    let away = look(&before, &waiting(), Some(&silent), 150);
    assert!(line(&away, "Reachable").starts_with("False"));
    // It answers, and fails at something: nothing is known yet.
    let failed = StepError::Apply(vec![(key.clone(), ClusterError::Failed("no leader".to_owned()))]);
    let doubted = look(&away, &waiting(), Some(&failed), 3_700);
    assert_eq!((line(&doubted, "Reachable").starts_with("False"), &doubted.held), (true, &None));
    let back = look(&doubted, &waiting(), None, 3_750);
    assert_eq!((line(&back, "Reachable").starts_with("True"), &back.held), (true, &None));
    let later = look(&back, &waiting(), None, 3_809);
    assert_eq!(later.held, None);
    let over = look(&later, &waiting(), None, 3_811);
    assert!(over.held.is_some(), "{}", line(&over, "Ready"));
    // A single request that fails for as long stops no clock.
    assert!(look(&later, &waiting(), Some(&failed), 3_811).held.is_some());
}

#[test]
fn a_suspended_instance_keeps_its_last_word() {
    let (good, ..) = compose(&begun(), &instance(), &run(Assessment::default()), None, &at(105));
    let mut instance = instance();
    instance.spec.suspend = true;
    let (status, words, _) = compose(&good, &instance, &Run::default(), None, &at(300));
    assert_eq!(line(&status, "Ready"), line(&good, "Ready"));
    assert!(line(&status, "Reconciling").starts_with("False Suspended"));
    assert_eq!(words, []);
}

/// As Flux does it: the answer is for a pass that has looked, whatever it found, and not for one of a suspended object.
#[test]
fn who_asks_for_a_look_is_answered() {
    let mut asking = instance();
    asking.annotations_mut().insert(REQUESTED_AT.to_owned(), "now".to_owned());
    let mut suspended = asking.clone();
    suspended.spec.suspend = true;
    let failed = StepError::Spec("no".to_owned());
    let good = run(Assessment::default());
    for (what, instance, error, expected) in [
        ("nobody asks", &instance(), None, None),
        ("somebody asks", &asking, None, Some("now")),
        ("the look fails", &asking, Some(&failed), Some("now")),
        ("nothing is looked at", &suspended, None, None),
    ] {
        let (status, ..) = compose(&begun(), instance, &good, error, &at(105));
        assert_eq!(status.last_handled_reconcile_at.as_deref(), expected, "{what}");
    }
}
