//! Words of users to a fleet: fields of its spec that say when, and annotations that say it once.

use anyhow::bail;
use clap::Args;
use kube::ResourceExt;
use serde_json::json;

use super::Named;
use super::status::counted;
use super::world::{World, lag, target};
use crate::api::{Approval, Bound, FluxFleet, FluxInstance, RETRY, ROLLBACK, SKIP, StageState, StageStatus, Target};
use crate::cli::found::{Found, token};
use crate::cli::ui;
use crate::fleet::{Failure, FleetPlan, Member, State, way_back};

#[derive(Args)]
pub(in crate::cli) struct TargetArgs {
    #[command(flatten)]
    fleet: Named,
    /// Version or digest of the target: nothing is said if it is another one by now [default: the target]
    #[arg(value_name = "VERSION|DIGEST")]
    target: Option<String>,
}

#[derive(Args)]
pub(in crate::cli) struct SkipArgs {
    #[command(flatten)]
    fleet: Named,
    /// Name of the `FluxInstance`
    cluster: String,
    /// Take it in again
    #[arg(long)]
    undo: bool,
}

#[derive(Args)]
pub(in crate::cli) struct RollbackArgs {
    #[command(flatten)]
    fleet: Named,
    /// Print which clusters would go back to what, and write nothing
    #[arg(long)]
    dry_run: bool,
}

fn follow(found: &Found<FluxFleet>) {
    ui::out(format!(
        "follow it with: headwater fleet status {} -n {} --watch",
        found.object.name_any(),
        found.namespace
    ));
}

/// The target, if it is the one that is named.
fn named<'f>(fleet: &'f FluxFleet, word: Option<&str>) -> anyhow::Result<&'f Target> {
    let target = target(fleet)?;
    if let Some(word) = word.filter(|word| *word != target.version && *word != target.digest) {
        bail!(
            "{word} is not the target of {}, which is {} ({}); name that one, or set spec.distribution.version first",
            fleet.name_any(),
            target.version,
            target.digest
        );
    }
    Ok(target)
}

fn is_said(word: Option<&Bound>, target: &Target) -> bool {
    word.is_some_and(|word| word.digest == target.digest)
}

/// The word for a target: its digest; or its version, where the digest was said before the status of the fleet was lost, and is heard
/// no more.
fn word_for<'t>(target: &'t Target, said: Option<&str>) -> &'t str {
    if said == Some(target.digest.as_str()) { &target.version } else { &target.digest }
}

pub(super) async fn approve(args: TargetArgs) -> anyhow::Result<()> {
    let found = args.fleet.find().await?;
    let approved = approvable(&found.object, args.target.as_deref())?;
    found.set("approved", &json!(word_for(approved.target, found.object.spec.approved.as_deref()))).await?;
    let (version, digest) = (&approved.target.version, &approved.target.digest);
    ui::out(format!(
        "approved: {version} ({digest}) goes to stage {} now: {} of its {} clusters are ready",
        approved.stage.name, approved.stage.counts.waiting, approved.stage.counts.total
    ));
    if !approved.later.is_empty() {
        ui::out(format!("and, when they are due, to: {}", approved.later.join(", ")));
    }
    follow(&found);
    Ok(())
}

/// What an approval would be for.
#[derive(Debug)]
struct Approvable<'f> {
    target: &'f Target,
    stage: &'f StageStatus,
    /// Later stages that wait for the same word.
    later: Vec<&'f str>,
}

/// Finds the stage that waits for a word, or the sentence that says why none does.
fn approvable<'f>(fleet: &'f FluxFleet, word: Option<&str>) -> anyhow::Result<Approvable<'f>> {
    let (name, target) = (fleet.name_any(), named(fleet, word)?);
    let status = fleet.status.clone().unwrap_or_default();
    let stages = fleet.status.iter().flat_map(|status| &status.stages);
    let needs_word = |stage: &&StageStatus| {
        fleet.spec.stages.iter().any(|known| known.name == stage.name && known.approval == Approval::Required)
    };
    let mut left = stages.filter(|stage| !stage.lets_by());
    if let Some(lag) = lag(fleet) {
        bail!("nothing is approved: {lag}; say it again when it has");
    }
    if is_said(status.approved.as_ref(), target) {
        bail!("{} is approved already ({})", target.version, target.digest);
    }
    if let Some(held) = &status.held {
        bail!("{} is held, so that nothing waits for an approval: {}", held.version, held.message);
    }
    let Some(stage) = left.next() else { bail!("nothing waits for an approval: all stages of {name} are done") };
    let later: Vec<&str> = left.filter(needs_word).map(|stage| stage.name.as_str()).collect();
    let about = stage.message.as_deref().unwrap_or_default();
    match stage.state {
        StageState::AwaitingApproval => Ok(Approvable { target, stage, later }),
        StageState::Preflight if needs_word(&stage) => bail!(
            "stage {} is not ready to be approved: {about}; it asks when the preflight of all its clusters passes",
            stage.name
        ),
        StageState::PreflightFailed if needs_word(&stage) => bail!(
            "stage {} cannot be approved: {about}; `headwater fleet preflight {name}` lists findings and remedies",
            stage.name
        ),
        _ => {
            let then = if needs_word(&stage) { &[stage.name.as_str()][..] } else { &later };
            let then = if then.is_empty() {
                "no stage that is left has approval: Required".to_owned()
            } else {
                format!("those that will ask: {}", then.join(", "))
            };
            bail!(
                "nothing waits for an approval: stage {} is {:?} ({}); {then}",
                stage.name,
                stage.state,
                counted(&stage.counts)
            )
        }
    }
}

pub(super) async fn emergency(args: TargetArgs) -> anyhow::Result<()> {
    let found = args.fleet.find().await?;
    let target = named(&found.object, args.target.as_deref())?;
    let status = found.object.status.clone().unwrap_or_default();
    if is_said(status.emergency.as_ref(), target) {
        bail!("{} is an emergency already ({})", target.version, target.digest);
    }
    found.set("emergency", &json!(word_for(target, found.object.spec.emergency.as_deref()))).await?;
    ui::out(format!(
        "emergency: {} ({}) waits for no soak and no window; health, budgets and approvals are as ever",
        target.version, target.digest
    ));
    follow(&found);
    Ok(())
}

pub(super) async fn pause(args: Named) -> anyhow::Result<()> {
    let found = args.find().await?;
    if found.object.spec.suspend {
        bail!("{} is paused already (spec.suspend)", args.name);
    }
    found.set("suspend", &json!(true)).await?;
    let updating = found.object.status.as_ref().map_or(0, |status| status.counts.updating);
    ui::out(format!(
        "paused: {} admits nothing more; {updating} on their way finish. `headwater fleet resume {}` goes on",
        args.name, args.name
    ));
    Ok(())
}

pub(super) async fn resume(args: Named) -> anyhow::Result<()> {
    let found = args.find().await?;
    let held = found.object.status.as_ref().and_then(|status| status.held.as_ref());
    if !found.object.spec.suspend && held.is_none() {
        bail!("{} is neither paused nor held: there is nothing to resume", args.name);
    }
    // First what is held: it would begin before the other word was said.
    if let Some(held) = held {
        found.say(RETRY, Some(&token())).await?;
        ui::out(format!(
            "{} is tried again, on clusters where it failed too; it was held: {}",
            held.version, held.message
        ));
    }
    if found.object.spec.suspend {
        found.set("suspend", &json!(false)).await?;
        ui::out(format!("resumed: {} admits clusters again", args.name));
    }
    follow(&found);
    Ok(())
}

pub(super) async fn skip(args: SkipArgs) -> anyhow::Result<()> {
    let found = args.fleet.find().await?;
    let cluster = found.beside::<FluxInstance>(&args.cluster).await?;
    let word = cluster.object.annotations().get(SKIP);
    if args.undo {
        let Some(word) = word else { bail!("{} skips nothing: it has no annotation {SKIP}", args.cluster) };
        cluster.say(SKIP, None).await?;
        ui::out(format!("{} is taken in again; it had skipped {word}", args.cluster));
        return Ok(());
    }
    let target = target(&found.object)?;
    let selecting = crate::fleet::selecting(&cluster.object, std::iter::once(&found.object));
    if selecting.is_empty() {
        bail!("{} does not select {}: there is nothing to skip", args.fleet.name, args.cluster);
    }
    let status = cluster.object.status.as_ref();
    if let Some(admitted) = status.and_then(|s| s.admitted.as_ref()).filter(|a| a.digest == target.digest) {
        bail!(
            "{} was admitted to {} at {}: it is too late to skip it; `headwater rollback {}` takes it back",
            args.cluster,
            target.version,
            admitted.at.0,
            args.cluster
        );
    }
    cluster.say(SKIP, Some(&target.digest)).await?;
    ui::out(format!(
        "{} skips {} ({}) and stays as it is until another target comes, or `headwater fleet skip {} {} --undo`",
        args.cluster, target.version, target.digest, args.fleet.name, args.cluster
    ));
    Ok(())
}

pub(super) async fn rollback(args: RollbackArgs) -> anyhow::Result<()> {
    let world = World::look(&args.fleet).await?;
    let found = &world.found;
    let (token, target) = (token(), target(&found.object)?);
    let held = found.object.status.as_ref().and_then(|status| status.held.as_ref());
    if held.is_some_and(|held| held.rollback) {
        bail!("{} goes back from {} already", args.fleet.name, target.version);
    }
    let mut said = found.object.clone();
    said.annotations_mut().insert(ROLLBACK.to_owned(), token.clone());
    let members = world.members();
    let plan = world.plan(&said, &members)?;
    let lines = ways_back(&plan, &target.digest);
    if lines.is_empty() {
        bail!("no cluster of {} was moved to {}: there is nothing to go back from", args.fleet.name, target.version);
    }
    lines.into_iter().for_each(ui::out);
    if args.dry_run {
        ui::talk("nothing was written");
        return Ok(());
    }
    found.say(ROLLBACK, Some(&token)).await?;
    ui::out(format!(
        "they go back from {}, stage by stage, controllers only: CRDs stay. It is held until spec or target change, or `headwater fleet resume {}`",
        target.version, args.fleet.name
    ));
    follow(found);
    Ok(())
}

/// Who goes back to what, and who cannot.
fn ways_back(plan: &FleetPlan<'_>, bad: &str) -> Vec<String> {
    let line = |member: &Member<'_>| match &member.state {
        State::Waiting(_) | State::Moving { .. } | State::Deferred(_) => {
            let back = way_back(member.instance, bad)?;
            let later = if let State::Deferred(_) = member.state { ", when it can be reached" } else { "" };
            Some(format!("{}  back to {} ({}){later}", member.name, back.version, back.digest))
        }
        State::Failed(Failure::NoWayBack) | State::Suspended => Some(format!("{}  {}", member.name, member.state)),
        _ => None,
    };
    plan.members.iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fleet::tests::{fleet, input, instance};
    use crate::fleet::plan;

    fn stage<'f>(fleet: &'f mut FluxFleet, name: &str) -> &'f mut StageStatus {
        fleet.status.as_mut().unwrap().stages.iter_mut().find(|stage| stage.name == name).unwrap()
    }

    #[test]
    fn only_what_waits_for_an_approval_is_approved() {
        let mut fleet = fleet();
        let refusal = |fleet: &FluxFleet, word| approvable(fleet, word).unwrap_err().to_string();
        assert_eq!(
            refusal(&fleet, Some("2.9.5")),
            "2.9.5 is not the target of prod, which is 2.9.4 (sha256:new); name that one, or set spec.distribution.version first"
        );
        assert_eq!(
            refusal(&fleet, None),
            "nothing waits for an approval: stage early is Updating (10 of 40 done, 8 updating, 2 deferred, 20 waiting); those that will ask: rest"
        );
        stage(&mut fleet, "early").state = StageState::Done;
        stage(&mut fleet, "rest").state = StageState::Preflight;
        stage(&mut fleet, "rest").message = Some("3 of 50 are being looked at".into());
        assert!(refusal(&fleet, None).contains("stage rest is not ready to be approved: 3 of 50 are being looked at;"));
        stage(&mut fleet, "rest").state = StageState::PreflightFailed;
        assert!(refusal(&fleet, None).contains("stage rest cannot be approved: 3 of 50"));

        stage(&mut fleet, "rest").state = StageState::AwaitingApproval;
        for word in [None, Some("2.9.4"), Some("sha256:new")] {
            let found = approvable(&fleet, word).unwrap();
            assert_eq!((found.stage.name.as_str(), found.target.digest.as_str()), ("rest", "sha256:new"));
            assert_eq!(found.later, [""; 0]);
        }
        // The spec has gone on: what would be approved is not what is meant.
        let mut ahead = fleet.clone();
        ahead.spec.distribution.version = "2.10.x".into();
        assert!(refusal(&ahead, None).starts_with("nothing is approved: the spec asks for \"2.10.x\""));

        let approved = Bound { word: "2.9.4".into(), digest: "sha256:new".into() };
        fleet.status.as_mut().unwrap().approved = Some(approved);
        assert_eq!(refusal(&fleet, None), "2.9.4 is approved already (sha256:new)");
    }

    #[test]
    fn a_word_that_is_heard_no_more_is_said_in_other_words() {
        let target: Target = serde_json::from_value(
            json!({"version": "2.9.4", "digest": "sha256:new", "since": "2026-07-01T10:00:00Z"}),
        )
        .unwrap();
        for (said, word) in [(None, "sha256:new"), (Some("2.9.4"), "sha256:new"), (Some("sha256:new"), "2.9.4")] {
            assert_eq!(word_for(&target, said), word, "{said:?}");
        }
    }

    #[test]
    fn a_rollback_says_who_goes_back_to_what() {
        let mut fleet = fleet();
        let new = json!({"version": "2.9.4", "digest": "sha256:new", "config": "c", "at": "2026-07-01T11:00:00Z"});
        let old = json!([{"version": "2.8.8", "digest": "sha256:old", "config": "c", "outcome": "Succeeded", "started": "2026-01-01T00:00:00Z"}]);
        let admitted = json!({"version": "2.9.4", "digest": "sha256:new", "by": "prod", "at": "2026-07-01T10:59:00Z"});
        let mut moved = json!({"observedDigest": "sha256:new", "applied": new, "lastGood": new, "admitted": admitted, "history": old});
        let one = instance("a", "canary", &moved);
        let two = instance("b", "early", &moved);
        let untouched = instance("c", "early", &json!({}));
        moved["history"] = json!([]);
        let stuck = instance("d", "canary", &moved);
        let all = [&one, &two, &untouched, &stuck];
        fleet.annotations_mut().insert(ROLLBACK.to_owned(), "1".to_owned());
        let plan = plan(&input(&fleet, &all)).unwrap();
        assert_eq!(
            ways_back(&plan, "sha256:new"),
            [
                "a  back to 2.8.8 (sha256:old)",
                "b  back to 2.8.8 (sha256:old)",
                "d  has no good bundle in its history to go back to",
            ]
        );
    }
}
