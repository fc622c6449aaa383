//! Two operators for the same instances: one works, the other waits; and shards, whose instances are moved.

use std::time::{Duration, Instant};

use headwater_e2e::{AuditMark, Fault, Faults, Kind, Proxy};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{
    NEW, OBJECTS, OPERATOR, RIVAL, SOON, Site, TOKENS, Tenant, eventually, holds, in_flux, spec, text_of,
};

const NAMESPACE: &str = "pair";
/// Seconds; long enough for a busy machine.
const LEASE: u64 = 6;
const DURATION: [&str; 2] = ["--lease-duration", "6"];

/// What a look that was asked for writes.
const ANSWER: &str = "patch fluxinstances/status pair/flux";

/// Two operators in one namespace, each with a user of its own; the first behind a proxy.
struct Pair<'a> {
    site: &'a Site,
    first: Tenant<'a>,
    second: Tenant<'a>,
    faults: Faults,
    _proxy: Proxy,
}

impl<'a> Pair<'a> {
    fn new(site: &'a Site) -> Self {
        let faults = Faults::default();
        let proxy = Proxy::start(site, &faults).unwrap();
        let first = Tenant::without_operator(site, NAMESPACE, &proxy.kubeconfig(OPERATOR, TOKENS[0]));
        let (user, token) = RIVAL;
        let second = Tenant::without_operator(site, NAMESPACE, &site.kubeconfig_with(user, token));
        Self { site, first, second, faults, _proxy: proxy }
    }

    fn start_first(&self) {
        self.first.start_with(&[&DURATION[..], &["--identity", "first"]].concat());
        self.faults.victim(self.first.pid());
    }

    fn start_second(&self, more: &[&str]) {
        self.second.start_with(&[&DURATION[..], &["--identity", "second"], more].concat());
    }

    /// What a user wrote since then, apart from leases, which both write, in short texts.
    fn written_by(&self, user: &str, since: AuditMark) -> Vec<String> {
        let all = self.site.settled(since).into_iter();
        all.filter(|e| e.user == user && e.writes() && e.resource != "leases").map(|e| text_of(&e)).collect()
    }

    fn lease(&self, name: &str) -> Value {
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{name}");
        self.site.get(&path).map(|lease| lease["spec"].clone()).unwrap_or_default()
    }

    /// Waits until this one leads; how long it took.
    fn taken_by(&self, holder: &str) -> Duration {
        let begin = Instant::now();
        eventually(&format!("{holder} leads"), SOON, || {
            let lease = self.lease("headwater");
            holds(lease["holderIdentity"] == holder, lease)
        });
        begin.elapsed()
    }
}

fn leads(operator: &Tenant<'_>) -> bool {
    let (_, text) = operator.page("/metrics").expect("the operator answers");
    text.lines().any(|line| line == "headwater_leader 1")
}

/// One of two works. Told to end, it hands over within two seconds; killed, it is replaced when its lease has expired; and
/// started again under its name, it goes on at once.
#[test]
fn one_works_and_the_other_takes_over() {
    let site = Site::hub(Kind::Plain);
    let pair = Pair::new(&site);
    let Pair { first, second, .. } = &pair;
    pair.start_first();
    let mark = site.audit_mark();
    pair.start_second(&[]);
    assert!(leads(first) && !leads(second));
    first.create("flux", &spec(NEW));
    first.ready("flux");
    assert!(!pair.written_by(OPERATOR, mark).is_empty());
    assert_eq!(pair.written_by(RIVAL.0, mark), Vec::<String>::new(), "who stands by writes nothing");

    let mark = site.audit_mark();
    let how = first.stop();
    let begin = Instant::now();
    assert!(how.contains("exit status: 0"), "{how}");
    pair.taken_by("second");
    assert!(begin.elapsed() < Duration::from_secs(2), "handing over took {:?}", begin.elapsed());
    eventually("the second works", SOON, || {
        holds(leads(second) && second.page("/readyz").unwrap().0 == 200, "not yet")
    });
    second.poke("flux");
    assert_eq!(pair.written_by(RIVAL.0, mark), [ANSWER], "there was nothing to do");

    // The same container again: nobody has to wait.
    let begin = Instant::now();
    second.kill();
    pair.start_second(&[]);
    eventually("it has its lease back", SOON, || holds(leads(second), "not yet"));
    assert!(begin.elapsed() < Duration::from_secs(LEASE), "it waited for its own lease: {:?}", begin.elapsed());

    // Another one: it is not known that the second is dead, until its lease expires.
    pair.start_first();
    assert!(!leads(first));
    second.kill();
    let took = pair.taken_by("first");
    assert!(took > Duration::from_secs(LEASE / 2), "the lease had not expired: {took:?}");
    assert_eq!(pair.lease("headwater")["leaseTransitions"], 2);
    first.delete("flux");
    first.gone("flux", SOON);
}

/// A leader that stands still in the middle of an install is replaced. When it goes on, it writes nothing any more and ends.
#[test]
fn a_leader_that_was_stopped_writes_nothing_when_it_goes_on() {
    let site = Site::hub(Kind::Plain);
    let pair = Pair::new(&site);
    let Pair { first, second, faults, .. } = &pair;
    pair.start_first();
    pair.start_second(&[]);
    faults.arm(15, Fault::Stop);
    first.create("flux", &spec(NEW));
    eventually("the leader stands still", SOON, || faults.struck().ok_or_else(|| "it goes on".to_owned()));
    assert!(faults.count() < OBJECTS, "it was in the middle");
    pair.taken_by("second");
    second.ready("flux");
    let uids = site.inventory_uids();
    assert_eq!(uids.len(), OBJECTS);

    let mark = site.audit_mark();
    first.signal(Signal::SIGCONT);
    let how = first.ended();
    assert!(how.contains("exit status: 2") && how.contains("the lease pair/headwater is lost"), "{how}");
    assert_eq!(pair.written_by(OPERATOR, mark), Vec::<String>::new());
    second.poke("flux");
    assert_eq!(pair.written_by(RIVAL.0, mark), [ANSWER], "it left nothing to repair");
    assert_eq!(site.inventory_uids(), uids);
}

/// A write that was on its way when its sender lost the lead, and that arrives when another one has done the work, is refused,
/// or changes nothing.
#[test]
fn what_an_old_leader_had_on_its_way_does_no_harm() {
    let cases = [
        ("fluxinstances/flux/status", 409),
        ("configmaps/headwater-inventory", 409),
        ("deployments/source-controller", 200),
    ];
    for (path, code) in cases {
        let site = Site::hub(Kind::Plain);
        let pair = Pair::new(&site);
        let Pair { first, second, faults, .. } = &pair;
        pair.start_first();
        pair.start_second(&[]);
        faults.delay(path);
        first.create("flux", &spec(NEW));
        let late =
            eventually("a write is late", SOON, || faults.struck().ok_or_else(|| format!("{:?}", faults.writes())));
        pair.taken_by("second");
        second.ready("flux");
        let (uids, before) = (site.inventory_uids(), second.said("flux"));
        assert_eq!(uids.len(), OBJECTS);

        let mark = site.audit_mark();
        faults.let_go();
        let arrived = eventually("it arrives", SOON, || {
            let writes = faults.writes();
            let found =
                writes.iter().find(|write| late.ends_with(&write.path) && write.code != 0).map(|write| write.code);
            found.ok_or_else(|| format!("{writes:?}"))
        });
        assert_eq!(arrived, code, "{late}");
        first.signal(Signal::SIGCONT);
        let how = first.ended();
        assert!(how.contains("exit status: 2"), "{how}");
        second.poke("flux");
        assert_eq!(pair.written_by(RIVAL.0, mark), [ANSWER], "{late} left nothing to repair");
        assert_eq!(site.inventory_uids(), uids);
        assert_eq!(second.said("flux"), before);
    }
}

/// A leader that cannot renew its lease stops before another one may take it.
#[test]
fn a_leader_that_cannot_renew_its_lease_stops_in_time() {
    let site = Site::hub(Kind::Plain);
    let pair = Pair::new(&site);
    let Pair { first, second, faults, .. } = &pair;
    pair.start_first();
    pair.start_second(&[]);
    first.create("flux", &spec(NEW));
    first.ready("flux");
    faults.refuse("/leases");
    let how = first.ended();
    assert!(how.contains("exit status: 2") && how.contains("could not be renewed within 4 s"), "{how}");
    assert_eq!(pair.lease("headwater")["holderIdentity"], "first", "nobody had taken it when it ended");
    let mark = site.audit_mark();
    pair.taken_by("second");
    second.poke("flux");
    assert_eq!(pair.written_by(OPERATOR, mark), Vec::<String>::new());
}

/// Every shard has its own leader, and an instance is moved from one to the other in the middle of an install, and back.
#[test]
fn an_instance_is_moved_between_shards() {
    let site = Site::hub(Kind::Plain);
    let pair = Pair::new(&site);
    let Pair { first, second, faults, .. } = &pair;
    pair.start_first();
    pair.start_second(&["--shard", "east"]);
    assert!(leads(first) && leads(second), "each has a lease of its own");
    assert_eq!(pair.lease("headwater-east")["holderIdentity"], "second");
    let to = |shard: &str| first.patch("flux", &json!({"metadata": {"labels": {"headwater.dev/shard": shard}}}));

    faults.clear();
    first.create("flux", &spec(NEW));
    eventually("the first is in the middle", SOON, || holds(faults.count() > 12, faults.count()));
    to("east");
    second.ready("flux");
    eventually("the second has it", SOON, || holds(second.passes("flux") > 0, second.passes("flux")));
    eventually("everything is there", SOON, || {
        let inventory = site.inventory().unwrap_or_default();
        let entries = inventory["entries"].as_array().into_iter().flatten();
        let count = entries.filter(|entry| entry["uid"].is_string()).count();
        holds(count == OBJECTS, count)
    });
    second.poke("flux");
    let uids = site.inventory_uids();

    // Whose it is repairs it, and only that one.
    let repaired_by = |owner: &str, other: &str, operator: &Tenant<'_>| {
        let mark = site.audit_mark();
        let deployment = in_flux("deployments", "source-controller");
        site.delete(&deployment);
        eventually("it is repaired", SOON, || holds(site.get(&deployment).is_some(), "it is not"));
        operator.poke("flux");
        let written = pair.written_by(owner, mark);
        assert!(written.iter().any(|text| text.contains("deployments flux-system/source-controller")), "{written:?}");
        assert_eq!(pair.written_by(other, mark), Vec::<String>::new());
    };
    repaired_by(RIVAL.0, OPERATOR, second);

    // An empty label is none.
    let before = first.passes("flux");
    to("");
    eventually("the first has it back", SOON, || holds(first.passes("flux") > before, first.passes("flux")));
    first.poke("flux");
    repaired_by(OPERATOR, RIVAL.0, first);
    assert_eq!(site.inventory_uids_without(&["Deployment/source-controller"]).len(), OBJECTS - 1);
    for (key, uid) in site.inventory_uids_without(&["Deployment/source-controller"]) {
        assert_eq!(uids.get(&key), Some(&uid), "{key} was made anew");
    }
    first.delete("flux");
    first.gone("flux", SOON);
}
