//! One HTTP request of the app to somebody else: to another app by name, or out of the board.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, Uri, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time;

use crate::dns;

/// Longer than any test waits on purpose.
const PATIENCE: Duration = Duration::from_secs(30);

/// What `url` answers: status and body.
pub(crate) async fn get(url: &str) -> io::Result<(u16, Bytes)> {
    time::timeout(PATIENCE, fetch(url)).await.map_err(|_| io::Error::other("no answer in 30 s"))?
}

async fn fetch(url: &str) -> io::Result<(u16, Bytes)> {
    let url: Uri = url.parse().map_err(io::Error::other)?;
    let host = url.host().ok_or_else(|| io::Error::other("no host in the URL"))?;
    let addresses = dns::resolve(host).await?;
    let address = addresses.first().ok_or_else(|| io::Error::other("no address"))?;
    let stream = TcpStream::connect((*address, url.port_u16().unwrap_or(80))).await?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let authority = url.authority().map_or(host, |authority| authority.as_str());
    let request = Request::get(path)
        .header(header::HOST, authority)
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map_err(io::Error::other)?;
    Ok((status, body.to_bytes()))
}

/// Whether `address` accepts a TCP connection, within `patience`.
pub(crate) async fn connects(address: &str, patience: Duration) -> io::Result<()> {
    time::timeout(patience, TcpStream::connect(address))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer"))?
        .map(drop)
}
