//! Looks at a cluster before a change: what the account may do, and what the API server would say to an object. Nothing is written.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Cluster, ClusterError, FIELD_MANAGER, request};
use crate::plan::Desired;
use crate::plan::preflight::{Granted, Need, Trial};
use crate::render::Kind;

/// Objects a page: an honest page is far below the limit of an answer.
const PAGE: usize = 250;

const REVIEWS: &str = "/apis/authorization.k8s.io/v1";

impl Cluster {
    /// What our account may do in a namespace, and on the cluster as a whole.
    pub async fn granted(&self, namespace: &str) -> Result<Granted, ClusterError> {
        let review = self.review("selfsubjectrulesreviews", &json!({"namespace": namespace})).await?;
        Ok(Granted::of(&review))
    }

    /// Whether our account may do this.
    pub async fn may(&self, need: &Need) -> Result<bool, ClusterError> {
        let subject = &need.subject;
        let attributes = json!({
            "verb": need.verb, "group": subject.group, "resource": subject.resource, "subresource": subject.subresource,
            "namespace": subject.namespace, "name": subject.name,
        });
        let review = self.review("selfsubjectaccessreviews", &json!({"resourceAttributes": attributes})).await?;
        Ok(review["status"]["allowed"] == true)
    }

    async fn review(&self, resource: &str, spec: &Value) -> Result<Value, ClusterError> {
        let kind = match resource {
            "selfsubjectrulesreviews" => "SelfSubjectRulesReview",
            _ => "SelfSubjectAccessReview",
        };
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec});
        let body = Some((request::JSON, Bytes::from(review.to_string())));
        let path = format!("{REVIEWS}/{resource}");
        let (_, answer) = request::send(&self.client, "POST", &path, body, request::WHOLE).await?;
        request::parse(&answer)
    }

    /// What the API server would say to [`Cluster::apply`], and whose fields would be taken over. An error means that it says nothing at
    /// all at the moment.
    pub async fn attempt(&self, object: &Desired) -> Result<Trial, ClusterError> {
        let path = format!(
            "{}?fieldManager={FIELD_MANAGER}&fieldValidation=Strict&dryRun=All",
            request::path(&object.kind, &object.key)
        );
        let body = Some((request::APPLY, object.body.clone()));
        let answer = request::exchange(&self.client, "PATCH", &path, body, request::METADATA).await?;
        if answer.status.is_success() {
            return Ok(Trial::Accepted);
        }
        let conflicts = conflicts(&answer.body);
        if conflicts.is_empty() {
            return trial(answer.refusal());
        }
        // Whose fields they are is told before anything is validated.
        match self.dry_run(object).await {
            Ok(_) => Ok(Trial::Conflicts(conflicts)),
            Err(error) => trial(error),
        }
    }

    /// All objects of a kind, page by page, in one namespace or everywhere. A kind the cluster does not know has none.
    pub async fn each(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        mut visit: impl FnMut(&Value),
    ) -> Result<(), ClusterError> {
        let collection = request::collection(kind, namespace.filter(|_| kind.namespaced));
        let mut next = String::new();
        loop {
            let path = format!("{collection}?limit={PAGE}{next}");
            let mut page: Value = match request::send(&self.client, "GET", &path, None, request::WHOLE).await {
                Ok((_, answer)) => request::parse(&answer)?,
                Err(ClusterError::NotFound(_)) => return Ok(()),
                Err(error) => return Err(error),
            };
            page["items"].as_array_mut().into_iter().flatten().for_each(|item| visit(item));
            match page["metadata"]["continue"].as_str().filter(|token| !token.is_empty()) {
                // A token is of an alphabet that a query takes as it is.
                Some(token) => next = format!("&continue={token}"),
                None => return Ok(()),
            }
        }
    }
}

/// Managers and fields of a refusal that is about field ownership.
fn conflicts(answer: &[u8]) -> Vec<(String, String)> {
    let status: Value = serde_json::from_slice(answer).unwrap_or_default();
    let causes = status["details"]["causes"].as_array().into_iter().flatten();
    causes
        .filter(|cause| cause["reason"] == "FieldManagerConflict")
        .filter_map(|cause| {
            // conflict with "MANAGER" with subresource "X" using V
            let message = cause["message"].as_str()?;
            let manager = message.split('"').nth(1).unwrap_or(message);
            Some((manager.to_owned(), cause["field"].as_str()?.to_owned()))
        })
        .collect()
}

/// Sorts what the API server says to an object: is it about the object, or about something else?
fn trial(error: ClusterError) -> Result<Trial, ClusterError> {
    match error {
        // A webhook with side effects cannot be asked this way.
        ClusterError::Invalid(text) if text.contains("does not support dry run") => Ok(Trial::Unknown(text)),
        // Rights are a matter of their own; policies, webhooks and quotas answer with 403 too.
        ClusterError::Forbidden(text) if text.contains(" cannot ") && text.contains(" resource ") => {
            Ok(Trial::Unknown(text))
        }
        ClusterError::Invalid(text) | ClusterError::Forbidden(text) => Ok(Trial::Refused(text)),
        error @ (ClusterError::Unreachable(_) | ClusterError::Timeout(_) | ClusterError::Unauthorized) => Err(error),
        error => Ok(Trial::Unknown(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflicts_are_read_from_their_causes() {
        let answer = json!({"code": 409, "details": {"causes": [
            {"reason": "FieldManagerConflict", "message": "conflict with \"kubectl-edit\" using apps/v1", "field": ".spec.replicas"},
            {"reason": "Other", "message": "x", "field": ".y"},
        ]}});
        let found = conflicts(answer.to_string().as_bytes());
        assert_eq!(found, [("kubectl-edit".to_owned(), ".spec.replicas".to_owned())]);
        assert_eq!(conflicts(b"no JSON"), []);
    }

    #[test]
    fn what_is_said_of_the_object_is_told_from_the_rest() {
        let forbidden = |text: &str| trial(ClusterError::Forbidden(text.to_owned())).unwrap();
        assert!(matches!(
            forbidden(
                "deployments.apps \"x\" is forbidden: User \"a\" cannot patch resource \"deployments\" in API group \"apps\""
            ),
            Trial::Unknown(_)
        ));
        assert!(matches!(forbidden("admission webhook \"x\" denied the request: no"), Trial::Refused(_)));
        let invalid = |text: &str| trial(ClusterError::Invalid(text.to_owned())).unwrap();
        assert!(matches!(invalid("admission webhook \"x\" does not support dry run"), Trial::Unknown(_)));
        assert!(matches!(invalid("spec.replicas: Invalid value"), Trial::Refused(_)));
        assert!(trial(ClusterError::Unauthorized).is_err());
    }
}
