//! Registry credentials from docker configuration JSON, as pull secrets and `docker login` write it.

use base64::Engine;
use serde_json::Value;

use super::{Address, RegistryError};

/// Credentials by registry and path.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Credentials(Vec<(String, String, String)>);

impl Credentials {
    /// Parses the value of `.dockerconfigjson`; `what` names it in errors. Values never appear in errors.
    pub fn parse(json: &[u8], what: &str) -> Result<Self, RegistryError> {
        let refuse = |why: &str| RegistryError::Access(format!("{what}: {why}"));
        let config: Value = serde_json::from_slice(json).map_err(|_| refuse("is not JSON"))?;
        let auths = config["auths"].as_object().ok_or_else(|| refuse("has no \"auths\""))?;
        let mut entries = Vec::new();
        for (registry, entry) in auths {
            let (user, password) =
                match (entry["username"].as_str(), entry["password"].as_str(), entry["auth"].as_str()) {
                    (Some(user), Some(password), _) => (user.to_owned(), password.to_owned()),
                    (_, _, Some(auth)) => base64::engine::general_purpose::STANDARD
                        .decode(auth)
                        .ok()
                        .and_then(|b| String::from_utf8(b).ok())
                        .and_then(|t| t.split_once(':').map(|(u, p)| (u.to_owned(), p.to_owned())))
                        .ok_or_else(|| refuse(&format!("auths[{registry:?}].auth is not base64 of USER:PASSWORD")))?,
                    // Credential helpers run programs; an entry without inline values is none for us.
                    _ => continue,
                };
            let place = registry.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
            let place = place.strip_suffix("/v1").or(place.strip_suffix("/v2")).unwrap_or(place);
            // What `docker login` calls Docker Hub.
            let place = if matches!(place, "index.docker.io" | "docker.io") { "registry-1.docker.io" } else { place };
            entries.push((place.to_owned(), user, password));
        }
        // The most specific path first, as Kubernetes matches pull secrets.
        entries.sort_by_key(|(place, ..)| std::cmp::Reverse(place.len()));
        Ok(Self(entries))
    }

    /// What to present for a repository.
    pub(super) fn for_repository(&self, repository: &Address) -> Option<Login> {
        let repository = repository.to_string();
        let (_, user, password) = self.0.iter().find(|(place, ..)| {
            repository == *place || repository.strip_prefix(place.as_str()).is_some_and(|rest| rest.starts_with('/'))
        })?;
        Some(Login { user: user.clone(), password: password.clone() })
    }
}

/// A user name and a password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: String,
}

impl Login {
    /// The value of an `Authorization` header.
    pub(super) fn basic(&self) -> String {
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", self.user, self.password));
        format!("Basic {pair}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_path_wins_and_other_hosts_get_nothing() {
        let json = br#"{"auths": {"r.example": {"username": "a", "password": "1"}, "https://r.example/team": {"auth": "Yjoy"}, "helper.example": {}}}"#;
        let credentials = Credentials::parse(json, "Secret x").unwrap();
        let user = |repository: &str| match credentials.for_repository(&Address::parse(repository).unwrap()) {
            Some(Login { user, password }) => format!("{user}:{password}"),
            None => "anonymous".to_owned(),
        };
        assert_eq!(user("r.example/flux"), "a:1");
        assert_eq!(user("r.example/team/flux"), "b:2");
        assert_eq!(user("r.example/teams/flux"), "a:1");
        assert_eq!(user("r.example.evil/flux"), "anonymous");
        assert_eq!(user("helper.example/flux"), "anonymous");
    }
}
