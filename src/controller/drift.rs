//! What others change on a cluster: counted, and remembered for a while. What follows from it is decided in [`crate::plan::drift`].

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use super::{Ctx, Memory, execute::Executed};
use crate::plan::Plan;
use crate::plan::drift::News;
use crate::render::ObjectKey;

/// Since the operator started; wall clocks go back at times.
fn now() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

/// Objects that are to be left alone now.
pub(super) fn damped(memory: &mut Memory) -> BTreeSet<ObjectKey> {
    memory.drifts.damped(now())
}

/// Counts what a plan found, and tells what there is to say about it.
pub(super) fn account(ctx: &Ctx, instance: &str, memory: &mut Memory, plan: &Plan, executed: &Executed) -> News {
    let news = memory.drifts.record(&plan.drifted, &executed.applied, now());
    for drift in &news.counted {
        ctx.metrics.drift(instance, &drift.key.kind, drift.by.as_deref());
    }
    news
}
