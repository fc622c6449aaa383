//! Versions and ranges as Flux users write them (the Masterminds/semver dialect).

use semver::{Version, VersionReq};

/// Which bundle of a repository is wanted: `spec.distribution.version`.
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
    /// Reads a version, a range or a digest; `None` for what is neither.
    pub fn read(text: &str) -> Option<Self> {
        let trimmed = text.trim();
        if let Some(hex) = trimmed.strip_prefix("sha256:") {
            let valid = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            return valid.then(|| Self::Digest(trimmed.to_owned()));
        }
        if let Ok(version) = Version::parse(trimmed.strip_prefix('v').unwrap_or(trimmed)) {
            return Some(Self::Exact(version));
        }
        let ranges: Option<Vec<VersionReq>> = trimmed.split("||").map(|part| range(part.trim())).collect();
        ranges.map(Self::Range)
    }

    /// Whether a version is one of those wanted. A digest says nothing about versions.
    pub fn admits(&self, version: &Version) -> bool {
        match self {
            Self::Exact(wanted) => version == wanted,
            Self::Range(ranges) => ranges.iter().any(|r| r.matches(version)),
            Self::Digest(_) => false,
        }
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
