//! Storages: folders and devices of the board that volumes show, and the options they are mounted with.
//!
//! A storage is named by the environment document and used by volumes of apps. The options of both add up: the app's
//! win where they differ, but for what the environment forbids.

use std::collections::BTreeSet;

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
