//! `bed`: builds the test bed's tools and keeps clusters up for work by hand.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand};
use headwater_e2e::Options;
use headwater_e2e::bed::{self, State};
use headwater_e2e::cluster::modules;
use headwater_e2e::fakes::{self, Fakes};
use headwater_e2e::process::alive;
use headwater_e2e::tools::{Module, ensure, tool};

/// Real API servers, Flux controllers and a registry as plain processes.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Build all tools that are not in the cache yet
    Build,
    /// Start clusters in the background
    Up(Up),
    /// End what `up` started
    Down,
    /// Tell what is up
    Status,
    /// Freeze the API server of a cluster: it accepts connections and never answers
    Freeze {
        /// Number of the cluster, from 1
        cluster: usize,
    },
    /// Let a frozen API server go on
    Thaw {
        /// Number of the cluster, from 1
        cluster: usize,
    },
    /// Print shell lines that put kubectl into PATH and name the clusters
    Env,
    /// Print the path of a tool such as `cosign`, building it if it is not in the cache yet
    Tool {
        /// Its name
        name: String,
    },
    /// Print the manifests of `flux install` of a version
    Manifests {
        /// Version, such as `2.8.8`
        version: String,
    },
    /// Run kubectl on one of the clusters: `bed exec 1 -- get pods -A`
    Exec {
        /// Number of the cluster, from 1
        cluster: usize,
        /// Arguments of kubectl
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Play the API servers of many clusters until it is ended; prints their kubeconfigs as Secrets for a hub
    Fakes(FakesArgs),
    /// Sign an artifact with new keys, in all ways we know, and write what unit tests read
    Signatures {
        /// Where to: `src/trust/testdata`
        folder: std::path::PathBuf,
    },
    /// The background process of `up`
    #[command(hide = true)]
    Supervise(Up),
}

#[derive(Args)]
struct Up {
    /// How many clusters
    #[arg(long, default_value_t = 1)]
    clusters: usize,
    /// `plain`, `light`, `full` or `flux`; with commas, one for each cluster, the last one for all that remain
    #[arg(long, default_value = "full")]
    kind: String,
    /// Start an OCI registry too
    #[arg(long)]
    registry: bool,
}

#[derive(Args)]
struct FakesArgs {
    /// How many clusters
    #[arg(long, default_value_t = 100)]
    clusters: usize,
    /// Milliseconds that every answer takes
    #[arg(long, default_value_t = 20)]
    round_trip: u64,
    /// Milliseconds that a Deployment takes to roll out
    #[arg(long, default_value_t = 1000)]
    rollout: u64,
    /// Namespace of the Secrets
    #[arg(long, default_value = "headwater-system")]
    namespace: String,
}

fn play(args: &FakesArgs) -> Result<()> {
    let fakes = Fakes::start(&fakes::Options {
        clusters: args.clusters,
        round_trip: Duration::from_millis(args.round_trip),
        rollout: Duration::from_millis(args.rollout),
    })?;
    for cluster in 0..fakes.count() {
        // JSON is YAML.
        let secret = serde_json::json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": format!("{}-kubeconfig", fakes.name(cluster)), "namespace": args.namespace},
            "stringData": {"value": fakes.kubeconfig(cluster)},
        });
        print(&format!("---\n{secret}"))?;
    }
    loop {
        std::thread::park();
    }
}

fn print(text: &str) -> Result<()> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        // As in `bed status | head -1`.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

fn show(state: &State) -> Result<()> {
    for (index, cluster) in state.clusters.iter().enumerate() {
        let up = cluster.pids.iter().filter(|&&pid| alive(pid)).count();
        print(&format!("cluster {}: {} {}, {up} processes", index + 1, cluster.kind, cluster.server))?;
        print(&format!("  kubeconfig: {}", cluster.kubeconfig.display()))?;
        print(&format!("  logs:       {}", cluster.logs.display()))?;
    }
    if let Some(registry) = &state.registry {
        print(&format!("registry:   {registry} (plain HTTP)"))?;
    }
    print(&format!("kubectl:    {}", state.kubectl.display()))
}

fn running() -> Result<State> {
    bed::current()?.context("nothing is up: `bed up` first")
}

fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Action::Build => {
            let tools = ensure(&Module::ALL)?;
            let folder = tools.path("kubectl")?;
            print(&format!(
                "all tools are in {}",
                folder.parent().and_then(Path::parent).unwrap_or(&folder).display()
            ))?;
        }
        Action::Up(up) => {
            // Built here, where progress is seen.
            for kind in bed::kinds(&up.kind, up.clusters)? {
                ensure(modules(kind))?;
            }
            if up.registry {
                ensure(&[Module::Registry])?;
            }
            show(&bed::up(&up.kind, up.clusters, up.registry)?)?;
        }
        Action::Down => print(if bed::down()? { "down" } else { "nothing was up" })?,
        Action::Status => {
            let Some(state) = bed::current()? else {
                print("nothing is up")?;
                return Ok(ExitCode::from(1));
            };
            show(&state)?;
        }
        Action::Freeze { cluster } => bed::freeze(&running()?, cluster, true)?,
        Action::Thaw { cluster } => bed::freeze(&running()?, cluster, false)?,
        Action::Env => {
            let state = running()?;
            let folder = state.kubectl.parent().unwrap_or(Path::new("/"));
            let files: Vec<String> = state.clusters.iter().map(|c| c.kubeconfig.display().to_string()).collect();
            print(&format!("export PATH='{}':\"$PATH\"", folder.display()))?;
            print(&format!("export BED_KUBECONFIGS='{}'", files.join(":")))?;
            print(&format!("export KUBECONFIG='{}'", files.first().map_or("", String::as_str)))?;
        }
        Action::Tool { name } => print(&tool(&name)?.display().to_string())?,
        Action::Manifests { version } => {
            for object in headwater_e2e::manifests::flux_install(&version, &[])? {
                print(&format!("---\n{}", object.value()))?;
            }
        }
        Action::Exec { cluster, args } => {
            use std::os::unix::process::CommandExt as _;
            let state = running()?;
            let Some(one) = cluster.checked_sub(1).and_then(|i| state.clusters.get(i)) else {
                bail!("there is no cluster {cluster}");
            };
            let failure =
                std::process::Command::new(&state.kubectl).args(args).env("KUBECONFIG", &one.kubeconfig).exec();
            bail!("start kubectl: {failure}");
        }
        Action::Fakes(args) => play(&args)?,
        Action::Signatures { folder } => headwater_e2e::sigstore::write_fixtures(&folder)?,
        Action::Supervise(up) => {
            let clusters: Vec<Options> = bed::kinds(&up.kind, up.clusters)?.into_iter().map(Options::new).collect();
            bed::supervise(&clusters, up.registry)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(e) => {
            let _ = writeln!(std::io::stderr().lock(), "bed: {e:#}");
            ExitCode::FAILURE
        }
    }
}
