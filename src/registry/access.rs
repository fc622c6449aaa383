//! How a registry may be reached.

use std::borrow::Cow;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::{Credentials, RegistryError};

/// All that decides how a registry is talked to. Two that are equal may share what was found out.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Access {
    /// Plain HTTP. Never fallen back to.
    pub insecure: bool,
    /// User names and passwords.
    pub credentials: Credentials,
    /// Where the credentials come from, for people whose are refused.
    pub credentials_hint: &'static str,
    /// Certificate authorities to trust besides those of the system, PEM.
    pub ca: Option<Vec<u8>>,
    /// Client certificate and private key, PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// Proxy; none means a direct connection.
    pub proxy: Option<Proxy>,
    /// `HOST[:PORT]` of token services that may be given the credentials although they are not of the registry.
    pub realms: Vec<String>,
    /// Longest time for one thing that is asked for, with all retries.
    pub timeout: Duration,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            insecure: false,
            credentials: Credentials::default(),
            credentials_hint: "the credentials",
            ca: None,
            identity: None,
            proxy: None,
            realms: Vec::new(),
            timeout: Duration::from_secs(120),
        }
    }
}

/// An HTTP proxy.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Proxy {
    /// `http://HOST:PORT`.
    pub address: String,
    /// User and password for the proxy.
    pub login: Option<(String, String)>,
    /// Hosts, domains and networks that are reached directly, as in `NO_PROXY`.
    pub except: String,
}

impl Access {
    /// Access with the proxy that the environment names (`HTTPS_PROXY`, `NO_PROXY`), as command lines have it.
    pub fn from_environment() -> Result<Self, RegistryError> {
        let read = |name: &str| {
            [name.to_owned(), name.to_lowercase()].iter().find_map(|n| std::env::var(n).ok()).filter(|v| !v.is_empty())
        };
        let proxy = read("HTTPS_PROXY")
            .map(|address| Proxy::parse(&address, "HTTPS_PROXY", read("NO_PROXY").unwrap_or_default()))
            .transpose()?;
        Ok(Self { proxy, credentials_hint: "`docker login`", ..Self::default() })
    }
}

impl Proxy {
    /// Reads `http://[USER:PASSWORD@]HOST:PORT`, user and password percent-encoded; `what` names it in errors, which never show the password.
    pub fn parse(address: &str, what: &str, except: String) -> Result<Self, RegistryError> {
        let refuse = || RegistryError::Access(format!("{what}: the address of a proxy must be http://HOST:PORT"));
        let rest = address.trim().trim_end_matches('/').strip_prefix("http://").ok_or_else(refuse)?;
        let (login, place) = match rest.rsplit_once('@') {
            Some((login, place)) => {
                let (user, password) = login.split_once(':').unwrap_or((login, ""));
                let decoded =
                    |text: &str| percent_decode_str(text).decode_utf8().map(Cow::into_owned).map_err(|_| refuse());
                (Some((decoded(user)?, decoded(password)?)), place)
            }
            None => (None, rest),
        };
        let authority: http::uri::Authority = place.parse().map_err(|_| refuse())?;
        if authority.host().is_empty() || place.contains('/') {
            return Err(refuse());
        }
        Ok(Self { address: format!("http://{authority}"), login, except })
    }
}
