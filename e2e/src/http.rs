//! A small client for one API server: what the bed itself needs, and no more.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

#[derive(Debug, Clone)]
pub(crate) struct Api {
    agent: ureq::Agent,
    server: String,
    token: String,
}

/// Answer of a request that reached the server.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn ok(self) -> Result<Value> {
        if self.code >= 300 {
            bail!("HTTP {}: {}", self.code, self.body);
        }
        serde_json::from_str(&self.body).context("answer is not JSON")
    }
}

fn agent(tls: Option<TlsConfig>, timeout: Duration) -> ureq::Agent {
    let mut config =
        ureq::Agent::config_builder().proxy(None).http_status_as_error(false).timeout_global(Some(timeout));
    if let Some(tls) = tls {
        config = config.tls_config(tls);
    }
    config.build().new_agent()
}

impl Api {
    pub(crate) fn new(server: &str, ca_pem: &[u8], token: &str, timeout: Duration) -> Result<Self> {
        let mut roots: Vec<Certificate<'static>> = Vec::new();
        for item in parse_pem(ca_pem) {
            if let PemItem::Certificate(certificate) = item? {
                roots.push(certificate);
            }
        }
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::new(roots)))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .build();
        Ok(Self { agent: agent(Some(tls), timeout), server: server.to_owned(), token: token.to_owned() })
    }

    pub(crate) fn request(&self, method: &str, path: &str, content: &str, body: Option<&Value>) -> Result<Answer> {
        self.ask(method, path, content, "application/json", body)
    }

    /// The same, for an answer of this media type.
    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        content: &str,
        accept: &str,
        body: Option<&Value>,
    ) -> Result<Answer> {
        let body = body.map(ToString::to_string).unwrap_or_default();
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.server))
            .header("authorization", format!("Bearer {}", self.token))
            .header("user-agent", "headwater-bed")
            .header("accept", accept)
            .header("content-type", content)
            .body(body)?;
        let mut answer = self.agent.run(request)?;
        let code = answer.status().as_u16();
        // A list of Deployments can be longer than the default limit of 10 MB allows.
        let body = answer.body_mut().with_config().limit(256 << 20).read_to_string()?;
        Ok(Answer { code, body })
    }

    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        self.request("GET", path, "application/json", None)?.ok()
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.request("POST", path, "application/json", Some(body))?.ok()
    }

    pub(crate) fn merge(&self, path: &str, body: &Value) -> Result<Value> {
        self.request("PATCH", path, "application/merge-patch+json", Some(body))?.ok()
    }
}

/// HTTP status of a plain GET, or nothing when nobody answers.
pub(crate) fn probe(url: &str) -> Option<u16> {
    agent(None, Duration::from_secs(1)).get(url).call().ok().map(|answer| answer.status().as_u16())
}

/// Now, as Kubernetes writes it.
pub(crate) fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
