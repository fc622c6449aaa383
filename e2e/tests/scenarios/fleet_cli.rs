//! `headwater fleet` on a real hub: what it shows, what it refuses, and what its words do.

use serde_json::{Value, json};

use crate::fleet::rings;
use crate::fleet_bed::Fleet;
use crate::harness::{Ended, NEW, OLD, SOON, eventually, headwater, holds, run, world};

/// `headwater fleet WORD prod ...` as a user of the hub.
fn fleet(fleet: &Fleet<'_>, word: &str, more: &[&str]) -> Ended {
    let kubeconfig = fleet.tenant.kubeconfig();
    let all = [&["fleet", word, "prod"], more, &["-n", &fleet.tenant.namespace]].concat();
    headwater(&all, &[("KUBECONFIG", &kubeconfig)])
}

fn says(ended: &Ended, code: i32, text: &str) {
    assert!(ended.code == code && (ended.stdout.contains(text) || ended.stderr.contains(text)), "{text}: {ended:#?}");
}

/// What is shown is what the operator does, and each word does what it says, once.
#[test]
fn words_to_a_fleet_do_what_they_say() {
    let site = Fleet::start("fleet-cli", &["canary", "rest"], &json!({}));
    site.create(OLD, &rings(), &json!({"approved": OLD}));
    site.phase("Complete");
    let digest = world().digests[NEW].as_str();
    let namespace = site.tenant.namespace.clone();
    let kubeconfig = site.tenant.kubeconfig();
    let unknown = headwater(&["fleet", "status", "nope", "-n", &namespace], &[("KUBECONFIG", &kubeconfig)]);
    says(&unknown, 2, "there is no FluxFleet nope in namespace fleet-cli (found: prod); --namespace names another one");
    let slip = headwater(&["fleet", "status", "prdo", "-n", &namespace], &[("KUBECONFIG", &kubeconfig)]);
    says(&slip, 2, "(found: prod; did you mean prod?); --namespace names another one");
    says(&fleet(&site, "approve", &[]), 2, "2.8.8 is approved already");
    says(&fleet(&site, "resume", &[]), 2, "prod is neither paused nor held");
    says(&fleet(&site, "explain", &["m0"]), 0, "m0 (stage canary), whose fleet goes to 2.8.8, is done");

    // Paused, a new target waits.
    says(&fleet(&site, "pause", &[]), 0, "paused: prod admits nothing more");
    site.patch(&json!({"spec": {"distribution": {"version": NEW}}}));
    eventually("the new target", SOON, || {
        let status = site.status();
        holds(status["target"]["digest"] == digest && status["phase"] == "Suspended", status)
    });
    says(&fleet(&site, "status", &[]), 0, "spec.suspend holds the rest");
    play(&site);
    says(&fleet(&site, "resume", &[]), 0, "resumed: prod admits clusters again");

    // The second stage asks; only its target can be approved.
    site.phase("AwaitingApproval");
    says(
        &fleet(&site, "plan", &[]),
        0,
        "\nrest (AwaitingApproval, 0 of 1 done, 1 waiting)\n      1  waits for an approval of its stage: m1\n",
    );
    says(
        &fleet(&site, "explain", &["m1"]),
        0,
        "waits for an approval of its stage\n    -> `headwater fleet approve prod`",
    );
    says(&fleet(&site, "preflight", &[]), 0, "result   1 of 1 pass; refused: 0; could not be looked at: 0");
    says(&fleet(&site, "preflight", &["--stage", "late"]), 2, "prod has no stage late (its stages: canary, rest)");
    says(&fleet(&site, "approve", &[OLD]), 2, "2.8.8 is not the target of prod, which is 2.9.4");

    // Its only cluster is left out, and taken in again.
    says(&fleet(&site, "skip", &["m1"]), 0, &format!("m1 skips 2.9.4 ({digest})"));
    site.phase("Blocked");
    says(&fleet(&site, "explain", &["m1"]), 0, "skips this target");
    says(&fleet(&site, "skip", &["m1", "--undo"]), 0, "m1 is taken in again");
    says(&fleet(&site, "skip", &["m0"]), 2, "it is too late to skip it");
    site.phase("AwaitingApproval");
    says(
        &fleet(&site, "approve", &[]),
        0,
        &format!("approved: 2.9.4 ({digest}) goes to stage rest now: 1 of its 1 clusters"),
    );
    site.phase("Complete");
    assert_eq!(site.members.version(1).as_deref(), Some(NEW));

    // Back, once it was looked at what that means; and forward again.
    let dry = fleet(&site, "rollback", &["--dry-run"]);
    says(&dry, 0, &format!("m1  back to 2.8.8 ({})", world().digests[OLD]));
    assert_eq!(site.status()["phase"], "Complete");
    assert_eq!(site.status()["handled"]["rollback"], Value::Null);
    says(&fleet(&site, "rollback", &[]), 0, "they go back from 2.9.4, stage by stage");
    site.phase("RolledBack");
    assert_eq!([0, 1].map(|member| site.members.version(member)), [OLD, OLD].map(|v| Some(v.to_owned())));
    let history = fleet(&site, "history", &["-o", "json"]);
    let history: Value = serde_json::from_str(&history.stdout).unwrap();
    assert_eq!(history[0]["outcome"], "RolledBack", "{history:#}");
    says(&fleet(&site, "resume", &[]), 0, "2.9.4 is tried again");
    site.phase("Complete");

    // What Git applies is left to Git.
    let mine = json!({
        "apiVersion": "headwater.dev/v1alpha1", "kind": "FluxFleet", "metadata": {"name": "prod"}, "spec": {"suspend": false},
    });
    let path = format!("{}?fieldManager=kustomize-controller&force=true", site.path());
    site.tenant.hub.request("PATCH", &path, Some(("application/apply-patch+yaml", &mine))).unwrap();
    says(&fleet(&site, "pause", &[]), 2, "spec.suspend of FluxFleet prod is applied by kustomize-controller");

    // Watching tells changes line by line, until it is ended.
    let binary = world().binary.display().to_string();
    let watch = ["3", &binary, "fleet", "status", "prod", "-n", &namespace, "--watch"];
    let watched = run("/usr/bin/timeout".as_ref(), &watch, &[("KUBECONFIG", &kubeconfig)]);
    says(&watched, 124, "fleet: Complete: 2 of 2 on 2.9.4");
    on_a_terminal(&binary, &namespace, &kubeconfig);
}

/// What a simulation says of these very clusters is what then happens to them: see the phases that are waited for above.
fn play(site: &Fleet<'_>) {
    let of_kind = |mut object: Value, kind: &str| {
        object["apiVersion"] = json!("headwater.dev/v1alpha1");
        object["kind"] = json!(kind);
        object
    };
    let collection = format!("/apis/headwater.dev/v1alpha1/namespaces/{}/fluxinstances", site.tenant.namespace);
    let Value::Array(items) = site.tenant.hub.must_get(&collection)["items"].take() else { panic!("no list") };
    let items: Vec<Value> = items.into_iter().map(|item| of_kind(item, "FluxInstance")).collect();
    let instances = site.tenant.file("instances.json", &json!({"kind": "List", "items": items}).to_string());
    let mut wanted = of_kind(site.tenant.hub.must_get(&site.path()), "FluxFleet");
    wanted["spec"]["suspend"] = json!(false);
    let wanted = site.tenant.file("fleet.json", &wanted.to_string());
    let args = ["fleet", "simulate", "-f", &wanted, "--instances", &instances, "--approve-after", "1m", "-o", "json"];
    let played = headwater(&args, &[]);
    assert_eq!(played.code, 0, "{played:#?}");
    let played: Value = serde_json::from_str(&played.stdout).unwrap();
    let told = |entry: &Value| {
        let what = entry["what"].as_str().unwrap().split(':').next().unwrap();
        format!("{} {what}", entry["stage"].as_str().unwrap_or("-"))
    };
    let steps: Vec<String> = played["timeline"].as_array().unwrap().iter().map(told).collect();
    assert_eq!(
        steps,
        [
            "canary Preflight",
            "canary Updating",
            "canary Soaking",
            "canary Done",
            "rest Preflight",
            "rest AwaitingApproval",
            "- somebody approves",
            "rest Updating",
            "rest Done",
            "- Complete",
        ],
        "{played:#}"
    );
    assert_eq!(played["target"], NEW);
    assert_eq!(played["counts"]["done"], 2);
}

/// On a terminal a page is drawn over the one before, and it fits.
fn on_a_terminal(binary: &str, namespace: &str, kubeconfig: &str) {
    let watch = format!("stty cols 80 rows 24; exec {binary} fleet status prod -n {namespace} --watch");
    let watched = run(
        "/usr/bin/timeout".as_ref(),
        &["10", "script", "--quiet", "--command", &watch, "/dev/null"],
        &[("KUBECONFIG", kubeconfig), ("PATH", "/usr/bin:/bin")],
    );
    let pages: Vec<&str> = watched.stdout.split("\x1b[H").skip(1).collect();
    assert!(watched.code == 124 && pages.len() > 1, "{watched:#?}");
    for page in pages {
        let lines: Vec<&str> = page.split("\x1b[K\r\n").collect();
        assert!(
            lines.first().is_some_and(|line| line.ends_with(&format!("fleet     prod in {namespace}"))),
            "{page:?}"
        );
        assert!(lines.len() <= 24 && lines.iter().all(|line| line.chars().count() <= 80), "{page:?}");
    }
}
