//! Bytes that may be read.

use super::archive::{Archive, unpack};
use super::verify::{self, Verification};
use super::{ArtifactError, artifact};
use crate::registry::Repository;
use crate::render::Bundle;
use crate::trust::Verified;

/// What is known of who made a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provenance {
    /// Nobody asked.
    NotConfigured,
    /// Somebody who is trusted.
    Verified(Verified),
    /// It is part of this binary, and as trusted as that.
    Embedded,
}

/// An archive that was decided about. Unpacking and parsing are reached only from here, so no byte of a bundle is read
/// before its digest was compared and its signature, where one is asked for, was found good.
pub struct Admitted {
    archive: Archive,
    digest: String,
}

impl Admitted {
    /// A file that the person at the command line names.
    pub fn local(archive: Archive) -> Self {
        Self { digest: archive.bundle_digest(), archive }
    }

    /// Pulls what was decided about, by the digest it was decided about.
    pub(super) async fn pull(repository: &Repository, digest: &str, _: &Provenance) -> Result<Self, ArtifactError> {
        let archive = artifact::pull(repository, digest).await?;
        Ok(Self { archive, digest: digest.to_owned() })
    }

    /// Verifies where that is asked for, and pulls: what the operator does, for the command line.
    pub async fn take(
        repository: &Repository,
        digest: &str,
        verification: Option<&Verification>,
    ) -> Result<(Self, Provenance), ArtifactError> {
        let provenance = match verification {
            Some(verification) => verify::verify(repository, digest, verification).await?,
            None => Provenance::NotConfigured,
        };
        Ok((Self::pull(repository, digest, &provenance).await?, provenance))
    }

    /// Unpacks and parses.
    pub fn parse(&self) -> Result<Bundle, ArtifactError> {
        let files = unpack(&self.archive.bytes)?;
        Bundle::parse(&files).map_err(|e| ArtifactError::Rejected(format!("{}: {e}", self.digest)))
    }

    /// The archive, to be written somewhere.
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// Digest of the bundle.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}
