//! The rules of a fleet, read from its spec once per plan.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use kube::core::{ParseExpressionError, Selector, SelectorExt};

use super::window::Windows;
use crate::api::{Approval, FluxFleetSpec, Share, Stage, Unreachable};

/// Clusters of one fleet that are on their way at once, whatever the stages say.
///
/// Every admission is a bundle's worth of images pulled on another cluster, mostly from one mirror, and a pass of the hub, which runs 64 at a
/// time: more in flight would not be faster, but would let one bad bundle reach more clusters before the first failure is seen.
/// Registries fell over when everything started at once (rancher/fleet#3585).
pub const MAX_IN_FLIGHT: usize = 64;

/// The rules of a fleet.
pub struct Rules {
    /// Which instances.
    pub selector: Selector,
    /// The stages, in order.
    pub stages: Vec<StageRules>,
}

/// The rules of a stage.
pub struct StageRules {
    /// Its name.
    pub name: String,
    /// Which instances; none for all that are left.
    pub selector: Option<Selector>,
    /// How many at once.
    pub concurrency: Share,
    /// How many may fail.
    pub max_failures: Share,
    /// From admission to done.
    pub deadline: SignedDuration,
    /// What counts as what after the deadline.
    pub unreachable: Unreachable,
    /// From the last one done to the next stage.
    pub soak: SignedDuration,
    /// Whether somebody has to say so.
    pub needs_approval: bool,
    /// When.
    pub windows: Windows,
}

impl Rules {
    /// Reads a spec.
    ///
    /// # Errors
    /// The sentence that says where the spec is wrong. The API server knows most of these rules; time zones and crontabs it does not.
    pub fn read(spec: &FluxFleetSpec) -> Result<Self, String> {
        let selector = spec.selector.clone().try_into();
        let selector = selector.map_err(|error: ParseExpressionError| wrong_selector("spec", &error))?;
        let stage = |(number, stage)| StageRules::read(spec, stage, number);
        let stages = spec.stages.iter().enumerate().map(stage).collect::<Result<_, _>>()?;
        distinct(&spec.stages)?;
        Ok(Self { selector, stages })
    }

    /// The stage of an instance with these labels: the first that selects it.
    pub fn stage_of(&self, labels: &BTreeMap<String, String>) -> Option<usize> {
        self.stages.iter().position(|stage| stage.selector.as_ref().is_none_or(|selector| selector.matches(labels)))
    }
}

/// The API server takes any text for an operator.
fn wrong_selector(place: &str, error: &ParseExpressionError) -> String {
    format!("{place}.selector: {error}; operators are In and NotIn with values, Exists and DoesNotExist without")
}

/// Stages can be told apart, and each can have clusters.
fn distinct(stages: &[Stage]) -> Result<(), String> {
    let mut names = BTreeSet::new();
    for (number, stage) in stages.iter().enumerate() {
        let name = &stage.name;
        if !names.insert(name) {
            return Err(format!(
                "spec.stages[{number}].name: {name:?} is the name of a stage before it too; each stage needs a name of its own"
            ));
        }
        if stage.selector.is_none() && number + 1 < stages.len() {
            return Err(format!(
                "spec.stages[{number}]: stage {name} has no selector, so that it takes every instance that no stage before it takes; only the last stage can be so"
            ));
        }
    }
    Ok(())
}

impl StageRules {
    fn read(spec: &FluxFleetSpec, stage: &Stage, number: usize) -> Result<Self, String> {
        let place = format!("spec.stages[{number}]");
        let defaults = &spec.defaults;
        let selector: Result<Option<Selector>, ParseExpressionError> =
            stage.selector.clone().map(TryInto::try_into).transpose();
        let share = |field: &str, share: Share, min: u32| match (&share, share.of(100)) {
            (Share::Number(found), _) if *found < min => {
                Err(format!("{place}.{field}: must be {min} or more, found {found}"))
            }
            (_, Some(_)) => Ok(share),
            (_, None) => {
                Err(format!("{place}.{field}: must be a number or percent from {min}% to 100%, found {share}"))
            }
        };
        let signed = |field: &str, duration: Result<std::time::Duration, _>| {
            let duration =
                duration.map_err(|error: crate::api::ParseDurationError| format!("{place}.{field}: {error}"))?;
            let duration = SignedDuration::try_from(duration).map_err(|error| format!("{place}.{field}: {error}"))?;
            // Stored instants have whole seconds.
            Ok::<_, String>(SignedDuration::from_secs(duration.as_secs() + i64::from(duration.subsec_nanos() > 0)))
        };
        let deadline = stage.progress_deadline.as_ref().unwrap_or(&defaults.progress_deadline);
        Ok(Self {
            name: stage.name.clone(),
            selector: selector.map_err(|error| wrong_selector(&place, &error))?,
            concurrency: share(
                "concurrency",
                stage.concurrency.clone().unwrap_or_else(|| defaults.concurrency.clone()).0,
                1,
            )?,
            max_failures: share(
                "maxFailures",
                stage.max_failures.clone().unwrap_or_else(|| defaults.max_failures.clone()).0,
                0,
            )?,
            deadline: signed("progressDeadline", deadline.get())?,
            unreachable: stage.unreachable.unwrap_or(defaults.unreachable),
            soak: signed("soak", stage.soak.clone().unwrap_or_default().get())?,
            needs_approval: stage.approval == Approval::Required,
            windows: Windows::read(&stage.windows, &place)?,
        })
    }

    /// How many clusters of a stage may be on their way.
    pub fn slots(&self, members: usize) -> usize {
        self.concurrency.of(members).unwrap_or(1).max(1)
    }

    /// How many clusters of a stage may fail.
    pub fn budget(&self, members: usize) -> usize {
        self.max_failures.of(members).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_that_cannot_be_told_apart_are_refused() {
        let read = |stages: serde_json::Value| {
            let spec = serde_json::json!({"selector": {}, "distribution": {"version": "2.x"}, "stages": stages});
            Rules::read(&serde_json::from_value(spec).unwrap()).map(|_| ())
        };
        let canary = serde_json::json!({"name": "canary", "selector": {"matchLabels": {"ring": "canary"}}});
        assert_eq!(read(serde_json::json!([canary, {"name": "rest"}])), Ok(()));
        let error = read(serde_json::json!([canary, canary])).unwrap_err();
        assert!(error.starts_with("spec.stages[1].name: \"canary\" is the name of a stage before it too"), "{error}");
        let error = read(serde_json::json!([{"name": "rest"}, canary])).unwrap_err();
        assert!(error.starts_with("spec.stages[0]: stage rest has no selector"), "{error}");
    }

    #[test]
    fn percent_is_rounded_down_and_at_least_one_cluster_moves() {
        let percent = |text: &str| Share::Percent(text.to_owned());
        for (share, members, slots, budget) in [
            (percent("1%"), 3, 1, 0),
            (percent("0%"), 3, 1, 0),
            (percent("10%"), 300, 30, 30),
            (percent("33%"), 10, 3, 3),
            (percent("100%"), 7, 7, 7),
            (percent("50%"), 0, 1, 0),
            (Share::Number(5), 3, 5, 5),
            (Share::Number(0), 3, 1, 0),
        ] {
            let text = share.to_string();
            let rules = StageRules {
                name: String::new(),
                selector: None,
                concurrency: share.clone(),
                max_failures: share,
                deadline: SignedDuration::ZERO,
                unreachable: Unreachable::Defer,
                soak: SignedDuration::ZERO,
                needs_approval: false,
                windows: Windows::default(),
            };
            assert_eq!((rules.slots(members), rules.budget(members)), (slots, budget), "{text} of {members}");
        }
        for text in ["150%", "5 %", "%", "-1%", "5", "1.5%", ""] {
            assert_eq!(percent(text).of(100), None, "{text}");
        }
    }
}
