//! A stand-in for the API servers of a fleet: up to thousands of virtual clusters in one process, each with its own objects,
//! behind one HTTPS listener. A cluster's kubeconfig says `server: https://127.0.0.1:PORT/clusters/NAME`.
//!
//! It speaks what the operator uses of a cluster that it manages, and refuses the rest with 501 rather than pretend. What it
//! answers is compared with a real API server by the same cases (`fakes/selftest.rs`). Nothing runs in these clusters; CRDs get
//! established and Deployments roll out a moment after they are written.

mod accept;
mod answer;
mod fields;
mod member;
mod object;
mod ownership;
mod path;
mod refusal;
mod store;
mod watch;

#[cfg(test)]
mod selftest;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

pub use self::member::{Counts, Mood};

use self::answer::{Common, answer, refused};
use self::member::Member;
use self::refusal::Refusal;
use crate::certificates::Authority;
use crate::kubeconfig;

/// How to start a fleet of stand-ins.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many clusters.
    pub clusters: usize,
    /// How far away they are: every answer takes this long, a new connection two of it more.
    pub round_trip: Duration,
    /// How long a Deployment takes to roll out.
    pub rollout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { clusters: 1, round_trip: Duration::ZERO, rollout: Duration::from_millis(10) }
    }
}

/// A running fleet; dropped means gone.
pub struct Fakes {
    server: String,
    ca: String,
    members: Arc<Members>,
    runtime: Option<tokio::runtime::Runtime>,
}

struct Members {
    /// How many were taken.
    connections: AtomicU32,
    common: Arc<Common>,
    all: Vec<Arc<Member>>,
    by_name: HashMap<String, usize>,
}

impl Fakes {
    /// Starts one.
    pub fn start(options: &Options) -> Result<Self> {
        let authority = Authority::new("fakes")?;
        let acceptor = acceptor(&authority)?;
        let all: Vec<_> = (0..options.clusters).map(|n| Arc::new(Member::new(n, format!("c{:04}", n + 1)))).collect();
        let by_name = all.iter().enumerate().map(|(index, member)| (member.name.clone(), index)).collect();
        let (round_trip, rollout) = (options.round_trip, options.rollout);
        let common = Arc::new(Common { pool: object::Pool::default(), round_trip, rollout });
        let members = Arc::new(Members { connections: AtomicU32::new(0), common, all, by_name });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let server = format!("https://{}", listener.local_addr()?);
        runtime.spawn(serve(listener, acceptor, Arc::clone(&members)));
        Ok(Self { server, ca: authority.certificate(), members, runtime: Some(runtime) })
    }

    /// How many clusters there are.
    pub fn count(&self) -> usize {
        self.members.all.len()
    }

    /// Name of a cluster.
    pub fn name(&self, cluster: usize) -> &str {
        &self.members.all[cluster].name
    }

    /// Its kubeconfig.
    pub fn kubeconfig(&self, cluster: usize) -> String {
        let member = &self.members.all[cluster];
        let server = format!("{}/clusters/{}", self.server, member.name);
        kubeconfig::with_token(&server, self.ca.as_bytes(), &member.name, &member.token)
    }

    /// From now on.
    pub fn becomes(&self, cluster: usize, mood: Mood) {
        self.members.all[cluster].set_mood(mood);
    }

    /// Connections to all clusters since the start.
    pub fn connections(&self) -> u32 {
        self.members.connections.load(Ordering::Relaxed)
    }

    /// Requests to a cluster since the start.
    pub fn counts(&self, cluster: usize) -> Counts {
        self.members.all[cluster].counts()
    }
}

impl Drop for Fakes {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn acceptor(authority: &Authority) -> Result<TlsAcceptor> {
    let pem = authority.issue("127.0.0.1")?;
    let chain = CertificateDer::pem_slice_iter(pem.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes())?;
    let mut config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, members: Arc<Members>) -> Infallible {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: some are given back in a moment.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        tokio::spawn(connection(stream, acceptor.clone(), Arc::clone(&members)));
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, members: Arc<Members>) -> Result<()> {
    members.connections.fetch_add(1, Ordering::Relaxed);
    stream.set_nodelay(true)?;
    // One for TCP, one for TLS.
    tokio::time::sleep(members.common.round_trip * 2).await;
    let stream = acceptor.accept(stream).await?;
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let ended = Arc::new(Notify::new());
    let end = Arc::clone(&ended);
    let service = service_fn(move |request: Request<Incoming>| {
        let (members, end) = (Arc::clone(&members), Arc::clone(&end));
        async move {
            let path = request.uri().path().to_owned();
            let rest = path.strip_prefix("/clusters/").context("no cluster is named")?;
            let (name, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let Some(member) = members.by_name.get(name).and_then(|index| members.all.get(*index)) else {
                return Ok(refused(&Refusal::unknown()));
            };
            let answered = answer(Arc::clone(&members.common), Arc::clone(member), path, request).await;
            answered.inspect_err(|_| end.notify_one())
        }
    });
    let (stream, timer) = (TokioIo::new(stream), TokioTimer::new());
    let served = async {
        if is_http2 {
            let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            http.timer(timer).serve_connection(stream, service).await
        } else {
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(timer).max_buf_size(64 << 10).serve_connection(stream, service).await
        }
    };
    // An error ends the whole connection, whoever else uses it.
    tokio::select! {
        served = served => Ok(served?),
        () = ended.notified() => Ok(()),
    }
}
