//! Who vouches for an image: signatures of cosign by key pairs, checked before anything of the image is fetched.
//!
//! A signature lies beside its image, under the tag `sha256-<digits>.sig`: a manifest, each layer of which is a payload
//! that names the digest of the image, with its signature as an annotation. Nobody else is asked, and time plays no
//! role. The name inside the payload is not looked at, as with cosign: the digest decides, so that a mirror serves too.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::model::Digest;
use domain::reason::Reason;
use ring::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm};
use serde::Deserialize;
use tracing::info;

use super::manifest::{Descriptor, Document, Documents as _};
use super::name::{ImageName, registry_name};
use super::records::{self, Record, SIGNED_BY};
use super::registry::{Refusal, Registry};
use super::{Images, trouble};
use crate::config::{Archives, Trust};
use crate::runtime::RuntimeError;

/// What cosign calls its payloads.
const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The annotation with the signature, as base64.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// What a payload says it is.
const KIND: &str = "cosign container image signature";
/// Signatures of one image that are looked at: more than an image has, and no work without end.
const MAX_SIGNATURES: usize = 32;
/// Bytes of a payload: they have a few hundred.
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

/// Looks for a signature by one of the keys. The inner error says what was found instead.
async fn search(
    registry: &mut Registry,
    digest: Digest,
    keys: &[Key],
) -> Result<Result<Digest, String>, RuntimeError> {
    let bytes = match registry.tagged(format!("sha256-{}.sig", digest.hex())).await {
        Ok(bytes) => bytes,
        Err(Refusal::NotFound(_)) => return Ok(Err("has no signature".to_owned())),
        Err(
            refusal @ (Refusal::Unreachable(_) | Refusal::Unauthorized(_) | Refusal::Corrupt(_)),
        ) => return Err(refusal.into_error()),
    };
    let layers = match Document::parse(&bytes) {
        Ok(Document::Manifest(manifest)) => manifest.layers,
        Ok(Document::Index(..)) => {
            return Ok(Err("has an index in place of signatures".to_owned()));
        }
        Err(why) => return Ok(Err(format!("has a manifest of signatures that {why}"))),
    };
    let offers = layers.iter().filter(|layer| layer.media_type == PAYLOAD).take(MAX_SIGNATURES);
    let mut best = "has no signature".to_owned();
    for offer in offers {
        "is signed by none of the configured keys".clone_into(&mut best);
        let Some(signature) = offer.annotation(SIGNATURE) else { continue };
        let Ok(signature) = STANDARD.decode(signature.trim()) else { continue };
        let payload = payload(registry, offer).await?;
        let Some(key) = keys.iter().find(|key| key.made(&payload, &signature)) else { continue };
        match signed(&payload) {
            Ok(of) if of == digest.to_string() => return Ok(Ok(key.fingerprint)),
            Ok(of) => return Ok(Err(format!("has a signature that is for another image, {of}"))),
            Err(why) => return Ok(Err(format!("has a signed payload that is {why}"))),
        }
    }
    Ok(Err(best))
}

/// The bytes of a payload; empty, which nobody signs, where they are not what the descriptor says.
async fn payload(registry: &mut Registry, which: &Descriptor) -> Result<Vec<u8>, RuntimeError> {
    if MAX_PAYLOAD < which.size {
        return Ok(Vec::new());
    }
    let bytes = registry.document(which).await?;
    Ok(if Digest::of(&bytes) == which.digest { bytes } else { Vec::new() })
}

/// The digest that a payload is about.
fn signed(payload: &[u8]) -> Result<String, String> {
    #[derive(Deserialize)]
    struct Payload {
        critical: Critical,
    }
    #[derive(Deserialize)]
    struct Critical {
        image: Image,
        #[serde(rename = "type")]
        kind: String,
    }
    #[derive(Deserialize)]
    struct Image {
        #[serde(rename = "docker-manifest-digest")]
        digest: String,
    }
    let found: Payload =
        serde_json::from_slice(payload).map_err(|error| format!("no simple signing: {error}"))?;
    if found.critical.kind != KIND {
        return Err(format!("of another type, {:?}", found.critical.kind));
    }
    Ok(found.critical.image.digest)
}

/// A public key that may vouch.
struct Key {
    algorithm: &'static dyn VerificationAlgorithm,
    bytes: Vec<u8>,
    /// Of its encoding, as others print it too.
    fingerprint: Digest,
}

/// What comes before the key itself in its encoding: an algorithm, and that the rest is the key.
const P256_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const ED25519_HEAD: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

impl Key {
    /// Reads the first public key of a PEM text.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once("-----BEGIN PUBLIC KEY-----")?;
        let (body, _) = rest.split_once("-----END PUBLIC KEY-----")?;
        let body: String = body.chars().filter(|c| !c.is_whitespace()).collect();
        let der = STANDARD.decode(body).ok()?;
        let fingerprint = Digest::of(&der);
        let (algorithm, bytes): (&'static dyn VerificationAlgorithm, _) =
            match (der.strip_prefix(&P256_HEAD), der.strip_prefix(&ED25519_HEAD)) {
                (Some(bytes), _) if bytes.len() == 65 => (&ECDSA_P256_SHA256_ASN1, bytes),
                (_, Some(bytes)) if bytes.len() == 32 => (&ED25519, bytes),
                (_, _) => return None,
            };
        Some(Self { algorithm, bytes: bytes.to_vec(), fingerprint })
    }

    fn made(&self, signature_of: &[u8], signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(self.algorithm, &self.bytes);
        !signature_of.is_empty() && key.verify(signature_of, signature).is_ok()
    }
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
