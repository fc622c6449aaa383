//! Which of several operators leads: the rules of a lease, without a client and without a clock.
//!
//! Why two never believe to lead at once, whatever happens to messages and processes:
//!
//! - A write of the lease names the version it replaces, so of two that replace the same version one loses.
//! - The holder believes in a renewal for [`Terms::deadline`], counted from when it *sent* it. Any other operator has to have
//!   seen that version for [`Terms::lease`], counted from when it *saw* it, before it replaces it. Sent comes before
//!   committed, committed before seen, and the deadline is shorter than the lease.
//! - Both count on clocks of their own that only go forward. A time that somebody else wrote is never looked at, so wall
//!   clocks may be wrong by years. What is left is how differently fast two clocks run: by less than a third.
//!
//! It is no fence: a request that is on its way arrives when it arrives. So what operators write is preconditioned or
//! idempotent, and the lease only keeps them from doing everything twice. And it holds for those who keep to it: who deletes
//! the Lease, or changes its holder by hand, may have two leaders for as long as the deadline.

use std::time::Duration;

/// An instant on this process' own clock, since a beginning of its own.
pub type Moment = Duration;

/// How long everything takes. All follows from one number, so that the parts always fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    seconds: u32,
}

impl Terms {
    /// For a lease of this length.
    pub fn new(seconds: u32) -> Self {
        Self { seconds: seconds.max(1) }
    }

    /// How long others leave a lease alone that does not change.
    pub fn lease(self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }

    /// How often it is renewed.
    pub fn renewal(self) -> Duration {
        self.lease() / 3
    }

    /// How long the holder relies on a renewal. The rest of the lease is for what it has on its way to arrive.
    pub fn deadline(self) -> Duration {
        self.lease() * 2 / 3
    }

    /// From the deadline to the end of the lease.
    pub fn margin(self) -> Duration {
        self.lease() / 3
    }

    /// Longest wait for an answer about the lease: it leaves time for a second attempt.
    pub fn patience(self) -> Duration {
        self.lease() / 6
    }

    /// Pause after an attempt that failed.
    pub fn pause(self) -> Duration {
        self.lease() / 12
    }
}

/// What a lease says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Who has it; empty when it was released.
    pub holder: String,
    /// How long it may stay as it is before it is anybody's.
    pub seconds: u32,
    /// How often the holder changed.
    pub transitions: u32,
}

/// A lease as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// UID of the object.
    pub uid: String,
    /// Resource version.
    pub version: u64,
    /// What it says.
    pub record: Record,
}

/// A write of the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// What it replaces, and nothing else; none: it creates the lease.
    pub over: Option<Stored>,
    /// What it says.
    pub record: Record,
}

/// What the API server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// There is no lease.
    Absent,
    /// There is this one.
    Found(Stored),
    /// A watch has shown this one; watches lag behind.
    Shown(Stored),
    /// Our write was accepted, and this came of it.
    Written(Stored),
    /// Our write was refused: the lease is not as we thought.
    Conflict,
    /// Nothing; a write may have happened.
    Nothing,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Look at the lease.
    Read,
    /// Write it.
    Write(Write),
    /// Wait until then, or until something new is known of the lease.
    Rest(Moment),
    /// Stop all work: the lead is lost, for good.
    End(Lost),
}

/// Why the lead is lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// No renewal was accepted in time.
    #[error("it could not be renewed within {} s", .0.as_secs_f32())]
    Expired(Duration),
    /// Another one has it.
    #[error("{}", if .0.is_empty() { "somebody cleared its holder".to_owned() } else { format!("{} has it", .0) })]
    Taken(String),
}

/// The state of one operator.
#[derive(Debug, Clone)]
pub struct Election {
    me: String,
    terms: Terms,
    /// The newest that is known; none when there is no lease.
    seen: Option<Stored>,
    /// `seen` is what is stored, as far as we know. Not so after a write whose outcome is unknown.
    is_known: bool,
    /// When what others have told of themselves has expired.
    free_at: Moment,
    read_at: Moment,
    write_at: Moment,
    leads_until: Option<Moment>,
    taken: Option<String>,
}

impl Election {
    /// Knows nothing yet. `me` is unique among all that run at the same time.
    pub fn new(me: String, terms: Terms) -> Self {
        let zero = Moment::ZERO;
        Self {
            me,
            terms,
            seen: None,
            is_known: false,
            free_at: zero,
            read_at: zero,
            write_at: zero,
            leads_until: None,
            taken: None,
        }
    }

    /// Until when this one leads, if nothing else happens.
    pub fn leads_until(&self) -> Option<Moment> {
        self.leads_until
    }

    /// Who has the lease as far as we know; empty when nobody has.
    pub fn holder(&self) -> &str {
        self.seen.as_ref().map_or("", |seen| &seen.record.holder)
    }

    /// Whether it is clear who leads, this one or another.
    pub fn is_settled(&self, now: Moment) -> bool {
        self.leads_until.is_some() || (self.is_known && !self.is_mine() && now < self.free_at)
    }

    fn is_mine(&self) -> bool {
        self.holder() == self.me
    }

    /// What to do now.
    pub fn next(&self, now: Moment) -> Next {
        if let Some(holder) = &self.taken {
            return Next::End(Lost::Taken(holder.clone()));
        }
        if self.leads_until.is_some_and(|until| now >= until) {
            return Next::End(Lost::Expired(self.terms.deadline()));
        }
        let at = if self.is_known { self.write_at } else { self.read_at };
        // Our own lease is taken back at once: that we run means that our predecessor does not.
        let is_free = self.leads_until.is_some() || self.is_mine();
        let at = if self.is_known && !is_free { at.max(self.free_at) } else { at };
        if now < at {
            return Next::Rest(self.leads_until.map_or(at, |until| until.min(at)));
        }
        if !self.is_known {
            return Next::Read;
        }
        let transitions = self.seen.as_ref().map_or(0, |seen| seen.record.transitions);
        let record = Record {
            holder: self.me.clone(),
            seconds: self.terms.seconds,
            transitions: transitions.saturating_add(u32::from(self.seen.is_some() && !self.is_mine())),
        };
        Next::Write(Write { over: self.seen.clone(), record })
    }

    /// Takes in what was answered at `now` to what was sent at `sent`, or shown by a watch.
    pub fn hear(&mut self, sent: Moment, now: Moment, answer: Answer) {
        match answer {
            Answer::Absent => {
                // Who held it may not know yet that it is gone: `free_at` stays.
                self.seen = None;
                self.is_known = true;
            }
            Answer::Found(stored) => self.see(now, stored),
            Answer::Shown(stored) => {
                if self.seen.as_ref().is_none_or(|seen| seen.version < stored.version) {
                    self.see(now, stored);
                }
            }
            Answer::Written(stored) => {
                let until = sent + self.terms.deadline();
                // An answer that comes too late to lead by it only says that the lease is ours.
                if self.leads_until.is_some() || now < until {
                    self.leads_until = Some(until);
                    self.write_at = sent + self.terms.renewal();
                }
                self.seen = Some(stored);
                self.is_known = true;
            }
            Answer::Conflict => {
                self.is_known = false;
                (self.read_at, self.write_at) = (now, now + self.terms.pause());
            }
            Answer::Nothing => {
                self.is_known = false;
                (self.read_at, self.write_at) = (now + self.terms.pause(), now + self.terms.pause());
            }
        }
    }

    fn see(&mut self, now: Moment, stored: Stored) {
        let known = self.seen.as_ref().map(|seen| seen.version);
        if known != Some(stored.version) {
            let seconds = if stored.record.seconds == 0 { self.terms.seconds } else { stored.record.seconds };
            let is_free = stored.record.holder.is_empty();
            self.free_at = if is_free { now } else { now + Duration::from_secs(seconds.into()) };
        }
        if self.leads_until.is_some() && stored.record.holder != self.me {
            self.taken = Some(stored.record.holder.clone());
        }
        self.seen = Some(stored);
        self.is_known = true;
    }

    /// Gives the lead up; what to write so that others need not wait. Only for who has nothing on its way any more.
    pub fn resign(&mut self) -> Option<Write> {
        self.leads_until.take()?;
        let over = self.seen.clone().filter(|_| self.is_mine())?;
        // Shorter than this it cannot be.
        let record = Record { holder: String::new(), seconds: 1, transitions: over.record.transitions };
        Some(Write { over: Some(over), record })
    }
}

#[cfg(test)]
mod tests;
