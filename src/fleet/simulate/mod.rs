//! Rollouts that are played: made-up clusters that behave as real ones do, in a time that passes as fast as it is computed. The planner
//! is the one that decides for real fleets.

mod cluster;
mod labels;
mod random;
mod run;
#[cfg(test)]
mod tests;
mod timeline;

pub use cluster::{Cluster, Fault};
pub use random::Random;
pub use run::{Assumptions, simulate};
pub use timeline::{Entry, Report, StageReport, span};
