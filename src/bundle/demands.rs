//! What the administrator of an operator demands of all bundles, whatever an instance says.

use super::ArtifactError;
use crate::registry::Address;

/// Set once, when the operator starts.
#[derive(Debug, Clone, Default)]
pub struct Demands {
    /// Every bundle has to be verified.
    pub verification: bool,
    /// Registries and repositories bundles may come from (`HOST[:PORT]` or `HOST[:PORT]/PATH`, with everything below);
    /// empty means any.
    pub repositories: Vec<String>,
    /// Token services that may be given credentials although they are not of the registry: `HOST[:PORT]`.
    pub realms: Vec<String>,
}

impl Demands {
    /// Checks where a bundle would come from.
    pub(crate) fn check_place(&self, address: &Address) -> Result<(), ArtifactError> {
        let place = address.to_string();
        let below = |allowed: &String| {
            let allowed = allowed.trim_start_matches("oci://").trim_end_matches('/');
            place.strip_prefix(allowed).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if self.repositories.is_empty() || self.repositories.iter().any(below) {
            return Ok(());
        }
        Err(ArtifactError::NotAllowed(format!(
            "spec.distribution.artifact: bundles may not come from oci://{place}; this operator allows {}",
            self.repositories.join(", ")
        )))
    }

    /// Checks that a bundle will be verified, where it has to be.
    pub(super) fn check_verified(&self, is_configured: bool) -> Result<(), ArtifactError> {
        if self.verification && !is_configured {
            return Err(ArtifactError::NotAllowed(
                "spec.distribution.verify: has to be set, this operator takes only verified bundles (--require-verification)"
                    .to_owned(),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_allowed_with_everything_below() {
        let demands = |allowed: &[&str]| Demands {
            repositories: allowed.iter().map(|a| (*a).to_owned()).collect(),
            ..Demands::default()
        };
        let check =
            |allowed: &[&str], place: &str| demands(allowed).check_place(&Address::parse(place).unwrap()).is_ok();
        assert!(check(&[], "r.example/a"));
        assert!(check(&["r.example"], "r.example/a/b"));
        assert!(check(&["x.example", "oci://r.example/a/"], "r.example/a"));
        assert!(check(&["r.example/a"], "r.example/a/b"));
        assert!(!check(&["r.example/a"], "r.example/ab"));
        assert!(!check(&["r.example"], "r.example.evil/a"));
        assert!(!check(&["r.example"], "r.example:5000/a"));
        assert_eq!(
            demands(&["r.example/a"]).check_place(&Address::parse("x.example/b").unwrap()).unwrap_err().to_string(),
            "spec.distribution.artifact: bundles may not come from oci://x.example/b; this operator allows r.example/a"
        );
    }
}
