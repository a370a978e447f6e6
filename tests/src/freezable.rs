//! A disk of a test's own, which can be made to hang.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::mount::{MntFlags, umount2};

use crate::command::run;

/// Large enough for the agent's state.
const BYTES: u64 = 64 << 20;

/// A file system in a file, mounted until this goes.
#[derive(Debug)]
pub struct FreezableDisk {
    mount: PathBuf,
}

impl FreezableDisk {
    /// Makes one in `file` and mounts it at `mount`.
    pub fn new(file: &Path, mount: &Path) -> Result<Self> {
        fs::create_dir_all(mount)?;
        File::create(file)?.set_len(BYTES)?;
        run("mkfs.ext4", ["-q", &file.display().to_string()])?;
        let places = [file, mount].map(|path| path.display().to_string());
        run("mount", ["-o", "loop", &places[0], &places[1]])?;
        Ok(Self { mount: mount.to_owned() })
    }

    /// Lets it answer nobody who writes, until what is returned goes.
    pub fn hang(&self) -> Result<Hanging> {
        run("fsfreeze", ["--freeze", &self.mount.display().to_string()])?;
        Ok(Hanging(self.mount.clone()))
    }
}

impl Drop for FreezableDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.mount, MntFlags::MNT_DETACH);
    }
}

/// A disk that hangs.
#[derive(Debug)]
pub struct Hanging(PathBuf);

impl Drop for Hanging {
    fn drop(&mut self) {
        let _ = run("fsfreeze", ["--unfreeze", &self.0.display().to_string()]);
    }
}
