//! The types users write and read: custom resources, their validation rules, and the
//! bundle manifest. No IO here.

pub mod bundle;
pub mod condition;
#[allow(unreachable_pub, clippy::duplicated_attributes, reason = "code that kube's derive macros make")]
mod discover;
#[allow(unreachable_pub, clippy::duplicated_attributes, reason = "code that kube's derive macros make")]
mod distribution;
mod duration;
#[allow(unreachable_pub, clippy::duplicated_attributes, reason = "code that kube's derive macros make")]
mod fleet;
#[allow(unreachable_pub, clippy::duplicated_attributes, reason = "code that kube's derive macros make")]
pub mod instance;
mod status;
#[allow(unreachable_pub, clippy::duplicated_attributes, reason = "code that kube's derive macros make")]
mod sync;
#[allow(unreachable_pub, clippy::duplicated_attributes, reason = "code that kube's derive macros make")]
mod tofu;
mod upgrade;
mod version;

pub use discover::*;
pub use distribution::*;
pub use duration::{Interval, ParseDurationError, ProgressDeadline, Soak, Timeout, WindowLength};
pub use fleet::*;
pub use instance::*;
pub use status::*;
pub use sync::*;
pub use tofu::{NamespaceName, Tofu, TofuRunner, TofuServiceAccount};
pub use upgrade::*;
pub use version::Selector;
