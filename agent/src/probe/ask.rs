//! One try of one probe: a TCP connection, an HTTP request over it, or a command in the container.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::OnceLock;

use bytes::Bytes;
use domain::model::ReplicaName;
use domain::probe::{Answer, Ask, Probe};
use domain::replica::last_words;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time;
use tokio_rustls::TlsConnector;
use tracing::debug;

use crate::dial::{Elsewhere, Obstacle, tls};
use crate::network::Vantage;
use crate::runtime::{Exec, RuntimeError};

/// The most that the head of an answer may take; its body is not read.
const HEAD_MAX: usize = 16 << 10;

/// Puts questions; holds what TLS needs once the first of them needs it.
pub(super) struct Asker<E> {
    exec: E,
    netns_dir: PathBuf,
    tls: OnceLock<Result<TlsConnector, String>>,
}

impl<E: Exec> Asker<E> {
    pub(super) fn new(exec: E, netns_dir: PathBuf) -> Self {
        Self { exec, netns_dir, tls: OnceLock::new() }
    }

    /// A try of `probe` against the replica at `address`.
    pub(super) fn ask(
        &self,
        replica: &ReplicaName,
        address: Ipv4Addr,
        probe: &Probe,
    ) -> BoxFuture<'static, Answer> {
        let timeout = probe.timeout;
        let question = match &probe.ask {
            Ask::Exec { command } => return self.run(replica, probe, command.clone()),
            Ask::Tcp { host, port } => Ok(Question {
                whom: self.whom(replica, address, host.as_deref(), *port),
                tls: None,
                request: None,
            }),
            Ask::Http { host, port, path, https, headers } => {
                let whom = self.whom(replica, address, host.as_deref(), *port);
                let tls = https.then(|| self.tls.get_or_init(tls::to_anyone).clone()).transpose();
                request(&whom.to_string(), path, headers)
                    .and_then(|request| Ok(Question { whom, tls: tls?, request: Some(request) }))
            }
        };
        async move {
            let answer = async {
                match question {
                    Ok(question) => question.put().await,
                    Err(got) => Err(Miss::Theirs { got, refused: false }),
                }
            };
            match time::timeout(timeout, answer).await {
                Ok(Ok(())) => Answer::Good,
                Ok(Err(Miss::Theirs { got, refused })) => Answer::Bad { got, refused },
                Ok(Err(Miss::Ours)) => Answer::Unasked,
                Err(_) => {
                    let got = format!("no answer within {} s", timeout.as_secs_f32());
                    Answer::Bad { got, refused: false }
                }
            }
        }
        .boxed()
    }

    fn whom(&self, replica: &ReplicaName, own: Ipv4Addr, host: Option<&str>, port: u16) -> Whom {
        match host {
            None => Whom::Replica(SocketAddr::from((own, port))),
            Some(host) => Whom::Elsewhere(Elsewhere {
                from: Vantage { netns: self.netns_dir.join(replica.as_str()), address: own },
                host: host.to_owned(),
                port,
            }),
        }
    }

    /// The command has its time from its start on, so the runtime keeps it.
    fn run(
        &self,
        replica: &ReplicaName,
        probe: &Probe,
        command: Vec<String>,
    ) -> BoxFuture<'static, Answer> {
        let (exec, replica) = (self.exec.clone(), replica.clone());
        let (container, limit) = (probe.container.clone(), probe.timeout);
        async move {
            let bad = |got| Answer::Bad { got, refused: false };
            match exec.exec(&replica, &container, &command, limit).await {
                Ok(executed) if executed.code == 0 => Answer::Good,
                Ok(executed) => match last_words(&executed.output) {
                    words if words.is_empty() => bad(format!("exit code {}", executed.code)),
                    words => bad(format!("exit code {}: {words}", executed.code)),
                },
                Err(RuntimeError::Failed(trouble)) => bad(trouble.details),
                // That containerd is away says nothing of the app, which serves on.
                Err(error @ (RuntimeError::Unavailable(_) | RuntimeError::Forbidden(_))) => {
                    debug!(%replica, container, %error, "the probe's command could not be run");
                    Answer::Unasked
                }
            }
        }
        .boxed()
    }
}

/// To whom a question is put.
enum Whom {
    Replica(SocketAddr),
    Elsewhere(Elsewhere),
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replica(address) => address.fmt(f),
            Self::Elsewhere(Elsewhere { host, port, .. }) => write!(f, "{host}:{port}"),
        }
    }
}

/// Why a question has no good answer.
enum Miss {
    /// What they said, or that they said nothing.
    Theirs { got: String, refused: bool },
    /// It could not be put.
    Ours,
}

impl Miss {
    fn of(error: &io::Error) -> Self {
        Self::Theirs { got: told(error), refused: error.kind() == io::ErrorKind::ConnectionRefused }
    }
}

struct Question {
    whom: Whom,
    tls: Option<TlsConnector>,
    request: Option<Request<Empty<Bytes>>>,
}

impl Question {
    async fn put(self) -> Result<(), Miss> {
        let (stream, name) = match &self.whom {
            Whom::Replica(address) => {
                let stream = TcpStream::connect(address).await.map_err(|error| Miss::of(&error))?;
                (stream, ServerName::from(address.ip()))
            }
            Whom::Elsewhere(elsewhere) => {
                let (stream, address) =
                    elsewhere.connect().await.map_err(|obstacle| match obstacle {
                        Obstacle::Ours(error) => {
                            debug!(host = elsewhere.host, %error, "the probe could not leave");
                            Miss::Ours
                        }
                        Obstacle::Theirs(error) => Miss::of(&error),
                    })?;
                let named = ServerName::try_from(elsewhere.host.clone());
                (stream, named.unwrap_or_else(|_| ServerName::from(address.ip())))
            }
        };
        let Some(request) = self.request else { return Ok(()) };
        let answer = match self.tls {
            None => exchange(stream, request).await,
            Some(tls) => {
                let stream = tls.connect(name, stream).await.map_err(|error| Miss::of(&error))?;
                exchange(stream, request).await
            }
        };
        answer.map_err(|got| Miss::Theirs { got, refused: false })
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
    whom: &str,
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
        let host = HeaderValue::from_str(whom);
        map.insert(HOST, host.map_err(|error| error.to_string())?);
    }
    map.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(request)
}

/// The kind says what people know it by: `connection refused`.
fn told(error: &io::Error) -> String {
    if error.raw_os_error().is_some() { error.kind().to_string() } else { error.to_string() }
}
