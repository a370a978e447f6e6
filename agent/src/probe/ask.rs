//! One try of one probe: a TCP connection, or an HTTP request over it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use domain::probe::{Ask, Probe};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time;
use tokio_rustls::TlsConnector;

/// The most that the head of an answer may take; its body is not read.
const HEAD_MAX: usize = 16 << 10;

/// Puts questions; holds what TLS needs once the first of them needs it.
#[derive(Default)]
pub(super) struct Asker {
    tls: OnceLock<Result<TlsConnector, String>>,
}

impl Asker {
    /// A try of `probe` against the replica at `address`; an error says what it got.
    pub(super) fn ask(
        &self,
        address: Ipv4Addr,
        probe: &Probe,
    ) -> impl Future<Output = Result<(), String>> + Send + use<> {
        let timeout = probe.timeout;
        let question = self.question(address, &probe.ask);
        async move {
            let answer = async { question?.put().await };
            let late = |_| Err(format!("no answer within {} s", timeout.as_secs_f32()));
            time::timeout(timeout, answer).await.unwrap_or_else(late)
        }
    }

    fn question(&self, address: Ipv4Addr, ask: &Ask) -> Result<Question, String> {
        let at = |port| SocketAddr::from((address, port));
        Ok(match ask {
            Ask::Tcp { port } => Question { address: at(*port), tls: None, request: None },
            Ask::Http { port, path, https, headers } => {
                let request = Some(request(at(*port), path, headers)?);
                let tls =
                    if *https { Some(self.tls.get_or_init(connector).clone()?) } else { None };
                Question { address: at(*port), tls, request }
            }
        })
    }
}

struct Question {
    address: SocketAddr,
    tls: Option<TlsConnector>,
    request: Option<Request<Empty<Bytes>>>,
}

impl Question {
    async fn put(self) -> Result<(), String> {
        let stream = TcpStream::connect(self.address).await.map_err(|error| told(&error))?;
        let Some(request) = self.request else { return Ok(()) };
        let Some(tls) = self.tls else { return exchange(stream, request).await };
        let name = ServerName::from(self.address.ip());
        let stream = tls.connect(name, stream).await.map_err(|error| told(&error))?;
        exchange(stream, request).await
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<(), String> {
    let mut builder = http1::Builder::new();
    let opening = builder.max_buf_size(HEAD_MAX).handshake(TokioIo::new(stream));
    let (mut sender, connection) = opening.await.map_err(|error| error.to_string())?;
    let mut connection = pin!(connection);
    let mut answer = pin!(sender.send_request(request));
    let answer = tokio::select! {
        biased;
        answer = answer.as_mut() => answer,
        // Its end is told to whoever waits for the answer.
        _ = connection.as_mut() => answer.await,
    };
    let status = answer.map_err(|error| error.to_string())?.status();
    if (200..400).contains(&status.as_u16()) {
        return Ok(());
    }
    Err(format!("status {}", status.as_u16()))
}

fn request(
    address: SocketAddr,
    path: &str,
    headers: &[(String, String)],
) -> Result<Request<Empty<Bytes>>, String> {
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let uri: Uri = path.parse().map_err(|_| format!("{path:?} is no path"))?;
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = uri;
    let map = request.headers_mut();
    map.insert(USER_AGENT, HeaderValue::from_static("skerry-probe"));
    for (name, value) in headers {
        let name: HeaderName = name.parse().map_err(|_| format!("{name:?} is no header name"))?;
        let value = HeaderValue::from_str(value);
        map.append(name.clone(), value.map_err(|_| format!("the value of {name} is not valid"))?);
    }
    if !map.contains_key(HOST) {
        let host = HeaderValue::from_str(&address.to_string());
        map.insert(HOST, host.map_err(|error| error.to_string())?);
    }
    map.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(request)
}

/// The kind says what people know it by: `connection refused`.
fn told(error: &io::Error) -> String {
    if error.raw_os_error().is_some() { error.kind().to_string() } else { error.to_string() }
}

fn connector() -> Result<TlsConnector, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Anyone(Arc::clone(&provider)));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Takes any certificate, as the kubelet does: a probe asks whether the app answers, at an address that is ours, and
/// tells it nothing.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
