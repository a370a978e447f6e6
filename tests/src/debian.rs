//! A Debian of a test's own, booted in a container: systemd, dpkg and the unit are real. Containers do not run in it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::command::{output, run};
use crate::http::Client;
use crate::process::Process;
use crate::wait::{LONG, eventually};

/// Where the root file system is kept that every machine begins with: making it takes minutes.
const KEPT: &str = "/var/cache/skerry/bookworm.tar";

/// What it has beside the essential packages: what the package of Skerry depends on, and what is asked here.
const PACKAGES: &str =
    "systemd,systemd-sysv,dbus,containerd,runc,nftables,ca-certificates,iproute2,procps";

/// A machine that runs.
#[derive(Debug)]
pub struct Debian {
    process: Process,
    /// The first process in it.
    init: u32,
    root: TempDir,
}

impl Debian {
    /// Boots one.
    pub fn boot() -> Result<Self> {
        Self::boot_after(|_| Ok(()))
    }

    /// Boots one after something was done to its root file system.
    pub fn boot_after(prepare: impl FnOnce(&Path) -> Result<()>) -> Result<Self> {
        if !Path::new(KEPT).exists() {
            make_root()?;
        }
        let root = tempfile::Builder::new().prefix("skt-machine-").tempdir()?;
        run("tar", ["-C", &root.path().display().to_string(), "-xf", KEPT])?;
        prepare(root.path())?;
        let mut command = Command::new("systemd-nspawn");
        command
            .args([
                "--quiet",
                "--register=no",
                "--keep-unit",
                "--private-network",
                "--console=pipe",
            ])
            .args(["--boot", "--directory"])
            .arg(root.path())
            .arg("--machine=skerry-test")
            .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
        let process = Process::start("the machine", &mut command, &root.path().join("boot.log"))?;
        let init = eventually("the machine's first process", LONG, || first_child(process.pid()))?;
        let machine = Self { process, init, root };
        eventually("the machine to be up", LONG, || {
            let said = machine.run("systemctl", ["is-system-running"])?;
            ensure!(said.trim() == "running", "it is {said}");
            Ok(())
        })?;
        Ok(machine)
    }

    /// Runs a program in it, to its end; what it printed.
    pub fn run<const N: usize>(&self, program: &str, words: [&str; N]) -> Result<String> {
        let outcome = self.try_run(program, words)?;
        let said = String::from_utf8_lossy(&outcome.stderr);
        ensure!(outcome.status.success(), "{program} {words:?}: {}", said.trim());
        Ok(String::from_utf8_lossy(&outcome.stdout).into_owned())
    }

    /// The same; the whole outcome.
    pub fn try_run<const N: usize>(&self, program: &str, words: [&str; N]) -> Result<Output> {
        output(self.command(program).args(words))
    }

    /// A program in it, to be completed.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd"]);
        command.arg(format!("--target={}", self.init)).arg(program);
        command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8");
        command
    }

    /// A place in its file system.
    pub fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path.trim_start_matches('/'))
    }

    /// A property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> Result<String> {
        Ok(self.run("systemctl", ["show", "--property", name, "--value", unit])?.trim().to_owned())
    }

    /// Somebody in it who asks one of its ports.
    pub fn client(&self, port: u16) -> Client {
        let netns = format!("/proc/{}/ns/net", self.init);
        Client::inside(netns.into(), SocketAddr::from(([127, 0, 0, 1], port)))
    }

    /// What the unit has said.
    pub fn journal(&self, unit: &str) -> String {
        self.run("journalctl", ["--no-pager", "--unit", unit]).unwrap_or_default()
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        // Its first process is asked to end the others; what it mounted ends with it.
        let _ = self.process.terminate();
    }
}

fn first_child(pid: u32) -> Result<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    Ok(children.split_whitespace().next().context("it has none yet")?.parse()?)
}

fn make_root() -> Result<()> {
    let kept = Path::new(KEPT);
    fs::create_dir_all(kept.parent().context("it lies somewhere")?)?;
    // Under its name only when it is whole.
    let whole = format!("{KEPT}.new.tar");
    let include = format!("--include={PACKAGES}");
    run("mmdebstrap", ["--quiet", "--variant=minbase", &include, "bookworm", &whole])?;
    fs::rename(whole, kept)?;
    Ok(())
}
