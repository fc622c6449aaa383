//! Versions and ranges as Flux users write them (the Masterminds/semver dialect), and versions as tags.

use semver::{Version, VersionReq};

use super::ArtifactError;

/// Which bundle of a repository is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// Exactly this version.
    Exact(Version),
    /// The newest version that one of these ranges admits.
    Range(Vec<VersionReq>),
    /// Exactly these bytes.
    Digest(String),
}

impl Selector {
    /// Parses `spec.distribution.version`.
    pub fn parse(text: &str) -> Result<Self, ArtifactError> {
        let refuse = || {
            ArtifactError::Selector(format!(
                "spec.distribution.version: {text:?} is neither a version nor a semver range nor a digest (expected e.g. \"2.9.4\", \"2.x\", \"2.9.x\", \">=2.8 <3\", \"sha256:<64 hex digits>\")"
            ))
        };
        let trimmed = text.trim();
        if let Some(hex) = trimmed.strip_prefix("sha256:") {
            let valid = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            return if valid { Ok(Self::Digest(trimmed.to_owned())) } else { Err(refuse()) };
        }
        if let Ok(version) = Version::parse(trimmed.strip_prefix('v').unwrap_or(trimmed)) {
            return Ok(Self::Exact(version));
        }
        let ranges: Option<Vec<VersionReq>> = trimmed.split("||").map(|part| range(part.trim())).collect();
        ranges.map(Self::Range).ok_or_else(refuse)
    }

    /// The newest of `tags` that is admitted.
    pub fn choose(&self, tags: &[String]) -> Option<(Version, String)> {
        tags.iter()
            .filter_map(|tag| Some((version_of(tag)?, tag.clone())))
            .filter(|(version, _)| match self {
                Self::Exact(wanted) => version == wanted,
                Self::Range(ranges) => ranges.iter().any(|r| r.matches(version)),
                Self::Digest(_) => false,
            })
            .max()
    }
}

/// One alternative of a range.
fn range(text: &str) -> Option<VersionReq> {
    if let Some((low, high)) = text.split_once(" - ") {
        return VersionReq::parse(&format!(">={}, <={}", low.trim(), high.trim())).ok();
    }
    // Comparators may stand apart from their version (`>= 2.8`), and be separated by blanks or commas.
    let mut comparators: Vec<String> = Vec::new();
    for word in text.split([' ', ',']).filter(|w| !w.is_empty()) {
        match comparators.last_mut() {
            Some(last) if last.ends_with(['<', '>', '=', '~', '^']) => last.push_str(word),
            _ => comparators.push(word.to_owned()),
        }
    }
    if comparators.is_empty() {
        return None;
    }
    // A bare partial version means all its patches (`2.9` is 2.9.x); Cargo would read it as a caret.
    let comparators: Vec<String> = comparators
        .into_iter()
        .map(|c| {
            if c.starts_with(|first: char| first.is_ascii_digit()) && !c.contains(['x', 'X', '*']) {
                format!("={c}")
            } else {
                c
            }
        })
        .collect();
    VersionReq::parse(&comparators.join(", ")).ok()
}

/// Tag of a version: `+` is not allowed in tags.
pub fn tag_of(version: &Version) -> String {
    version.to_string().replace('+', "_")
}

/// Version of a tag; `None` for tags that are no versions.
pub fn version_of(tag: &str) -> Option<Version> {
    Version::parse(&tag.strip_prefix('v').unwrap_or(tag).replacen('_', "+", 1)).ok()
}

/// What to say when nothing matches.
pub(super) fn no_match(wanted: &str, there: impl Iterator<Item = Version>) -> ArtifactError {
    let newest = match there.max() {
        Some(newest) => format!("newest available is {newest}"),
        None => "the repository has no versions".to_owned(),
    };
    ArtifactError::NoMatch(format!("spec.distribution.version: no version matches {wanted:?}; {newest}"))
}

/// Refuses a bundle under the tag of another version: an old bundle, signed as well as any, would come as a new one.
pub fn check_tag(tag: &str, digest: &str, version: &Version) -> Result<(), ArtifactError> {
    if version_of(tag).as_ref() == Some(version) {
        return Ok(());
    }
    Err(ArtifactError::Rejected(format!(
        "{digest}: is under tag {tag:?}, but is version {version}; push it as {:?}",
        tag_of(version)
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_choose_as_flux_users_expect() {
        let tags: Vec<String> =
            ["2.7.5", "2.8.8", "2.9.4", "2.9.4_1", "2.10.0", "2.11.0-rc.1", "3.0.0", "latest", "sha256-abc"]
                .map(str::to_owned)
                .to_vec();
        for (range, expected) in [
            ("2.x", "2.10.0"),
            ("2.9.x", "2.9.4_1"),
            ("2.9", "2.9.4_1"),
            ("2", "2.10.0"),
            ("2.9.4", "2.9.4"),
            ("v2.9.4", "2.9.4"),
            (">=2.8 <2.9", "2.8.8"),
            (">= 2.8, < 2.9", "2.8.8"),
            ("~2.8.1", "2.8.8"),
            ("^2.8", "2.10.0"),
            ("2.7.x || 2.8.x", "2.8.8"),
            ("2.7.0 - 2.9.0", "2.8.8"),
            ("*", "3.0.0"),
            (">=2.11.0-rc.1 <3", "2.11.0-rc.1"),
        ] {
            assert_eq!(
                Selector::parse(range).unwrap().choose(&tags).map(|c| c.1).as_deref(),
                Some(expected),
                "{range}"
            );
        }
        assert_eq!(Selector::parse(">=4").unwrap().choose(&tags), None);
    }

    #[test]
    fn what_is_no_version_is_refused_with_examples() {
        for text in ["2.x.x.x", "latest", "", ">=", "sha256:abc", "2.9.4 || ", "<script>"] {
            let error = Selector::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("spec.distribution.version: {text:?} is neither")), "{error}");
        }
    }

    #[test]
    fn build_metadata_travels_in_the_tag() {
        let version = Version::parse("2.9.4+1").unwrap();
        assert_eq!(tag_of(&version), "2.9.4_1");
        assert_eq!(version_of("2.9.4_1"), Some(version));
    }
}
