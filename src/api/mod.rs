//! The types users write and read: custom resources, their validation rules, and the
//! bundle manifest. No IO here.

pub mod bundle;
pub mod condition;
mod duration;
#[allow(unreachable_pub, clippy::duplicated_attributes, reason = "code that kube's derive macros make")]
pub mod instance;
#[allow(unreachable_pub, clippy::duplicated_attributes, reason = "code that kube's derive macros make")]
mod tofu;

pub use duration::{Interval, ParseDurationError, Timeout};
pub use instance::*;
pub use tofu::{NamespaceName, Tofu, TofuRunner, TofuServiceAccount};
