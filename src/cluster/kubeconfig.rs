//! Kubeconfigs from Secrets. A kubeconfig can run programs and read files of whoever loads it, so this is a list of what
//! is allowed, not of what is forbidden: inline data only.

use base64::Engine;
use kube::Config;
use kube::config::AuthInfo;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;

use crate::render::yaml;

/// Larger than any honest kubeconfig.
const SIZE_LIMIT: usize = 64 << 10;

/// Why a kubeconfig is not accepted: what, where, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KubeconfigRejected(String);

impl KubeconfigRejected {
    /// The data is where it belongs, but TLS cannot use it.
    pub fn unusable(cause: &super::ClusterError) -> Self {
        let text = cause.to_string();
        Self(format!("the data cannot be used: {}", text.trim_start_matches("cannot reach the API server: ")))
    }
}

fn reject<T>(text: impl Into<String>) -> Result<T, KubeconfigRejected> {
    Err(KubeconfigRejected(text.into()))
}

/// What is left of a kubeconfig after it was checked.
#[derive(Clone)]
pub struct Kubeconfig {
    server: http::Uri,
    tls_server_name: Option<String>,
    authority: Vec<Vec<u8>>,
    auth: AuthInfo,
}

impl Kubeconfig {
    /// Checks the bytes of a Secret's key.
    pub fn parse(bytes: &[u8]) -> Result<Self, KubeconfigRejected> {
        if bytes.len() > SIZE_LIMIT {
            return reject(format!("file is {} KiB, the limit is 64 KiB", bytes.len() / 1024));
        }
        let Ok(text) = std::str::from_utf8(bytes) else { return reject("file is not text") };
        if text.trim().is_empty() {
            return reject("file is empty");
        }
        let documents = yaml::parse("kubeconfig", text).map_err(|e| KubeconfigRejected(e.to_string()))?;
        let [root] = documents.as_slice() else {
            return reject(format!("file has {} YAML documents, one is allowed", documents.len()));
        };
        fields(
            root,
            "kubeconfig",
            &["apiVersion", "kind", "clusters", "users", "contexts", "current-context", "preferences", "extensions"],
        )?;

        let current = root["current-context"].as_str().unwrap_or_default();
        if current.is_empty() {
            return reject(format!("current-context is not set (contexts: {})", names(root, "contexts")));
        }
        let context = entry(root, "contexts", "context", current, "current-context")?;
        fields(context, &format!("context {current:?}"), &["cluster", "user", "namespace", "extensions"])?;
        let of = |field: &str| context[field].as_str().unwrap_or_default();
        let (cluster_name, user_name) = (of("cluster"), of("user"));
        let cluster = entry(root, "clusters", "cluster", cluster_name, &format!("context {current:?}: cluster"))?;
        let user = entry(root, "users", "user", user_name, &format!("context {current:?}: user"))?;

        let (server, tls_server_name, authority) = parse_cluster(cluster, &format!("cluster {cluster_name:?}"))?;
        let auth = parse_user(user, &format!("user {user_name:?}"))?;
        Ok(Self { server, tls_server_name, authority, auth })
    }

    /// A client configuration of the checked values.
    pub fn config(&self) -> Config {
        let mut config = Config::new(self.server.clone());
        config.root_cert = Some(self.authority.clone());
        config.tls_server_name.clone_from(&self.tls_server_name);
        config.auth_info = self.auth.clone();
        config.proxy_url = None;
        config.default_retry = false;
        config
    }
}

fn names(root: &Value, list: &str) -> String {
    let found: Vec<&str> =
        root[list].as_array().into_iter().flatten().filter_map(|e| e["name"].as_str()).take(8).collect();
    if found.is_empty() { "none".to_owned() } else { found.join(", ") }
}

fn entry<'a>(root: &'a Value, list: &str, field: &str, name: &str, who: &str) -> Result<&'a Value, KubeconfigRejected> {
    let entries = root[list].as_array().map(Vec::as_slice).unwrap_or_default();
    match entries.iter().find(|e| e["name"] == name) {
        Some(found) if found[field].is_object() => Ok(&found[field]),
        _ => reject(format!("{who} {name:?} has no entry in {list} (found: {})", names(root, list))),
    }
}

/// Refuses every field that is not allowed, with the reason where one is known.
fn fields(value: &Value, what: &str, allowed: &[&str]) -> Result<(), KubeconfigRejected> {
    let Some(map) = value.as_object() else { return reject(format!("{what} is not a map")) };
    for (field, value) in map {
        if allowed.contains(&field.as_str()) || value.is_null() {
            continue;
        }
        let why = match field.as_str() {
            "exec" => {
                "exec plugins are not allowed (they would run a program in the operator); use a token or a client certificate"
            }
            "auth-provider" => "auth-provider is not allowed; use a token or a client certificate",
            "tokenFile" => "tokenFile is not allowed; put the token inline (users[].user.token)",
            "client-certificate" => {
                "client-certificate is a file path, which is not allowed; use client-certificate-data"
            }
            "client-key" => "client-key is a file path, which is not allowed; use client-key-data",
            "certificate-authority" => {
                "certificate-authority is a file path, which is not allowed; use certificate-authority-data"
            }
            "insecure-skip-tls-verify" if *value == Value::Bool(false) => continue,
            "insecure-skip-tls-verify" => "insecure-skip-tls-verify is not allowed; add certificate-authority-data",
            "proxy-url" => "proxy-url is not allowed",
            "username" | "password" => "basic authentication is not allowed; use a token or a client certificate",
            "as" | "as-uid" | "as-groups" | "as-user-extra" => {
                return reject(format!("{what}: {field}: impersonation is not allowed in a kubeconfig"));
            }
            _ => return reject(format!("{what}: field {field:?} is not allowed (allowed: {})", allowed.join(", "))),
        };
        return reject(format!("{what}: {why}"));
    }
    Ok(())
}

/// Address, the name its certificate has, and the authorities that may have signed that.
type Server = (http::Uri, Option<String>, Vec<Vec<u8>>);

fn parse_cluster(cluster: &Value, what: &str) -> Result<Server, KubeconfigRejected> {
    let allowed = ["server", "certificate-authority-data", "tls-server-name", "disable-compression", "extensions"];
    fields(cluster, what, &allowed)?;
    let server = cluster["server"].as_str().unwrap_or_default();
    let expected = "server must be https://HOST[:PORT][/PATH]";
    let uri: http::Uri = match server.parse() {
        Ok(uri) => uri,
        Err(_) => return reject(format!("{what}: {expected}; found {server:?}")),
    };
    if uri.scheme_str() != Some("https") {
        return reject(format!("{what}: {expected}; found scheme {:?}", uri.scheme_str().unwrap_or("none")));
    }
    if uri.authority().is_some_and(|a| a.as_str().contains('@')) || uri.query().is_some() || server.contains('#') {
        return reject(format!("{what}: {expected}, without user, query or fragment"));
    }
    let Some(data) = cluster["certificate-authority-data"].as_str() else {
        return reject(format!("{what}: certificate-authority-data is required"));
    };
    let pem = decode(data, what, "certificate-authority-data")?;
    let authority: Vec<Vec<u8>> = CertificateDer::pem_slice_iter(&pem)
        .map(|c| c.map(|c| c.to_vec()))
        .collect::<Result<_, _>>()
        .map_err(|e| KubeconfigRejected(format!("{what}: certificate-authority-data is not PEM: {e}")))?;
    if authority.is_empty() {
        return reject(format!("{what}: certificate-authority-data holds no certificate"));
    }
    Ok((uri, cluster["tls-server-name"].as_str().map(str::to_owned), authority))
}

fn parse_user(user: &Value, what: &str) -> Result<AuthInfo, KubeconfigRejected> {
    fields(user, what, &["token", "client-certificate-data", "client-key-data", "extensions"])?;
    let text = |field: &str| user[field].as_str().filter(|t| !t.is_empty()).map(str::to_owned);
    let (token, certificate, key) = (text("token"), text("client-certificate-data"), text("client-key-data"));
    for (field, data) in [("client-certificate-data", &certificate), ("client-key-data", &key)] {
        if let Some(data) = data {
            decode(data, what, field)?;
        }
    }
    match (&token, &certificate, &key) {
        (Some(_), None, None) | (None, Some(_), Some(_)) => {}
        (None, None, None) => {
            return reject(format!(
                "{what}: no credentials; set token, or client-certificate-data and client-key-data"
            ));
        }
        (None, Some(_), None) => return reject(format!("{what}: client-key-data is missing")),
        (None, None, Some(_)) => return reject(format!("{what}: client-certificate-data is missing")),
        (Some(_), ..) => return reject(format!("{what}: set either token or a client certificate, not both")),
    }
    Ok(AuthInfo {
        token: token.map(Into::into),
        client_certificate_data: certificate,
        client_key_data: key.map(Into::into),
        ..AuthInfo::default()
    })
}

fn decode(data: &str, what: &str, field: &str) -> Result<Vec<u8>, KubeconfigRejected> {
    let compact: String = data.split_ascii_whitespace().collect();
    base64::engine::general_purpose::STANDARD
        .decode(compact)
        .map_err(|_| KubeconfigRejected(format!("{what}: {field} is not base64")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CA: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1BPT0KLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo=";

    /// A good kubeconfig with one part replaced.
    fn with(part: &str, replacement: &str) -> String {
        let good = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: x\ncontexts: [{{name: x, context: {{cluster: c1, user: admin}}}}]\n\
             clusters: [{{name: c1, cluster: {{server: \"https://host:6443\", certificate-authority-data: {CA}}}}}]\n\
             users: [{{name: admin, user: {{token: secret-token}}}}]\n"
        );
        assert!(good.contains(part), "{part}");
        good.replace(part, replacement)
    }

    #[test]
    fn a_kubeconfig_with_inline_data_is_accepted() {
        assert!(Kubeconfig::parse(with("secret-token", "t").as_bytes()).is_ok());
        assert!(
            Kubeconfig::parse(
                with("token: secret-token", "client-certificate-data: YQ==, client-key-data: YQ==").as_bytes()
            )
            .is_ok()
        );
    }

    #[test]
    fn everything_else_is_refused_with_the_field_and_what_to_write_instead() {
        let user = "token: secret-token";
        let cluster = "server: \"https://host:6443\"";
        for (part, replacement, expected) in [
            (
                user,
                "exec: {command: sh}",
                "user \"admin\": exec plugins are not allowed (they would run a program in the operator); use a token or a client certificate",
            ),
            (
                user,
                "auth-provider: {name: gcp}",
                "user \"admin\": auth-provider is not allowed; use a token or a client certificate",
            ),
            (
                user,
                "tokenFile: /t",
                "user \"admin\": tokenFile is not allowed; put the token inline (users[].user.token)",
            ),
            (
                user,
                "client-certificate: /c",
                "user \"admin\": client-certificate is a file path, which is not allowed; use client-certificate-data",
            ),
            (
                user,
                "client-key: /k",
                "user \"admin\": client-key is a file path, which is not allowed; use client-key-data",
            ),
            (
                user,
                "username: u, password: p",
                "user \"admin\": basic authentication is not allowed; use a token or a client certificate",
            ),
            (user, "token: t, as: root", "user \"admin\": as: impersonation is not allowed in a kubeconfig"),
            (
                user,
                "wizard: 1",
                "user \"admin\": field \"wizard\" is not allowed (allowed: token, client-certificate-data, client-key-data, extensions)",
            ),
            (
                "user: {token: secret-token}",
                "user: {}",
                "user \"admin\": no credentials; set token, or client-certificate-data and client-key-data",
            ),
            (user, "client-certificate-data: YQ==", "user \"admin\": client-key-data is missing"),
            (
                user,
                "client-certificate-data: '%', client-key-data: YQ==",
                "user \"admin\": client-certificate-data is not base64",
            ),
            (
                cluster,
                "server: \"http://host\"",
                "cluster \"c1\": server must be https://HOST[:PORT][/PATH]; found scheme \"http\"",
            ),
            (
                cluster,
                "server: host",
                "cluster \"c1\": server must be https://HOST[:PORT][/PATH]; found scheme \"none\"",
            ),
            (
                cluster,
                "server: \"https://u:p@host\"",
                "cluster \"c1\": server must be https://HOST[:PORT][/PATH], without user, query or fragment",
            ),
            (cluster, "server: \"https://host\", proxy-url: \"http://p\"", "cluster \"c1\": proxy-url is not allowed"),
            (
                cluster,
                "server: \"https://host\", insecure-skip-tls-verify: true",
                "cluster \"c1\": insecure-skip-tls-verify is not allowed; add certificate-authority-data",
            ),
            (
                "certificate-authority-data",
                "certificate-authority",
                "cluster \"c1\": certificate-authority is a file path, which is not allowed; use certificate-authority-data",
            ),
            (
                "current-context: x",
                "current-context: other",
                "current-context \"other\" has no entry in contexts (found: x)",
            ),
            ("current-context: x", "", "current-context is not set (contexts: x)"),
            ("cluster: c1,", "cluster: c2,", "context \"x\": cluster \"c2\" has no entry in clusters (found: c1)"),
            ("user: admin", "user: bob", "context \"x\": user \"bob\" has no entry in users (found: admin)"),
            ("apiVersion: v1", "---\na: 1\n---\napiVersion: v1", "file has 2 YAML documents, one is allowed"),
        ] {
            let error = Kubeconfig::parse(with(part, replacement).as_bytes()).err().unwrap().to_string();
            assert_eq!(error, expected);
            assert!(!error.contains("secret-token"), "{error}");
        }
        assert_eq!(Kubeconfig::parse(b" ").err().unwrap().to_string(), "file is empty");
        assert_eq!(Kubeconfig::parse(&[0xff, 0xfe]).err().unwrap().to_string(), "file is not text");
        assert_eq!(
            Kubeconfig::parse(&vec![b'a'; 70 << 10]).err().unwrap().to_string(),
            "file is 70 KiB, the limit is 64 KiB"
        );
    }
}
