//! One repository. A tag is resolved to a digest once; after that everything goes by digest, and bytes are compared with their
//! digest and size before anybody reads them.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::TryStreamExt;
use http::{HeaderMap, Method, Uri, header};
use http_body_util::{BodyExt, BodyStream, StreamBody};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::connect::Body;
use super::manifest::{DOCKER_INDEX, DOCKER_MANIFEST, is_digest};
use super::transport::{Answer, Ask, Line, Transport};
use super::{Access, Address, Descriptor, INDEX, Index, MANIFEST, RegistryError};
use crate::render::{cut, digest as digest_of, digest_text};

/// The most a registry has to take, by the distribution specification.
const MANIFEST_LIMIT: u64 = 4 << 20;
const TAGS_LIMIT: u64 = 8 << 20;
const PAGES_LIMIT: usize = 100;

const JSON: &str = "application/json";
const ANY: &str = "*/*";
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
                         application/vnd.docker.distribution.manifest.v2+json, \
                         application/vnd.docker.distribution.manifest.list.v2+json";

/// A repository.
#[derive(Clone)]
pub struct Repository {
    line: Line,
}

/// A manifest or an index whose bytes are what the digest names.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Its digest.
    pub digest: String,
    /// Its media type.
    pub media_type: String,
    /// The bytes.
    pub bytes: Bytes,
}

impl Fetched {
    /// Whether it lists other manifests.
    pub fn is_index(&self) -> bool {
        [INDEX, DOCKER_INDEX].contains(&self.media_type.as_str())
    }

    /// Reads it.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, RegistryError> {
        serde_json::from_slice(&self.bytes)
            .map_err(|e| RegistryError::Unusable(format!("{} is not a {}: {e}", self.digest, self.media_type)))
    }

    /// Describes it.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::of(&self.media_type, &self.bytes)
    }
}

impl Repository {
    /// Nothing is sent yet.
    pub fn new(address: &Address, access: &Access) -> Result<Self, RegistryError> {
        Ok(Self { line: Arc::new(Transport::new(address, access)?) })
    }

    /// Where it is.
    pub fn address(&self) -> &Address {
        &self.line.address
    }

    /// What `tag` is called in full.
    pub fn name(&self, tag: &str) -> String {
        format!("oci://{}:{tag}", self.line.address)
    }

    fn ask(&self, method: Method, rest: &str, accept: &'static str, what: &str) -> Result<Ask, RegistryError> {
        Ok(Ask { method, url: self.line.url(rest)?, accept, body: None, length: None, what: what.to_owned() })
    }

    /// All tags.
    pub async fn tags(&self) -> Result<Vec<String>, RegistryError> {
        #[derive(serde::Deserialize)]
        struct Page {
            // `null` where there are none.
            tags: Option<Vec<String>>,
        }
        let mut ask = self.ask(Method::GET, "tags/list?n=1000", JSON, "listing tags")?;
        let mut tags = Vec::new();
        for _ in 0..PAGES_LIMIT {
            let answer = self.line.ask(&ask, TAGS_LIMIT).await?;
            tags.extend(self.json::<Page>(&answer, &ask.what)?.tags.unwrap_or_default());
            match next_page(&answer.headers) {
                Some(next) => ask.url = self.line.follow(&ask.url, &next)?,
                None => return Ok(tags),
            }
        }
        Err(RegistryError::Unusable(format!("{} has more than {PAGES_LIMIT} pages of tags", self.line.address)))
    }

    fn json<T: DeserializeOwned>(&self, answer: &Answer, what: &str) -> Result<T, RegistryError> {
        serde_json::from_slice(&answer.body).map_err(|e| {
            let kind = answer.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
            self.line.failed(if kind.starts_with("text/html") {
                format!(
                    "{what}: answered with a web page; is this a registry, or is a proxy or a login page in between?"
                )
            } else {
                format!("{what}: answered with what is no JSON: {}", cut(&e.to_string(), 120))
            })
        })
    }

    /// The digest a tag names now.
    pub async fn digest(&self, tag: &str) -> Result<String, RegistryError> {
        let what = format!("tag {tag:?}");
        let answer = self.line.ask(&self.ask(Method::HEAD, &format!("manifests/{tag}"), MANIFESTS, &what)?, 0).await?;
        match answer.headers.get("docker-content-digest").and_then(|v| v.to_str().ok()) {
            Some(digest) if is_digest(digest) => Ok(digest.to_owned()),
            Some(other) => Err(RegistryError::Unusable(format!(
                "{}: {what} has digest {:?}; only sha256 digests are used",
                self.line.address,
                cut(other, 80)
            ))),
            // The header is optional.
            None => Ok(self.by_reference(tag, &what).await?.digest),
        }
    }

    /// The manifest or index behind a digest, every byte checked.
    pub async fn manifest(&self, digest: &str) -> Result<Fetched, RegistryError> {
        let fetched = self.by_reference(digest, digest).await?;
        self.check(digest, &fetched.bytes)?;
        Ok(fetched)
    }

    async fn by_reference(&self, reference: &str, what: &str) -> Result<Fetched, RegistryError> {
        let ask = self.ask(Method::GET, &format!("manifests/{reference}"), MANIFESTS, what)?;
        let answer = self.line.ask(&ask, MANIFEST_LIMIT).await?;
        let told = answer.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        // What the bytes say of themselves is under the digest; the header is not.
        let own = serde_json::from_slice::<serde_json::Value>(&answer.body).ok();
        let own = own.and_then(|v| v["mediaType"].as_str().map(str::to_owned));
        let media_type = own.unwrap_or_else(|| told.split(';').next().unwrap_or_default().trim().to_owned());
        if ![MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_INDEX].contains(&media_type.as_str()) {
            return Err(RegistryError::Unusable(format!(
                "{}: {what} has media type {:?}, which is neither an image manifest nor an index",
                self.line.address,
                cut(&media_type, 80)
            )));
        }
        Ok(Fetched { digest: digest_of(&answer.body), media_type, bytes: answer.body })
    }

    /// A blob of at most `limit` bytes, every byte checked.
    pub async fn blob(&self, blob: &Descriptor, limit: u64) -> Result<Bytes, RegistryError> {
        self.is_digest(&blob.digest)?;
        if blob.size > limit {
            return Err(RegistryError::Unusable(format!(
                "{} is {} KiB, the limit is {} KiB",
                blob.digest,
                blob.size / 1024,
                limit / 1024
            )));
        }
        let ask = self.ask(Method::GET, &format!("blobs/{}", blob.digest), ANY, &blob.digest)?;
        let bytes = self.line.ask(&ask, blob.size).await?.body;
        self.check(&blob.digest, &bytes)?;
        Ok(bytes)
    }

    fn is_digest(&self, text: &str) -> Result<(), RegistryError> {
        if is_digest(text) {
            return Ok(());
        }
        let text = cut(text, 80);
        Err(RegistryError::Unusable(format!("{}: {text:?} is no digest (sha256:<64 hex digits>)", self.line.address)))
    }

    fn check(&self, expected: &str, bytes: &[u8]) -> Result<(), RegistryError> {
        let found = digest_of(bytes);
        if found == expected { Ok(()) } else { Err(self.mismatch(expected, &found)) }
    }

    fn mismatch(&self, expected: &str, found: &str) -> RegistryError {
        RegistryError::Digest {
            expected: expected.to_owned(),
            found: found.to_owned(),
            registry: self.line.address.registry.clone(),
        }
    }

    /// The index under a tag; an empty one when there is none.
    async fn index(&self, tag: &str) -> Result<Index, RegistryError> {
        match found(self.by_reference(tag, tag).await)? {
            Some(fetched) => fetched.parse(),
            None => Ok(Index::new(Vec::new())),
        }
    }

    /// Manifests of type `artifact_type` (empty: of any) that are about the manifest `digest`, such as its signatures. Registries without the
    /// referrers API have them in an index under a tag made of the digest.
    pub async fn referrers(&self, digest: &str, artifact_type: &str) -> Result<Vec<Descriptor>, RegistryError> {
        let what = format!("referrers of {digest}");
        let ask = self.ask(Method::GET, &format!("referrers/{digest}"), INDEX, &what)?;
        let index = match self.line.ask(&ask, MANIFEST_LIMIT).await {
            Ok(answer) => self.json::<Index>(&answer, &what)?,
            Err(RegistryError::NotFound { .. } | RegistryError::Unusable(_)) => {
                self.index(&fallback_tag(digest)).await?
            }
            Err(error) => return Err(error),
        };
        let wanted =
            |d: &Descriptor| d.artifact_type.as_deref().is_none_or(|t| artifact_type.is_empty() || t == artifact_type);
        Ok(index.manifests.into_iter().filter(wanted).collect())
    }

    /// Whether a blob is there.
    pub async fn has_blob(&self, digest: &str) -> Result<bool, RegistryError> {
        Ok(found(self.line.ask(&self.ask(Method::HEAD, &format!("blobs/{digest}"), ANY, digest)?, 0).await)?.is_some())
    }

    /// The digest of a tag, or of a digest that is there; `None` when there is no such thing.
    pub async fn find_digest(&self, reference: &str) -> Result<Option<String>, RegistryError> {
        found(self.digest(reference).await)
    }

    /// The manifest under a tag, if there is one.
    pub async fn find(&self, tag: &str) -> Result<Option<Fetched>, RegistryError> {
        match self.find_digest(tag).await? {
            Some(digest) => Ok(Some(self.manifest(&digest).await?)),
            None => Ok(None),
        }
    }

    /// Pushes a blob, unless it is there.
    pub async fn push_blob(&self, bytes: &Bytes) -> Result<(), RegistryError> {
        let digest = digest_of(bytes);
        if self.has_blob(&digest).await? {
            return Ok(());
        }
        let mut ask = self.upload(&digest).await?;
        ask.body = Some(("application/octet-stream".to_owned(), bytes.clone()));
        self.line.ask(&ask, MANIFEST_LIMIT).await.map(|_| ())
    }

    /// Begins an upload and gives the request that ends it.
    async fn upload(&self, digest: &str) -> Result<Ask, RegistryError> {
        self.is_digest(digest)?;
        let begin = self.ask(Method::POST, "blobs/uploads/", ANY, digest)?;
        let answer = self.line.ask(&begin, MANIFEST_LIMIT).await?;
        let place = answer.headers.get(header::LOCATION).and_then(|v| v.to_str().ok());
        let place = place.ok_or_else(|| self.line.failed(format!("{digest}: began an upload to nowhere")))?;
        let separator = if place.contains('?') { '&' } else { '?' };
        let url: Uri = self.line.follow(&begin.url, &format!("{place}{separator}digest={digest}"))?;
        Ok(Ask { method: Method::PUT, url, accept: ANY, body: None, length: None, what: digest.to_owned() })
    }

    /// Copies a blob from another repository, unless it is there. It is never in memory as a whole, and its digest is compared
    /// on the way. Gives the number of bytes copied.
    pub async fn copy_blob(&self, from: &Self, blob: &Descriptor) -> Result<u64, RegistryError> {
        from.is_digest(&blob.digest)?;
        if self.has_blob(&blob.digest).await? {
            return Ok(0);
        }
        self.line
            .retried(&blob.digest, None, || async {
                let get = from.ask(Method::GET, &format!("blobs/{}", blob.digest), ANY, &blob.digest)?;
                let source = from.line.open(&get).await?;
                let put = Ask { length: Some(blob.size), ..self.upload(&blob.digest).await? };
                let other = Arc::new(OnceLock::new());
                let mut body = Some(checked(source.into_body(), blob, Arc::clone(&other)));
                let sent = self.line.exchange(&put, || body.take()).await;
                match other.get() {
                    // Another try would bring the same.
                    Some(found) => Err(from.mismatch(&blob.digest, found).into()),
                    None => sent.map(|_| blob.size),
                }
            })
            .await
    }

    /// Pushes a manifest under a tag or its digest. Where the registry keeps no record of what refers to what, the index that
    /// stands for it is written too.
    pub async fn push_manifest(&self, reference: &str, media_type: &str, bytes: &Bytes) -> Result<(), RegistryError> {
        let mut ask = self.ask(Method::PUT, &format!("manifests/{reference}"), ANY, reference)?;
        ask.body = Some((media_type.to_owned(), bytes.clone()));
        let answer = self.line.ask(&ask, MANIFEST_LIMIT).await?;
        let Ok(manifest) = serde_json::from_slice::<super::Manifest>(bytes) else { return Ok(()) };
        match manifest.subject {
            Some(subject) if !answer.headers.contains_key("oci-subject") => {
                let artifact_type = manifest.artifact_type.clone().unwrap_or(manifest.config.media_type);
                let entry = Descriptor {
                    artifact_type: Some(artifact_type),
                    annotations: manifest.annotations.unwrap_or_default(),
                    ..Descriptor::of(media_type, bytes)
                };
                self.add_referrer(&subject.digest, entry).await
            }
            _ => Ok(()),
        }
    }

    async fn add_referrer(&self, subject: &str, entry: Descriptor) -> Result<(), RegistryError> {
        let tag = fallback_tag(subject);
        let mut index = self.index(&tag).await?;
        if index.manifests.iter().any(|known| known.digest == entry.digest) {
            return Ok(());
        }
        index.manifests.push(entry);
        let bytes = serde_json::to_vec(&index).map_err(|e| RegistryError::Unusable(e.to_string()))?;
        let mut ask = self.ask(Method::PUT, &format!("manifests/{tag}"), ANY, &tag)?;
        ask.body = Some((INDEX.to_owned(), Bytes::from(bytes)));
        self.line.ask(&ask, MANIFEST_LIMIT).await.map(|_| ())
    }
}

/// The tag under which registries without the referrers API have what refers to a digest.
fn fallback_tag(digest: &str) -> String {
    digest.replace(':', "-")
}

fn found<T>(answer: Result<T, RegistryError>) -> Result<Option<T>, RegistryError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(RegistryError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The address in `Link: <...>; rel="next"`.
fn next_page(headers: &HeaderMap) -> Option<String> {
    let link = headers.get(header::LINK)?.to_str().ok()?;
    let (address, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    rest.contains("next").then(|| address.to_owned())
}

/// A body that ends in an error unless it is what the descriptor names; `other` gets the digest of what it is instead.
fn checked(body: hyper::body::Incoming, blob: &Descriptor, other: Arc<OnceLock<String>>) -> Body {
    let (expected, size) = (blob.digest.clone(), blob.size);
    let mut hash = Sha256::new();
    let mut length = 0u64;
    let frames = TryStreamExt::map_err(BodyStream::new(body), tower::BoxError::from);
    let stream = frames.and_then(move |frame| {
        if let Some(data) = frame.data_ref() {
            hash.update(data);
            length += data.len() as u64;
        }
        let found = (length >= size).then(|| digest_text(&Digest::finalize(hash.clone())));
        std::future::ready(match found {
            Some(found) if found != expected => {
                let _ = other.set(found);
                Err("digest mismatch".into())
            }
            _ => Ok(frame),
        })
    });
    StreamBody::new(stream).boxed_unsync()
}
