//! From what a spec asks for to a parsed bundle, asking a registry as rarely as possible: a version is looked up once per
//! interval, a digest is pulled and parsed once, however many clusters use it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, OnceCell};

use super::{ArtifactError, Credentials, Repository, Selector, unpack};
use crate::plan::BundleRef;
use crate::render::Bundle;

/// Parsed bundles kept; a fleet in the middle of an upgrade uses two or three.
const KEPT: usize = 8;

/// Longer than any interval: a lookup that nobody has repeated for so long is for a spec that is no more.
const FORGOTTEN: Duration = Duration::from_secs(48 * 3600);

/// What a spec asks for.
pub struct Request<'a> {
    /// `oci://HOST[:PORT]/PATH`.
    pub artifact: &'a str,
    /// Version, range or digest.
    pub version: &'a str,
    /// Plain HTTP.
    pub insecure: bool,
    /// For the registry.
    pub credentials: &'a Credentials,
    /// A lookup younger than this is good enough.
    pub max_age: Duration,
}

/// A bundle, ready to render.
#[derive(Clone)]
pub struct Resolved {
    /// Version and digest.
    pub reference: BundleRef,
    /// The parsed content, shared.
    pub bundle: Arc<Bundle>,
}

/// What one may see another may not, so how a question was asked is part of it.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct LookupId {
    artifact: String,
    version: String,
    insecure: bool,
    credentials: Credentials,
}

struct Lookup {
    at: Instant,
    digest: String,
}

/// Lookups and bundles of this process.
#[derive(Default)]
pub struct Bundles {
    lookups: Mutex<BTreeMap<LookupId, Lookup>>,
    /// Newest use last.
    bundles: Mutex<VecDeque<(String, Arc<OnceCell<Resolved>>)>>,
}

impl Bundles {
    /// Finds, pulls, checks and parses.
    pub async fn resolve(&self, request: &Request<'_>) -> Result<Resolved, ArtifactError> {
        let selector = Selector::parse(request.version)?;
        // A client costs memory and a millisecond (it loads trust roots): only where something is to be asked.
        let repository = || Repository::new(request.artifact, request.insecure, request.credentials);
        let digest = self.look_up(request, &selector, repository).await?;

        let cell = self.cell(&digest).await;
        // A second instance that wants the same digest waits here rather than pulling it again; others pass by.
        cell.get_or_try_init(|| async {
            let archive = repository()?.pull(&digest).await?;
            let bundle = Bundle::parse(&unpack(&archive.bytes)?)
                .map_err(|e| ArtifactError::Rejected(format!("{digest}: {e}")))?;
            let reference = BundleRef { version: bundle.version().to_string(), digest: digest.clone() };
            Ok(Resolved { reference, bundle: Arc::new(bundle) })
        })
        .await
        .cloned()
    }

    async fn cell(&self, digest: &str) -> Arc<OnceCell<Resolved>> {
        let mut bundles = self.bundles.lock().await;
        let known = bundles.iter().position(|(known, _)| known == digest).and_then(|index| bundles.remove(index));
        let entry = known.unwrap_or_else(|| (digest.to_owned(), Arc::default()));
        let cell = Arc::clone(&entry.1);
        bundles.push_back(entry);
        if bundles.len() > KEPT {
            bundles.pop_front();
        }
        cell
    }

    async fn look_up(
        &self,
        request: &Request<'_>,
        selector: &Selector,
        repository: impl Fn() -> Result<Repository, ArtifactError>,
    ) -> Result<String, ArtifactError> {
        if let Selector::Digest(digest) = selector {
            return Ok(digest.clone());
        }
        let id = LookupId {
            artifact: request.artifact.to_owned(),
            version: request.version.to_owned(),
            insecure: request.insecure,
            credentials: request.credentials.clone(),
        };
        let known = self.lookups.lock().await.get(&id).map(|l| (l.at.elapsed(), l.digest.clone()));
        if let Some((age, digest)) = &known
            && *age < request.max_age
        {
            return Ok(digest.clone());
        }
        let digest = match find(selector, request.version, &repository()?).await {
            Ok(digest) => digest,
            // A registry that is away for a while changes nothing: what was chosen stays chosen.
            Err(error) if error.is_transient() => match known {
                Some((_, digest)) => {
                    tracing::warn!(%error, artifact = request.artifact, "registry does not answer; the last known digest stays");
                    digest
                }
                None => return Err(error),
            },
            Err(error) => return Err(error),
        };
        let mut lookups = self.lookups.lock().await;
        lookups.retain(|_, lookup| lookup.at.elapsed() < FORGOTTEN);
        lookups.insert(id, Lookup { at: Instant::now(), digest: digest.clone() });
        Ok(digest)
    }
}

async fn find(selector: &Selector, version: &str, repository: &Repository) -> Result<String, ArtifactError> {
    let tags = repository.tags().await?;
    let Some((_, tag)) = selector.choose(&tags) else {
        let mut versions: Vec<semver::Version> = tags.iter().filter_map(|t| super::version_of(t)).collect();
        versions.sort();
        let newest = match versions.last() {
            Some(newest) => format!("newest available is {newest}"),
            None => "the repository has no versions".to_owned(),
        };
        return Err(ArtifactError::NoMatch(format!(
            "spec.distribution.version: no version matches {version:?}; {newest}"
        )));
    };
    repository.digest(&tag).await
}
