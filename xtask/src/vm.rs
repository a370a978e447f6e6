//! Whole machines for the tests: a Debian with systemd and containerd, emulated, and our files on it as a package lays them.
//!
//! ```text
//!   mmdebstrap ─▶ root.img, vmlinuz, initrd        in the cache, outside of the repository, until the recipe changes
//!   cargo      ─▶ skerry, testapp                  for the machine's processor
//!                        └─▶ the program `vm` of the tests boots them and cuts their power
//! ```

mod binfmt;
mod initrd;
mod root;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::cross::{self, Board};
use crate::{cargo, finish, install, target_dir};

/// A kind of machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Machine {
    /// A PC.
    X86,
    /// A board with a 64-bit ARM.
    Arm,
}

impl Machine {
    /// Its name on our command line.
    fn name(self) -> &'static str {
        match self {
            Self::X86 => "x86-64",
            Self::Arm => "arm64",
        }
    }

    /// Its name at Debian.
    fn debian(self) -> &'static str {
        match self {
            Self::X86 => "amd64",
            Self::Arm => "arm64",
        }
    }
}

/// Builds what the machines need that `options` name, boots each, and cuts its power.
pub(crate) fn run(options: &[String]) -> Result<()> {
    let mut machines = Vec::new();
    for option in options {
        match option.as_str() {
            "x86-64" => machines.push(Machine::X86),
            "arm64" => machines.push(Machine::Arm),
            other => bail!("unknown option {other:?}; there are x86-64 and arm64"),
        }
    }
    if machines.is_empty() {
        machines = vec![Machine::X86, Machine::Arm];
    }
    machines.into_iter().try_for_each(scenario)
}

fn scenario(machine: Machine) -> Result<()> {
    install::install()?;
    install::install_for_vm(machine)?;
    let root = root::cached(machine)?;
    let programs = programs(machine)?;
    let run = ["run", "--quiet", "--package", "system-tests", "--bin", "vm", "--", machine.name()];
    finish(cargo(&run).arg(root).arg(programs))
}

/// Builds the agent and the test app for the machine; tells in which directory they are.
fn programs(machine: Machine) -> Result<PathBuf> {
    let dir = target_dir()?.join("vm").join(machine.name());
    std::fs::create_dir_all(&dir)?;
    // What runs twenty times slower must not be slow by itself.
    let testapp = match machine {
        Machine::X86 => {
            finish(&mut cargo(&["build", "--release", "--package", "skerry"]))?;
            strip("strip", &target_dir()?.join("release/skerry"), &dir.join("skerry"))?;
            crate::testapp()?;
            target_dir()?.join("x86_64-unknown-linux-gnu/debug/testapp")
        }
        Machine::Arm => {
            let board = Board::named("aarch64")?;
            cross::build(&[board], "release")?;
            let built = board.binary("release")?;
            strip("aarch64-linux-gnu-strip", &built, &dir.join("skerry"))?;
            cross::testapp(board)?
        }
    };
    std::fs::copy(&testapp, dir.join("testapp"))
        .with_context(|| format!("cannot copy {}", testapp.display()))?;
    Ok(dir)
}

/// A build with all it knows for the debugger is a hundred megabytes, and the machine's disk is small.
fn strip(program: &str, from: &Path, to: &Path) -> Result<()> {
    finish(Command::new(program).arg("-o").arg(to).arg(from))
}
