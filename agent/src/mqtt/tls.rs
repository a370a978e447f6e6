//! What the connection proves itself with: read anew before each connect, so that it can rotate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use super::error::LinkError;
use super::settings::MqttSettings;

/// The system's authorities, where Debian and Yocto keep them.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// The longest file that is read: four times the system's authorities.
const FILE_LIMIT: u64 = 1 << 20;

/// What the connection proves itself with. Has no `Debug`: it holds a password and a key.
pub(super) struct Credentials {
    /// User name and password.
    pub(super) login: Option<(String, String)>,
    /// For `mqtts://`.
    pub(super) tls: Option<Arc<ClientConfig>>,
}

impl Credentials {
    /// Reads whatever files the settings name.
    pub(super) async fn read(settings: &MqttSettings) -> Result<Self, LinkError> {
        let password = match &settings.password_file {
            Some(path) => password(path, read(path).await?)?,
            None => String::new(),
        };
        let login = (!settings.username.is_empty()).then(|| (settings.username.clone(), password));
        let tls = if settings.broker.tls { Some(Arc::new(client(settings).await?)) } else { None };
        Ok(Self { login, tls })
    }
}

async fn client(settings: &MqttSettings) -> Result<ClientConfig, LinkError> {
    let path = settings.ca.clone().unwrap_or_else(|| PathBuf::from(SYSTEM_AUTHORITIES));
    let mut roots = RootCertStore::empty();
    // The system's store may hold one that is too odd to parse; the others count.
    roots.add_parsable_certificates(certificates(&read(&path).await?));
    if roots.is_empty() {
        return Err(LinkError::Pem { path, what: "certificate" });
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(LinkError::Tls)?
        .with_root_certificates(roots);
    let Some((cert, key)) = &settings.identity else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(&read(cert).await?);
    if chain.is_empty() {
        return Err(LinkError::Pem { path: cert.clone(), what: "certificate" });
    }
    let private = PrivateKeyDer::from_pem_slice(&read(key).await?)
        .map_err(|_| LinkError::Pem { path: key.clone(), what: "private key" })?;
    builder.with_client_auth_cert(chain, private).map_err(LinkError::Tls)
}

fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect()
}

/// A password file's first line: editors end it with a line feed that is no part of the password.
fn password(path: &Path, content: Vec<u8>) -> Result<String, LinkError> {
    let text = String::from_utf8(content)
        .map_err(|_| LinkError::Pem { path: path.to_owned(), what: "password" })?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

async fn read(path: &Path) -> Result<Vec<u8>, LinkError> {
    let failed = |source| LinkError::File { path: path.to_owned(), source };
    let file = File::open(path).await.map_err(failed)?;
    let mut content = Vec::new();
    file.take(FILE_LIMIT).read_to_end(&mut content).await.map_err(failed)?;
    Ok(content)
}

/// Chance, for the back-off's jitter. Without any, the middle of the window serves.
pub(super) fn ticket() -> u32 {
    let mut bytes = [0; 4];
    match rustls::crypto::ring::default_provider().secure_random.fill(&mut bytes) {
        Ok(()) => u32::from_ne_bytes(bytes),
        Err(_) => u32::MAX / 2,
    }
}
