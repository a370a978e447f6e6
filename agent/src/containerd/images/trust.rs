//! Who vouches for an image: signatures of cosign by key pairs, checked before anything of the image is fetched.
//!
//! Signatures lie beside their image, under the tag `sha256-<digits>.sig`, or are found among what refers to it (the OCI
//! distribution spec's referrers, or the index under the tag `sha256-<digits>` where a registry does not list them).
//! Either way it is a manifest, whose layers are what `signature` reads. Nobody but the registry is asked, and time plays
//! no role.

use std::collections::BTreeMap;
use std::path::PathBuf;

use domain::model::Digest;
use domain::reason::Reason;
use tracing::info;

use super::manifest::{Descriptor, Document, Documents as _};
use super::name::{ImageName, registry_name};
use super::records::{self, Record, SIGNED_BY};
use super::registry::{Refusal, Registry};
use super::signature::{self, BUNDLE, Key, PAYLOAD, SIGNATURE};
use super::{Images, trouble};
use crate::config::{Archives, Trust};
use crate::runtime::RuntimeError;

/// The artifacts of cosign that hold signatures: its payloads, and its bundles.
const ARTIFACTS: [&str; 2] = ["application/vnd.dev.cosign.artifact.sig.v1+json", BUNDLE];
/// Referrers that are looked at, and signatures in each: more than an image has, and no work without end.
const MAX_REFERRERS: usize = 16;
const MAX_SIGNATURES: usize = 32;
/// Bytes of a payload or a bundle: they have a few hundred, or a few thousand.
const MAX_PAYLOAD: u64 = 64 << 10;

/// The labels of a record whose image was vouched for; none where nobody need vouch.
pub(super) type Vouched = BTreeMap<String, String>;

impl Images {
    /// Whether what lies here may be used as it is: nobody need vouch for it, or somebody did whose key still counts.
    pub(super) async fn check_local(
        &self,
        name: &ImageName,
        local: &Record,
    ) -> Result<(), RuntimeError> {
        let Some(rule) = rule(&self.config.trust, name) else { return Ok(()) };
        if local.is_imported() && rule.archives == Archives::Trusted {
            return Ok(());
        }
        let (keys, unreadable) = read(&rule.keys).await;
        if vouched_before(local, &keys) {
            return Ok(());
        }
        let digest = local.target.digest;
        Err(untrusted(
            name,
            &format!(
                "the local copy {digest} is not known to be signed by a configured key{unreadable}"
            ),
        ))
    }

    /// Whether an archive may bring an image of this name.
    pub(super) fn check_archive(&self, name: &ImageName) -> Result<(), RuntimeError> {
        match rule(&self.config.trust, name).map(|rule| rule.archives) {
            None | Some(Archives::Trusted) => Ok(()),
            Some(Archives::Refused) => Err(untrusted(
                name,
                "archives are not trusted for this name (archives in [images.trust])",
            )),
        }
    }

    /// Makes sure that somebody vouches for what a registry has under this digest.
    pub(super) async fn vouch(
        &self,
        name: &ImageName,
        registry: &mut Registry,
        digest: Digest,
        local: Option<&Record>,
    ) -> Result<Vouched, RuntimeError> {
        let Some(rule) = rule(&self.config.trust, name) else { return Ok(Vouched::new()) };
        let (keys, unreadable) = read(&rule.keys).await;
        if let Some(local) = local.filter(|local| local.target.digest == digest)
            && vouched_before(local, &keys)
        {
            return Ok(label(local));
        }
        match search(registry, digest, &keys).await? {
            Ok(fingerprint) => {
                info!(image = %name, %digest, key = %fingerprint, "the signature is good");
                Ok(Vouched::from([(SIGNED_BY.to_owned(), signed_by(fingerprint, digest))]))
            }
            Err(why) => Err(untrusted(name, &format!("{digest} {why}{unreadable}"))),
        }
    }

    /// Notes on the records of an image that is here that somebody vouches for it.
    pub(super) async fn note(
        &self,
        name: &ImageName,
        local: &Record,
        vouched: Vouched,
    ) -> Result<(), RuntimeError> {
        if vouched.is_empty() {
            return Ok(());
        }
        let digest = local.target.digest;
        for name in [name.pinned(digest).to_string(), local.name.clone()] {
            let Some(mut record) = records::get(&self.connection, name).await? else { continue };
            let known = vouched.iter().all(|(key, value)| record.labels.get(key) == Some(value));
            if record.target.digest == digest && !known {
                record.labels.extend(vouched.clone());
                records::put(&self.connection, record).await?;
            }
        }
        Ok(())
    }
}

/// The rule for a name, the longest that fits; none where anything goes.
fn rule<'a>(trust: &'a BTreeMap<String, Trust>, name: &ImageName) -> Option<&'a Trust> {
    let full = name.to_reference();
    let full = format!("{}/{}", full.registry(), full.repository());
    let fits = |prefix: &str| {
        let (host, path) = prefix.split_once('/').unwrap_or((prefix, ""));
        let prefix = format!("{}/{path}", registry_name(host));
        let rest = full.strip_prefix(prefix.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let found = trust
        .iter()
        .filter(|(prefix, _)| *prefix == "*" || fits(prefix))
        .max_by_key(|(prefix, _)| if *prefix == "*" { 0 } else { prefix.split('/').count() });
    found.map(|(_, rule)| rule).filter(|rule| !rule.unsigned)
}

fn untrusted(name: &ImageName, why: &str) -> RuntimeError {
    trouble(Reason::ImageUntrusted, format!("{name}: {why}"))
}

fn signed_by(fingerprint: Digest, digest: Digest) -> String {
    format!("{fingerprint} {digest}")
}

fn vouched_before(local: &Record, keys: &[Key]) -> bool {
    let label = local.labels.get(SIGNED_BY);
    let digest = local.target.digest;
    keys.iter().any(|key| label == Some(&signed_by(key.fingerprint, digest)))
}

fn label(local: &Record) -> Vouched {
    local.labels.get_key_value(SIGNED_BY).map(|(k, v)| (k.clone(), v.clone())).into_iter().collect()
}

/// Looks for a signature by one of the keys: beside the image by its tag, then among what refers to it. The inner error
/// says what was found instead.
async fn search(
    registry: &mut Registry,
    digest: Digest,
    keys: &[Key],
) -> Result<Result<Digest, String>, RuntimeError> {
    let mut told = "has no signature".to_owned();
    let beside = match registry.tagged(format!("sha256-{}.sig", digest.hex())).await {
        Ok(bytes) => Some(bytes),
        Err(Refusal::NotFound(_)) => None,
        Err(
            refusal @ (Refusal::Unreachable(_) | Refusal::Unauthorized(_) | Refusal::Corrupt(_)),
        ) => return Err(refusal.into_error()),
    };
    if let Some(bytes) = beside {
        match try_offers(registry, &bytes, digest, keys).await? {
            Ok(fingerprint) => return Ok(Ok(fingerprint)),
            Err(why) => told = why.unwrap_or(told),
        }
    }
    let referrers = registry.referrers(&digest, &ARTIFACTS).await.map_err(Refusal::into_error)?;
    for referrer in referrers.into_iter().take(MAX_REFERRERS) {
        let bytes = registry.document(&Descriptor::plain("", referrer, 0)).await?;
        if Digest::of(&bytes) != referrer {
            continue;
        }
        match try_offers(registry, &bytes, digest, keys).await? {
            Ok(fingerprint) => return Ok(Ok(fingerprint)),
            Err(why) => told = why.unwrap_or(told),
        }
    }
    Ok(Err(told))
}

/// Whether one of a manifest's layers is a good signature. The inner error says what the last of them is instead.
async fn try_offers(
    registry: &mut Registry,
    manifest: &[u8],
    digest: Digest,
    keys: &[Key],
) -> Result<Result<Digest, Option<String>>, RuntimeError> {
    let layers = match Document::parse(manifest) {
        Ok(Document::Manifest(manifest)) => manifest.layers,
        Ok(Document::Index(..)) => {
            return Ok(Err(Some("has an index in place of signatures".to_owned())));
        }
        Err(why) => return Ok(Err(Some(format!("has a manifest of signatures that {why}")))),
    };
    let mut told = None;
    for layer in layers.iter().take(MAX_SIGNATURES) {
        let verdict = match (layer.media_type.as_str(), layer.annotation(SIGNATURE)) {
            (PAYLOAD, Some(signature)) => {
                signature::simple(keys, &payload(registry, layer).await?, signature, digest)
            }
            (BUNDLE, _) => signature::bundle(keys, &payload(registry, layer).await?, digest),
            (_, _) => continue,
        };
        match verdict {
            Ok(fingerprint) => return Ok(Ok(fingerprint)),
            Err(why) => told = Some(why),
        }
    }
    Ok(Err(told))
}

/// The bytes of a payload; empty, which nobody signs, where they are not what the descriptor says.
async fn payload(registry: &mut Registry, which: &Descriptor) -> Result<Vec<u8>, RuntimeError> {
    if MAX_PAYLOAD < which.size {
        return Ok(Vec::new());
    }
    let bytes = registry.document(which).await?;
    Ok(if Digest::of(&bytes) == which.digest { bytes } else { Vec::new() })
}

/// The keys, read anew each time so that they can be changed while the agent runs; and words about those that cannot be
/// read.
async fn read(paths: &[PathBuf]) -> (Vec<Key>, String) {
    let (mut keys, mut unreadable) = (Vec::new(), String::new());
    for path in paths {
        let why = match tokio::fs::read_to_string(path).await {
            Ok(text) => match Key::parse(&text) {
                Some(key) => {
                    keys.push(key);
                    continue;
                }
                None => "is no PEM public key of ECDSA P-256 or Ed25519".to_owned(),
            },
            Err(error) => format!("cannot be read: {error}"),
        };
        unreadable.extend(["; the key ", &path.display().to_string(), " ", &why]);
    }
    (keys, unreadable)
}
