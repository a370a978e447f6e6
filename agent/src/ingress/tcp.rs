//! One TCP connection to an exposed port: from the side and port that it came in by to a replica, and bytes both ways.
//!
//! ```text
//!   client ─▶ errand ─▶ reserved ─▶ connect ─▶ pipe, until both ends have ended
//!               │          ▲           └▶ not reached: another replica
//!               └▶ waiting room
//! ```
//!
//! Nothing is read from the client before a replica is there to have it: what it sends meanwhile stays in the windows of
//! the sockets. A connection is to its replica what a request is: it is counted in before the replica can leave, and the
//! replica waits for its end. Who cannot be served is reset, so that nobody takes it for an answer of nothing.

use std::net::SocketAddr;
use std::sync::Arc;

use domain::reason::Reason;
use tokio::io::{Interest, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tracing::{debug, debug_span};

use super::connection::{side_of, tend};
use super::errand::{Errand, Reserved};
use super::fleet::Shared;
use super::upstream::Busy;

/// How often a connection is tried, each time with another replica.
const TRIES_MAX: usize = 3;

/// Bytes held on their way, for each direction; both take 64 MiB at the most, where every connection there may be is one
/// of these and stuck.
const BUFFER: usize = 8 << 10;

/// Why a connection is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lost {
    /// Nobody serves it.
    Because(Reason),
    /// The client is gone.
    Gone,
}

/// Serves a connection as a task of its own, if there is room for it.
pub(super) fn serve(shared: &Arc<Shared>, stream: TcpStream, peer: SocketAddr) {
    let Ok(permit) = Arc::clone(&shared.room).try_acquire_owned() else {
        debug!(peer.addr = %peer, "too many connections");
        reset(&stream);
        return;
    };
    let span = debug_span!("tcp", peer.addr = %peer);
    let shared = Arc::clone(shared);
    let tasks = shared.tasks.clone();
    tasks.spawn_short(span, async move {
        let _permit = permit;
        tend(&stream);
        run(&shared, stream).await;
    });
}

async fn run(shared: &Shared, client: TcpStream) {
    let reached = tokio::select! {
        reached = reach(shared, &client) => reached,
        () = failed(&client) => Err(Lost::Gone),
    };
    match reached {
        Ok((replica, _busy)) => pipe(shared, client, replica).await,
        Err(why) => {
            let turned_away = shared.turn_away();
            debug!(?why, turned_away, "a connection is not served");
            reset(&client);
        }
    }
}

/// A connection to a replica, which counts it as open.
async fn reach(shared: &Shared, client: &TcpStream) -> Result<(TcpStream, Busy), Lost> {
    let local = client.local_addr().map_err(|_| Lost::Gone)?;
    let side = side_of(shared, local);
    let mut errand = Errand::to_port(local.port(), &side, shared);
    for _ in 0..TRIES_MAX {
        // It holds a socket while it waits, which counts against the connections there may be, and no bytes.
        let reserved = errand.reserve(shared, || 0).await.map_err(Lost::Because)?;
        let Reserved { busy, address, .. } = reserved;
        match busy.upstream().connect(shared, address).await {
            Ok(replica) => return Ok((replica, busy)),
            Err(error) => {
                debug!(replica.addr = %address, %error, "cannot be reached");
                errand.pass_over(busy.upstream());
            }
        }
    }
    Err(Lost::Because(Reason::UpstreamFailed))
}

/// Passes bytes until both ends have ended. An end that is done sending may go on receiving. Where one breaks off, so
/// does the other.
async fn pipe(shared: &Shared, mut client: TcpStream, mut replica: TcpStream) {
    let stop = shared.tasks.stop_signal();
    let piped = tokio::select! {
        piped = copy_bidirectional_with_sizes(&mut client, &mut replica, BUFFER, BUFFER) => {
            piped.map(drop).map_err(|error| error.to_string())
        }
        () = stop.cancelled() => Err("the agent stops".to_owned()),
    };
    if let Err(error) = piped {
        debug!(error, "a connection broke off");
        reset(&client);
        reset(&replica);
    }
}

/// Comes back when the client has broken the connection off. One that has only ended its own sending may still want an
/// answer.
async fn failed(client: &TcpStream) {
    while let Ok(ready) = client.ready(Interest::ERROR).await {
        if ready.is_error() {
            return;
        }
    }
}

/// The other side is to see a connection that failed, and not one that ended.
fn reset(stream: &TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        debug!(%error, "a connection is closed and not reset");
    }
}
