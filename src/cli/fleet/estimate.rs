//! When stages will probably end. Only what is known goes in: soaks, windows, deadlines, and how long clusters have taken so far.

use std::collections::BTreeMap;
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::api::{Bound, FluxFleet, FluxFleetStatus, FluxInstance, Phase, StageState, StageStatus, Target};
use crate::fleet::{Gate, MAX_IN_FLIGHT, Rules, StageRules};

/// When a stage ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum End {
    /// It has ended.
    Past,
    /// Then, if clusters take as long as those before them.
    About(Timestamp),
    /// Not later than then, if no cluster fails or goes away: none has come so far yet that its time could be told.
    AtLatest(Timestamp),
    /// Nobody knows, because of this.
    Unknown(&'static str),
}

/// How long clusters take from their admission to a target until they are good: what half of them took. None before the first one is.
pub(super) fn pace<'i>(instances: impl Iterator<Item = &'i FluxInstance>, target: &Target) -> Option<SignedDuration> {
    let took = instances.filter_map(|instance| {
        let status = instance.status.as_ref()?;
        let admitted = status.admitted.as_ref().filter(|a| a.digest == target.digest && !a.rollback)?;
        let good = status.last_good.as_ref().filter(|good| good.digest == target.digest)?;
        let took = good.at.0.duration_since(admitted.at.0);
        (!took.is_negative()).then_some(took)
    });
    let mut took: Vec<SignedDuration> = took.collect();
    took.sort_unstable();
    took.get(took.len() / 2).copied()
}

/// The ends of all stages, by name.
pub(super) fn ends(
    fleet: &FluxFleet,
    pace: Option<SignedDuration>,
    now: Timestamp,
) -> Result<BTreeMap<String, End>, String> {
    let rules = Rules::read(&fleet.spec)?;
    let Some(status) = &fleet.status else { return Ok(BTreeMap::new()) };
    let mut walk = Walk { status, pace, at: Ok(now), is_bound: false };
    Ok(rules.stages.iter().map(|stage| (stage.name.clone(), walk.stage(stage))).collect())
}

/// Stage after stage.
struct Walk<'s> {
    status: &'s FluxFleetStatus,
    pace: Option<SignedDuration>,
    /// When the next stage begins, or why nobody knows.
    at: Result<Timestamp, &'static str>,
    /// That instant is a bound rather than a guess.
    is_bound: bool,
}

impl Walk<'_> {
    fn stage(&mut self, rules: &StageRules) -> End {
        let Some(stage) = self.status.stages.iter().find(|stage| stage.name == rules.name) else {
            self.at = Err("the stage is new");
            return End::Unknown("the stage is new");
        };
        // What is through does not hold up those after it, whatever joins it later.
        if stage.lets_by() {
            return End::Past;
        }
        self.at = self.at.and_then(|at| self.through(at, stage, rules));
        match self.at {
            Ok(at) if self.is_bound => End::AtLatest(at),
            Ok(at) => End::About(at),
            Err(why) => End::Unknown(why),
        }
    }

    fn is_said(&self, word: Option<&Bound>) -> bool {
        let target = self.status.target.as_ref();
        target.is_some_and(|target| word.is_some_and(|word| word.digest == target.digest))
    }

    /// When a stage that begins then is through.
    fn through(
        &mut self,
        begin: Timestamp,
        stage: &StageStatus,
        rules: &StageRules,
    ) -> Result<Timestamp, &'static str> {
        match self.status.phase {
            Some(Phase::Stopped) => return Err("the fleet has stopped"),
            Some(Phase::RollingBack | Phase::RolledBack) => return Err("the fleet goes back"),
            Some(Phase::Suspended) => return Err("the fleet is suspended"),
            _ => {}
        }
        let is_urgent = self.is_said(self.status.emergency.as_ref());
        let soak = if is_urgent { SignedDuration::ZERO } else { rules.soak };
        if stage.state == StageState::Soaking {
            let until = stage.soak_until.as_ref().map_or(begin, |until| until.0);
            return Ok(if is_urgent { begin } else { until.max(begin) });
        }
        if stage.counts.total == 0 {
            return Ok(begin);
        }
        if rules.needs_approval && !self.is_said(self.status.approved.as_ref()) {
            return Err("it waits for an approval");
        }
        let left = whole(stage.counts.waiting) + whole(stage.counts.updating);
        match stage.state {
            StageState::PreflightFailed => return Err("its preflight fails"),
            StageState::Updating if left == 0 => return Err("clusters that were done are unhealthy"),
            _ if left == 0 && stage.counts.done == 0 => return Err("none of its clusters can be moved"),
            _ => {}
        }
        let slots = rules.slots(whole(stage.counts.total)).min(MAX_IN_FLIGHT);
        let each = self.pace.unwrap_or(rules.deadline);
        self.is_bound |= self.pace.is_none() && left > 0;
        let mut at = begin;
        // Those that are on their way finish whatever the windows say.
        let mut waves = left.div_ceil(slots);
        if stage.counts.updating > 0 {
            at = later(at, each)?;
            waves -= 1;
        }
        for _ in 0..waves {
            if let Gate::Closed(opens) = rules.windows.gate(at)
                && !is_urgent
            {
                at = opens.ok_or("no window is in sight")?;
            }
            at = later(at, each)?;
        }
        later(at, soak)
    }
}

fn whole(count: i64) -> usize {
    usize::try_from(count).unwrap_or(0)
}

fn later(at: Timestamp, by: SignedDuration) -> Result<Timestamp, &'static str> {
    at.checked_add(by).map_err(|_| "it is beyond the calendar")
}

impl End {
    /// As people read it at a time.
    pub(super) fn tell(self, now: Timestamp) -> String {
        let then = |at: Timestamp| format!("{} (in {})", whole_second(at), Rough(at.duration_since(whole_second(now))));
        match self {
            Self::Past => String::new(),
            Self::About(at) => format!("about {}", then(at)),
            Self::AtLatest(at) => format!("at the latest {}", then(at)),
            Self::Unknown(why) => format!("unknown: {why}"),
        }
    }
}

/// An instant without parts of a second.
pub(super) fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// A duration by its two largest units.
pub(super) struct Rough(pub(super) SignedDuration);

impl fmt::Display for Rough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs().max(0);
        let units =
            [(seconds / 86_400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
        let largest = units.iter().position(|(count, _)| *count > 0);
        let Some(largest) = largest else { return f.write_str("0s") };
        let mut told = units.iter().skip(largest).take(2).filter(|(count, _)| *count > 0);
        told.try_for_each(|(count, unit)| write!(f, "{count}{unit}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::fleet::tests::{at, fleet};

    fn seconds(count: i64) -> SignedDuration {
        SignedDuration::from_secs(count)
    }

    #[test]
    fn ends_follow_from_pace_soaks_windows_and_words() {
        let mut fleet = fleet();
        let now = at("2026-07-01T12:00:00Z");
        // 28 of 40 are left, ten at once, then a soak of an hour. The last stage waits for a word.
        let ends_of = |fleet: &FluxFleet, pace| ends(fleet, pace, now).unwrap();
        let found = ends_of(&fleet, Some(seconds(60)));
        assert_eq!(found["canary"], End::Past);
        assert_eq!(
            found["early"],
            End::About(at("2026-07-01T13:03:00Z")),
            "28 are left: two waves after the one that is under way"
        );
        assert_eq!(found["rest"], End::Unknown("it waits for an approval"));
        // With no cluster done, deadlines are all that is known.
        let found = ends_of(&fleet, None);
        assert_eq!(found["early"], End::AtLatest(at("2026-07-01T13:30:00Z")));

        // Approved: its window opens at 22:00 in London for six hours, and 48 are left, five at once.
        let status = fleet.status.as_mut().unwrap();
        status.approved = serde_json::from_value(json!({"word": "2.9.4", "digest": "sha256:new"})).unwrap();
        let found = ends_of(&fleet, Some(seconds(3600)));
        assert_eq!(found["early"], End::About(at("2026-07-01T16:00:00Z")));
        assert_eq!(found["rest"], End::About(at("2026-07-03T01:00:00Z")), "six of ten waves in the first night");
        // An emergency waits for neither.
        let status = fleet.status.as_mut().unwrap();
        status.emergency.clone_from(&status.approved);
        let found = ends_of(&fleet, Some(seconds(3600)));
        assert_eq!(found["early"], End::About(at("2026-07-01T15:00:00Z")));
        assert_eq!(found["rest"], End::About(at("2026-07-02T01:00:00Z")));

        fleet.status.as_mut().unwrap().phase = Some(Phase::Stopped);
        let found = ends_of(&fleet, Some(seconds(60)));
        assert_eq!(found["early"], End::Unknown("the fleet has stopped"));
        assert_eq!(found["rest"], End::Unknown("the fleet has stopped"));
    }

    #[test]
    fn a_pace_is_what_half_of_the_clusters_took_to_this_target() {
        let instance = |digest: &str, good: &str, took: i64, rollback: bool| -> FluxInstance {
            let begin = at("2026-07-01T12:00:00Z");
            let revision = json!({"version": "2.9.4", "digest": good, "config": "c", "at": begin + seconds(took)});
            let admitted =
                json!({"version": "2.9.4", "digest": digest, "by": "prod", "at": begin, "rollback": rollback});
            serde_json::from_value(json!({
                "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxInstance", "metadata": {"name": "a"},
                "spec": {"distribution": {"version": "2.x"}}, "status": {"admitted": admitted, "lastGood": revision},
            }))
            .unwrap()
        };
        let target = Target {
            version: "2.9.4".into(),
            digest: "new".into(),
            since: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at("2026-07-01T12:00:00Z")),
        };
        let others = [
            instance("new", "old", 5, false),
            instance("old", "old", 5, false),
            instance("new", "new", 5, true),
            instance("new", "new", -5, false),
        ];
        assert_eq!(pace(others.iter(), &target), None);
        let some = [30, 40, 9000].map(|took| instance("new", "new", took, false));
        assert_eq!(pace(some.iter().chain(&others), &target), Some(seconds(40)));
    }

    #[test]
    fn durations_are_told_roughly() {
        for (count, expected) in [(-5, "0s"), (59, "59s"), (61, "1m1s"), (3600, "1h"), (90_061, "1d1h"), (86_405, "1d")]
        {
            assert_eq!(Rough(seconds(count)).to_string(), expected);
        }
    }
}
