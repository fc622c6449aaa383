//! A proxy in front of API servers that fails on demand: at the n-th write it kills the program under test, refuses, or loses
//! the answer; or its line falls silent, or it leads to another cluster. All else passes as it is, watches as streams and
//! credentials in their header.
//!
//! Writes pass one at a time, in the order in which they arrive, over all proxies that share a [`Faults`]. So the n-th write
//! means: the n-1 before it are committed and answered, and no later one has been sent. What a dead program had on its way
//! is thrown away.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Either, Full};
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue, RETRY_AFTER};
use hyper::http::uri::Scheme;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::certificates::Authority;
use crate::cluster::Cluster;
use crate::kubeconfig;
use crate::process::alive;

/// At which moment of a write the program is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It is decided and not sent.
    Before,
    /// It is committed, and its answer did not arrive.
    Committed,
    /// Its answer arrived.
    Answered,
}

/// What becomes of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL to the program under test.
    Kill(Phase),
    /// It is not sent; this is the answer, so many times for the same object.
    Refuse {
        /// HTTP status.
        code: u16,
        /// The header of that name.
        retry_after: Option<String>,
        /// How often.
        times: usize,
    },
    /// It is committed, and the connection ends without an answer.
    Reset,
    /// It is committed, and nothing is ever answered.
    Silence,
    /// It is committed, and before the answer arrives the program stands still (SIGSTOP).
    Stop,
    /// The program stands still, and the write is on its way until [`Faults::let_go`].
    Late,
}

impl Fault {
    /// One answer with this status.
    pub fn refuse(code: u16) -> Self {
        Self::Refuse { code, retry_after: None, times: 1 }
    }
}

/// A write of the program under test, as the proxy saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// `POST`, `PUT`, `PATCH` or `DELETE`.
    pub method: String,
    /// Path without query.
    pub path: String,
    /// Body, null when it has none.
    pub body: Value,
    /// Status of the server's answer, 0 when it was not sent.
    pub code: u16,
}

impl Write {
    /// Whether it happened.
    pub fn committed(&self) -> bool {
        (200..300).contains(&self.code)
    }
}

/// Which write a fault is for.
type Aim = fn(&Write) -> bool;

#[derive(Default)]
struct State {
    writes: Vec<Write>,
    armed: Option<(usize, Fault)>,
    /// The next write of which this is true fails like that.
    aimed: Option<(Aim, Fault)>,
    struck: Option<String>,
    victim: Option<u32>,
    /// The first write of a path that holds this is late.
    late: Option<String>,
    /// Writes of paths that hold this are refused, whatever else is armed.
    refused: Option<String>,
    /// Programs killed so far: what came from an earlier one is thrown away.
    lives: usize,
}

/// What is recorded and what is to fail, for all proxies of one system under test.
#[derive(Clone, Default)]
pub struct Faults {
    state: Arc<Mutex<State>>,
    turn: Arc<tokio::sync::Mutex<()>>,
    go: Arc<tokio::sync::Notify>,
}

impl Faults {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process that [`Fault::Kill`] kills and [`Fault::Stop`] stops.
    pub fn victim(&self, pid: u32) {
        self.state().victim = Some(pid);
    }

    /// Forgets all writes so far; the first of a path that holds this becomes [`Fault::Late`].
    pub fn delay(&self, path: &str) {
        let mut state = self.state();
        (state.writes, state.struck, state.armed, state.late) = (vec![], None, None, Some(path.to_owned()));
    }

    /// Lets the late write arrive.
    pub fn let_go(&self) {
        self.go.notify_one();
    }

    /// From now on every write of a path that holds this is answered with 500, leases too.
    pub fn refuse(&self, path: &str) {
        self.state().refused = Some(path.to_owned());
    }

    fn refuses(&self, request: &Request<Full<Bytes>>) -> bool {
        let state = self.state();
        let is_meant = |part: &String| request.uri().path().contains(part.as_str());
        *request.method() != Method::GET && state.refused.as_ref().is_some_and(is_meant)
    }

    /// Forgets all writes so far; the `n`-th from now on, counted from 1, fails like this.
    pub fn arm(&self, n: usize, fault: Fault) {
        let mut state = self.state();
        (state.writes, state.struck, state.armed) = (vec![], None, Some((n, fault)));
    }

    /// Forgets all writes so far; nothing fails.
    pub fn clear(&self) {
        let mut state = self.state();
        (state.writes, state.struck, state.armed) = (vec![], None, None);
    }

    /// The next write of which this is true fails like this; those so far are not forgotten.
    pub fn aim(&self, is_meant: fn(&Write) -> bool, fault: Fault) {
        let mut state = self.state();
        (state.struck, state.aimed) = (None, Some((is_meant, fault)));
    }

    /// The writes since then.
    pub fn writes(&self) -> Vec<Write> {
        self.state().writes.clone()
    }

    /// How many writes there were since then.
    pub fn count(&self) -> usize {
        self.state().writes.len()
    }

    /// Method and path of the write that failed as it was told to; nothing when no such write came yet.
    pub fn struck(&self) -> Option<String> {
        self.state().struck.clone()
    }

    /// Records a write that is about to be sent; returns its index and what is to become of it.
    fn admit(&self, method: &str, path: &str, body: Value) -> (usize, Option<Fault>) {
        let mut state = self.state();
        let write = Write { method: method.to_owned(), path: path.to_owned(), body, code: 0 };
        let aimed = state.aimed.take_if(|(is_meant, _)| is_meant(&write)).map(|(_, fault)| fault);
        state.writes.push(write);
        let number = state.writes.len();
        let what = format!("{method} {path}");
        let again = state.struck.as_ref() == Some(&what);
        let fault = match &mut state.armed {
            Some((_, Fault::Refuse { times, .. })) if again && *times == 0 => None,
            Some((_, fault @ Fault::Refuse { .. })) if again => Some(fault.clone()),
            Some((n, fault)) if *n == number => Some(fault.clone()),
            _ => None,
        };
        let fault =
            fault.or(aimed).or_else(|| state.late.take_if(|part| path.contains(part.as_str())).map(|_| Fault::Late));
        if fault.is_some() {
            if let Some((_, Fault::Refuse { times, .. })) = &mut state.armed {
                *times = times.saturating_sub(1);
            }
            state.struck = Some(what);
        }
        (number - 1, fault)
    }

    fn stop(&self) {
        let victim = self.state().victim;
        if let Some(victim) = victim {
            let _ = kill(Pid::from_raw(victim.cast_signed()), Signal::SIGSTOP);
        }
    }

    /// Kills the program and waits until it is dead: a signal alone is only a promise. One that has just been started may write before
    /// it is known who it is.
    async fn kill(&self) {
        for _ in 0..10_000 {
            if self.state().victim.is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let victim = {
            let mut state = self.state();
            state.lives += 1;
            state.victim.take()
        };
        let Some(victim) = victim else { return };
        let _ = kill(Pid::from_raw(victim.cast_signed()), Signal::SIGKILL);
        while alive(victim) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// What becomes of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// They work.
    Open,
    /// They are accepted, and nothing is ever read or answered; those that were open fall silent for good, as if packets vanished.
    Silent,
    /// They end at once.
    Refused,
    /// Every request is answered with 503, as by a balancer in front of an API server that is gone.
    Failing,
}

/// Where a proxy leads, and how the line to it is.
struct Road {
    line: AtomicU8,
    upstream: Mutex<Arc<Upstream>>,
}

impl Road {
    fn line(&self) -> Line {
        match self.line.load(Ordering::SeqCst) {
            0 => Line::Open,
            1 => Line::Silent,
            2 => Line::Refused,
            _ => Line::Failing,
        }
    }

    fn upstream(&self) -> Arc<Upstream> {
        Arc::clone(&self.upstream.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A connection over that line.
struct Wire {
    stream: TcpStream,
    road: Arc<Road>,
    lost: bool,
}

impl Wire {
    fn state(&mut self) -> Poll<std::io::Result<()>> {
        let line = self.road.line();
        self.lost |= line == Line::Silent;
        match line {
            Line::Refused => Poll::Ready(Err(std::io::ErrorKind::ConnectionReset.into())),
            // Nobody is woken any more: what was lost stays lost.
            _ if self.lost => Poll::Pending,
            Line::Open | Line::Silent | Line::Failing => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        ready!(self.state())?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        ready!(self.state())?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        ready!(self.state())?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

type Body = Either<Full<Bytes>, Incoming>;

struct Upstream {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    authority: hyper::http::uri::Authority,
}

/// Whether a write of a status says only that a look is over for which somebody has asked: it is about the question.
fn is_answer(body: &Value) -> bool {
    body["status"].as_object().is_some_and(|status| status.keys().eq(["lastHandledReconcileAt"]))
}

/// Whether a request changes what the program under test is about: not leases, events, dry runs, or questions put as objects.
fn is_write(method: &Method, uri: &Uri) -> bool {
    let aside = ["/leases", "/events", "accessreviews", "rulesreviews", "/tokenreviews", "/token"];
    matches!(*method, Method::POST | Method::PUT | Method::PATCH | Method::DELETE)
        && !aside.iter().any(|a| uri.path().contains(a))
        && !uri.query().unwrap_or_default().contains("dryRun=")
}

impl Upstream {
    fn of(cluster: &Cluster) -> Result<Arc<Self>> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(cluster.ca()) {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let theirs = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(theirs)
            .https_only()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let authority = cluster.server().parse::<Uri>()?.authority().context("a server has an address")?.clone();
        Ok(Arc::new(Self { client, authority }))
    }

    async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>> {
        let mut parts = request.uri().clone().into_parts();
        (parts.scheme, parts.authority) = (Some(Scheme::HTTPS), Some(self.authority.clone()));
        *request.uri_mut() = Uri::from_parts(parts)?;
        for header in ["host", "connection"] {
            request.headers_mut().remove(HeaderName::from_static(header));
        }
        Ok(self.client.request(request).await?)
    }

    /// An error ends the connection without an answer.
    async fn pass(self: Arc<Self>, faults: Faults, request: Request<Incoming>) -> Result<Response<Body>> {
        let life = faults.state().lives;
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let request = Request::from_parts(head, Full::new(body.clone()));
        if faults.refuses(&request) {
            return Ok(refusal(500, None));
        }
        let written =
            is_write(request.method(), request.uri()).then(|| serde_json::from_slice(&body).unwrap_or_default());
        let Some(body) = written.filter(|body| !is_answer(body)) else {
            return Ok(self.send(request).await?.map(Either::Right));
        };
        // On a task of its own: a client that goes away must not interrupt what is done about its write.
        tokio::spawn(async move { self.write(&faults, life, request, body).await }).await?
    }

    async fn write(
        &self,
        faults: &Faults,
        life: usize,
        request: Request<Full<Bytes>>,
        body: Value,
    ) -> Result<Response<Body>> {
        let mut turn = Some(Arc::clone(&faults.turn).lock_owned().await);
        anyhow::ensure!(life == faults.state().lives, "its sender is dead");
        let (index, fault) = faults.admit(request.method().as_str(), request.uri().path(), body);
        match &fault {
            Some(Fault::Kill(Phase::Before)) => {
                faults.kill().await;
                anyhow::bail!("its sender was killed");
            }
            Some(Fault::Refuse { code, retry_after, .. }) => return Ok(refusal(*code, retry_after.as_deref())),
            Some(Fault::Late) => {
                faults.stop();
                drop(turn.take());
                faults.go.notified().await;
            }
            _ => {}
        }
        let (head, body) = self.send(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        if let Some(write) = faults.state().writes.get_mut(index) {
            write.code = head.status.as_u16();
        }
        match fault {
            Some(Fault::Kill(Phase::Committed)) => {
                faults.kill().await;
                anyhow::bail!("its sender was killed");
            }
            Some(Fault::Kill(Phase::Answered)) => {
                let faults = faults.clone();
                tokio::spawn(async move {
                    // Time for the answer to arrive; nothing else is sent meanwhile, since this keeps the turn.
                    tokio::time::sleep(Duration::from_millis(3)).await;
                    faults.kill().await;
                    drop(turn);
                });
            }
            Some(Fault::Stop) => faults.stop(),
            Some(Fault::Reset) => anyhow::bail!("the answer is lost"),
            Some(Fault::Silence) => {
                drop(turn);
                std::future::pending::<()>().await;
            }
            Some(Fault::Kill(Phase::Before) | Fault::Refuse { .. } | Fault::Late) | None => {}
        }
        Ok(Response::from_parts(head, Either::Left(Full::new(body))))
    }
}

/// What an API server answers with this status.
fn refusal(code: u16, retry_after: Option<&str>) -> Response<Body> {
    let reason = match code {
        403 => "Forbidden",
        409 => "Conflict",
        422 => "Invalid",
        429 => "TooManyRequests",
        _ => "InternalError",
    };
    let message = format!("refused by the test ({reason})");
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    });
    let mut answer = Response::new(Either::Left(Full::new(Bytes::from(status.to_string()))));
    *answer.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    if let Some(value) = retry_after.and_then(|v| HeaderValue::from_str(v).ok()) {
        answer.headers_mut().insert(RETRY_AFTER, value);
    }
    answer
}

/// A proxy of one API server; dropped means gone.
pub struct Proxy {
    pub(crate) server: String,
    pub(crate) ca: String,
    road: Arc<Road>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Proxy {
    /// Starts one.
    pub fn start(cluster: &Cluster, faults: &Faults) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let authority = Authority::new("proxy")?;
        let pem = authority.issue("127.0.0.1")?;
        let chain = CertificateDer::pem_slice_iter(pem.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes())?;
        let own = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        let upstream = Upstream::of(cluster)?;
        let road = Arc::new(Road { line: AtomicU8::new(0), upstream: Mutex::new(upstream) });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let server = format!("https://{}", listener.local_addr()?);
        runtime.spawn(serve(listener, TlsAcceptor::from(Arc::new(own)), Arc::clone(&road), faults.clone()));
        Ok(Self { server, ca: authority.certificate(), road, runtime: Some(runtime) })
    }

    /// What becomes of connections from now on.
    pub fn becomes(&self, line: Line) {
        let line = match line {
            Line::Open => 0,
            Line::Silent => 1,
            Line::Refused => 2,
            Line::Failing => 3,
        };
        self.road.line.store(line, Ordering::SeqCst);
    }

    /// Leads to another cluster from now on, also over connections that are open.
    pub fn lead_to(&self, cluster: &Cluster) -> Result<()> {
        *self.road.upstream.lock().unwrap_or_else(PoisonError::into_inner) = Upstream::of(cluster)?;
        Ok(())
    }

    /// A kubeconfig that leads through it.
    pub fn kubeconfig(&self, user: &str, token: &str) -> String {
        kubeconfig::with_token(&self.server, self.ca.as_bytes(), user, token)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, road: Arc<Road>, faults: Faults) -> Infallible {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        tokio::spawn(connection(stream, acceptor.clone(), Arc::clone(&road), faults.clone()));
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, road: Arc<Road>, faults: Faults) -> Result<()> {
    stream.set_nodelay(true)?;
    let wire = Wire { stream, road: Arc::clone(&road), lost: false };
    let stream = TokioIo::new(acceptor.accept(wire).await?);
    let service = service_fn(move |request| {
        let (road, faults) = (Arc::clone(&road), faults.clone());
        async move {
            if road.line() == Line::Failing {
                Ok(refusal(503, None))
            } else {
                road.upstream().pass(faults, request).await
            }
        }
    });
    hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await?;
    Ok(())
}
