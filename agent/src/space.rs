//! What the kernel says of the file system that something is on.
//!
//! On a 32-bit board the kernel's numbers are 32 bits wide and count blocks: they are widened before they are multiplied,
//! or every disk would seem to have 4 GiB at most.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::sys::statvfs::{Statvfs, fstatvfs, statvfs};

/// What a file system has, and what is free of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes in all.
    pub bytes: u64,
    /// Bytes that are free.
    pub free_bytes: u64,
    /// Inodes in all; 0 where the file system makes them as it goes.
    pub inodes: u64,
    /// Inodes that are free.
    pub free_inodes: u64,
}

impl Space {
    /// Of the file system that `path`, which exists, is on.
    pub fn at(path: &Path) -> io::Result<Self> {
        Ok(Self::told(&statvfs(path)?))
    }

    /// Of the file system that an open file is on.
    pub fn of(file: impl AsFd) -> io::Result<Self> {
        Ok(Self::told(&fstatvfs(file)?))
    }

    fn told(stat: &Statvfs) -> Self {
        let block = wide(stat.fragment_size());
        Self {
            bytes: wide(stat.blocks()).saturating_mul(block),
            free_bytes: wide(stat.blocks_available()).saturating_mul(block),
            inodes: wide(stat.files()),
            free_inodes: wide(stat.files_available()),
        }
    }
}

/// A number of the kernel's, whatever its width on this board.
pub(crate) fn wide(number: impl Into<u64>) -> u64 {
    number.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_and_a_file_on_it_have_the_same_disk() {
        let file = tempfile::tempfile_in(std::env::temp_dir()).unwrap();
        let (by_path, by_file) =
            (Space::at(&std::env::temp_dir()).unwrap(), Space::of(&file).unwrap());
        assert_eq!((by_path.bytes, by_path.inodes), (by_file.bytes, by_file.inodes));
        assert!(by_path.free_bytes <= by_path.bytes && 0 < by_path.bytes);
        assert!(Space::at(Path::new("/nowhere/at/all")).is_err());
    }
}
