//! Fields that the API server does not let change. Objects of a few kinds, which hold nothing, are deleted and created anew for
//! them; all others are left as they are, and the refusal is said. A CRD, a namespace or a claim is never deleted because
//! something about it was refused: what they hold would go with them.

use super::{Plan, Step, Survey};
use crate::render::ObjectKey;

/// Kinds that may be created anew, and what the API server says when the one field is refused for which that is done.
const REPLACEABLE: [(&str, &str, &str); 5] = [
    ("apps", "Deployment", "spec.selector: "),
    ("batch", "Job", "field is immutable"),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding", "roleRef: "),
    ("rbac.authorization.k8s.io", "RoleBinding", "roleRef: "),
    ("", "Service", "spec.clusterIP"),
];

/// Whether objects of this kind may be created anew at all.
pub fn is_replaceable(key: &ObjectKey) -> bool {
    REPLACEABLE.iter().any(|(group, kind, _)| key.group == *group && key.kind == *kind)
}

/// Whether the API server refused just that one field, and nothing else besides.
fn is_for_one_field(key: &ObjectKey, refusal: &str) -> bool {
    let expected = REPLACEABLE.iter().find(|(group, kind, _)| key.group == *group && key.kind == *kind);
    // More than one cause comes as a list: what would be refused for another reason too must not be deleted first.
    expected.is_some_and(|(_, _, field)| refusal.contains(field)) && !refusal.contains("is invalid: [")
}

/// Marks the steps that can only be done by deleting first.
pub fn replace(mut plan: Plan, survey: &Survey) -> Plan {
    for step in &mut plan.steps {
        if let Step::Apply { object, replaces, .. } = step
            && let Some((uid, refusal)) = survey.refused.get(&object.key)
            && is_for_one_field(&object.key, refusal)
        {
            *replaces = Some(uid.clone());
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_holds_nothing_is_created_anew_and_only_for_one_field() {
        let key = |group: &str, kind: &str| ObjectKey {
            group: group.to_owned(),
            kind: kind.to_owned(),
            namespace: None,
            name: "x".to_owned(),
        };
        for (group, kind, refusal, expected) in [
            (
                "apps",
                "Deployment",
                r#"Deployment.apps "x" is invalid: spec.selector: Invalid value: {}: field is immutable"#,
                true,
            ),
            (
                "apps",
                "Deployment",
                r#"Deployment.apps "x" is invalid: [spec.selector: Invalid value: {}: field is immutable, spec.replicas: Invalid value: -1]"#,
                false,
            ),
            ("apps", "Deployment", r#"Deployment.apps "x" is invalid: spec.replicas: Invalid value: -1"#, false),
            (
                "rbac.authorization.k8s.io",
                "ClusterRoleBinding",
                r#"ClusterRoleBinding "x" is invalid: roleRef: Invalid value: {}: cannot change roleRef"#,
                true,
            ),
            (
                "",
                "Service",
                r#"Service "x" is invalid: spec.clusterIPs[0]: Invalid value: ["None"]: may not change once set"#,
                true,
            ),
            (
                "",
                "PersistentVolumeClaim",
                r#"PersistentVolumeClaim "x" is invalid: spec: Forbidden: is immutable"#,
                false,
            ),
            (
                "apiextensions.k8s.io",
                "CustomResourceDefinition",
                r#"CustomResourceDefinition "x" is invalid: status.storedVersions[0]: Invalid value: "v1beta2""#,
                false,
            ),
        ] {
            assert_eq!(is_for_one_field(&key(group, kind), refusal), expected, "{refusal}");
        }
    }
}
