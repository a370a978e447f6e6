//! What the tests have in common: small images, archives of them, a registry.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use domain::model::Digest;
use domain::reason::Reason;
use domain::replica::{RegistryLogin, Secret};
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::clock::Clock;
use crate::config;
use crate::containerd::images::Images;
use crate::containerd::images::manifest::{Descriptor, OCI_INDEX, OCI_MANIFEST};
use crate::containerd::testing::{PrivateContainerd, until};
use crate::runtime::RuntimeError;

pub(super) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(super) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// `secret` in the form that the registry wants.
const USER: (&str, &str, &str) =
    ("skerry", "right horse", "$2b$05$abcdefghijklmnopqrstuuB05BVy0V7KomGh8K56xgiHLq3Wkqh46");

/// Images of a containerd, with the registries that are spoken to without TLS.
pub(super) fn images(containerd: &PrivateContainerd, insecure: &[&Registry]) -> Images {
    let insecure_registries = insecure.iter().map(|registry| registry.host.clone()).collect();
    configured(containerd, config::Images { insecure_registries, ..config::Images::default() })
}

/// Images of a containerd, with mirrors of Docker Hub.
pub(super) fn mirrored(containerd: &PrivateContainerd, mirrors: &[&str]) -> Images {
    let mirrors: Vec<String> = mirrors.iter().map(ToString::to_string).collect();
    let config = config::Images {
        insecure_registries: mirrors.clone(),
        mirrors: BTreeMap::from([("docker.io".to_owned(), mirrors)]),
        ..config::Images::default()
    };
    configured(containerd, config)
}

/// Images of a containerd, as `[images]` says.
pub(super) fn configured(containerd: &PrivateContainerd, config: config::Images) -> Images {
    // A second time is no harm: the first provider stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Images::new(containerd.connection(), "overlayfs".to_owned(), config, Clock::default())
}

/// What the board of the test is called in images.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[track_caller]
pub(super) fn assert_reason<T: std::fmt::Debug>(
    result: Result<T, RuntimeError>,
    reason: Reason,
    words: &[&str],
) {
    let trouble = result.unwrap_err().trouble();
    assert_eq!(trouble.reason, reason, "{}", trouble.details);
    for word in words {
        assert!(trouble.details.contains(word), "{:?} lacks {word:?}", trouble.details);
    }
}

/// A tar with one file, uncompressed.
pub(super) fn layer(name: &str, content: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, name, content);
    tar.into_inner().unwrap()
}

fn append<W: std::io::Write>(tar: &mut tar::Builder<W>, name: &str, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o755);
    tar.append_data(&mut header, name, content).unwrap();
}

/// The blobs of an image, and its root.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) root: Descriptor,
    pub(super) blobs: Vec<(Descriptor, Vec<u8>)>,
    pub(super) chain: String,
}

impl Sample {
    /// Two layers, the larger of which is more than one piece of what goes to containerd.
    pub(super) fn new(architecture: &str, text: &str) -> Self {
        let noise: Vec<u8> =
            (0..700_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        Self::of(architecture, [layer("bin/noise", &noise), layer("hello", text.as_bytes())])
    }

    /// One layer of noise, larger than all else together.
    pub(super) fn large(size: usize) -> Self {
        let mut state = 1_u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(size)
        .collect();
        Self::of(architecture(), [layer("bin/noise", &noise), layer("hello", b"large")])
    }

    fn of(architecture: &str, layers: [Vec<u8>; 2]) -> Self {
        let ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
        let config = json!({
            "architecture": architecture, "os": "linux",
            "config": { "Env": ["A=b"], "Cmd": ["/hello"], "Entrypoint": null, "User": "7:8",
                        "WorkingDir": "/w", "StopSignal": "SIGINT" },
            "rootfs": { "type": "layers", "diff_ids": ids.iter().map(ToString::to_string).collect::<Vec<_>>() },
        });
        let config = config.to_string().into_bytes();
        let mut blobs: Vec<(Descriptor, Vec<u8>)> =
            layers.into_iter().map(|layer| (Descriptor::of(OCI_LAYER, &layer), layer)).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": Descriptor::of(OCI_CONFIG, &config),
            "layers": blobs.iter().map(|(layer, _)| layer).collect::<Vec<_>>(),
        });
        let manifest = manifest.to_string().into_bytes();
        let root = Descriptor::of(OCI_MANIFEST, &manifest);
        blobs.push((Descriptor::of(OCI_CONFIG, &config), config));
        blobs.push((root.clone(), manifest));
        let chain = Digest::of(format!("{} {}", ids[0], ids[1]).as_bytes()).to_string();
        Self { root, blobs, chain }
    }

    pub(super) fn here(text: &str) -> Self {
        Self::new(architecture(), text)
    }

    /// An index of images for several platforms.
    pub(super) fn index(of: &[(&str, &Self)]) -> Self {
        let entries = of.iter().map(|(platform, sample)| {
            let mut parts = platform.split('/');
            let mut next = || parts.next().unwrap_or_default();
            let mut entry = serde_json::to_value(&sample.root).unwrap();
            entry["platform"] = json!({ "os": next(), "architecture": next(), "variant": next() });
            entry
        });
        let entries: Vec<Value> = entries.collect();
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
        let index = index.to_string().into_bytes();
        let root = Descriptor::of(OCI_INDEX, &index);
        let mut blobs: Vec<_> = of.iter().flat_map(|(_, sample)| sample.blobs.clone()).collect();
        blobs.push((root.clone(), index));
        Self { root, blobs, chain: String::new() }
    }

    /// The files of an OCI layout, with these annotations on its one entry.
    pub(super) fn oci_files(&self, annotations: &Value) -> Vec<(String, Vec<u8>)> {
        let mut entry = serde_json::to_value(&self.root).unwrap();
        entry["annotations"] = annotations.clone();
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        let mut files: Vec<(String, Vec<u8>)> = self
            .blobs
            .iter()
            .map(|(blob, bytes)| (format!("blobs/sha256/{}", blob.digest.hex()), bytes.clone()))
            .collect();
        files.push(("index.json".to_owned(), index.to_string().into_bytes()));
        files.push(("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()));
        files
    }

    /// The files that `docker save` wrote before it wrote OCI layouts.
    pub(super) fn docker_files(&self, tags: &[&str]) -> Vec<(String, Vec<u8>)> {
        let mut files = Vec::new();
        let mut layers = Vec::new();
        let mut config = String::new();
        for (blob, bytes) in &self.blobs {
            if blob.media_type == OCI_LAYER {
                layers.push(format!("{}/layer.tar", blob.digest.hex()));
                files.push((format!("{}/layer.tar", blob.digest.hex()), bytes.clone()));
            } else if blob.media_type == OCI_CONFIG {
                config = format!("{}.json", blob.digest.hex());
                files.push((config.clone(), bytes.clone()));
            }
        }
        let manifest = json!([{ "Config": config, "RepoTags": tags, "Layers": layers }]);
        files.push(("manifest.json".to_owned(), manifest.to_string().into_bytes()));
        files
    }

    pub(super) fn blob(&self, media_type: &str) -> &(Descriptor, Vec<u8>) {
        self.blobs.iter().find(|(blob, _)| blob.media_type == media_type).unwrap()
    }
}

/// Writes an archive into the folder.
pub(super) fn archive(dir: &Path, name: &str, files: &[(String, Vec<u8>)]) -> PathBuf {
    let path = dir.join(name);
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        append(&mut tar, name, content);
    }
    let bytes = tar.into_inner().unwrap();
    if name.ends_with("gz") {
        let file = fs::File::create(&path).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        std::io::Write::write_all(&mut gzip, &bytes).unwrap();
        gzip.finish().unwrap();
    } else {
        fs::write(&path, bytes).unwrap();
    }
    path
}

/// Who may ask a registry, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Everyone,
    Users,
    /// By TLS, with a certificate of an authority that nobody else knows.
    UsersByTls,
}

/// A real registry on loopback.
#[derive(Debug)]
pub(super) struct Registry {
    pub(super) host: String,
    access: Access,
    process: Child,
    dir: TempDir,
}

impl Registry {
    /// Starts one; none, with the reason printed, where it is not installed.
    pub(super) async fn start(access: Access) -> Option<Self> {
        let dir = tempfile::Builder::new().prefix("skr-").tempdir_in("/tmp").unwrap();
        // Free a moment ago: the registry cannot be told to choose one and say which.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let path = dir.path().display();
        let (user, _, hash) = USER;
        fs::write(dir.path().join("htpasswd"), format!("{user}:{hash}\n")).unwrap();
        let auth = match access {
            Access::Everyone => String::new(),
            Access::Users | Access::UsersByTls => {
                format!("auth:\n  htpasswd: {{realm: test, path: {path}/htpasswd}}\n")
            }
        };
        let tls = match access {
            Access::Everyone | Access::Users => String::new(),
            Access::UsersByTls => {
                let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
                fs::write(dir.path().join("ca.pem"), made.cert.pem()).unwrap();
                fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
                format!(", tls: {{certificate: {path}/ca.pem, key: {path}/key.pem}}")
            }
        };
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\n\
             storage:\n  filesystem: {{rootdirectory: {path}/data}}\nhttp: {{addr: \"{host}\"{tls}}}\n{auth}"
        );
        let file = dir.path().join("config.yml");
        fs::write(&file, config).unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let started = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let process = match started {
            Ok(process) => process,
            Err(error) => {
                println!("skipped: docker-registry cannot be started: {error}");
                return None;
            }
        };
        let address = host.clone();
        until("the registry listens", async || {
            tokio::net::TcpStream::connect(&address).await.is_ok()
        })
        .await;
        Some(Self { host, access, process, dir })
    }

    /// Pushes an image and tags it.
    pub(super) async fn push(&self, repository: &str, tag: &str, sample: &Sample) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (protocol, roots) = match self.access {
            Access::Everyone | Access::Users => {
                (ClientProtocol::HttpsExcept(vec![self.host.clone()]), Vec::new())
            }
            Access::UsersByTls => {
                let data = fs::read(self.authority()).unwrap();
                let root = Certificate { encoding: CertificateEncoding::Pem, data };
                (ClientProtocol::Https, vec![root])
            }
        };
        let settings =
            ClientConfig { protocol, extra_root_certificates: roots, ..ClientConfig::default() };
        let client = Client::try_from(settings).unwrap();
        let (user, password, _) = USER;
        let auth = match self.access {
            Access::Everyone => RegistryAuth::Anonymous,
            Access::Users | Access::UsersByTls => {
                RegistryAuth::Basic(user.to_owned(), password.to_owned())
            }
        };
        let (host, repository) = (self.host.clone(), repository.to_owned());
        let tagged = Reference::with_tag(host, repository, tag.to_owned());
        client.auth(&tagged, &auth, RegistryOperation::Push).await.unwrap();
        for (blob, bytes) in &sample.blobs {
            let digest = blob.digest.to_string();
            let is_document = [OCI_MANIFEST, OCI_INDEX].contains(&blob.media_type.as_str());
            if is_document {
                let reference = tagged.clone_with_digest(digest);
                let kind = blob.media_type.parse().unwrap();
                client.push_manifest_raw(&reference, bytes.clone(), kind).await.unwrap();
            } else {
                client.push_blob(&tagged, bytes.clone(), &digest).await.unwrap();
            }
        }
        let (_, root) = sample.blobs.last().unwrap();
        let kind = sample.root.media_type.parse().unwrap();
        client.push_manifest_raw(&tagged, root.clone(), kind).await.unwrap();
    }

    /// The certificate that vouches for it.
    pub(super) fn authority(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Changes a blob where the registry keeps it.
    pub(super) fn damage(&self, digest: &Digest) {
        let hex = digest.hex();
        let blob = format!("data/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
        let path = self.dir.path().join(blob);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        fs::write(path, bytes).unwrap();
    }

    /// Loses every tag and manifest.
    pub(super) fn lose_all(&self) {
        fs::remove_dir_all(self.dir.path().join("data/docker/registry/v2/repositories")).unwrap();
    }

    /// Ends it; its port stays free.
    pub(super) fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    pub(super) fn login(&self, password: &str) -> Vec<RegistryLogin> {
        let (user, _, _) = USER;
        vec![RegistryLogin {
            server: self.host.clone(),
            username: user.to_owned(),
            password: Secret(password.to_owned()),
        }]
    }

    pub(super) fn right_login(&self) -> Vec<RegistryLogin> {
        let (_, password, _) = USER;
        self.login(password)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}
