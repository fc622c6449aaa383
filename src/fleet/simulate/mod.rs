//! Rollouts that are played: clusters, made up or real ones by their instances, that behave as clusters do, in a time that passes as fast as it is computed. The planner
//! is the one that decides for real fleets.

mod cluster;
mod labels;
mod population;
mod random;
mod run;
#[cfg(test)]
mod tests;
mod timeline;

pub use cluster::{Cluster, Fault};
pub use population::Clusters;
pub use random::Random;
pub use run::{Assumptions, simulate};
pub use timeline::{Entry, Report, StageReport, span};
