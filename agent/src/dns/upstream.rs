//! Asking the name servers of the board for names that are not ours, byte for byte.
//!
//! Each question has a socket of its own, so that its port cannot be guessed, and no server is asked for ever: 2 s, then
//! the next. Nothing is remembered; a cache is the name server's own affair.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time;

use super::reply::Transport;

/// How long one server may take. The C library's own patience is 5 s, so a second server still has its turn.
const PATIENCE: Duration = Duration::from_secs(2);

/// The most servers that are asked, as in the C library.
const MAX_SERVERS: usize = 3;

/// The most of `resolv.conf` that is read.
const MAX_FILE: usize = 64 * 1024;

/// Replies by UDP are not longer: beyond, they are truncated and asked for again by TCP.
const MAX_UDP_REPLY: usize = 4096;

/// The name servers of the board.
#[derive(Debug)]
pub(super) struct Upstreams {
    fixed: Vec<SocketAddr>,
    file: PathBuf,
    read: Mutex<Option<(Stamp, Vec<SocketAddr>)>>,
}

/// What changes when the file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    seconds: i64,
    nanoseconds: i64,
    length: u64,
}

impl Upstreams {
    /// These servers, or where there are none those of the file, read again whenever it changes.
    pub(super) fn new(fixed: Vec<SocketAddr>, file: PathBuf) -> Self {
        Self { fixed, file, read: Mutex::default() }
    }

    /// The servers to ask, in order; never one of `gateways`, which would be ourselves.
    pub(super) fn servers(&self, gateways: &[Ipv4Addr]) -> Vec<SocketAddr> {
        let servers = if self.fixed.is_empty() { self.of_file() } else { self.fixed.clone() };
        let foreign = |server: &SocketAddr| match server.ip() {
            IpAddr::V4(address) => !gateways.contains(&address),
            IpAddr::V6(_) => true,
        };
        servers.into_iter().filter(foreign).take(MAX_SERVERS).collect()
    }

    fn of_file(&self) -> Vec<SocketAddr> {
        let Ok(metadata) = fs::metadata(&self.file) else { return Vec::new() };
        let stamp = Stamp {
            inode: metadata.ino(),
            seconds: metadata.mtime(),
            nanoseconds: metadata.mtime_nsec(),
            length: metadata.len(),
        };
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        match &*read {
            Some((of, servers)) if *of == stamp => servers.clone(),
            Some(_) | None => {
                let bytes = fs::read(&self.file).unwrap_or_default();
                let text = String::from_utf8_lossy(bytes.get(..MAX_FILE).unwrap_or(&bytes));
                let servers = name_servers(&text);
                *read = Some((stamp, servers.clone()));
                servers
            }
        }
    }
}

/// The `nameserver` lines of a `resolv.conf`.
fn name_servers(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let address: IpAddr =
            (words.next()? == "nameserver").then(|| words.next()?.parse().ok())??;
        Some(SocketAddr::new(address, 53))
    };
    text.lines().filter_map(server).collect()
}

/// Asks one server after another, and returns the first good answer; else the last bad one; else nothing.
///
/// An answer that was truncated by UDP is asked for again by TCP, and comes whole.
pub(super) async fn ask(
    servers: &[SocketAddr],
    query: &[u8],
    transport: Transport,
) -> Option<Vec<u8>> {
    let mut bad = None;
    for server in servers {
        let answer = match transport {
            Transport::Udp => by_udp(*server, query).await,
            Transport::Tcp => by_tcp(*server, query).await,
        };
        match answer {
            Ok(answer) if is_refusal(&answer) => bad = Some(answer),
            Ok(answer) if transport == Transport::Udp && is_truncated(&answer) => {
                return Some(by_tcp(*server, query).await.unwrap_or(answer));
            }
            Ok(answer) => return Some(answer),
            Err(error) => tracing::debug!(%server, %error, "name server does not answer"),
        }
    }
    bad
}

async fn by_udp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut answer = vec![0; MAX_UDP_REPLY];
    let reply = async {
        loop {
            let length = socket.recv(&mut answer).await?;
            // What does not answer this question is a late reply, or somebody who guesses.
            if answers(query, &answer[..length]) {
                return io::Result::Ok(length);
            }
        }
    };
    let length = time::timeout(PATIENCE, reply).await??;
    answer.truncate(length);
    Ok(answer)
}

async fn by_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let talk = async {
        let mut stream = TcpStream::connect(server).await?;
        send(&mut stream, query).await?;
        receive(&mut stream, usize::from(u16::MAX)).await
    };
    let answer = time::timeout(PATIENCE, talk).await??;
    if answers(query, &answer) {
        return Ok(answer);
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is to another question"))
}

/// Sends a message with its length before it, as TCP needs.
pub(super) async fn send(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let framed = [&length.to_be_bytes()[..], message].concat();
    stream.write_all(&framed).await
}

/// Receives a message of at most `bound` bytes.
pub(super) async fn receive(stream: &mut TcpStream, bound: usize) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if bound < length {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long"));
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Whether `reply` is a reply with the number and the question of `query`.
fn answers(query: &[u8], reply: &[u8]) -> bool {
    let header = |message: &[u8]| message.get(..12).map(|bytes| [bytes[0], bytes[1]]);
    let is_reply = reply.get(2).is_some_and(|flags| flags & 0x80 != 0);
    if !is_reply || header(query) != header(reply) {
        return false;
    }
    // Servers that fail may leave the question out.
    let without_question = reply.get(4..6) == Some(&[0, 0]);
    let question = super::question::Incoming::read(query);
    let super::question::Incoming::Query(question) = question else { return without_question };
    let (asked, answered) = (query.get(12..question.end), reply.get(12..question.end));
    without_question
        || asked.zip(answered).is_some_and(|(asked, answered)| asked.eq_ignore_ascii_case(answered))
}

fn is_truncated(reply: &[u8]) -> bool {
    reply.get(2).is_some_and(|flags| flags & 0x02 != 0)
}

/// `SERVFAIL` and `REFUSED`: another server may know better.
fn is_refusal(reply: &[u8]) -> bool {
    reply.get(3).is_some_and(|flags| [2, 5].contains(&(flags & 0x0f)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_again_when_it_changes_and_our_own_gateways_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("resolv.conf");
        let upstreams = Upstreams::new(Vec::new(), file.clone());
        let servers = || -> Vec<String> {
            let servers = upstreams.servers(&[Ipv4Addr::new(10, 213, 0, 1)]);
            servers.iter().map(ToString::to_string).collect()
        };
        assert!(servers().is_empty());
        fs::write(&file, "# none\nsearch lan\nnameserver 192.0.2.53\nnameserver 10.213.0.1\n")
            .unwrap();
        assert_eq!(servers(), ["192.0.2.53:53"]);
        fs::write(&file, "nameserver ::1 # local\nnameserver nonsense\nnameserver\n").unwrap();
        assert_eq!(servers(), ["[::1]:53"]);
        fs::remove_file(&file).unwrap();
        assert!(servers().is_empty());
    }
}
