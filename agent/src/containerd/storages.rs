//! Storages of the environment, shown where a replica's volumes are: a folder of the board, or what is on a block device.
//!
//! A device is mounted once for each replica that shows it. To the kernel that is one file system with several places,
//! and the last of them to go lets go of the device: nothing has to be counted here.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use domain::replica::{MountFlag, StorageOptions, StoragePlace, StorageSource};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::MsFlags;
use nix::sys::stat::Mode;

use super::mounts::{self, Links, Owner, SAFE};

/// What may be on a device, the pickier ones first: FAT takes almost anything for its own.
const KINDS: [&str; 10] =
    ["ext4", "xfs", "btrfs", "f2fs", "exfat", "ntfs3", "vfat", "iso9660", "squashfs", "erofs"];

/// These know no owners: who owns all of it is told with the mount.
const OWNERLESS: [&str; 3] = ["exfat", "ntfs3", "vfat"];

/// How a device may be named other than by its path, and where the board's device manager keeps those names.
const NAMES: [(&str, &str); 4] = [
    ("LABEL=", "by-label"),
    ("UUID=", "by-uuid"),
    ("PARTLABEL=", "by-partlabel"),
    ("PARTUUID=", "by-partuuid"),
];

/// ACA's default of shares: everyone may read and write.
const OPEN_MODE: u32 = 0o777;

/// Shows a storage at `target`, which is an empty folder. The text of a failure is for people.
pub(super) fn show(place: &StoragePlace, volumes_dir: &Path, target: &Path) -> Result<(), String> {
    match &place.source {
        StorageSource::Path(path) => {
            let folder = folder(Path::new(path), volumes_dir, &place.options)?;
            mounts::bind(&folder, target).map_err(|error| format!("cannot show {path}: {error}"))
        }
        StorageSource::Device(name) => {
            let device = device(name)?;
            mount_device(name, &device, place, target)
        }
    }
}

/// Whether a storage is there to be shown, as far as can be seen without showing it.
pub(super) fn look(place: &StoragePlace, volumes_dir: &Path) -> Result<(), String> {
    match &place.source {
        StorageSource::Path(path) if Path::new(path).starts_with(volumes_dir) => Ok(()),
        StorageSource::Path(path) => folder(Path::new(path), volumes_dir, &place.options).map(drop),
        StorageSource::Device(name) => device(name).map(drop),
    }
}

/// Opens a folder of the board. Below the board's own folder for volumes it is made where it is missing.
fn folder(path: &Path, volumes_dir: &Path, options: &StorageOptions) -> Result<OwnedFd, String> {
    let refused = |error: Errno| {
        let path = path.display();
        let known = [
            (Errno::ENOENT, format!("there is no folder {path} on the board")),
            (Errno::ENOTDIR, format!("{path} is no folder")),
            (Errno::ELOOP, format!("{path} is behind a link; name the folder itself")),
        ];
        let known = known.into_iter().find(|(known, _)| *known == error);
        known.map_or_else(|| format!("cannot open {path}: {error}"), |(_, text)| text)
    };
    let Ok(inner) = path.strip_prefix(volumes_dir) else {
        return mounts::open_folder(path).map_err(refused);
    };
    fs::create_dir_all(volumes_dir)
        .map_err(|error| format!("cannot make {}: {error}", volumes_dir.display()))?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open(volumes_dir, flags, Mode::empty()).map_err(refused)?;
    mounts::open_inside(&root, inner, Links::Never, Some(owner(options))).map_err(refused)
}

/// Whose a folder is that is made for a storage.
pub(super) fn owner(options: &StorageOptions) -> Owner {
    let StorageOptions { uid, gid, dir_mode, .. } = *options;
    Owner { uid, gid, mode: dir_mode.unwrap_or(OPEN_MODE) }
}

/// The words for runc that stand for the flags of a storage; a folder is shown with those that a place may have.
pub(super) fn flag_words(options: &StorageOptions) -> impl Iterator<Item = &'static str> {
    let of_a_place = |flag: &&MountFlag| match flag {
        MountFlag::NoExec | MountFlag::NoAtime => true,
        // The first two are given anyway, and the others belong to the whole file system.
        MountFlag::NoSuid | MountFlag::NoDev | MountFlag::Sync | MountFlag::DirSync => false,
    };
    options.flags.iter().filter(of_a_place).map(|flag| flag.word())
}

/// The block device that `name` stands for.
fn device(name: &str) -> Result<PathBuf, String> {
    let by_name = NAMES.iter().find_map(|(prefix, folder)| {
        let value = name.strip_prefix(prefix)?;
        Some(Path::new("/dev/disk").join(folder).join(escaped(value)))
    });
    let path = by_name.unwrap_or_else(|| PathBuf::from(name));
    match fs::metadata(&path) {
        Ok(found) if found.file_type().is_block_device() => Ok(path),
        Ok(_) => Err(format!("{name} is no block device")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(format!("the device {name} is not there"))
        }
        Err(error) => Err(format!("cannot look at the device {name}: {error}")),
    }
}

/// A label as the name of a file, as udev writes it: `my disk` is `my\x20disk`.
fn escaped(label: &str) -> String {
    let mut name = String::new();
    for c in label.chars() {
        if c.is_ascii_alphanumeric() || "#+-.:=@_".contains(c) || !c.is_ascii() {
            name.push(c);
        } else {
            name.extend(["\\x".to_owned(), format!("{:02x}", u32::from(c))]);
        }
    }
    name
}

fn mount_device(
    name: &str,
    device: &Path,
    place: &StoragePlace,
    target: &Path,
) -> Result<(), String> {
    let mut flags = SAFE;
    flags.set(MsFlags::MS_RDONLY, place.read_only);
    for flag in &place.options.flags {
        flags |= match flag {
            MountFlag::NoExec => MsFlags::MS_NOEXEC,
            MountFlag::NoSuid => MsFlags::MS_NOSUID,
            MountFlag::NoDev => MsFlags::MS_NODEV,
            MountFlag::Sync => MsFlags::MS_SYNCHRONOUS,
            MountFlag::DirSync => MsFlags::MS_DIRSYNC,
            MountFlag::NoAtime => MsFlags::MS_NOATIME,
        };
    }
    let source = device.display().to_string();
    let mut busy = false;
    for kind in KINDS {
        let data = OWNERLESS.contains(&kind).then(|| owners(&place.options));
        let mount =
            |flags| mounts::mount_private(Some(&source), target, kind, flags, data.as_deref());
        let mounted = match mount(flags) {
            // Somebody else writes to it. Then it is this place alone that is for reading.
            Err(Errno::EBUSY) if place.read_only => mount(flags.difference(MsFlags::MS_RDONLY))
                .and_then(|()| mounts::forbid_writing(target, flags)),
            mounted => mounted,
        };
        match mounted {
            Ok(()) if OWNERLESS.contains(&kind) || place.read_only => return Ok(()),
            Ok(()) => return claim(target, &place.options).map_err(|e| format!("{name}: {e}")),
            // Something else is on it, or the kernel does not know this kind.
            Err(Errno::EINVAL | Errno::ENODEV | Errno::EUCLEAN) => (),
            Err(Errno::EROFS | Errno::EACCES) if !place.read_only => {
                return Err(format!("{name} is write-protected; say readOnly: true"));
            }
            // It is in use, perhaps as one of the other kinds.
            Err(Errno::EBUSY) => busy = true,
            Err(error) => return Err(format!("cannot mount {name} as {kind}: {error}")),
        }
    }
    if busy {
        return Err(format!("{name} is mounted elsewhere with other access, or in use"));
    }
    Err(format!("{name} has no file system that this kernel knows"))
}

/// Gives the root of a file system to whom the options name; who is not named changes nothing.
fn claim(target: &Path, options: &StorageOptions) -> io::Result<()> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let root = open(target, flags, Mode::empty())?;
    if options.uid.is_some() || options.gid.is_some() {
        let found = fs::metadata(target)?;
        let mode =
            options.dir_mode.unwrap_or(std::os::unix::fs::MetadataExt::mode(&found) & 0o7777);
        mounts::give(&root, Owner { uid: options.uid, gid: options.gid, mode })?;
    }
    Ok(())
}

/// Owners and modes of everything, in the words of file systems that have none.
fn owners(options: &StorageOptions) -> String {
    let (uid, gid) = (options.uid.unwrap_or(0), options.gid.unwrap_or(0));
    let mask = |mode: Option<u32>| 0o777 & !mode.unwrap_or(OPEN_MODE);
    let (folders, files) = (mask(options.dir_mode), mask(options.file_mode));
    format!("uid={uid},gid={gid},dmask={folders:04o},fmask={files:04o}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_looked_up_as_udev_writes_it() {
        assert_eq!(escaped("my disk/1"), "my\\x20disk\\x2f1");
        assert_eq!(escaped("Größe_1.0"), "Größe_1.0");
        assert_eq!(escaped("../sda"), "..\\x2fsda");
    }

    #[test]
    fn a_device_that_cannot_be_used_is_named_with_what_is_wrong() {
        let missing = device("LABEL=no such disk").unwrap_err();
        assert_eq!(missing, "the device LABEL=no such disk is not there");
        assert_eq!(device("/dev/null").unwrap_err(), "/dev/null is no block device");
    }

    #[test]
    fn a_folder_is_made_below_the_boards_own_and_nowhere_else() {
        let outer = tempfile::tempdir().unwrap();
        let outer = fs::canonicalize(outer.path()).unwrap();
        let own = outer.join("volumes");
        let options = StorageOptions::default();
        assert!(folder(&own.join("a/b"), &own, &options).is_ok());
        assert!(own.join("a/b").is_dir());
        let refused = folder(&outer.join("c"), &own, &options).unwrap_err();
        assert_eq!(refused, format!("there is no folder {}/c on the board", outer.display()));
        assert!(!outer.join("c").exists());
        std::os::unix::fs::symlink("/etc", own.join("a/link")).unwrap();
        let refused = folder(&own.join("a/link/x"), &own, &options).unwrap_err();
        assert!(refused.contains("behind a link"), "{refused}");
    }

    #[test]
    fn file_systems_without_owners_are_told_theirs() {
        assert_eq!(owners(&StorageOptions::default()), "uid=0,gid=0,dmask=0000,fmask=0000");
        let options = StorageOptions {
            uid: Some(7),
            file_mode: Some(0o640),
            dir_mode: Some(0o750),
            ..StorageOptions::default()
        };
        assert_eq!(owners(&options), "uid=7,gid=0,dmask=0027,fmask=0137");
    }
}
