//! Images that were flashed with the board: imported at start, whenever containerd comes.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time;
use tracing::{info, warn};

use crate::containerd::connection::Connection;
use crate::containerd::images::{Images, Preloading};
use crate::inbox::{Inbox, Request};
use crate::report::Chain;

/// Between two looks for a containerd that has not come yet.
const PATIENCE: Duration = Duration::from_secs(2);

/// Imports every archive of the folder, once containerd answers, and tells the loop.
pub(super) async fn run(
    dir: PathBuf,
    images: Images,
    preloading: Preloading,
    connection: Connection,
    inbox: Inbox,
) {
    let archives = std::fs::read_dir(&dir).into_iter().flatten().count();
    if archives == 0 {
        return;
    }
    while connection.client().await.is_err() {
        time::sleep(PATIENCE).await;
    }
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
    drop(preloading);
    if news {
        // A loop that has ended needs no news.
        let _ = inbox.send(Request::ImagesChanged).await;
    }
}
