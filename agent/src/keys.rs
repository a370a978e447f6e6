//! The device's two keys, made once and never told: one that the store seals its records with, one that opens what was
//! sealed for this device alone.
//!
//! ```text
//!   state.dir/key          32 bytes, 0600   or the credential  skerry.key
//!   state.dir/device.key   32 bytes, 0600   or the credential  skerry.device.key
//! ```
//!
//! A sealed value is a sealed box of libsodium (X25519, `XSalsa20`, `Poly1305`, `BLAKE2b`), as base64 behind `sealed:`, so that
//! any of its bindings can make one of the public key alone.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crypto_box::aead::OsRng;
use crypto_box::{PublicKey, SecretKey};
use domain::replica::Secret;
use domain::secrets::SEALED;
use ring::rand::{SecureRandom as _, SystemRandom};
use tracing::warn;

/// Of either key.
const KEY_BYTES: usize = 32;

/// A file that should hold a key is not read beyond this.
const LONGEST_FILE: usize = 1024;

/// The keys.
#[derive(Debug)]
pub struct Keys {
    /// What records are sealed with comes first; those behind it open what was sealed before.
    pub records: Vec<RecordKey>,
    /// What opens values that were sealed for this device.
    pub device: DeviceKey,
}

/// A key of the store.
#[derive(Clone, PartialEq, Eq)]
pub struct RecordKey(pub [u8; KEY_BYTES]);

impl fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file that is there cannot be read.
    #[error("cannot read the key {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A new key cannot be written.
    #[error("cannot write the key {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What was given as a key is none.
    #[error("{} is no key: it must hold 32 bytes, or their base64", .0.display())]
    NoKey(PathBuf),
}

impl Keys {
    /// The keys in `dir`, made where there are none; those among `credentials`, systemd's folder of them, go before.
    pub fn load(dir: &Path, credentials: Option<&Path>) -> Result<Self, KeyError> {
        let given = |name: &str| {
            let path = credentials.map(|folder| folder.join(name));
            path.map(|path| required(&path)).transpose().map(Option::flatten)
        };
        let own = dir.join("key");
        let records = match given("skerry.key")? {
            // What was sealed before the credential came still opens.
            Some(key) => [Some(key), read(&own)?.key()].into_iter().flatten().collect(),
            None => vec![kept(&own)?],
        };
        let device = match given("skerry.device.key")? {
            Some(key) => key,
            None => kept(&dir.join("device.key"))?,
        };
        let records = records.into_iter().map(RecordKey).collect();
        Ok(Self { records, device: DeviceKey(SecretKey::from(device)) })
    }
}

/// What a file holds.
enum Found {
    Key([u8; KEY_BYTES]),
    Nothing,
    Garbage,
}

impl Found {
    fn key(self) -> Option<[u8; KEY_BYTES]> {
        match self {
            Self::Key(key) => Some(key),
            Self::Nothing | Self::Garbage => None,
        }
    }
}

fn read(path: &Path) -> Result<Found, KeyError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(source) => return Err(KeyError::Read { path: path.to_owned(), source }),
    };
    if let Ok(key) = bytes.as_slice().try_into() {
        return Ok(Found::Key(key));
    }
    let text = bytes.get(..LONGEST_FILE.min(bytes.len())).unwrap_or_default().trim_ascii();
    let decoded = STANDARD.decode(text).ok();
    Ok(decoded.and_then(|key| key.try_into().ok()).map_or(Found::Garbage, Found::Key))
}

/// A credential is given or not; one that is no key is a mistake that another key must not hide.
fn required(path: &Path) -> Result<Option<[u8; KEY_BYTES]>, KeyError> {
    match read(path)? {
        Found::Key(key) => Ok(Some(key)),
        Found::Nothing => Ok(None),
        Found::Garbage => Err(KeyError::NoKey(path.to_owned())),
    }
}

/// A key of the agent's own, durable before anything is sealed with it.
fn kept(path: &Path) -> Result<[u8; KEY_BYTES], KeyError> {
    match read(path)? {
        Found::Key(key) => return Ok(key),
        Found::Nothing => (),
        Found::Garbage => {
            warn!(path = %path.display(), "the key is damaged; it is moved aside and a new one is made");
            let aside = fs::rename(path, aside(path));
            aside.map_err(|source| KeyError::Write { path: path.to_owned(), source })?;
        }
    }
    make(path).map_err(|source| KeyError::Write { path: path.to_owned(), source })
}

/// A name that is still free: an earlier damaged key may be one whose bytes can be mended.
fn aside(path: &Path) -> PathBuf {
    let with = |end: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    // A board that damages more than these keys has no use for one more.
    let mut free = (1..100).map(|n| with(&format!(".damaged.{n}")));
    free.find(|path| !path.exists()).unwrap_or_else(|| with(".damaged"))
}

fn make(path: &Path) -> io::Result<[u8; KEY_BYTES]> {
    let mut key = [0; KEY_BYTES];
    SystemRandom::new().fill(&mut key).map_err(|_| io::Error::other("no random bytes"))?;
    let next = path.with_extension("next");
    // One that was left half written would keep its mode.
    match fs::remove_file(&next) {
        Ok(()) => (),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (),
        Err(error) => return Err(error),
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next)?;
    file.write_all(&key)?;
    file.sync_all()?;
    fs::rename(&next, path)?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())?;
    Ok(key)
}

/// The key that opens what was sealed for this device.
pub struct DeviceKey(SecretKey);

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DeviceKey").field(&self.public()).finish()
    }
}

impl DeviceKey {
    /// Its public half, as base64: what anybody may know, and a value is sealed with.
    pub fn public(&self) -> String {
        STANDARD.encode(self.0.public_key().as_bytes())
    }

    /// Opens what follows `sealed:`. The error says why it does not open, and nothing of what was given.
    pub fn open(&self, sealed: &str) -> Result<Secret, String> {
        let sealed = STANDARD.decode(sealed.trim()).map_err(|_| "it is not base64".to_owned())?;
        let opened = self.0.unseal(&sealed);
        let opened =
            opened.map_err(|_| "it was sealed for another key, or is damaged".to_owned())?;
        String::from_utf8(opened).map(Secret).map_err(|_| "what is sealed is not UTF-8".to_owned())
    }
}

/// A value that only the device with this public key can open; none where the text is no such key.
pub fn seal(public: &str, value: &Secret) -> Option<String> {
    let key: [u8; KEY_BYTES] = STANDARD.decode(public.trim()).ok()?.try_into().ok()?;
    let sealed = PublicKey::from(key).seal(&mut OsRng, value.0.as_bytes()).ok()?;
    Some(format!("{SEALED}{}", STANDARD.encode(sealed)))
}

#[cfg(test)]
mod tests;
