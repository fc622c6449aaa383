//! The names by which other tools know their objects: labels, annotations and field managers. The only file of code that knows them.

/// Labels on all objects of ours. With them kustomize-controller neither applies nor prunes an object, whatever its sources and
/// inventories say: the Kustomization of `flux bootstrap` has all of Flux in its inventory. It takes annotations as well, but
/// those count as changes of a Deployment: its generation moves with them.
pub const LEAVE_ALONE: [(&str, &str); 2] =
    [("kustomize.toolkit.fluxcd.io/ssa", "Ignore"), ("kustomize.toolkit.fluxcd.io/prune", "disabled")];

pub(super) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
pub(super) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
pub(super) const KUSTOMIZATION: (&str, &str) =
    ("kustomize.toolkit.fluxcd.io/namespace", "kustomize.toolkit.fluxcd.io/name");
pub(super) const PEER: (&str, &str) = ("fluxcd.controlplane.io/namespace", "fluxcd.controlplane.io/name");
pub(super) const RELEASE: (&str, &str) = ("meta.helm.sh/release-namespace", "meta.helm.sh/release-name");

/// Labels and annotations by which other tools know their objects.
pub(super) const MARKS: [&str; 12] = [
    KUSTOMIZATION.0,
    KUSTOMIZATION.1,
    PEER.0,
    PEER.1,
    "resourceset.fluxcd.controlplane.io/namespace",
    "resourceset.fluxcd.controlplane.io/name",
    RELEASE.0,
    RELEASE.1,
    "helm.toolkit.fluxcd.io/namespace",
    "helm.toolkit.fluxcd.io/name",
    "helm.sh/chart",
    LAST_APPLIED,
];
/// Values of `app.kubernetes.io/managed-by` of tools that are replaced.
pub(super) const MANAGERS_REPLACED: [&str; 3] = ["Helm", "flux-operator", "flux"];

/// Annotation by which flux-operator leaves its objects alone; the value is `disabled`.
pub const DISABLED: &str = "fluxcd.controlplane.io/reconcile";

/// Managers of tools that write whole manifests, with the operation by which they do. What people do with `kubectl edit`, `patch`,
/// `scale`, `label` and `rollout` has managers of its own, and stays theirs.
pub(super) const REPLACED: [(&str, Option<&str>); 10] = [
    ("flux", None),
    ("kustomize-controller", Some("Apply")),
    ("helm", None),
    ("helm-controller", None),
    ("flux-operator", None),
    ("kubectl", Some("Apply")),
    ("kubectl-client-side-apply", None),
    ("kubectl-last-applied", None),
    ("kubectl-create", None),
    ("kubectl-replace", None),
];
