//! Headwater's test bed: real Kubernetes API servers, real Flux controllers and a real OCI
//! registry, each a plain process on loopback. No container engine, no root, no kubelet.
//!
//! Everything here blocks; async tests call it from `spawn_blocking` or before their runtime does
//! its work. Whatever a test starts ends with the value that owns it, and with the process at the
//! latest (see [`process`]).

pub mod audit;
pub mod bed;
pub mod certificates;
pub mod clock;
pub mod cluster;
pub mod dirs;
pub mod fakes;
mod http;
pub mod kubeconfig;
mod kubelet;
pub mod manifests;
mod ports;
pub mod process;
pub mod proxy;
pub mod registry;
mod say;
pub mod sigstore;
pub mod tools;

pub use audit::{AuditEvent, AuditMark};
pub use bed::{Target, clusters_or_bed};
pub use clock::Clock;
pub use cluster::{Cluster, Kind, Options, Token};
pub use proxy::{Fault, Faults, Line, Phase, Proxy, Write};
pub use registry::{Registry, RegistryOptions, Tls};

#[cfg(test)]
mod selftest;
