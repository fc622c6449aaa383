//! Logs, metrics and health of the operator itself.

mod metrics;
mod server;

pub use metrics::Metrics;
pub use server::{Health, serve};

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How logs are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line: for log collectors.
    #[default]
    Json,
    /// For people at a terminal.
    Text,
}

/// Starts logging to standard error. `RUST_LOG` chooses what; `info` without it.
pub fn init_logs(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Text => builder.compact().init(),
    }
}
