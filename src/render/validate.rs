//! Tries a bundle without a cluster.

use std::collections::BTreeSet;

use super::selection::with_requirements;
use super::{Bundle, RenderError, Settings, render};
use crate::api;

/// Renders a bundle in the ways that matter: with each component and what it needs, with the defaults and with all, with and
/// without network policies, with every kind of sync, with the parts of `spec.tofu`, and for every size of cluster.
pub fn check(bundle: &Bundle) -> Result<(), RenderError> {
    let components = &bundle.manifest().components;
    let all: Vec<String> = components.iter().map(|c| c.name.clone()).collect();
    let base = Settings { namespace: "default".to_owned(), components: Some(all), ..Settings::default() };
    let mut selections: BTreeSet<Option<Vec<String>>> =
        components.iter().map(|c| Some(with_requirements(bundle, c))).collect();
    if components.iter().any(|c| c.default) {
        selections.insert(None);
    }
    for components in selections {
        render(bundle, &Settings { components, ..base.clone() })?;
    }
    for network_policy in [true, false] {
        for sync in syncs() {
            let cluster = api::Cluster { network_policy, ..api::Cluster::default() };
            render(bundle, &Settings { cluster, sync: Some(sync), ..base.clone() })?;
        }
    }
    let tofu = api::Tofu {
        allowed_namespaces: vec![api::NamespaceName("other".to_owned())],
        runner: api::TofuRunner::default(),
        branch_planner: true,
        aws_package: true,
    };
    for tofu in [api::Tofu::default(), tofu] {
        render(bundle, &Settings { tofu: Some(tofu), ..base.clone() })?;
    }
    for size in [api::ClusterSize::Small, api::ClusterSize::Medium, api::ClusterSize::Large] {
        let cluster = api::Cluster { size: Some(size), ..api::Cluster::default() };
        render(bundle, &Settings { cluster, ..base.clone() })?;
    }
    Ok(())
}

/// Every kind of sync with all its fields, and one with as few as possible.
fn syncs() -> Vec<api::Sync> {
    let full = |kind| api::Sync {
        kind,
        name: None,
        url: "https://example.org".to_owned(),
        r#ref: "main".to_owned(),
        path: "./".to_owned(),
        pull_secret: Some("secret".to_owned()),
        provider: Some(api::SyncProvider::Generic),
        interval: api::Interval("1m".to_owned()),
        insecure: true,
        prune: true,
        wait: true,
        timeout: Some(api::Timeout("1m".to_owned())),
    };
    let bare = api::Sync {
        pull_secret: None,
        provider: None,
        insecure: false,
        wait: false,
        timeout: None,
        ..full(api::SyncKind::GitRepository)
    };
    vec![full(api::SyncKind::GitRepository), full(api::SyncKind::OCIRepository), full(api::SyncKind::Bucket), bare]
}
