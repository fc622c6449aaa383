//! The command line. Results go to standard output, talk to standard error.

mod bundle;
mod check;
mod cluster;
mod diff;
mod file;
mod fleet;
mod found;
mod generate;
mod migrate;
mod ui;
mod words;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::bundle::Demands;
use crate::controller;
use crate::plan::election::Terms;
use crate::telemetry::{LogFormat, init_logs};

/// Lifecycle manager for Flux on many Kubernetes clusters.
#[derive(Parser)]
#[command(name = "headwater", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the operator, in a cluster or outside of it with KUBECONFIG
    Operator(OperatorArgs),
    /// Build, publish and look into bundles
    #[command(subcommand)]
    Bundle(bundle::BundleCommand),
    /// Show what the operator would do for a `FluxInstance`: nothing is written. Exits with 0 when nothing would change, 1 when something would
    Diff(DiffArgs),
    /// Show what stands in the way of a change, as the operator finds out before its first write: nothing is written. Exits with 0 when nothing stops it, 1 when something does
    Check(check::CheckArgs),
    /// Declare the `FluxInstance` that keeps a cluster as it is on which another tool has installed Flux, so that the operator takes over
    Migrate(MigrateArgs),
    /// Try a change again that failed and is held
    Retry(words::RetryArgs),
    /// Go back to a bundle that was good, and to the spec it ran with
    Rollback(words::RollbackArgs),
    /// Let deletions go ahead that wait for a word
    Confirm(words::ConfirmArgs),
    /// Look at the rollouts of a `FluxFleet`, and say words to them
    #[command(subcommand)]
    Fleet(fleet::FleetCommand),
    /// Prepare clusters
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Write the files of this repository that are generated
    #[command(subcommand, hide = true)]
    Generate(GenerateCommand),
}

#[derive(Args)]
struct OperatorArgs {
    /// Namespace whose `FluxInstances` and Secrets are used [default: the pod's own, or that of the kubeconfig]
    #[arg(long, env = "HEADWATER_NAMESPACE")]
    namespace: Option<String>,
    /// Address of /metrics
    #[arg(long, default_value = "0.0.0.0:8080", env = "HEADWATER_METRICS_ADDR")]
    metrics_addr: SocketAddr,
    /// Flux's notification-controller, which is told what fleets do: `http://HOST[:PORT]/` [default: nobody is told]
    #[arg(long, value_name = "URL", value_parser = events_addr, env = "HEADWATER_EVENTS_ADDR")]
    events_addr: Option<http::Uri>,
    /// Address of /livez and /readyz
    #[arg(long, default_value = "0.0.0.0:8081", env = "HEADWATER_HEALTH_ADDR")]
    health_addr: SocketAddr,
    /// Take only bundles whose signature is verified (or that come with the operator)
    #[arg(long, env = "HEADWATER_REQUIRE_VERIFICATION")]
    require_verification: bool,
    /// Registry or repository bundles may come from, with everything below: HOST[:PORT][/PATH] [default: any]
    #[arg(
        long = "allowed-repository",
        value_name = "PLACE",
        value_delimiter = ',',
        env = "HEADWATER_ALLOWED_REPOSITORIES"
    )]
    allowed_repositories: Vec<String>,
    /// Token service that may be given registry credentials although it is not of the registry: HOST[:PORT]
    #[arg(long = "registry-realm", value_name = "HOST", value_delimiter = ',', env = "HEADWATER_REGISTRY_REALMS")]
    registry_realms: Vec<String>,
    /// Manage only the `FluxInstances` with the label headwater.dev/shard=NAME [default: those without that label]
    #[arg(long, value_name = "NAME", value_parser = shard, env = "HEADWATER_SHARD")]
    shard: Option<String>,
    #[command(flatten)]
    election: ElectionArgs,
    /// How logs are written; `RUST_LOG` chooses what
    #[arg(long, value_enum, default_value_t, env = "HEADWATER_LOG_FORMAT")]
    log_format: LogFormat,
}

#[derive(Args)]
struct ElectionArgs {
    /// Work only while holding the Lease headwater (with a shard headwater-NAME) in the namespace, so that one operator of several works
    #[arg(
        long,
        value_name = "BOOL",
        default_value_t = true,
        default_missing_value = "true",
        num_args = 0..=1,
        action = clap::ArgAction::Set,
        env = "HEADWATER_LEADER_ELECT"
    )]
    leader_elect: bool,
    /// Seconds after which an operator that says nothing any more is replaced; it renews its Lease every third of that, and stops by itself at two thirds
    #[arg(long, value_name = "SECONDS", default_value_t = 24, value_parser = clap::value_parser!(u32).range(2..=3600), env = "HEADWATER_LEASE_DURATION")]
    lease_duration: u32,
    /// What this operator is called in the Lease. Who comes with the same name is taken for the same one, started again [default: host name and a random number]
    #[arg(long, value_name = "NAME", env = "HEADWATER_IDENTITY")]
    identity: Option<String>,
}

impl ElectionArgs {
    fn candidacy(self) -> Option<controller::Candidacy> {
        let identity = self.identity.filter(|name| !name.is_empty()).unwrap_or_else(|| {
            let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "headwater".to_owned());
            // A hasher of its own is what the standard library has of chance.
            format!("{host}_{:016x}", RandomState::new().build_hasher().finish())
        });
        self.leader_elect.then(|| controller::Candidacy { identity, terms: Terms::new(self.lease_duration) })
    }
}

/// notification-controller speaks plain HTTP inside the cluster, and nothing else.
fn events_addr(text: &str) -> Result<http::Uri, String> {
    let url: http::Uri = text.parse().map_err(|error| format!("{error}; must be http://HOST[:PORT]/"))?;
    match (url.scheme_str(), url.host()) {
        (Some("http"), Some(_)) => Ok(url),
        _ => Err("must be http://HOST[:PORT]/, such as http://notification-controller.flux-system.svc.cluster.local./"
            .to_owned()),
    }
}

/// It becomes a label value and a part of the name of a Lease.
fn shard(name: &str) -> Result<String, String> {
    let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_name = name.len() <= 50
        && name.starts_with(is_inner)
        && name.ends_with(is_inner)
        && name.chars().all(|c| is_inner(c) || c == '-');
    if is_name {
        Ok(name.to_owned())
    } else {
        Err("a shard is named by at most 50 lower-case letters, digits and `-`, such as east".to_owned())
    }
}

#[derive(Args)]
struct DiffArgs {
    /// File with one `FluxInstance`; - for standard input
    #[arg(long, short)]
    filename: PathBuf,
    /// Namespace of the `FluxInstance` [default: that in the file, or of the kubeconfig]
    #[arg(long, short)]
    namespace: Option<String>,
    /// Format
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
    /// Show changed fields too
    #[arg(long)]
    fields: bool,
}

#[derive(Args)]
struct MigrateArgs {
    /// File with one `FluxInstance` of flux-operator, to be told as one of ours without looking at a cluster; - for standard input
    #[arg(long, short, conflicts_with = "context")]
    filename: Option<PathBuf>,
    /// Context of the kubeconfig whose cluster is looked at [default: the current one]
    #[arg(long)]
    context: Option<String>,
    /// Name of the `FluxInstance` [default: that in the file, or flux]
    #[arg(long)]
    name: Option<String>,
    /// Namespace of the `FluxInstance` on the hub, which is the cluster of the current context
    #[arg(long, short, default_value = "headwater-system")]
    namespace: String,
    /// Secret on the hub with the kubeconfig of the cluster, as `headwater cluster kubeconfig` makes it [default: none, the hub itself]
    #[arg(long)]
    kubeconfig_secret: Option<String>,
    /// Print the `FluxInstance`, and write nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Subcommand)]
enum ClusterCommand {
    /// Make a service account with just the rights the operator needs on the cluster of the current context, and print a Secret with its kubeconfig for the hub
    Kubeconfig(KubeconfigArgs),
}

#[derive(Args)]
struct KubeconfigArgs {
    /// Name of the cluster; the Secret is called NAME-kubeconfig
    name: String,
    /// Context of the kubeconfig to use [default: the current one]
    #[arg(long)]
    context: Option<String>,
    /// Address of the API server as the hub sees it [default: that of the kubeconfig]
    #[arg(long)]
    server: Option<String>,
    /// How long the token is valid; the API server may shorten it. Run the command again to renew it
    #[arg(long, default_value = "8760h")]
    duration: String,
    /// Namespace of the Secret on the hub
    #[arg(long, short, default_value = "headwater-system")]
    namespace: String,
}

#[derive(Subcommand)]
enum GenerateCommand {
    /// A CRD, as in crds/
    Crd {
        /// Of which kind
        kind: OurKind,
    },
    /// RBAC of the hub, as in config/rbac/hub.yaml
    RbacHub,
    /// RBAC of a managed cluster, as in config/rbac/target.yaml, from the bundles in a source folder
    RbacTarget {
        /// Source folder
        source: PathBuf,
    },
    /// JSON schema of bundle.yaml
    BundleSchema,
    /// Reference of this command line, as Markdown
    CliReference,
}

/// Kinds of custom resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OurKind {
    /// `FluxInstance`
    FluxInstance,
    /// `FluxFleet`
    FluxFleet,
}

/// Output formats.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    #[default]
    Table,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

/// Parses the arguments and runs. Exit codes: 0 done, 1 `diff` found changes, `check` or `fleet preflight` errors or `bundle diff` something breaking, 2 failed.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let is_operator = matches!(cli.command, Command::Operator(_));
    let mut builder = if is_operator {
        // Waiting for networks needs few threads, and each costs memory for its allocations.
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2);
        builder
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let result = builder
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run(cli.command)));
    match result {
        Ok(code) => code,
        Err(error) => {
            ui::talk(format!("error: {error:#}"));
            ExitCode::from(2)
        }
    }
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Operator(OperatorArgs {
            namespace,
            metrics_addr,
            events_addr,
            health_addr,
            require_verification,
            allowed_repositories,
            registry_realms,
            shard,
            election,
            log_format,
        }) => {
            init_logs(log_format);
            let demands = Demands {
                verification: require_verification,
                repositories: allowed_repositories,
                realms: registry_realms,
            };
            let candidacy = election.candidacy();
            let options =
                controller::Options { namespace, metrics_addr, events_addr, health_addr, demands, candidacy, shard };
            controller::run(options).await?;
        }
        Command::Bundle(command) => return bundle::run(command).await,
        Command::Migrate(args) => migrate::run(args).await?,
        Command::Diff(args) => return Box::pin(diff::run(args)).await,
        Command::Check(args) => return Box::pin(check::run(args)).await,
        Command::Fleet(command) => return Box::pin(fleet::run(command)).await,
        Command::Retry(args) => words::retry(args).await?,
        Command::Rollback(args) => words::rollback(args).await?,
        Command::Confirm(args) => words::confirm(args).await?,
        Command::Cluster(ClusterCommand::Kubeconfig(args)) => cluster::kubeconfig(args).await?,
        Command::Generate(command) => generate::run(&command)?,
    }
    Ok(ExitCode::SUCCESS)
}
