//! The content store: blobs in and out, always in pieces.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use containerd_client::services::v1 as services;
use containerd_client::services::v1::{WriteAction, WriteContentRequest, WriteContentResponse};
use containerd_client::tonic::{Code, Status, Streaming};
use domain::model::Digest;
use domain::reason::Reason;
use futures_util::stream;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::debug;

use super::manifest::{Descriptor, Documents, MAX_DOCUMENT};
use super::trouble;
use crate::containerd::connection::{Connection, failed};
use crate::runtime::RuntimeError;

/// Bytes that go to containerd at once: one answer for each, so smaller ones cost time and larger ones memory.
const PIECE: usize = 128 << 10;
/// What the names of layers on their way from a registry begin with.
pub(super) const PULL: &str = "skerry-pull-";
/// For one answer while a blob is written. The last comes after the whole blob is on the disk.
const ANSWER: Duration = Duration::from_mins(5);

/// For containerd to close a file.
const CLOSE: Duration = Duration::from_secs(10);

/// The content store, as one lease (or none) sees it.
#[derive(Debug, Clone)]
pub(super) struct Content(pub(super) Connection);

/// What a blob turned out to be when all of it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scanned {
    /// It is not listed.
    Absent,
    /// Its bytes are those that its digest stands for.
    Whole,
    /// They are others, or it is listed and cannot be read.
    Damaged,
}

/// A blob that is to be written.
#[derive(Debug)]
pub(super) enum Blob {
    /// It is there already.
    Present,
    /// It is not, or not all of it.
    Missing(Box<Ingest>),
}

impl Content {
    /// The whole of a small blob; none if it is not there.
    pub(super) async fn read(&self, digest: &Digest) -> Result<Option<Vec<u8>>, RuntimeError> {
        let request =
            services::ReadContentRequest { digest: digest.to_string(), offset: 0, size: 0 };
        let doing = "read content";
        let answer = self.0.client().await?.content().read(self.0.request(request)).await;
        let mut pieces = match answer {
            Ok(pieces) => pieces.into_inner(),
            Err(status) if status.code() == Code::NotFound => return Ok(None),
            Err(status) => return Err(failed(doing, &status)),
        };
        let mut bytes = Vec::new();
        loop {
            match pieces.message().await {
                Ok(Some(piece)) => bytes.extend_from_slice(&piece.data),
                Ok(None) => return Ok(Some(bytes)),
                Err(status) if status.code() == Code::NotFound => return Ok(None),
                Err(status) => return Err(failed(doing, &status)),
            }
            if MAX_DOCUMENT < bytes.len() as u64 {
                let details = format!("{digest} is larger than {MAX_DOCUMENT} bytes");
                return Err(trouble(Reason::ImageCorrupt, details));
            }
        }
    }

    /// Reads the whole of a blob for its digest, and passes it on to whoever wants it too.
    pub(super) async fn scan(
        &self,
        digest: &Digest,
        mut onlooker: Option<mpsc::Sender<Bytes>>,
    ) -> Result<Scanned, RuntimeError> {
        let request = services::InfoRequest { digest: digest.to_string() };
        match self.0.client().await?.content().info(self.0.request(request)).await {
            Ok(_) => (),
            Err(status) if status.code() == Code::NotFound => return Ok(Scanned::Absent),
            Err(status) => return Err(failed("look for content", &status)),
        }
        let request =
            services::ReadContentRequest { digest: digest.to_string(), offset: 0, size: 0 };
        let damaged = |status: &Status| match failed("read content", status) {
            error @ (RuntimeError::Unavailable(_) | RuntimeError::Forbidden(_)) => Err(error),
            RuntimeError::Failed(trouble) => {
                debug!(%digest, trouble.details, "a blob cannot be read");
                Ok(Scanned::Damaged)
            }
        };
        let mut pieces = match self.0.client().await?.content().read(self.0.endless(request)).await
        {
            Ok(pieces) => pieces.into_inner(),
            Err(status) => return damaged(&status),
        };
        let mut sum = Sha256::new();
        loop {
            match timeout(ANSWER, pieces.message()).await.map_err(|_| late())? {
                Ok(Some(piece)) => {
                    sum.update(&piece.data);
                    if let Some(to) = &onlooker
                        && to.send(piece.data.into()).await.is_err()
                    {
                        onlooker = None;
                    }
                }
                Ok(None) => break,
                Err(status) => return damaged(&status),
            }
        }
        let same = hex::encode(sum.finalize()) == digest.hex();
        Ok(if same { Scanned::Whole } else { Scanned::Damaged })
    }

    /// Strikes a blob off the list. From the disk it goes with the next collection.
    pub(super) async fn remove(&self, digest: &Digest) -> Result<(), RuntimeError> {
        let request = services::DeleteContentRequest { digest: digest.to_string() };
        match self.0.client().await?.content().delete(self.0.request(request)).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::NotFound => Ok(()),
            Err(status) => Err(failed("remove content", &status)),
        }
    }

    /// Opens a blob for writing. What is present by then stays under this lease.
    ///
    /// `ingest` tells one writer from another: what one left behind, one of the same name goes on with.
    pub(super) async fn open(&self, ingest: &str, blob: &Descriptor) -> Result<Blob, RuntimeError> {
        let head = WriteContentRequest {
            r#ref: ingest.to_owned(),
            total: signed(blob.size),
            expected: blob.digest.to_string(),
            ..WriteContentRequest::default()
        };
        // Two: the one being sent and the one after it. Every message is answered before the next.
        let (requests, mut queue) = mpsc::channel(2);
        let messages = stream::poll_fn(move |context| queue.poll_recv(context));
        let stat = WriteContentRequest { action: WriteAction::Stat.into(), ..head.clone() };
        requests.send(stat).await.expect("the other end of the channel is held right here");
        // The answer to this call comes with the answer to its first message, hence the deadline around both.
        let mut client = self.0.client().await?.content();
        let opened = timeout(ANSWER, client.write(self.0.endless(messages))).await;
        let answers = match opened.map_err(|_| late())? {
            Ok(answers) => answers.into_inner(),
            Err(status) if status.code() == Code::AlreadyExists => return Ok(Blob::Present),
            Err(status) => return Err(failed("write content", &status)),
        };
        let digest = blob.digest;
        let mut ingest = Ingest { requests, answers, head, digest, offset: 0, pending: Vec::new() };
        match ingest.answer().await {
            Ok(answer) => ingest.offset = u64::try_from(answer.offset).unwrap_or(0),
            Err(status) if status.code() == Code::AlreadyExists => return Ok(Blob::Present),
            Err(status) => return Err(failed("write content", &status)),
        }
        Ok(Blob::Missing(Box::new(ingest)))
    }

    /// Throws away what has come of a blob.
    pub(super) async fn abort(&self, ingest: Ingest) {
        let request = services::AbortRequest { r#ref: ingest.head.r#ref.clone() };
        // While the stream is open, containerd holds on to the files.
        ingest.close().await;
        let aborted = match self.0.client().await {
            Ok(client) => client.content().abort(self.0.request(request)).await.map(drop),
            Err(_) => Ok(()),
        };
        if let Err(status) = aborted {
            debug!(%status, "an unfinished blob stays until the next try or the end of its lease");
        }
    }

    /// What an earlier try left under this name: how much of the blob came, and how large it was to be.
    pub(super) async fn left(&self, ingest: &str) -> Result<Option<(u64, u64)>, RuntimeError> {
        let request = services::StatusRequest { r#ref: ingest.to_owned() };
        match self.0.client().await?.content().status(self.0.request(request)).await {
            Ok(answer) => {
                let unsigned = |size| u64::try_from(size).unwrap_or(0);
                let status = answer.into_inner().status;
                Ok(status.map(|status| (unsigned(status.offset), unsigned(status.total))))
            }
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(failed("look for unfinished content", &status)),
        }
    }

    /// Bytes of a layer that are still to come.
    pub(super) async fn lacking(&self, layer: &Descriptor) -> Result<u64, RuntimeError> {
        let digest = layer.digest.to_string();
        let request = self.0.request(services::InfoRequest { digest });
        match self.0.client().await?.content().info(request).await {
            Ok(_) => return Ok(0),
            Err(status) if status.code() == Code::NotFound => (),
            Err(status) => return Err(failed("look for content", &status)),
        }
        let left = self.left(&ingest_of(layer)).await?;
        let came = left.map_or(0, |(came, _)| came);
        Ok(if came <= layer.size { layer.size - came } else { layer.size })
    }

    /// Throws away what an earlier try left under this name.
    pub(super) async fn clear(&self, ingest: &str) -> Result<(), RuntimeError> {
        let request = services::AbortRequest { r#ref: ingest.to_owned() };
        match self.0.client().await?.content().abort(self.0.request(request)).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::NotFound => Ok(()),
            Err(status) => Err(failed("throw away unfinished content", &status)),
        }
    }

    /// Writes a small blob, and sets its labels also where it was there before.
    pub(super) async fn put(
        &self,
        blob: &Descriptor,
        bytes: &[u8],
        labels: BTreeMap<String, String>,
    ) -> Result<(), RuntimeError> {
        let name = format!("skerry-document-{}", blob.digest);
        // What a power cut left of one has the right length and the wrong bytes.
        self.clear(&name).await?;
        if let Blob::Missing(mut ingest) = self.open(&name, blob).await? {
            match ingest.write_rest(bytes, labels.clone()).await {
                Ok(Committed::Now) => return Ok(()),
                Ok(Committed::Before) => (),
                Err(error) => {
                    self.abort(*ingest).await;
                    return Err(error);
                }
            }
        }
        self.label(&blob.digest, labels).await
    }

    pub(super) async fn label(
        &self,
        digest: &Digest,
        labels: BTreeMap<String, String>,
    ) -> Result<(), RuntimeError> {
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let info = services::Info {
            digest: digest.to_string(),
            labels: labels.into_iter().collect(),
            ..services::Info::default()
        };
        let update_mask = Some(prost_types::FieldMask { paths });
        let request = services::UpdateRequest { info: Some(info), update_mask };
        let answer = self.0.client().await?.content().update(self.0.request(request)).await;
        answer.map(drop).map_err(|status| failed("label content", &status))
    }
}

impl Documents for Content {
    async fn document(&mut self, which: &Descriptor) -> Result<Vec<u8>, RuntimeError> {
        let found = self.read(&which.digest).await?;
        found.ok_or_else(|| {
            let details = format!("{} is gone from the content store", which.digest);
            trouble(Reason::ImageCorrupt, details)
        })
    }
}

/// A blob on its way in. Dropped before the commit, it keeps what came so far.
#[derive(Debug)]
pub(super) struct Ingest {
    requests: mpsc::Sender<WriteContentRequest>,
    answers: Streaming<WriteContentResponse>,
    head: WriteContentRequest,
    digest: Digest,
    offset: u64,
    pending: Vec<u8>,
}

/// Who committed a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Committed {
    /// This writer, with its labels.
    Now,
    /// Someone else, meanwhile.
    Before,
}

impl Ingest {
    /// Where to go on from: not 0 if there was an earlier try, or if another namespace has the blob.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// How much of the blob has come, also what containerd was not given yet.
    pub(super) fn received(&self) -> u64 {
        self.offset + self.pending.len() as u64
    }

    /// Takes the next bytes. More than the blob has are refused at once, so that no sender can fill the disk.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), RuntimeError> {
        let total = u64::try_from(self.head.total).unwrap_or(0);
        if total < self.offset + (self.pending.len() + bytes.len()) as u64 {
            return Err(self.corrupt("is longer than its descriptor says"));
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = PIECE - self.pending.len();
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.pending.extend_from_slice(now);
            rest = later;
            if self.pending.len() == PIECE {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Sends on what has come, for a later try to go on from.
    pub(super) async fn keep(mut self) {
        if let Err(error) = self.flush().await {
            debug!(%error, "the last piece will have to come again");
        }
        self.close().await;
    }

    /// Waits until containerd has let go of the blob.
    async fn close(self) {
        let Self { requests, mut answers, .. } = self;
        drop(requests);
        let closed = timeout(CLOSE, async { while let Ok(Some(_)) = answers.message().await {} });
        if closed.await.is_err() {
            debug!("containerd does not let go of a blob");
        }
    }

    /// Of the whole `bytes`, what is not there yet, and the commit.
    async fn write_rest(
        &mut self,
        bytes: &[u8],
        labels: BTreeMap<String, String>,
    ) -> Result<Committed, RuntimeError> {
        // Another namespace may have it, and then nothing is left to send but the commit.
        let done = usize::try_from(self.offset).unwrap_or(usize::MAX);
        self.write(bytes.get(done..).unwrap_or_default()).await?;
        self.commit(labels).await
    }

    /// Verifies length and digest, and makes the blob part of the store.
    pub(super) async fn commit(
        &mut self,
        labels: BTreeMap<String, String>,
    ) -> Result<Committed, RuntimeError> {
        self.flush().await?;
        let total = u64::try_from(self.head.total).unwrap_or(0);
        if self.offset < total {
            return Err(self.corrupt("is shorter than its descriptor says"));
        }
        let message = WriteContentRequest {
            action: WriteAction::Commit.into(),
            offset: signed(self.offset),
            labels: labels.into_iter().collect(),
            ..self.head.clone()
        };
        match self.ask(message).await {
            Ok(_) => Ok(Committed::Now),
            Err(status) if status.code() == Code::AlreadyExists => Ok(Committed::Before),
            Err(status) if status.code() == Code::FailedPrecondition => {
                Err(self.corrupt("has other content than its digest says"))
            }
            Err(status) => Err(failed("commit content", &status)),
        }
    }

    async fn flush(&mut self) -> Result<(), RuntimeError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let data = std::mem::replace(&mut self.pending, Vec::with_capacity(PIECE));
        let length = data.len() as u64;
        let message = WriteContentRequest {
            action: WriteAction::Write.into(),
            offset: signed(self.offset),
            data,
            ..self.head.clone()
        };
        let answer = self.ask(message).await;
        answer.map_err(|status| failed("write content", &status))?;
        self.offset += length;
        Ok(())
    }

    async fn ask(&mut self, message: WriteContentRequest) -> Result<WriteContentResponse, Status> {
        // A closed channel is a stream that has failed: why, the answer says.
        let _ = self.requests.send(message).await;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<WriteContentResponse, Status> {
        match timeout(ANSWER, self.answers.message()).await {
            Ok(Ok(Some(answer))) => Ok(answer),
            Ok(Ok(None)) => Err(Status::unavailable("containerd closed the stream")),
            Ok(Err(status)) => Err(status),
            Err(_) => Err(Status::deadline_exceeded("no answer while content was written")),
        }
    }

    fn corrupt(&self, why: &str) -> RuntimeError {
        trouble(Reason::ImageCorrupt, format!("{} {why}", self.digest))
    }
}

/// The name that a layer has on its way from a registry.
pub(super) fn ingest_of(layer: &Descriptor) -> String {
    format!("{PULL}{}", layer.digest)
}

fn late() -> RuntimeError {
    RuntimeError::Unavailable("no answer to a write of content".to_owned())
}

fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
