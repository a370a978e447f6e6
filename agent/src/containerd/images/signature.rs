//! Signatures that cosign makes with a key pair: what was signed, by which key, and of which image.
//!
//! There are two forms. The older one is a payload that names the digest of the image, with its signature as an
//! annotation. The newer one is a bundle: an envelope (DSSE) around a statement (in-toto) about the digest. The names in
//! them are not looked at, as with cosign: the digest decides, so that a mirror serves too.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::model::Digest;
use ring::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// What cosign calls its payloads.
pub(super) const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The annotation with the signature of a payload, as base64.
pub(super) const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// What cosign calls its bundles.
pub(super) const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

/// What a payload says it is.
const KIND: &str = "cosign container image signature";
/// What a statement says it is, where it vouches for an image. Others (how it was built, what is in it) are statements
/// too and vouch for nothing.
const PREDICATE: &str = "https://sigstore.dev/cosign/sign/v1";
/// What the envelope of a statement says is in it.
const STATEMENT: &str = "application/vnd.in-toto+json";

const NOT_OURS: &str = "is signed by none of the configured keys";

/// The fingerprint of the key that signed this payload, which is about this image; else what is wrong.
pub(super) fn simple(
    keys: &[Key],
    payload: &[u8],
    signature: &str,
    digest: Digest,
) -> Result<Digest, String> {
    let signature = STANDARD.decode(signature.trim()).map_err(|_| NOT_OURS.to_owned())?;
    let key = keys.iter().find(|key| key.made(payload, &signature)).ok_or(NOT_OURS)?;
    let found: Payload = read(payload)?;
    if found.critical.kind != KIND {
        return Err(format!(
            "has a signed payload that is of another type, {:?}",
            found.critical.kind
        ));
    }
    about(&found.critical.image.digest, digest)?;
    Ok(key.fingerprint)
}

/// The fingerprint of the key that signed this bundle, which is about this image; else what is wrong.
pub(super) fn bundle(keys: &[Key], bundle: &[u8], digest: Digest) -> Result<Digest, String> {
    let Bundle { dsse_envelope: envelope } = read(bundle)?;
    let statement = STANDARD.decode(&envelope.payload).map_err(|_| NOT_OURS.to_owned())?;
    let signed = enveloped(&envelope.payload_type, &statement);
    let signatures = envelope.signatures.iter().filter_map(|one| STANDARD.decode(&one.sig).ok());
    let key = signatures
        .take(MAX_SIGNATURES)
        .find_map(|signature| keys.iter().find(|key| key.made(&signed, &signature)))
        .ok_or(NOT_OURS)?;
    if envelope.payload_type != STATEMENT {
        return Err(format!("has a signed bundle of another type, {:?}", envelope.payload_type));
    }
    let statement: Statement = read(&statement)?;
    if statement.predicate_type != PREDICATE {
        return Err(format!(
            "has a signed statement of another type, {:?}",
            statement.predicate_type
        ));
    }
    let subjects = statement.subject.iter().map(|one| format!("sha256:{}", one.digest.sha256));
    let mut other = None;
    for subject in subjects {
        match about(&subject, digest) {
            Ok(()) => return Ok(key.fingerprint),
            Err(why) => other = Some(why),
        }
    }
    Err(other.unwrap_or_else(|| "has a signed statement about nothing".to_owned()))
}

/// Signatures of one envelope that are looked at.
const MAX_SIGNATURES: usize = 8;

/// What is signed of an envelope: its type and its payload with their lengths (DSSE, protocol 1).
fn enveloped(kind: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

fn about(found: &str, digest: Digest) -> Result<(), String> {
    if found == digest.to_string() {
        return Ok(());
    }
    Err(format!("has a signature that is for another image, {found}"))
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes)
        .map_err(|error| format!("has a signature that cannot be read: {error}"))
}

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

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    dsse_envelope: Envelope,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Deserialize)]
struct EnvelopeSignature {
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    #[serde(default)]
    subject: Vec<Subject>,
    predicate_type: String,
}

#[derive(Deserialize)]
struct Subject {
    digest: SubjectDigest,
}

#[derive(Deserialize)]
struct SubjectDigest {
    #[serde(default)]
    sha256: String,
}

/// A public key that may vouch.
pub(super) struct Key {
    algorithm: &'static dyn VerificationAlgorithm,
    bytes: Vec<u8>,
    /// Of its encoding, as others print it too.
    pub(super) fingerprint: Digest,
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
    pub(super) fn parse(text: &str) -> Option<Self> {
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
