//! What the API needs beside the loop: images, logs, and what is known of the board from its start on.
//!
//! Ports: others implement them, `main` wires them.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use domain::model::{AppName, WallTime};
use domain::replica::Trouble;
use futures_util::stream::BoxStream;
use tokio::sync::mpsc;

/// Parts of an archive that wait to be read: the sender's pace is the reader's, and memory holds a few parts at most.
const ARCHIVE_DEPTH: usize = 4;

/// The images on the board.
pub trait ImageStore: Send + Sync + 'static {
    /// All of them, by name.
    fn list(&self) -> impl Future<Output = Result<Vec<Image>, Trouble>> + Send;

    /// Imports an OCI or docker archive and answers with the names it brought. A second import changes nothing.
    fn import(&self, archive: Archive)
    -> impl Future<Output = Result<Vec<String>, Trouble>> + Send;
}

/// An image on the board.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Image {
    /// The name that templates may give.
    pub name: String,
    /// Its digest.
    pub digest: String,
    /// Bytes of its compressed content; 0 where that is not known.
    pub size_bytes: u64,
    /// It came with the board and is never collected.
    pub preloaded: bool,
}

/// What containers wrote.
pub trait LogSource: Send + Sync + 'static {
    /// The lines asked for, oldest first; with `follow` also those to come, until the stream is dropped.
    fn lines(&self, query: LogQuery) -> impl Future<Output = Result<LogLines, Trouble>> + Send;
}

/// Lines as they come.
pub type LogLines = BoxStream<'static, Result<LogLine, Trouble>>;

/// Which lines. What is not given does not narrow the choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogQuery {
    /// Whose.
    pub app: AppName,
    /// Of this revision, by name.
    pub revision: Option<String>,
    /// Of this replica, by name.
    pub replica: Option<String>,
    /// Of this container.
    pub container: Option<String>,
    /// The last so many of each container.
    pub tail: Option<u32>,
    /// And those to come.
    pub follow: bool,
}

/// One line that a container wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When it was written.
    pub time: WallTime,
    /// By which replica.
    pub replica: String,
    /// By which container.
    pub container: String,
    /// Where to.
    pub stream: LogStream,
    /// Without its line end.
    pub line: Bytes,
}

/// Where a container wrote a line to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Its standard output.
    Stdout,
    /// Its standard error.
    Stderr,
}

/// What is known of the board and of the way to its control plane.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct About {
    /// The device's id.
    pub device: String,
    /// `[device] tags`.
    pub tags: std::collections::BTreeMap<String, String>,
    /// Which boot this is.
    pub boot_id: String,
    /// The broker's address, as configured; empty is none.
    pub control_plane: String,
}

/// Whether the control plane is in reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Link {
    /// There is a connection to the broker.
    pub online: bool,
    /// The epoch of the last connection.
    pub epoch: u64,
}

/// An archive on its way in, part by part. To be read on a thread that may block.
#[derive(Debug)]
pub struct Archive {
    parts: mpsc::Receiver<io::Result<Bytes>>,
    part: Bytes,
}

impl Archive {
    /// An archive, and the way in for its parts. A dropped sender is the end of the archive; a failed transfer must be
    /// sent as an error, so that half an archive is not taken for a whole one.
    pub fn channel() -> (mpsc::Sender<io::Result<Bytes>>, Self) {
        let (sender, parts) = mpsc::channel(ARCHIVE_DEPTH);
        (sender, Self { parts, part: Bytes::new() })
    }

    /// The next part; `None` is the end. For readers that must not block.
    pub async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if self.part.is_empty() {
            return self.parts.recv().await;
        }
        Some(Ok(std::mem::take(&mut self.part)))
    }
}

impl Read for Archive {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() {
            match self.parts.blocking_recv() {
                Some(part) => self.part = part?,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.part.len());
        self.part.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}
