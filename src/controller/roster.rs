//! Which instances are this operator's: those of its shard. Whoever is no longer among them is forgotten.
//!
//! Moving an instance to another shard is safe without the two operators talking to each other. The one that has it now sees
//! it go, and starts no further pass. If a pass is under way, it cannot go on for long beside the first change of the other
//! one: both write the inventory before they change anything and once more when they are done, each names the version it has
//! read, and so the one that comes second fails there, and looks again or has no instance any more. What it wrote until then
//! is an application of the same spec, or a deletion by UID of what the inventory had let go of; and if the spec changed
//! together with the label, what it wrote last is drift that the other one sees and repairs. That is no more than what a
//! pass that ends by a killed operator leaves behind.

use std::collections::BTreeMap;

use kube::ResourceExt;
use kube::runtime::watcher::Event;

use super::Guarded;
use crate::api::SHARD_LABEL;

/// An instance that this operator has nothing to do with any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gone {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Member {
    uid: String,
    since: u64,
}

/// All instances of this operator, by name.
#[derive(Debug, Default)]
pub(super) struct Roster {
    shard: String,
    mine: BTreeMap<String, Member>,
    /// What a relist has shown so far.
    incoming: BTreeMap<String, Member>,
    /// How many there have been.
    count: u64,
}

impl Roster {
    /// Of a shard; none are the instances without the label, or with an empty one.
    pub(super) fn new(shard: Option<&str>) -> Self {
        Self { shard: shard.unwrap_or_default().to_owned(), ..Self::default() }
    }

    /// Which instances have to be watched. A selector cannot say "not there or empty", so without a shard it is all of them.
    pub(super) fn selector(&self) -> Option<String> {
        (!self.shard.is_empty()).then(|| format!("{SHARD_LABEL}={}", self.shard))
    }

    fn is_mine(&self, instance: &Guarded) -> bool {
        instance.labels().get(SHARD_LABEL).map_or("", String::as_str) == self.shard
    }

    /// Which one it was to come, if it is this operator's: another number for one that comes back.
    pub(super) fn since(&self, name: &str, uid: &str) -> Option<u64> {
        let known = [&self.incoming, &self.mine].into_iter().filter_map(|members| members.get(name));
        known.filter(|member| member.uid == uid).map(|member| member.since).next()
    }

    fn member(&mut self, instance: &Guarded) -> (String, Member) {
        let (name, uid) = (instance.name_any(), instance.uid().unwrap_or_default());
        let since = self.since(&name, &uid).unwrap_or_else(|| {
            self.count += 1;
            self.count
        });
        (name, Member { uid, since })
    }

    /// What an event of the watch means to this operator, and whom it has to forget.
    pub(super) fn take(&mut self, event: Event<Guarded>) -> (Option<Event<Guarded>>, Vec<Gone>) {
        match event {
            Event::Init => {
                self.incoming.clear();
                (Some(Event::Init), Vec::new())
            }
            Event::InitApply(instance) if self.is_mine(&instance) => {
                let (name, member) = self.member(&instance);
                self.incoming.insert(name, member);
                (Some(Event::InitApply(instance)), Vec::new())
            }
            Event::InitApply(_) => (None, Vec::new()),
            Event::InitDone => {
                let before = std::mem::replace(&mut self.mine, std::mem::take(&mut self.incoming));
                let gone = before.into_iter().filter(|(name, member)| self.mine.get(name) != Some(member));
                (Some(Event::InitDone), gone.map(|(name, member)| Gone { name, uid: member.uid }).collect())
            }
            Event::Apply(instance) if self.is_mine(&instance) => {
                let (name, member) = self.member(&instance);
                let uid = member.uid.clone();
                let before = self.mine.insert(name.clone(), member).filter(|before| before.uid != uid);
                (Some(Event::Apply(instance)), before.map(|b| Gone { name, uid: b.uid }).into_iter().collect())
            }
            // Also one that was moved to another shard: to us that is as if it was deleted.
            Event::Apply(instance) | Event::Delete(instance) => {
                let name = instance.name_any();
                let Some(member) = self.mine.remove(&name) else { return (None, Vec::new()) };
                (Some(Event::Delete(instance)), vec![Gone { name, uid: member.uid }])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::core::DeserializeGuard;
    use serde_json::json;

    use super::*;

    fn instance(name: &str, uid: &str, labels: &serde_json::Value) -> Guarded {
        let object = json!({
            "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxInstance",
            "metadata": {"name": name, "namespace": "n", "uid": uid, "labels": labels},
            "spec": {"distribution": {"version": "2.x"}},
        });
        serde_json::from_value::<DeserializeGuard<_>>(object).unwrap()
    }

    fn gone(name: &str, uid: &str) -> Vec<Gone> {
        vec![Gone { name: name.to_owned(), uid: uid.to_owned() }]
    }

    #[test]
    fn instances_belong_to_the_shard_their_label_names() {
        let cases = [
            (json!({}), None, true),
            (json!({SHARD_LABEL: ""}), None, true),
            (json!({SHARD_LABEL: "b"}), None, false),
            (json!({SHARD_LABEL: "b"}), Some("b"), true),
            (json!({SHARD_LABEL: "c"}), Some("b"), false),
            (json!({}), Some("b"), false),
        ];
        for (labels, shard, mine) in cases {
            let mut roster = Roster::new(shard);
            let (event, _) = roster.take(Event::Apply(instance("a", "1", &labels)));
            assert_eq!((event.is_some(), roster.since("a", "1").is_some()), (mine, mine), "{labels} in {shard:?}");
        }
    }

    #[test]
    fn who_is_moved_to_another_shard_is_forgotten() {
        let mut roster = Roster::new(None);
        roster.take(Event::Apply(instance("a", "1", &json!({}))));
        let moved = instance("a", "1", &json!({SHARD_LABEL: "b"}));
        let (event, forgotten) = roster.take(Event::Apply(moved.clone()));
        assert!(matches!(event, Some(Event::Delete(_))));
        assert_eq!((forgotten, roster.since("a", "1")), (gone("a", "1"), None));
        let (event, forgotten) = roster.take(Event::Apply(moved));
        assert!(event.is_none() && forgotten.is_empty(), "once");
        roster.take(Event::Apply(instance("a", "1", &json!({}))));
        assert_eq!(roster.since("a", "1"), Some(2), "one that comes back is a new one");
    }

    #[test]
    fn who_left_while_nobody_watched_is_forgotten() {
        let mut roster = Roster::new(None);
        for (name, uid) in [("a", "1"), ("b", "2"), ("c", "3")] {
            roster.take(Event::Apply(instance(name, uid, &json!({}))));
        }
        roster.take(Event::Init);
        roster.take(Event::InitApply(instance("a", "1", &json!({}))));
        roster.take(Event::InitApply(instance("b", "4", &json!({}))));
        assert_eq!(roster.since("c", "3"), Some(3), "a list that is not complete says nothing");
        let (_, forgotten) = roster.take(Event::InitDone);
        assert_eq!(forgotten, [gone("b", "2"), gone("c", "3")].concat());
        let (_, forgotten) = roster.take(Event::Delete(instance("a", "1", &json!({}))));
        assert_eq!(forgotten, gone("a", "1"));
        assert_eq!((roster.since("a", "1"), roster.since("b", "4")), (None, Some(4)));
    }
}
