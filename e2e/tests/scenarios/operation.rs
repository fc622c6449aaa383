//! What is disturbed, run after run: an operation from its start to its end, and what must hold of every run.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Instant;

use headwater::render::kinds::builtin;
use headwater_e2e::manifests::flux_install;
use headwater_e2e::{Fault, Write};
use serde_json::{Value, json};

use crate::harness::{SOON, Site, crd, eventually};
use crate::lane::{End, Lane, NAME, check_identities, check_inventory, check_writes, is_crd, spec, until};
use crate::live::fixtures;

/// The newest version.
pub(crate) const NEW: &str = "2.9.4";
/// What matters is the kinds of writes, not how many there are of each: the component with the fewest that needs no other.
const SMALL: [&str; 1] = ["image-reflector-controller"];
/// The smallest one that has objects to migrate on the way to the newest version.
const OLD_OBJECTS: [&str; 1] = ["notification-controller"];

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
    /// What the inventory says was made by us.
    pub(crate) created: Vec<String>,
}

fn complaint(lane: &Lane<'_>) -> Option<(String, String)> {
    let said = lane.tenant.condition(NAME, "Ready")?;
    (said.status == "False").then_some((said.reason, said.message))
}

fn created(lane: &Lane<'_>) -> Vec<String> {
    let inventory = lane.site().inventory().unwrap_or_default();
    let entries = inventory["entries"].as_array().into_iter().flatten();
    entries
        .filter(|entry| entry["created"] == true)
        .map(|entry| format!("{} {}", entry["kind"], entry["name"]))
        .collect()
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
        // A pass that begins before the operator has seen its instance go says goodbye once more, and finds nobody.
        let counts = |write: &&Write| self.stays || write.committed();
        let more = all[mark..].iter().filter(counts);
        let more: Vec<String> = more.map(|w| format!("{} {} {}", w.method, w.path, w.body)).collect();
        if !more.is_empty() {
            return Err(format!("passes that find nothing to do write: {more:#?}"));
        }
        if let Some(deletion) = all.iter().find(|w| w.method == "DELETE" && !self.deletes) {
            return Err(format!("{} is deleted", deletion.path));
        }
        check_writes(inventory.as_ref(), &before, &all)?;
        check_inventory(lane)?;
        check_identities(&before, &after, self.kept)?;
        Ok(Outcome { after, writes: all.len(), complaints, created: created(lane) })
    }

    /// The undisturbed run twice, then for each write one with each of the faults that `faults` wants at this number.
    /// `judge` says what else is wrong with a run.
    pub(crate) fn enumerate(
        &self,
        lane: &Lane<'_>,
        faults: impl Fn(usize) -> Vec<Fault>,
        judge: impl Fn(&Fault, &str, &Outcome) -> Option<String>,
    ) {
        let (started, mut runs) = (Instant::now(), 2);
        let reference = self.run(lane, None).unwrap();
        let again = self.run(lane, None).unwrap();
        assert_eq!(again.after.differences(&reference.after), Vec::<String>::new(), "two undisturbed runs");
        assert!(self.waits || again.writes == reference.writes, "two undisturbed runs");
        assert!(reference.writes >= self.least, "{} writes", reference.writes);
        let mut wrong = String::new();
        for n in 1..=reference.writes {
            for fault in faults(n) {
                runs += 1;
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
        eprintln!("{runs} runs of {} writes in {:?}", reference.writes, started.elapsed());
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
        least: 15,
    }
}

/// What `flux bootstrap` leaves: the CLI applies its manifests, then a Kustomization does, and labels them as its own.
fn bootstrap(site: &Site) {
    for object in flux_install(NEW, &SMALL).unwrap() {
        let key = object.key();
        let kind = builtin(&key.group, object.version(), &key.kind).unwrap();
        let root = if key.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", key.group) };
        let place = key.namespace.as_ref().map(|n| format!("/namespaces/{n}")).unwrap_or_default();
        let path = format!("{root}/{}{place}/{}/{}", kind.version, kind.plural, key.name);
        let mut labelled = object.clone();
        for (name, value) in FOREIGN {
            labelled.set_label(name, value);
        }
        for (manager, object) in [("flux", object), ("kustomize-controller", labelled)] {
            eventually("it is applied", SOON, || {
                let body = Some(("application/apply-patch+yaml", object.value()));
                site.request("PATCH", &format!("{path}?fieldManager={manager}&force=true"), body)
                    .map_err(|e| format!("{e:?}"))
            });
        }
    }
}

/// Labels by which another tool knows its objects.
const FOREIGN: [(&str, &str); 2] =
    [("kustomize.toolkit.fluxcd.io/name", "flux-system"), ("kustomize.toolkit.fluxcd.io/namespace", "flux-system")];

/// What another tool installed becomes ours as it is.
pub(crate) fn takeover() -> Operation {
    Operation {
        prepare: |lane| {
            bootstrap(lane.site());
            lane.settle();
            lane.start();
        },
        kept: |_| true,
        // Each object is adopted, and applied.
        least: 25,
        ..install()
    }
}

/// Whether anything of the other tool is left on what was taken over, or it counts as made by us, so that an uninstall would take
/// the namespace along.
pub(crate) fn others_left(_: &Fault, _: &str, outcome: &Outcome) -> Option<String> {
    let is_left = |object: &Value| {
        let managers = object["metadata"]["managedFields"].as_array().into_iter().flatten();
        let mut managers = managers.map(|entry| entry["manager"].as_str().unwrap_or_default());
        FOREIGN.iter().any(|(name, _)| !object["metadata"]["labels"][name].is_null())
            || managers.any(|manager| ["flux", "kustomize-controller"].contains(&manager))
    };
    let left: Vec<&str> =
        outcome.after.state.iter().filter(|(_, o)| is_left(o)).map(|(path, _)| path.as_str()).collect();
    if !left.is_empty() {
        return Some(format!("marks of others are left on {}", left.join(", ")));
    }
    (!outcome.created.is_empty()).then(|| format!("counted as made by us: {}", outcome.created.join(", ")))
}

/// Objects that users made, stored in a version that the next bundle drops.
fn installed_with_old_objects(lane: &Lane<'_>, version: &str) {
    installed(lane, &lane.remote(spec(version, &OLD_OBJECTS)));
    // The operator puts back what is done to CRDs.
    lane.tenant.kill();
    for fixture in fixtures().iter().filter(|f| f.definition().starts_with("alerts.")) {
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
            installed(lane, &lane.remote(spec(NEW, &["notification-controller", "image-reflector-controller"])));
            lane.tenant.patch(NAME, &json!({"spec": {"components": ["notification-controller"]}}));
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
            if left.contains("imagepolicies") || left.contains("image-reflector-controller") {
                Err(left)
            } else {
                Ok(())
            }
        },
        kept: |path| is_crd(path) && !path.contains("image.toolkit"),
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
        kept: |path| path.ends_with(".headwater.dev"),
        deletes: true,
        waits: true,
        stays: false,
        least: 12,
    }
}
