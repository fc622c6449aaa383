//! The way from an installed version to a bundle, as the bundle declares it.

use std::fmt;

use semver::{Version, VersionReq};
use serde::Serialize;

use super::{CRD, Definition, DesiredSet, Survey};
use crate::render::Bundle;

/// How a bundle is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "way")]
pub enum Way {
    /// It is installed.
    Same,
    /// In one step.
    Direct,
    /// In one step too, but the CRDs of other versions are applied on the way, and objects written anew.
    Through {
        /// Versions, in order.
        versions: Vec<String>,
    },
    /// It is older than what is installed.
    Downgrade,
    /// The bundle knows no way from there.
    Closed {
        /// Ranges it can be reached from.
        from: Vec<String>,
    },
}

impl Way {
    /// Whether an upgrade may go it.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Same | Self::Direct | Self::Through { .. })
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same => write!(f, "the same version"),
            Self::Direct => write!(f, "in one step"),
            Self::Through { versions } => {
                write!(f, "through the CRDs of {}; all objects are written anew there", versions.join(", then "))
            }
            Self::Downgrade => write!(f, "none: it is older than what is installed"),
            Self::Closed { from } => write!(f, "none: it can be reached from {}", from.join(" or ")),
        }
    }
}

/// The way to a bundle. A pre-release counts as the release it is for.
pub fn way(installed: &Version, bundle: &Bundle) -> Way {
    let target = bundle.version();
    if target == installed {
        return Way::Same;
    }
    if target < installed {
        return Way::Downgrade;
    }
    let release = Version::new(installed.major, installed.minor, installed.patch);
    // Reading the bundle has made sure that these are ranges.
    let matches = |range: &str| VersionReq::parse(range).is_ok_and(|range| range.matches(&release));
    let upgrade = &bundle.manifest().upgrade;
    if matches(&upgrade.from) {
        return Way::Direct;
    }
    if let Some(detour) = upgrade.via.iter().find(|detour| matches(&detour.from)) {
        return Way::Through { versions: detour.through.clone() };
    }
    let detours = upgrade.via.iter().map(|detour| &detour.from);
    Way::Closed { from: std::iter::once(&upgrade.from).chain(detours).cloned().collect() }
}

/// Why the controllers of older objects would not work beside the live CRDs, which stay: they use the versions in which their own
/// bundle stores objects, and the API server has to answer for those. `None` when it does.
pub fn unserved(desired: &DesiredSet, survey: &Survey) -> Option<String> {
    desired.objects.iter().filter(|object| object.key.kind == CRD).find_map(|object| {
        let live = Definition::of(survey.crds.get(&object.key.name)?)?;
        let wanted = object.definition.as_ref()?;
        let served: Vec<&str> = live.served.iter().map(String::as_str).collect();
        (!live.served.contains(wanted.storage())).then(|| {
            format!(
                "the controllers of {} use {} of {}, which the CRD on the cluster no longer serves (it serves {})",
                desired.bundle.version,
                wanted.storage(),
                object.key.name,
                served.join(", ")
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_are_as_the_bundle_declares() {
        let manifest = "formatVersion: headwater.dev/bundle/v1\nname: tiny\nversion: 2.9.4\nappVersion: v2.9.4\n\
                        kubernetes: {refusedBelow: '1.30', minimum: '1.31', maximum: '1.34'}\n\
                        upgrade: {from: '>=2.7.0', via: [{from: '>=2.3.0, <2.7.0', through: [2.7.5]}]}\n\
                        components: [{name: web, registry: r.example, image: web, tag: v1}]\n";
        let bundle = Bundle::parse(&[("bundle.yaml".to_owned(), manifest.as_bytes().to_vec())].into()).unwrap();
        for (installed, expected) in [
            ("2.9.4", "the same version"),
            ("2.9.3", "in one step"),
            ("2.7.0-rc.1", "in one step"),
            ("2.8.8+1", "in one step"),
            ("2.3.0", "through the CRDs of 2.7.5; all objects are written anew there"),
            ("2.2.9", "none: it can be reached from >=2.7.0 or >=2.3.0, <2.7.0"),
            ("2.9.4+1", "none: it is older than what is installed"),
            ("2.10.0", "none: it is older than what is installed"),
        ] {
            let way = way(&Version::parse(installed).unwrap(), &bundle);
            assert_eq!(way.to_string(), expected, "{installed}");
            assert_eq!(way.is_open(), !expected.starts_with("none"));
        }
    }
}
