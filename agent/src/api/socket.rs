//! The socket file: made with its rights already on it, taken over from an agent that died, left to one that lives.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::unistd::Group;
use tokio::net::UnixListener;

use crate::report::Hint;

/// Owner and group may call.
const MODE: u32 = 0o660;

/// Members may call; where the group does not exist, only root may.
const GROUP: &str = "skerry";

/// A bound socket. Its file goes when this does.
#[derive(Debug)]
pub struct ApiSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// Device and inode: the file at `path` may be another agent's by the time we stop.
    identity: (u64, u64),
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another agent answers there.
    #[error("another agent answers at {}", .0.display())]
    Taken(PathBuf),
    /// Something else has this name.
    #[error("{} is there and is no socket", .0.display())]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("cannot {doing} {}", path.display())]
    System {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Hint for SocketError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Taken(_) => Some("stop it, or give this one its own state.run_dir".to_owned()),
            Self::NotASocket(_) => Some("move it out of the way".to_owned()),
            Self::System { .. } => Some("run the agent as root".to_owned()),
        }
    }
}

impl ApiSocket {
    /// Binds `path`. Must be called within a tokio runtime.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| SocketError::System { doing, path, source }
        };
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(failed("make the directory", dir))?;
        }
        yield_to_the_living(path)?;
        // Bound under another name and renamed: nobody finds the socket before its rights are right, nor misses it.
        let fresh = path.with_extension("new");
        match fs::remove_file(&fresh) {
            Ok(()) => (),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (),
            Err(error) => return Err(failed("remove", &fresh)(error)),
        }
        let listener = UnixListener::bind(&fresh).map_err(failed("bind", &fresh))?;
        let mode = Permissions::from_mode(MODE);
        fs::set_permissions(&fresh, mode).map_err(failed("set the rights of", &fresh))?;
        if let Ok(Some(group)) = Group::from_name(GROUP) {
            let group = Some(group.gid.as_raw());
            std::os::unix::fs::chown(&fresh, None, group)
                .map_err(failed("set the group of", &fresh))?;
        }
        let file = fs::symlink_metadata(&fresh).map_err(failed("look at", &fresh))?;
        fs::rename(&fresh, path).map_err(failed("put in place", path))?;
        Ok(Self { listener, path: path.to_owned(), identity: (file.dev(), file.ino()) })
    }
}

impl Drop for ApiSocket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|file| (file.dev(), file.ino()) == self.identity);
        if ours {
            // At the end nobody is left to be told; a file that stays is taken over at the next start.
            drop(fs::remove_file(&self.path));
        }
    }
}

/// An error if the socket at `path` is answered, or if what is there is no socket.
fn yield_to_the_living(path: &Path) -> Result<(), SocketError> {
    match fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        Ok(_) => (),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(SocketError::System { doing: "look at", path: path.to_owned(), source });
        }
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::Taken(path.to_owned())),
        // Nobody listens: whoever made it is gone.
        Err(_) => Ok(()),
    }
}
