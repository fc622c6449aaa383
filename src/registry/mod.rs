//! OCI registries: one repository's tags, manifests, blobs and referrers, read and written under deadlines and limits. It knows
//! nothing of bundles or Kubernetes.
//!
//! Our own client rather than `oci-client`, because what a hostile or slow registry may do is decided below the level that
//! crate lets in: it follows redirects and token realms wherever they lead, reads answers of any length, and offers neither
//! client certificates nor `Retry-After`. What is here are the parts of the
//! [distribution specification](https://github.com/opencontainers/distribution-spec/blob/main/spec.md) that Headwater uses.

mod access;
mod address;
mod auth;
mod connect;
mod copy;
mod credentials;
mod error;
mod manifest;
mod repository;
mod transport;

#[cfg(test)]
mod tests;

pub use access::{Access, Proxy};
pub use address::Address;
pub use copy::{Copied, copy};
pub use credentials::Credentials;
pub use error::RegistryError;
pub use manifest::{Descriptor, INDEX, Index, MANIFEST, Manifest, MediaType};
pub use repository::{Fetched, Repository};
