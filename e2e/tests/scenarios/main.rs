//! Scenarios: the real binary against real API servers and a real registry. Each says in its first line what it proves,
//! and looks at nothing but what a user or the API server's audit log can see.
//!
//! They run side by side. Needs `cargo build --bin headwater` before.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::too_many_lines,
    reason = "a test ends with a panic and says why; a scenario is told from beginning to end"
)]

mod admissions;
mod bad_bundles;
mod bad_input;
mod claims;
mod cli;
mod config;
mod connections;
mod content;
mod controllers;
mod crash;
mod discover;
mod docs;
mod drift;
mod failure;
mod faults;
mod fleet;
mod fleet_bed;
mod fleet_cli;
mod fleet_clock;
mod fleet_contact;
mod fleet_credentials;
mod fleet_faults;
mod fleet_operators;
mod fleet_rules;
mod harness;
mod interop;
mod ladder;
mod lane;
mod leader;
mod lifecycle;
mod live;
mod notify;
mod operation;
mod preflight;
mod pulling;
mod rbac;
mod remove;
mod servers;
mod shapes;
mod signed;
mod sync;
mod takeover;
mod unknown_bundle;
mod upgrade;
