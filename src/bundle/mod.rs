//! Bundles: from a version to a digest, from a digest to bytes that are allowed and verified, and only then to a parsed bundle;
//! and back into a registry, a layout or a file. IO goes through [`crate::registry`] and, for the command line, to files.

mod admitted;
mod archive;
mod artifact;
mod cache;
mod demands;
pub mod embedded;
mod layout;
mod source;
mod verify;
mod version;

pub use admitted::{Admitted, Provenance};
pub use archive::{Archive, pack};
pub use artifact::{CONFIG_MEDIA_TYPE, LAYER_MEDIA_TYPE, push};
pub use cache::{Bundles, Origin, Request, Resolved};
pub use demands::Demands;
pub use layout::Layout;
pub use source::{read_folder, versions};
pub use verify::Verification;
pub use version::{Selector, check_tag, tag_of, version_of};

use crate::registry::RegistryError;

/// Why a bundle cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ArtifactError {
    /// The version asked for is no version.
    #[error("{0}")]
    Selector(String),
    /// Nothing in the repository matches.
    #[error("{0}")]
    NoMatch(String),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The administrator of the operator does not allow it.
    #[error("{0}")]
    NotAllowed(String),
    /// Keys, identities or a trusted root that cannot be used.
    #[error("{0}")]
    Policy(String),
    /// Nobody who is trusted has signed it.
    #[error("{digest}: {why}; nothing was applied")]
    Unverified {
        /// Of the bundle.
        digest: String,
        /// Which check failed, and what was found.
        why: String,
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
            Self::Registry(error) => error.reason(),
            Self::NotAllowed(_) => "ArtifactNotAllowed",
            Self::Policy(_) => "InvalidVerification",
            Self::Unverified { .. } => "ArtifactUnverified",
            Self::Rejected(_) => "ArtifactRejected",
        }
    }

    /// Whether waiting may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Registry(error) if error.is_transient())
    }
}
