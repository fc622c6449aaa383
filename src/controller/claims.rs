//! Instances that want an installation which belongs to another one: the owner is to say so too.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::plan::Owner;

/// Refused instances of this process by UID, each with its name and with whom it found in its place.
#[derive(Default)]
pub struct Claims(Mutex<BTreeMap<String, (Owner, Owner)>>);

impl Claims {
    /// Takes down how a pass over `claimant` ended; returns the owners that have to look again.
    pub(super) fn record(&self, claimant: &Owner, refused_for: Option<&Owner>) -> Vec<Owner> {
        let mut claims = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = refused_for.map(|owner| (claimant.clone(), owner.clone()));
        let before = match &now {
            Some(now) => claims.insert(claimant.uid.clone(), now.clone()),
            None => claims.remove(&claimant.uid),
        };
        if before == now {
            return Vec::new();
        }
        before.into_iter().chain(now).map(|(_, owner)| owner).collect()
    }

    /// Who wants what belongs to `owner`, by name.
    pub(super) fn on(&self, owner: &Owner) -> Vec<String> {
        let claims = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let claimants = claims.values().filter(|(_, found)| found.is_same_instance(owner));
        let mut names: Vec<String> = claimants.map(|(c, _)| format!("{}/{}", c.namespace, c.name)).collect();
        names.sort();
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_learn_of_claims_when_they_come_and_go() {
        let instance = |name: &str| Owner { namespace: "n".into(), name: name.into(), uid: format!("uid-{name}") };
        let (owner, claimant) = (instance("a"), instance("b"));
        let claims = Claims::default();
        assert_eq!(claims.record(&claimant, None), []);
        assert_eq!(claims.record(&claimant, Some(&owner)), std::slice::from_ref(&owner));
        assert_eq!(claims.record(&claimant, Some(&owner)), [], "the same again is no news");
        assert_eq!((claims.on(&owner), claims.on(&claimant)), (vec!["n/b".to_owned()], Vec::new()));
        assert_eq!(claims.record(&claimant, None), std::slice::from_ref(&owner));
        assert!(claims.on(&owner).is_empty());
    }
}
