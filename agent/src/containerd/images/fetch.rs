//! One layer from a registry into the content store, however often the line breaks.
//!
//! ```text
//!   open ─▶ ask from where the last try stopped ─▶ write ─▶ commit
//!    ▲                      │ broken
//!    ├── bytes came: at once ──┤
//!    ├── none came: after a pause, a few times; then it is told, and the loop's back-off takes over
//!    └── what is there cannot be gone on with: thrown away, once
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use domain::reason::Reason;
use tokio::time::sleep;
use tracing::debug;

use super::content::{Blob, Content, Ingest, ingest_of};
use super::manifest::Descriptor;
use super::progress::Advance;
use super::registry::{Refusal, Registry};
use super::throttle::Throttle;
use crate::runtime::RuntimeError;

/// Tries in a row that bring nothing, before the failure is told.
const PATIENCE: u32 = 4;
/// After the first try that brought nothing; doubles with each.
const PAUSE: Duration = Duration::from_millis(200);

/// What it takes to fetch one layer.
pub(super) struct Fetch<'a> {
    pub(super) throttle: &'a Throttle,
    pub(super) content: Content,
    pub(super) registry: &'a Registry,
    pub(super) layer: &'a Descriptor,
    /// Its place among the layers of the image.
    pub(super) index: usize,
    pub(super) advance: &'a Advance<'a>,
}

/// What is done about a try that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mishap {
    /// The line, or the registry: what came is good.
    Broken,
    /// The token is not good any more, or never was.
    Expired,
    /// What came is not what was asked for, or containerd does not take it.
    Spoilt,
    /// Nothing that asking again at once would change.
    Final,
}

impl Mishap {
    fn of(error: &RuntimeError) -> Self {
        match error {
            RuntimeError::Unavailable(_) | RuntimeError::Forbidden(_) => Self::Final,
            RuntimeError::Failed(trouble) => {
                let is = |reason| trouble.reason == reason;
                if is(Reason::RegistryUnreachable) {
                    Self::Broken
                } else if is(Reason::ImageUnauthorized) {
                    Self::Expired
                } else if is(Reason::ImageCorrupt) || is(Reason::ContainerdFailed) {
                    Self::Spoilt
                } else {
                    Self::Final
                }
            }
        }
    }
}

impl Fetch<'_> {
    /// Fetches it, from where an earlier try stopped. What came is kept, whatever ends it, unless it is spoilt.
    pub(super) async fn run(self) -> Result<(), RuntimeError> {
        let (mut fruitless, mut begun_anew) = (0, false);
        loop {
            let Some(mut writer) = self.open().await? else {
                self.advance.here(self.index, self.layer.size);
                return Ok(());
            };
            let before = writer.received();
            self.advance.here(self.index, before);
            let Err(error) = self.fill(&mut writer).await else { return Ok(()) };
            let came = before < writer.received();
            let mishap = Mishap::of(&error);
            match mishap {
                Mishap::Spoilt => self.content.abort(*writer).await,
                Mishap::Broken | Mishap::Expired | Mishap::Final => writer.keep().await,
            }
            debug!(layer = %self.layer.digest, %error, before, came, "a layer did not come whole");
            match mishap {
                Mishap::Final => return Err(error),
                // Only what an earlier try began may be better without it.
                Mishap::Spoilt if before == 0 || begun_anew => return Err(error),
                Mishap::Spoilt => begun_anew = true,
                Mishap::Broken if came => fruitless = 0,
                Mishap::Broken if fruitless == PATIENCE => return Err(error),
                // A fresh token that is not taken either is no use asking for again.
                Mishap::Expired if !came && fruitless != 0 => return Err(error),
                Mishap::Expired => {
                    fruitless = u32::from(!came);
                    self.registry.authorize().await.map_err(Refusal::into_error)?;
                }
                Mishap::Broken => {
                    sleep(PAUSE * (1 << fruitless)).await;
                    fruitless += 1;
                }
            }
        }
    }

    /// None if the layer is there. What an earlier try left and cannot be gone on with is thrown away: containerd would
    /// begin anew in the same file and leave the end of the old one standing.
    async fn open(&self) -> Result<Option<Box<Ingest>>, RuntimeError> {
        let name = ingest_of(self.layer);
        let size = self.layer.size;
        if let Some((came, total)) = self.content.left(&name).await?
            && (size < came || total != size)
        {
            debug!(layer = %self.layer.digest, came, total, "what an earlier try left is no use");
            self.content.clear(&name).await?;
        }
        match self.content.open(&name, self.layer).await? {
            Blob::Present => Ok(None),
            Blob::Missing(writer) => Ok(Some(writer)),
        }
    }

    async fn fill(&self, writer: &mut Ingest) -> Result<(), RuntimeError> {
        if writer.offset() < self.layer.size {
            let asked = self.registry.blob(&self.layer.digest, writer.offset()).await;
            let mut pieces = asked.map_err(Refusal::into_error)?;
            while let Some(piece) = pieces.next().await.map_err(Refusal::into_error)? {
                self.throttle.pass(piece.len()).await;
                writer.write(&piece).await?;
                self.advance.came(self.index, writer.received(), piece.len());
            }
            if writer.received() < self.layer.size {
                // Ended early, in good order: a proxy that gave up, for one.
                let details = format!("{} ended early", self.layer.digest);
                return Err(Refusal::Unreachable(details).into_error());
            }
        }
        writer.commit(BTreeMap::new()).await.map(drop)
    }
}
