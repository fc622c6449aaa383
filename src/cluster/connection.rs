//! How it stands with the way to one cluster: a state machine without client, clock or chance. What is to be done follows from
//! [`Link::due`] and [`Link::standing`]; who does it tells [`Link::on`] how it went.
//!
//! ```text
//!            answered                         a pass fails to reach it
//!   New ───────────────▶ Connected ──────────────────────────────────────┐
//!    │ ▲ ▲                   ▲  │                                        ▼
//!    │ │ └── watch broke off ┼──┘                                        │
//!    │ └── Secret changed    └─────────────── answered ──────  BackingOff, Unauthorised
//!    └─────── fails ─────────────────────────────────────▶     (asked again, ever more rarely)
//!                                                              Refused (not asked again)
//! ```
//!
//! That a cluster answers a probe does not prove that it works: failures are forgotten only when a pass came through. So
//! a cluster that answers probes and nothing else is given up ever longer too.

use std::time::{Duration, Instant};

/// First pause after a cluster did not answer.
const FIRST: Duration = Duration::from_secs(1);
/// First pause after it did not accept us: a Secret being replaced at this moment is told by its watch.
const FIRST_UNAUTHORISED: Duration = Duration::from_secs(5);
/// No pause is longer, up to [`JITTER`]: so long does a cluster that is back have to wait at most.
const LAST: Duration = Duration::from_secs(300);
/// Pauses are up to this part shorter or longer, so that clusters that went down together are not asked together.
const JITTER: f64 = 0.2;

/// Why a cluster cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// It does not answer, or not as an API server should.
    Unreachable,
    /// It does not accept our credentials.
    Unauthorised,
    /// Its Secret or the kubeconfig in it cannot be used: only a change of the Secret can help.
    Refused,
}

/// Where a link stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Not asked yet, or to be asked anew.
    New,
    /// The cluster answers.
    Connected,
    /// It cannot be used.
    Down(Trouble),
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It is being asked from now on.
    Asked,
    /// The answer was as it should be.
    Answered,
    /// The answer, or that there was none, means this. The server may want to be left alone for some time.
    Failed(Trouble, Option<Duration>),
    /// A pass over an instance came through.
    Worked,
    /// A pass over an instance could not reach it.
    Broke(Trouble),
    /// A watch broke off: nothing may have happened, or everything. It is asked before a pass relies on it.
    Doubted,
    /// The Secret has changed, or what answers is another cluster: nothing that is known counts.
    Changed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    None,
    Running,
    /// Running, with what has changed meanwhile.
    Outdated,
}

/// The way to one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    standing: Standing,
    /// In a row; see above for what ends the row.
    failures: u32,
    /// When a cluster that is down is asked again.
    again: Option<Instant>,
    probe: Probe,
}

/// Something to ask, and how urgently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nobody knows yet how it stands: most clusters answer, and work waits.
    Contact,
    /// It was down when asked last; not before this instant.
    Retry(Instant),
}

impl Default for Link {
    fn default() -> Self {
        Self { standing: Standing::New, failures: 0, again: None, probe: Probe::None }
    }
}

impl Link {
    /// Where it stands.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Whether, how and when it is to be asked.
    pub fn due(&self) -> Option<Due> {
        match (self.probe, self.standing) {
            (Probe::Running | Probe::Outdated, _) | (_, Standing::Connected) => None,
            (Probe::None, Standing::New) => Some(Due::Contact),
            (Probe::None, Standing::Down(_)) => self.again.map(Due::Retry),
        }
    }

    /// The link after an event. `roll`, between 0 and 1, is chance.
    #[must_use]
    pub fn on(self, event: Event, now: Instant, roll: f64) -> Self {
        match event {
            Event::Asked => Self { probe: Probe::Running, ..self },
            // It was asked with what is not so any more.
            Event::Answered | Event::Failed(..) if self.probe == Probe::Outdated => Self::default(),
            Event::Answered => {
                Self { standing: Standing::Connected, failures: self.failures, again: None, probe: Probe::None }
            }
            Event::Failed(trouble, patience) => Self { probe: Probe::None, ..self }.down(trouble, patience, now, roll),
            Event::Worked if self.standing == Standing::Connected => Self { failures: 0, ..self },
            Event::Broke(trouble) if self.standing == Standing::Connected => self.down(trouble, None, now, roll),
            Event::Doubted if self.standing == Standing::Connected => Self { standing: Standing::New, ..self },
            // Of a pass that began when it stood otherwise.
            Event::Worked | Event::Broke(_) | Event::Doubted => self,
            Event::Changed => {
                Self { probe: if self.probe == Probe::None { Probe::None } else { Probe::Outdated }, ..Self::default() }
            }
        }
    }

    fn down(self, trouble: Trouble, patience: Option<Duration>, now: Instant, roll: f64) -> Self {
        let first = match trouble {
            Trouble::Unreachable => Some(FIRST),
            Trouble::Unauthorised => Some(FIRST_UNAUTHORISED),
            Trouble::Refused => None,
        };
        let again = first.map(|first| {
            let pause = first.saturating_mul(2u32.saturating_pow(self.failures.min(16))).min(LAST);
            let pause = pause.mul_f64(1.0 - JITTER + 2.0 * JITTER * roll.clamp(0.0, 1.0));
            now + pause.max(patience.unwrap_or_default().min(LAST))
        });
        Self { standing: Standing::Down(trouble), failures: self.failures.saturating_add(1), again, ..self }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UNREACHABLE: Event = Event::Failed(Trouble::Unreachable, None);
    const HALF: f64 = 0.5;

    fn after(events: &[Event]) -> (Link, Instant) {
        let now = Instant::now();
        (events.iter().fold(Link::default(), |link, event| link.on(*event, now, HALF)), now)
    }

    /// Seconds until it is asked again.
    fn pause(events: &[Event]) -> Option<u64> {
        let (link, now) = after(events);
        match link.due() {
            Some(Due::Retry(at)) => Some(at.duration_since(now).as_secs()),
            _ => None,
        }
    }

    #[test]
    fn every_event_in_every_state() {
        let new = &[][..];
        let connected = &[Event::Asked, Event::Answered][..];
        let down = &[Event::Asked, UNREACHABLE][..];
        let unauthorised = &[Event::Asked, Event::Failed(Trouble::Unauthorised, None)][..];
        let refused = &[Event::Asked, Event::Failed(Trouble::Refused, None)][..];
        let is_down = |trouble| Standing::Down(trouble);
        let table = [
            (new, Event::Asked, Standing::New, None),
            (new, Event::Worked, Standing::New, Some("contact")),
            (new, Event::Broke(Trouble::Unreachable), Standing::New, Some("contact")),
            (new, Event::Changed, Standing::New, Some("contact")),
            (connected, Event::Worked, Standing::Connected, None),
            (connected, Event::Broke(Trouble::Unreachable), is_down(Trouble::Unreachable), Some("retry")),
            (connected, Event::Broke(Trouble::Unauthorised), is_down(Trouble::Unauthorised), Some("retry")),
            (connected, Event::Changed, Standing::New, Some("contact")),
            (connected, Event::Doubted, Standing::New, Some("contact")),
            (down, Event::Doubted, is_down(Trouble::Unreachable), Some("retry")),
            (down, Event::Asked, is_down(Trouble::Unreachable), None),
            (down, Event::Broke(Trouble::Unauthorised), is_down(Trouble::Unreachable), Some("retry")),
            (down, Event::Worked, is_down(Trouble::Unreachable), Some("retry")),
            (down, Event::Changed, Standing::New, Some("contact")),
            (unauthorised, Event::Answered, Standing::Connected, None),
            (unauthorised, UNREACHABLE, is_down(Trouble::Unreachable), Some("retry")),
            (unauthorised, Event::Changed, Standing::New, Some("contact")),
            (refused, Event::Worked, is_down(Trouble::Refused), None),
            (refused, Event::Changed, Standing::New, Some("contact")),
        ];
        for (state, event, standing, due) in table {
            let (link, now) = after(state);
            let link = link.on(event, now, HALF);
            let name = link.due().map(|due| if due == Due::Contact { "contact" } else { "retry" });
            assert_eq!((link.standing(), name), (standing, due), "{state:?}, then {event:?}");
        }
    }

    #[test]
    fn pauses_double_up_to_five_minutes() {
        let mut events = vec![];
        let mut pauses = vec![];
        for _ in 0..11 {
            events.push(UNREACHABLE);
            pauses.extend(pause(&events));
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(pause(&[Event::Failed(Trouble::Unauthorised, None)]), Some(5));
        let patient = |seconds| Event::Failed(Trouble::Unreachable, Some(Duration::from_secs(seconds)));
        assert_eq!(
            (pause(&[patient(60)]), pause(&[patient(1 << 60)])),
            (Some(60), Some(300)),
            "what a server asks for"
        );
        let (link, now) = after(&[]);
        let at = |roll| link.on(UNREACHABLE, now, roll).due();
        assert_eq!(at(0.0), Some(Due::Retry(now + Duration::from_millis(800))));
        assert_eq!(at(1.0), Some(Due::Retry(now + Duration::from_millis(1200))));
    }

    #[test]
    fn answering_probes_alone_forgets_no_failure() {
        let sham = [Event::Broke(Trouble::Unreachable), Event::Asked, Event::Answered].repeat(5);
        let life = [&[Event::Asked, Event::Answered], sham.as_slice(), &[Event::Broke(Trouble::Unreachable)]].concat();
        assert_eq!(pause(&life), Some(32));
        let well = [&life[..], &[Event::Asked, Event::Answered, Event::Worked, Event::Broke(Trouble::Unreachable)]];
        assert_eq!(pause(&well.concat()), Some(1));
    }

    #[test]
    fn what_was_asked_before_a_change_does_not_count() {
        for outdated in [Event::Answered, UNREACHABLE, Event::Failed(Trouble::Refused, None)] {
            let (link, _) = after(&[Event::Asked, Event::Changed, outdated]);
            assert_eq!((link.standing(), link.due()), (Standing::New, Some(Due::Contact)), "{outdated:?}");
        }
    }

    fn events() -> impl Strategy<Value = (Event, u64, f64)> {
        let trouble = prop_oneof![Just(Trouble::Unreachable), Just(Trouble::Unauthorised), Just(Trouble::Refused)];
        let patience = proptest::option::of((0..u64::MAX / 2).prop_map(Duration::from_secs));
        let event = prop_oneof![
            // Whether it can be asked, or answer, is up to the test below.
            Just(Event::Asked),
            Just(Event::Answered),
            (trouble.clone(), patience).prop_map(|(trouble, patience)| Event::Failed(trouble, patience)),
            trouble.prop_map(Event::Broke),
            Just(Event::Worked),
            Just(Event::Changed),
            Just(Event::Doubted),
        ];
        (event, 0..1000u64, 0.0..1.0)
    }

    proptest! {
        /// Whatever happens in whatever order: one question at a time, no cluster that could come back is forgotten or waits for
        /// longer than the longest pause, and a change of the Secret is followed by a question with the new one.
        #[test]
        fn nothing_is_forgotten(life in proptest::collection::vec(events(), 0..60)) {
            let mut now = Instant::now();
            let (mut link, mut running, mut outdated) = (Link::default(), false, false);
            for (event, pause, roll) in life {
                now += Duration::from_secs(pause);
                match event {
                    Event::Asked if link.due().is_none() => continue,
                    Event::Answered | Event::Failed(..) if !running => continue,
                    _ => {}
                }
                let before = link;
                link = link.on(event, now, roll);
                match event {
                    Event::Asked => running = true,
                    Event::Answered | Event::Failed(..) => {
                        if outdated {
                            prop_assert_eq!(link.due(), Some(Due::Contact));
                        }
                        (running, outdated) = (false, false);
                    }
                    Event::Changed => {
                        outdated = running;
                        prop_assert_eq!(link.standing(), Standing::New);
                    }
                    Event::Worked => prop_assert_eq!(link.standing(), before.standing()),
                    Event::Broke(_) | Event::Doubted => {}
                }
                prop_assert!(!running || link.due().is_none(), "asked twice at a time");
                let is_at_rest = matches!(link.standing(), Standing::Connected | Standing::Down(Trouble::Refused));
                prop_assert!(running || is_at_rest || link.due().is_some(), "{link:?} is never asked again");
                if let Some(Due::Retry(at)) = link.due() {
                    let longest = LAST.mul_f64(1.0 + JITTER);
                    prop_assert!(at.saturating_duration_since(now) <= longest);
                }
                if link.standing() == Standing::Connected && before.standing() != Standing::Connected {
                    prop_assert_eq!(event, Event::Answered);
                }
            }
        }
    }
}
