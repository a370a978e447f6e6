//! What the tests and the demo need from the machine.

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::finish;
use crate::vm::Machine;

/// A program or file that must be there, and the package of Debian that has it.
const NEEDED: &[(&str, &str)] = &[
    ("avahi-browse", "avahi-utils"),
    ("avahi-daemon", "avahi-daemon"),
    ("/bin/busybox", "busybox-static"),
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("curl", "curl"),
    ("dbus-daemon", "dbus"),
    ("docker-registry", "docker-registry"),
    ("gcc", "gcc"),
    ("/usr/include/stdio.h", "libc6-dev"),
    ("ip", "iproute2"),
    ("losetup", "mount"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mosquitto", "mosquitto"),
    ("mosquitto_pub", "mosquitto-clients"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("protoc", "protobuf-compiler"),
    ("runc", "runc"),
    ("skopeo", "skopeo"),
    ("systemd-analyze", "systemd"),
];

/// What the bench measures beside.
const NEEDED_FOR_BENCH: &[(&str, &str)] =
    &[("nginx", "nginx-light"), ("strip", "binutils"), ("wrk", "wrk")];

/// What long tests need: a Debian to boot.
const NEEDED_FOR_LONG: &[(&str, &str)] =
    &[("mmdebstrap", "mmdebstrap"), ("strip", "binutils"), ("systemd-nspawn", "systemd-container")];
/// What makes and runs an emulated machine.
const NEEDED_FOR_VM: &[(&str, &str)] = &[
    ("cpio", "cpio"),
    ("debugfs", "e2fsprogs"),
    ("depmod", "kmod"),
    ("mmdebstrap", "mmdebstrap"),
    ("strip", "binutils"),
    ("xzcat", "xz-utils"),
];
const NEEDED_FOR_X86: &[(&str, &str)] = &[("qemu-system-x86_64", "qemu-system-x86")];
const NEEDED_FOR_ARM: &[(&str, &str)] = &[
    ("qemu-system-aarch64", "qemu-system-arm"),
    ("qemu-aarch64-static", "qemu-user-static"),
    ("arch-test", "arch-test"),
    ("aarch64-linux-gnu-strip", "binutils-aarch64-linux-gnu"),
];

/// Where programs of the system lie, also those that only root has on its path.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Installs what the tests and the demo need.
pub(crate) fn install() -> Result<()> {
    install_all(NEEDED)
}

/// Installs what the bench needs beyond that.
pub(crate) fn install_for_bench() -> Result<()> {
    install_all(NEEDED_FOR_BENCH)
}

/// Installs what long tests need beyond that.
pub(crate) fn install_for_long() -> Result<()> {
    install_all(NEEDED_FOR_LONG)
}

/// Installs what an emulated machine needs.
pub(crate) fn install_for_vm(machine: Machine) -> Result<()> {
    install_all(NEEDED_FOR_VM)?;
    install_all(match machine {
        Machine::X86 => NEEDED_FOR_X86,
        Machine::Arm => NEEDED_FOR_ARM,
    })
}

/// Installs what is missing; says what is missing where we may not.
#[expect(clippy::print_stdout, reason = "a command line")]
pub(crate) fn install_all(needed: &[(&str, &str)]) -> Result<()> {
    let mut missing: Vec<&str> =
        needed.iter().filter(|(file, _)| !is_there(file)).map(|(_, package)| *package).collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    if !is_root() {
        bail!("these packages are missing: {packages}\nhint: sudo apt-get install {packages}");
    }
    println!("installing {packages}");
    let apt = || {
        let mut command = Command::new("apt-get");
        // In runlevel 1 no service is started: the programs are wanted, not the ports they would take.
        command.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
        command
    };
    finish(apt().args(["update", "--quiet"]))?;
    finish(apt().args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(&missing))
}

/// Checks what is depended on, where the tool for it is; it is in no package of Debian.
#[expect(clippy::print_stdout, reason = "a command line")]
pub(crate) fn dependencies() -> Result<()> {
    if !is_there("cargo-deny") {
        println!("skipped: cargo-deny is not on the path (cargo install --locked cargo-deny)");
        return Ok(());
    }
    // The advisories want the network, and change without us.
    finish(&mut crate::cargo(&["deny", "--offline", "check", "bans", "licenses", "sources"]))
}

fn is_there(file: &str) -> bool {
    let path = env::var("PATH").unwrap_or_default();
    Path::new(file).is_absolute() && Path::new(file).exists()
        || path
            .split(':')
            .chain(SYSTEM_PATH.split(':'))
            .any(|dir| Path::new(dir).join(file).is_file())
}

/// The owner of our own process directory is who we are.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|found| found.uid() == 0)
}
