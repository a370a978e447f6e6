//! Images that somebody must vouch for: what is refused, and that nothing of it comes onto the board.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::model::Digest;
use domain::reason::Reason;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use serde_json::json;

use super::fixture::{
    Access, OCI_CONFIG, Registry, Sample, archive, assert_reason, configured, images,
};
use crate::config::{self, Archives, Trust};
use crate::containerd::images::Images;
use crate::containerd::images::manifest::{Descriptor, OCI_INDEX, OCI_MANIFEST};
use crate::containerd::testing::{PrivateContainerd, blobs};

const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const ARTIFACT: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
/// What a signature states, and what an attestation of how an image was built does.
const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";
const BUILT: &str = "https://slsa.dev/provenance/v1";

/// A key pair, and the file with its public half.
enum Signer {
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Signer {
    fn p256() -> Self {
        let (kind, random) = (&ECDSA_P256_SHA256_ASN1_SIGNING, SystemRandom::new());
        let made = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        Self::P256(EcdsaKeyPair::from_pkcs8(kind, made.as_ref(), &random).unwrap())
    }

    fn ed25519() -> Self {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed25519(Ed25519KeyPair::from_pkcs8(made.as_ref()).unwrap())
    }

    fn public(&self, containerd: &PrivateContainerd, name: &str) -> PathBuf {
        let (head, key) = match self {
            Self::P256(pair) => {
                ("MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgA=", pair.public_key().as_ref())
            }
            Self::Ed25519(pair) => ("MCowBQYDK2VwAyEA", pair.public_key().as_ref()),
        };
        let mut der = STANDARD.decode(head).unwrap();
        der.extend_from_slice(key);
        let text = STANDARD.encode(der);
        let (first, second) = text.split_at(40);
        let pem =
            format!("-----BEGIN PUBLIC KEY-----\n{first}\n{second}\n-----END PUBLIC KEY-----\n");
        let path = containerd.dir().join(name);
        fs::write(&path, pem).unwrap();
        path
    }

    fn sign(&self, payload: &[u8]) -> Vec<u8> {
        match self {
            Self::P256(pair) => pair.sign(&SystemRandom::new(), payload).unwrap().as_ref().to_vec(),
            Self::Ed25519(pair) => pair.sign(payload).as_ref().to_vec(),
        }
    }

    /// What cosign puts beside an image.
    fn signature(&self, of: Digest, kind: &str) -> Sample {
        let payload = json!({
            "critical": { "identity": { "docker-reference": "somewhere/else" },
                          "image": { "docker-manifest-digest": of.to_string() }, "type": kind },
            "optional": null,
        });
        let payload = payload.to_string().into_bytes();
        let signature = self.sign(&payload);
        beside(payload, &signature)
    }

    fn good(&self, of: Digest) -> Sample {
        self.signature(of, "cosign container image signature")
    }
}

fn beside(payload: Vec<u8>, signature: &[u8]) -> Sample {
    let mut layer = Descriptor::of(PAYLOAD, &payload);
    let annotation = ("dev.cosignproject.cosign/signature", STANDARD.encode(signature));
    layer.annotations = Some(BTreeMap::from([(annotation.0.to_owned(), annotation.1)]));
    artifact(layer, payload)
}

/// What cosign puts beside an image where it makes bundles: a statement in an envelope.
fn bundle(signer: &Signer, of: Digest, predicate: &str) -> Sample {
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1", "predicateType": predicate, "predicate": {},
        "subject": [{ "digest": { "sha256": of.hex() } }],
    });
    let (kind, statement) = ("application/vnd.in-toto+json", statement.to_string());
    let sealed = format!("DSSEv1 28 {kind} {} {statement}", statement.len());
    let envelope = json!({
        "payload": STANDARD.encode(&statement), "payloadType": kind,
        "signatures": [{ "sig": STANDARD.encode(signer.sign(sealed.as_bytes())) }],
    });
    let bundle = json!({
        "mediaType": BUNDLE, "dsseEnvelope": envelope,
        "verificationMaterial": { "publicKey": { "hint": "" }, "tlogEntries": [] },
    });
    let bundle = bundle.to_string().into_bytes();
    artifact(Descriptor::of(BUNDLE, &bundle), bundle)
}

/// The index of what refers to an image, as it lies where a registry does not list them.
fn referring(kinds: &[(&str, &Sample)]) -> Sample {
    let entries = kinds.iter().map(|(kind, sample)| {
        let (digest, size) = (sample.root.digest.to_string(), sample.root.size);
        json!({ "mediaType": OCI_MANIFEST, "digest": digest, "size": size, "artifactType": kind })
    });
    let entries: Vec<_> = entries.collect();
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
    let index = index.to_string().into_bytes();
    let root = Descriptor::of(OCI_INDEX, &index);
    let blobs = kinds.iter().flat_map(|(_, sample)| sample.blobs.clone());
    let blobs = blobs.chain([(root.clone(), index)]).collect();
    Sample { root, blobs, chain: String::new() }
}

fn artifact(layer: Descriptor, payload: Vec<u8>) -> Sample {
    let config = b"{}".to_vec();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": Descriptor::of(OCI_CONFIG, &config), "layers": [layer],
    });
    let manifest = manifest.to_string().into_bytes();
    let root = Descriptor::of(OCI_MANIFEST, &manifest);
    let config = (Descriptor::of(OCI_CONFIG, &config), config);
    let blobs = vec![(layer, payload), config, (root.clone(), manifest)];
    Sample { root, blobs, chain: String::new() }
}

fn tag(of: Digest) -> String {
    format!("sha256-{}.sig", of.hex())
}

fn trusting(
    containerd: &PrivateContainerd,
    registry: &Registry,
    rules: &[(&str, Trust)],
) -> Images {
    let trust = rules.iter().map(|(path, rule)| (format!("{}{path}", registry.host), rule.clone()));
    let config = config::Images {
        insecure_registries: vec![registry.host.clone()],
        trust: trust.collect(),
        ..config::Images::default()
    };
    configured(containerd, config)
}

fn keys(keys: &[&PathBuf]) -> Trust {
    Trust { keys: keys.iter().map(|key| (*key).clone()).collect(), ..Trust::default() }
}

#[tokio::test]
async fn what_nobody_vouches_for_is_refused_and_nothing_of_it_is_fetched() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let Some(registry) = Registry::start(Access::Everyone).await else { return };
    let (team, other) = (Signer::p256(), Signer::p256());
    let key = team.public(&containerd, "team.pub");
    let images = trusting(&containerd, &registry, &[("/team", keys(&[&key]))]);
    let (sample, second) = (Sample::here("one"), Sample::here("two"));
    let digest = sample.root.digest;
    registry.push("team/app", "1", &sample).await;
    let reference = format!("{}/team/app:1", registry.host);
    let pinned = format!("{}/team/app@{digest}", registry.host);
    let refused = async |words: &[&str]| {
        for reference in [&reference, &pinned] {
            let answer = images.ensure(reference, &[]).await;
            assert_reason(answer, Reason::ImageUntrusted, words);
        }
        let list = images.list().await.unwrap();
        assert!(list.is_empty(), "{list:?}");
        let here = blobs(&containerd.connection()).await;
        assert!(here.is_empty(), "{here:?}");
    };
    refused(&["has no signature"]).await;
    registry.push("team/app", &tag(digest), &other.good(digest)).await;
    refused(&["none of the configured keys"]).await;
    // A signature of another image under this one's tag.
    registry.push("team/app", &tag(digest), &team.good(second.root.digest)).await;
    refused(&["for another image", &second.root.digest.to_string()]).await;
    // The right payload, with a signature that the key made of another one.
    let good = team.good(digest);
    let swapped = beside(good.blobs[0].1.clone(), &team.sign(b"another payload"));
    registry.push("team/app", &tag(digest), &swapped).await;
    refused(&["none of the configured keys"]).await;
    registry.push("team/app", &tag(digest), &team.signature(digest, "something")).await;
    refused(&["of another type"]).await;
    // The key is read anew.
    registry.push("team/app", &tag(digest), &good).await;
    fs::write(&key, "no key").unwrap();
    refused(&["team.pub", "no PEM public key"]).await;
    fs::remove_file(&key).unwrap();
    refused(&["team.pub", "cannot be read"]).await;
    team.public(&containerd, "team.pub");
    assert_eq!(images.ensure(&reference, &[]).await.unwrap().digest, digest);
}

#[tokio::test]
async fn signatures_are_found_among_what_refers_to_an_image() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let Some(registry) = Registry::start(Access::Everyone).await else { return };
    let (team, other) = (Signer::p256(), Signer::ed25519());
    let key = team.public(&containerd, "team.pub");
    let images = trusting(&containerd, &registry, &[("/team", keys(&[&key]))]);
    let elsewhere = Sample::here("elsewhere").root.digest;
    for (tag, kind) in [("payload", ARTIFACT), ("bundle", BUNDLE)] {
        let sample = Sample::here(tag);
        let digest = sample.root.digest;
        registry.push("team/app", tag, &sample).await;
        let reference = format!("{}/team/app:{tag}", registry.host);
        let make = |signer: &Signer, of| match kind {
            BUNDLE => bundle(signer, of, SIGNED),
            _ => signer.good(of),
        };
        let refer = async |kinds: &[(&str, &Sample)]| {
            registry.push("team/app", &format!("sha256-{}", digest.hex()), &referring(kinds)).await;
        };
        let refused = async |word| {
            let answer = images.ensure(&reference, &[]).await;
            assert_reason(answer, Reason::ImageUntrusted, &[word]);
        };
        refused("has no signature").await;
        refer(&[(kind, &make(&other, digest))]).await;
        refused("none of the configured keys").await;
        refer(&[(kind, &make(&team, elsewhere))]).await;
        refused("for another image").await;
        refer(&[(BUNDLE, &bundle(&team, digest, BUILT))]).await;
        refused("of another type").await;
        refer(&[("application/spdx+json", &make(&team, digest))]).await;
        refused("has no signature").await;
        let good = make(&team, digest);
        refer(&[(BUNDLE, &bundle(&team, digest, BUILT)), (kind, &good)]).await;
        assert_eq!(images.ensure(&reference, &[]).await.unwrap().digest, digest);
    }
}

#[tokio::test]
async fn an_image_that_was_vouched_for_needs_no_registry_as_long_as_its_key_counts() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let Some(mut registry) = Registry::start(Access::Everyone).await else { return };
    let (old, new) = (Signer::ed25519(), Signer::p256());
    let (old_key, new_key) = (old.public(&containerd, "o.pub"), new.public(&containerd, "n.pub"));
    let sample = Sample::here("kept");
    let digest = sample.root.digest;
    registry.push("team/app", "1", &sample).await;
    let reference = format!("{}/team/app:1", registry.host);
    let pinned = format!("{}/team/app@{digest}", registry.host);
    let rule = |keys: &Trust| trusting(&containerd, &registry, &[("/team", keys.clone())]);
    let (by_old, by_new) = (rule(&keys(&[&old_key, &new_key])), rule(&keys(&[&new_key])));

    // It was here before anybody had to vouch for it: that does not help.
    images(&containerd, &[&registry]).ensure(&reference, &[]).await.unwrap();
    for reference in [&reference, &pinned] {
        let answer = by_old.ensure(reference, &[]).await;
        assert_reason(answer, Reason::ImageUntrusted, &["has no signature"]);
    }
    registry.push("team/app", &tag(digest), &old.good(digest)).await;
    assert_eq!(by_old.ensure(&reference, &[]).await.unwrap().warning, None);
    let answer = by_new.ensure(&reference, &[]).await;
    assert_reason(answer, Reason::ImageUntrusted, &["none of the configured keys"]);

    registry.stop();
    assert!(by_old.ensure(&reference, &[]).await.unwrap().warning.is_some());
    assert_eq!(by_old.ensure(&pinned, &[]).await.unwrap().warning, None);
    for reference in [&reference, &pinned] {
        let answer = by_new.ensure(reference, &[]).await;
        assert_reason(answer, Reason::ImageUntrusted, &["the local copy", "not known"]);
    }
}

#[tokio::test]
async fn the_longest_prefix_of_whole_words_decides_and_archives_need_leave() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let Some(registry) = Registry::start(Access::Everyone).await else { return };
    let key = Signer::p256().public(&containerd, "team.pub");
    let open = Trust { unsigned: true, ..Trust::default() };
    let strict = keys(&[&key]);
    let rules = [("/team", strict.clone()), ("/team/open", open)];
    let images = trusting(&containerd, &registry, &rules);
    let sample = Sample::here("prefix");
    for repository in ["teamx/app", "team/open/app", "team/opener"] {
        registry.push(repository, "1", &sample).await;
    }
    let ensure = async |path: &str| images.ensure(&format!("{}/{path}", registry.host), &[]).await;
    ensure("teamx/app:1").await.unwrap();
    ensure("team/open/app:1").await.unwrap();
    assert_reason(ensure("team/opener:1").await, Reason::ImageUntrusted, &["has no signature"]);

    let name = format!("{}/team/packed:1", registry.host);
    let annotations = json!({ "io.containerd.image.name": name });
    let path = archive(containerd.dir(), "packed.tar", &sample.oci_files(&annotations));
    let answer = images.import(&path).await;
    assert_reason(answer, Reason::ImageUntrusted, &["archives are not trusted"]);
    let lenient = Trust { archives: Archives::Trusted, ..strict };
    let lenient = trusting(&containerd, &registry, &[("/team", lenient)]);
    lenient.import(&path).await.unwrap();
    lenient.ensure(&name, &[]).await.unwrap();
    // What came by an archive is not taken any more once archives are not trusted.
    assert!(images.ensure(&name, &[]).await.is_err());
}
