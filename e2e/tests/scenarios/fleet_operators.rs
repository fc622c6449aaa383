//! A fleet with several operators: one takes over from the other in the middle, and shards share the clusters of one fleet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use headwater_e2e::AuditMark;
use headwater_e2e::fakes::{Fakes, Options};
use serde_json::json;

use crate::fleet_bed::{Fleet, PATIENCE};
use crate::harness::{NEW, OLD, OPERATOR, RIVAL, Tenant, eventually, holds, shared_hub};

/// Another operator for the same namespace, on the same way to the hub, as another user.
fn second<'a>(fleet: &Fleet<'a>) -> Tenant<'a> {
    let (user, token) = RIVAL;
    Tenant::without_operator(fleet.tenant.hub, &fleet.tenant.namespace, &fleet.hub.kubeconfig(user, token))
}

/// Who wrote a fleet or an instance of this namespace since then, and which, in the order in which the hub answered.
fn written(fleet: &Fleet<'_>, since: AuditMark) -> Vec<(String, String)> {
    let is_meant = |e: &headwater_e2e::AuditEvent| {
        let is_ours = [OPERATOR, RIVAL.0].contains(&e.user.as_str()) && e.namespace == fleet.tenant.namespace;
        is_ours && e.writes() && e.code == 200 && ["fluxfleets", "fluxinstances"].contains(&e.resource.as_str())
    };
    let all = fleet.tenant.hub.settled(since).into_iter().filter(is_meant);
    all.map(|e| (e.user, format!("{}/{}", e.resource, e.name))).collect()
}

const CLUSTERS: usize = 60;
const CANARIES: usize = 6;
const AT_ONCE: usize = 6;

/// Sixty clusters, two operators: the leader ends in the middle, and the one that took over is killed in the middle. Each cluster is
/// admitted once, no more at a time than may be, no stage before its turn; two never write side by side; and nobody who was not on
/// the way at these moments is written to again.
#[test]
fn leaders_change_in_the_middle_of_sixty_clusters() {
    let fakes = Fakes::start(&Options { clusters: CLUSTERS, ..Options::default() }).unwrap();
    let fleet = Fleet::without_operator("fleet-handover", 0, &json!({}));
    let since = shared_hub().audit_mark();
    let (first, second) = (&fleet.tenant, second(&fleet));
    // So much work on a busy machine must not cost a lease by itself.
    let candidate = |name: &'static str| ["--lease-duration", "12", "--identity", name];
    first.start_with(&candidate("first"));
    second.start_with(&candidate("second"));
    for number in 0..CLUSTERS {
        let ring = if number < CANARIES { "canary" } else { "rest" };
        fleet.add(fakes.name(number), &fakes.kubeconfig(number), &json!({"ring": ring}), &json!({}));
    }
    let selector = json!({"matchLabels": {"ring": "canary"}});
    let stages = json!([
        {"name": "canary", "selector": selector, "concurrency": AT_ONCE},
        {"name": "rest", "concurrency": AT_ONCE},
    ]);
    fleet.create(NEW, &stages, &json!({}));
    let admitted = |wanted: usize| {
        eventually(&format!("{wanted} are admitted"), PATIENCE, || {
            let count = fleet.admissions().len();
            holds(count >= wanted, count)
        });
    };
    admitted(15);
    let how = first.stop();
    assert!(how.contains("exit status: 0"), "{how}");
    first.start_with(&candidate("first"));
    admitted(35);
    second.kill();
    assert!(fleet.admissions().len() < CLUSTERS, "it was in the middle");
    let status = fleet.reaches("Complete", NEW);
    assert_eq!((&status["progress"], &status["counts"]["failed"]), (&json!("60/60"), &json!(0)), "{status:#}");

    let all = fleet.admitted();
    let names: BTreeSet<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((all.len(), names.len()), (CLUSTERS, CLUSTERS), "each is admitted once");
    let under_way = fleet.under_way();
    assert!(under_way.iter().all(|moving| moving.len() <= AT_ONCE), "{under_way:?}");
    let is_canary = |name: &String| (0..CANARIES).any(|number| fakes.name(number) == name);
    for moving in &under_way {
        let canaries = moving.iter().filter(|name| is_canary(name)).count();
        assert!(canaries == 0 || canaries == moving.len(), "two stages at once: {moving:?}");
    }
    let mut leaders: Vec<String> = written(&fleet, since).into_iter().map(|(user, _)| user).collect();
    leaders.dedup();
    assert_eq!(leaders, [OPERATOR, RIVAL.0, OPERATOR], "who leads writes, and nobody else");

    let writes: Vec<u32> = (0..CLUSTERS).map(|number| fakes.counts(number).writes).collect();
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for count in &writes {
        *counts.entry(*count).or_default() += 1;
    }
    let (usual, often) = counts.iter().max_by_key(|(_, often)| **often).unwrap();
    // Those that the one left behind, and those that the other did.
    assert!(CLUSTERS - often <= 2 * AT_ONCE, "so many writes on so many clusters: {counts:?}");
    assert!(counts.keys().all(|count| count >= usual), "so many writes on so many clusters: {counts:?}");
}

/// The clusters of a fleet belong to two shards. The operator without a shard plans for all of them; who has the cluster moves it. A
/// stage and its places hold across shards, and while nobody plans nobody moves.
#[test]
fn one_fleet_over_two_shards() {
    let fakes =
        Fakes::start(&Options { clusters: 3, rollout: Duration::from_millis(300), ..Options::default() }).unwrap();
    let fleet = Fleet::without_operator("fleet-shards", 0, &json!({}));
    fleet.run();
    let east = second(&fleet);
    east.start_with(&["--shard", "east"]);
    let since = shared_hub().audit_mark();
    let names = [0, 1, 2].map(|number: usize| fakes.name(number));
    for (number, (ring, shard)) in [("canary", "east"), ("rest", ""), ("rest", "east")].iter().enumerate() {
        let labels = json!({"ring": ring, "headwater.dev/shard": shard});
        fleet.add(names[number], &fakes.kubeconfig(number), &labels, &json!({}));
    }
    let selector = json!({"matchLabels": {"ring": "canary"}});
    let stages = json!([{"name": "canary", "selector": selector}, {"name": "rest", "concurrency": 1}]);
    fleet.create(OLD, &stages, &json!({}));
    let status = fleet.reaches("Complete", OLD);
    assert_eq!(status["progress"], "3/3", "{status:#}");

    fleet.tenant.kill();
    fleet.target(NEW);
    east.poke(names[0]);
    let applied = || names.map(|name| fleet.tenant.status(name)["applied"]["version"].clone());
    assert_eq!((fleet.admissions(), applied()), (vec![], [OLD; 3].map(|version| json!(version))), "nobody plans");
    fleet.run();
    fleet.reaches("Complete", NEW);
    assert_eq!(applied(), [NEW; 3].map(|version| json!(version)));
    assert_eq!(fleet.admissions(), names.map(|name| format!("{name} {NEW}")));
    assert_eq!(fleet.under_way(), names.map(|name| [name]), "each when the one before was done, whoever has it");

    let written = written(&fleet, since);
    let of = |user: &str, name: &str| {
        let object = format!("fluxinstances/{name}");
        written.iter().filter(|(who, what)| who == user && *what == object).count()
    };
    let [canary, other, last] = names;
    assert_eq!(of(RIVAL.0, other), 0, "{written:?}");
    assert!(!written.contains(&(RIVAL.0.to_owned(), "fluxfleets/prod".to_owned())), "{written:?}");
    for mine in [canary, last] {
        // An admission to each of the two versions.
        assert_eq!(of(OPERATOR, mine), 2, "{written:?}");
        assert!(of(RIVAL.0, mine) > 2, "{written:?}");
    }
    let (_, metrics) = east.page("/metrics").unwrap();
    assert!(!metrics.contains("headwater_fleet_clusters{"), "who does not plan counts no fleets: {metrics}");
}
