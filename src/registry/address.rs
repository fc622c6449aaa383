//! Where a repository is.

use std::fmt;

use super::RegistryError;

/// `HOST[:PORT]/PATH`, checked: nothing in it can change the meaning of a URL it is put into.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// `HOST[:PORT]`.
    pub registry: String,
    /// Path of the repository in the registry.
    pub path: String,
}

impl Address {
    /// Parses `oci://HOST[:PORT]/PATH` or `HOST[:PORT]/PATH`.
    pub fn parse(text: &str) -> Result<Self, RegistryError> {
        let refuse = || {
            RegistryError::Address(format!(
                "{text:?} must be oci://HOST[:PORT]/REPOSITORY without tag or digest, in lower case"
            ))
        };
        let place = text.strip_prefix("oci://").unwrap_or(text);
        let (registry, path) = place.split_once('/').ok_or_else(refuse)?;
        let is_part = |part: &str| {
            let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
            part.starts_with(edge)
                && part.ends_with(edge)
                && part.chars().all(|c| edge(c) || matches!(c, '.' | '_' | '-'))
        };
        let is_host = |host: &str| {
            !host.is_empty()
                && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))
                && host.starts_with(|c: char| c.is_ascii_alphanumeric())
        };
        let (host, port) = registry.split_once(':').map_or((registry, None), |(host, port)| (host, Some(port)));
        let has_port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
        if text.len() > 512 || !is_host(host) || !has_port || !path.split('/').all(is_part) {
            return Err(refuse());
        }
        // What `docker pull` calls docker.io answers under another name.
        let registry = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        Ok(Self { registry: registry.to_owned(), path: path.to_owned() })
    }

    /// Address of another repository of the same registry.
    #[must_use]
    pub fn sibling(&self, path: &str) -> Self {
        Self { registry: self.registry.clone(), path: path.to_owned() }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_strictly() {
        for (text, expected) in [
            ("oci://r.example/a/b", "r.example/a/b"),
            ("r.example:5000/a-b/c_d/e.f", "r.example:5000/a-b/c_d/e.f"),
            ("docker.io/fluxcd/flux", "registry-1.docker.io/fluxcd/flux"),
        ] {
            assert_eq!(Address::parse(text).unwrap().to_string(), expected);
        }
        for text in [
            "",
            "oci://",
            "r.example",
            "r.example/",
            "/a",
            "r.example/a:1",
            "r.example/a@sha256:00",
            "r.example/../a",
            "r.example/a//b",
            "user@r.example/a",
            "r.example:99999/a",
            "r.example/a?b",
            "r.example/A",
            "https://r/a",
            "r.example:0/a",
            "[::1]/a",
            "r.example/a#b",
            "r\u{e9}.example/a",
        ] {
            let error = Address::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{text:?} must be oci://HOST")), "{error}");
        }
    }
}
