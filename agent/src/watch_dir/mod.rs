//! App documents from a folder: source `file`.
//!
//! ```text
//!   apps.d ──inotify──▶ wake ──▶ read all ──▶ plan ──▶ send, remove ──▶ inbox
//!                                  ▲                        │
//!                                  └─── 200 ms of quiet ◀───┘
//! ```
//!
//! A change only wakes; what is done follows from the folder as it stands. A folder that cannot be read says nothing,
//! so it removes nothing. One bad file never holds up another.

mod folder;
mod plan;
#[cfg(test)]
mod tests;
mod wake;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::status::{Source, Statuses};
use tokio::sync::{oneshot, watch};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::folder::{ENVIRONMENTS, Folder, FolderError, read};
use self::plan::{Known, Step};
use self::wake::Wake;
use crate::inbox::{Inbox, Kind, Refusal, Request, Subject};
use crate::published::{DeviceState, Published};
use crate::report::Chain;

/// First wait before a refusal that may pass is tried again.
const RETRY_FIRST: Duration = Duration::from_secs(1);

/// Longest such wait.
const RETRY_LONGEST: Duration = Duration::from_mins(5);

/// Applies the documents in `dir`, and again whenever they change, until `stop`.
pub async fn run(dir: PathBuf, inbox: Inbox, published: Published, stop: CancellationToken) {
    let Published { statuses, device, .. } = published;
    let watcher = Watcher {
        dir,
        inbox,
        statuses,
        device,
        known: Known::default(),
        orphans: Orphans::Unknown,
    };
    tokio::select! {
        () = stop.cancelled() => (),
        () = watcher.watch() => (),
    }
}

/// Apps of source `file` that no file names: their files were removed while the agent was down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Orphans {
    /// Not looked for yet: the folder could not be read, or the loop has not said what there is.
    Unknown,
    /// From here on a removal is seen when it happens.
    Settled,
}

/// The loop has ended: there is nobody to send to.
struct LoopEnded;

struct Watcher {
    dir: PathBuf,
    inbox: Inbox,
    statuses: watch::Receiver<Arc<Statuses>>,
    device: watch::Receiver<Arc<DeviceState>>,
    known: Known,
    orphans: Orphans,
}

impl Watcher {
    async fn watch(mut self) {
        let mut retry = RETRY_FIRST;
        loop {
            // Watched first and read then, so that no change falls between the two.
            let wake = Wake::on(&self.dir);
            let Ok(rest) = self.round().await else { return };
            let again = rest == Rest::Retry || wake.is_blind();
            let retry_at = again.then(|| Instant::now() + retry);
            retry = if again { (retry * 2).min(RETRY_LONGEST) } else { RETRY_FIRST };
            self.rest(&wake, retry_at).await;
        }
    }

    /// Returns when there may be something to do.
    async fn rest(&mut self, wake: &Wake, retry_at: Option<Instant>) {
        let retry = async {
            match retry_at {
                Some(at) => time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let awaits_loop = self.orphans == Orphans::Unknown && self.device.borrow().rounds == 0;
        let first_round = async {
            if !awaits_loop || self.device.wait_for(|device| device.rounds != 0).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = wake.quiet_after_change() => (),
            () = retry => (),
            () = first_round => (),
        }
    }

    /// Makes the loop's idea of the folder the folder's own.
    async fn round(&mut self) -> Result<Rest, LoopEnded> {
        let dir = self.dir.clone();
        let reading = tokio::task::spawn_blocking(move || read(&dir)).await;
        let folder = match reading {
            Ok(Ok(folder)) => folder,
            Ok(Err(FolderError::Missing)) => return Ok(Rest::Done),
            Ok(Err(FolderError::Unreadable(error))) => {
                error!(dir = %self.dir.display(), error = %Chain(&error), "cannot read the folder of documents");
                return Ok(Rest::Retry);
            }
            Err(panic) => {
                error!(error = %Chain(&panic), "reading the folder of documents failed");
                return Ok(Rest::Retry);
            }
        };
        let mut rest = Rest::Done;
        for step in self.known.plan(&folder) {
            rest = rest.and(self.take(step).await?);
        }
        self.remove_orphans(&folder).await?;
        Ok(rest)
    }

    async fn take(&mut self, step: Step) -> Result<Rest, LoopEnded> {
        match step {
            Step::Send { path, payload } => self.send(&path, payload).await,
            Step::Remove { name } => self.remove(&name).await,
            Step::Unreadable { path, why } => {
                error!(path = %path.display(), error = why, "cannot read the document");
                Ok(Rest::Done)
            }
            Step::Twice { path, name, first } => {
                error!(
                    path = %path.display(), app = name, first = %first.display(),
                    "another file has this name already; this one is not applied"
                );
                Ok(Rest::Done)
            }
            Step::TooMany { most } => {
                error!(dir = %self.dir.display(), most, "too many documents; those behind are not applied");
                Ok(Rest::Done)
            }
        }
    }

    async fn send(&mut self, path: &Path, payload: Bytes) -> Result<Rest, LoopEnded> {
        let (reply, answer) = oneshot::channel();
        let (source, subject) = (Source::File, Subject::Itself);
        let request = Request::Document { source, subject, payload, force: false, reply };
        self.inbox.send(request).await.map_err(|_| LoopEnded)?;
        match answer.await.map_err(|_| LoopEnded)? {
            Ok(accepted) => {
                info!(path = %path.display(), app = accepted.name, changed = accepted.changed, "document accepted");
                for warning in &accepted.warnings {
                    warn!(
                        path = %path.display(), app = accepted.name, at = warning.path,
                        reason = %warning.reason, message = warning.message, "document warning"
                    );
                }
                let name = match accepted.kind {
                    Kind::App | Kind::Job => accepted.name,
                    Kind::Environment => format!("{ENVIRONMENTS}{}", accepted.name),
                };
                self.known.accepted(path, name);
                Ok(Rest::Done)
            }
            Err(refusal) => Ok(self.refused(path, &refusal)),
        }
    }

    fn refused(&mut self, path: &Path, refusal: &Refusal) -> Rest {
        for finding in &refusal.findings {
            let (line, column) = finding.position.unwrap_or_default();
            error!(
                path = %path.display(), at = finding.path, line, column,
                reason = %finding.reason, message = finding.message, "document refused"
            );
        }
        if !refusal.passing {
            return Rest::Done;
        }
        self.known.forget_content(path);
        Rest::Retry
    }

    async fn remove(&mut self, name: &str) -> Result<Rest, LoopEnded> {
        let (reply, answer) = oneshot::channel();
        let source = Source::File;
        let request = if let Some(name) = name.strip_prefix(ENVIRONMENTS) {
            let Ok(environment) = name.parse() else { return Ok(Rest::Done) };
            Request::DeleteEnvironment { source, environment, reply }
        } else {
            let Ok(app) = name.parse() else { return Ok(Rest::Done) };
            Request::Delete { source, app, force: false, reply }
        };
        self.inbox.send(request).await.map_err(|_| LoopEnded)?;
        match answer.await.map_err(|_| LoopEnded)? {
            Ok(()) => {
                info!(app = name, "app removed with its file");
                Ok(Rest::Done)
            }
            Err(refusal) => {
                warn!(app = name, error = %refusal, "the file is gone and its app stays");
                if refusal.passing {
                    self.known.remove_later(name);
                    return Ok(Rest::Retry);
                }
                Ok(Rest::Done)
            }
        }
    }

    /// Once, as soon as folder and loop are both known: removes what lost its file while the agent was down.
    async fn remove_orphans(&mut self, folder: &Folder) -> Result<(), LoopEnded> {
        if self.orphans == Orphans::Settled || self.device.borrow().rounds == 0 {
            return Ok(());
        }
        // A file that cannot be read, or does not say whose it is, may be that of any app.
        if !self.known.names_every(folder) {
            return Ok(());
        }
        let orphans: Vec<String> = {
            let statuses = self.statuses.borrow();
            let apps = statuses.apps.values().map(|app| (&app.app, app.source));
            let jobs = statuses.jobs.values().map(|job| (&job.job, job.source));
            let of_files = apps.chain(jobs).filter(|(_, source)| *source == Source::File);
            let environments = statuses.environments.values();
            let environments = environments
                .filter(|one| one.source == Some(Source::File))
                .map(|one| format!("{ENVIRONMENTS}{}", one.environment));
            let names = of_files.map(|(name, _)| name.clone()).chain(environments);
            names.filter(|name| !self.known.has(name)).collect()
        };
        self.orphans = Orphans::Settled;
        for name in orphans {
            self.remove(&name).await?;
        }
        Ok(())
    }
}

/// What a round left over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// Nothing.
    Done,
    /// Something that may go well later.
    Retry,
}

impl Rest {
    fn and(self, other: Self) -> Self {
        if other == Self::Retry { other } else { self }
    }
}
