//! Storages: folders and devices of the board that volumes show, and the options they are mounted with.
//!
//! A storage is named by the environment document and used by volumes of apps. The options of both add up: the app's
//! win where they differ, but no app takes back what the environment forbids.

use std::collections::BTreeSet;

use crate::reason::Reason;

/// Where a storage is, as one replica gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoragePlace {
    /// The folder or the device.
    pub source: StorageSource,
    /// Nobody writes to it. A volume that says `ro` reads only, even where this is false.
    pub read_only: bool,
    /// What it is mounted with.
    pub options: StorageOptions,
}

/// What a storage is made of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum StorageSource {
    /// A folder of the board: absolute, without `..`.
    Path(String),
    /// A block device: a path below `/dev`, or `LABEL=x`, `UUID=x`, `PARTLABEL=x`, `PARTUUID=x`.
    Device(String),
}

impl StorageSource {
    /// What the document calls it.
    pub fn text(&self) -> &str {
        match self {
            Self::Path(path) => path,
            Self::Device(device) => device,
        }
    }
}

/// Options of a mount, but for its access.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StorageOptions {
    /// Who owns it.
    pub uid: Option<u32>,
    /// Which group owns it.
    pub gid: Option<u32>,
    /// The mode of folders.
    pub dir_mode: Option<u32>,
    /// The mode of files.
    pub file_mode: Option<u32>,
    /// The rest.
    pub flags: BTreeSet<MountFlag>,
}

/// A flag of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MountFlag {
    /// Nothing is executed from it.
    NoExec,
    /// The set-user bits of its files have no effect.
    NoSuid,
    /// Its device files are plain files.
    NoDev,
    /// Each write is on the disk before it returns.
    Sync,
    /// Each change of a folder is on the disk before it returns.
    DirSync,
    /// Reading leaves no trace.
    NoAtime,
}

impl MountFlag {
    /// Every flag there is.
    pub const ALL: [Self; 6] =
        [Self::NoExec, Self::NoSuid, Self::NoDev, Self::Sync, Self::DirSync, Self::NoAtime];

    /// The word that mount knows it by.
    pub fn word(self) -> &'static str {
        match self {
            Self::NoExec => "noexec",
            Self::NoSuid => "nosuid",
            Self::NoDev => "nodev",
            Self::Sync => "sync",
            Self::DirSync => "dirsync",
            Self::NoAtime => "noatime",
        }
    }
}

/// `mountOptions`, read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MountOptions {
    /// `ro`.
    pub read_only: bool,
    /// The others.
    pub options: StorageOptions,
}

/// What is to be said about one option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionRemark {
    /// `InvalidValue` refuses the document, the others are warnings.
    pub reason: Reason,
    /// The option and the rule, for people.
    pub message: String,
}

/// Options of the file systems that Azure mounts, which mean nothing for a folder or a device of a board.
const OF_NETWORK_MOUNTS: &[&str] = &[
    "acdirmax",
    "acdirmin",
    "acregmax",
    "acregmin",
    "actimeo",
    "bg",
    "cache",
    "cifsacl",
    "closetimeo",
    "credentials",
    "domain",
    "dynperm",
    "fg",
    "forcegid",
    "forceuid",
    "fsc",
    "gss",
    "handletimeout",
    "hard",
    "iocharset",
    "local_lock",
    "lookupcache",
    "max_channels",
    "mfsymlinks",
    "minorversion",
    "multichannel",
    "multiuser",
    "nconnect",
    "nfsvers",
    "noac",
    "nobrl",
    "nocto",
    "nodfs",
    "nofsc",
    "nohandlecache",
    "nolock",
    "nomapposix",
    "noperm",
    "noposixpaths",
    "noresvport",
    "noserverino",
    "nosharecache",
    "nosharesock",
    "nostrictsync",
    "perm",
    "persistenthandles",
    "port",
    "posix",
    "proto",
    "resilienthandles",
    "resvport",
    "retrans",
    "rsize",
    "seal",
    "sec",
    "serverino",
    "sfu",
    "sharecache",
    "sign",
    "snapshot",
    "soft",
    "strictsync",
    "tcp",
    "timeo",
    "username",
    "vers",
    "wsize",
    "_netdev",
];

/// What holds anyhow.
const USUAL: &[&str] = &[
    "rw", "exec", "suid", "dev", "async", "atime", "relatime", "defaults", "auto", "noauto",
    "nofail", "nouser",
];

impl MountOptions {
    /// Reads a comma-separated list. What is wrong or has no effect is remarked on, and the rest counts.
    pub fn read(text: &str) -> (Self, Vec<OptionRemark>) {
        let (mut read, mut remarks) = (Self::default(), Vec::new());
        for option in text.split(',').map(str::trim).filter(|option| !option.is_empty()) {
            if let Err(remark) = read.take(option) {
                remarks.push(remark);
            }
        }
        (read, remarks)
    }

    fn take(&mut self, option: &str) -> Result<(), OptionRemark> {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        let key = key.trim().to_ascii_lowercase();
        let options = &mut self.options;
        if let Some(flag) = MountFlag::ALL.into_iter().find(|flag| flag.word() == key) {
            options.flags.insert(flag);
            return Ok(());
        }
        match key.as_str() {
            "ro" => self.read_only = true,
            "uid" => options.uid = Some(number(&key, value)?),
            "gid" => options.gid = Some(number(&key, value)?),
            "dir_mode" => options.dir_mode = Some(mode(&key, value)?),
            "file_mode" => options.file_mode = Some(mode(&key, value)?),
            usual if USUAL.contains(&usual) => (),
            known if OF_NETWORK_MOUNTS.contains(&known) => {
                let message = format!("{known} is for network file systems; ignored");
                return Err(OptionRemark { reason: Reason::NoMeaningHere, message });
            }
            _ => {
                let shown: String = key.chars().take(40).collect();
                let message = format!("{shown:?} is not an option that is known here; ignored");
                return Err(OptionRemark { reason: Reason::UnknownKey, message });
            }
        }
        Ok(())
    }

    /// These, with those of a volume over them. What is forbidden here stays forbidden.
    #[must_use]
    pub fn under(&self, volume: &Self) -> Self {
        let (own, over) = (&self.options, &volume.options);
        Self {
            read_only: self.read_only || volume.read_only,
            options: StorageOptions {
                uid: over.uid.or(own.uid),
                gid: over.gid.or(own.gid),
                dir_mode: over.dir_mode.or(own.dir_mode),
                file_mode: over.file_mode.or(own.file_mode),
                flags: own.flags.union(&over.flags).copied().collect(),
            },
        }
    }
}

fn number(key: &str, value: &str) -> Result<u32, OptionRemark> {
    // The last of them stands for nobody at all.
    let number = value.trim().parse().ok().filter(|number| *number != u32::MAX);
    number.ok_or_else(|| invalid(format!("{key} is a number such as {key}=1000")))
}

fn mode(key: &str, value: &str) -> Result<u32, OptionRemark> {
    let mode = u32::from_str_radix(value.trim(), 8).ok().filter(|mode| *mode <= 0o7777);
    mode.ok_or_else(|| invalid(format!("{key} is an octal number such as {key}=0755")))
}

fn invalid(message: String) -> OptionRemark {
    OptionRemark { reason: Reason::InvalidValue, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> MountOptions {
        let (read, remarks) = MountOptions::read(text);
        assert_eq!(remarks, []);
        read
    }

    #[test]
    fn options_are_read_in_any_order() {
        let options = read("noexec, ro,uid=1000,gid=0,dir_mode=0750,file_mode=640,,sync,rw");
        let flags = BTreeSet::from([MountFlag::NoExec, MountFlag::Sync]);
        let (uid, gid) = (Some(1000), Some(0));
        let (dir_mode, file_mode) = (Some(0o750), Some(0o640));
        let expected = StorageOptions { uid, gid, dir_mode, file_mode, flags };
        assert_eq!(options, MountOptions { read_only: true, options: expected });
        assert_eq!(read(""), MountOptions::default());
    }

    #[test]
    fn what_is_wrong_or_means_nothing_is_told_apart() {
        let reason = |text: &str| MountOptions::read(text).1.first().map(|remark| remark.reason);
        for text in ["mfsymlinks", "nobrl", "vers=4.1", "cache=strict", "nconnect=4"] {
            assert_eq!(reason(text), Some(Reason::NoMeaningHere), "{text}");
        }
        for text in ["uid=app", "gid=", "gid=4294967295", "dir_mode=0999", "file_mode=77777"] {
            assert_eq!(reason(text), Some(Reason::InvalidValue), "{text}");
        }
        assert_eq!(reason("noexce"), Some(Reason::UnknownKey));
        let (read, remarks) = MountOptions::read("nobrl,uid=x,gid=5");
        assert_eq!((read.options.gid, remarks.len()), (Some(5), 2), "the rest counts");
    }

    #[test]
    fn a_volume_changes_owners_and_takes_no_leave_it_was_not_given() {
        let (own, volume) = (read("uid=1,dir_mode=0700,ro,nosuid"), read("uid=2,gid=3,rw,exec"));
        let merged = own.under(&volume);
        assert_eq!(merged, read("uid=2,gid=3,dir_mode=0700,ro,nosuid"));
        assert!(own.under(&read("noexec")).options.flags.contains(&MountFlag::NoExec));
    }
}
