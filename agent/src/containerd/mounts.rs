//! Mounts that stand on the board for as long as a replica needs them, and ways into folders that containers write to.
//!
//! A path is never trusted here: what a container can write to, it can fill with links to the board's own files. So a
//! folder is opened step by step, and what was opened is what is mounted.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::unistd::{Gid, Uid, fchown};

use super::within::open_within;

/// The size of a page on most boards: a file takes one at least.
const PAGE: u64 = 4096;

/// Even a small volume holds some files: each costs about a kilobyte of memory.
const MIN_FILES: u64 = 1024;

/// Mounts that lie on one another at a place; more than a few is a loop without end.
const MAX_STACKED: u32 = 100;

/// What is wrong where the agent's mounts are not those of PID 1, and it has no right to go there.
const APART: &str = "the agent's unit sets it apart (ProtectSystem=, PrivateTmp=, ReadOnlyPaths= and the like do) and \
                     takes CAP_SYS_ADMIN or CAP_SYS_CHROOT from it: leave out the one or the other";

const NO_DATA: Option<&str> = None;

/// Whose a folder is that is made because it is missing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mode: u32,
}

impl Owner {
    /// Any user of a container may write to it, as to an `emptyDir`.
    pub(super) const ANYONE: Self = Self { uid: None, gid: None, mode: 0o777 };
}

/// Does something where PID 1's mounts are seen and made: the unit may have a mount namespace of its own, which
/// containerd and runc do not look into. The thread cannot come back, so it is one that ends with the work.
pub(super) fn on_the_board<T>(work: impl FnOnce() -> T) -> io::Result<T> {
    let ours = fs::metadata("/proc/thread-self/ns/mnt")?.ino();
    let init = match File::open("/proc/1/ns/mnt") {
        // A sandbox that may not look at PID 1 shares its own mounts with its containerd.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(work()),
        init => init?,
    };
    if init.metadata()?.ino() != ours {
        let join = || {
            unshare(CloneFlags::CLONE_FS)?;
            setns(&init, CloneFlags::CLONE_NEWNS)
        };
        join().map_err(|error| io::Error::other(format!("{error}; {APART}")))?;
    }
    Ok(work())
}

/// An empty file system in memory, of at most `bytes`, that any user may write to.
pub(super) fn mount_memory(target: &Path, bytes: u64) -> nix::Result<()> {
    let files = (bytes / PAGE).max(MIN_FILES);
    let data = format!("size={bytes},nr_inodes={files},mode=0777");
    mount_private(Some("skerry"), target, "tmpfs", SAFE, Some(&data))
}

/// An empty file system that never leaves memory: what is in it is not swapped either. It has no bound but ours.
pub(super) fn mount_vault(target: &Path) -> nix::Result<()> {
    mount_private(Some("skerry"), target, "ramfs", SAFE | MsFlags::MS_NOEXEC, Some("mode=0755"))
}

/// Nothing in a volume gives rights that a container has not.
pub(super) const SAFE: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

/// Mounts a file system, apart from what happens to other mounts of it.
pub(super) fn mount_private(
    source: Option<&str>,
    target: &Path,
    kind: &str,
    flags: MsFlags,
    data: Option<&str>,
) -> nix::Result<()> {
    mount(source, target, Some(kind), flags, data)?;
    keep_private(target)
}

/// Shows what was opened at `target` too. What is mounted below it is no part of it.
pub(super) fn bind(opened: &OwnedFd, target: &Path) -> nix::Result<()> {
    let source = format!("/proc/thread-self/fd/{}", opened.as_raw_fd());
    mount(Some(source.as_str()), target, NO_DATA, MsFlags::MS_BIND, NO_DATA)?;
    keep_private(target)
}

/// Makes one place of a file system read-only, whoever writes to it at others. `flags` are those it was mounted with.
pub(super) fn forbid_writing(target: &Path, flags: MsFlags) -> nix::Result<()> {
    let flags = flags | MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(NO_DATA, target, NO_DATA, flags, NO_DATA)
}

/// Where mounts are shared with their twins, the end of one would be the end of what is mounted below all of them.
fn keep_private(target: &Path) -> nix::Result<()> {
    mount(NO_DATA, target, NO_DATA, MsFlags::MS_PRIVATE, NO_DATA)
}

/// A file system of its own is mounted here.
pub(super) fn is_mounted(target: &Path) -> bool {
    let device = |path: &Path| fs::symlink_metadata(path).map(|found| found.dev()).ok();
    let above = target.parent().and_then(device);
    above.is_some() && device(target).is_some_and(|own| Some(own) != above)
}

/// Takes away all that is mounted at `target`. Containers that have it keep it to their end.
pub(super) fn unmount(target: &Path) -> nix::Result<()> {
    for _ in 0..MAX_STACKED {
        match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => (),
            // Not a mount any more, or not there at all.
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Err(Errno::EBUSY)
}

/// Opens a folder of the board, following no link on the way.
pub(super) fn open_folder(path: &Path) -> nix::Result<OwnedFd> {
    let root = open("/", LOOK | OFlag::O_DIRECTORY, Mode::empty())?;
    let inner = path.strip_prefix("/").unwrap_or(path);
    let inner = if inner.as_os_str().is_empty() { Path::new(".") } else { inner };
    let links = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    open_within(&root, inner, OpenHow::new().flags(LOOK | OFlag::O_DIRECTORY).resolve(links))
}

const LOOK: OFlag = OFlag::O_PATH.union(OFlag::O_CLOEXEC);

/// How links in a folder are taken.
#[derive(Debug, Clone, Copy)]
pub(super) enum Links {
    /// Those that stay inside are followed.
    Inside,
    /// None is followed.
    Never,
}

/// Opens what `path` names in the folder `root`, which it never leaves; folders that are missing are made for `owner`,
/// if there is one.
pub(super) fn open_inside(
    root: &OwnedFd,
    path: &Path,
    links: Links,
    owner: Option<Owner>,
) -> nix::Result<OwnedFd> {
    let follow = match links {
        Links::Inside => ResolveFlag::empty(),
        Links::Never => ResolveFlag::RESOLVE_NO_SYMLINKS,
    };
    let how = OpenHow::new()
        .flags(LOOK)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS | follow);
    let look = |path: &Path| {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        open_within(root, path, how)
    };
    let Some(owner) = owner else { return look(path) };
    let mut deepest = look(Path::new(""))?;
    let mut reached = std::path::PathBuf::new();
    for part in path.components() {
        reached.push(part);
        deepest = match look(&reached) {
            Err(Errno::ENOENT) => {
                make_folder(&deepest, Path::new(part.as_os_str()), owner)?;
                look(&reached)?
            }
            found => found?,
        };
    }
    Ok(deepest)
}

fn make_folder(parent: &OwnedFd, name: &Path, owner: Owner) -> nix::Result<()> {
    match mkdirat(parent, name, Mode::S_IRWXU) {
        // Somebody else was first, and it is theirs.
        Err(Errno::EEXIST) => return Ok(()),
        made => made?,
    }
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let links = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    give(&open_within(parent, name, OpenHow::new().flags(flags).resolve(links))?, owner)
}

/// Makes a folder `owner`'s; not one that was opened for looking only.
pub(super) fn give(folder: &OwnedFd, owner: Owner) -> nix::Result<()> {
    fchown(folder, owner.uid.map(Uid::from_raw), owner.gid.map(Gid::from_raw))?;
    fchmod(folder, Mode::from_bits_truncate(owner.mode))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn opened(path: &Path) -> OwnedFd {
        open(path, LOOK | OFlag::O_DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn a_path_never_leads_out_of_its_folder() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("volume");
        fs::create_dir_all(folder.join("real")).unwrap();
        symlink("/etc", folder.join("absolute")).unwrap();
        symlink("../../..", folder.join("upwards")).unwrap();
        symlink("real", folder.join("inside")).unwrap();
        let root = opened(&folder);
        let try_open = |path: &str, links| {
            open_inside(&root, Path::new(path), links, Some(Owner::ANYONE)).map(drop)
        };
        for path in ["absolute", "absolute/new", "upwards", "upwards/new", "../x"] {
            assert!(try_open(path, Links::Inside).is_err(), "{path}");
        }
        assert!(try_open("inside/new", Links::Inside).is_ok());
        assert!(folder.join("real/new").is_dir());
        assert_eq!(try_open("inside", Links::Never), Err(Errno::ELOOP));
        assert!(!Path::new("/etc/new").exists());
    }

    #[test]
    fn folders_that_are_missing_are_made_for_their_owner_and_others_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let root = opened(folder.path());
        fs::create_dir(folder.path().join("old")).unwrap();
        fs::set_permissions(folder.path().join("old"), fs::Permissions::from_mode(0o700)).unwrap();
        let path = Path::new("old/new/deep");
        assert_eq!(open_inside(&root, path, Links::Never, None).map(drop), Err(Errno::ENOENT));
        open_inside(&root, path, Links::Never, Some(Owner::ANYONE)).unwrap();
        let mode = |path: &str| fs::metadata(folder.path().join(path)).unwrap().mode() & 0o777;
        assert_eq!((mode("old"), mode("old/new"), mode("old/new/deep")), (0o700, 0o777, 0o777));
    }

    #[test]
    fn a_folder_behind_a_link_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(folder.path()).unwrap();
        fs::create_dir(real.join("a")).unwrap();
        symlink(real.join("a"), real.join("link")).unwrap();
        assert!(open_folder(&real.join("a")).is_ok());
        assert_eq!(open_folder(&real.join("link")).map(drop), Err(Errno::ELOOP));
        assert_eq!(open_folder(&real.join("b")).map(drop), Err(Errno::ENOENT));
    }
}
