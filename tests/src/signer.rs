//! Somebody who vouches for images, as `cosign sign --key` does.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Request;
use hyper::header::{CONTENT_TYPE, HOST};
use rcgen::{KeyPair, SigningKey as _};
use serde_json::json;

use crate::http::{Answer, Client};
use crate::image::{descriptor, hash};
use crate::registry::Registry;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// A key pair on the curve P-256.
#[derive(Debug)]
pub struct Signer(KeyPair);

impl Signer {
    /// One with a key of its own.
    pub fn new() -> Result<Self> {
        Ok(Self(KeyPair::generate()?))
    }

    /// Writes the public half to `{dir}/{name}`.
    pub fn public(&self, dir: &Path, name: &str) -> Result<PathBuf> {
        let path = dir.join(name);
        fs::write(&path, self.0.public_key_pem())?;
        Ok(path)
    }

    /// Puts a signature beside the image `repository:tag`, under the tag that cosign gives it.
    pub fn sign(&self, registry: &Registry, repository: &str, tag: &str) -> Result<()> {
        let registry = Pusher::to(registry.address(), repository);
        let digest = registry.digest(tag)?;
        let payload = serde_json::to_vec(&json!({
            "critical": {
                "identity": { "docker-reference": format!("{}/{repository}", registry.host) },
                "image": { "docker-manifest-digest": digest },
                "type": "cosign container image signature",
            },
            "optional": null,
        }))?;
        let config = b"{}";
        let mut layer = descriptor(PAYLOAD, &payload);
        layer["annotations"] = json!({ "dev.cosignproject.cosign/signature": STANDARD.encode(self.0.sign(&payload)?) });
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, config),
            "layers": [layer],
        }))?;
        registry.blob(config)?;
        registry.blob(&payload)?;
        let beside = format!("{}.sig", digest.replace(':', "-"));
        let put = Request::put(registry.path(&format!("manifests/{beside}")))
            .header(CONTENT_TYPE, MANIFEST)
            .header(HOST, &registry.host);
        registry.send(put.body(manifest.into())?).map(drop)
    }
}

/// The pushing half of the OCI distribution specification, for what skopeo would not take for an image.
struct Pusher {
    client: Client,
    host: String,
    repository: String,
}

impl Pusher {
    fn to(address: SocketAddr, repository: &str) -> Self {
        let client = Client::new(address);
        Self { client, host: address.to_string(), repository: repository.to_owned() }
    }

    fn path(&self, rest: &str) -> String {
        format!("/v2/{}/{rest}", self.repository)
    }

    fn send(&self, request: Request<http_body_util::Full<bytes::Bytes>>) -> Result<Answer> {
        let asked = format!("{} {}", request.method(), request.uri());
        let answer = self.client.send(request)?;
        ensure!(
            (200..300).contains(&answer.status),
            "{asked}: {} {}",
            answer.status,
            answer.text()
        );
        Ok(answer)
    }

    fn digest(&self, tag: &str) -> Result<String> {
        let get = Request::get(self.path(&format!("manifests/{tag}")))
            .header("accept", MANIFEST)
            .header(HOST, &self.host);
        Ok(format!("sha256:{}", hash(&self.send(get.body(<_>::default())?)?.body)))
    }

    fn blob(&self, content: &[u8]) -> Result<()> {
        let upload = Request::post(self.path("blobs/uploads/")).header(HOST, &self.host);
        let begun = self.send(upload.body(<_>::default())?)?;
        let place = begun.headers.get("location").context("no place to upload to")?.to_str()?;
        let place = place.trim_start_matches("http://").trim_start_matches(&self.host);
        let mark = if place.contains('?') { '&' } else { '?' };
        let put = Request::put(format!("{place}{mark}digest=sha256:{}", hash(content)))
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(HOST, &self.host);
        self.send(put.body(content.to_vec().into())?).map(drop)
    }
}
