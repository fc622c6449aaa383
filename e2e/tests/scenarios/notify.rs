//! What a fleet does is told through Flux's own notification-controller on the hub.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use headwater_e2e::Kind;
use serde_json::{Value, json};

use crate::fleet::Members;
use crate::harness::{NEW, SOON, Site, Tenant, eventually, holds, spec, world};

/// Takes every POST, and keeps its body.
fn sink() -> (String, Arc<Mutex<Vec<Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    let bodies = Arc::<Mutex<Vec<Value>>>::default();
    let kept = Arc::clone(&bodies);
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(mut connection) = connection else { return };
            let mut reader = BufReader::new(connection.try_clone().unwrap());
            let mut length = 0;
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                    break;
                }
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap_or(0);
                }
            }
            let mut body = vec![0; length];
            if reader.read_exact(&mut body).is_ok()
                && let Ok(body) = serde_json::from_slice(&body)
            {
                kept.lock().unwrap().push(body);
            }
            let _ = connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    (address, bodies)
}

/// One message per step of a stage, whatever the number of clusters, by way of an Alert that names the fleet.
#[test]
fn a_fleet_is_heard_through_notification_controller() {
    let hub = Site::hub(Kind::Flux);
    let members = Members::start(2);
    let tenant = Tenant::without_operator(&hub, "headwater-system", &hub.for_operator());
    let events = hub.pod_address("flux-system", "notification-controller").unwrap();
    tenant.start_with(&["--events-addr", &format!("http://{events}:9090/")]);
    let mut wanted = spec(NEW);
    wanted["wait"] = json!(true);
    wanted["components"] = json!(["source-controller", "kustomize-controller", "notification-controller"]);
    // As in config/samples/notifications.yaml: Flux's Alert does not know the kind by itself.
    let sample = std::fs::read_to_string(crate::harness::in_repository("config/samples/notifications.yaml")).unwrap();
    let sample: Vec<Value> =
        sample.split("\n---\n").map(|text| headwater::render::yaml::parse_one("sample", text).unwrap()).collect();
    let of = |kind: &str| sample.iter().find(|object| object["kind"] == kind).unwrap().clone();
    wanted["kustomize"] = of("FluxInstance")["spec"]["kustomize"].clone();
    tenant.create("flux", &wanted);
    tenant.wait("flux", "Ready", 90, |c| c.status == "True");

    let (address, heard) = sink();
    let mut provider = of("Provider");
    provider["spec"] = json!({"type": "generic", "address": address});
    let notification = "/apis/notification.toolkit.fluxcd.io/v1beta3/namespaces/flux-system";
    hub.create(&format!("{notification}/providers"), &provider);
    hub.create(&format!("{notification}/alerts"), &of("Alert"));

    for (name, member) in ["m0", "m1"].iter().zip(&members.sites) {
        let mut spec = tenant.remote(name, member, "2.x");
        spec["admission"] = json!("Fleet");
        let mut object = tenant.object(name, &spec);
        object["metadata"]["labels"] = json!({"env": "prod"});
        hub.create("/apis/headwater.dev/v1alpha1/namespaces/headwater-system/fluxinstances", &object);
    }
    let fleet = json!({
        "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxFleet",
        "metadata": {"name": "prod", "namespace": "headwater-system"},
        "spec": {"selector": {"matchLabels": {"env": "prod"}}, "distribution": spec(NEW)["distribution"],
                 "stages": [{"name": "all", "concurrency": 2}]},
    });
    hub.create("/apis/headwater.dev/v1alpha1/namespaces/headwater-system/fluxfleets", &fleet);
    eventually("the fleet is done, and it is heard", SOON, || {
        let heard = heard.lock().unwrap().clone();
        holds(heard.iter().any(|event| event["reason"] == "Complete"), heard)
    });
    let heard = heard.lock().unwrap().clone();
    for reason in ["TargetChanged", "StageStarted", "StageDone", "Complete"] {
        let told: Vec<&Value> = heard.iter().filter(|event| event["reason"] == reason).collect();
        assert_eq!(told.len(), 1, "{reason}: {heard:#?}");
        let event = told[0];
        assert_eq!(
            (&event["involvedObject"]["kind"], &event["involvedObject"]["name"]),
            (&json!("FluxFleet"), &json!("prod"))
        );
        assert_eq!(event["severity"], "info");
        assert_eq!(event["metadata"]["revision"], format!("{NEW}@{}", world().digests[NEW]), "{event:#}");
    }
    let (_, metrics) = tenant.page("/metrics").unwrap();
    assert!(metrics.contains("headwater_notifications_total{outcome=\"sent\"}"), "{metrics}");
}
