//! Clusters that are found by their kubeconfigs become instances, and stay when these go.

use headwater_e2e::{Fault, Faults, Proxy};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::fleet::Members;
use crate::harness::{NEW, OLD, OPERATOR, SOON, TOKENS, Tenant, eventually, holds, shared_hub, spec};

fn fleet_path(tenant: &Tenant<'_>) -> String {
    format!("/apis/headwater.dev/v1alpha1/namespaces/{}/fluxfleets/found", tenant.namespace)
}

fn fleet(tenant: &Tenant<'_>, discover: &Value) -> Value {
    json!({
        "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxFleet",
        "metadata": {"name": "found", "namespace": tenant.namespace},
        "spec": {
            "selector": {}, "distribution": spec(NEW)["distribution"],
            "stages": [{"name": "canary", "selector": {"matchLabels": {"ring": "canary"}}}, {"name": "rest"}],
            "discover": discover,
        },
    })
}

fn create(tenant: &Tenant<'_>, discover: &Value) -> Result<(), String> {
    let path = fleet_path(tenant);
    let path = format!("{}?fieldValidation=Strict", path.trim_end_matches("/found"));
    let object = fleet(tenant, discover);
    tenant.hub.request("POST", &path, Some(("application/json", &object))).map(drop).map_err(|(_, text)| text)
}

/// The Secret that Cluster API makes for a cluster.
fn cluster(tenant: &Tenant<'_>, name: &str, labels: &Value, kubeconfig: &str) {
    let mut object = json!({
        "metadata": {"name": format!("{name}-kubeconfig"), "labels": {"cluster.x-k8s.io/cluster-name": name}},
        "type": "cluster.x-k8s.io/secret", "stringData": {"value": kubeconfig},
    });
    json_patch::merge(&mut object["metadata"]["labels"], labels);
    tenant.hub.create(&format!("/api/v1/namespaces/{}/secrets", tenant.namespace), &object);
}

fn discovered(tenant: &Tenant<'_>, reason: &str) -> String {
    eventually(&format!("Discovered: {reason}"), SOON, || {
        let object = tenant.hub.must_get(&fleet_path(tenant));
        let list = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = list.into_iter().find(|c| c["type"] == "Discovered").unwrap_or_default();
        let message = found["message"].as_str().unwrap_or_default().to_owned();
        if found["reason"] == reason { Ok(message) } else { Err(object["status"].to_string()) }
    })
}

/// Secrets appear: instances are made, admitted and installed. What is said elsewhere stays, what the template says is followed, names of
/// others are respected; a Secret that goes takes nothing with it, and neither does the fleet.
#[test]
fn clusters_are_found_and_never_lost() {
    let members = Members::start(2);
    let sites = &members.sites;
    let tenant = Tenant::new(shared_hub(), "discover");
    let template = json!({"metadata": {"labels": {"env": "prod"}}, "spec": {"distribution": spec("2.x")["distribution"], "wait": false, "interval": "5m"}});
    create(&tenant, &json!({"clusterAPI": {}, "template": template})).unwrap();
    cluster(&tenant, "a", &json!({"ring": "canary"}), &sites[0].for_operator());
    cluster(&tenant, "b", &json!({}), &sites[1].for_operator());
    for name in ["a", "b"] {
        eventually(&format!("{name} is made"), SOON, || holds(tenant.hub.get(&tenant.path(name)).is_some(), ()));
        tenant.ready(name);
        assert_eq!(tenant.status(name)["admitted"]["by"], "found");
        assert_eq!(tenant.status(name)["applied"]["version"], NEW);
    }
    let object = tenant.hub.must_get(&tenant.path("a"));
    assert_eq!(object["metadata"]["labels"]["ring"], "canary", "{object:#}");
    assert_eq!((&object["spec"]["admission"], &object["spec"]["interval"]), (&json!("Fleet"), &json!("5m")));
    assert_eq!(object["metadata"]["ownerReferences"], Value::Null);
    discovered(&tenant, "Discovered");

    // The template is followed, what leaves it is let go, and what others say stays.
    tenant.patch("a", &json!({"spec": {"timeout": "7m"}}));
    tenant.hub.merge(
        &fleet_path(&tenant),
        &json!({"spec": {"discover": {"template": {"spec": {"interval": null, "drift": {"mode": "Warn"}}}}}}),
    );
    eventually("the template is applied", SOON, || {
        let spec = tenant.hub.must_get(&tenant.path("a"))["spec"].clone();
        holds(spec["drift"]["mode"] == "Warn" && spec["interval"] == "10m" && spec["timeout"] == "7m", spec)
    });

    // The name of another's instance.
    let mut mine = spec(OLD);
    mine["suspend"] = json!(true);
    tenant.create("c", &mine);
    cluster(&tenant, "c", &json!({}), "nothing");
    let message = discovered(&tenant, "NameTaken");
    assert!(message.contains("FluxInstance c") && message.contains("left alone"), "{message}");
    assert_eq!(tenant.hub.must_get(&tenant.path("c"))["spec"]["kubeConfig"], Value::Null);
    let secrets = format!("/api/v1/namespaces/{}/secrets", tenant.namespace);
    tenant.hub.delete(&format!("{secrets}/c-kubeconfig"));
    discovered(&tenant, "Discovered");

    // A Secret goes: the instance stays, says so, and can no longer be reached. It comes back: all is as before.
    tenant.hub.delete(&format!("{secrets}/b-kubeconfig"));
    let annotation = |name: &str| {
        tenant.hub.must_get(&tenant.path(name))["metadata"]["annotations"]["headwater.dev/orphaned"].clone()
    };
    eventually("the instance says so", SOON, || {
        holds(annotation("b") == "Secret b-kubeconfig is gone", annotation("b"))
    });
    tenant.event("b", "SourceRemoved");
    tenant.wait("b", "Reachable", SOON, |c| c.status == "False");
    assert!(sites[1].get("/api/v1/namespaces/flux-system").is_some(), "nothing is uninstalled");
    cluster(&tenant, "b", &json!({}), &sites[1].for_operator());
    eventually("the mark is gone", SOON, || holds(annotation("b") == Value::Null, annotation("b")));
    tenant.wait("b", "Reachable", SOON, |c| c.status == "True");

    // At rest nothing is written.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let mark = tenant.hub.audit_mark();
    std::thread::sleep(std::time::Duration::from_secs(3));
    let all = tenant.hub.asked(mark);
    let ours: Vec<_> = all
        .iter()
        .filter(|e| e.namespace == "discover" && e.writes() && e.resource != "leases")
        .map(crate::harness::text_of)
        .collect();
    assert!(ours.is_empty(), "{ours:?}");

    // Deletion is asked for; an empty list deletes nothing all the same, and one of two does when it has been gone for ten minutes.
    tenant.hub.merge(&fleet_path(&tenant), &json!({"spec": {"discover": {"onRemoval": "Delete"}}}));
    tenant.stop();
    tenant.hub.delete(&format!("{secrets}/a-kubeconfig"));
    tenant.hub.delete(&format!("{secrets}/b-kubeconfig"));
    tenant.start();
    let message = discovered(&tenant, "TooManyGone");
    assert!(message.contains("2 of 2"), "{message}");
    cluster(&tenant, "a", &json!({"ring": "canary"}), &sites[0].for_operator());
    let message = discovered(&tenant, "Discovered");
    assert!(message.contains("1 have lost their Secrets, and stay as they are: b"), "{message}");
    tenant.patch("b", &json!({"metadata": {"annotations": {"headwater.dev/orphaned-since": "2020-01-01T00:00:00Z"}}}));
    tenant.gone("b", SOON);
    let status = tenant.hub.must_get(&fleet_path(&tenant))["status"].clone();
    assert_eq!(status["deletions"].as_array().map(Vec::len), Some(1), "{status:#}");
    assert!(sites[1].get("/api/v1/namespaces/flux-system").is_some(), "deletionPolicy is Orphan");
    assert!(tenant.hub.get(&tenant.path("a")).is_some());

    // Without the fleet nothing goes.
    tenant.hub.delete(&fleet_path(&tenant));
    tenant.wait("a", "Admitted", SOON, |c| c.reason == "NoFleet");
    assert_eq!(tenant.status("a")["applied"]["version"], NEW);
}

/// Somebody makes an instance by hand in the very moment in which a fleet makes one of that name: it is left alone, as it is.
#[test]
fn an_instance_made_by_hand_is_never_taken_over() {
    let faults = Faults::default();
    let line = Proxy::start(shared_hub(), &faults).unwrap();
    let kubeconfig = line.kubeconfig(OPERATOR, TOKENS[0]);
    let tenant = Tenant::without_operator(shared_hub(), "discover-race", &kubeconfig);
    tenant.start();
    faults.victim(tenant.pid());
    create(&tenant, &json!({"clusterAPI": {}, "template": {"spec": {"distribution": spec("2.x")["distribution"]}}}))
        .unwrap();
    discovered(&tenant, "Discovered");
    faults.aim(|write| write.path.ends_with("/fluxinstances/mine"), Fault::Late);
    cluster(&tenant, "mine", &json!({}), "nothing");
    eventually("the operator stands still", SOON, || faults.struck().ok_or_else(|| "it goes on".to_owned()));
    let mut mine = spec(OLD);
    mine["suspend"] = json!(true);
    tenant.create("mine", &mine);
    let made = tenant.hub.must_get(&tenant.path("mine"));
    faults.let_go();
    let code = eventually("the write arrives", SOON, || {
        let writes = faults.writes();
        let code = writes.iter().find(|w| w.path.ends_with("/fluxinstances/mine")).map_or(0, |write| write.code);
        if code == 0 { Err(format!("{writes:?}")) } else { Ok(code) }
    });
    assert_eq!(code, 409);
    tenant.signal(Signal::SIGCONT);
    discovered(&tenant, "NameTaken");
    let left = tenant.hub.must_get(&tenant.path("mine"));
    assert_eq!((&left["spec"], &left["metadata"]["labels"]), (&made["spec"], &made["metadata"]["labels"]));
}

/// What the API server refuses of `spec.discover`, by the rules of the CRD.
#[test]
fn discover_says_what_is_allowed() {
    let hub = shared_hub();
    let tenant = Tenant::without_operator(hub, "discover-refused", &hub.for_operator());
    let template = json!({"spec": {"distribution": {"version": "2.x"}}});
    let refused = |discover: Value| create(&tenant, &discover).expect_err("it is refused");
    for (discover, expected) in [
        (json!({"template": template}), "say where clusters are found: clusterAPI: {} for those of Cluster API"),
        (json!({"secrets": {"selector": {}}, "template": template}), "must select by at least one label"),
        (
            json!({"clusterAPI": {}, "template": {"spec": {"distribution": {"version": "2.x"}, "kubeConfig": {"secretRef": {"name": "x"}}}}}),
            "kubeConfig is the Secret in which each cluster was found: leave it out",
        ),
        (
            json!({"clusterAPI": {}, "template": {"spec": {"distribution": {"version": "2.x"}, "interval": "1s"}}}),
            "must be a duration such as 10m, between 30s and 24h",
        ),
        (
            json!({"clusterAPI": {}, "template": {"spec": {"distribution": {"version": "2.x"}, "x": 1}}}),
            "unknown field",
        ),
        (json!({"clusterAPI": {}}), "spec.discover.template: Required value"),
    ] {
        let found = refused(discover);
        assert!(found.contains(expected), "expected {expected}\nfound {found}");
    }
    create(&tenant, &json!({"clusterAPI": {}, "template": template})).unwrap();
    let stored = hub.must_get(&fleet_path(&tenant))["spec"]["discover"]["template"]["spec"].clone();
    assert_eq!(stored, json!({"distribution": {"version": "2.x"}}), "nothing is filled in");
}
