//! Clusters that vanish, refuse us, or turn out to be others: what is said, what it costs, and that nothing of it reaches the rest.

use std::net::TcpListener;
use std::time::Duration;

use headwater_e2e::{Fault, Faults, Kind, Line, Proxy, kubeconfig};
use serde_json::{Value, json};

use crate::harness::{NEW, OLD, OPERATOR, SOON, Site, TOKENS, Tenant, eventually, holds, in_flux, shared_hub, spec};

/// How many clusters the operator counts in a state of the connection.
fn clusters(tenant: &Tenant<'_>, state: &str) -> usize {
    let (_, text) = tenant.page("/metrics").expect("the operator answers");
    let wanted = format!("headwater_clusters{{state=\"{state}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&wanted)?.parse().ok()).unwrap_or(0)
}

/// Waits for that count.
fn counts(tenant: &Tenant<'_>, state: &str, wanted: usize) {
    eventually(&format!("clusters that are {state}"), SOON, || {
        let found = clusters(tenant, state);
        holds(found == wanted, found)
    });
}

/// Open files and sockets of the operator, and its resident megabytes.
fn held(tenant: &Tenant<'_>) -> (usize, usize) {
    let process = std::path::PathBuf::from(format!("/proc/{}", tenant.pid()));
    let status = std::fs::read_to_string(process.join("status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kilobytes: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    (std::fs::read_dir(process.join("fd")).unwrap().count(), kilobytes / 1024)
}

fn version_of(tenant: &Tenant<'_>, instance: &str) -> Value {
    tenant.hub.must_get(&tenant.path(instance))["metadata"]["resourceVersion"].clone()
}

/// A cluster falls silent in the middle of an upgrade: its pass ends by a deadline, another cluster is upgraded meanwhile, nothing
/// is written about each probe, and when the cluster answers again the upgrade goes on though no object changed. Then it
/// refuses, which a broken watch brings to light.
#[test]
fn black_hole_in_the_middle_of_an_upgrade() {
    let targets = Site::start_many(Kind::Plain, 2);
    let [sick, healthy] = targets.as_slice() else { unreachable!() };
    let tenant = Tenant::new(shared_hub(), "black-hole");
    let faults = Faults::default();
    let proxy = Proxy::start(sick, &faults).unwrap();
    let mut wanted = tenant.remote("sick", sick, OLD);
    wanted["timeout"] = json!("10m");
    tenant.secret("sick-kubeconfig", "value", &proxy.kubeconfig(OPERATOR, TOKENS[0]));
    tenant.create("sick", &wanted);
    tenant.ready("sick");
    tenant.installed("healthy", healthy, OLD);
    counts(&tenant, "connected", 2);

    let upgrade = json!({"spec": {"distribution": {"version": NEW}}});
    faults.arm(6, Fault::Silence);
    tenant.patch("sick", &upgrade);
    eventually("a write without an answer", SOON, || faults.struck().ok_or_else(|| format!("{:?}", faults.count())));
    proxy.becomes(Line::Silent);
    tenant.patch("healthy", &upgrade);
    eventually("the other is upgraded", 14, || {
        let applied = tenant.status("healthy")["applied"]["version"].clone();
        holds(applied == NEW, applied)
    });
    let said = tenant.wait("sick", "Reachable", SOON, |c| c.status == "False");
    assert_eq!(said.reason, "ClusterUnreachable");
    assert!(said.message.contains("no answer from the API server within 15 s"), "{}", said.message);
    counts(&tenant, "backing_off", 1);
    assert_eq!(clusters(&tenant, "connected"), 1);

    // Probes go on; neither passes nor writes follow from them.
    let before = (version_of(&tenant, "sick"), tenant.passes("sick"), held(&tenant));
    std::thread::sleep(Duration::from_secs(10));
    let after = (version_of(&tenant, "sick"), tenant.passes("sick"), held(&tenant));
    assert_eq!((&before.0, before.1), (&after.0, after.1), "nothing new is said");
    assert!(after.2.0 <= before.2.0 + 2, "open files: {} before, {} after", before.2.0, after.2.0);
    assert_eq!(tenant.events("sick").iter().filter(|(reason, _)| reason == "ClusterUnreachable").count(), 1);

    proxy.becomes(Line::Open);
    tenant.wait("sick", "Ready", 90, |c| c.status == "True");
    assert_eq!(tenant.status("sick")["applied"]["version"], NEW);
    assert_eq!(tenant.condition("sick", "Reachable").unwrap().status, "True");
    counts(&tenant, "connected", 2);

    // A watch that breaks off is enough to find out.
    proxy.becomes(Line::Refused);
    let deployment = in_flux("deployments", "source-controller");
    sick.delete(&deployment);
    tenant.fails("sick", "ClusterUnreachable");
    counts(&tenant, "backing_off", 1);
    proxy.becomes(Line::Open);
    tenant.ready("sick");
    eventually("drift is repaired", SOON, || holds(sick.get(&deployment).is_some(), "it is not"));
}

/// Thirty dead clusters, half of which refuse connections and half of which accept and never answer: two live ones are
/// installed meanwhile, drift there is repaired, and the dead ones cost nothing that grows.
#[test]
fn thirty_dead_clusters_beside_two_live_ones() {
    let live = Site::start_many(Kind::Plain, 2);
    let tenant = Tenant::new(shared_hub(), "thirty-dead");
    // Nobody accepts from its queue; and a port that nobody listens at.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for number in 0..30 {
        let address = if number % 2 == 0 { silent.local_addr().unwrap() } else { closed };
        let dead = kubeconfig::with_token(&format!("https://{address}"), live[0].ca(), OPERATOR, TOKENS[0]);
        tenant.secret(&format!("dead-{number}"), "value", &dead);
        let mut wanted = spec(NEW);
        wanted["kubeConfig"] = json!({"secretRef": {"name": format!("dead-{number}")}});
        tenant.create(&format!("dead-{number}"), &wanted);
    }
    for (name, target) in ["one", "two"].iter().zip(&live) {
        let wanted = tenant.remote(name, target, NEW);
        tenant.create(name, &wanted);
    }
    tenant.ready("one");
    tenant.ready("two");
    for number in 0..30 {
        let said = tenant.fails(&format!("dead-{number}"), "ClusterUnreachable").message;
        let wanted = if number % 2 == 0 { "no answer from the API server within 6 s" } else { "onnection refused" };
        assert!(said.contains(wanted), "{said}");
    }
    counts(&tenant, "backing_off", 30);
    counts(&tenant, "connected", 2);
    let deployment = in_flux("deployments", "source-controller");
    live[0].delete(&deployment);
    eventually("drift is repaired", 8, || holds(live[0].get(&deployment).is_some(), "it is not"));

    // By now they are asked rarely.
    let before = (version_of(&tenant, "dead-0"), tenant.passes("dead-0"), held(&tenant));
    std::thread::sleep(Duration::from_secs(12));
    let after = (version_of(&tenant, "dead-0"), tenant.passes("dead-0"), held(&tenant));
    assert_eq!((&before.0, before.1), (&after.0, after.1), "nothing new is said");
    assert!(after.2.0 <= before.2.0 + 16, "open files: {} before, {} after", before.2.0, after.2.0);
    assert!(after.2.1 <= before.2.1 + 2, "megabytes: {} before, {} after", before.2.1, after.2.1);

    // Who is deleted is not asked any more.
    for number in 0..30 {
        tenant.delete(&format!("dead-{number}"));
    }
    for number in 0..30 {
        tenant.gone(&format!("dead-{number}"), SOON);
    }
    eventually("they are forgotten", 90, || {
        let left = clusters(&tenant, "backing_off");
        holds(left == 0, left)
    });
}

/// What answers at the same address with the same credentials becomes another cluster: an upgrade and an uninstall write nothing
/// there, and both go on when the Secret leads to the right one again.
#[test]
fn another_cluster_behind_the_same_address() {
    let targets = Site::start_many(Kind::Plain, 2);
    let [right, wrong] = targets.as_slice() else { unreachable!() };
    let tenant = Tenant::new(shared_hub(), "swapped");
    let faults = Faults::default();
    let proxy = Proxy::start(right, &faults).unwrap();
    let mut wanted = tenant.remote("a", right, OLD);
    wanted["deletionPolicy"] = json!("Uninstall");
    let through = proxy.kubeconfig(OPERATOR, TOKENS[0]);
    tenant.secret("a-kubeconfig", "value", &through);
    tenant.create("a", &wanted);
    tenant.ready("a");

    let mark = wrong.audit_mark();
    let untouched = || {
        assert_eq!(wrong.written_texts(mark), Vec::<String>::new());
        assert!(wrong.get("/api/v1/namespaces/flux-system").is_none());
    };
    proxy.lead_to(wrong).unwrap();
    tenant.patch("a", &json!({"spec": {"distribution": {"version": NEW}}}));
    let said = tenant.fails("a", "ClusterIdentityMismatch").message;
    let uid = |site: &Site| site.uid("/api/v1/namespaces/kube-system").unwrap();
    assert!(said.contains(&format!("is {}, was {}", uid(wrong), uid(right))), "{said}");
    counts(&tenant, "identity_changed", 1);
    assert_eq!(tenant.condition("a", "Reachable").unwrap().reason, "ClusterIdentityMismatch");
    tenant.poke("a");
    untouched();
    // Though the address is right again, only the Secret is believed.
    proxy.lead_to(right).unwrap();
    tenant.poke("a");
    assert_eq!(tenant.condition("a", "Ready").unwrap().reason, "ClusterIdentityMismatch");
    tenant.secret("a-kubeconfig", "value", &right.for_operator());
    tenant.ready("a");
    assert_eq!(tenant.status("a")["applied"]["version"], NEW);

    let asked = right.audit_mark();
    tenant.secret("a-kubeconfig", "value", &through);
    let is_contact = |e: &headwater_e2e::AuditEvent| e.user == OPERATOR && e.name == "kube-system";
    right.audit_wait(asked, Duration::from_secs(SOON), is_contact).unwrap();
    tenant.poke("a");
    tenant.ready("a");
    proxy.lead_to(wrong).unwrap();
    tenant.delete("a");
    let said = tenant.wait("a", "Ready", SOON, |c| c.status == "False");
    assert_eq!(said.reason, "ClusterIdentityMismatch");
    untouched();
    assert!(right.inventory().is_some(), "nothing is removed anywhere");
    tenant.secret("a-kubeconfig", "value", &right.for_operator());
    tenant.wait("a", "Ready", SOON, |c| c.reason == "Uninstalling");
    let deployment = right.get(&in_flux("deployments", "source-controller"));
    assert!(deployment.is_none_or(|d| d["metadata"]["deletionTimestamp"].is_string()), "it has begun");
    untouched();
}

/// Credentials that are revoked, replaced, and replaced again and again: each time the next pass uses the new ones, and nothing of
/// the old connections is left.
#[test]
fn credentials_come_and_go() {
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "come-and-go");
    tenant.installed("a", &target, NEW);
    target.revoke_token(TOKENS[0]).unwrap();
    tenant.patch("a", &json!({"metadata": {"annotations": {"look": "again"}}}));
    tenant.fails("a", "AuthFailed");
    counts(&tenant, "unauthorised", 1);
    let quiet = version_of(&tenant, "a");
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(version_of(&tenant, "a"), quiet, "a probe that says the same writes nothing");
    tenant.secret("a-kubeconfig", "value", &target.kubeconfig_with(OPERATOR, TOKENS[1]));
    tenant.wait("a", "Ready", 10, |c| c.status == "True");

    // What cannot be used at all waits for the Secret, and for nothing else.
    tenant.secret("a-kubeconfig", "value", "{}");
    tenant.fails("a", "KubeconfigRejected");
    counts(&tenant, "refused", 1);
    tenant.secret("a-kubeconfig", "value", &target.kubeconfig_with(OPERATOR, TOKENS[1]));
    tenant.wait("a", "Ready", 10, |c| c.status == "True");
    counts(&tenant, "connected", 1);

    let (files, _) = held(&tenant);
    for user in 0..30 {
        // The name of the user in the kubeconfig says nothing to the server: the content is another, the access the same.
        tenant.secret("a-kubeconfig", "value", &target.kubeconfig_with(&format!("operator-{user}"), TOKENS[1]));
        std::thread::sleep(Duration::from_millis(100));
    }
    tenant.poke("a");
    counts(&tenant, "connected", 1);
    tenant.ready("a");
    eventually("old connections are gone", SOON, || {
        let (now, _) = held(&tenant);
        holds(now <= files + 2, (files, now))
    });
    let deployment = in_flux("deployments", "source-controller");
    target.delete(&deployment);
    eventually("drift is repaired", 8, || holds(target.get(&deployment).is_some(), "it is not"));
}

/// Behind a balancer the API server is gone, so that every request is answered with 503: that is a cluster which cannot be reached, from
/// the start and in the middle of an upgrade, and it is asked ever more rarely. A single request that fails is none, and is tried on.
#[test]
fn a_balancer_that_answers_for_a_dead_api_server() {
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "balancer");
    let faults = Faults::default();
    let proxy = Proxy::start(&target, &faults).unwrap();
    proxy.becomes(Line::Failing);
    let wanted = tenant.remote("a", &target, OLD);
    tenant.secret("a-kubeconfig", "value", &proxy.kubeconfig(OPERATOR, TOKENS[0]));
    tenant.create("a", &wanted);
    let said = tenant.wait("a", "Reachable", SOON, |c| c.status == "False");
    assert_eq!((said.reason.as_str(), said.message.contains("the API server failed")), ("ClusterUnreachable", true));
    counts(&tenant, "backing_off", 1);
    let before = (version_of(&tenant, "a"), tenant.passes("a"));
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!((version_of(&tenant, "a"), tenant.passes("a")), before, "nothing new is said");
    proxy.becomes(Line::Open);
    tenant.ready("a");

    // One write fails for longer than it is tried within a pass.
    faults.arm(6, Fault::Refuse { code: 500, retry_after: None, times: 12 });
    tenant.patch("a", &json!({"spec": {"distribution": {"version": NEW}}}));
    tenant.fails("a", "ReconciliationFailed");
    tenant.ready("a");
    let reachable = tenant.condition("a", "Reachable").unwrap();
    assert_eq!((reachable.status.as_str(), tenant.status("a")["applied"]["version"].as_str()), ("True", Some(NEW)));
    let lost = tenant.events("a").iter().filter(|(reason, _)| reason == "ClusterUnreachable").count();

    faults.arm(4, Fault::refuse(503));
    tenant.patch("a", &json!({"spec": {"distribution": {"version": OLD}, "upgrade": {"allowDowngrade": true}}}));
    eventually("a change is under way", SOON, || faults.struck().ok_or_else(|| format!("{:?}", faults.count())));
    proxy.becomes(Line::Failing);
    tenant.wait("a", "Reachable", SOON, |c| c.status == "False" && c.reason == "ClusterUnreachable");
    counts(&tenant, "backing_off", 1);
    assert_eq!(tenant.events("a").iter().filter(|(reason, _)| reason == "ClusterUnreachable").count(), lost + 1);
    proxy.becomes(Line::Open);
    tenant.wait("a", "Ready", 90, |c| c.status == "True");
    assert_eq!(tenant.status("a")["applied"]["version"], OLD);
}
