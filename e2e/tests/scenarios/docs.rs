//! What documents tell people to type is typed.

use std::path::Path;
use std::process::Command;

use headwater_e2e::tools::tool;
use headwater_e2e::{Kind, Registry, RegistryOptions};
use serde_json::json;

use crate::fleet::Members;
use crate::harness::{NEW, OLD, Site, Tenant, in_repository, spec, world};

/// The content of all blocks of a language in a Markdown text.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    text.split(fence.as_str()).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

/// The commands of all console blocks.
fn commands(text: &str) -> Vec<&str> {
    let lines = blocks(text, "console").into_iter().flat_map(str::lines);
    lines.map(|l| l.strip_prefix("$ ").unwrap_or_else(|| panic!("{l:?} in a console block is no command"))).collect()
}

/// Types commands into one shell, which has `headwater` and these tools; what it said, when all of them ended well.
fn type_in(commands: &[String], folder: &Path, tools: &[&str], env: &[(&str, &str)]) -> (String, String) {
    let folders = std::iter::once(world().binary.clone()).chain(tools.iter().map(|name| tool(name).unwrap()));
    let mut path: Vec<String> = folders.map(|program| program.parent().unwrap().display().to_string()).collect();
    path.push(std::env::var("PATH").unwrap());
    let ended = Command::new("bash")
        .args(["-xc", &format!("set -euo pipefail\n{}\n", commands.join("\n"))])
        .current_dir(folder)
        .env_clear()
        .env("PATH", path.join(":"))
        .env("HOME", folder)
        .envs(env.iter().copied())
        .output()
        .unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (said(&ended.stdout), said(&ended.stderr));
    assert!(ended.status.success(), "{stdout}\n{stderr}");
    (stdout, stderr)
}

/// Every command of docs/bundles.md, in its order, in one shell: as it is written, but for the registries' names and that they speak
/// plain HTTP here.
#[test]
fn commands_for_bundle_authors_work() {
    let text = std::fs::read_to_string(in_repository("docs/bundles.md")).unwrap();
    let (registry, mirror) =
        (Registry::start(&RegistryOptions::default()).unwrap(), Registry::start(&RegistryOptions::default()).unwrap());
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("bundles")).unwrap();
    let copied =
        Command::new("cp").args(["-r", &in_repository("bundles/flux"), "bundles/flux"]).current_dir(&folder).status();
    assert!(copied.unwrap().success());
    std::fs::write(folder.path().join("offline.json"), blocks(&text, "json")[0]).unwrap();

    let mut typed = Vec::new();
    for command in commands(&text) {
        let mut command = command
            .replace("registry.example.com", &registry.address())
            .replace("mirror.example.com", &mirror.address())
            .replace("cosign sign ", "cosign sign --allow-http-registry ")
            .replace("headwater bundle mirror ", "headwater bundle mirror --insecure --to-insecure ");
        for speaking in ["push", "list", "verify"] {
            let plain = format!("headwater bundle {speaking} ");
            command = command.replace(&plain, &format!("{plain}--insecure "));
        }
        // Says by 1 that there is something to look at.
        if command.starts_with("headwater bundle diff ") {
            command = format!("{command} || [ $? = 1 ]");
        }
        typed.push(command);
    }
    assert!(typed.len() > 12, "{typed:#?}");
    let (stdout, _) = type_in(&typed, folder.path(), &["cosign"], &[("COSIGN_PASSWORD", "")]);
    assert!(stdout.contains("is signed by key"), "{stdout}");
    assert!(stdout.contains("ghcr.io/fluxcd/source-controller:v1.9.4@sha256:"), "{stdout}");
    assert!(folder.path().join("bundles/flux/2.9.5/version.yaml").exists());
}

/// Every command of docs/upgrades.md, in its order, in one shell, on a real cluster.
#[test]
fn commands_for_upgraders_work() {
    let text = std::fs::read_to_string(in_repository("docs/upgrades.md")).unwrap();
    let hub = Site::hub(Kind::Full);
    let tenant = Tenant::new(&hub, "headwater-system");
    let mut wanted = spec(OLD);
    wanted["wait"] = json!(true);
    tenant.create("flux", &wanted);
    tenant.ready("flux");

    let typed: Vec<String> = commands(&text).into_iter().map(str::to_owned).collect();
    assert!(typed.len() > 8, "{typed:#?}");
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = tenant.kubeconfig();
    let (stdout, stderr) = type_in(&typed, folder.path(), &["kubectl"], &[("KUBECONFIG", &kubeconfig)]);
    for expected in [
        "~ Deployment flux-system/source-controller",
        ". wait until healthy: notification-controller, source-controller",
        "Done\thealth",
        "flux goes back from 2.9.4 to 2.8.8",
        "2.9.4 is tried again on flux; it had failed: it was asked to go back",
    ] {
        assert!(stdout.contains(expected), "{expected}: {stdout}\n{stderr}");
    }
    assert_eq!(tenant.status("flux")["applied"]["version"], NEW);
}

/// Every command of docs/migrate.md, in its order, in one shell, on a cluster where Helm has installed Flux.
#[test]
fn commands_for_migration_work() {
    let text = std::fs::read_to_string(in_repository("docs/migrate.md")).unwrap();
    let hub = Site::hub(Kind::Full);
    let tenant = Tenant::new(&hub, "headwater-system");
    crate::takeover::install_by_helm(&hub);
    let folder = tempfile::tempdir().unwrap();
    // Says by 1 that something would change.
    let end = |command: &str| if command.starts_with("headwater diff ") { " || [ $? = 1 ]" } else { "" };
    let typed: Vec<String> = commands(&text).into_iter().map(|command| format!("{command}{}", end(command))).collect();
    assert!(typed.len() > 8, "{typed:#?}");
    let kubeconfig = tenant.kubeconfig();
    let (stdout, _) = type_in(&typed, folder.path(), &["kubectl", "helm"], &[("KUBECONFIG", &kubeconfig)]);
    assert!(
        stdout.contains("32 to take over")
            && stdout.contains("objects that were there from Helm release flux-system/flux2"),
        "{stdout}"
    );
    assert!(!hub.must_get("/apis/apps/v1/deployments").to_string().contains("headwater.dev"), "{stdout}");
}

/// Every command of docs/fleet.md, in its order, in one shell, with two clusters behind a hub; soaks are shorter here.
#[test]
fn commands_for_fleets_work() {
    let text = std::fs::read_to_string(in_repository("docs/fleet.md")).unwrap();
    let hub = Site::hub(Kind::Plain);
    let tenant = Tenant::new(&hub, "headwater-system");
    let members = Members::start(2);
    for (name, site) in ["eu-1", "eu-2"].iter().zip(&members.sites) {
        let mut wanted = tenant.remote(name, site, OLD);
        wanted["distribution"] = json!({"version": OLD});
        wanted["wait"] = json!(true);
        tenant.create(name, &wanted);
    }
    for name in ["eu-1", "eu-2"] {
        tenant.ready(name);
    }

    let folder = tempfile::tempdir().unwrap();
    let fleet = blocks(&text, "yaml")[0].replace("soak: 30s ", "soak: 2s ");
    std::fs::write(folder.path().join("fleet.yaml"), fleet).unwrap();
    let typed: Vec<String> = commands(&text).into_iter().map(str::to_owned).collect();
    assert!(typed.len() > 15, "{typed:#?}");
    let kubeconfig = tenant.kubeconfig();
    let (stdout, stderr) = type_in(&typed, folder.path(), &["kubectl"], &[("KUBECONFIG", &kubeconfig)]);
    for expected in [
        "unknown: it waits for an approval",
        "eu-2 (stage rest), whose fleet goes to 2.9.4, waits for an approval of its stage",
        "result   1 of 1 pass; refused: 0",
        "goes to stage rest now: 1 of its 1 clusters are ready",
        "eu-2  back to 2.8.8",
        "2.9.4 is tried again",
    ] {
        assert!(stdout.contains(expected), "{expected}: {stdout}\n{stderr}");
    }
    assert_eq!([0, 1].map(|member| members.version(member)), [NEW, NEW].map(|version| Some(version.to_owned())));
}
