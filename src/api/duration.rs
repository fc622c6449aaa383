//! Durations as Go and Flux write them (`30s`, `1h30m`), bounded so that a typo can
//! neither hammer a cluster nor silence an instance for years.

use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Why a string is not an accepted duration; the text says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} must be a duration such as {example}, between {min} and {max}")]
pub struct ParseDurationError {
    found: String,
    example: &'static str,
    min: &'static str,
    max: &'static str,
}

/// Go's duration syntax, as far as Kubernetes APIs use it; digits are bounded so that
/// neither CEL nor we can overflow.
const PATTERN: &str = r"^([0-9]{1,5}(\\.[0-9]{1,3})?(ms|s|m|h))+$";

fn parse_go_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() || rest.len() > 32 {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let whole = number.split('.').next()?;
        if number.is_empty() || whole.is_empty() || whole.len() > 5 || number.ends_with('.') {
            return None;
        }
        let number: f64 = number.parse().ok()?;
        let (unit, tail) = match tail {
            t if t.starts_with("ms") => (0.001, &t[2..]),
            t if t.starts_with('s') => (1.0, &t[1..]),
            t if t.starts_with('m') => (60.0, &t[1..]),
            t if t.starts_with('h') => (3600.0, &t[1..]),
            _ => return None,
        };
        total += Duration::from_secs_f64(number * unit);
        rest = tail;
    }
    Some(total)
}

macro_rules! bounded_duration {
    ($(#[$doc:meta])* $name:ident, $default:literal, $min:literal .. $max:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl Default for $name {
            fn default() -> Self {
                Self($default.to_owned())
            }
        }

        impl $name {
            /// The parsed value. The API server enforces the same rule, but an object
            /// stored before a rule existed can still hold anything.
            ///
            /// # Errors
            /// When the text is no duration or out of bounds.
            pub fn get(&self) -> Result<Duration, ParseDurationError> {
                let bounds = parse_go_duration($min)..=parse_go_duration($max);
                parse_go_duration(&self.0)
                    .filter(|d| bounds.contains(&Some(*d)))
                    .ok_or_else(|| ParseDurationError {
                        found: self.0.clone(),
                        example: $default,
                        min: $min,
                        max: $max,
                    })
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string",
                    "maxLength": 32,
                    "x-kubernetes-validations": [{
                        "rule": format!(
                            "self.matches('{PATTERN}') && duration(self) >= duration('{}') && duration(self) <= duration('{}')",
                            $min, $max
                        ),
                        "message": concat!("must be a duration such as ", $default, ", between ", $min, " and ", $max),
                    }],
                })
            }
        }
    };
}

bounded_duration! {
    /// How often something is looked at anew: 30 seconds to 24 hours.
    Interval, "10m", "30s".."24h"
}
bounded_duration! {
    /// How long something may take: one second to one hour.
    Timeout, "5m", "1s".."1h"
}
bounded_duration! {
    /// How long a cluster may take from its admission until it is done: ten seconds to a week.
    ProgressDeadline, "10m", "10s".."168h"
}
bounded_duration! {
    /// How long a stage is watched before the next begins: up to 90 days.
    Soak, "0s", "0s".."2160h"
}
bounded_duration! {
    /// How long a window is open: a minute to a week.
    WindowLength, "1h", "1m".."168h"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_parse_as_go_writes_them() {
        for (text, seconds) in [("30s", 30), ("1h30m", 5400), ("10m", 600), ("1.5h", 5400), ("90000ms", 90)] {
            assert_eq!(Interval(text.into()).get().unwrap(), Duration::from_secs(seconds), "{text}");
        }
    }

    #[test]
    fn bad_durations_are_refused_with_what_is_allowed() {
        for text in ["", "10", "-5m", "0s", "1000000h", "1e9h", "29s", "25h", "1.h", ".5h", "5m ", "５m"] {
            assert_eq!(
                Interval(text.into()).get().unwrap_err().to_string(),
                format!("{text:?} must be a duration such as 10m, between 30s and 24h"),
            );
        }
    }
}
