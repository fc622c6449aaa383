//! Labels that put a made-up cluster into a stage: found by trying, since selectors can say anything.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::SelectorExt;

use super::super::Rules;
use crate::api::FluxFleetSpec;

/// Combinations that are tried for a stage: with four keys of ten values each a few thousand are enough.
const TRIES: usize = 100_000;
/// A value that no selector names.
const OTHER: &str = "simulated";

type Labels = BTreeMap<String, String>;

/// Values that selectors name, by key.
fn mentioned<'s>(selectors: impl Iterator<Item = &'s LabelSelector>) -> BTreeMap<&'s str, BTreeSet<&'s str>> {
    let mut found: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for selector in selectors {
        for (key, value) in selector.match_labels.iter().flatten() {
            found.entry(key).or_default().insert(value);
        }
        for expression in selector.match_expressions.iter().flatten() {
            let values = expression.values.iter().flatten().map(String::as_str);
            found.entry(&expression.key).or_default().extend(values);
        }
    }
    found
}

/// Labels that the fleet selects, and of its stages this one takes.
pub(super) fn labels(spec: &FluxFleetSpec, rules: &Rules, stage: usize) -> Option<Labels> {
    let selectors = spec.stages.iter().take(stage + 1).filter_map(|stage| stage.selector.as_ref());
    let keys = mentioned(std::iter::once(&spec.selector).chain(selectors));
    // What the fleet and the stage name themselves is tried first.
    let own =
        mentioned(std::iter::once(&spec.selector).chain(spec.stages.get(stage).and_then(|s| s.selector.as_ref())));
    let choices: Vec<(&str, Vec<Option<&str>>)> = keys
        .iter()
        .map(|(key, values)| {
            let wanted = own.get(key);
            let named = wanted.into_iter().flatten().copied().map(Some);
            let rest = values.iter().copied().filter(|value| wanted.is_none_or(|w| !w.contains(value))).map(Some);
            let mut all: Vec<Option<&str>> = named.collect();
            if wanted.is_none() {
                all.push(None);
            }
            all.extend([Some(OTHER), None].into_iter().chain(rest));
            (*key, all)
        })
        .collect();
    let fits = |labels: &Labels| rules.selector.matches(labels) && rules.stage_of(labels) == Some(stage);
    (0..TRIES).map_while(|number| combination(&choices, number)).find(fits)
}

/// One of all combinations, by its number; none after the last.
fn combination(choices: &[(&str, Vec<Option<&str>>)], mut number: usize) -> Option<Labels> {
    let mut labels = Labels::new();
    for (key, values) in choices {
        if let Some(Some(value)) = values.get(number % values.len()) {
            labels.insert((*key).to_owned(), (*value).to_owned());
        }
        number /= values.len();
    }
    (number == 0).then_some(labels)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_are_found_for_every_selector_that_can_be_satisfied() {
        let spec: FluxFleetSpec = serde_json::from_value(json!({
            "selector": {"matchLabels": {"env": "prod"}, "matchExpressions": [{"key": "old", "operator": "DoesNotExist"}]},
            "distribution": {"version": "2.x"},
            "stages": [
                {"name": "canary", "selector": {"matchLabels": {"ring": "0"}}},
                {"name": "eu", "selector": {"matchExpressions": [
                    {"key": "region", "operator": "In", "values": ["eu-1", "eu-2"]}, {"key": "tier", "operator": "Exists"}]}},
                {"name": "never", "selector": {"matchLabels": {"env": "test"}}},
                {"name": "hidden", "selector": {"matchLabels": {"ring": "0", "region": "us"}}},
                {"name": "not-eu", "selector": {"matchExpressions": [{"key": "region", "operator": "NotIn", "values": ["eu-1"]}]}},
                {"name": "rest"},
            ],
        }))
        .unwrap();
        let rules = Rules::read(&spec).unwrap();
        let found: Vec<Option<Labels>> = (0..6).map(|stage| labels(&spec, &rules, stage)).collect();
        let satisfied: Vec<bool> = found.iter().map(Option::is_some).collect();
        assert_eq!(satisfied, [true, true, false, false, true, true], "{found:?}");
    }
}
