//! Requests to the board, from the LAN or from inside one of its namespaces.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{HOST, HeaderMap};
use hyper::{Request, Version, client::conn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::runtime;
use tokio::time;

use crate::lan::within;
use crate::wait::{SHORT, eventually};

/// No answer takes longer, but those that a test delays on purpose.
const PATIENCE: Duration = Duration::from_secs(30);

/// Somebody who asks.
#[derive(Debug, Clone)]
pub struct Client {
    netns: Option<PathBuf>,
    to: SocketAddr,
}

/// What was answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// What came after the body.
    pub trailers: HeaderMap,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null if it is something else.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl Client {
    /// One who stands where the test stands.
    pub fn new(to: SocketAddr) -> Self {
        Self { netns: None, to }
    }

    /// One who stands in a network namespace.
    pub fn inside(netns: PathBuf, to: SocketAddr) -> Self {
        Self { netns: Some(netns), to }
    }

    /// The same, asking at another address.
    #[must_use]
    pub fn at(&self, to: SocketAddr) -> Self {
        Self { netns: self.netns.clone(), to }
    }

    /// A plain connection.
    pub fn connect(&self) -> Result<TcpStream> {
        let connect = || TcpStream::connect_timeout(&self.to, SHORT);
        let stream = match &self.netns {
            None => connect(),
            Some(netns) => within(netns, connect)?,
        };
        let stream = stream.with_context(|| format!("cannot connect to {}", self.to))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Asks `host` for `path`.
    pub fn get(&self, host: &str, path: &str) -> Result<Answer> {
        self.send(Request::get(path).header(HOST, host).body(Full::default())?)
    }

    /// Sends a request, over HTTP/2 if its version says so, with a connection of its own.
    pub fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer> {
        let stream = self.connect()?;
        stream.set_nonblocking(true)?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let answer = exchange(tokio::net::TcpStream::from_std(stream)?, request);
            time::timeout(PATIENCE, answer).await.context("no answer in time")?
        })
    }

    /// Asks until the answer has `status`.
    pub fn await_status(&self, host: &str, path: &str, status: u16) -> Result<Answer> {
        self.await_answer(host, path, |answer| answer.status == status)
    }

    /// Asks until the answer is as it should be.
    pub fn await_answer(
        &self,
        host: &str,
        path: &str,
        good: impl Fn(&Answer) -> bool,
    ) -> Result<Answer> {
        eventually(&format!("{host}{path}"), 3 * SHORT, || {
            let answer = self.get(host, path)?;
            ensure!(good(&answer), "the answer is {} {}", answer.status, answer.text());
            Ok(answer)
        })
    }
}

async fn exchange(
    stream: tokio::net::TcpStream,
    mut request: Request<Full<Bytes>>,
) -> Result<Answer> {
    let stream = TokioIo::new(stream);
    let response = if request.version() == Version::HTTP_2 {
        let host = request.headers_mut().remove(HOST).context("no host is asked")?;
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = format!("http://{}{path}", host.to_str()?).parse()?;
        let (mut sender, connection) = conn::http2::handshake(TokioExecutor::new(), stream).await?;
        drive(connection);
        sender.send_request(request).await?
    } else {
        let (mut sender, connection) = conn::http1::handshake(stream).await?;
        drive(connection);
        sender.send_request(request).await?
    };
    let (head, body) = response.into_parts();
    let collected = body.collect().await?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let body = collected.to_bytes();
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body, trailers })
}

/// The runtime of a request ends with it, and the connection with the runtime.
fn drive(connection: impl Future<Output = hyper::Result<()>> + Send + 'static) {
    use hyper::rt::Executor;
    TokioExecutor::new().execute(connection);
}
