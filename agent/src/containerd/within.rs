//! Opening what a path names within a folder, whatever else happens on the board meanwhile.

use std::os::fd::{AsFd, OwnedFd};

use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::{OpenHow, openat2};

/// The kernel gives up where a rename or a mount elsewhere keeps it from being sure (openat2(2), `EAGAIN`): it is asked
/// again so often.
const TRIES: u32 = 128;

/// `openat2`, asked again where the kernel could not be sure.
///
/// # Errors
///
/// Those of openat2(2); `EAGAIN` only where the board does not come to rest.
pub(super) fn open_within(
    folder: &impl AsFd,
    path: &(impl ?Sized + NixPath),
    how: OpenHow,
) -> nix::Result<OwnedFd> {
    for _ in 1..TRIES {
        match openat2(folder, path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) => (),
            answer => return answer,
        }
    }
    openat2(folder, path, how)
}
