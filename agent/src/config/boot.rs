//! `skerry.toml` on the boot partition: who a board is and which broker it has, written where any laptop can write.
//!
//! ```text
//!   /boot/firmware/skerry.toml ─┐  checked as a whole, then kept;     {state.dir}/boot
//!   /boot/firmware/client.key  ─┴─ certificates, key and password ──▶   0600, in force until
//!                                  leave the partition                  another skerry.toml comes
//! ```
//!
//! Whoever holds the card reads that partition, and it may not be mounted one day: so what was taken is kept with the
//! state. It goes before `agent.toml`, for that is the same on many boards. Whatever is wrong with it, the agent runs: with
//! what was taken before, or with `agent.toml` alone, and says so.

#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tracing::{info, warn};

use super::{Config, ConfigError, Device};
use crate::broker::Broker;
use crate::report::Chain;

/// Where the boot partition is: on Debian 12 and later, and before. The first file that is there counts.
pub const BOOT_FILES: [&str; 2] = ["/boot/firmware/skerry.toml", "/boot/skerry.toml"];

/// The file as it is kept.
const KEPT_NAME: &str = "skerry.toml";

/// A chain of certificates takes a few kilobytes.
const LARGEST_FILE: u64 = 64 << 10;

/// The file.
#[derive(Debug, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct BootFile {
    device: Device,
    mqtt: BootBroker,
}

/// `[mqtt]`, where files are named as they lie beside `skerry.toml`.
#[derive(Debug, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct BootBroker {
    url: String,
    ca: String,
    cert: String,
    key: String,
    username: String,
    password_file: String,
}

/// Why the file is not in force.
#[derive(Debug, thiserror::Error)]
enum BootError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not usable", path.display())]
    Config {
        path: PathBuf,
        #[source]
        source: ConfigError,
    },
    #[error("mqtt.{key} {name:?} is not the name of a file beside skerry.toml")]
    Name { key: &'static str, name: String },
    #[error("mqtt.{key} names {}, which is not there", path.display())]
    Missing { key: &'static str, path: PathBuf },
    #[error("mqtt.{key} names {}, which holds no PEM block", path.display())]
    NotPem { key: &'static str, path: PathBuf },
    #[error("{} is larger than {LARGEST_FILE} bytes", path.display())]
    TooLarge { path: PathBuf },
    #[error("cannot keep {}", path.display())]
    Keep {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// A file on its way from the boot partition.
struct Incoming {
    from: PathBuf,
    to: PathBuf,
    bytes: Vec<u8>,
}

impl Config {
    /// Takes the first of `places` that is there, and adds what it says; where it cannot be used, what was taken before.
    /// `boot_problem` tells why.
    pub fn take_boot_file(&mut self, places: &[impl AsRef<Path>]) {
        let found = places.iter().find_map(|place| match read(place.as_ref()) {
            Ok(None) => None,
            Ok(Some(bytes)) => Some(self.taken(place.as_ref(), &bytes)),
            Err(error) => Some(Err(error)),
        });
        match found {
            Some(Ok(config)) => *self = config,
            Some(Err(error)) => {
                self.use_kept_boot_file();
                self.boot_problem = Some(Chain(&error).to_string());
            }
            None => self.use_kept_boot_file(),
        }
    }

    /// Adds what was taken before, and looks no further: for those who only want to know.
    pub fn use_kept_boot_file(&mut self) {
        let kept = self.state.dir.join("boot");
        let path = kept.join(KEPT_NAME);
        let config = read(&path).and_then(|bytes| match bytes {
            Some(bytes) => BootFile::parse(&path, &bytes)?.over(self, &path, &kept),
            None => Ok(self.clone()),
        });
        match config {
            Ok(config) => *self = config,
            Err(error) => self.boot_problem = Some(Chain(&error).to_string()),
        }
    }

    /// The configuration with the boot file at `place`, once all of it is found good and kept.
    fn taken(&self, place: &Path, bytes: &[u8]) -> Result<Self, BootError> {
        let file = BootFile::parse(place, bytes)?;
        let kept = self.state.dir.join("boot");
        let incoming = file.incoming(place, &kept)?;
        let config = file.over(self, place, &kept)?;
        file.keep(&kept, bytes, &incoming)?;
        // Only now is there a second copy of them that lasts.
        for Incoming { from, .. } in &incoming {
            if let Err(error) = fs::remove_file(from) {
                let (path, error) = (from.display(), Chain(&error).to_string());
                warn!(%path, error, "taken, and still on the boot partition: remove it");
            }
        }
        if let Some(first) = incoming.first() {
            info!(files = incoming.len(), "moved from the boot partition to the state");
            let _ = sync_folder_of(&first.from);
        }
        Ok(config)
    }
}

impl BootFile {
    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, BootError> {
        let text = String::from_utf8_lossy(bytes);
        // An editor of another system may have put a mark at its beginning.
        let text = text.trim_start_matches('\u{feff}');
        toml::from_str(text).map_err(|error| BootError::Config {
            path: path.to_owned(),
            source: ConfigError::parse(path, text, &error),
        })
    }

    /// Key, name on the boot partition, and name where it is kept, of each file that is named.
    fn files(&self) -> impl Iterator<Item = (&'static str, &str, &'static str)> {
        let BootBroker { ca, cert, key, password_file, .. } = &self.mqtt;
        [
            ("ca", ca.as_str(), "ca.pem"),
            ("cert", cert.as_str(), "client.pem"),
            ("key", key.as_str(), "client.key"),
            ("password_file", password_file.as_str(), "password"),
        ]
        .into_iter()
        .filter(|(_, name, _)| !name.is_empty())
    }

    /// The named files that lie beside the one at `place`. What is not there must have been kept before.
    fn incoming(&self, place: &Path, kept: &Path) -> Result<Vec<Incoming>, BootError> {
        let mut found = Vec::new();
        for (key, name, kept_name) in self.files() {
            let plain = !name.contains(['/', '\\']) && ![".", ".."].contains(&name);
            if !plain {
                return Err(BootError::Name { key, name: name.to_owned() });
            }
            let (from, to) = (place.with_file_name(name), kept.join(kept_name));
            match read(&from)? {
                Some(bytes) => {
                    if key != "password_file" && !holds_pem(&bytes) {
                        return Err(BootError::NotPem { key, path: from });
                    }
                    found.push(Incoming { from, to, bytes });
                }
                None if to.exists() => (),
                None => return Err(BootError::Missing { key, path: from }),
            }
        }
        Ok(found)
    }

    /// `config` with what the file says.
    fn over(&self, config: &Config, path: &Path, kept: &Path) -> Result<Config, BootError> {
        let mut config = config.clone();
        if !self.device.id.is_empty() {
            config.device.id.clone_from(&self.device.id);
        }
        config.device.tags.extend(self.device.tags.clone());
        let mqtt = &mut config.mqtt;
        // What is shown to one broker is not shown to another.
        if !self.mqtt.url.is_empty() {
            mqtt.url.clone_from(&self.mqtt.url);
            for secret in [
                &mut mqtt.ca,
                &mut mqtt.cert,
                &mut mqtt.key,
                &mut mqtt.username,
                &mut mqtt.password_file,
            ] {
                secret.clear();
            }
        }
        if !self.mqtt.username.is_empty() {
            mqtt.username.clone_from(&self.mqtt.username);
        }
        for (key, _, kept_name) in self.files() {
            let value = match key {
                "ca" => &mut mqtt.ca,
                "cert" => &mut mqtt.cert,
                "key" => &mut mqtt.key,
                _ => &mut mqtt.password_file,
            };
            *value = kept.join(kept_name).to_string_lossy().into_owned();
        }
        let url = &config.mqtt.url;
        let checked = if url.is_empty() || Broker::parse(url).is_some() {
            config.check()
        } else {
            Err(ConfigError::MqttUrl(url.clone()))
        };
        checked.map_err(|source| BootError::Config { path: path.to_owned(), source })?;
        Ok(config)
    }

    /// Puts the file and those that it names where they last. Nothing is written that is there already.
    fn keep(&self, kept: &Path, bytes: &[u8], incoming: &[Incoming]) -> Result<(), BootError> {
        let keep = |path: &Path, bytes: &[u8]| {
            if fs::read(path).is_ok_and(|there| there == bytes) {
                return Ok(());
            }
            write_lasting(path, bytes)
                .map_err(|source| BootError::Keep { path: path.to_owned(), source })
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(kept)
            .map_err(|source| BootError::Keep { path: kept.to_owned(), source })?;
        for file in incoming {
            keep(&file.to, &file.bytes)?;
        }
        keep(&kept.join(KEPT_NAME), bytes)?;
        // What the board was before is nothing that it should have about it.
        for name in ["ca.pem", "client.pem", "client.key", "password"] {
            if self.files().all(|(_, _, kept_name)| kept_name != name) {
                let _ = fs::remove_file(kept.join(name));
            }
        }
        Ok(())
    }
}

/// A file's bytes; none where there is no such file.
fn read(path: &Path) -> Result<Option<Vec<u8>>, BootError> {
    let failed = |source| BootError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if usize::try_from(LARGEST_FILE).is_ok_and(|largest| largest < bytes.len()) {
        return Err(BootError::TooLarge { path: path.to_owned() });
    }
    Ok(Some(bytes))
}

fn holds_pem(bytes: &[u8]) -> bool {
    String::from_utf8_lossy(bytes).contains("-----BEGIN ")
}

/// Writes a file for this user alone, so that a power cut leaves the old one or the new one.
fn write_lasting(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync_folder_of(path)
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}
