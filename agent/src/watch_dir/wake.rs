//! Wakes when something changed in the folder, or when the folder comes into being.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::time::{self, Instant};
use tracing::warn;

use crate::report::Chain;

/// An editor writes in several steps; after so much quiet it is done.
const QUIET: Duration = Duration::from_millis(200);

/// Whoever writes without a pause is not waited for any longer.
const LONGEST_BURST: Duration = Duration::from_secs(2);

/// The folder may come or go while we look for what to watch; more often than this it does not.
const ATTEMPTS: usize = 8;

/// A watch over the folder as it stands. Made anew after each change: the folder may be another one by then.
#[derive(Debug)]
pub(super) struct Wake {
    changed: Arc<Notify>,
    /// None if the system gave none.
    watcher: Option<RecommendedWatcher>,
}

impl Wake {
    /// Watches the folder, or the nearest one above it that exists.
    pub(super) fn on(dir: &Path) -> Self {
        let changed = Arc::new(Notify::new());
        let watcher = arm(dir, Arc::clone(&changed));
        if let Err(error) = &watcher {
            warn!(dir = %dir.display(), error = %Chain(error), "cannot watch the folder of documents");
        }
        Self { changed, watcher: watcher.ok() }
    }

    /// It will never wake: look again by yourself.
    pub(super) fn is_blind(&self) -> bool {
        self.watcher.is_none()
    }

    /// Returns once something has changed and is quiet again.
    pub(super) async fn quiet_after_change(&self) {
        self.changed.notified().await;
        let latest = Instant::now() + LONGEST_BURST;
        while Instant::now() < latest && time::timeout(QUIET, self.changed.notified()).await.is_ok()
        {
        }
    }
}

fn arm(dir: &Path, changed: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let of = dir.to_owned();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        if event.map_or(true, |event| matters(&event, &of)) {
            changed.notify_one();
        }
    })?;
    for _ in 1..ATTEMPTS {
        let target = standing(dir);
        let result = watcher.watch(&target, RecursiveMode::NonRecursive);
        if target == standing(dir) {
            return result.map(|()| watcher);
        }
        // Another folder is the nearest by now; a watch too many only wakes once too often.
        drop(watcher.unwatch(&target));
    }
    watcher.watch(&standing(dir), RecursiveMode::NonRecursive).map(|()| watcher)
}

/// The folder, or the nearest one above it that exists.
fn standing(dir: &Path) -> PathBuf {
    dir.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

/// Our own reading is no change, and neither is what happens beside the folder.
fn matters(event: &Event, dir: &Path) -> bool {
    let changes = match event.kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    };
    let near = |path: &PathBuf| dir.starts_with(path) || path.starts_with(dir);
    changes && (event.paths.is_empty() || event.paths.iter().any(near))
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, ModifyKind, RemoveKind, RenameMode};

    use super::*;

    #[track_caller]
    fn check(kind: EventKind, path: &str, expected: bool) {
        let event = Event::new(kind).add_path(path.into());
        assert_eq!(matters(&event, Path::new("/etc/skerry/apps.d")), expected, "{event:?}");
    }

    #[test]
    fn reading_wakes_nobody_and_writing_does() {
        let file = "/etc/skerry/apps.d/a.yaml";
        check(EventKind::Access(AccessKind::Open(AccessMode::Any)), file, false);
        check(EventKind::Access(AccessKind::Close(AccessMode::Read)), file, false);
        check(EventKind::Access(AccessKind::Close(AccessMode::Write)), file, true);
        check(EventKind::Modify(ModifyKind::Name(RenameMode::To)), file, true);
        check(EventKind::Remove(RemoveKind::File), file, true);
    }

    #[test]
    fn what_happens_beside_the_folder_wakes_nobody() {
        check(EventKind::Create(CreateKind::Folder), "/etc/skerry", true);
        check(EventKind::Create(CreateKind::Folder), "/etc/skerry/apps.d", true);
        check(EventKind::Create(CreateKind::File), "/etc/skerry/agent.toml", false);
        check(EventKind::Create(CreateKind::Folder), "/etc/skerry/apps.d.old", false);
    }

    #[tokio::test]
    async fn a_folder_that_comes_into_being_wakes_and_so_does_what_stands_above_it() {
        let top = tempfile::TempDir::new().unwrap();
        let dir = top.path().join("skerry/apps.d");
        for made in [top.path().join("skerry"), dir.clone(), dir.join("a.yaml")] {
            let wake = Wake::on(&dir);
            assert!(!wake.is_blind());
            if made.ends_with("a.yaml") {
                std::fs::write(&made, "name: a").unwrap();
            } else {
                std::fs::create_dir(&made).unwrap();
            }
            let woken = time::timeout(Duration::from_secs(20), wake.quiet_after_change());
            woken.await.unwrap();
        }
    }
}
