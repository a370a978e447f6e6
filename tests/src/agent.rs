//! The configuration of a board's agent, and the way to its binary.

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::broker::{Access, Broker};
use crate::lan::Lan;
use crate::registry::Registry;

/// The text of `agent.toml`, key by key.
#[derive(Debug, Clone, Default)]
pub struct Settings(BTreeMap<String, BTreeMap<String, String>>);

impl Settings {
    /// What a board of the tests needs: everything in its own directory, its own address pool, no LAN announcements.
    pub(crate) fn of(lan: &Lan) -> Self {
        let (dir, name) = (lan.dir().display(), lan.name());
        let mut settings = Self::default();
        settings.set("device", "id", quoted(&name));
        settings.set("containerd", "address", format!("\"{dir}/c.sock\""));
        settings.set("containerd", "namespace", quoted(&name));
        settings.set("state", "dir", format!("\"{dir}/state\""));
        settings.set("state", "run_dir", format!("\"{dir}/run\""));
        settings.set("network", "pool", format!("\"10.{}.0.0/16\"", 214 + lan.number() % 40));
        settings.set("apps", "dir", format!("\"{dir}/apps.d\""));
        settings.set("images", "preload_dir", format!("\"{dir}/images\""));
        settings.set("mdns", "enabled", "false");
        settings
    }

    /// Sets `section.key` to a value in TOML's words: a text wants its quotes.
    pub fn set(&mut self, section: &str, key: &str, value: impl Into<String>) -> &mut Self {
        self.0.entry(section.to_owned()).or_default().insert(key.to_owned(), value.into());
        self
    }

    /// Names the broker and what is needed to connect to it.
    pub fn broker(&mut self, broker: &Broker) -> &mut Self {
        self.set("mqtt", "url", quoted(&broker.url()));
        match broker.access() {
            Access::Anonymous | Access::Password => (),
            Access::Certificate => {
                let files = broker.certificates();
                self.set("mqtt", "ca", quoted(&files.ca.display().to_string()));
                self.set("mqtt", "cert", quoted(&files.cert.display().to_string()));
                self.set("mqtt", "key", quoted(&files.key.display().to_string()));
            }
        }
        self
    }

    /// Allows plain HTTP to the registry.
    pub fn registry(&mut self, registry: &Registry) -> &mut Self {
        let list = format!("[\"{}\"]", registry.address());
        self.set("images", "insecure_registries", list)
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (section, keys) in &self.0 {
            writeln!(f, "[{section}]")?;
            for (key, value) in keys {
                writeln!(f, "{key} = {value}")?;
            }
        }
        Ok(())
    }
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// The agent under test: `SKERRY_BIN`, or the one beside the program that asks.
pub(crate) fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("SKERRY_BIN") {
        return Ok(path.into());
    }
    let program = env::current_exe()?;
    program
        .ancestors()
        .skip(1)
        .map(|dir| dir.join("skerry"))
        .find(|path| path.is_file())
        .context("the agent is not built: cargo build --package skerry")
}
