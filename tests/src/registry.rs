//! A docker-registry of the test's own.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::lan::Lan;
use crate::process::Process;
use crate::wait::SHORT;

/// A running registry, without TLS.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    credentials: Option<(String, String)>,
    dir: PathBuf,
    process: Option<Process>,
}

impl Registry {
    /// Starts one that everybody may use.
    pub fn open(lan: &Lan) -> Result<Self> {
        Self::start(lan, None)
    }

    /// Starts one that wants `user` and `password`. The hash is bcrypt's of the word `secret`, so that is the password.
    pub fn locked(lan: &Lan) -> Result<Self> {
        Self::start(lan, Some(("user".to_owned(), "secret".to_owned())))
    }

    fn start(lan: &Lan, credentials: Option<(String, String)>) -> Result<Self> {
        let address = SocketAddr::from((lan.host(), lan.free_port()?));
        let dir = lan.dir().join(format!("registry-{}", address.port()));
        fs::create_dir_all(&dir)?;
        let mut text = format!(
            "version: 0.1\nlog: {{level: warn}}\nhttp: {{addr: \"{address}\"}}\n\
             storage: {{filesystem: {{rootdirectory: {dir}/data}}, delete: {{enabled: true}}}}\n",
            dir = dir.display(),
        );
        if credentials.is_some() {
            let file = dir.join("htpasswd");
            fs::write(&file, format!("user:{SECRET}\n"))?;
            let path = file.display().to_string();
            text.extend(["auth: {htpasswd: {realm: test, path: ", &path, "}}\n"]);
        }
        fs::write(dir.join("config.yml"), text)?;
        let mut registry = Self { address, credentials, dir, process: None };
        registry.resume()?;
        Ok(registry)
    }

    /// `host:port`, the first part of a reference.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// User and password, where it wants them.
    pub fn credentials(&self) -> Option<(&str, &str)> {
        self.credentials.as_ref().map(|(user, password)| (user.as_str(), password.as_str()))
    }

    /// Stops it; what was pushed stays.
    pub fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the registry is not running")?;
        process.terminate()?;
        Ok(())
    }

    /// Starts it again at the same address.
    pub fn resume(&mut self) -> Result<()> {
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(self.dir.join("config.yml"));
        let mut process = Process::start("docker-registry", &mut command, &self.dir.join("log"))?;
        process.await_ready(SHORT, || Ok(TcpStream::connect(self.address)?))?;
        self.process = Some(process);
        Ok(())
    }
}

/// bcrypt of `secret`.
const SECRET: &str = "$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a";
