//! What the connection proves itself with: read anew before each connect, so that it can rotate.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use super::Access;
use crate::clock::Clock;
use crate::dial::tls::{LARGEST_FILE, SYSTEM_AUTHORITIES, authorities};

/// A file of the configuration that does not serve.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It holds no certificate, no key, or a broken one.
    #[error("{} holds no usable {what}", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What is looked for.
        what: &'static str,
    },
    /// What the files hold does not make a TLS client.
    #[error("certificate and key do not make a TLS client")]
    Tls(#[source] rustls::Error),
}

/// What the connection proves itself with.
pub struct Credentials {
    /// User name and password.
    pub login: Option<(String, String)>,
    /// For `mqtts://`.
    pub tls: Option<Arc<ClientConfig>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

impl Credentials {
    /// Reads whatever files `access` names. The broker's certificate will be judged as of the clock's date.
    pub async fn read(access: &Access, clock: Clock) -> Result<Self, AccessError> {
        let password = match &access.password_file {
            Some(path) => password(path, read(path).await?)?,
            None => String::new(),
        };
        let login = (!access.username.is_empty()).then(|| (access.username.clone(), password));
        let tls =
            if access.broker.tls { Some(Arc::new(client(access, clock).await?)) } else { None };
        Ok(Self { login, tls })
    }
}

async fn client(access: &Access, clock: Clock) -> Result<ClientConfig, AccessError> {
    let path = access.ca.clone().unwrap_or_else(|| PathBuf::from(SYSTEM_AUTHORITIES));
    let roots = authorities(&read(&path).await?);
    if roots.is_empty() {
        return Err(AccessError::Pem { path, what: "certificate" });
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_details(provider, Arc::new(clock))
        .with_safe_default_protocol_versions()
        .map_err(AccessError::Tls)?
        .with_root_certificates(roots);
    let Some((cert, key)) = &access.identity else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(&read(cert).await?);
    if chain.is_empty() {
        return Err(AccessError::Pem { path: cert.clone(), what: "certificate" });
    }
    let private = PrivateKeyDer::from_pem_slice(&read(key).await?)
        .map_err(|_| AccessError::Pem { path: key.clone(), what: "private key" })?;
    builder.with_client_auth_cert(chain, private).map_err(AccessError::Tls)
}

fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect()
}

/// A password file's first line: editors end it with a line feed that is no part of the password.
fn password(path: &Path, content: Vec<u8>) -> Result<String, AccessError> {
    let text = String::from_utf8(content)
        .map_err(|_| AccessError::Pem { path: path.to_owned(), what: "password" })?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

async fn read(path: &Path) -> Result<Vec<u8>, AccessError> {
    let failed = |source| AccessError::File { path: path.to_owned(), source };
    let file = File::open(path).await.map_err(failed)?;
    let mut content = Vec::new();
    file.take(LARGEST_FILE).read_to_end(&mut content).await.map_err(failed)?;
    Ok(content)
}
