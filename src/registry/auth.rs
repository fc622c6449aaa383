//! What a registry asks for with `401`, and who may be given the credentials for it.

use http::{HeaderMap, Uri, header};
use http_auth::ChallengeParser;

use super::RegistryError;

/// What a registry wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password with every request.
    Basic,
    /// A token of this service.
    Bearer {
        /// URL of the token service.
        realm: String,
        /// Name of the registry there.
        service: Option<String>,
    },
}

impl Challenge {
    /// Reads `WWW-Authenticate`; a token is preferred to a password. `None` when it says nothing we understand.
    pub(super) fn read(headers: &HeaderMap) -> Option<Self> {
        let mut basic = None;
        for value in headers.get_all(header::WWW_AUTHENTICATE) {
            for challenge in ChallengeParser::new(value.to_str().ok()?).filter_map(Result::ok) {
                if challenge.scheme.eq_ignore_ascii_case("basic") {
                    basic = Some(Self::Basic);
                } else if challenge.scheme.eq_ignore_ascii_case("bearer") {
                    let parameter = |name: &str| {
                        let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                        found.map(|(_, value)| value.to_unescaped())
                    };
                    if let Some(realm) = parameter("realm") {
                        return Some(Self::Bearer { realm, service: parameter("service") });
                    }
                }
            }
        }
        basic
    }
}

/// Scheme, host and port: what has to be the same for credentials to go there.
pub(super) fn origin(url: &Uri) -> Option<(String, String, u16)> {
    let scheme = url.scheme_str()?;
    let port = url.port_u16().unwrap_or(if scheme == "http" { 80 } else { 443 });
    Some((scheme.to_owned(), url.host()?.to_ascii_lowercase(), port))
}

/// Checks where credentials would be sent for a token, and gives the URL to ask.
///
/// A registry could name any address here and collect the credentials of others (containerd's CVE-2020-15157). Allowed are
/// the registry itself; a domain that the registry is part of (`registry.gitlab.com` and `gitlab.com`); Docker's own pair;
/// and what the operator's administrator names. Plain HTTP only where the registry is plain HTTP.
pub(super) fn token_url(
    registry: &Uri,
    realm: &str,
    service: Option<&str>,
    scope: &str,
    allowed: &[String],
) -> Result<Uri, RegistryError> {
    let name = registry.authority().map(ToString::to_string).unwrap_or_default();
    let refuse = |why: &str| RegistryError::Elsewhere {
        registry: name.clone(),
        cause: format!("wants credentials to be sent to {:?}, {why}; nothing was sent", crate::render::cut(realm, 120)),
    };
    let url: Uri = realm.parse().map_err(|_| refuse("which is no URL"))?;
    let (Some(ours), Some(theirs)) = (origin(registry), origin(&url)) else { return Err(refuse("which is no URL")) };
    if theirs.0 != "https" && !(theirs.0 == "http" && ours.0 == "http") {
        return Err(refuse("which is not https"));
    }
    let authority = url.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    if authority.contains('@') {
        return Err(refuse("which has a user name in it"));
    }
    let parent = theirs.2 == 443
        && ours.2 == 443
        && theirs.1.contains('.')
        && ours.1.strip_suffix(&theirs.1).is_some_and(|rest| rest.ends_with('.'));
    let docker = ours.1 == "registry-1.docker.io" && theirs.1 == "auth.docker.io" && theirs.2 == 443;
    if ours != theirs && !parent && !docker && !allowed.iter().any(|a| a.eq_ignore_ascii_case(authority)) {
        return Err(refuse(&format!(
            "which is neither the registry nor a domain it is part of; if that is right, start the operator with --registry-realm={authority}"
        )));
    }
    let mut query: Vec<(&str, &str)> = Vec::new();
    if let Some(service) = service {
        query.push(("service", service));
    }
    query.push(("scope", scope));
    let query: Vec<String> = query.into_iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    let separator = if url.query().is_some() { '&' } else { '?' };
    format!("{url}{separator}{}", query.join("&")).parse().map_err(|_| refuse("which is no URL"))
}

/// Percent-encodes everything that is not plain in a query.
pub(super) fn encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b':' | b'/' | b',');
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::WWW_AUTHENTICATE, value.parse().unwrap());
            }
            Challenge::read(&headers)
        };
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) })
        };
        assert_eq!(read(&["Basic realm=\"x\""]), Some(Challenge::Basic));
        assert_eq!(read(&["Bearer realm=\"https://a/t\",service=\"s, t\""]), bearer("https://a/t", Some("s, t")));
        assert_eq!(read(&["Basic realm=x", "bearer realm=\"https://a\""]), bearer("https://a", None));
        assert_eq!(read(&["Negotiate"]), None);
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn tokens_are_asked_for_only_where_credentials_belong() {
        let ask = |registry: &str, realm: &str| {
            token_url(
                &registry.parse().unwrap(),
                realm,
                Some("s"),
                "repository:a/b:pull",
                &["ok.example:8443".to_owned()],
            )
            .map(|url| url.to_string())
            .map_err(|error| error.to_string())
        };
        assert_eq!(
            ask("https://r.example", "https://r.example/token").unwrap(),
            "https://r.example/token?service=s&scope=repository:a/b:pull"
        );
        for (registry, realm) in [
            ("https://r.example", "https://R.example:443/token?x=1"),
            ("https://registry.gitlab.com", "https://gitlab.com/jwt/auth"),
            ("https://registry-1.docker.io", "https://auth.docker.io/token"),
            ("https://r.example", "https://ok.example:8443/token"),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5000/token"),
        ] {
            assert!(ask(registry, realm).is_ok(), "{registry} {realm}");
        }
        for (realm, why) in [
            ("http://r.example/token", "which is not https"),
            ("http://169.254.169.254/latest", "which is not https"),
            ("https://evil.example/token", "which is neither the registry nor a domain it is part of"),
            ("https://r.example:8443/token", "which is neither"),
            ("https://r.example.evil/token", "which is neither"),
            ("https://example/token", "which is neither"),
            ("https://r.example@evil.example/t", "which has a user name in it"),
            ("ftp://r.example/x", "which is not https"),
            ("/token", "which is no URL"),
            ("", "which is no URL"),
        ] {
            let error = ask("https://r.example", realm).unwrap_err();
            assert!(error.contains(why) && error.ends_with("nothing was sent"), "{realm}: {error}");
        }
    }
}
