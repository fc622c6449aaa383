//! Bundles in OCI registries: from a version to a digest, from a digest to checked bytes, and back. IO goes to registries
//! and, for `build`, to a folder.

mod archive;
mod cache;
mod credentials;
mod registry;
mod source;
mod version;

pub use archive::{Archive, pack, unpack};
pub use cache::{Bundles, Request, Resolved};
pub use credentials::Credentials;
pub use registry::{CONFIG_MEDIA_TYPE, LAYER_MEDIA_TYPE, Repository};
pub use source::{read_folder, versions};
pub use version::{Selector, tag_of, version_of};

/// Why a bundle cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ArtifactError {
    /// The version asked for is no version.
    #[error("{0}")]
    Selector(String),
    /// Nothing in the repository matches.
    #[error("{0}")]
    NoMatch(String),
    /// The registry did not answer, or not well: worth another try.
    #[error("registry {registry}: {cause}")]
    Registry {
        /// Host and port.
        registry: String,
        /// What happened.
        cause: String,
    },
    /// The registry refuses our credentials, or wants some.
    #[error("registry {registry}: {cause}; check spec.distribution.artifactPullSecret")]
    Denied {
        /// Host and port.
        registry: String,
        /// What it said.
        cause: String,
    },
    /// The bytes are not those the digest names.
    #[error("digest mismatch: expected {expected}, got {found} (registry {registry}); nothing was applied")]
    Digest {
        /// Asked for.
        expected: String,
        /// Received.
        found: String,
        /// From where.
        registry: String,
    },
    /// The bytes are what was asked for, but no bundle.
    #[error("{0}")]
    Rejected(String),
}

impl ArtifactError {
    /// A word for conditions, events and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Selector(_) => "InvalidVersion",
            Self::NoMatch(_) => "VersionNotFound",
            Self::Registry { .. } => "ArtifactFailed",
            Self::Denied { .. } => "ArtifactAccessDenied",
            Self::Digest { .. } => "ArtifactDigestMismatch",
            Self::Rejected(_) => "ArtifactRejected",
        }
    }

    /// Whether waiting may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Registry { .. })
    }
}
