//! One virtual cluster.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::answer::Sort;
use super::store::Store;

/// How a cluster behaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mood {
    /// As it should.
    #[default]
    Well,
    /// It takes requests and never answers; watches say nothing and do not end.
    Silent,
    /// It ends connections without an answer.
    Gone,
    /// It knows no credentials.
    Unauthorized,
    /// It answers everything with this status.
    Failing(u16),
}

/// Requests since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Objects read.
    pub gets: u32,
    /// Lists, page by page.
    pub lists: u32,
    /// Watches opened.
    pub watches: u32,
    /// What changes something, or could have.
    pub writes: u32,
    /// Versions, discovery, reviews and dry runs.
    pub asks: u32,
}

impl Counts {
    /// Of all sorts.
    pub fn all(self) -> u32 {
        self.gets + self.lists + self.watches + self.writes + self.asks
    }
}

/// One virtual cluster.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) token: String,
    store: Mutex<Store>,
    newest: watch::Sender<u64>,
    mood: Mutex<Mood>,
    counts: [AtomicU32; 5],
}

impl Member {
    pub(super) fn new(number: usize, name: String) -> Self {
        let store = Store::new(number);
        Self {
            token: format!("token-of-{name}"),
            name,
            newest: watch::Sender::new(store.version()),
            store: Mutex::new(store),
            mood: Mutex::default(),
            counts: Default::default(),
        }
    }

    /// Does something with its objects, and wakes watches when something has changed.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Store) -> T) -> T {
        let mut store: MutexGuard<'_, Store> = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let before = store.version();
        let result = act(&mut store);
        if store.version() != before {
            self.newest.send_replace(store.version());
        }
        result
    }

    pub(super) fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    pub(super) fn mood(&self) -> Mood {
        *self.mood.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_mood(&self, mood: Mood) {
        *self.mood.lock().unwrap_or_else(PoisonError::into_inner) = mood;
    }

    pub(super) fn count(&self, sort: Sort) {
        let [gets, lists, watches, writes, asks] = &self.counts;
        let counter = match sort {
            Sort::Get => gets,
            Sort::List => lists,
            Sort::Watch => watches,
            Sort::Write => writes,
            Sort::Ask => asks,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> Counts {
        let [gets, lists, watches, writes, asks] = self.counts.each_ref().map(|n| n.load(Ordering::Relaxed));
        Counts { gets, lists, watches, writes, asks }
    }
}
