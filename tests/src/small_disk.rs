//! A small disk of its own for parts of a board, and files that fill it.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::sys::statvfs::statvfs;

use crate::command::run;
use crate::lan::Lan;

/// An ext4 in a file, mounted by a loop device. Whoever takes the board down unmounts it, and with the last mount the
/// device is free again.
#[derive(Debug)]
pub struct SmallDisk {
    dir: PathBuf,
}

impl SmallDisk {
    /// Puts these folders of the board's directory on a disk of so many MiB. To be called before anything lies in them.
    pub fn under<const N: usize>(lan: &Lan, folders: [&str; N], mib: u64) -> Result<Self> {
        let file = lan.dir().join("disk.img");
        let dir = lan.dir().join("disk");
        File::create(&file)?.set_len(mib << 20)?;
        let (image, mount) = (file.display().to_string(), dir.display().to_string());
        // No blocks are set aside for root: what is full is full for everybody.
        run("mkfs.ext4", ["-q", "-m", "0", &image])?;
        fs::create_dir_all(&dir)?;
        run("mount", ["-o", "loop", &image, &mount])?;
        for folder in folders {
            let (part, place) = (dir.join(folder), lan.dir().join(folder));
            fs::create_dir_all(&part)?;
            fs::create_dir_all(&place)?;
            run("mount", ["--bind", &part.display().to_string(), &place.display().to_string()])?;
        }
        Ok(Self { dir })
    }

    /// Bytes that may still be written.
    pub fn free(&self) -> Result<u64> {
        let space = statvfs(&self.dir)?;
        Ok(space.blocks_available() * space.fragment_size())
    }

    /// Fills it until no more than `left` bytes are free.
    pub fn fill_but(&self, left: u64) -> Result<Filler> {
        let filler = Filler { path: self.dir.join("filler") };
        let size = self.free()?.checked_sub(left).context("it is fuller than that already")?;
        run("fallocate", ["-l", &size.to_string(), &filler.path.display().to_string()])?;
        Ok(filler)
    }

    /// Fills it to the last block, also where others write beside it.
    pub fn fill(&self) -> Result<Filler> {
        let filler = self.fill_but(64 << 10)?;
        let mut file = OpenOptions::new().append(true).open(&filler.path)?;
        while file.write_all(&[0; 4096]).is_ok() && file.sync_data().is_ok() {}
        let free = self.free()?;
        ensure!(free < 4096, "{free} bytes are still free");
        Ok(filler)
    }
}

/// What fills a disk; dropped, it makes room.
#[derive(Debug)]
pub struct Filler {
    path: PathBuf,
}

impl Filler {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
