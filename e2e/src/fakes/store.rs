//! The objects of one cluster, and what its API server does to them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};

use super::accept::{check_meant, located, stored_versions, typed};
use super::fields::{Fields, merge, paths_of};
use super::object::{Applied, Content, Manager, Object};
use super::ownership::{join, rewrite, updated};
use super::path::{Labels, Resource, Target, builtin};
use super::refusal::Refusal;
use crate::http::now;

/// Changes that a watch may still ask for.
const REMEMBERED: usize = 256;
/// Versions of a new server.
const FIRST_VERSION: u64 = 100;

const CRDS: &str = "customresourcedefinitions.apiextensions.k8s.io";
const NAMESPACES: &str = "namespaces";

/// What became of an object, and what it was before.
#[derive(Debug, Clone)]
pub(super) struct Change {
    /// Resource version.
    pub(super) version: u64,
    resource: Arc<str>,
    /// Before.
    pub(super) before: Option<Arc<Object>>,
    /// After; when it is gone, as it was last.
    pub(super) after: Arc<Object>,
    /// It is gone.
    pub(super) is_gone: bool,
}

type Names = (Box<str>, Box<str>);

/// Everything of one cluster.
pub(super) struct Store {
    number: usize,
    version: u64,
    incarnations: u64,
    objects: BTreeMap<Arc<str>, BTreeMap<Names, Arc<Object>>>,
    changes: VecDeque<Change>,
    /// Changes up to this are not remembered any more.
    forgotten: u64,
}

/// Who writes, and how.
pub(super) struct Writer<'a> {
    /// Field manager.
    pub(super) manager: &'a str,
    /// Takes fields from others.
    pub(super) force: bool,
    /// Nothing is to be stored.
    pub(super) dry_run: bool,
}

fn names(target: &Target) -> Names {
    (target.namespace.as_str().into(), target.name.as_str().into())
}

impl Store {
    /// As a server is that has just come up. The number tells clusters apart.
    pub(super) fn new(number: usize) -> Self {
        let mut store = Self {
            number,
            version: FIRST_VERSION,
            incarnations: 0,
            objects: BTreeMap::new(),
            changes: VecDeque::new(),
            forgotten: FIRST_VERSION,
        };
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            let content = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            let object = store.fresh(Arc::new(Content::of(content)), None);
            store.commit(NAMESPACES, object);
        }
        store
    }

    /// The newest resource version.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// What a path leads to.
    pub(super) fn resource(&self, target: &Target) -> Result<Resource, Refusal> {
        if let Some(found) = builtin(&target.group, &target.version, &target.plural) {
            return Ok(found);
        }
        let key = (Box::default(), target.resource().into());
        let crd = self.objects.get(CRDS).and_then(|crds| crds.get(&key)).filter(|crd| is_established(crd));
        let definition = crd.and_then(|crd| crd.content.definition()).ok_or_else(Refusal::unknown)?;
        if !definition.served.contains(&target.version) {
            return Err(Refusal::unknown());
        }
        let kind = &definition.kind;
        Ok(Resource { kind: kind.kind.clone(), namespaced: kind.namespaced, has_generation: true, is_custom: true })
    }

    /// An object.
    pub(super) fn get(&self, target: &Target) -> Result<Arc<Object>, Refusal> {
        self.resource(target)?;
        self.find(target).cloned().ok_or_else(|| Refusal::not_found(target))
    }

    fn find(&self, target: &Target) -> Option<&Arc<Object>> {
        self.objects.get(target.resource().as_str())?.get(&names(target))
    }

    /// Objects of a collection in their order, some at a time; with them, whether there are more.
    pub(super) fn list(
        &self,
        target: &Target,
        labels: &Labels,
        limit: usize,
        after: Option<&Names>,
    ) -> (Vec<Arc<Object>>, bool) {
        let all = self.objects.get(target.resource().as_str()).into_iter().flatten();
        let mut meant = all
            .filter(|(key, _)| after.is_none_or(|after| *key > after))
            .map(|(_, object)| object)
            .filter(|object| is_in(object, &target.namespace) && labels.select(&object.content.metadata["labels"]));
        let page: Vec<_> = meant.by_ref().take(limit).cloned().collect();
        let more = meant.next().is_some();
        (page, more)
    }

    /// Server-side apply; whether it made the object.
    pub(super) fn apply(
        &mut self,
        target: &Target,
        body: &Applied,
        writer: &Writer<'_>,
    ) -> Result<(Arc<Object>, bool), Refusal> {
        let resource = self.resource(target)?;
        let content = located(&body.content, &resource, target)?;
        let time: Arc<str> = now().into();
        // Who owns nothing has no entry.
        let entry = (!body.fields.paths.is_empty()).then(|| Manager {
            name: writer.manager.into(),
            operation: "Apply",
            subresource: "",
            time: Arc::clone(&time),
            fields: Arc::clone(&body.fields),
        });
        let Some(old) = self.find(target).cloned() else {
            self.check_place(target, &resource)?;
            let mut object = self.fresh(content, resource.has_generation.then_some(1));
            object.managers.extend(entry);
            return Ok((self.store(target, None, object, writer.dry_run)?, true));
        };
        let is_ours = |m: &&Manager| m.operation == "Apply" && m.subresource.is_empty() && *m.name == *writer.manager;
        let ours = old.managers.iter().find(is_ours);
        let is_alone = !old.managers.iter().any(|m| m.subresource.is_empty() && !is_ours(&m));
        let (content, mut managers) = if is_alone {
            let others = old.managers.iter().filter(|m| !is_ours(m)).cloned();
            (content, others.collect())
        } else {
            join(&old, ours, &content, body, writer)?
        };
        let is_same = content.rest == old.content.rest && content.metadata == old.content.metadata;
        let is_ours_same = ours.map(|m| &m.fields) == entry.as_ref().map(|m| &m.fields);
        if is_same && is_ours_same && managers.len() + usize::from(entry.is_some()) == old.managers.len() {
            return Ok((old, false));
        }
        managers.splice(0..0, entry);
        let object = Object { content, managers, ..Object::clone(&old) };
        Ok((self.store(target, Some(&old), object, writer.dry_run)?, false))
    }

    /// Creates an object.
    pub(super) fn create(&mut self, target: &Target, body: Value, writer: &Writer<'_>) -> Result<Arc<Object>, Refusal> {
        let resource = self.resource(target)?;
        let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let target = Target { name, ..target.clone() };
        let content = located(&Arc::new(typed(body, &target, &resource)), &resource, &target)?;
        self.check_place(&target, &resource)?;
        if self.find(&target).is_some() {
            return Err(Refusal::exists(&target));
        }
        let fields = Arc::new(Fields::from(paths_of(&content.value())));
        let mut object = self.fresh(content, resource.has_generation.then_some(1));
        object.managers.push(updated(writer.manager, "", fields));
        self.store(&target, None, object, writer.dry_run)
    }

    /// Replaces an object, if it is the one that the sender means.
    pub(super) fn replace(
        &mut self,
        target: &Target,
        body: Value,
        writer: &Writer<'_>,
    ) -> Result<Arc<Object>, Refusal> {
        let resource = self.resource(target)?;
        let old = self.get(target)?;
        check_meant(target, &old, &body["metadata"])?;
        let content = located(&Arc::new(typed(body, target, &resource)), &resource, target)?;
        self.update(target, &old, content, writer)
    }

    /// Merge patch of what clients say, or of the status.
    pub(super) fn merge(
        &mut self,
        target: &Target,
        change: &Value,
        writer: &Writer<'_>,
    ) -> Result<Arc<Object>, Refusal> {
        let resource = self.resource(target)?;
        let old = self.get(target)?;
        // Who patches cannot say which object is meant, only try to change its UID.
        if change["metadata"]["uid"].as_str().is_some_and(|uid| *uid != *old.uid) {
            return Err(Refusal::invalid(target, "metadata.uid: Invalid value: field is immutable"));
        }
        check_meant(target, &old, &change["metadata"])?;
        if target.subresource == "status" {
            let mut status = old.status();
            merge(&mut status, &change["status"]);
            return Ok(self.report(target, &old, &status, writer.manager));
        }
        let mut value = old.content.value();
        merge(&mut value, change);
        let content = located(&Arc::new(Content::of(value)), &resource, target)?;
        self.update(target, &old, content, writer)
    }

    fn update(
        &mut self,
        target: &Target,
        old: &Arc<Object>,
        content: Arc<Content>,
        writer: &Writer<'_>,
    ) -> Result<Arc<Object>, Refusal> {
        let Some(managers) = rewrite(old, &content, writer.manager) else { return Ok(Arc::clone(old)) };
        let object = Object { content, managers, ..Object::clone(old) };
        self.store(target, Some(old), object, writer.dry_run)
    }

    /// Writes a status.
    fn report(&mut self, target: &Target, old: &Arc<Object>, status: &Value, manager: &str) -> Arc<Object> {
        let text = status.to_string();
        if old.status.as_deref() == Some(text.as_str()) {
            return Arc::clone(old);
        }
        let mut managers: Vec<Manager> =
            old.managers.iter().filter(|m| m.subresource.is_empty() || *m.name != *manager).cloned().collect();
        let fields = paths_of(&json!({"status": status}));
        managers.push(updated(manager, "status", Arc::new(Fields::from(fields))));
        self.commit(&target.resource(), Object { status: Some(text.into()), managers, ..Object::clone(old) })
    }

    /// What controllers do about an object that was written: a CRD gets established, a Deployment rolls out.
    pub(super) fn settle(&mut self, target: &Target) {
        let Some(object) = self.find(target).cloned() else { return };
        let mut status = object.status();
        match target.plural.as_str() {
            "customresourcedefinitions" => {
                let at = object.created.as_ref();
                let condition = |type_: &str, reason: &str, message: &str| json!({"type": type_, "status": "True", "reason": reason, "message": message, "lastTransitionTime": at});
                status["acceptedNames"] = object.content.value()["spec"]["names"].clone();
                status["conditions"] = json!([
                    condition("NamesAccepted", "NoConflicts", "no conflicts found"),
                    condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
                ]);
                self.report(target, &object, &status, "kube-apiserver");
            }
            "deployments" => {
                let wanted = object.content.value()["spec"]["replicas"].as_u64().unwrap_or(1);
                let condition = |type_: &str, reason: &str| json!({"type": type_, "status": "True", "reason": reason});
                status = json!({
                    "observedGeneration": object.generation, "replicas": wanted, "updatedReplicas": wanted,
                    "readyReplicas": wanted, "availableReplicas": wanted,
                    "conditions": [
                        condition("Available", "MinimumReplicasAvailable"),
                        condition("Progressing", "NewReplicaSetAvailable"),
                    ],
                });
                self.report(target, &object, &status, "kube-controller-manager");
            }
            _ => {}
        }
    }

    /// Deletes an object, if it is the one that the sender means. It stays while it has finalizers.
    pub(super) fn delete(&mut self, target: &Target, options: &Value) -> Result<Arc<Object>, Refusal> {
        let old = self.get(target)?;
        check_meant(target, &old, &options["preconditions"])?;
        if !old.content.has_finalizers() {
            self.remove(target, &old);
            return Ok(old);
        }
        if old.deleted.is_some() {
            return Ok(old);
        }
        let object = Object { deleted: Some(now().into()), ..Object::clone(&old) };
        Ok(self.commit(&target.resource(), object))
    }

    /// An object goes, and with it what lives in it.
    fn remove(&mut self, target: &Target, object: &Arc<Object>) {
        let inside: Vec<(Arc<str>, Arc<Object>)> = match target.plural.as_str() {
            "namespaces" => {
                let all =
                    self.objects.iter().flat_map(|(r, some)| some.values().map(|o| (Arc::clone(r), Arc::clone(o))));
                all.filter(|(_, object)| object.content.namespace == target.name).collect()
            }
            "customresourcedefinitions" => {
                let some = self.objects.get_key_value(target.name.as_str()).into_iter();
                some.flat_map(|(r, some)| some.values().map(|o| (Arc::clone(r), Arc::clone(o)))).collect()
            }
            _ => Vec::new(),
        };
        for (resource, object) in inside {
            self.take(&resource, &object);
        }
        self.take(&target.resource(), object);
    }

    fn take(&mut self, resource: &str, object: &Arc<Object>) {
        let key = (object.content.namespace.as_str().into(), object.content.name.as_str().into());
        if let Some(some) = self.objects.get_mut(resource) {
            some.remove(&key);
        }
        self.version += 1;
        let after = Arc::new(Object { version: self.version, ..Object::clone(object) });
        self.note(resource, Some(Arc::clone(object)), after, true);
    }

    /// Changes of a resource since a version; `None` when they are forgotten.
    pub(super) fn since(&self, resource: &str, version: u64) -> Option<Vec<Change>> {
        if version < self.forgotten {
            return None;
        }
        let newer = self.changes.iter().rev().take_while(|c| c.version > version);
        let mut found: Vec<Change> = newer.filter(|c| *c.resource == *resource).cloned().collect();
        found.reverse();
        Some(found)
    }

    fn fresh(&mut self, content: Arc<Content>, generation: Option<u64>) -> Object {
        self.incarnations += 1;
        let uid = format!("{:08x}-0000-4000-8000-{:012x}", self.number, self.incarnations);
        Object {
            content,
            status: None,
            uid: uid.into(),
            version: 0,
            generation,
            created: now().into(),
            deleted: None,
            managers: Vec::new(),
        }
    }

    /// Stores what a client wants, with what the server adds.
    fn store(
        &mut self,
        target: &Target,
        old: Option<&Arc<Object>>,
        mut object: Object,
        dry_run: bool,
    ) -> Result<Arc<Object>, Refusal> {
        let resource = target.resource();
        if let (Some(old), Some(generation)) = (old, &mut object.generation)
            && old.content.rest != object.content.rest
        {
            *generation += 1;
        }
        if resource == CRDS {
            object.status = Some(stored_versions(target, &object)?.into());
        }
        if dry_run {
            return Ok(Arc::new(object));
        }
        if let Some(old) = old.filter(|old| old.deleted.is_some() && !object.content.has_finalizers()) {
            self.remove(target, old);
            return Ok(Arc::new(object));
        }
        Ok(self.commit(&resource, object))
    }

    fn commit(&mut self, resource: &str, mut object: Object) -> Arc<Object> {
        self.version += 1;
        object.version = self.version;
        let object = Arc::new(object);
        let key = (object.content.namespace.as_str().into(), object.content.name.as_str().into());
        if !self.objects.contains_key(resource) {
            self.objects.insert(resource.into(), BTreeMap::new());
        }
        let before = self.objects.get_mut(resource).and_then(|some| some.insert(key, Arc::clone(&object)));
        self.note(resource, before, Arc::clone(&object), false);
        object
    }

    fn note(&mut self, resource: &str, before: Option<Arc<Object>>, after: Arc<Object>, is_gone: bool) {
        let resource =
            self.objects.get_key_value(resource).map_or_else(|| resource.into(), |(name, _)| Arc::clone(name));
        self.changes.push_back(Change { version: after.version, resource, before, after, is_gone });
        if self.changes.len() > REMEMBERED
            && let Some(oldest) = self.changes.pop_front()
        {
            self.forgotten = oldest.version;
        }
    }

    fn check_place(&self, target: &Target, resource: &Resource) -> Result<(), Refusal> {
        if !resource.namespaced {
            return Ok(());
        }
        let key = (Box::default(), target.namespace.as_str().into());
        if self.objects.get(NAMESPACES).is_some_and(|all| all.contains_key(&key)) {
            return Ok(());
        }
        let name = target.namespace.clone();
        Err(Refusal::not_found(&Target { plural: NAMESPACES.to_owned(), name, ..Target::default() }))
    }
}

fn is_in(object: &Object, namespace: &str) -> bool {
    namespace.is_empty() || object.content.namespace == namespace
}

fn is_established(crd: &Object) -> bool {
    let status = crd.status();
    let mut conditions = status["conditions"].as_array().into_iter().flatten();
    conditions.any(|c| c["type"] == "Established" && c["status"] == "True")
}
