//! Index, manifest and configuration of an image, in the words of OCI and of Docker.
//!
//! Only what is acted on is read, so that a field that some tool invents does no harm.

use std::collections::BTreeMap;

use domain::model::{Digest, InvalidDigest};
use domain::reason::Reason;
use serde::{Deserialize, Serialize};

use super::platform::{Board, Platform};
use super::{ImageConfig, trouble};
use crate::runtime::RuntimeError;

/// Bytes of an index, manifest or configuration: the bound that registries keep to.
pub(super) const MAX_DOCUMENT: u64 = 4 << 20;
/// Layers of one image: overlayfs takes fewer.
const MAX_LAYERS: usize = 500;
/// Indexes on the way to a manifest: an archive has one of its own, then the image's.
const MAX_DEPTH: usize = 4;

pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(super) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub(super) const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
pub(super) const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// What a blob is, by digest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    #[serde(with = "digest_text")]
    pub(super) digest: Digest,
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) annotations: Option<BTreeMap<String, String>>,
}

impl Descriptor {
    pub(super) fn of(media_type: &str, bytes: &[u8]) -> Self {
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Self::plain(media_type, Digest::of(bytes), size)
    }

    pub(super) fn plain(media_type: &str, digest: Digest, size: u64) -> Self {
        let media_type = media_type.to_owned();
        Self { media_type, digest, size, platform: None, annotations: None }
    }

    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }
}

mod digest_text {
    use domain::model::Digest;
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Digest, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }

    pub(super) fn serialize<S: Serializer>(digest: &Digest, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(digest)
    }
}

/// The one manifest that runs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    pub(super) schema_version: u32,
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

/// What a digest or tag may stand for.
#[derive(Debug)]
pub(super) enum Document {
    /// A choice, and the media type it gives itself.
    Index(Vec<Descriptor>, String),
    /// The thing itself.
    Manifest(Manifest),
}

impl Document {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Either {
            manifests: Option<Vec<Descriptor>>,
            config: Option<Descriptor>,
            layers: Option<Vec<Descriptor>>,
            #[serde(default)]
            media_type: String,
        }
        let found: Either = serde_json::from_slice(bytes)
            .map_err(|error| format!("is neither an index nor a manifest of version 2: {error}"))?;
        match (found.manifests, found.config, found.layers) {
            (Some(manifests), None, None) => Ok(Self::Index(manifests, found.media_type)),
            (None, Some(_), Some(layers)) if MAX_LAYERS < layers.len() => {
                Err(format!("has more than {MAX_LAYERS} layers"))
            }
            (None, Some(config), Some(layers)) => Ok(Self::Manifest(Manifest {
                schema_version: 2,
                media_type: found.media_type,
                config,
                layers,
            })),
            // A document that is both means different things to different readers: nobody should run it.
            (_, _, _) => Err("is neither an index nor a manifest of version 2".to_owned()),
        }
    }
}

/// The image's configuration, as it stands in its file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct ConfigFile {
    #[serde(flatten)]
    pub(super) platform: Platform,
    config: Option<Execution>,
    rootfs: RootFs,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Execution {
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// A blob by its digest, read whole: indexes, manifests and configurations only.
pub(super) trait Documents: Send {
    /// The bytes, not yet verified. What is not there is `ImageCorrupt`.
    fn document(
        &mut self,
        which: &Descriptor,
    ) -> impl Future<Output = Result<Vec<u8>, RuntimeError>> + Send;
}

/// An image with the choice made: what of it is fetched, kept and run on this board.
#[derive(Debug)]
pub(super) struct Selected {
    /// From the root down to the manifest, each as it came.
    pub(super) documents: Vec<(Descriptor, Vec<u8>)>,
    pub(super) manifest: Manifest,
    pub(super) config_bytes: Vec<u8>,
    pub(super) platform: Platform,
    pub(super) diff_ids: Vec<Digest>,
    pub(super) config: ImageConfig,
}

impl Selected {
    /// Follows `root` down to the manifest and configuration that suit the board. Of the root, the digest will do.
    pub(super) async fn find(
        board: &Board,
        name: &str,
        root: Descriptor,
        from: &mut impl Documents,
    ) -> Result<Self, RuntimeError> {
        let mut documents = Vec::new();
        let mut next = root;
        while documents.len() < MAX_DEPTH {
            let bytes = verified(name, &next, from).await?;
            next.size = bytes.len() as u64;
            let parsed =
                Document::parse(&bytes).map_err(|why| corrupt(name, &next.digest, &why))?;
            match parsed {
                Document::Index(offers, media_type) => {
                    let chosen = choose(board, name, &offers)?.clone();
                    next.media_type = or_default(next.media_type, &media_type);
                    next.media_type = or_default(next.media_type, OCI_INDEX);
                    documents.push((std::mem::replace(&mut next, chosen), bytes));
                }
                Document::Manifest(manifest) => {
                    let config_bytes = verified(name, &manifest.config, from).await?;
                    next.media_type = or_default(next.media_type, &manifest.media_type);
                    next.media_type = or_default(next.media_type, OCI_MANIFEST);
                    documents.push((next, bytes));
                    return Self::new(board, name, documents, manifest, config_bytes);
                }
            }
        }
        Err(trouble(Reason::ImageCorrupt, format!("{name}: more than {MAX_DEPTH} nested indexes")))
    }

    /// Puts together what was read, and checks that it fits: the board, and layers with their contents.
    pub(super) fn new(
        board: &Board,
        name: &str,
        documents: Vec<(Descriptor, Vec<u8>)>,
        manifest: Manifest,
        config_bytes: Vec<u8>,
    ) -> Result<Self, RuntimeError> {
        let wrong = |why: &str| corrupt(name, &manifest.config.digest, why);
        let file: ConfigFile = serde_json::from_slice(&config_bytes)
            .map_err(|error| wrong(&format!("is no image configuration: {error}")))?;
        if !file.platform.architecture.is_empty() && board.rank(&file.platform).is_none() {
            return Err(mismatch(board, name, [&file.platform]));
        }
        let diff_ids = file.rootfs.diff_ids.iter().map(|id| id.parse());
        let diff_ids: Vec<Digest> = diff_ids
            .collect::<Result<_, InvalidDigest>>()
            .map_err(|error| wrong(&error.to_string()))?;
        if diff_ids.len() != manifest.layers.len() || diff_ids.is_empty() {
            let (layers, contents) = (manifest.layers.len(), diff_ids.len());
            return Err(wrong(&format!("names {contents} layers where the manifest has {layers}")));
        }
        let run = file.config.unwrap_or_default();
        let config = ImageConfig {
            chain_id: chain_ids(&diff_ids).last().map(ToString::to_string).unwrap_or_default(),
            env: run.env.unwrap_or_default(),
            entrypoint: run.entrypoint.unwrap_or_default(),
            cmd: run.cmd.unwrap_or_default(),
            user: run.user.unwrap_or_default(),
            working_dir: run.working_dir.unwrap_or_default(),
            stop_signal: run.stop_signal.unwrap_or_default(),
        };
        let platform = file.platform;
        Ok(Self { documents, manifest, config_bytes, platform, diff_ids, config })
    }

    /// What the image's name points to.
    pub(super) fn root(&self) -> &Descriptor {
        &self.documents.first().expect("a selected image has at least its manifest").0
    }
}

/// The chain ids of layers: each names a layer together with all below it.
pub(super) fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
            None => *diff_id,
        };
        chain.push(next);
    }
    chain
}

async fn verified(
    name: &str,
    which: &Descriptor,
    from: &mut impl Documents,
) -> Result<Vec<u8>, RuntimeError> {
    if MAX_DOCUMENT < which.size {
        return Err(corrupt(name, &which.digest, &format!("is larger than {MAX_DOCUMENT} bytes")));
    }
    let bytes = from.document(which).await?;
    if Digest::of(&bytes) != which.digest {
        return Err(corrupt(name, &which.digest, "has other content than its digest says"));
    }
    Ok(bytes)
}

/// The entry of an index that suits the board; a lone entry that does not say what it is for is left to its
/// configuration.
pub(super) fn choose<'a>(
    board: &Board,
    name: &str,
    offers: &'a [Descriptor],
) -> Result<&'a Descriptor, RuntimeError> {
    let said = |offer: &&Descriptor| offer.platform.is_some();
    match (board.choose(offers, |offer| offer.platform.as_ref()), offers) {
        (Some(offer), _) => Ok(offer),
        (None, [only]) if !said(&only) => Ok(only),
        (None, _) => {
            Err(mismatch(board, name, offers.iter().filter_map(|offer| offer.platform.as_ref())))
        }
    }
}

fn mismatch<'a>(
    board: &Board,
    name: &str,
    has: impl IntoIterator<Item = &'a Platform>,
) -> RuntimeError {
    // Build tools put attestations beside images and say `unknown`: no news to anyone.
    let has = has.into_iter().filter(|platform| platform.os != "unknown");
    let mut has: Vec<String> = has.map(ToString::to_string).collect();
    has.dedup();
    let has = if has.is_empty() { "no platform at all".to_owned() } else { has.join(", ") };
    trouble(
        Reason::ImagePlatformMismatch,
        format!("{name} is built for {has}; this board needs {board}"),
    )
}

pub(super) fn corrupt(name: &str, digest: &Digest, why: &str) -> RuntimeError {
    trouble(Reason::ImageCorrupt, format!("{name}: {digest} {why}"))
}

fn or_default(text: String, default: &str) -> String {
    if text.is_empty() { default.to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_id_names_a_layer_and_all_below_it() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let joined = Digest::of(format!("{a} {b}").as_bytes());
        assert_eq!(chain_ids(&[a, b]), [a, joined]);
        assert_eq!(chain_ids(&[]), []);
    }

    #[test]
    fn a_document_that_is_index_and_manifest_at_once_is_refused() {
        let of = Descriptor::of(OCI_MANIFEST, b"x");
        let config = serde_json::to_value(&of).unwrap();
        let both = serde_json::json!({ "manifests": [config], "config": config, "layers": [] });
        assert!(Document::parse(both.to_string().as_bytes()).is_err());
        let old = br#"{"schemaVersion":1,"fsLayers":[]}"#;
        assert!(Document::parse(old).unwrap_err().contains("version 2"));
    }

    #[test]
    fn nulls_and_missing_parts_of_a_configuration_are_empty() {
        let layer = Descriptor::of(DOCKER_LAYER, b"layer");
        let id = layer.digest;
        let manifest = Manifest {
            schema_version: 2,
            media_type: String::new(),
            config: Descriptor::of(DOCKER_CONFIG, b""),
            layers: vec![layer],
        };
        let json = format!(
            r#"{{"architecture":"amd64","config":{{"Cmd":null,"Env":["A=b"]}},"rootfs":{{"diff_ids":["{id}"]}}}}"#
        );
        let board = Board::of("x86_64", "x86_64");
        let found = Selected::new(&board, "x", Vec::new(), manifest, json.into_bytes()).unwrap();
        assert_eq!(found.config.env, ["A=b"]);
        assert!(found.config.cmd.is_empty());
        assert_eq!(found.config.chain_id, id.to_string());
    }
}
