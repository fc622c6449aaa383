//! Copies manifests with all they refer to, and what refers to them, from one repository to another. What is there already is
//! not sent again, so a copy that broke off goes on where it was.

use std::collections::BTreeSet;

use super::{Fetched, Index, Manifest, RegistryError, Repository};

/// More than any image has; a registry must not keep us busy for ever.
const MOST: usize = 1_000;

/// What was copied and what was there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    /// Manifests sent.
    pub manifests: usize,
    /// Blobs sent.
    pub blobs: usize,
    /// Bytes of the blobs sent.
    pub bytes: u64,
    /// Manifests and blobs that were there.
    pub present: usize,
}

impl std::ops::AddAssign for Copied {
    fn add_assign(&mut self, other: Self) {
        self.manifests += other.manifests;
        self.blobs += other.blobs;
        self.bytes += other.bytes;
        self.present += other.present;
    }
}

/// Copies `digest`, all of its platforms if it is an index, and its signatures and other referrers; `tag` is what it is called
/// in the end. A tag is written last, so that it never names half a copy.
pub async fn copy(
    from: &Repository,
    to: &Repository,
    digest: &str,
    tag: Option<&str>,
) -> Result<Copied, RegistryError> {
    let mut copied = Copied::default();
    let mut seen = BTreeSet::new();
    // Whatever belongs to a manifest is sent before it: registries refuse an index without its manifests, and whoever finds
    // a manifest finds its signatures.
    let mut steps = vec![Step::Look(digest.to_owned())];
    while let Some(step) = steps.pop() {
        match step {
            Step::Look(digest) if seen.contains(&digest) => {}
            Step::Look(_) if seen.len() == MOST => {
                return Err(RegistryError::Unusable(format!(
                    "{digest} and what belongs to it are more than {MOST} manifests"
                )));
            }
            Step::Look(digest) => {
                let fetched = from.manifest(&digest).await?;
                let below = if fetched.is_index() { fetched.parse::<Index>()?.manifests } else { Vec::new() };
                let referrers = from.referrers(&digest, "").await?;
                steps.push(Step::Send(fetched));
                steps.extend(below.into_iter().chain(referrers).map(|entry| Step::Look(entry.digest)));
                seen.insert(digest);
            }
            Step::Send(fetched) => {
                // Signatures in cosign's older format are found by a tag.
                let old = format!("{}.sig", fetched.digest.replace(':', "-"));
                if let Some(signature) = from.find(&old).await? {
                    copied += send(from, to, &old, &signature).await?;
                }
                copied += send(from, to, &fetched.digest, &fetched).await?;
            }
        }
    }
    if let Some(tag) = tag
        && to.find_digest(tag).await?.as_deref() != Some(digest)
    {
        let fetched = from.manifest(digest).await?;
        to.push_manifest(tag, &fetched.media_type, &fetched.bytes).await?;
    }
    Ok(copied)
}

enum Step {
    /// Find out what belongs to a manifest.
    Look(String),
    /// Send one; what belongs to it is there.
    Send(Fetched),
}

/// Sends a manifest with its blobs, as far as they are not there.
async fn send(from: &Repository, to: &Repository, reference: &str, fetched: &Fetched) -> Result<Copied, RegistryError> {
    let mut copied = Copied::default();
    if !fetched.is_index() {
        for blob in fetched.parse::<Manifest>()?.blobs() {
            if to.has_blob(&blob.digest).await? {
                copied.present += 1;
            } else {
                copied.bytes += to.copy_blob(from, &blob).await?;
                copied.blobs += 1;
            }
        }
    }
    if to.find_digest(reference).await?.as_deref() == Some(&fetched.digest) {
        copied.present += 1;
    } else {
        to.push_manifest(reference, &fetched.media_type, &fetched.bytes).await?;
        copied.manifests += 1;
    }
    Ok(copied)
}
