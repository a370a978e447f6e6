//! An archive on its way in: a file without a name, gone with the call, whatever ends it.
//!
//! The archive is read more than once, so it cannot go straight from the socket to the image store. It lies beside the
//! state, on disk: `/tmp` may be memory.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use domain::reason::Reason;
use domain::replica::Trouble;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;

use crate::space::Space;

/// What an import leaves free: the state store and the container logs need some, and what is unpacked comes on top.
const LEAVE_FREE: u64 = 64 << 20;

/// An archive as far as it has come.
#[derive(Debug)]
pub(super) struct Spool {
    file: File,
}

impl Spool {
    /// An empty one, in `dir`.
    pub(super) fn new(dir: &Path) -> Result<Self, Trouble> {
        let path = dir.join(".incoming-archive");
        let make = || {
            fs::create_dir_all(dir)?;
            // Another import may have been cut short between these lines.
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => (),
            }
            let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
            fs::remove_file(&path)?;
            Ok(file)
        };
        Ok(Self { file: File::from_std(make().map_err(|error| failed(&error))?) })
    }

    /// One more part.
    pub(super) async fn write(&mut self, part: &[u8]) -> Result<(), Trouble> {
        let disk = Space::of(&self.file).map_err(|error| failed(&error))?;
        if disk.free_bytes < LEAVE_FREE + part.len() as u64 {
            return Err(failed(&io::ErrorKind::StorageFull.into()));
        }
        self.file.write_all(part).await.map_err(|error| failed(&error))
    }

    /// No more parts: every byte has reached the file.
    pub(super) async fn end(&mut self) -> Result<(), Trouble> {
        self.file.flush().await.map_err(|error| failed(&error))
    }

    /// Where it can be opened, by this process, while it lasts.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }
}

fn failed(error: &io::Error) -> Trouble {
    let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded].contains(&error.kind());
    let reason = if full { Reason::StorageFull } else { Reason::StorageFailed };
    Trouble { reason, details: format!("cannot keep the archive: {error}") }
}
