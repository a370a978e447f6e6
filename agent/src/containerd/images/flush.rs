//! What was written is brought to the disk, or it is an error.
//!
//! containerd before 2.0 does not do so for the files of a layer, and no version does for the folders of its content
//! store: after a power cut a layer would have empty files, or a blob that is listed would not be there.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use containerd_client::services::v1 as services;
use domain::reason::Reason;
use tokio::task::spawn_blocking;
use tracing::debug;

use super::trouble;
use crate::containerd::connection::{Connection, failed};
use crate::runtime::RuntimeError;

/// A file system that is about to be written to. Errors of the disk from here on are told by [`Self::flush`].
#[derive(Debug)]
pub(super) enum Volume {
    /// This one.
    Known(File, PathBuf),
    /// Some file system: all of them are flushed, and the kernel tells of no errors.
    Unknown,
}

impl Volume {
    /// That of a folder. None, and a folder that is not to be seen from here, may be anywhere.
    pub(super) async fn of(dir: Option<PathBuf>) -> Result<Self, RuntimeError> {
        let Some(dir) = dir else { return Ok(Self::Unknown) };
        let path = dir.clone();
        match blocking(move || File::open(path)).await {
            Ok(file) => Ok(Self::Known(file, dir)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::Unknown),
            Err(error) => Err(not_flushed(&dir, &error)),
        }
    }

    /// Waits until all that was written is on the disk.
    pub(super) async fn flush(self) -> Result<(), RuntimeError> {
        match self {
            Self::Known(file, dir) => {
                let flushed = blocking(move || Ok(nix::unistd::syncfs(&file)?)).await;
                flushed.map_err(|error| not_flushed(&dir, &error))
            }
            Self::Unknown => {
                debug!("containerd does not say where it writes: every disk is flushed");
                let everywhere = Path::new("/");
                let flushed = blocking(|| {
                    nix::unistd::sync();
                    Ok(())
                });
                flushed.await.map_err(|error| not_flushed(everywhere, &error))
            }
        }
    }
}

/// Where containerd keeps its blobs, if it says so.
pub(super) async fn content_root(connection: &Connection) -> Result<Option<PathBuf>, RuntimeError> {
    let filters = vec!["type==io.containerd.content.v1".to_owned()];
    let request = connection.request(services::PluginsRequest { filters });
    let answer = connection.client().await?.introspection().plugins(request).await;
    let answer = answer.map_err(|status| failed("ask where content is kept", &status))?;
    let mut plugins = answer.into_inner().plugins.into_iter();
    Ok(plugins.find_map(|plugin| plugin.exports.get("root").map(PathBuf::from)))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn not_flushed(dir: &Path, error: &io::Error) -> RuntimeError {
    trouble(Reason::StorageFailed, format!("cannot flush {}: {error}", dir.display()))
}
