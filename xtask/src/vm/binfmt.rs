//! Programs of a foreign processor run here, by an emulator of one program, as long as a root is being made.
//!
//! The kernel keeps the rule for everybody, so it is taken back at the end, as is the mount that it is told by.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::finish;

/// Where the kernel is told.
const DIR: &str = "/proc/sys/fs/binfmt_misc";
/// The rule as the emulator's package has it.
const RULE: &str = "/usr/lib/binfmt.d/qemu-aarch64.conf";
/// The name in it.
const NAME: &str = "qemu-aarch64";

/// The rule is in force as long as this lives, and longer if it was in force before.
#[derive(Debug, Default)]
pub(super) struct Foreign {
    mounted: bool,
    ruled: bool,
}

impl Foreign {
    /// Has the kernel run programs for 64-bit ARM.
    pub(super) fn arm() -> Result<Self> {
        let dir = Path::new(DIR);
        let mut foreign = Self::default();
        if !dir.join("register").exists() {
            finish(Command::new("mount").args(["-t", "binfmt_misc", "binfmt_misc", DIR]))?;
            foreign.mounted = true;
        }
        if !dir.join(NAME).exists() {
            let rule = fs::read_to_string(RULE).with_context(|| format!("cannot read {RULE}"))?;
            fs::write(dir.join("register"), rule.trim())
                .context("the kernel does not take the rule for ARM programs")?;
            foreign.ruled = true;
        }
        Ok(foreign)
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if self.ruled {
            let _ = fs::write(Path::new(DIR).join(NAME), "-1");
        }
        if self.mounted {
            let _ = finish(Command::new("umount").arg(DIR));
        }
    }
}
