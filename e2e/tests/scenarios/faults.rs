//! One write of an operation fails, for every write: the operator comes to the same end by itself, says what was wrong, and
//! deletes nothing meanwhile. Each write fails in one way by default; `HEADWATER_ENUMERATE=all` takes all of them.

use std::time::Duration;

use headwater_e2e::{Fault, Faults, Kind, Proxy};
use serde_json::json;

use crate::harness::{NEW, OBJECTS, OLD, OPERATOR, Site, TOKENS, Tenant, crd, shared_hub};
use crate::lane::{Lane, check_inventory, spec, until};
use crate::operation::{Operation, Outcome, in_turn, install, upgrade};

fn every_write_fails(operation: &Operation) {
    let site = Site::hub(Kind::Plain);
    let ways = [Fault::refuse(403), Fault::refuse(409), Fault::refuse(422), Fault::refuse(500), Fault::Reset];
    operation.enumerate(&Lane::new(&site), |n| in_turn(n, &ways), judge);
}

/// Whatever was said of the failure has the server's own words, or tells that the connection broke; and names the object where
/// the operator knows of one.
fn judge(fault: &Fault, struck: &str, outcome: &Outcome) -> Option<String> {
    let (reason, text) = match fault {
        Fault::Refuse { code: 403, .. } => ("PermissionDenied", "refused by the test (Forbidden)"),
        Fault::Refuse { code: 409, .. } => ("ReconciliationFailed", "refused by the test (Conflict)"),
        Fault::Refuse { code: 422, .. } => ("ReconciliationFailed", "refused by the test (Invalid)"),
        Fault::Refuse { .. } => ("ReconciliationFailed", "refused by the test (InternalError)"),
        _ => ("ClusterUnreachable", "the connection ended before the answer came"),
    };
    let path = struck.trim_end_matches("/status");
    let object = path.rsplit('/').next().unwrap_or_default();
    // What is said of the objects of users is said of their CRD.
    let migrated = match path.split('/').collect::<Vec<_>>().as_slice() {
        ["PATCH ", "apis", group, _, "namespaces", "default", plural, _] => Some(format!("{plural}.{group}")),
        _ if struck.ends_with("/status") && path.contains("/customresourcedefinitions/") => Some(object.to_owned()),
        _ => None,
    };
    let reason = if migrated.is_some() && reason == "ReconciliationFailed" { "MigrationFailed" } else { reason };
    let is_applied = struck.starts_with("PATCH") && !struck.contains("headwater.dev");
    let named = migrated.as_deref().unwrap_or(object);
    let is_sane = |(said, message): &(String, String)| {
        said == reason && message.ends_with(text) && (!is_applied || message.contains(named))
    };
    let wrong = outcome.complaints.iter().find(|c| !is_sane(c))?;
    Some(format!("{}: {}", wrong.0, wrong.1))
}

/// An install.
#[test]
fn every_write_of_an_install_fails_once() {
    every_write_fails(&install());
}

/// An upgrade.
#[test]
fn every_write_of_an_upgrade_fails_once() {
    every_write_fails(&upgrade());
}

/// A server that asks for patience in any form gets it, up to what is sensible; nothing that it says is taken for a reason to
/// give up, to hurry or to crash.
#[test]
fn retry_after_is_obeyed_within_reason() {
    let site = Site::hub(Kind::Plain);
    let lane = Lane::new(&site);
    for (value, waits) in [
        ("1", false),
        ("3", true),
        ("3600", true),
        ("18446744073709551615", true),
        ("99999999999999999999999999", false),
        ("-1", false),
        ("abc", false),
        ("Fri, 31 Dec 9999 23:59:59 GMT", false),
    ] {
        lane.wipe();
        lane.start();
        lane.faults.arm(8, Fault::Refuse { code: 429, retry_after: Some(value.to_owned()), times: 1 });
        lane.create(&spec(NEW, &["notification-controller"]));
        if waits {
            until(value, || lane.says("Ready", "False", "the API server asks to come back later"));
            let mark = lane.faults.count();
            std::thread::sleep(Duration::from_secs(2));
            // Others are tried again after a second, or when a watch tells of what was written.
            assert_eq!(lane.faults.count(), mark, "{value}");
            if value.len() > 1 {
                continue;
            }
        }
        until(value, || lane.says("Ready", "True", "Flux"));
        assert!(lane.faults.struck().is_some(), "{value}");
        check_inventory(&lane).unwrap();
    }
}

/// A write that is never answered ends with the deadline, is said, and is found to have happened.
#[test]
fn silence_ends_with_the_deadline() {
    let site = Site::hub(Kind::Plain);
    let lane = Lane::new(&site);
    lane.start();
    lane.faults.arm(8, Fault::Silence);
    lane.create(&spec(NEW, &["notification-controller"]));
    until("it is said", || lane.says("Ready", "False", "no answer from the API server within 15 s"));
    until("it goes on", || lane.says("Ready", "True", "Flux"));
    check_inventory(&lane).unwrap();
}

/// etcd stops in the middle of an upgrade: nobody knows what was written. When it is back, the upgrade comes to its end, every
/// object is the same as before, and nothing was deleted.
#[test]
fn etcd_stops_during_an_upgrade() {
    let target = Site::start(Kind::Plain);
    let faults = Faults::default();
    let proxy = Proxy::start(&target, &faults).unwrap();
    let tenant = Tenant::new(shared_hub(), "etcd");
    tenant.installed("a", &target, OLD);
    tenant.secret("a-kubeconfig", "value", &proxy.kubeconfig(OPERATOR, TOKENS[0]));
    tenant.poke("a");
    tenant.ready("a");
    let before = target.inventory_uids();
    let stored = target.uid(&crd("gitrepositories.source.toolkit.fluxcd.io"));

    // The pause after a 500 is when it happens.
    faults.arm(6, Fault::refuse(500));
    tenant.patch("a", &json!({"spec": {"distribution": {"version": NEW}}}));
    until("the upgrade is under way", || faults.struck().ok_or(format!("{} writes", faults.count())));
    target.pause_etcd().unwrap();
    let said = tenant.wait("a", "Ready", 90, |c| c.status == "False");
    assert!(["ClusterUnreachable", "ReconciliationFailed"].contains(&said.reason.as_str()), "{said:?}");
    assert!(!said.message.is_empty() && said.message.len() < 600, "{}", said.message);
    target.resume_etcd().unwrap();
    tenant.wait("a", "Ready", 120, |c| c.status == "True" && c.message.contains(NEW));

    assert!(faults.writes().iter().all(|w| w.method != "DELETE"));
    assert_eq!(target.uid(&crd("gitrepositories.source.toolkit.fluxcd.io")), stored);
    let after = target.inventory_uids();
    assert_eq!(after.len(), OBJECTS);
    assert!(before.iter().all(|(key, uid)| after.get(key) == Some(uid)), "the same objects");
    let mark = faults.count();
    tenant.poke("a");
    tenant.poke("a");
    assert_eq!(faults.count(), mark, "silence afterwards");
}
