//! From what a spec asks for to a parsed bundle, asking a registry as rarely as possible: a version is looked up once per
//! interval, a digest is verified, pulled and parsed once, however many clusters use it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, OnceCell};

use super::verify::{self, Verification};
use super::version::no_match;
use super::{Admitted, ArtifactError, Demands, Provenance, Selector, check_tag, embedded, version_of};
use crate::plan::BundleRef;
use crate::registry::{Access, Address, RegistryError, Repository};
use crate::render::Bundle;

/// Parsed bundles kept; a fleet in the middle of an upgrade uses two or three.
const KEPT: usize = 8;

/// Longer than any interval: what nobody has asked for so long is for a spec that is no more.
const FORGOTTEN: Duration = Duration::from_secs(48 * 3600);

/// What a spec asks for.
pub struct Request<'a> {
    /// Where bundles come from.
    pub origin: Origin,
    /// Version, range or digest.
    pub version: &'a str,
    /// A lookup younger than this is good enough.
    pub max_age: Duration,
}

/// Where bundles come from.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// This binary.
    Embedded,
    /// A repository. What one may see another may not, so how it is asked is part of the question.
    Repository {
        /// Which.
        address: Address,
        /// How it is reached.
        access: Box<Access>,
        /// Who has to have signed.
        verification: Option<Box<Verification>>,
    },
}

/// A bundle, ready to render.
#[derive(Clone)]
pub struct Resolved {
    /// Version and digest.
    pub reference: BundleRef,
    /// The parsed content, shared.
    pub bundle: Arc<Bundle>,
    /// What is known of who made it.
    pub provenance: Provenance,
}

struct Lookup {
    at: Instant,
    chosen: Chosen,
}

/// What a version stands for now.
#[derive(Clone, PartialEq, Eq)]
struct Chosen {
    /// None when the digest itself was asked for.
    tag: Option<String>,
    digest: String,
}

/// Lookups, verifications and bundles of this process.
#[derive(Default)]
pub struct Bundles {
    demands: Demands,
    lookups: Mutex<BTreeMap<(Origin, String), Lookup>>,
    verified: Mutex<BTreeMap<(Origin, String), (Instant, Verdict)>>,
    /// Newest use last.
    parsed: Mutex<VecDeque<(String, Cell)>>,
}

type Cell = Arc<OnceCell<(BundleRef, Arc<Bundle>)>>;
type Verdict = Arc<OnceCell<Provenance>>;

impl Bundles {
    /// With what the administrator demands.
    pub fn new(demands: Demands) -> Self {
        Self { demands, ..Self::default() }
    }

    /// What the administrator demands.
    pub fn demands(&self) -> &Demands {
        &self.demands
    }

    /// Finds, verifies, pulls, checks and parses, in this order: the tag is asked for once, and everything after it goes by
    /// the digest it named.
    pub async fn resolve(&self, request: &Request<'_>) -> Result<Resolved, ArtifactError> {
        let selector = Selector::parse(request.version)?;
        let (chosen, provenance) = match &request.origin {
            Origin::Embedded => {
                (Chosen { tag: None, digest: embedded::choose(&selector, request.version)? }, Provenance::Embedded)
            }
            Origin::Repository { address, access, verification } => {
                self.demands.check_place(address)?;
                self.demands.check_verified(verification.is_some())?;
                // A client costs memory and a millisecond: it is made only where something is to be asked.
                let repository = || Repository::new(address, access);
                let chosen = self.look_up(request, &selector, repository).await?;
                let provenance = match verification {
                    Some(verification) => {
                        self.verified(&request.origin, verification, &chosen.digest, repository).await?
                    }
                    None => Provenance::NotConfigured,
                };
                (chosen, provenance)
            }
        };
        let digest = &chosen.digest;
        // A second instance that wants the same digest waits here rather than pulling it again; others pass by.
        let cell = self.cell(digest).await;
        let read = cell.get_or_try_init(|| async {
            let admitted = match &request.origin {
                Origin::Embedded => embedded::archive(digest)?,
                Origin::Repository { address, access, .. } => {
                    Admitted::pull(&Repository::new(address, access)?, digest, &provenance).await?
                }
            };
            let bundle = admitted.parse()?;
            let reference = BundleRef { version: bundle.version().to_string(), digest: digest.clone() };
            Ok::<_, ArtifactError>((reference, Arc::new(bundle)))
        });
        let (reference, bundle) = read.await?.clone();
        if let Some(tag) = &chosen.tag {
            check_tag(tag, digest, bundle.version())?;
        }
        Ok(Resolved { reference, bundle, provenance })
    }

    async fn cell(&self, digest: &str) -> Cell {
        let mut parsed = self.parsed.lock().await;
        let known = parsed.iter().position(|(known, _)| known == digest).and_then(|index| parsed.remove(index));
        let entry = known.unwrap_or_else(|| (digest.to_owned(), Arc::default()));
        let cell = Arc::clone(&entry.1);
        parsed.push_back(entry);
        if parsed.len() > KEPT {
            parsed.pop_front();
        }
        cell
    }

    /// Whether who is trusted has signed; found out once per digest and policy.
    async fn verified(
        &self,
        origin: &Origin,
        verification: &Verification,
        digest: &str,
        repository: impl Fn() -> Result<Repository, RegistryError>,
    ) -> Result<Provenance, ArtifactError> {
        let cell = {
            let mut verified = self.verified.lock().await;
            verified.retain(|_, (at, _)| at.elapsed() < FORGOTTEN);
            let entry =
                verified.entry((origin.clone(), digest.to_owned())).or_insert_with(|| (Instant::now(), Arc::default()));
            entry.0 = Instant::now();
            Arc::clone(&entry.1)
        };
        let provenance = cell.get_or_try_init(|| async { verify::verify(&repository()?, digest, verification).await });
        Ok(provenance.await?.clone())
    }

    async fn look_up(
        &self,
        request: &Request<'_>,
        selector: &Selector,
        repository: impl Fn() -> Result<Repository, RegistryError>,
    ) -> Result<Chosen, ArtifactError> {
        if let Selector::Digest(digest) = selector {
            return Ok(Chosen { tag: None, digest: digest.clone() });
        }
        let id = (request.origin.clone(), request.version.to_owned());
        let known = self.lookups.lock().await.get(&id).map(|l| (l.at.elapsed(), l.chosen.clone()));
        if let Some((age, chosen)) = &known
            && *age < request.max_age
        {
            return Ok(chosen.clone());
        }
        let chosen = match (find(selector, request.version, &repository()?).await, known) {
            (Ok(chosen), Some((_, before))) if chosen != before => {
                let (tag, was, digest) = (&chosen.tag, &before.digest, &chosen.digest);
                tracing::info!(version = request.version, ?tag, %was, %digest, "the repository has another digest now");
                chosen
            }
            (Ok(chosen), _) => chosen,
            // A registry that is away for a while changes nothing: what was chosen stays chosen.
            (Err(error), Some((_, chosen))) if error.is_transient() => {
                tracing::warn!(%error, "registry does not answer; the last known digest stays");
                chosen
            }
            (Err(error), _) => return Err(error),
        };
        let mut lookups = self.lookups.lock().await;
        lookups.retain(|_, lookup| lookup.at.elapsed() < FORGOTTEN);
        lookups.insert(id, Lookup { at: Instant::now(), chosen: chosen.clone() });
        Ok(chosen)
    }
}

async fn find(selector: &Selector, version: &str, repository: &Repository) -> Result<Chosen, ArtifactError> {
    let tags = repository.tags().await?;
    match selector.choose(&tags) {
        Some((_, tag)) => Ok(Chosen { digest: repository.digest(&tag).await?, tag: Some(tag) }),
        None => Err(no_match(version, tags.iter().filter_map(|tag| version_of(tag)))),
    }
}
