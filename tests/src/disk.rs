//! The disk of an emulated machine, filled without mounting it.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::command::{output, run};

/// An image of a disk with one ext4 on it.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    /// What lies beside it and is written onto it.
    scratch: PathBuf,
    /// Commands for `debugfs` that wait for [`Disk::write`].
    commands: String,
    files: usize,
}

impl Disk {
    /// A copy of `root` at `path`; what is empty stays a hole.
    pub fn copy(root: &Path, path: PathBuf) -> Result<Self> {
        let (from, to) = (root.display().to_string(), path.display().to_string());
        run("cp", ["--sparse=always", &from, &to])?;
        let scratch = path.with_extension("files");
        fs::create_dir_all(&scratch)?;
        Ok(Self { path, scratch, commands: String::new(), files: 0 })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a file can be made that is then put onto the disk.
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// Makes a folder in one that is there.
    pub fn folder(&mut self, at: &str) {
        let _ = writeln!(self.commands, "mkdir {at}");
    }

    /// Puts the file `from` at `at`, with `mode`.
    pub fn file(&mut self, from: &Path, at: &str, mode: u32) {
        let _ = writeln!(self.commands, "write {} {at}", from.display());
        let _ = writeln!(self.commands, "sif {at} mode {:#o}", 0o100_000 | mode);
    }

    /// Puts a file with this text at `at`.
    pub fn text(&mut self, text: &str, at: &str) -> Result<()> {
        self.files += 1;
        let from = self.scratch.join(format!("text-{}", self.files));
        fs::write(&from, text)?;
        fs::set_permissions(&from, fs::Permissions::from_mode(0o644))?;
        self.file(&from, at, 0o644);
        Ok(())
    }

    /// Links `at` to `target`.
    pub fn link(&mut self, at: &str, target: &str) {
        let _ = writeln!(self.commands, "symlink {at} {target}");
    }

    /// Does all that was asked for so far.
    pub fn write(&mut self) -> Result<()> {
        // A disk that lost its power is for its own kernel to mend: it is not even opened.
        if self.commands.is_empty() {
            return Ok(());
        }
        let file = self.scratch.join("commands");
        fs::write(&file, &self.commands)?;
        self.commands.clear();
        let mut command = Command::new("debugfs");
        command.arg("-w").arg("-f").arg(&file).arg(&self.path);
        let said = output(&mut command).context("debugfs is in the package e2fsprogs")?;
        // It succeeds whatever happens; its first line of complaints is its version.
        let complaints = String::from_utf8_lossy(&said.stderr);
        let complaints: Vec<&str> = complaints.lines().skip(1).collect();
        ensure!(complaints.is_empty(), "debugfs: {}", complaints.join("\n"));
        Ok(())
    }
}
