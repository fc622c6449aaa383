//! The command line. Results go to standard output, talk to standard error.

mod bundle;
mod bundle_diff;
mod bundle_images;
mod bundle_ref;
mod cluster;
mod diff;
mod generate;
mod ui;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::controller;
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
    Bundle(BundleCommand),
    /// Show what the operator would do for a `FluxInstance`: nothing is written. Exits with 0 when nothing would change, 1 when something would
    Diff(DiffArgs),
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
    /// Address of /livez and /readyz
    #[arg(long, default_value = "0.0.0.0:8081", env = "HEADWATER_HEALTH_ADDR")]
    health_addr: SocketAddr,
    /// How logs are written; `RUST_LOG` chooses what
    #[arg(long, value_enum, default_value_t, env = "HEADWATER_LOG_FORMAT")]
    log_format: LogFormat,
}

#[derive(Subcommand)]
enum BundleCommand {
    /// Write the sources of a new version from those of an older one, and say what is left to do
    New {
        /// Source folder, such as bundles/flux
        source: PathBuf,
        /// The new version
        version: String,
        /// Version to start from [default: the newest one below]
        #[arg(long)]
        from: Option<String>,
        /// An image that has another tag now; may be given several times
        #[arg(long = "image", value_name = "NAME=TAG[@DIGEST]")]
        images: Vec<String>,
    },
    /// Build bundles from a source folder; the same sources always give the same digest
    Build {
        /// Source folder, such as bundles/flux
        source: PathBuf,
        /// Versions to build [default: all in the folder]
        #[arg(long = "version", value_name = "VERSION")]
        versions: Vec<String>,
        /// Folder to write to
        #[arg(long, short, default_value = "dist")]
        output: PathBuf,
    },
    /// Push built bundles to a repository; the tag is the version
    Push {
        /// Bundle files
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Repository: <oci://HOST>[:PORT]/PATH
        #[arg(long)]
        to: String,
        #[command(flatten)]
        registry: RegistryArgs,
    },
    /// Pull a bundle, checking every byte against its digest
    Pull {
        #[command(flatten)]
        from: RemoteBundle,
        /// Folder to write to
        #[arg(long, short, default_value = ".")]
        output: PathBuf,
    },
    /// List the bundles of a repository
    List {
        /// Repository: <oci://HOST>[:PORT]/PATH
        repository: String,
        #[command(flatten)]
        registry: RegistryArgs,
        /// Format
        #[arg(long, short, value_enum, default_value_t)]
        output: Output,
    },
    /// Show what a bundle holds
    Inspect {
        /// A bundle file, or a repository: <oci://HOST>[:PORT]/PATH
        bundle: String,
        /// Version, range or digest, for a repository
        #[arg(long, default_value = "*")]
        version: String,
        #[command(flatten)]
        registry: RegistryArgs,
        /// Format
        #[arg(long, short, value_enum, default_value_t)]
        output: Output,
    },
    /// Show what an upgrade from one bundle to another means. Exits with 0 when nothing breaking is found, 1 when something is
    Diff(BundleDiffArgs),
    /// Print the images of a bundle with their digests, one a line, for tools that mirror images
    Images(BundleImagesArgs),
}

#[derive(Args)]
struct BundleDiffArgs {
    /// Bundle to start from: a file, FOLDER@VERSION for a source folder such as bundles/flux@2.8.8, or
    /// <oci://HOST>[:PORT]/PATH@VERSION
    old: String,
    /// Bundle to go to
    new: String,
    /// Show every changed field of every object
    #[arg(long)]
    objects: bool,
    #[command(flatten)]
    registry: RegistryArgs,
    /// Format
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

#[derive(Args)]
struct BundleImagesArgs {
    /// A bundle file, FOLDER@VERSION for a source folder, or <oci://HOST>[:PORT]/PATH@VERSION
    bundle: String,
    /// Only images of this component; may be given more than once [default: all components]
    #[arg(long = "component", value_name = "COMPONENT")]
    components: Vec<String>,
    #[command(flatten)]
    registry: RegistryArgs,
    /// Format
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

#[derive(Args)]
struct RegistryArgs {
    /// Speak plain HTTP
    #[arg(long)]
    insecure: bool,
}

#[derive(Args)]
struct RemoteBundle {
    /// Repository: <oci://HOST>[:PORT]/PATH
    repository: String,
    /// Version, range or digest
    #[arg(long, default_value = "*")]
    version: String,
    #[command(flatten)]
    registry: RegistryArgs,
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
    /// CRDs, as in crds/
    Crds,
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

/// Parses the arguments and runs. Exit codes: 0 done, 1 `diff` found changes or `bundle diff` something breaking, 2 failed.
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
        Command::Operator(OperatorArgs { namespace, metrics_addr, health_addr, log_format }) => {
            init_logs(log_format);
            controller::run(controller::Options { namespace, metrics_addr, health_addr }).await?;
        }
        Command::Bundle(command) => return bundle::run(command).await,
        Command::Diff(args) => return diff::run(args).await,
        Command::Cluster(ClusterCommand::Kubeconfig(args)) => cluster::kubeconfig(args).await?,
        Command::Generate(command) => generate::run(&command)?,
    }
    Ok(ExitCode::SUCCESS)
}
