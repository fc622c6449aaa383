//! One exchange with a registry: authentication, redirects, deadlines, limits, and what is worth another try.

use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;

use super::auth::{Challenge, origin, token_url};
use super::connect::{self, Body, Http};
use super::credentials::Login;
use super::error::deepest;
use super::{Access, Address, RegistryError};
use crate::render::cut;

/// Longest silence: until the head of an answer, or between two pieces of its body.
const SILENCE: Duration = Duration::from_secs(30);
/// Longest pause a registry may ask for before another try; who asks for more is tried at the next interval.
const PAUSE_LIMIT: Duration = Duration::from_secs(60);
const TRIES: usize = 4;
const HOPS: usize = 5;
/// What a token is asked for.
const READ: &str = "pull";
const WRITE: &str = "pull,push";
const TOKEN_LIMIT: u64 = 1 << 20;
/// What an error is read of.
const COMPLAINT_LIMIT: u64 = 64 << 10;

/// What is wanted of a registry.
#[derive(Clone)]
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) url: Uri,
    pub(super) accept: &'static str,
    /// Media type and bytes to send.
    pub(super) body: Option<(String, Bytes)>,
    /// Length of a body that is streamed instead.
    pub(super) length: Option<u64>,
    /// Names it in errors.
    pub(super) what: String,
}

/// An answer, read to its end.
pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Why an exchange gave nothing.
pub(super) enum Failure {
    /// And another would not either.
    Final(RegistryError),
    /// Another may, after this time if the registry named one.
    Passing(String, Option<Duration>),
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        Self::Final(error)
    }
}

/// A line to one repository.
pub(super) struct Transport {
    pub(super) address: Address,
    base: Uri,
    /// With the client certificate, for the registry itself.
    ours: Http,
    /// Without, for whoever the registry points at.
    others: Http,
    login: Option<Login>,
    hint: &'static str,
    realms: Vec<String>,
    timeout: Duration,
    /// Scope and value of the `Authorization` header that worked last. How long it works, its first refusal tells.
    authorization: Mutex<Option<(&'static str, HeaderValue)>>,
}

impl Transport {
    pub(super) fn new(address: &Address, access: &Access) -> Result<Self, RegistryError> {
        let scheme = if access.insecure { "http" } else { "https" };
        let base = format!("{scheme}://{}", address.registry);
        let base = base.parse().map_err(|e| RegistryError::Address(format!("{base}: {e}")))?;
        let ours = connect::client(access, true)?;
        let others = if access.identity.is_some() { connect::client(access, false)? } else { ours.clone() };
        Ok(Self {
            address: address.clone(),
            base,
            ours,
            others,
            login: access.credentials.for_repository(address),
            hint: access.credentials_hint,
            realms: access.realms.clone(),
            timeout: access.timeout,
            authorization: Mutex::default(),
        })
    }

    /// The URL of something of the repository, such as `manifests/1.0`.
    pub(super) fn url(&self, rest: &str) -> Result<Uri, RegistryError> {
        let url = format!("{}v2/{}/{rest}", self.base, self.address.path);
        url.parse().map_err(|_| RegistryError::Address(format!("{rest:?} cannot be part of a URL")))
    }

    /// What a `Location` or `Link` of the registry points at.
    pub(super) fn follow(&self, from: &Uri, to: &str) -> Result<Uri, RegistryError> {
        let refuse = |why: &str| RegistryError::Elsewhere {
            registry: self.address.registry.clone(),
            cause: format!("points at {:?}, {why}", cut(to, 120)),
        };
        let text = match to {
            _ if to.starts_with('/') => {
                let authority = from.authority().map(ToString::to_string).unwrap_or_default();
                format!("{}://{authority}{to}", from.scheme_str().unwrap_or("https"))
            }
            _ => to.to_owned(),
        };
        let url: Uri = text.parse().map_err(|_| refuse("which is no URL"))?;
        match (self.base.scheme_str(), url.scheme_str()) {
            (_, Some("https")) | (Some("http"), Some("http")) => Ok(url),
            _ => Err(refuse("which is not https; nothing was sent there")),
        }
    }

    /// Whether a URL is of the registry itself.
    fn is_ours(&self, url: &Uri) -> bool {
        origin(url) == origin(&self.base)
    }

    /// Asks, and reads an answer of at most `limit` bytes; tries again what may pass, until the deadline.
    pub(super) async fn ask(&self, ask: &Ask, limit: u64) -> Result<Answer, RegistryError> {
        self.retried(&ask.what, Some(self.timeout), || async {
            let response = self.open(ask).await?;
            let headers = response.headers().clone();
            let empty = ask.method == Method::HEAD;
            let body = if empty { Bytes::new() } else { self.read(response, limit, &ask.what).await? };
            Ok(Answer { headers, body })
        })
        .await
    }

    /// Repeats what fails in passing.
    pub(super) async fn retried<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        what: &str,
        deadline: Option<Duration>,
        exchange: impl FnMut() -> F,
    ) -> Result<T, RegistryError> {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(200))
            .with_max_times(TRIES - 1)
            .with_jitter();
        let last = std::sync::Mutex::new(None);
        let all = exchange
            .retry(pauses)
            .when(|failure| match failure {
                Failure::Final(_) => false,
                Failure::Passing(_, pause) => pause.is_none_or(|pause| pause <= PAUSE_LIMIT),
            })
            .adjust(|failure, pause| match failure {
                Failure::Passing(_, Some(asked)) => pause.map(|own| own.max(*asked)),
                _ => pause,
            })
            .notify(|failure, _| {
                if let (Failure::Passing(cause, _), Ok(mut last)) = (failure, last.lock()) {
                    *last = Some(cause.clone());
                }
            });
        let answer = match deadline {
            None => all.await,
            Some(deadline) => tokio::time::timeout(deadline, all).await.unwrap_or_else(|_| {
                let last =
                    last.lock().ok().and_then(|mut last| last.take()).map(|l| format!("{l}; ")).unwrap_or_default();
                Err(Failure::Passing(format!("{last}no answer within {} s", deadline.as_secs()), None))
            }),
        };
        answer.map_err(|failure| match failure {
            Failure::Final(error) => error,
            Failure::Passing(cause, _) => self.failed(format!("{what}: {cause}")),
        })
    }

    pub(super) fn failed(&self, cause: String) -> RegistryError {
        RegistryError::Failed { registry: self.address.registry.clone(), cause }
    }

    fn denied(&self, cause: String) -> RegistryError {
        RegistryError::Denied { registry: self.address.registry.clone(), cause, hint: self.hint }
    }

    /// Asks, and gives the answer once its head is there and good.
    pub(super) async fn open(&self, ask: &Ask) -> Result<Response<Incoming>, Failure> {
        self.exchange(ask, || Some(whole(ask.body.as_ref().map(|(_, bytes)| bytes.clone()).unwrap_or_default()))).await
    }

    /// As [`Self::open`], with a body of its own; one that flows past can be had once only.
    pub(super) async fn exchange(
        &self,
        ask: &Ask,
        mut body: impl FnMut() -> Option<Body>,
    ) -> Result<Response<Incoming>, Failure> {
        // Writing needs more rights than reading, and registries give tokens for what is asked for.
        let scope = if matches!(ask.method, Method::GET | Method::HEAD) { READ } else { WRITE };
        let mut url = ask.url.clone();
        let mut refreshed = false;
        for _ in 0..=HOPS + 1 {
            let ours = self.is_ours(&url);
            let mut request = Request::builder()
                .method(&ask.method)
                .uri(&url)
                .header(header::USER_AGENT, concat!("headwater/", env!("CARGO_PKG_VERSION")))
                .header(header::ACCEPT, ask.accept);
            if let Some((media_type, _)) = &ask.body {
                request = request.header(header::CONTENT_TYPE, media_type);
            }
            if let Some(length) = ask.length {
                request = request.header(header::CONTENT_LENGTH, length);
            }
            if ours && let Some(value) = self.authorization(scope).await {
                request = request.header(header::AUTHORIZATION, value);
            }
            let body = body().ok_or_else(|| Failure::Passing("the token ended in the middle".to_owned(), None))?;
            let request = request.body(body).map_err(|e| self.failed(e.to_string()))?;
            let client = if ours { &self.ours } else { &self.others };
            let response = match tokio::time::timeout(SILENCE, client.request(request)).await {
                Err(_) => return Err(Failure::Passing(format!("silent for {} s", SILENCE.as_secs()), None)),
                Ok(Err(error)) => return Err(Failure::Passing(deepest(&error), None)),
                Ok(Ok(response)) => response,
            };
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && ours && !refreshed {
                refreshed = true;
                self.authorize(&response, scope, &ask.what).await?;
            } else if status.is_redirection() && scope == READ {
                let to = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
                let to = to.ok_or_else(|| self.failed(format!("{}: a redirect to nowhere", ask.what)))?;
                url = self.follow(&url, to)?;
            } else if status.is_success() {
                return Ok(response);
            } else {
                return Err(self.complaint(response, &ask.what).await);
            }
        }
        Err(Failure::Final(self.failed(format!("{}: more than {HOPS} redirects", ask.what))))
    }

    /// Reads a body of at most `limit` bytes.
    pub(super) async fn read(&self, response: Response<Incoming>, limit: u64, what: &str) -> Result<Bytes, Failure> {
        let too_long = || {
            Failure::Final(RegistryError::Unusable(format!(
                "registry {}: {what}: the answer is longer than {limit} bytes",
                self.address.registry
            )))
        };
        let mut body = response.into_body();
        if hyper::body::Body::size_hint(&body).lower() > limit {
            return Err(too_long());
        }
        let mut bytes = BytesMut::new();
        loop {
            let frame = tokio::time::timeout(SILENCE, body.frame())
                .await
                .map_err(|_| Failure::Passing(format!("the answer stopped for {} s", SILENCE.as_secs()), None))?;
            match frame {
                None => return Ok(bytes.freeze()),
                Some(Err(error)) => return Err(Failure::Passing(format!("the answer broke off: {error}"), None)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        if (bytes.len() + data.len()) as u64 > limit {
                            return Err(too_long());
                        }
                        bytes.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    /// What an answer that is no success means.
    async fn complaint(&self, response: Response<Incoming>, what: &str) -> Failure {
        let status = response.status();
        let pause = response.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.trim().parse().ok());
        let pause = pause.map(Duration::from_secs);
        let body = self.read(response, COMPLAINT_LIMIT, what).await.unwrap_or_default();
        let said = message(&body);
        let told = if said.is_empty() { String::new() } else { format!(": {said}") };
        match status.as_u16() {
            401 => {
                self.denied(format!("{what}: the registry does not accept the credentials, or wants some{told}")).into()
            }
            403 => self.denied(format!("{what}: access denied{told}")).into(),
            404 => RegistryError::NotFound { what: what.to_owned(), repository: self.address.to_string() }.into(),
            429 => {
                let asked = pause.map(|p| format!("; it asks for a pause of {} s", p.as_secs())).unwrap_or_default();
                Failure::Passing(format!("too many requests (429){asked}"), pause)
            }
            // The words of Go's server and of nginx.
            400 if self.base.scheme_str() == Some("http") && body.windows(5).any(|word| word == b"HTTPS") => {
                Failure::Final(RegistryError::Unusable(format!(
                    "registry {}: {what}: speaks HTTPS only; leave insecure (--insecure) out",
                    self.address.registry
                )))
            }
            408 | 500.. => Failure::Passing(format!("HTTP {}{told}", status.as_u16()), pause),
            code => Failure::Final(RegistryError::Unusable(format!(
                "registry {}: {what}: HTTP {code}{told}",
                self.address.registry
            ))),
        }
    }

    async fn authorization(&self, scope: &str) -> Option<HeaderValue> {
        let known = self.authorization.lock().await;
        known.as_ref().filter(|(had, _)| *had == scope || *had == WRITE).map(|(_, value)| value.clone())
    }

    /// Gets what the registry wants to see with the next request.
    async fn authorize(&self, response: &Response<Incoming>, scope: &'static str, what: &str) -> Result<(), Failure> {
        let denied = |why: &str| Failure::Final(self.denied(format!("{what}: {why}")));
        let value = match Challenge::read(response.headers()) {
            None => return Err(denied("access denied, and the registry does not say what it wants")),
            Some(Challenge::Basic) => match &self.login {
                Some(login) => login.basic(),
                None => return Err(denied("the registry wants a user name and a password")),
            },
            Some(Challenge::Bearer { realm, service }) => {
                format!("Bearer {}", self.token(&realm, service.as_deref(), scope, what).await?)
            }
        };
        let mut value = HeaderValue::from_str(&value).map_err(|_| denied("the registry gave a token that is none"))?;
        value.set_sensitive(true);
        *self.authorization.lock().await = Some((scope, value));
        Ok(())
    }

    async fn token(&self, realm: &str, service: Option<&str>, scope: &str, what: &str) -> Result<String, Failure> {
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let scope = format!("repository:{}:{scope}", self.address.path);
        let url = token_url(&self.base, realm, service, &scope, &self.realms)?;
        let client = if self.is_ours(&url) { &self.ours } else { &self.others };
        let mut request = Request::builder()
            .uri(&url)
            .header(header::USER_AGENT, concat!("headwater/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT, "application/json");
        if let Some(login) = &self.login {
            request = request.header(header::AUTHORIZATION, login.basic());
        }
        let request = request.body(whole(Bytes::new())).map_err(|e| self.failed(e.to_string()))?;
        let response = match tokio::time::timeout(SILENCE, client.request(request)).await {
            Err(_) => return Err(Failure::Passing("the token service is silent".to_owned(), None)),
            Ok(Err(error)) => return Err(Failure::Passing(format!("token service: {}", deepest(&error)), None)),
            Ok(Ok(response)) => response,
        };
        match response.status() {
            StatusCode::OK => {}
            // Credentials are never taken elsewhere.
            status if status.is_redirection() => {
                return Err(Failure::Final(self.failed(format!("{what}: the token service redirects"))));
            }
            status if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => {
                return Err(Failure::Final(self.denied(format!("{what}: the token service refuses the credentials"))));
            }
            _ => return Err(self.complaint(response, "token").await),
        }
        let body = self.read(response, TOKEN_LIMIT, "token").await?;
        let token = serde_json::from_slice::<Token>(&body).ok().and_then(|t| t.token.or(t.access_token));
        token.ok_or_else(|| Failure::Passing("the token service gave no token".to_owned(), None))
    }
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// The message in an error of a registry; nothing of a web page.
fn message(body: &[u8]) -> String {
    let Ok(value) = serde_json::from_slice::<Value>(body) else { return String::new() };
    let error = &value["errors"][0];
    let text = error["message"].as_str().or(error["code"].as_str()).unwrap_or_default();
    cut(&text.chars().filter(|c| !c.is_control()).collect::<String>(), 160)
}

/// Shared by all clones of a repository.
pub(super) type Line = Arc<Transport>;
