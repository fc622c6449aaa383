//! `headwater migrate`: looks at a cluster on which another tool has installed what our bundles hold, and declares the `FluxInstance` that
//! keeps it as it is. The operator takes over when that is created. Or tells a `FluxInstance` of flux-operator as one of ours.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail};
use kube::api::PostParams;
use kube::config::KubeConfigOptions;
use kube::{Api, Client, Config, ResourceExt};
use semver::Version;
use serde_json::Value;

use super::{MigrateArgs, ui};
use crate::api::{FLUX_NAMESPACE, FluxInstance, FluxInstanceSpec, KubeConfigRef, SecretKeyRef};
use crate::bundle::embedded;
use crate::cluster::{Cluster, Gate, connect, hub_config, with_deadline};
use crate::plan::takeover::declare::{Sight, declare, difference, disregard_version, patches, settings};
use crate::plan::takeover::peer::declare_peer;
use crate::plan::takeover::{Tool, obstacles, owners};
use crate::plan::{CRD, Foreign, Survey, live_of};
use crate::render::kinds::builtin;
use crate::render::{Bundle, Kind, Object, render, yaml};

pub(super) async fn run(args: MigrateArgs) -> anyhow::Result<()> {
    if let Some(file) = &args.filename {
        return convert(&args, file).await;
    }
    let hub_config = hub_config().await?;
    let config = match &args.context {
        None => hub_config.clone(),
        Some(context) => {
            let options = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
            Config::from_kubeconfig(&options).await.with_context(|| format!("context {context:?}"))?
        }
    };
    let cluster = Cluster::identify(connect(&config, &Gate::open())?, false).await?;
    let found = look(&cluster).await?;
    report(&found.version, &found.bundle, &found.spec, &found.survey);

    let hub = connect(&hub_config, &Gate::open())?;
    let instance = print(&args, "flux", found.spec)?;
    if args.dry_run {
        ui::talk("nothing was written; without --dry-run this FluxInstance is created, and the operator takes over");
        return Ok(());
    }
    if args.kubeconfig_secret.is_none() && Cluster::identify(hub.clone(), true).await?.uid != cluster.uid {
        bail!(
            "--context {:?} is another cluster than the one the FluxInstance is created on (the current context): name the Secret there \
             that holds its kubeconfig with --kubeconfig-secret; `headwater cluster kubeconfig` makes one",
            args.context.unwrap_or_default()
        );
    }
    disable_peers(&cluster, &found.survey).await?;
    create(&hub, &args.namespace, &instance).await
}

/// Tells a `FluxInstance` of flux-operator as one of ours. No cluster is looked at.
async fn convert(args: &MigrateArgs, file: &Path) -> anyhow::Result<()> {
    let peer = super::file::one(file)?;
    let declared = declare_peer(&peer).with_context(|| file.display().to_string())?;
    for note in &declared.notes {
        ui::talk(note);
    }
    for missing in &declared.left_out {
        ui::talk(format!("left out: {missing}"));
    }
    let instance = print(args, &declared.name, declared.spec)?;
    if args.dry_run {
        ui::talk("nothing was written; `headwater diff -f` shows what this FluxInstance would do");
        return Ok(());
    }
    if !declared.left_out.is_empty() {
        bail!(
            "nothing was created, as {} left out of it (see above): complete what --dry-run prints, and apply it with kubectl",
            if declared.left_out.len() == 1 {
                "one thing is".to_owned()
            } else {
                format!("{} things are", declared.left_out.len())
            }
        );
    }
    create(&connect(&hub_config().await?, &Gate::open())?, &args.namespace, &instance).await
}

/// Prints the instance that a spec makes.
fn print(args: &MigrateArgs, name: &str, mut spec: FluxInstanceSpec) -> anyhow::Result<FluxInstance> {
    spec.kube_config = args
        .kubeconfig_secret
        .as_ref()
        .map(|name| KubeConfigRef { secret_ref: SecretKeyRef { name: name.clone(), key: None } });
    let instance = FluxInstance::new(args.name.as_deref().unwrap_or(name), spec);
    ui::out(written(&instance, &args.namespace)?.trim_end());
    Ok(instance)
}

/// What was found on a cluster.
struct Found {
    /// The version that is installed.
    version: Version,
    /// The bundle of it, or the nearest.
    bundle: Bundle,
    /// The spec that keeps the cluster as it is.
    spec: FluxInstanceSpec,
    /// What would be taken over.
    survey: Survey,
}

async fn look(cluster: &Cluster) -> anyhow::Result<Found> {
    let versions: Vec<(Version, String)> = embedded::list()?.into_iter().collect();
    let mut survey = Survey::default();
    let Some((_, newest)) = versions.last() else { bail!("this binary comes without bundles") };
    for served in embedded::archive(newest)?.parse()?.served_kinds() {
        let key = Kind::crd().key(None, served.crd.clone());
        if let Some(metadata) = cluster.metadata(&Kind::crd(), &key).await? {
            survey.crds.insert(served.crd.clone(), serde_json::json!({"metadata": metadata}));
        }
    }
    let Some(version) = survey.installed() else {
        bail!(
            "no CRD of Flux on this cluster tells its version: there is nothing to migrate; create a FluxInstance to install Flux"
        );
    };
    let nearest = versions.iter().find(|(known, _)| known.cmp_precedence(&version).is_ge());
    let Some((known, digest)) = nearest else {
        bail!("Flux {version} is installed, which is newer than all bundles of this operator; use a newer operator");
    };
    let exact = *known == version;
    let bundle = embedded::archive(digest)?.parse()?;

    let sight = sight(cluster, &bundle).await?;
    let mut spec = declare(&bundle, &sight, &known.to_string(), exact)?;
    let (pairs, foreign) = compare(cluster, &bundle, &spec, exact).await?;
    survey.foreign = foreign;
    survey.others = cluster.others(&survey.foreign).await?;
    let kustomize = patches(&pairs);
    spec.kustomize = (!kustomize.patches.is_empty()).then_some(kustomize);
    // What the patches make of it, asked of the server once more.
    let (pairs, _) = compare(cluster, &bundle, &spec, exact).await?;
    for (object, rendered, live) in &pairs {
        if let Some(change) = difference(object, rendered, live) {
            ui::talk(format!("{} cannot be kept exactly; this would change: {}", object.key(), Value::Object(change)));
        }
    }
    Ok(Found { version, bundle, spec, survey })
}

async fn sight(cluster: &Cluster, bundle: &Bundle) -> anyhow::Result<Sight> {
    let all = |group, kind| async move {
        let kind = builtin(group, "v1", kind).context("a kind of Kubernetes")?;
        anyhow::Ok(cluster.list_all(&kind, FLUX_NAMESPACE).await?)
    };
    let mut sight = Sight { deployments: all("apps", "Deployment").await?, ..Sight::default() };
    let policies = all("networking.k8s.io", "NetworkPolicy").await?;
    let wanted =
        render(bundle, &crate::render::Settings { namespace: FLUX_NAMESPACE.to_owned(), ..Default::default() })?;
    sight.network_policies = wanted.iter().any(|object| {
        object.key().kind == "NetworkPolicy"
            && policies.iter().any(|live| live["metadata"]["name"] == object.key().name.as_str())
    });
    let roots = of_kind(cluster, bundle, "Kustomization").await?;
    let starts = |k: &&Value| k["spec"]["sourceRef"]["name"] == k["metadata"]["name"];
    let mut roots: Vec<&Value> = roots.iter().filter(starts).collect();
    roots.sort_by_key(|k| k["metadata"]["name"] != FLUX_NAMESPACE);
    if let Some(root) = roots.into_iter().next() {
        let from = &root["spec"]["sourceRef"];
        let kind = from["kind"].as_str().unwrap_or_default();
        let mut sources = of_kind(cluster, bundle, kind).await?;
        sources.retain(|source| source["metadata"]["name"] == from["name"]);
        if let Some(mut source) = sources.pop() {
            source["kind"] = kind.into();
            sight.root = Some((root.clone(), source));
        }
    }
    Ok(sight)
}

/// Objects of one of the bundle's kinds, in the newest version that the cluster serves.
async fn of_kind(cluster: &Cluster, bundle: &Bundle, kind: &str) -> anyhow::Result<Vec<Value>> {
    let Some(served) = bundle.served_kinds().iter().find(|served| served.kind == kind) else { return Ok(Vec::new()) };
    for version in std::iter::once(&served.storage).chain(&served.versions) {
        let Some(kind) = served.in_version(version) else { continue };
        let found = cluster.list_all(&kind, FLUX_NAMESPACE).await?;
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Ok(Vec::new())
}

/// Each object as rendered, as the server would complete it, and as it lives.
type Pairs = Vec<(Object, Value, Value)>;

async fn compare(
    cluster: &Cluster,
    bundle: &Bundle,
    spec: &FluxInstanceSpec,
    exact: bool,
) -> anyhow::Result<(Pairs, BTreeMap<crate::render::ObjectKey, Foreign>)> {
    let (mut pairs, mut foreign) = (Vec::new(), BTreeMap::new());
    for object in render(bundle, &settings(spec))? {
        let kind = bundle.kind_of(&object).with_context(|| format!("{}: unknown kind", object.key()))?;
        let Some(mut live) = cluster.get(&kind, object.key()).await? else { continue };
        let metadata = live["metadata"].clone();
        foreign.insert(object.key().clone(), Foreign { live: live_of(&metadata), metadata });
        // A CRD is as its version has it, and of a namespace only metadata is ours.
        if [CRD, "Namespace"].contains(&object.key().kind.as_str()) {
            continue;
        }
        let rendered = cluster.completed(&kind, object.value()).await.with_context(|| object.key().to_string())?;
        if !exact {
            disregard_version(&rendered, &mut live);
        }
        pairs.push((object, rendered, live));
    }
    Ok((pairs, foreign))
}

fn report(version: &Version, bundle: &Bundle, spec: &FluxInstanceSpec, survey: &Survey) {
    ui::talk(format!("Flux {version} is installed"));
    if bundle.version() != version {
        ui::talk(format!(
            "there is no bundle of it; the nearest is {}: images and CRDs change to that version, all else stays",
            bundle.version()
        ));
    }
    let components: Vec<&str> = spec.components.iter().flatten().map(|c| c.0.as_str()).collect();
    ui::talk(format!("components: {}", components.join(", ")));
    let mut tools: BTreeMap<Tool, usize> = BTreeMap::new();
    for owner in survey.foreign.values().flat_map(owners) {
        *tools.entry(owner.tool).or_default() += 1;
    }
    ui::talk(format!("{} objects would be taken over", survey.foreign.len()));
    for (tool, count) in &tools {
        ui::talk(format!("  {count} of {tool}{}", afterwards(tool)));
    }
    for obstacle in obstacles(survey) {
        ui::talk(format!(
            "first: {} ({} objects): {}",
            obstacle.owner.tool,
            obstacle.objects.len(),
            obstacle.owner.remedy.unwrap_or_default()
        ));
    }
    if let Some(kustomize) = &spec.kustomize {
        ui::talk(format!("{} patches keep what differs from the bundle", kustomize.patches.len()));
    }
}

/// What of a tool still points to these objects afterwards.
fn afterwards(tool: &Tool) -> &'static str {
    match tool {
        Tool::Kustomization { .. } => {
            "; its source still holds these objects: it leaves them alone from then on, take them out of the source when it suits you"
        }
        Tool::Helm { .. } => "; the release is detached: Helm does not find it any more",
        Tool::FluxOperator { .. } => {
            "; its object is disabled: delete it and uninstall flux-operator when it suits you"
        }
        _ => "",
    }
}

fn written(instance: &FluxInstance, namespace: &str) -> anyhow::Result<String> {
    let mut value = serde_json::to_value(instance)?;
    value["metadata"]["namespace"] = namespace.into();
    if let Some(map) = value.as_object_mut() {
        map.remove("status");
    }
    Ok(yaml::emit(&value)?)
}

/// Makes flux-operator leave alone what would be taken from it.
async fn disable_peers(cluster: &Cluster, survey: &Survey) -> anyhow::Result<()> {
    for (namespace, name) in survey.others.peers.keys() {
        cluster
            .disable_peer(namespace, name)
            .await
            .with_context(|| format!("FluxInstance {namespace}/{name} of flux-operator"))?;
        ui::talk(format!("disabled FluxInstance {namespace}/{name} of flux-operator"));
    }
    Ok(())
}

async fn create(hub: &Client, namespace: &str, instance: &FluxInstance) -> anyhow::Result<()> {
    let key = format!("FluxInstance {namespace}/{}", instance.name_any());
    let api = Api::<FluxInstance>::namespaced(hub.clone(), namespace);
    with_deadline(api.create(&PostParams::default(), instance)).await.with_context(|| key.clone())?;
    ui::talk(format!("created {key}; `headwater diff` shows what is left to do"));
    Ok(())
}
