//! Clients. The only place that makes them.

use std::time::Duration;

use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ConfigExt};
use kube::{Client, Config};
use tower::ServiceBuilder;

use super::{ClusterError, Gate};

/// A packet that is not answered in this time means there is nobody.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A pass keeps its connections, a rest gives them back: each costs 30 KB, and a pass uses eight.
const IDLE: Duration = Duration::from_secs(10);

/// Read at once. A connection keeps the largest buffer it ever had, and that over which a long list came may become a watch.
const BUFFER: usize = 16 << 10;

/// A connection over which nothing came for so long while something was expected is dead. Watches show a sign of life once
/// a minute, all else has a much shorter deadline.
const SILENCE: Duration = Duration::from_secs(180);

/// Builds a client from a configuration. It writes only while the gate is open.
///
/// Not kube's own stack, for two reasons: its connector leaves Nagle's algorithm on, which costs 40 ms on the first request
/// of a connection (kube-rs/kube#2056), and its retry repeats every verb up to 15 times with pauses of up to 1,000 s.
pub fn connect(config: &Config, gate: &Gate) -> Result<Client, ClusterError> {
    let refuse = |e: kube::Error| ClusterError::Unreachable(e.to_string());
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_keepalive(Some(Duration::from_secs(60)));
    let https = config.rustls_https_connector_with_connector(connector).map_err(refuse)?;
    let mut https = TimeoutConnector::new(https);
    https.set_read_timeout(Some(SILENCE));
    https.set_reset_reader_on_write(true);
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        // Without a timer the pool would close no connection before it is asked for the next one.
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .http1_max_buf_size(BUFFER)
        .build::<_, Body>(https);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(refuse)?)
        // The last thing before a request goes out.
        .layer(gate.clone())
        .map_err(tower::BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace.clone()))
}

/// The configuration of the cluster the operator or the command line works from: in-cluster, else `KUBECONFIG` and its
/// default.
pub async fn hub_config() -> Result<Config, ClusterError> {
    Config::infer().await.map_err(|e| ClusterError::Unreachable(format!("no usable kubeconfig: {e}")))
}
