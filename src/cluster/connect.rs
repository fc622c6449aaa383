//! Clients. The only place that makes them.

use std::time::Duration;

use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ConfigExt};
use kube::{Client, Config};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use tower::ServiceBuilder;

use super::{ClusterError, Gate};

/// A packet that is not answered in this time means there is nobody.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// With HTTP/1.1 a pass keeps its connections, a rest gives them back: each costs 30 KB, and a pass uses eight.
const IDLE: Duration = Duration::from_secs(10);

/// The one connection of HTTP/2 is kept for good, since watches hold it anyway. Where the server speaks only HTTP/1.1, so many that
/// idle are kept until it closes them, or [`SILENCE`] does.
const SPARE: usize = 2;

/// Read at once. A connection keeps the largest buffer it ever had, and that over which a long list came may become a watch.
const BUFFER: usize = 16 << 10;

/// What a server may send over HTTP/2 before we have read it: for one request, and for all together.
const WINDOWS: (u32, u32) = (256 << 10, 1 << 20);

/// A connection over which nothing came for so long while something was expected is dead. Watches show a sign of life once
/// a minute, all else has a much shorter deadline.
const SILENCE: Duration = Duration::from_secs(180);

/// An HTTP/2 connection that is in use is asked whether it lives when nothing came for so long, and given up when there is no answer
/// in that time: what client-go does too.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(15));

/// Sessions that are kept to be taken up again; a client knows one server. The default is for hundreds, and has room for them.
const SESSIONS: usize = 8;

/// How requests to one server share connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Streams {
    /// HTTP/1.1: each request at a time has its own connection, and none waits for another's.
    Apart,
    /// HTTP/2 where the server speaks it: one connection for all, with one handshake and one set of buffers.
    Together,
}

/// Builds a client from a configuration. It writes only while the gate is open.
///
/// Not kube's own stack, for two reasons: its connector leaves Nagle's algorithm on, which costs 40 ms on the first request
/// of a connection (kube-rs/kube#2056), and its retry repeats every verb up to 15 times with pauses of up to 1,000 s.
pub fn connect(config: &Config, gate: &Gate) -> Result<Client, ClusterError> {
    build(config, gate, Streams::Apart)
}

/// The same for one of many clusters. Whoever finds that its connection is dead has to drop the client: requests that were not
/// answered leave the connection open to the next ones until pings have found out too.
pub fn connect_member(config: &Config, gate: &Gate) -> Result<Client, ClusterError> {
    build(config, gate, Streams::Together)
}

fn build(config: &Config, gate: &Gate, streams: Streams) -> Result<Client, ClusterError> {
    let refuse = |e: kube::Error| ClusterError::Unreachable(e.to_string());
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_keepalive(Some(Duration::from_secs(60)));

    let mut tls = config.rustls_client_config().map_err(refuse)?;
    tls.resumption = Resumption::in_memory_sessions(SESSIONS);
    let mut https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    if let Some(name) = &config.tls_server_name {
        let name = ServerName::try_from(name.clone())
            .map_err(|e| ClusterError::Unreachable(format!("tls-server-name {name:?}: {e}")))?;
        https = https.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    let https = match streams {
        Streams::Apart => https.enable_http1().wrap_connector(connector),
        Streams::Together => https.enable_http1().enable_http2().wrap_connector(connector),
    };
    let mut https = TimeoutConnector::new(https);
    https.set_read_timeout(Some(SILENCE));
    https.set_reset_reader_on_write(true);

    let mut http = hyper_util::client::legacy::Client::builder(TokioExecutor::new());
    // Without a timer the pool would close no connection before it is asked for the next one.
    http.timer(TokioTimer::new()).pool_timer(TokioTimer::new());
    http.http1_max_buf_size(BUFFER);
    match streams {
        Streams::Apart => http.pool_idle_timeout(IDLE),
        Streams::Together => http.pool_idle_timeout(None::<Duration>).pool_max_idle_per_host(SPARE),
    };
    http.http2_initial_stream_window_size(WINDOWS.0).http2_initial_connection_window_size(WINDOWS.1);
    http.http2_keep_alive_interval(PING.0).http2_keep_alive_timeout(PING.1);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(refuse)?)
        // The last thing before a request goes out.
        .layer(gate.clone())
        .map_err(tower::BoxError::from)
        .service(http.build::<_, Body>(https));
    Ok(Client::new(service, config.default_namespace.clone()))
}

/// The configuration of the cluster the operator or the command line works from: in-cluster, else `KUBECONFIG` and its
/// default.
pub async fn hub_config() -> Result<Config, ClusterError> {
    Config::infer().await.map_err(|e| ClusterError::Unreachable(format!("no usable kubeconfig: {e}")))
}
