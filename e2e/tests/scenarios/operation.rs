//! What is disturbed, run after run: an operation from its start to its end, and what must hold of every run.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use headwater_e2e::Fault;
use serde_json::{Value, json};

use crate::harness::crd;
use crate::lane::{End, Lane, NAME, check_identities, check_inventory, check_writes, is_crd, spec, until};
use crate::live::fixtures;

/// The newest version.
pub(crate) const NEW: &str = "2.9.4";
/// What matters is the kinds of writes, not how many there are of each.
const SMALL: [&str; 1] = ["notification-controller"];

/// What is interrupted.
pub(crate) struct Operation {
    /// From nothing to the state in which it begins, with an operator that runs.
    prepare: fn(&Lane<'_>),
    /// The user's word.
    begin: fn(&Lane<'_>),
    /// Whether it has come to its end; the operator's passes go on meanwhile.
    done: fn(&Lane<'_>) -> Result<(), String>,
    /// Objects that must be the same ones afterwards, if they were there before.
    kept: fn(&str) -> bool,
    /// Whether it takes objects away.
    deletes: bool,
    /// Whether it waits for what kube-controller-manager does.
    waits: bool,
    /// Whether an instance is left, for further passes.
    stays: bool,
    /// There are at least as many writes.
    least: usize,
}

/// What a run left behind.
pub(crate) struct Outcome {
    /// The cluster at its end.
    pub(crate) after: End,
    /// How many writes it took.
    pub(crate) writes: usize,
    /// What was said of failures: reason and message.
    pub(crate) complaints: BTreeSet<(String, String)>,
}

fn complaint(lane: &Lane<'_>) -> Option<(String, String)> {
    let said = lane.tenant.condition(NAME, "Ready")?;
    (said.status == "False").then_some((said.reason, said.message))
}

impl Operation {
    fn settle(&self, lane: &Lane<'_>) {
        if self.waits {
            lane.settle();
        }
    }

    /// One run; `Err` says what is wrong with it.
    pub(crate) fn run(&self, lane: &Lane<'_>, fault: Option<&(usize, Fault)>) -> Result<Outcome, String> {
        lane.wipe();
        (self.prepare)(lane);
        let before = lane.end();
        let inventory = lane.site().inventory();
        match fault {
            Some((n, fault)) => lane.faults.arm(*n, fault.clone()),
            None => lane.faults.clear(),
        }
        (self.begin)(lane);
        if fault.is_some() {
            until("the write comes", || {
                self.settle(lane);
                // How often waiting is said depends on how long it takes: the last of these may not come.
                let ended = self.waits && (self.done)(lane).is_ok();
                let seen = format!("{} writes", lane.faults.count());
                lane.faults.struck().map(drop).or(ended.then_some(())).ok_or(seen)
            });
        }
        if let (Some((_, Fault::Kill(_))), Some(_)) = (fault, lane.faults.struck()) {
            lane.tenant.kill();
            lane.start();
        }
        let mut complaints = BTreeSet::new();
        until("it ends", || {
            self.settle(lane);
            complaints.extend(complaint(lane));
            // What is no use to repeat is not repeated, and a test that waits for the interval takes too long.
            if lane.says("Stalled", "True", "").is_ok() {
                lane.tenant.poke(NAME);
            }
            (self.done)(lane)
        });
        if self.waits && self.stays {
            // What was to go is gone; this has to be noticed and said.
            lane.poke();
        }
        let mark = lane.faults.count();
        if self.stays {
            lane.poke();
        }
        let after = lane.end();
        let all = lane.faults.writes();
        if all.len() > mark {
            let more: Vec<String> = all[mark..].iter().map(|w| format!("{} {} {}", w.method, w.path, w.body)).collect();
            return Err(format!("passes that find nothing to do write: {more:#?}"));
        }
        if let Some(deletion) = all.iter().find(|w| w.method == "DELETE" && !self.deletes) {
            return Err(format!("{} is deleted", deletion.path));
        }
        check_writes(inventory.as_ref(), &before, &all)?;
        check_inventory(lane)?;
        check_identities(&before, &after, self.kept)?;
        Ok(Outcome { after, writes: all.len(), complaints })
    }

    /// The undisturbed run twice, then for each write one with each of the faults that `faults` wants at this number.
    /// `judge` says what else is wrong with a run.
    pub(crate) fn enumerate(
        &self,
        lane: &Lane<'_>,
        faults: impl Fn(usize) -> Vec<Fault>,
        judge: impl Fn(&Fault, &str, &Outcome) -> Option<String>,
    ) {
        let reference = self.run(lane, None).unwrap();
        let again = self.run(lane, None).unwrap();
        assert_eq!(again.after.differences(&reference.after), Vec::<String>::new(), "two undisturbed runs");
        assert!(self.waits || again.writes == reference.writes, "two undisturbed runs");
        assert!(reference.writes >= self.least, "{} writes", reference.writes);
        let mut wrong = String::new();
        for n in 1..=reference.writes {
            for fault in faults(n) {
                let outcome = self.run(lane, Some(&(n, fault.clone())));
                let struck = lane.faults.struck().unwrap_or_default();
                let found = match outcome {
                    Ok(outcome) => {
                        let differences = outcome.after.differences(&reference.after);
                        differences.into_iter().chain(judge(&fault, &struck, &outcome)).collect()
                    }
                    Err(found) => vec![found],
                };
                if !found.is_empty() {
                    let at = format!("{fault:?} at write {n} of {}, {struck}", reference.writes);
                    let _ = writeln!(wrong, "{at}:\n  {}", found.join("\n  "));
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong}");
    }
}

/// One of these by default, another for each number; all of them when `HEADWATER_ENUMERATE=all`.
pub(crate) fn in_turn(n: usize, all: &[Fault]) -> Vec<Fault> {
    if std::env::var("HEADWATER_ENUMERATE").is_ok_and(|v| v == "all") {
        return all.to_vec();
    }
    all.iter().cycle().skip(n).take(1).cloned().collect()
}

fn healthy(lane: &Lane<'_>, version: &str) -> Result<(), String> {
    lane.says("Ready", "True", &format!("Flux {version} is"))
}

fn installed(lane: &Lane<'_>, spec: &Value) {
    lane.start();
    lane.create(spec);
    until("it is installed", || lane.says("Ready", "True", "Flux"));
    lane.poke();
}

/// A first install of the cluster the operator works from.
pub(crate) fn install() -> Operation {
    Operation {
        prepare: |lane| lane.start(),
        begin: |lane| lane.create(&spec(NEW, &SMALL)),
        done: |lane| healthy(lane, NEW),
        kept: is_crd,
        deletes: false,
        waits: false,
        stays: true,
        least: 18,
    }
}

/// Objects that users made, stored in a version that the next bundle drops.
fn installed_with_old_objects(lane: &Lane<'_>, version: &str) {
    installed(lane, &lane.remote(spec(version, &SMALL)));
    // The operator puts back what is done to CRDs.
    lane.tenant.kill();
    for fixture in fixtures().iter().filter(|f| f.definition().contains(".notification.")) {
        if let Some(old) = fixture.old() {
            fixture.store_as(lane.site(), old);
        }
        fixture.create(lane.site(), "live");
    }
    lane.start();
    until("CRDs are as they were", || {
        let definition = lane.site().must_get(&crd("alerts.notification.toolkit.fluxcd.io"));
        let versions = definition["spec"]["versions"].as_array().unwrap();
        if versions.iter().any(|v| v["name"] == "v1beta3" && v["storage"] == true) { Ok(()) } else { Err("not yet") }
            .map_err(str::to_owned)
    });
    lane.poke();
}

fn upgrade_from(prepare: fn(&Lane<'_>)) -> Operation {
    Operation {
        prepare,
        begin: |lane| lane.tenant.patch(NAME, &json!({"spec": {"distribution": {"version": NEW}}})),
        done: |lane| healthy(lane, NEW),
        kept: |_| true,
        deletes: false,
        waits: false,
        stays: true,
        least: 15,
    }
}

/// A remote cluster moves on by a minor, with objects that have to be migrated.
pub(crate) fn upgrade() -> Operation {
    upgrade_from(|lane| installed_with_old_objects(lane, "2.8.8"))
}

/// A remote cluster moves on by two minors, with objects that have to be migrated.
pub(crate) fn leap() -> Operation {
    upgrade_from(|lane| installed_with_old_objects(lane, "2.7.5"))
}

/// An upgrade whose images cannot be pulled, and back.
pub(crate) fn rollback() -> Operation {
    Operation {
        prepare: |lane| {
            let mut wanted = spec("2.8.8", &SMALL);
            wanted["wait"] = json!(true);
            lane.start();
            lane.create(&wanted);
            until("it is healthy", || {
                lane.settle();
                lane.says("Ready", "True", "healthy")
            });
            lane.poke();
        },
        begin: |lane| {
            let broken = json!({"version": NEW, "registry": "registry.example/pull-fails"});
            lane.tenant.patch(NAME, &json!({"spec": {"distribution": broken}}));
        },
        done: |lane| lane.says("Ready", "False", "Back on 2.8.8."),
        kept: |_| true,
        deletes: false,
        waits: true,
        stays: true,
        least: 20,
    }
}

/// A component of a remote cluster is removed, with its CRDs, after somebody gave the word.
pub(crate) fn prune() -> Operation {
    Operation {
        prepare: |lane| {
            installed(lane, &lane.remote(spec(NEW, &["source-controller", "notification-controller"])));
            lane.tenant.patch(NAME, &json!({"spec": {"components": ["source-controller"]}}));
            until("it asks", || lane.says("Ready", "False", "headwater confirm"));
            lane.poke();
        },
        begin: |lane| {
            let asks = lane.tenant.condition(NAME, "Ready").unwrap().message;
            let plan = asks.rsplit("--plan ").next().unwrap().trim_end_matches('`');
            lane.tenant.patch(NAME, &json!({"metadata": {"annotations": {"headwater.dev/confirm": plan}}}));
        },
        done: |lane| {
            healthy(lane, NEW)?;
            let left = lane.site().inventory().unwrap().to_string();
            if left.contains("alerts") || left.contains("notification-controller") { Err(left) } else { Ok(()) }
        },
        kept: |path| is_crd(path) && !path.contains("notification.toolkit"),
        deletes: true,
        waits: true,
        stays: true,
        least: 8,
    }
}

/// The instance is deleted, and everything with it.
pub(crate) fn uninstall() -> Operation {
    Operation {
        prepare: |lane| {
            let mut wanted = spec(NEW, &SMALL);
            wanted["deletionPolicy"] = json!("Uninstall");
            installed(lane, &wanted);
        },
        begin: |lane| lane.tenant.delete(NAME),
        done: |lane| match lane.site().get(&lane.tenant.path(NAME)) {
            None => Ok(()),
            Some(instance) => Err(instance["status"]["conditions"].to_string()),
        },
        kept: |path| path.ends_with("fluxinstances.headwater.dev"),
        deletes: true,
        waits: true,
        stays: false,
        least: 16,
    }
}
