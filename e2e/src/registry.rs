//! A real OCI registry on loopback: over plain HTTP, or with certificates and a password when a test wants them.

use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::certificates::Pem;
use crate::http::probe;
use crate::process::{Launch, Process};
use crate::tools::{Module, ensure};
use crate::{dirs, kubeconfig, ports};

/// How to start a [`Registry`].
#[derive(Debug, Clone, Default)]
pub struct RegistryOptions {
    /// User and password without which nothing can be read or written.
    pub login: Option<(String, String)>,
    /// Certificate without which it speaks plain HTTP.
    pub tls: Option<Tls>,
}

/// What a registry speaks TLS with, all in PEM.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Certificate and private key.
    pub identity: Pem,
    /// CA of the client certificates without which nobody may connect.
    pub client_ca: Option<String>,
}

/// A running registry; its content is gone with it.
#[derive(Debug)]
pub struct Registry {
    launch: Launch,
    port: ports::Port,
    has_tls: bool,
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
        if let Some(tls) = &options.tls {
            let file = |name: &str, content: &str| {
                let file = dir.path().join(name);
                kubeconfig::write_private(&file, content).map(|()| file)
            };
            config["http"]["tls"] = serde_json::json!({
                "certificate": file("tls.crt", &tls.identity.certificate)?,
                "key": file("tls.key", &tls.identity.key)?,
            });
            if let Some(ca) = &tls.client_ca {
                config["http"]["tls"]["clientcas"] = serde_json::json!([file("client-ca.crt", ca)?]);
            }
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
        let has_tls = options.tls.is_some();
        let registry = Self { launch, port, has_tls, process: Mutex::new(None), dir };
        registry.resume()?;
        Ok(registry)
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.number)
    }

    /// The file that holds a blob, for tests that damage it.
    pub fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        let folder = hex.get(..2).unwrap_or_default();
        self.dir.path().join("data/docker/registry/v2/blobs/sha256").join(folder).join(hex).join("data")
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
        let answers = || {
            if self.has_tls {
                // Whom it answers is what tests with certificates are about.
                return TcpStream::connect(self.address()).is_ok();
            }
            matches!(probe(&url), Some(200 | 401))
        };
        let deadline = Instant::now() + Duration::from_secs(15);
        while !answers() {
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
