//! Client required (hub): campaigns for the lead as [`crate::plan::election`] decides, and keeps the gate of all clients open
//! while it has it.

use futures::StreamExt;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::cluster::{Gate, LeaseStore};
use crate::plan::election::{Answer, Election, Lost, Moment, Next};
use crate::telemetry::{Health, Metrics};

/// A campaign under way. It goes on by itself until the lead is lost or given up; its end is the end of the process.
pub(super) struct Campaign {
    leads: watch::Receiver<bool>,
    resign: oneshot::Sender<()>,
    task: JoinHandle<Result<(), Lost>>,
    lease: String,
}

impl Campaign {
    /// Begins.
    pub(super) fn start(lease: LeaseStore, election: Election, gate: Gate, health: Health, metrics: Metrics) -> Self {
        let (tell, leads) = watch::channel(false);
        let (resign, resigned) = oneshot::channel();
        let id = lease.id();
        let candidate = Candidate { lease, election, gate, health, metrics, tell };
        Self { leads, resign, task: tokio::spawn(candidate.run(resigned)), lease: id }
    }

    /// Waits until it is won; false when it never will be.
    pub(super) async fn won(&mut self) -> bool {
        self.leads.wait_for(|leads| *leads).await.is_ok()
    }

    /// Waits until it is over.
    pub(super) fn over(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut leads = self.leads.clone();
        async move { while leads.changed().await.is_ok() {} }
    }

    /// Gives the lead up: nothing of this operator may be on its way any more. An error when it was lost before.
    pub(super) async fn resign(self) -> anyhow::Result<()> {
        let _ = self.resign.send(());
        let lease = self.lease;
        match self.task.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(lost)) => Err(anyhow::anyhow!("the lease {lease} is lost: {lost}; nothing more is written")),
            Err(error) => Err(anyhow::anyhow!("the task that renews the lease {lease} ended: {error}")),
        }
    }

    /// Whether it is over.
    pub(super) fn is_over(&self) -> bool {
        self.task.is_finished()
    }
}

struct Candidate {
    lease: LeaseStore,
    election: Election,
    gate: Gate,
    health: Health,
    metrics: Metrics,
    tell: watch::Sender<bool>,
}

impl Candidate {
    async fn run(mut self, mut resigned: oneshot::Receiver<()>) -> Result<(), Lost> {
        let mut shown = None;
        loop {
            let now = self.gate.now();
            // Who leads learns all there is from its own writes.
            match self.election.leads_until() {
                Some(_) => shown = None,
                None => {
                    shown.get_or_insert_with(|| self.lease.watch());
                }
            }
            let news = async {
                match &mut shown {
                    Some(shown) => shown.next().await,
                    None => std::future::pending().await,
                }
            };
            match self.election.next(now) {
                Next::End(lost) => {
                    self.gate.open_until(None);
                    self.metrics.leader(false);
                    tracing::error!(lease = %self.lease.id(), %lost, "the lead is lost");
                    return Err(lost);
                }
                Next::Read => {
                    let answer = self.lease.read().await;
                    self.hear(now, answer);
                }
                Next::Write(write) => {
                    let answer = self.lease.write(&write).await;
                    self.hear(now, answer);
                }
                Next::Rest(until) => {
                    tokio::select! {
                        _ = &mut resigned => return self.release().await,
                        () = tokio::time::sleep(until.saturating_sub(now)) => {}
                        Some(answer) = news => {
                            let now = self.gate.now();
                            self.hear(now, answer);
                        }
                    }
                }
            }
        }
    }

    fn hear(&mut self, sent: Moment, answer: Answer) {
        let led = self.election.leads_until().is_some();
        let before = self.election.holder().to_owned();
        let now = self.gate.now();
        self.election.hear(sent, now, answer);
        let until = self.election.leads_until();
        self.gate.open_until(until);
        if until.is_some() && !led {
            tracing::info!(lease = %self.lease.id(), "leading");
            self.metrics.leader(true);
            // Its watch has to be opened first.
            self.health.set("instances", false);
            self.tell.send_replace(true);
        } else if until.is_none() && before != self.election.holder() {
            tracing::info!(lease = %self.lease.id(), holder = self.election.holder(), "standing by");
        }
        self.health.set("lease", self.election.is_settled(now));
    }

    async fn release(mut self) -> Result<(), Lost> {
        let write = self.election.resign();
        self.gate.open_until(None);
        self.metrics.leader(false);
        if let Some(write) = write {
            // If it does not arrive, the lease expires.
            let answer = self.lease.write(&write).await;
            tracing::info!(lease = %self.lease.id(), released = matches!(answer, Answer::Written(_)), "the lead is given up");
        }
        Ok(())
    }
}
