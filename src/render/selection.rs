//! Which components are installed, and whether they can be by themselves.

use std::collections::BTreeSet;

use super::text::{cut, list, nearest};
use super::{Bundle, Object, RenderError, Settings, title};
use crate::api::bundle::Component;

/// The components to install, in the order of the bundle.
pub(super) fn select<'a>(bundle: &'a Bundle, settings: &Settings) -> Result<Vec<&'a Component>, RenderError> {
    let all = &bundle.manifest().components;
    let refuse = |problem: &str| Err(RenderError::Components(problem.to_owned()));
    let Some(wanted) = &settings.components else {
        let defaults: Vec<&Component> = all.iter().filter(|c| c.default).collect();
        if defaults.is_empty() {
            return refuse(&format!(
                "spec.components is not set, and bundle {} installs nothing by itself; it has: {}",
                title(bundle),
                list(all.iter().map(|c| &c.name))
            ));
        }
        return require(&defaults).map(|()| defaults);
    };
    if wanted.is_empty() {
        return refuse("spec.components is empty; name at least one, or leave it out for the bundle's defaults");
    }
    let mut chosen = BTreeSet::new();
    for (i, name) in wanted.iter().enumerate() {
        if !all.iter().any(|c| &c.name == name) {
            let names = || all.iter().map(|c| c.name.clone());
            let hint = nearest(name, names()).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            return Err(RenderError::Components(cut(
                &format!(
                    "spec.components[{i}]: {:?} is not in bundle {}; it has: {}{hint}",
                    cut(name, 63),
                    title(bundle),
                    list(names())
                ),
                512,
            )));
        }
        if !chosen.insert(name.as_str()) {
            return Err(RenderError::Components(format!(
                "spec.components[{i}]: {name:?} is there twice; remove one of the two"
            )));
        }
    }
    let selected: Vec<&Component> = all.iter().filter(|c| chosen.contains(c.name.as_str())).collect();
    require(&selected).map(|()| selected)
}

fn require(selected: &[&Component]) -> Result<(), RenderError> {
    for component in selected {
        if let Some(missing) = component.requires.iter().find(|r| !selected.iter().any(|c| &c.name == *r)) {
            return Err(RenderError::Components(format!(
                "spec.components: {:?} needs {missing:?}; add it to spec.components",
                component.name
            )));
        }
    }
    Ok(())
}

/// An object can be applied only where its kind is: a kind of the bundle comes with a component.
pub(super) fn require_kind(bundle: &Bundle, selected: &[&Component], object: &Object) -> Result<(), RenderError> {
    let key = object.key();
    let Some(kind) = bundle.served_kinds().iter().find(|k| k.group == key.group && k.kind == key.kind) else {
        return Ok(());
    };
    let has = |component: &Component| component.crds.iter().any(|crd| crd.name == kind.crd);
    match bundle.manifest().components.iter().find(|c| has(c)) {
        Some(owner) if !selected.iter().any(|c| c.name == owner.name) => Err(RenderError::Components(format!(
            "spec.components: {key} needs {:?}, which brings its kind; add it to spec.components",
            owner.name
        ))),
        _ => Ok(()),
    }
}

/// A component with all that it needs, in the order of the bundle: the smallest selection it can be in.
pub(super) fn with_requirements(bundle: &Bundle, component: &Component) -> Vec<String> {
    let all = &bundle.manifest().components;
    let mut needed = BTreeSet::from([component.name.as_str()]);
    loop {
        let before = needed.len();
        let of_needed = all.iter().filter(|c| needed.contains(c.name.as_str()));
        let more: Vec<&str> = of_needed.flat_map(|c| c.requires.iter().map(String::as_str)).collect();
        needed.extend(more);
        if needed.len() == before {
            return all.iter().filter(|c| needed.contains(c.name.as_str())).map(|c| c.name.clone()).collect();
        }
    }
}
