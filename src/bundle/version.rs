//! Which tag of a repository a version or range means.

use semver::Version;

use super::ArtifactError;
pub use crate::api::Selector;

impl Selector {
    /// Parses `spec.distribution.version`.
    pub fn parse(text: &str) -> Result<Self, ArtifactError> {
        Self::read(text).ok_or_else(|| {
            ArtifactError::Selector(format!(
                "spec.distribution.version: {text:?} is neither a version nor a semver range nor a digest (expected e.g. \"2.9.4\", \"2.x\", \"2.9.x\", \">=2.8 <3\", \"sha256:<64 hex digits>\")"
            ))
        })
    }

    /// The newest of `tags` that is admitted.
    pub fn choose(&self, tags: &[String]) -> Option<(Version, String)> {
        tags.iter()
            .filter_map(|tag| Some((version_of(tag)?, tag.clone())))
            .filter(|(version, _)| self.admits(version))
            .max()
    }
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
