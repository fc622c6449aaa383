//! Install, no-op, upgrade, prune, restart.

use std::collections::BTreeSet;

use headwater::api::REQUESTED_AT;
use headwater_e2e::Kind;
use serde_json::{Value, json};

use crate::harness::{
    NEW, OBJECTS, OLD, SOON, Site, Tenant, crd, eventually, headwater, holds, in_flux, shared_hub, spec, text_of, world,
};

/// The hub manages itself: install in the right order, everything healthy and recorded; then neither another pass nor
/// another operator writes anything at all.
#[test]
fn hub_installs_itself_and_then_writes_nothing() {
    let hub = Site::hub(Kind::Full);
    let tenant = Tenant::new(&hub, "headwater-system");
    let start = hub.audit_mark();
    let mut wanted = spec(NEW);
    wanted["wait"] = json!(true);
    tenant.create("flux", &wanted);
    let ready = tenant.ready("flux");
    assert_eq!(ready.message, format!("Flux {NEW} is installed and healthy"));

    // What is said.
    let status = tenant.status("flux");
    assert_eq!(status["objects"], OBJECTS);
    assert_eq!(status["applied"]["version"], NEW);
    assert_eq!(status["applied"]["digest"], world().digests[NEW].as_str());
    assert_eq!(status["lastGood"]["digest"], world().digests[NEW].as_str());
    let history = status["history"].as_array().unwrap();
    assert_eq!(history.len(), 1, "{history:?}");
    assert_eq!(history[0]["outcome"], "Succeeded");
    assert_eq!(history[0]["digest"], world().digests[NEW].as_str());
    assert!(history[0]["finished"].is_string());
    for (type_, expected) in
        [("Reachable", "True"), ("ControllersReady", "True"), ("Reconciling", "False"), ("Stalled", "False")]
    {
        assert_eq!(tenant.condition("flux", type_).unwrap().status, expected, "{type_}");
    }
    assert!(status["components"].as_array().unwrap().iter().all(|c| c["ready"] == true), "{}", status["components"]);
    let begun = tenant.event("flux", "Progressing");
    assert_eq!(begun, format!("installing {NEW} ({}): {OBJECTS} to create, 0 unchanged", world().digests[NEW]));
    tenant.event("flux", "ReconciliationSucceeded");
    let table = hub.kubectl(&["get", "hwi", "-n", "headwater-system"]).unwrap();
    let (head, row) = table.split_once('\n').unwrap();
    let columns: Vec<&str> = head.split_whitespace().collect();
    assert_eq!(columns, ["NAME", "READY", "VERSION", "SINCE", "STATUS", "AGE"]);
    for cell in ["flux", "True", NEW, "Flux 2.9.4 is installed and healthy"] {
        assert!(row.contains(cell), "{row}");
    }

    // What is recorded, and when: before everything but the namespace it is in.
    assert_eq!(hub.inventory_uids().len(), OBJECTS);
    let writes = hub.written_texts(start);
    let first = |wanted: &str| {
        writes.iter().position(|w| w.starts_with(wanted)).unwrap_or_else(|| panic!("{wanted}: {writes:#?}"))
    };
    let last = |wanted: &str| writes.iter().rposition(|w| w.starts_with(wanted)).unwrap();
    assert_eq!(first("patch namespaces flux-system"), 0, "{writes:#?}");
    assert_eq!(writes[1], "create configmaps flux-system/headwater-inventory", "{writes:#?}");
    assert_eq!(first("update configmaps flux-system/headwater-inventory"), writes.len() - 1, "{writes:#?}");
    assert!(last("patch customresourcedefinitions") < first("patch services"), "{writes:#?}");
    assert!(last("patch services") < first("patch deployments"), "{writes:#?}");
    assert!(last("patch clusterroles ") < first("patch clusterrolebindings"), "{writes:#?}");
    let objects: BTreeSet<&String> = writes.iter().filter(|w| w.starts_with("patch")).collect();
    assert_eq!(objects.len(), OBJECTS, "each object once: {writes:#?}");
    assert_eq!(writes.len(), OBJECTS + 2, "nothing else: {writes:#?}");

    // Another pass, then another operator: reads only, on instance and cluster alike, but for the answer to who asked.
    let answer = "patch fluxinstances/status headwater-system/flux";
    let mark = hub.audit_mark();
    tenant.poke("flux");
    tenant.poke("flux");
    let asked = hub.asked(mark);
    let writes: Vec<String> = asked.iter().filter(|e| e.writes()).map(text_of).collect();
    assert_eq!(writes, [answer; 2]);
    assert!(asked.len() <= 6, "a pass over what watches show asks for next to nothing: {asked:#?}");
    let mark = hub.audit_mark();
    assert!(tenant.stop().contains("exit status: 0"));
    tenant.start();
    eventually("a pass of the new operator", SOON, || holds(tenant.passes("flux") > 0, ()));
    tenant.poke("flux");
    let writes: Vec<String> = hub.asked(mark).iter().filter(|e| e.writes()).map(text_of).collect();
    assert_eq!(writes, [answer]);
    assert_eq!(tenant.said("flux"), status, "the status says the same, to the second");
}

/// A remote cluster is managed like the hub: installed completely, and a second pass or operator writes nothing there.
#[test]
fn remote_cluster_second_pass_writes_nothing() {
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "noop");
    tenant.installed("a", &target, NEW);
    let status = tenant.status("a");
    assert_eq!(status["objects"], OBJECTS);
    assert_eq!(target.inventory_uids().len(), OBJECTS);
    let system = target.uid("/api/v1/namespaces/kube-system").unwrap();
    assert_eq!(status["cluster"]["uid"], system.as_str());

    let (there, here) = (target.audit_mark(), tenant.hub.audit_mark());
    tenant.poke("a");
    let asked = target.asked(there);
    assert!(asked.iter().all(|e| !e.writes()), "{asked:#?}");
    assert!(asked.len() <= 16, "one list for each kind that is not watched: {asked:#?}");
    tenant.stop();
    tenant.start();
    eventually("a pass of the new operator", SOON, || holds(tenant.passes("a") > 0, ()));
    tenant.poke("a");
    assert_eq!(target.written_texts(there), Vec::<String>::new());
    let writes: Vec<String> =
        tenant.hub.asked(here).iter().filter(|e| e.writes() && e.namespace == "noop").map(text_of).collect();
    assert_eq!(writes, ["patch fluxinstances/status noop/a"; 2], "the answers to who asked");
}

fn plural(kind: &str) -> String {
    match kind {
        "NetworkPolicy" => "networkpolicies".to_owned(),
        kind => format!("{}s", kind.to_lowercase()),
    }
}

/// The version is edited: `headwater diff` shows beforehand exactly what the API server then sees written, and nothing after.
#[test]
fn upgrade_does_what_diff_showed() {
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "upgrade");
    tenant.installed("a", &target, OLD);
    let uid_before = target.uid(&crd("gitrepositories.source.toolkit.fluxcd.io"));

    let mut wanted = tenant.remote("a", &target, NEW);
    wanted["distribution"]["version"] = json!(NEW);
    let file = tenant.file("wanted.yaml", &tenant.object("a", &wanted).to_string());
    let kubeconfig = tenant.kubeconfig();
    let mark = target.audit_mark();
    let diff =
        |args: &[&str]| headwater(&[&["diff", "-f", file.as_str()], args].concat(), &[("KUBECONFIG", &kubeconfig)]);
    let shown = diff(&["-o", "json"]);
    assert_eq!(shown.code, 1, "{shown:?}");
    let plan: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(plan["bundle"]["digest"], world().digests[NEW].as_str());
    let table = diff(&[]);
    assert_eq!(table.code, 1, "{table:?}");
    assert!(table.stdout.contains("~ Deployment flux-system/source-controller"), "{}", table.stdout);
    assert_eq!(target.written_texts(mark), Vec::<String>::new(), "diff writes nothing");
    let expected: BTreeSet<String> = plan["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| {
            let text = |field: &str| {
                step.get(field).or(step["key"].get(field)).and_then(|v| v.as_str()).unwrap_or_default().to_owned()
            };
            let verb = if step["action"] == "apply" { "patch" } else { "delete" };
            let place = match text("namespace").as_str() {
                "" => text("name"),
                namespace => format!("{namespace}/{}", text("name")),
            };
            format!("{verb} {} {place}", plural(&text("kind")))
        })
        .collect();
    assert!(expected.len() > 10, "{plan:#}");

    let mark = target.audit_mark();
    tenant.patch("a", &json!({"spec": {"distribution": {"version": NEW}}}));
    tenant.wait("a", "Ready", SOON, |c| c.status == "True" && c.message.contains(NEW));
    let writes = target.written_texts(mark);
    let objects: BTreeSet<String> = writes.iter().filter(|w| !w.contains("headwater-inventory")).cloned().collect();
    assert_eq!(objects, expected);
    assert_eq!(writes.len(), expected.len() + 2, "each once, and the inventory before and after: {writes:#?}");

    let after = diff(&[]);
    assert_eq!(after.code, 0, "{after:?}");
    assert!(after.stdout.contains("plan     32 unchanged"), "{}", after.stdout);
    let status = tenant.status("a");
    let history: Vec<(&str, &str)> = status["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|h| (h["version"].as_str().unwrap(), h["digest"].as_str().unwrap()))
        .collect();
    assert_eq!(history, [(NEW, world().digests[NEW].as_str()), (OLD, world().digests[OLD].as_str())]);
    let note = tenant.events("a").into_iter().filter(|(r, _)| r == "Progressing").map(|(_, n)| n).next_back().unwrap();
    assert!(note.starts_with(&format!("from {OLD} to {NEW}")), "{note}");
    assert_eq!(target.uid(&crd("gitrepositories.source.toolkit.fluxcd.io")), uid_before, "CRDs are never recreated");
}

/// A range moves by itself to a newer version that appears in the repository.
#[test]
fn range_follows_the_repository() {
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "range");
    world().push(OLD, "moving/flux");
    let mut wanted = tenant.remote("a", &target, "2.x");
    wanted["distribution"]["artifact"] = json!(world().repository("moving/flux"));
    wanted["interval"] = json!("30s");
    tenant.create("a", &wanted);
    tenant.ready("a");
    assert_eq!(tenant.status("a")["applied"]["version"], OLD);
    let digest = world().push(NEW, "moving/flux");
    eventually("the new version is applied", 60, || {
        let status = tenant.status("a");
        let version = status["lastGood"]["version"].clone();
        let applied = status["applied"].clone();
        holds(applied["version"] == NEW && applied["digest"] == digest.as_str(), (version, applied))
    });
    let status = tenant.status("a");
    assert_eq!(status["history"][1]["version"], OLD);
    assert_eq!(status["history"][0]["outcome"], "Succeeded");
}

/// Who asks for a look, as one asks Flux, has it at once and is answered: an instance and a fleet both ask the repository anew.
#[test]
fn who_asks_for_a_look_has_it_at_once() {
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "asked");
    world().push(OLD, "asked/flux");
    let mut wanted = tenant.remote("a", &target, "2.x");
    wanted["distribution"]["artifact"] = json!(world().repository("asked/flux"));
    wanted["interval"] = json!("24h");
    tenant.create("a", &wanted);
    // Another way to say the same, so that what is known for one is not known for the other.
    let mut distribution = wanted["distribution"].clone();
    distribution["version"] = json!("^2.0");
    let spec = json!({"distribution": distribution, "interval": "24h", "selector": {}, "stages": [{"name": "all", "selector": {}}]});
    let fleets = "/apis/headwater.dev/v1alpha1/namespaces/asked/fluxfleets";
    shared_hub().create(
        fleets,
        &json!({"apiVersion": "headwater.dev/v1alpha1", "kind": "FluxFleet", "metadata": {"name": "all"}, "spec": spec}),
    );
    let status = || shared_hub().must_get(&format!("{fleets}/all"))["status"].clone();
    eventually("the fleet has a target", SOON, || holds(status()["target"]["version"] == OLD, status()));
    tenant.ready("a");

    world().push(NEW, "asked/flux");
    let annotation = json!({"metadata": {"annotations": {REQUESTED_AT: "now"}}});
    shared_hub().merge(&format!("{fleets}/all"), &annotation);
    eventually("the fleet answers", SOON, || holds(status()["lastHandledReconcileAt"] == "now", status()));
    assert_eq!(status()["target"]["version"], NEW);
    assert_eq!(tenant.status("a")["applied"]["version"], OLD, "nobody has asked for this one");
    tenant.poke("a");
    assert_eq!(tenant.status("a")["attempted"]["version"], NEW);
}

const ALERTS: &str = "/apis/notification.toolkit.fluxcd.io/v1beta3/namespaces/default/alerts";

/// A component that is removed takes its objects along, but not a CRD of which objects live, until they are gone; objects
/// of other components and those of others that took a name over are not touched.
#[test]
fn removed_component_is_pruned_but_its_living_crd_kept() {
    let target = Site::start(Kind::Full);
    let tenant = Tenant::new(shared_hub(), "prune");
    tenant.installed("a", &target, NEW);
    let alert = json!({
        "apiVersion": "notification.toolkit.fluxcd.io/v1beta3", "kind": "Alert", "metadata": {"name": "mine"},
        "spec": {"providerRef": {"name": "p"}, "eventSources": [{"kind": "GitRepository", "name": "*"}]},
    });
    target.create(ALERTS, &alert);
    // Somebody replaces a Service of ours by one of their own while nobody looks.
    tenant.kill();
    let service = in_flux("services", "webhook-receiver");
    target.delete(&service);
    let theirs = json!({"metadata": {"name": "webhook-receiver"}, "spec": {"ports": [{"port": 80}]}});
    let theirs = target.create("/api/v1/namespaces/flux-system/services", &theirs)["metadata"]["uid"].clone();

    let before = target.inventory_uids_without(&["Service/webhook-receiver"]);
    let mark = target.audit_mark();
    tenant
        .patch("a", &json!({"spec": {"components": ["source-controller", "kustomize-controller", "helm-controller"]}}));
    tenant.start();
    // CRDs would go: that waits for a word, and nothing else is deleted before it.
    let blocked = tenant.fails("a", "PruneBlocked");
    assert!(
        blocked.message.starts_with("6 of 32 objects are to be deleted (Deployment flux-system/notification-controller and 5 more); everything else is done. "),
        "{}",
        blocked.message
    );
    assert!(target.written_texts(mark).iter().all(|w| !w.starts_with("delete")));
    let word = blocked.message.rsplit(' ').next().unwrap().trim_end_matches('`');
    let env = [("KUBECONFIG", tenant.kubeconfig())];
    let env: Vec<(&str, &str)> = env.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let confirm = |word: &str| headwater(&["confirm", "a", "-n", "prune", "--plan", word], &env);
    let wrong = confirm("sha256:0");
    assert_eq!(wrong.code, 2, "{wrong:?}");
    assert!(wrong.stderr.starts_with("error: a waits for another word, not for sha256:0: 6 of "), "{}", wrong.stderr);
    let given = confirm(word);
    assert_eq!(given.code, 0, "{given:?}");
    tenant.ready("a");
    assert_eq!(confirm(word).code, 2, "nothing waits any more");
    let kept = tenant.event("a", "Kept");
    assert_eq!(
        kept,
        "CustomResourceDefinition alerts.notification.toolkit.fluxcd.io was not deleted: objects of this CRD exist"
    );
    assert!(target.get(&in_flux("deployments", "notification-controller")).is_none());
    assert!(target.get(&crd("providers.notification.toolkit.fluxcd.io")).is_none());
    assert!(target.get(&crd("receivers.notification.toolkit.fluxcd.io")).is_none());
    assert!(target.get(&crd("alerts.notification.toolkit.fluxcd.io")).is_some());
    assert_eq!(target.must_get(&service)["metadata"]["uid"], theirs, "it is somebody else's now");
    eventually("the inventory forgets what is gone", SOON, || {
        let stored = target.inventory().unwrap().to_string();
        holds(!stored.contains("receivers.notification") && !stored.contains("providers.notification"), stored)
    });
    let deleted: Vec<String> = target.written_texts(mark).into_iter().filter(|w| w.starts_with("delete")).collect();
    assert!(deleted.iter().all(|d| d.contains("notification")), "only what belongs to it: {deleted:#?}");
    let after = target.inventory_uids();
    assert!(after.iter().all(|(key, uid)| before.get(key) == Some(uid)), "all others are the same objects");
    assert!(after.contains_key("CustomResourceDefinition/alerts.notification.toolkit.fluxcd.io"));

    // As long as it is kept, nothing is written, and it is said once.
    let (there, here) = (target.audit_mark(), tenant.hub.audit_mark());
    tenant.poke("a");
    assert_eq!(target.written_texts(there), Vec::<String>::new());
    let said: Vec<String> =
        tenant.hub.asked(here).iter().filter(|e| e.writes() && e.namespace == "prune").map(text_of).collect();
    assert_eq!(said, ["patch fluxinstances/status prune/a"], "the answer to who asked");

    target.delete(&format!("{ALERTS}/mine"));
    tenant.poke("a");
    eventually("the CRD goes with its last object", SOON, || {
        holds(target.get(&crd("alerts.notification.toolkit.fluxcd.io")).is_none(), "it is there")
    });
    eventually("the inventory forgets it", SOON, || {
        let uids = target.inventory().unwrap().to_string();
        holds(!uids.contains("alerts.notification"), "it does not")
    });
}

/// An operator that is killed at any moment of an install, and started again, ends where an undisturbed one does.
#[test]
fn killed_operator_converges() {
    let targets = Site::start_many(Kind::Plain, 3);
    let tenant = Tenant::new(shared_hub(), "killed");
    for (target, writes) in targets.iter().zip([1, 9, 26]) {
        let name = format!("after-{writes}");
        let mark = target.audit_mark();
        let spec = tenant.remote(&name, target, NEW);
        tenant.create(&name, &spec);
        let patience = std::time::Instant::now();
        loop {
            let seen = target.audit(mark).unwrap().iter().filter(|e| e.user == "operator" && e.writes()).count();
            if seen >= writes {
                break;
            }
            assert!(patience.elapsed().as_secs() < SOON, "{seen} writes");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        tenant.kill();
        tenant.start();
        tenant.ready(&name);
        assert_eq!(target.inventory_uids().len(), OBJECTS, "{name}");
        assert_eq!(tenant.status(&name)["objects"], OBJECTS, "{name}");
        assert_eq!(tenant.status(&name)["history"].as_array().unwrap().len(), 1, "{name}: one change, one entry");
        let labelled =
            target.must_get("/apis/apps/v1/deployments?labelSelector=headwater.dev%2Finstallation%3Dflux-system");
        assert_eq!(labelled["items"].as_array().unwrap().len(), 4, "{name}");
        let mark = target.audit_mark();
        tenant.poke(&name);
        assert_eq!(target.written_texts(mark), Vec::<String>::new(), "{name}");
    }
}

/// Suspended means left alone: neither drift nor a new version leads to a write, until it is resumed.
#[test]
fn suspended_instance_is_left_alone() {
    let target = Site::start(Kind::Plain);
    let tenant = Tenant::new(shared_hub(), "suspended");
    tenant.installed("a", &target, OLD);
    tenant.patch("a", &json!({"spec": {"suspend": true}}));
    let said = tenant.wait("a", "Reconciling", SOON, |c| c.reason == "Suspended");
    assert_eq!(said.message, "spec.suspend is true: nothing is written to the cluster");
    let mark = target.audit_mark();
    target.delete(&in_flux("deployments", "source-controller"));
    tenant.patch("a", &json!({"spec": {"distribution": {"version": NEW}}}));
    tenant.wait("a", "Reconciling", SOON, |c| c.reason == "Suspended");
    let passes = tenant.passes("a");
    let asked = json!({"metadata": {"annotations": {REQUESTED_AT: "now"}}});
    tenant.patch("a", &asked);
    eventually("one more pass", SOON, || holds(tenant.passes("a") > passes, passes));
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(target.written_texts(mark), Vec::<String>::new());
    assert_eq!(tenant.status("a")["lastHandledReconcileAt"], Value::Null, "it was not looked at");
    tenant.patch("a", &json!({"spec": {"suspend": false}}));
    tenant.wait("a", "Ready", SOON, |c| c.status == "True" && c.message.contains(NEW));
    assert_eq!(target.inventory_uids().len(), OBJECTS);
}
