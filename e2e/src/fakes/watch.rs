//! Watches: changes of one resource of one cluster, as lines of JSON.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::channel::Sender;

use super::member::{Member, Mood};
use super::object::Object;
use super::path::{Labels, Target};
use super::refusal::Refusal;
use super::store::Change;

/// How often a quiet watch is told how far it is.
const BOOKMARK: Duration = Duration::from_secs(60);

/// What is to be watched, and how.
pub(super) struct Asked {
    pub(super) member: Arc<Member>,
    pub(super) target: Target,
    pub(super) labels: Labels,
    /// Changes after this; without it, everything that is there comes first.
    pub(super) from: Option<u64>,
    pub(super) lasts: Duration,
    pub(super) bookmarks: bool,
    pub(super) metadata_only: bool,
}

impl Asked {
    /// Tells until its time is over, or nobody listens any more.
    pub(super) async fn run(self, mut to: Sender<Bytes>) {
        let end = tokio::time::Instant::now() + self.lasts;
        let resource = self.target.resource();
        let mut newest = self.member.newest();
        let mut told = if let Some(version) = self.from {
            version
        } else {
            let (objects, version) =
                self.member.with(|store| (store.list(&self.target, &self.labels, usize::MAX, None).0, store.version()));
            let lines: String = objects.iter().map(|object| self.line("ADDED", object)).collect();
            if to.send_data(Bytes::from(lines)).await.is_err() {
                return;
            }
            version
        };
        loop {
            newest.mark_unchanged();
            let (changes, version) = self.member.with(|store| (store.since(&resource, told), store.version()));
            if self.member.mood() != Mood::Well {
                // A dead server says nothing, and does not hang up either.
                tokio::time::sleep_until(end).await;
                return;
            }
            let Some(changes) = changes else {
                let line = format!("{{\"type\":\"ERROR\",\"object\":{}}}\n", Refusal::expired().status());
                let _ = to.send_data(Bytes::from(line)).await;
                return;
            };
            let lines: String = changes.iter().filter_map(|change| self.tell(change)).collect();
            if !lines.is_empty() && to.send_data(Bytes::from(lines)).await.is_err() {
                return;
            }
            told = version;
            let is_over = tokio::select! {
                news = newest.changed() => { if news.is_err() { return } continue }
                () = tokio::time::sleep_until(end) => true,
                () = tokio::time::sleep(BOOKMARK) => false,
            };
            if self.bookmarks && to.send_data(Bytes::from(Self::bookmark(told))).await.is_err() || is_over {
                return;
            }
        }
    }

    fn means(&self, object: &Object) -> bool {
        let is_here = self.target.namespace.is_empty() || object.content.namespace == self.target.namespace;
        let is_it = self.target.name.is_empty() || object.content.name == self.target.name;
        is_here && is_it && self.labels.select(&object.content.metadata["labels"])
    }

    fn tell(&self, change: &Change) -> Option<String> {
        let was = change.before.as_ref().is_some_and(|object| self.means(object));
        let is = !change.is_gone && self.means(&change.after);
        let what = match (was, is) {
            (false, false) => return None,
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
        };
        Some(self.line(what, &change.after))
    }

    fn line(&self, what: &str, object: &Object) -> String {
        let mut line = format!("{{\"type\":\"{what}\",\"object\":");
        object.write(self.metadata_only, false, &mut line);
        line.push_str("}\n");
        line
    }

    fn bookmark(version: u64) -> String {
        format!(
            "{{\"type\":\"BOOKMARK\",\"object\":{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",\
             \"metadata\":{{\"resourceVersion\":\"{version}\",\"creationTimestamp\":null}}}}}}\n"
        )
    }
}
