//! A real OCI registry on loopback, over plain HTTP, with a password when a test wants one.

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::http::probe;
use crate::process::{Launch, Process};
use crate::tools::{Module, ensure};
use crate::{dirs, kubeconfig, ports};

/// How to start a [`Registry`].
#[derive(Debug, Clone, Default)]
pub struct RegistryOptions {
    /// User and password without which nothing can be read or written.
    pub login: Option<(String, String)>,
}

/// A running registry; its content is gone with it.
#[derive(Debug)]
pub struct Registry {
    launch: Launch,
    port: ports::Port,
    process: Mutex<Option<Process>>,
    dir: tempfile::TempDir,
}

impl Registry {
    /// Starts one and waits until it answers.
    pub fn start(options: &RegistryOptions) -> Result<Self> {
        let program = ensure(&[Module::Registry])?.path("registry")?;
        let dir = dirs::run_dir("registry")?;
        let port = ports::port()?;
        let data = dir.path().join("data");
        fs::create_dir_all(&data)?;
        let mut config = serde_json::json!({
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": data}, "delete": {"enabled": true}},
            "http": {"addr": format!("127.0.0.1:{}", port.number)},
        });
        if let Some((user, password)) = &options.login {
            // The lowest cost: it guards test data for seconds, and each request pays for it.
            let hash = bcrypt::hash(password, 4)?;
            let file = dir.path().join("htpasswd");
            kubeconfig::write_private(&file, &format!("{user}:{hash}\n"))?;
            config["auth"] = serde_json::json!({"htpasswd": {"realm": "bed", "path": file}});
        }
        // JSON is YAML, so no YAML writer is needed.
        let file = dir.path().join("config.yaml");
        fs::write(&file, config.to_string())?;
        let launch = Launch {
            name: "registry".into(),
            program,
            args: vec!["serve".into(), file.display().to_string()],
            env: vec![("OTEL_TRACES_EXPORTER".into(), "none".into())],
            dir: dir.path().to_owned(),
            log: dir.path().join("registry.log"),
        };
        let registry = Self { launch, port, process: Mutex::new(None), dir };
        registry.resume()?;
        Ok(registry)
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.number)
    }

    /// Its log of requests and errors.
    pub fn log(&self) -> PathBuf {
        self.dir.path().join("registry.log")
    }

    /// Its process id, when it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Process::pid)
    }

    /// Ends it: connections are refused. The content stays.
    pub fn stop(&self) {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Starts it again on the same port with the same content.
    pub fn resume(&self) -> Result<()> {
        let mut slot = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_some() {
            return Ok(());
        }
        let mut process = Process::spawn(&self.launch)?;
        let url = format!("http://{}/v2/", self.address());
        let deadline = Instant::now() + Duration::from_secs(15);
        while !matches!(probe(&url), Some(200 | 401)) {
            process.check().context("the registry did not start")?;
            if Instant::now() > deadline {
                bail!("the registry did not answer within 15 s");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        *slot = Some(process);
        Ok(())
    }
}
