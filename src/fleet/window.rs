//! Windows: when clusters may be admitted, and when not.

use cronexpr::{Crontab, MakeTimestamp, parse_crontab};
use jiff::{SignedDuration, Timestamp};

use crate::api::{Window, WindowKind};

/// Changes of the gate that are looked ahead for the next opening. A denial every minute of an hour is fewer.
const LOOK_AHEAD: usize = 128;

/// Whether clusters may be admitted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// They may.
    Open,
    /// They may not, until then; `None` if no opening is in sight.
    Closed(Option<Timestamp>),
}

/// The windows of a stage or an instance.
#[derive(Debug, Clone, Default)]
pub struct Windows(Vec<Rule>);

#[derive(Debug, Clone)]
struct Rule {
    kind: WindowKind,
    cron: Crontab,
    length: SignedDuration,
}

impl Rule {
    /// The end of the window that is open at an instant.
    fn open_until(&self, at: Timestamp) -> Option<Timestamp> {
        // The first opening that is not over yet. What cannot be computed (far beyond the calendar) is closed.
        let start = self.next(at.checked_sub(self.length).ok()?)?;
        if start > at { None } else { start.checked_add(self.length).ok() }
    }

    /// The next opening after an instant.
    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        self.cron.find_next(MakeTimestamp(after)).ok().map(|zoned| zoned.timestamp())
    }

    /// The next instant at which the window opens or closes.
    fn change(&self, after: Timestamp) -> Option<Timestamp> {
        [self.open_until(after), self.next(after)].into_iter().flatten().min()
    }
}

impl Windows {
    /// Reads windows as a spec has them.
    ///
    /// # Errors
    /// The sentence that says which one is wrong, what was found and what is expected.
    pub fn read(windows: &[Window], place: &str) -> Result<Self, String> {
        let read = |(number, window): (usize, &Window)| {
            let place = format!("{place}.windows[{number}]");
            if window.cron.split_whitespace().count() != 5 {
                return Err(format!(
                    "{place}.cron: {:?} must have five fields (minute, hour, day of month, month, day of week), such as \"0 22 * * 1-4\"",
                    window.cron
                ));
            }
            jiff::tz::TimeZone::get(&window.time_zone).map_err(|_| {
                format!(
                    "{place}.timeZone: {:?} is not a name of the IANA time zone database, such as Europe/London",
                    window.time_zone
                )
            })?;
            let cron = parse_crontab(&format!("{} {}", window.cron, window.time_zone))
                .map_err(|error| format!("{place}.cron: {:?} is not a crontab expression: {error}", window.cron))?;
            let length = window.duration.get().map_err(|error| format!("{place}.duration: {error}"))?;
            let length = SignedDuration::try_from(length).map_err(|error| format!("{place}.duration: {error}"))?;
            Ok(Rule { kind: window.kind, cron, length })
        };
        windows.iter().enumerate().map(read).collect::<Result<_, _>>().map(Self)
    }

    fn allows(&self, at: Timestamp) -> bool {
        let is_open = |kind| self.0.iter().any(|rule| rule.kind == kind && rule.open_until(at).is_some());
        let has_allow = self.0.iter().any(|rule| rule.kind == WindowKind::Allow);
        !is_open(WindowKind::Deny) && (!has_allow || is_open(WindowKind::Allow))
    }

    /// Whether clusters may be admitted at an instant.
    pub fn gate(&self, now: Timestamp) -> Gate {
        if self.allows(now) {
            return Gate::Open;
        }
        let mut at = now;
        for _ in 0..LOOK_AHEAD {
            let Some(next) = self.0.iter().filter_map(|rule| rule.change(at)).min() else { break };
            if self.allows(next) {
                return Gate::Closed(Some(next));
            }
            at = next;
        }
        Gate::Closed(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::WindowLength;

    fn window(kind: WindowKind, cron: &str, duration: &str, zone: &str) -> Window {
        Window { kind, cron: cron.to_owned(), duration: WindowLength(duration.to_owned()), time_zone: zone.to_owned() }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn windows_open_and_close_in_their_own_time_zone() {
        use WindowKind::{Allow, Deny};
        let nights = window(Allow, "0 22 * * 1-4", "6h", "Europe/London");
        let freeze = window(Deny, "0 0 24 12 *", "72h", "UTC");
        let both = vec![nights.clone(), freeze.clone()];
        let cases: &[(&[Window], &str, Gate)] = &[
            (&[], "2026-07-01T12:00:00Z", Gate::Open),
            // In summer London is an hour before UTC.
            (&both[..1], "2026-07-01T20:59:59Z", Gate::Closed(Some(at("2026-07-01T21:00:00Z")))),
            (&both[..1], "2026-07-01T21:00:00Z", Gate::Open),
            (&both[..1], "2026-07-02T02:59:59Z", Gate::Open),
            (&both[..1], "2026-07-02T03:00:00Z", Gate::Closed(Some(at("2026-07-02T21:00:00Z")))),
            // In winter it is not.
            (&both[..1], "2026-12-01T21:30:00Z", Gate::Closed(Some(at("2026-12-01T22:00:00Z")))),
            // Over the weekend: Friday to Monday.
            (&both[..1], "2026-07-03T12:00:00Z", Gate::Closed(Some(at("2026-07-06T21:00:00Z")))),
            // Deny beats allow, and alone it leaves all other times.
            (&both, "2026-12-24T22:30:00Z", Gate::Closed(Some(at("2026-12-28T22:00:00Z")))),
            (&both[1..], "2026-12-23T23:59:59Z", Gate::Open),
            (&both[1..], "2026-12-24T00:00:00Z", Gate::Closed(Some(at("2026-12-27T00:00:00Z")))),
            // What never is.
            (&[window(Allow, "0 0 31 2 *", "1h", "UTC")], "2026-07-01T12:00:00Z", Gate::Closed(None)),
            // The hour that is left out in spring opens nothing.
            (
                &[window(Allow, "30 2 * * *", "1h", "Europe/Berlin")],
                "2026-03-29T00:29:00Z",
                Gate::Closed(Some(at("2026-03-30T00:30:00Z"))),
            ),
        ];
        for (windows, now, expected) in cases {
            assert_eq!(Windows::read(windows, "spec").unwrap().gate(at(now)), *expected, "{now} {windows:?}");
        }
    }

    #[test]
    fn what_is_no_window_is_refused_with_an_example() {
        for (cron, zone, expected) in [
            ("0 22 * *", "UTC", "spec.stages[0].windows[0].cron: \"0 22 * *\" must have five fields"),
            ("0 22 * * 1 UTC", "UTC", "spec.stages[0].windows[0].cron: \"0 22 * * 1 UTC\" must have five fields"),
            ("61 22 * * 1", "UTC", "spec.stages[0].windows[0].cron: \"61 22 * * 1\" is not a crontab expression"),
            ("0 22 * * 1", "Mars/Base", "spec.stages[0].windows[0].timeZone: \"Mars/Base\" is not a name of the IANA"),
        ] {
            let window = window(WindowKind::Allow, cron, "1h", zone);
            let error = Windows::read(&[window], "spec.stages[0]").unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
