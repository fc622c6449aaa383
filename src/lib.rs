//! Headwater: one operator that installs, configures, upgrades, watches and removes Flux on many Kubernetes clusters, from
//! versioned OCI bundles.
//!
//! `ARCHITECTURE.md` has the map. `api`, `render`, `plan`, `fleet` and `trust` are pure; `registry` talks to registries, `cluster` to
//! Kubernetes; `bundle` and `controller` join them, `cli` is for people.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr))]

pub mod api;
pub mod bundle;
pub mod cli;
pub mod cluster;
pub mod controller;
pub mod fleet;
pub mod plan;
pub mod registry;
pub mod render;
pub mod telemetry;
pub mod trust;

#[cfg(any(test, fuzzing))]
pub mod fuzz;

#[cfg(test)]
mod tidy;
