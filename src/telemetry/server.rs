//! `/livez`, `/readyz` and `/metrics`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::Metrics;

/// Gates of readiness, by name.
#[derive(Clone)]
pub struct Health(Arc<Mutex<BTreeMap<&'static str, bool>>>);

impl Default for Health {
    fn default() -> Self {
        Self(Arc::new(Mutex::new([("crd", false)].into())))
    }
}

impl Health {
    /// Opens or closes a gate.
    pub fn set(&self, gate: &'static str, open: bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(gate, open);
    }

    fn report(&self) -> (StatusCode, String) {
        let gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<String> =
            gates.iter().map(|(gate, open)| format!("[{}] {gate}\n", if *open { '+' } else { '-' })).collect();
        let ready = gates.values().all(|open| *open);
        (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, lines.concat())
    }
}

/// Serves health and metrics, on one address or two.
pub async fn serve(
    health_addr: SocketAddr,
    metrics_addr: SocketAddr,
    health: Health,
    metrics: Metrics,
) -> anyhow::Result<JoinHandle<()>> {
    let probes = Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(move || async move { health.report() }));
    let openmetrics = [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    let numbers = Router::new().route("/metrics", get(move || async move { (openmetrics, metrics.text()) }));

    let mut routers = vec![(health_addr, probes)];
    if metrics_addr == health_addr {
        routers[0].1 = std::mem::take(&mut routers[0].1).merge(numbers);
    } else {
        routers.push((metrics_addr, numbers));
    }
    let mut servers = Vec::new();
    for (address, router) in routers {
        let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        servers.push(axum::serve(listener, router).into_future());
    }
    Ok(tokio::spawn(async move {
        let _ = futures::future::join_all(servers).await;
    }))
}
