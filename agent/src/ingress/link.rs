//! One HTTP/1.1 connection to a replica, and the body of a request on it.
//!
//! A link has no task of its own: whoever uses it drives it, so that a request crosses from client to replica and
//! back within one task. Only where both directions must move on their own (a request body still on its way, an
//! upgrade) is it set free as a task.

use std::os::fd::{AsRawFd as _, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use tokio::net::TcpStream;
use tracing::debug_span;

use crate::tasks::Tasks;

/// The most that the head of a response may take.
const HEAD_MAX: usize = 64 << 10;

/// hyper's connection, whose type has no name outside of it.
type Wire = dyn Future<Output = hyper::Result<()>> + Send;

/// A connection to a replica that serves one request after another.
pub(super) struct Link {
    pub(super) sender: http1::SendRequest<Upload>,
    /// None once it has ended or runs as a task.
    wire: Option<Pin<Box<Wire>>>,
    /// What the wire runs on: open for as long as there is a wire.
    socket: RawFd,
}

impl Link {
    pub(super) async fn open(stream: TcpStream) -> hyper::Result<Self> {
        let socket = stream.as_raw_fd();
        let mut builder = http1::Builder::new();
        let (sender, wire) = builder.max_buf_size(HEAD_MAX).handshake(TokioIo::new(stream)).await?;
        Ok(Self { sender, wire: Some(Box::pin(wire.with_upgrades())), socket })
    }

    /// Lets the connection read and write what it can.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(wire) = &mut self.wire
            && wire.as_mut().poll(cx).is_ready()
        {
            // How it ended is told to whoever waits for an answer on it.
            self.wire = None;
        }
    }

    /// Whether the replica has sent nothing on an idle link, not even its end. The kernel knows of it before the runtime
    /// does, and a request that is written meanwhile is lost.
    pub(super) fn is_quiet(&self) -> bool {
        if self.wire.is_none() {
            return !self.sender.is_closed();
        }
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        recv(self.socket, &mut [0], flags) == Err(Errno::EAGAIN)
    }

    /// Lets the connection run by itself.
    pub(super) fn set_free(&mut self, tasks: &Tasks) {
        if let Some(wire) = self.wire.take() {
            tasks.spawn_short(debug_span!("link"), async move {
                drop(wire.await);
            });
        }
    }
}

/// The body of a request to a replica.
pub(super) enum Upload {
    /// None; such a request can be sent again.
    Empty,
    /// Streamed from the client.
    Stream(Incoming),
}

impl Upload {
    pub(super) fn new(incoming: Incoming) -> Self {
        if incoming.is_end_stream() { Self::Empty } else { Self::Stream(incoming) }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Stream(incoming) => Pin::new(incoming).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream(incoming) => incoming.size_hint(),
        }
    }
}
