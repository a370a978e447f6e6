//! Configuration: `agent.toml`, read once, checked once, then passed by value.
//!
//! Every key has a default, so no file at all is a valid configuration. An unknown key is an error that names the
//! nearest known one, because a setting that is silently not in force is worse than an agent that says so.

mod boot;
mod error;
mod identity;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use serde::Deserialize;

pub use self::boot::BOOT_FILES;
pub use self::error::ConfigError;

/// Where the configuration is looked for when the command line does not say.
pub const DEFAULT_PATH: &str = "/etc/skerry/agent.toml";

/// In a path, systemd's folder of the unit's credentials, as it is written in a unit file.
const CREDENTIALS: &str = "%d/";

/// What the folder is where nobody says: the unit's.
const UNIT_CREDENTIALS: &str = "/run/credentials/skerry.service";

/// What the agent runs with.
#[derive(Debug, Clone, PartialEq, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Who this board is.
    pub device: Device,
    /// The control plane.
    pub mqtt: Mqtt,
    /// The container runtime.
    pub containerd: Containerd,
    /// Where state is kept.
    pub state: State,
    /// Environments on the network.
    pub network: Network,
    /// Where requests come in.
    pub ingress: Ingress,
    /// Documents on the board.
    pub apps: Apps,
    /// The LAN.
    pub mdns: Mdns,
    /// Images and registries.
    pub images: Images,
    /// Storages that an environment document may name.
    pub storage: Storage,
    /// Devices and capabilities that a document may ask for.
    pub devices: Devices,
    /// Container logs.
    pub logs: Logs,
    /// Prometheus metrics.
    pub metrics: Metrics,
    /// Why what the boot partition says is not in force, where it is not.
    #[serde(skip)]
    pub boot_problem: Option<String>,
}

/// `[device]`
#[derive(Debug, Clone, PartialEq, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Device {
    /// `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, 64 at most; where not given the host name, with an end of the board's own where
    /// the name is one that many boards come with.
    pub id: String,
    /// Free words about the board, told to the control plane.
    pub tags: BTreeMap<String, String>,
}

/// `[mqtt]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mqtt {
    /// `mqtt://host:1883` or `mqtts://host:8883`; empty is no control plane.
    pub url: String,
    /// PEM file with the broker's authorities; empty is the system's.
    pub ca: String,
    /// PEM file with the client certificate.
    pub cert: String,
    /// PEM file with the client key.
    pub key: String,
    /// User name.
    pub username: String,
    /// File with the password.
    pub password_file: String,
    /// First part of every topic.
    pub topic_prefix: String,
    /// Seconds.
    pub keep_alive_seconds: u16,
}

impl Default for Mqtt {
    fn default() -> Self {
        Self {
            url: String::new(),
            ca: String::new(),
            cert: String::new(),
            key: String::new(),
            username: String::new(),
            password_file: String::new(),
            topic_prefix: "skerry/v1".to_owned(),
            keep_alive_seconds: 60,
        }
    }
}

/// `[containerd]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Containerd {
    /// Its socket.
    pub address: PathBuf,
    /// Its namespace.
    pub namespace: String,
    /// The snapshotter.
    pub snapshotter: String,
    /// The shim.
    pub runtime: String,
}

impl Default for Containerd {
    fn default() -> Self {
        Self {
            address: "/run/containerd/containerd.sock".into(),
            namespace: "skerry".to_owned(),
            snapshotter: "overlayfs".to_owned(),
            runtime: "io.containerd.runc.v2".to_owned(),
        }
    }
}

/// `[state]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct State {
    /// What survives a reboot.
    pub dir: PathBuf,
    /// What does not.
    pub run_dir: PathBuf,
}

impl Default for State {
    fn default() -> Self {
        Self { dir: "/var/lib/skerry".into(), run_dir: "/run/skerry".into() }
    }
}

/// `[network]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// Each environment takes a `/24` of it.
    pub pool: Ipv4Net,
    /// Services of the board that containers may reach: `tcp/1883`.
    pub allow_host: Vec<HostPort>,
    /// `{environment}` and `{device}` are filled in.
    pub dns_suffix: String,
    /// Name servers for other names; those of resolv.conf where none are given.
    pub upstream_dns: Vec<IpAddr>,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            pool: Ipv4Net::new_assert([10, 213, 0, 0].into(), 16),
            allow_host: Vec::new(),
            dns_suffix: "{environment}.{device}.internal".to_owned(),
            upstream_dns: Vec::new(),
        }
    }
}

/// A service of the board: `tcp/1883`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct HostPort {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// 1 to 65535.
    pub port: u16,
}

/// Of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl TryFrom<String> for HostPort {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a service such as \"tcp/1883\" or \"udp/123\"");
        let (protocol, port) = text.split_once('/').ok_or_else(wrong)?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(wrong()),
        };
        match port.parse() {
            Ok(port) if port != 0 => Ok(Self { protocol, port }),
            Ok(_) | Err(_) => Err(wrong()),
        }
    }
}

/// `[ingress]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ingress {
    /// Plain HTTP.
    pub http: SocketAddr,
    /// HTTPS.
    pub https: SocketAddr,
}

impl Default for Ingress {
    fn default() -> Self {
        Self { http: ([0, 0, 0, 0], 80).into(), https: ([0, 0, 0, 0], 443).into() }
    }
}

/// `[apps]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Apps {
    /// A folder with `*.yaml`.
    pub dir: PathBuf,
}

impl Default for Apps {
    fn default() -> Self {
        Self { dir: "/etc/skerry/apps.d".into() }
    }
}

/// `[mdns]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mdns {
    /// Announce at all.
    pub enabled: bool,
    /// On these interfaces; none is all but bridges of environments.
    pub interfaces: Vec<String>,
}

impl Default for Mdns {
    fn default() -> Self {
        Self { enabled: true, interfaces: Vec::new() }
    }
}

/// `[images]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Images {
    /// Archives to import at start.
    pub preload_dir: PathBuf,
    /// Registries that are spoken to without TLS.
    pub insecure_registries: Vec<String>,
    /// For a registry, others to ask first.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// PEM file with authorities of registries, beside the system's; empty is those alone.
    pub ca: String,
    /// What pulls may take of the uplink, all of them together, in bytes per second; 0 is no bound.
    pub max_bytes_per_second: u64,
    /// Layers of an image that are fetched at a time, 1 to 16.
    pub max_concurrent_layers: usize,
    /// Hours after which an image goes that nobody needs any more; 0 is never.
    pub gc_max_age_hours: u64,
    /// Of the disk, in per cent: from more in use than this on, images go that nobody needs.
    pub gc_high_percent: u8,
    /// Until no more than this is in use.
    pub gc_low_percent: u8,
    /// Whose signature images need, by registry and path; `*` is all.
    pub trust: BTreeMap<String, Trust>,
}

/// An entry of `[images.trust]`
#[derive(Debug, Clone, PartialEq, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Trust {
    /// PEM files with public keys, any of which may have signed.
    pub keys: Vec<PathBuf>,
    /// No signature is needed: an exemption from a shorter entry.
    pub unsigned: bool,
    /// What archives bring under these names.
    pub archives: Archives,
}

/// Whether images of archives, which bear no signature, are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Archives {
    /// They are not.
    #[default]
    Refused,
    /// They are: who can put them on the board may.
    Trusted,
}

impl Default for Images {
    fn default() -> Self {
        Self {
            preload_dir: "/usr/share/skerry/images".into(),
            insecure_registries: Vec::new(),
            mirrors: BTreeMap::new(),
            ca: String::new(),
            max_bytes_per_second: 0,
            max_concurrent_layers: 2,
            gc_max_age_hours: 168,
            gc_high_percent: 85,
            gc_low_percent: 75,
            trust: BTreeMap::new(),
        }
    }
}

/// `[storage]`
#[derive(Debug, Clone, PartialEq, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// Paths and devices.
    pub allow: Vec<String>,
}

/// `[devices]`
#[derive(Debug, Clone, PartialEq, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Devices {
    /// Patterns of device paths.
    pub allow: Vec<String>,
    /// Names of capabilities.
    pub capabilities: Vec<String>,
}

/// `[logs]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Logs {
    /// Bytes of one file before it is rotated.
    pub max_file_bytes: u64,
    /// Files of one container, the current one included.
    pub max_files: u32,
    /// In memory, or on disk.
    pub storage: LogStorage,
}

impl Default for Logs {
    fn default() -> Self {
        Self { max_file_bytes: 1 << 20, max_files: 2, storage: LogStorage::Volatile }
    }
}

/// Where container logs are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogStorage {
    /// `{run_dir}/logs`, gone with a reboot, and the flash is spared.
    Volatile,
    /// `{state.dir}/logs`.
    Persistent,
}

/// `[metrics]`
#[derive(Debug, Clone, PartialEq, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Address to listen on; empty is off.
    pub listen: String,
}

impl Config {
    /// Reads the file at `path`; where it is the default path and missing, every default holds.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && path == Path::new(DEFAULT_PATH) =>
            {
                String::new()
            }
            Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
        };
        let hostname = nix::unistd::gethostname().unwrap_or_default();
        let default_id = identity::default_id(Path::new("/"), &hostname.to_string_lossy());
        let mut config = Self::parse(path, &text, &default_id)?;
        config.find_credentials(&credentials().unwrap_or_else(|| UNIT_CREDENTIALS.into()));
        Ok(config)
    }

    /// Makes a configuration of `text`; `path` serves the error message, `default_id` is who the board is unless the text
    /// says otherwise.
    pub fn parse(path: &Path, text: &str, default_id: &str) -> Result<Self, ConfigError> {
        let mut config: Self =
            toml::from_str(text).map_err(|error| ConfigError::parse(path, text, &error))?;
        if config.device.id.is_empty() {
            default_id.clone_into(&mut config.device.id);
        }
        config.check()?;
        Ok(config)
    }

    /// Puts the folder of credentials where files are named by `%d/`.
    fn find_credentials(&mut self, folder: &Path) {
        let mqtt = &mut self.mqtt;
        let files = [&mut mqtt.ca, &mut mqtt.cert, &mut mqtt.key, &mut mqtt.password_file];
        for file in files.into_iter().chain([&mut self.images.ca]) {
            if let Some(name) = file.strip_prefix(CREDENTIALS) {
                *file = folder.join(name).to_string_lossy().into_owned();
            }
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        if !is_device_id(&self.device.id) {
            return Err(ConfigError::DeviceId(self.device.id.clone()));
        }
        let url = &self.mqtt.url;
        if !url.is_empty() && !url.starts_with("mqtt://") && !url.starts_with("mqtts://") {
            return Err(ConfigError::MqttUrl(url.clone()));
        }
        if self.mqtt.cert.is_empty() != self.mqtt.key.is_empty() {
            return Err(ConfigError::HalfClientCertificate);
        }
        if 24 < self.network.pool.prefix_len() {
            return Err(ConfigError::SmallPool(self.network.pool));
        }
        for path in [&self.state.dir, &self.state.run_dir, &self.containerd.address] {
            if path.is_relative() {
                return Err(ConfigError::RelativePath(path.clone()));
            }
        }
        if !(1..=16).contains(&self.images.max_concurrent_layers) {
            return Err(ConfigError::ConcurrentLayers(self.images.max_concurrent_layers));
        }
        let (low, high) = (self.images.gc_low_percent, self.images.gc_high_percent);
        if !(1 <= low && low < high && high <= 99) {
            return Err(ConfigError::CollectPercents { high, low });
        }
        for (prefix, trust) in &self.images.trust {
            let host = prefix.split('/').next().unwrap_or_default();
            let is_registry = host == "localhost" || host.contains(['.', ':']);
            if prefix != "*" && (!is_registry || prefix.contains("//") || prefix.ends_with('/')) {
                return Err(ConfigError::TrustPrefix(prefix.clone()));
            }
            if trust.keys.is_empty() != trust.unsigned {
                return Err(ConfigError::TrustKeys(prefix.clone()));
            }
            if let Some(key) = trust.keys.iter().find(|key| key.is_relative()) {
                return Err(ConfigError::RelativePath(key.clone()));
            }
        }
        Ok(())
    }

    /// Where container logs are.
    pub fn log_dir(&self) -> PathBuf {
        match self.logs.storage {
            LogStorage::Volatile => self.state.run_dir.join("logs"),
            LogStorage::Persistent => self.state.dir.join("logs"),
        }
    }

    /// What environment documents may name: the folder for volumes always, and what the owner adds.
    pub fn allowed_storages(&self) -> Vec<String> {
        let own = self.state.dir.join("volumes").to_string_lossy().into_owned();
        std::iter::once(own).chain(self.storage.allow.iter().cloned()).collect()
    }

    /// The socket of the local API.
    pub fn socket(&self) -> PathBuf {
        self.state.run_dir.join("agent.sock")
    }

    /// The DNS suffix of an environment, lower case.
    pub fn suffix(&self, environment: &domain::model::EnvironmentName) -> String {
        self.network
            .dns_suffix
            .replace("{environment}", environment.as_str())
            .replace("{device}", &self.device.id)
            .to_lowercase()
    }
}

/// The folder in which systemd gives credentials, where it gives any.
pub fn credentials() -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from)
}

fn is_device_id(id: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=64).contains(&id.len())
        && id.chars().all(inner)
        && !id.starts_with('-')
        && !id.ends_with('-')
}
