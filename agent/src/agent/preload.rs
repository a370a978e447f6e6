//! Images that were flashed with the board: imported at start, whenever containerd comes. Before, what an earlier run
//! left of its imports is put in order, and what a power cut may have cut.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time;
use tracing::{info, warn};

use crate::containerd::connection::Connection;
use crate::containerd::images::Images;
use crate::inbox::{Inbox, Request};
use crate::report::Chain;
use crate::runtime::RuntimeError;

/// Looks at a containerd that answers its socket and nothing else yet. Whoever uses an image afterwards looks by himself.
const LOOKS: usize = 30;

/// Between two looks for a containerd that has not come yet.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether there is anything to import. From then on, images that are not on the board are waited for.
pub(super) fn expect(dir: &Path, images: &Images) -> bool {
    let any = std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    if any {
        images.expect_preload();
    }
    any
}

/// Imports every archive of the folder, once containerd answers, and tells the loop.
pub(super) async fn run(
    dir: Option<PathBuf>,
    images: Images,
    connection: Connection,
    inbox: Inbox,
) {
    while connection.client().await.is_err() {
        time::sleep(PATIENCE).await;
    }
    look_over(&images).await;
    if let Err(error) = images.end_finished_leases().await {
        warn!(error = %Chain(&error), "leases of an earlier run, if any, end by themselves");
    }
    tell_repaired(&images, &inbox).await;
    let Some(dir) = dir else { return };
    let mut news = false;
    for (path, result) in images.preload(&dir).await {
        match result {
            Ok(imported) => {
                for image in imported.iter().filter(|image| !image.unchanged) {
                    news = true;
                    info!(image = image.name, "preloaded");
                }
            }
            Err(error) => warn!(path = %path.display(), error = %Chain(&error), "cannot preload"),
        }
    }
    tell_repaired(&images, &inbox).await;
    if news {
        // A loop that has ended needs no news.
        let _ = inbox.send(Request::ImagesChanged).await;
    }
}

/// Looks over what a power cut may have cut.
async fn look_over(images: &Images) {
    for _ in 0..LOOKS {
        match images.look_over().await {
            Ok(()) => return,
            Err(RuntimeError::Unavailable(_)) => time::sleep(PATIENCE).await,
            Err(error) => {
                warn!(error = %Chain(&error), "images are looked over when they are used");
                return;
            }
        }
    }
}

/// Tells the loop what was found cut, also by those who looked by themselves.
async fn tell_repaired(images: &Images, inbox: &Inbox) {
    let repaired = images.repaired().into_iter();
    let images: Vec<String> = repaired.map(|one| format!("{}: {}", one.name, one.damage)).collect();
    if !images.is_empty() {
        // A loop that has ended needs no news.
        let _ = inbox.send(Request::ImagesRepaired { images }).await;
    }
}
