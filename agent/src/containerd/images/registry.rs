//! One registry, for one image. Made for a pull and dropped after it, so that an idle agent holds no TLS state.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use domain::model::Digest;
use domain::reason::Reason;
use domain::replica::{RegistryLogin, Trouble};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use oci_client::client::{
    BlobResponse, Certificate, CertificateEncoding, ClientConfig, ClientProtocol,
};
use oci_client::errors::{DigestError, OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use tokio::time::timeout;

use super::manifest::{
    DOCKER_LIST, DOCKER_MANIFEST, Descriptor, Documents, OCI_INDEX, OCI_MANIFEST,
};
use super::name::{ImageName, registry_name};
use super::trouble;
use crate::config;
use crate::report::Chain;
use crate::runtime::RuntimeError;

/// To a registry that answers; a longer wait would hold up a start that has a local copy to fall back on.
const CONNECT: Duration = Duration::from_secs(5);
/// Between two pieces of an answer.
const READ: Duration = Duration::from_secs(30);
/// For a tag's digest, name resolution and credentials included.
const RESOLVE: Duration = Duration::from_secs(20);
/// For one index, manifest or configuration.
const DOCUMENT: Duration = Duration::from_mins(1);

/// Why a registry does not give an image.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Away, or in trouble: another mirror, a local copy or a later try may help.
    Unreachable(String),
    /// It does not have it.
    NotFound(String),
    /// It wants credentials, or other ones.
    Unauthorized(String),
    /// What it sends is not what it says.
    Corrupt(String),
}

impl Refusal {
    /// What a registry said, back from a trouble. The inner error is a trouble of another kind.
    pub(super) fn of(trouble: Trouble) -> Result<Self, Trouble> {
        let is = |reason| trouble.reason == reason;
        if is(Reason::RegistryUnreachable) {
            Ok(Self::Unreachable(trouble.details))
        } else if is(Reason::ImageNotFound) {
            Ok(Self::NotFound(trouble.details))
        } else if is(Reason::ImageUnauthorized) {
            Ok(Self::Unauthorized(trouble.details))
        } else {
            Err(trouble)
        }
    }

    pub(super) fn into_error(self) -> RuntimeError {
        match self {
            Self::Unreachable(details) => trouble(Reason::RegistryUnreachable, details),
            Self::NotFound(details) => trouble(Reason::ImageNotFound, details),
            Self::Unauthorized(details) => trouble(Reason::ImageUnauthorized, details),
            Self::Corrupt(details) => trouble(Reason::ImageCorrupt, details),
        }
    }
}

/// A registry, or a mirror of it, that is asked for one image.
pub(super) struct Registry {
    client: Client,
    reference: Reference,
    auth: RegistryAuth,
}

impl Registry {
    /// Where to ask for `name`, the mirrors first.
    pub(super) fn hosts(name: &ImageName, config: &config::Images) -> Vec<Option<String>> {
        let mirrors = config.mirrors.get(name.registry()).into_iter().flatten();
        mirrors.cloned().map(Some).chain([None]).collect()
    }

    /// Prepares the asking, and shows the credentials. `mirror` is asked in place of the name's own registry.
    pub(super) async fn open(
        name: &ImageName,
        mirror: Option<String>,
        logins: &[RegistryLogin],
        config: &config::Images,
    ) -> Result<Self, Refusal> {
        let mut reference = name.to_reference();
        let host = mirror.clone().unwrap_or_else(|| name.registry().to_owned());
        if let Some(mirror) = mirror {
            reference.set_mirror_registry(mirror);
        }
        let login =
            logins.iter().find(|login| registry_name(&login.server) == registry_name(&host));
        let auth = login.map_or(RegistryAuth::Anonymous, |login| {
            RegistryAuth::Basic(login.username.clone(), login.password.0.clone())
        });
        let settings = ClientConfig {
            protocol: ClientProtocol::HttpsExcept(config.insecure_registries.clone()),
            connect_timeout: Some(CONNECT),
            read_timeout: Some(READ),
            user_agent: concat!("skerry/", env!("CARGO_PKG_VERSION")),
            extra_root_certificates: authorities(&config.ca).await?,
            ..ClientConfig::default()
        };
        // Reads the system's certificates, which is no work for a runtime thread.
        let client = tokio::task::spawn_blocking(move || Client::try_from(settings)).await;
        let client = client.map_err(|error| Refusal::Unreachable(error.to_string()))?;
        let client = client.map_err(|error| Refusal::Unreachable(Chain(&error).to_string()))?;
        let registry = Self { client, reference, auth };
        registry.authorize().await?;
        Ok(registry)
    }

    /// Gets leave to pull, anew where it had been given: a token may be good for minutes only. Each request would get it
    /// by itself, but not say why it could not.
    pub(super) async fn authorize(&self) -> Result<(), Refusal> {
        let asked = self.client.auth(&self.reference, &self.auth, RegistryOperation::Pull);
        match timeout(RESOLVE, asked).await {
            Ok(answer) => answer.map(drop).map_err(|error| self.refusal(&error)),
            Err(_) => Err(Refusal::Unreachable(self.said("no answer in time"))),
        }
    }

    /// What the name stands for, there and now.
    pub(super) async fn resolve(&self) -> Result<Digest, Refusal> {
        let asked = self.client.fetch_manifest_digest(&self.reference, &self.auth);
        let digest = match timeout(RESOLVE, asked).await {
            Ok(answer) => answer.map_err(|error| self.refusal(&error))?,
            Err(_) => return Err(Refusal::Unreachable(self.said("no answer in time"))),
        };
        digest.parse().map_err(|error: domain::model::InvalidDigest| {
            Refusal::Corrupt(self.said(&error.to_string()))
        })
    }

    /// The manifest or index of this digest, described by what the registry sent.
    pub(super) async fn manifest(&self, digest: &Digest) -> Result<Bytes, Refusal> {
        self.read_manifest(self.reference.clone_with_digest(digest.to_string())).await
    }

    /// What another tag of the same repository stands for.
    pub(super) async fn tagged(&self, tag: String) -> Result<Bytes, Refusal> {
        let (registry, repository) = (self.reference.registry(), self.reference.repository());
        let mut reference = Reference::with_tag(registry.to_owned(), repository.to_owned(), tag);
        if self.reference.namespace().is_some() {
            reference.set_mirror_registry(self.reference.resolve_registry().to_owned());
        }
        self.read_manifest(reference).await
    }

    /// The manifests of these kinds that say that they are about this one.
    pub(super) async fn referrers(
        &self,
        digest: &Digest,
        kinds: &[&str],
    ) -> Result<Vec<Digest>, Refusal> {
        let reference = self.reference.clone_with_digest(digest.to_string());
        let index = match timeout(DOCUMENT, self.client.pull_referrers(&reference, None)).await {
            Ok(answer) => answer.map_err(|error| self.refusal(&error))?,
            Err(_) => return Err(Refusal::Unreachable(self.said("no answer in time"))),
        };
        let of_kind =
            |kind: &Option<String>| kind.as_deref().is_some_and(|kind| kinds.contains(&kind));
        let found = index.manifests.iter().filter(|entry| of_kind(&entry.artifact_type));
        Ok(found.filter_map(|entry| entry.digest.parse().ok()).collect())
    }

    async fn read_manifest(&self, reference: Reference) -> Result<Bytes, Refusal> {
        let accepted = [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST];
        let asked = self.client.pull_manifest_raw(&reference, &self.auth, &accepted);
        match timeout(DOCUMENT, asked).await {
            Ok(Ok((bytes, _))) => Ok(bytes),
            Ok(Err(error)) => Err(self.refusal(&error)),
            Err(_) => Err(Refusal::Unreachable(self.said("no answer in time"))),
        }
    }

    /// The bytes of a blob from `offset` on.
    pub(super) async fn blob(&self, digest: &Digest, offset: u64) -> Result<Pieces, Refusal> {
        let text = digest.to_string();
        let (stream, skip) = if offset == 0 {
            let whole = self.client.pull_blob_stream(&self.reference, text.as_str()).await;
            (whole.map_err(|error| self.refusal(&error))?, 0)
        } else {
            let client = &self.client;
            let asked =
                client.pull_blob_stream_partial(&self.reference, text.as_str(), offset, None);
            match asked.await {
                Ok(BlobResponse::Partial(stream)) => (stream, 0),
                // A server may answer with the whole all the same.
                Ok(BlobResponse::Full(stream)) => (stream, offset),
                Err(error) => return Err(self.refusal(&error)),
            }
        };
        Ok(Pieces { stream: stream.stream, skip, host: self.said("") })
    }

    /// What a layer takes unpacked, as the end of a gzip file says; none where it is packed otherwise, or not told.
    pub(super) async fn unpacked_size(&self, layer: &Descriptor) -> Option<u64> {
        /// The last bytes of a gzip file: its length before packing, of which it has the lower half.
        const TAIL: u64 = 4;
        if !layer.media_type.contains("gzip") || u64::from(u32::MAX) < layer.size {
            return None;
        }
        let (text, offset) = (layer.digest.to_string(), layer.size.checked_sub(TAIL)?);
        let asked = self.client.pull_blob_stream_partial(
            &self.reference,
            text.as_str(),
            offset,
            Some(TAIL),
        );
        let Ok(Ok(BlobResponse::Partial(mut stream))) = timeout(READ, asked).await else {
            return None;
        };
        let mut tail = Vec::new();
        while let Ok(Some(Ok(piece))) = timeout(READ, stream.stream.next()).await {
            tail.extend_from_slice(&piece);
            if TAIL < tail.len() as u64 {
                return None;
            }
        }
        let size = u64::from(u32::from_le_bytes(tail.try_into().ok()?));
        // A smaller one says no more than that it is beyond what four bytes can count.
        (layer.size / 2 <= size).then_some(size)
    }

    fn said(&self, what: &str) -> String {
        format!("{}: {what}", self.reference.resolve_registry())
    }

    fn refusal(&self, error: &OciDistributionError) -> Refusal {
        let details = format!("{}: {}", self.reference, Chain(error));
        match error {
            OciDistributionError::AuthenticationFailure(_)
            | OciDistributionError::UnauthorizedError { .. }
            | OciDistributionError::ServerError { code: 401 | 403, .. } => self.unauthorized(),
            OciDistributionError::RegistryError { envelope, .. } => {
                let has = |wanted: &[OciErrorCode]| {
                    envelope.errors.iter().any(|error| wanted.contains(&error.code))
                };
                if has(&[OciErrorCode::Unauthorized, OciErrorCode::Denied]) {
                    self.unauthorized()
                } else if has(&ABSENT) {
                    Refusal::NotFound(format!("{} is not there", self.reference))
                } else {
                    Refusal::Unreachable(details)
                }
            }
            OciDistributionError::ServerError { code: 404, .. }
            | OciDistributionError::ImageManifestNotFoundError(_) => {
                Refusal::NotFound(format!("{} is not there", self.reference))
            }
            OciDistributionError::DigestError(_) => Refusal::Corrupt(details),
            // The rest is a network that fails or a registry that answers nonsense.
            OciDistributionError::ServerError { .. }
            | OciDistributionError::RequestError(_)
            | OciDistributionError::IoError(_)
            | OciDistributionError::ConfigConversionError(_)
            | OciDistributionError::GenericError(_)
            | OciDistributionError::HeaderValueError(_)
            | OciDistributionError::ImageIndexParsingNoPlatformResolverError
            | OciDistributionError::IncompatibleLayerMediaTypeError(_)
            | OciDistributionError::JsonError(_)
            | OciDistributionError::ManifestEncodingError(_)
            | OciDistributionError::ManifestParsingError(_)
            | OciDistributionError::PushNoDataError
            | OciDistributionError::PushLayerNoDataError
            | OciDistributionError::PullNoLayersError
            | OciDistributionError::RegistryNoDigestError
            | OciDistributionError::RegistryNoLocationError
            | OciDistributionError::RegistryTokenDecodeError(_)
            | OciDistributionError::SpecViolationError(_)
            | OciDistributionError::UrlParseError(_)
            | OciDistributionError::UnsupportedMediaTypeError(_)
            | OciDistributionError::UnsupportedSchemaVersionError(_)
            | OciDistributionError::VersionedParsingError(_) => Refusal::Unreachable(details),
        }
    }

    fn unauthorized(&self) -> Refusal {
        let host = self.reference.resolve_registry();
        Refusal::Unauthorized(match &self.auth {
            RegistryAuth::Basic(user, _) => {
                format!("{host} refuses {:?} to user {user:?}", self.reference.to_string())
            }
            RegistryAuth::Anonymous | RegistryAuth::Bearer(_) => {
                format!("{host} wants credentials for {}, or does not have it", self.reference)
            }
        })
    }
}

/// The authorities of registries that the owner of the board names.
async fn authorities(path: &str) -> Result<Vec<Certificate>, Refusal> {
    if path.is_empty() {
        return Ok(Vec::new());
    }
    match tokio::fs::read(path).await {
        Ok(data) => Ok(vec![Certificate { encoding: CertificateEncoding::Pem, data }]),
        Err(error) => Err(Refusal::Unreachable(format!("cannot read images.ca {path}: {error}"))),
    }
}

/// What a registry says of an image that it does not have.
const ABSENT: [OciErrorCode; 7] = [
    OciErrorCode::BlobUnknown,
    OciErrorCode::ManifestBlobUnknown,
    OciErrorCode::ManifestUnknown,
    OciErrorCode::NameInvalid,
    OciErrorCode::NameUnknown,
    OciErrorCode::NotFound,
    OciErrorCode::TagInvalid,
];

impl Documents for Registry {
    async fn document(&mut self, which: &Descriptor) -> Result<Vec<u8>, RuntimeError> {
        let is_manifest = ["", OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST]
            .contains(&which.media_type.as_str());
        if is_manifest {
            let bytes = self.manifest(&which.digest).await.map_err(Refusal::into_error)?;
            return Ok(bytes.into());
        }
        let read = async {
            let mut pieces = self.blob(&which.digest, 0).await?;
            let mut bytes = Vec::new();
            while let Some(piece) = pieces.next().await? {
                bytes.extend_from_slice(&piece);
                if which.size < bytes.len() as u64 {
                    let details = format!("{} is longer than its descriptor says", which.digest);
                    return Err(Refusal::Corrupt(details));
                }
            }
            Ok(bytes)
        };
        match timeout(DOCUMENT, read).await {
            Ok(read) => read.map_err(Refusal::into_error),
            Err(_) => Err(Refusal::Unreachable(self.said("no answer in time")).into_error()),
        }
    }
}

/// A blob as it comes.
pub(super) struct Pieces {
    stream: BoxStream<'static, Result<Bytes, io::Error>>,
    skip: u64,
    host: String,
}

impl Pieces {
    /// The next bytes; none is the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        while let Some(piece) = self.stream.next().await {
            let mut piece = piece.map_err(|error| self.refusal(&error))?;
            let known = usize::try_from(self.skip).unwrap_or(usize::MAX).min(piece.len());
            self.skip -= known as u64;
            let fresh = piece.split_off(known);
            if !fresh.is_empty() {
                return Ok(Some(fresh));
            }
        }
        Ok(None)
    }

    fn refusal(&self, error: &io::Error) -> Refusal {
        let details = format!("{}{}", self.host, Chain(error));
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<DigestError>());
        if inner.is_some() { Refusal::Corrupt(details) } else { Refusal::Unreachable(details) }
    }
}
