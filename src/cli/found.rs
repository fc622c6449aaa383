//! An object of ours on the hub, found by its name, and the ways to say a word to the operator through it.

use std::fmt::Debug;

use anyhow::{Context, bail};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::DeserializeGuard;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::ui;
use crate::cluster::{ClusterError, Gate, connect, hub_config, with_deadline};
use crate::render::{did_you_mean, list, meant};

/// Names that are looked through for the one that was meant.
const NAMES: u32 = 500;
/// Objects asked for at a time.
const PAGE: u32 = 500;

/// What commands are about.
pub(super) trait Ours:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static
{
}

impl<K> Ours for K where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static
{
}

/// An object on the hub.
pub(super) struct Found<K> {
    /// Client of the hub.
    pub(super) hub: Client,
    /// Its namespace.
    pub(super) namespace: String,
    /// The object.
    pub(super) object: K,
}

/// Finds an object by name, in the namespace of the kubeconfig if no other is given.
pub(super) async fn find<K: Ours>(name: &str, namespace: Option<&String>) -> anyhow::Result<Found<K>> {
    let config = hub_config().await?;
    let namespace = namespace.cloned().unwrap_or_else(|| config.default_namespace.clone());
    let hub = connect(&config, &Gate::open())?;
    let object = get(&hub, &namespace, name).await?;
    Ok(Found { hub, namespace, object })
}

async fn get<K: Ours>(hub: &Client, namespace: &str, name: &str) -> anyhow::Result<K> {
    let api = Api::<K>::namespaced(hub.clone(), namespace);
    match with_deadline(api.get(name)).await {
        Ok(object) => Ok(object),
        Err(ClusterError::NotFound(_)) => {
            let all = with_deadline(api.list_metadata(&ListParams::default().limit(NAMES))).await?;
            let names: Vec<String> = all.iter().map(ResourceExt::name_any).collect();
            bail!(
                "there is no {} {name} in namespace {namespace} (found: {}{}); --namespace names another one",
                K::kind(&()),
                list(&names),
                did_you_mean(meant(name, names.iter().cloned()))
            )
        }
        Err(error) => Err(error).context("the hub"),
    }
}

impl<K: Ours> Found<K> {
    fn api(&self) -> Api<K> {
        Api::namespaced(self.hub.clone(), &self.namespace)
    }

    /// Another object of the same namespace.
    pub(super) async fn beside<O: Ours>(&self, name: &str) -> anyhow::Result<Found<O>> {
        let object = get(&self.hub, &self.namespace, name).await?;
        Ok(Found { hub: self.hub.clone(), namespace: self.namespace.clone(), object })
    }

    /// All objects of a kind in the same namespace, page by page. One that cannot be read is said and left out.
    pub(super) async fn all<O: Ours>(&self) -> anyhow::Result<Vec<O>> {
        let api = Api::<DeserializeGuard<O>>::namespaced(self.hub.clone(), &self.namespace);
        let mut all = Vec::new();
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = with_deadline(api.list(&params)).await.context("the hub")?;
            let next = page.metadata.continue_.clone().filter(|token| !token.is_empty());
            for object in page.items {
                match object.0 {
                    Ok(object) => all.push(object),
                    Err(invalid) => {
                        let name = invalid.metadata.name.unwrap_or_default();
                        ui::talk(format!("{} {name} cannot be read and is left out: {}", O::kind(&()), invalid.error));
                    }
                }
            }
            let Some(next) = next else { return Ok(all) };
            params = ListParams::default().limit(PAGE).continue_token(&next);
        }
    }

    /// Looks at the object once more. Whether it is still there.
    pub(super) async fn again(&mut self) -> Result<bool, ClusterError> {
        let found = with_deadline(self.api().get_opt(&self.object.name_any())).await?;
        let is_there = found.is_some();
        if let Some(object) = found {
            self.object = object;
        }
        Ok(is_there)
    }

    /// Sets an annotation, or removes it, of this very object.
    pub(super) async fn say(&self, annotation: &str, word: Option<&str>) -> anyhow::Result<()> {
        let patch = json!({"metadata": {"uid": self.object.uid(), "annotations": {annotation: word}}});
        let name = self.object.name_any();
        with_deadline(self.api().patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&patch))).await?;
        Ok(())
    }

    /// Sets a field of the spec. Each field has a field manager of its own: what one applies takes nothing away that another has set.
    /// What somebody else applies, Git most likely, is left to him: he would only set it back.
    pub(super) async fn set(&self, field: &str, value: &Value) -> anyhow::Result<()> {
        let (name, manager) = (self.object.name_any(), format!("headwater-cli-{field}"));
        if let Some(owner) = applier(self.object.meta(), field).filter(|owner| *owner != manager) {
            bail!(
                "spec.{field} of {} {name} is applied by {owner}, which would set it back: set it to {value} there, where its manifest comes from",
                K::kind(&())
            );
        }
        let patch = json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "metadata": {"name": name, "uid": self.object.uid()},
            "spec": {field: value},
        });
        let params = PatchParams::apply(&manager).force();
        with_deadline(self.api().patch_metadata(&name, &params, &Patch::Apply(&patch))).await?;
        Ok(())
    }

    /// How to see what comes of it.
    pub(super) fn follow(&self) {
        let kind = K::kind(&()).to_lowercase();
        let (name, namespace) = (self.object.name_any(), &self.namespace);
        ui::out(format!("follow it with: kubectl get {kind} {name} -n {namespace} --watch"));
    }
}

/// Who keeps a field of the spec by server-side apply. Those who wrote it once by other means do not come back to it.
fn applier<'m>(metadata: &'m kube::core::ObjectMeta, field: &str) -> Option<&'m str> {
    let key = format!("f:{field}");
    let entries = metadata.managed_fields.iter().flatten();
    entries
        .filter(|entry| entry.operation.as_deref() == Some("Apply"))
        .find(|entry| entry.fields_v1.as_ref().is_some_and(|fields| fields.0["f:spec"].get(&key).is_some()))
        .and_then(|entry| entry.manager.as_deref())
}

/// A word that was not said before.
pub(super) fn token() -> String {
    Timestamp::now().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_belongs_to_who_applies_it_and_not_to_who_wrote_it_once() {
        let entry = |manager: &str, operation: &str, field: &str| {
            let fields = json!({"f:spec": {format!("f:{field}"): {}}});
            json!({"manager": manager, "operation": operation, "fieldsType": "FieldsV1", "fieldsV1": fields})
        };
        let metadata: kube::core::ObjectMeta = serde_json::from_value(json!({"managedFields": [
            entry("kubectl-create", "Update", "suspend"),
            entry("kustomize-controller", "Apply", "approved"),
        ]}))
        .unwrap();
        assert_eq!(applier(&metadata, "approved"), Some("kustomize-controller"));
        assert_eq!(applier(&metadata, "suspend"), None);
        assert_eq!(applier(&metadata, "emergency"), None);
    }
}
