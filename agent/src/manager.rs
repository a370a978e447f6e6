//! The service manager, where there is one: what it is told, and the sockets that it keeps while the agent is away.
//!
//! A socket that listens is handed to the manager when it is bound. While one agent ends and the next begins nobody is
//! refused: connections wait in the socket, and the next agent finds it under its name.
//!
//! ```text
//!   bind ──▶ FDSTORE=1 ──▶ manager ──▶ LISTEN_FDS ──▶ the next agent takes it
//! ```
//!
//! This is systemd's protocol, `sd_notify(3)` and `sd_listen_fds(3)`, without its library. Without a manager nothing is
//! told, nothing is kept, and everything else is the same.

use std::collections::BTreeMap;
use std::env;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use listenfd::ListenFd;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use tracing::{debug, info, warn};

/// A manager that takes no message for so long is told nothing: the agent has requests to serve.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the manager takes as the name of a socket: printable ASCII, at most so long.
const LONGEST_NAME: usize = 255;

/// The service manager. Every clone speaks to the same one.
#[derive(Debug, Clone, Default)]
pub struct ServiceManager {
    /// Where it is told; none where there is no manager.
    socket: Option<Arc<(UnixDatagram, UnixAddr)>>,
    /// How often it wants to hear that all is well.
    watchdog: Option<Duration>,
    /// What it has kept and nobody has taken yet, by name.
    kept: Arc<Mutex<BTreeMap<String, OwnedFd>>>,
}

impl ServiceManager {
    /// The one that started this process. To be asked for once, before there are threads and before anything is opened:
    /// what is kept has come as open files.
    pub fn of_this_process() -> Self {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let period = env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse().ok());
        let others =
            env::var("WATCHDOG_PID").is_ok_and(|text| text.parse() != Ok(std::process::id()));
        Self {
            socket: address().and_then(|address| Some(Arc::new((datagrams()?, address)))),
            watchdog: period.filter(|_| !others).map(Duration::from_micros),
            kept: Arc::new(Mutex::new(kept(&names))),
        }
    }

    /// How often it wants to hear that all is well; none where it does not watch.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Tells it `state`, lines such as `READY=1`.
    pub fn tell(&self, state: &str) {
        self.send(state, None);
    }

    /// Has it keep a socket, until it is to be forgotten.
    pub fn keep(&self, name: &str, socket: &impl AsFd) {
        let name = plain(name);
        self.send(&format!("FDSTORE=1\nFDNAME={name}"), Some(socket.as_fd()));
    }

    /// Whether it has kept something whose name begins so.
    pub fn has(&self, prefix: &str) -> bool {
        let prefix = plain(prefix);
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.keys().any(|name| name.starts_with(&prefix))
    }

    /// What it has kept under this name, at most once.
    pub fn take(&self, name: &str) -> Option<OwnedFd> {
        let name = plain(name);
        let socket = self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(&name)?;
        info!(name, "a socket is taken over");
        Some(socket)
    }

    /// Has it keep a socket no longer.
    pub fn forget(&self, name: &str) {
        let name = plain(name);
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), None);
    }

    /// Forgets what nobody has taken whose name begins so.
    pub fn forget_rest(&self, prefix: &str) {
        let prefix = plain(prefix);
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let names: Vec<String> =
            kept.keys().filter(|name| name.starts_with(&prefix)).cloned().collect();
        drop(kept);
        for name in names {
            info!(name, "a socket that nobody wants any more is closed");
            self.forget(&name);
        }
    }

    fn send(&self, text: &str, socket: Option<BorrowedFd<'_>>) {
        let Some((from, to)) = self.socket.as_deref() else { return };
        let sockets: Vec<_> = socket.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&sockets)];
        let rights = if sockets.is_empty() { &[][..] } else { &rights[..] };
        let bytes = [IoSlice::new(text.as_bytes())];
        let flags = MsgFlags::MSG_NOSIGNAL;
        if let Err(error) = sendmsg(from.as_raw_fd(), &bytes, rights, flags, Some(to)) {
            debug!(%error, "the service manager cannot be told");
        }
    }
}

/// Where the manager is told: a path, or a name without a file where it begins with `@`.
fn address() -> Option<UnixAddr> {
    let place = env::var_os("NOTIFY_SOCKET")?;
    let address = match place.as_bytes() {
        [b'@', name @ ..] => UnixAddr::new_abstract(name),
        path => UnixAddr::new(path),
    };
    address.inspect_err(|error| warn!(%error, ?place, "NOTIFY_SOCKET names no socket")).ok()
}

fn datagrams() -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_write_timeout(Some(PATIENCE)).ok()?;
    Some(socket)
}

/// The sockets that came with the process, by their names.
fn kept(names: &str) -> BTreeMap<String, OwnedFd> {
    let mut came = ListenFd::from_env();
    let mut names = names.split(':');
    let mut kept = BTreeMap::new();
    for place in 0..came.len() {
        let name = names.next().unwrap_or_default();
        let tcp = came.take_tcp_listener(place).ok().flatten().map(OwnedFd::from);
        let socket = tcp.or_else(|| Some(came.take_udp_socket(place).ok().flatten()?.into()));
        // What is none of ours stays as it came.
        let Some(socket) = socket else { continue };
        kept.insert(name.to_owned(), socket);
    }
    kept
}

/// A name as the manager takes it: it has a list of them with colons between.
fn plain(name: &str) -> String {
    let fitting = |c: char| if c.is_ascii_graphic() && c != ':' { c } else { '_' };
    name.chars().map(fitting).take(LONGEST_NAME).collect()
}
