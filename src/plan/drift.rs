//! What others change, over time: who fights for an object is not fought as fast as possible, and what was repaired is said in few
//! words. In memory only: losing it costs a repair and an event. `now` is any clock that never goes back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use super::{Drifted, Reason, Treatment};
use crate::api::Drift;
use crate::render::ObjectKey;

/// Repairs of one object, one soon after the other, after which it is left alone for a while.
const ROW: u32 = 3;
/// How long it is left alone then; twice as long each time after that.
const FIRST: Duration = Duration::from_secs(30);
/// And never longer than this.
const LAST: Duration = Duration::from_secs(600);
/// A fight is over when nobody changed the object for so long.
const QUIET: Duration = Duration::from_secs(300);
/// What happens in this time after an event waits for the next one.
const BURST: Duration = Duration::from_secs(60);
/// Different changes that are kept until then.
const GATHERED: usize = 64;
/// Changes that one event names.
const NAMED: usize = 5;

/// What is remembered of one cluster.
#[derive(Debug, Default)]
pub struct Drifts {
    fights: BTreeMap<ObjectKey, Fight>,
    /// Left as they were found, and said to be.
    warned: BTreeSet<ObjectKey>,
    repairs: Burst,
    findings: Burst,
}

#[derive(Debug, Default)]
struct Fight {
    repairs: u32,
    until: Duration,
    by: Option<Box<str>>,
}

/// An object that somebody changes as often as it is repaired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contest {
    /// Which.
    pub key: ObjectKey,
    /// The field manager of the other side, where that is known.
    pub by: Option<Box<str>>,
}

/// What a pass brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// What was repaired, or found and left: to be counted, each once.
    pub counted: Vec<Drifted>,
    /// Repairs to tell of now.
    pub repaired: Option<String>,
    /// Findings to tell of now.
    pub found: Option<String>,
    /// Fights that are not over.
    pub contested: Vec<Contest>,
    /// When there is something to do about all this at the latest.
    pub wake: Option<Duration>,
}

impl Drifts {
    /// Objects that are to be left alone now.
    pub fn damped(&mut self, now: Duration) -> BTreeSet<ObjectKey> {
        self.fights.retain(|_, fight| now < fight.until + QUIET);
        self.fights.iter().filter(|(_, fight)| now < fight.until).map(|(key, _)| key.clone()).collect()
    }

    /// Takes down what a plan found, and which objects were written.
    pub fn record(&mut self, drifted: &[Drifted], applied: &[ObjectKey], now: Duration) -> News {
        let repaired = drifted.iter().filter(|d| d.treatment == Treatment::Repair && applied.contains(&d.key));
        let repaired: Vec<&Drifted> = repaired.collect();
        for drift in &repaired {
            let fight = self.fights.entry(drift.key.clone()).or_default();
            if now >= fight.until + QUIET {
                fight.repairs = 0;
            }
            fight.repairs += 1;
            let doubled = |times: u32| FIRST.saturating_mul(2u32.saturating_pow(times)).min(LAST);
            fight.until = now + fight.repairs.checked_sub(ROW).map_or(Duration::ZERO, doubled);
            fight.by.clone_from(&drift.by);
        }
        let warned: BTreeSet<ObjectKey> =
            drifted.iter().filter(|d| d.treatment == Treatment::Warn).map(|d| d.key.clone()).collect();
        let new = |d: &&Drifted| d.treatment == Treatment::Warn && !self.warned.contains(&d.key);
        let found: Vec<&Drifted> = drifted.iter().filter(new).collect();
        self.warned = warned;

        let contests = self.fights.iter().filter(|(_, fight)| fight.repairs >= ROW);
        let contested = contests.map(|(key, fight)| Contest { key: key.clone(), by: fight.by.clone() }).collect();
        let turns = self.fights.values().filter(|fight| fight.repairs >= ROW);
        let turns = turns.flat_map(|fight| [fight.until, fight.until + QUIET]);
        let news = News {
            counted: repaired.iter().chain(&found).map(|drift| (*drift).clone()).collect(),
            repaired: self.repairs.take(&repaired, now),
            found: self.findings.take(&found, now),
            contested,
            wake: None,
        };
        let wake = turns.chain(self.repairs.due()).chain(self.findings.due()).filter(|at| *at > now).min();
        News { wake: wake.map(|at| at.saturating_sub(now)), ..news }
    }
}

/// Changes between one event and the next.
#[derive(Debug, Default)]
struct Burst {
    said: Option<Duration>,
    /// What, and how often.
    gathered: Vec<(String, usize)>,
    more: usize,
}

impl Burst {
    fn take(&mut self, drifts: &[&Drifted], now: Duration) -> Option<String> {
        for drift in drifts {
            let text = drift.to_string();
            if let Some((_, count)) = self.gathered.iter_mut().find(|(known, _)| *known == text) {
                *count += 1;
            } else if self.gathered.len() < GATHERED {
                self.gathered.push((text, 1));
            } else {
                self.more += 1;
            }
        }
        if self.gathered.is_empty() || self.said.is_some_and(|said| now < said + BURST) {
            return None;
        }
        let gathered = std::mem::take(&mut self.gathered);
        let more = std::mem::take(&mut self.more) + gathered.len().saturating_sub(NAMED);
        self.said = Some(now);
        let named = gathered.into_iter().take(NAMED).map(|(text, count)| match count {
            1 => text,
            count => format!("{text} ({count} times)"),
        });
        let text = named.collect::<Vec<_>>().join("; ");
        Some(if more > 0 { format!("{text} (and {more} more)") } else { text })
    }

    /// When what was gathered is to be said.
    fn due(&self) -> Option<Duration> {
        self.said.filter(|_| !self.gathered.is_empty()).map(|said| said + BURST)
    }
}

/// `Deployment flux-system/source-controller was changed by kubectl-edit`.
impl std::fmt::Display for Drifted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.reason, &self.by) {
            (Reason::Missing, _) => write!(f, "{} was missing", self.key),
            (_, Some(by)) => write!(f, "{} was changed by {by}", self.key),
            (_, None) => write!(f, "{} was changed by somebody else", self.key),
        }
    }
}

/// What an object is known by: a pointer must not take it away.
const IDENTITY: &[&str] = &["/apiVersion", "/kind", "/metadata/name", "/metadata/namespace", "/metadata/labels"];

/// The JSON pointers among what is left to others.
///
/// # Errors
/// When one of them would take away what an object is known by.
pub fn pointers(drift: &Drift) -> Result<Vec<&str>, String> {
    let pointers: Vec<&str> = drift.ignore.iter().map(|i| i.0.as_str()).filter(|i| i.starts_with('/')).collect();
    // The labels as a whole have ours among them.
    let ours = "/metadata/labels/headwater.dev~1installation";
    let takes = |pointer: &str, field: &str| field == pointer || field.starts_with(&format!("{pointer}/"));
    match pointers.iter().find(|pointer| IDENTITY.iter().chain([&ours]).any(|field| takes(pointer, field))) {
        Some(pointer) => Err(format!(
            "spec.drift.ignore: {pointer} would take away what objects are known by; point to a single field below it"
        )),
        None => Ok(pointers),
    }
}

/// Takes the fields away to which the pointers lead, where there are such.
pub fn remove(object: &mut Value, pointers: &[&str]) {
    for pointer in pointers {
        let Some((parent, field)) = pointer.rsplit_once('/') else { continue };
        // Only fields: what stands at which place of a list says nothing.
        if let Some(Value::Object(fields)) = object.pointer_mut(parent) {
            fields.remove(&field.replace("~1", "/").replace("~0", "~"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::DriftIgnore;
    use crate::render::Kind;
    use serde_json::json;

    fn key(name: &str) -> ObjectKey {
        Kind::config_map().key(Some("flux-system".to_owned()), name.to_owned())
    }

    fn drift(name: &str, treatment: Treatment) -> Drifted {
        Drifted { key: key(name), reason: Reason::Drifted, by: Some("kubectl".into()), treatment }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A pass in which `name` had drifted: whether it was repaired.
    fn pass(drifts: &mut Drifts, name: &str, now: u64) -> (bool, News) {
        let is_damped = drifts.damped(at(now)).contains(&key(name));
        let treatment = if is_damped { Treatment::Wait } else { Treatment::Repair };
        let applied = if is_damped { Vec::new() } else { vec![key(name)] };
        (!is_damped, drifts.record(&[drift(name, treatment)], &applied, at(now)))
    }

    #[test]
    fn a_fight_is_fought_ever_more_slowly_and_ends_with_quiet() {
        let mut drifts = Drifts::default();
        // An opponent that answers within a second, for an hour.
        let repairs: Vec<u64> = (0..3600).filter(|now| pass(&mut drifts, "a", *now).0).collect();
        assert_eq!(repairs, [0, 1, 2, 32, 92, 212, 452, 932, 1532, 2132, 2732, 3332]);
        let (_, news) = pass(&mut drifts, "a", 3600);
        assert_eq!(news.contested, [Contest { key: key("a"), by: Some("kubectl".into()) }]);
        // Others are repaired at once meanwhile.
        assert!(pass(&mut drifts, "b", 3600).0);

        assert!(drifts.damped(at(3332 + 600 + 299)).is_empty());
        let news = drifts.record(&[], &[], at(3332 + 600 + 299));
        assert_eq!((news.contested.len(), news.wake), (1, Some(at(1))));
        drifts.damped(at(3332 + 600 + 300));
        assert_eq!(drifts.record(&[], &[], at(3332 + 600 + 300)).contested, []);
        assert!((5000..5003).all(|now| pass(&mut drifts, "a", now).0));
    }

    #[test]
    fn slow_changes_and_failed_repairs_are_no_fight() {
        let mut drifts = Drifts::default();
        assert!((0..20).all(|i| pass(&mut drifts, "a", i * 301).0));
        for now in 0..20 {
            let news = drifts.record(&[drift("b", Treatment::Repair)], &[], at(10_000 + now));
            assert_eq!((news.counted, news.contested), (Vec::new(), Vec::new()));
        }
    }

    #[test]
    fn a_burst_is_one_event() {
        let mut drifts = Drifts::default();
        let one = "ConfigMap flux-system/a was changed by kubectl".to_owned();
        let news = pass(&mut drifts, "a", 100).1;
        assert_eq!((news.repaired.as_ref(), news.wake, news.counted.len()), (Some(&one), None, 1));
        let news = pass(&mut drifts, "a", 110).1;
        assert_eq!((news.repaired, news.wake), (None, Some(at(50))));
        assert_eq!(pass(&mut drifts, "b", 120).1.repaired, None);
        assert_eq!(pass(&mut drifts, "b", 130).1.repaired, None);
        let news = drifts.record(&[], &[], at(160));
        let both = format!("{one}; ConfigMap flux-system/b was changed by kubectl (2 times)");
        assert_eq!((news.repaired, news.wake, news.counted), (Some(both), None, Vec::new()));

        let names: Vec<String> = (0..100).map(|i| format!("c{i:03}")).collect();
        let all: Vec<Drifted> = names.iter().map(|name| drift(name, Treatment::Repair)).collect();
        let keys: Vec<ObjectKey> = names.iter().map(|name| key(name)).collect();
        let text = drifts.record(&all, &keys, at(1000)).repaired.unwrap();
        assert!(text.ends_with("c004 was changed by kubectl (and 95 more)"), "{text}");
    }

    #[test]
    fn what_is_left_as_it_was_found_is_said_and_counted_once() {
        let mut drifts = Drifts::default();
        let found = [drift("a", Treatment::Warn)];
        assert_eq!(drifts.record(&found, &[], at(0)).counted, found);
        let again = drifts.record(&found, &[], at(90));
        assert_eq!((again.counted, again.found, again.wake), (Vec::new(), None, None));
        drifts.record(&[], &[], at(100));
        assert!(drifts.record(&found, &[], at(110)).found.is_some());
    }

    #[test]
    fn pointers_take_fields_away_and_never_the_identity() {
        let of = |ignore: &[&str]| {
            let drift =
                Drift { ignore: ignore.iter().map(|i| DriftIgnore((*i).to_owned())).collect(), ..Drift::default() };
            pointers(&drift).map(|pointers| pointers.into_iter().map(str::to_owned).collect::<Vec<_>>())
        };
        assert_eq!(of(&["Service", "/spec/replicas"]).unwrap(), ["/spec/replicas"]);
        for wrong in ["/metadata", "/metadata/labels", "/kind", "/metadata/labels/headwater.dev~1installation"] {
            assert!(of(&[wrong]).unwrap_err().starts_with(&format!("spec.drift.ignore: {wrong} would")), "{wrong}");
        }
        let mut object =
            json!({"metadata": {"labels": {"a/b": "1", "c": "2"}}, "spec": {"replicas": 1, "list": [1, 2]}});
        remove(&mut object, &["/spec/replicas", "/metadata/labels/a~1b", "/spec/list/0", "/spec/none/x", "/x"]);
        assert_eq!(object, json!({"metadata": {"labels": {"c": "2"}}, "spec": {"list": [1, 2]}}));
    }
}
