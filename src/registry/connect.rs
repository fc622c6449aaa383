//! Connections to registries: trust, client certificates, proxies, and where not to connect to at all.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http_body_util::combinators::UnsyncBoxBody;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioIo};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tower::Service;

use super::error::deepest;
use super::{Access, RegistryError};

/// A packet that is not answered in this time means there is nobody.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Bodies of requests.
pub(super) type Body = UnsyncBoxBody<Bytes, tower::BoxError>;

/// A client as `hyper` has it.
pub(super) type Http = Client<HttpsConnector<Route>, Body>;

/// Builds a client; `identity` says whether it presents the client certificate.
pub(super) fn client(access: &Access, identity: bool) -> Result<Http, RegistryError> {
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| RegistryError::Access(e.to_string()))?
        .with_root_certificates(roots(access.ca.as_deref())?);
    let tls = match access.identity.as_ref().filter(|_| identity) {
        None => tls.with_no_client_auth(),
        Some((certificate, key)) => {
            let refuse = |e: &dyn std::fmt::Display| {
                RegistryError::Access(format!("the client certificate for the registry cannot be used: {e}"))
            };
            let chain: Vec<CertificateDer<'static>> =
                CertificateDer::pem_slice_iter(certificate).collect::<Result<_, _>>().map_err(|e| refuse(&e))?;
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| refuse(&e))?;
            tls.with_client_auth_cert(chain, key).map_err(|e| refuse(&e))?
        }
    };
    let https = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(Route::new(access));
    // Registries are asked every few minutes: a connection is kept for one task only.
    Ok(Client::builder(TokioExecutor::new()).pool_idle_timeout(Duration::from_secs(10)).build(https))
}

/// The system's roots, read once for the process, and those given.
fn roots(extra: Option<&[u8]>) -> Result<Arc<RootCertStore>, RegistryError> {
    static SYSTEM: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let system = SYSTEM.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        // A certificate that cannot be read trusts nobody; that none could be read shows at the first connection.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    });
    let Some(extra) = extra else { return Ok(Arc::clone(system)) };
    let refuse =
        |why: String| RegistryError::Access(format!("the CA certificates for the registry cannot be used: {why}"));
    let mut roots = RootCertStore::clone(system);
    let mut added = 0;
    for certificate in CertificateDer::pem_slice_iter(extra) {
        roots.add(certificate.map_err(|e| refuse(e.to_string()))?).map_err(|e| refuse(e.to_string()))?;
        added += 1;
    }
    if added == 0 {
        return Err(refuse("there is no PEM block \"CERTIFICATE\" in them".to_owned()));
    }
    Ok(Arc::new(roots))
}

/// Makes TCP connections: directly, or through a proxy.
#[derive(Clone)]
pub(super) struct Route {
    direct: HttpConnector<Resolver>,
    proxy: Option<Arc<Matcher>>,
}

impl Route {
    fn new(access: &Access) -> Self {
        let mut direct = HttpConnector::new_with_resolver(Resolver);
        direct.enforce_http(false);
        direct.set_nodelay(true);
        direct.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let proxy = access.proxy.as_ref().map(|proxy| {
            let encoded = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
            let login =
                proxy.login.as_ref().map(|(user, password)| format!("{}:{}@", encoded(user), encoded(password)));
            let address = proxy.address.replacen("http://", &format!("http://{}", login.unwrap_or_default()), 1);
            Arc::new(Matcher::builder().all(address).no(proxy.except.clone()).build())
        });
        Self { direct, proxy }
    }
}

type Connecting = Pin<Box<dyn Future<Output = Result<TokioIo<TcpStream>, tower::BoxError>> + Send>>;

impl Service<Uri> for Route {
    type Response = TokioIo<TcpStream>;
    type Error = tower::BoxError;
    type Future = Connecting;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: Uri) -> Connecting {
        let mut direct = self.direct.clone();
        let Some(proxy) = self.proxy.as_ref().and_then(|matcher| matcher.intercept(&target)) else {
            // An address in the URL never reaches the resolver.
            let literal = target.host().and_then(|host| host.trim_matches(['[', ']']).parse::<IpAddr>().ok());
            if let Some(address) = literal.filter(|address| !is_allowed(*address)) {
                return Box::pin(async move { Err(refusal(address).into()) });
            }
            return Box::pin(async move { Ok(direct.call(target).await?) });
        };
        let mut tunnel = Tunnel::new(proxy.uri().clone(), direct);
        if let Some(login) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(login.clone());
        }
        Box::pin(async move { tunnel.call(target).await.map_err(|e| format!("proxy: {}", deepest(&e)).into()) })
    }
}

/// Looks names up, and refuses to go where only metadata services of clouds are: whoever names a registry in a spec must not
/// make the operator ask those.
#[derive(Clone)]
pub(super) struct Resolver;

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        Box::pin(async move {
            let host = name.to_string();
            let found = tokio::task::spawn_blocking(move || (host.as_str(), 0u16).to_socket_addrs())
                .await
                .map_err(std::io::Error::other)??;
            let (allowed, refused): (Vec<_>, Vec<_>) = found.partition(|address| is_allowed(address.ip()));
            match refused.first() {
                Some(address) if allowed.is_empty() => Err(std::io::Error::other(refusal(address.ip()))),
                _ => Ok(allowed.into_iter()),
            }
        })
    }
}

fn refusal(address: IpAddr) -> String {
    format!("{address} is a link-local address, where metadata services are and no registry")
}

/// Everything but link-local addresses, also when they are written as IPv6.
fn is_allowed(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => !address.is_link_local(),
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    }
}
