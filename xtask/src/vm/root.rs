//! The disk of a machine: a small Debian, made once and kept in the cache until what it is made of changes.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::binfmt::Foreign;
use super::{Machine, initrd};
use crate::{finish, install};

/// What the machines run.
const RELEASE: &str = "trixie";
/// Where packages come from if the machine we are on does not say.
const MIRROR: &str = "http://deb.debian.org/debian";
/// What is on a board beside the agent; busybox is for the first steps of the kernel and for looking around.
const PACKAGES: &str = "systemd,systemd-sysv,udev,dbus,kmod,netbase,iproute2,ca-certificates,\
                        containerd,runc,nftables,busybox-static";
/// What nobody reads on a board.
const EXCLUDED: &[&str] = &["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"];
/// Room for the system (300 MB), the agent, images and what apps write; the file is sparse.
const SIZE: &str = "1500M";

/// Files of the machine: the network as a board has it, and a shell for the tests at a port of the machine.
const FILES: &[(&str, &str)] = &[
    ("etc/hostname", "board\n"),
    ("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 board\n"),
    ("etc/fstab", "/dev/vda / ext4 defaults 0 1\n"),
    // Empty: this is its first boot.
    ("etc/machine-id", ""),
    ("etc/systemd/network/10-lan.network", "[Match]\nName=eth0\n[Network]\nDHCP=yes\n"),
    (
        "etc/systemd/system/test-shell.service",
        "[Unit]\nDescription=Shell for the tests\nDefaultDependencies=no\n\
         After=systemd-remount-fs.service\nBefore=shutdown.target\nConflicts=shutdown.target\n\
         [Service]\nExecStart=/bin/sh -c 'set -- /dev/vport*; exec /bin/sh <>\"$$1\" >&0 2>&0'\n\
         Restart=always\nRestartSec=1\nOOMScoreAdjust=-1000\n\
         [Install]\nWantedBy=sysinit.target\n",
    ),
];

/// Units that start with the machine, as `systemctl enable` would link them.
const ENABLED: &[(&str, &str)] = &[
    ("multi-user.target.wants", "/usr/lib/systemd/system/systemd-networkd.service"),
    ("network-online.target.wants", "/usr/lib/systemd/system/systemd-networkd-wait-online.service"),
    ("sysinit.target.wants", "/etc/systemd/system/test-shell.service"),
];

/// Units that would only take time of an emulated processor.
const MASKED: &[&str] = &[
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
];

/// The directory with `root.img`, `vmlinuz` and `initrd` of `machine`; it is made if it is not there.
#[expect(clippy::print_stdout, reason = "a command line")]
pub(super) fn cached(machine: Machine) -> Result<PathBuf> {
    let cache = cache()?;
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let lock = File::create(cache.join("lock"))?;
    lock.lock().context("cannot lock the cache")?;
    let prefix = format!("vm-{}-", machine.name());
    let dir = cache.join(format!("{prefix}{:016x}", key(machine)));
    if dir.is_dir() {
        return Ok(dir);
    }
    if !install::is_root() {
        bail!("the root of a machine is made by root\nhint: sudo cargo xtask vm");
    }
    println!("making {} (once; it takes some minutes)", dir.display());
    // What an older recipe made, or one that was cut short.
    for entry in fs::read_dir(&cache)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    let partial = cache.join(format!("{prefix}partial"));
    fs::create_dir(&partial)?;
    make(machine, &partial)?;
    fs::rename(&partial, &dir)?;
    Ok(dir)
}

/// Outside of the repository, so that no `cargo clean` costs minutes.
fn cache() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("SKERRY_CACHE") {
        return Ok(dir.into());
    }
    let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let base = base.or(home).context("there is no HOME; set SKERRY_CACHE")?;
    Ok(base.join("skerry"))
}

/// A number that changes with the recipe: everything that this file and the one of the first steps say.
fn key(machine: Machine) -> u64 {
    let recipe = [include_str!("root.rs"), include_str!("initrd.rs"), machine.debian()].concat();
    // FNV-1a, 64 bit: its result is the same with every compiler.
    recipe.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn make(machine: Machine, dir: &Path) -> Result<()> {
    let (root, kernel) = (dir.join("root"), dir.join("kernel"));
    let foreign = match machine {
        Machine::X86 => None,
        Machine::Arm => Some(Foreign::arm()?),
    };
    let mut command = bootstrap(machine, "minbase", PACKAGES);
    for path in EXCLUDED {
        command.arg(format!("--dpkgopt=path-exclude={path}"));
    }
    finish(command.arg(RELEASE).arg(&root).arg(mirror()))?;
    // Unpacked and not installed: the maintainer's scripts would make an initrd, for minutes where they are emulated.
    let package = format!("linux-image-cloud-{}", machine.debian());
    finish(bootstrap(machine, "extract", &package).arg(RELEASE).arg(&kernel).arg(mirror()))?;
    drop(foreign);
    let version = only_entry(&kernel.join("usr/lib/modules"))?;
    finish(Command::new("depmod").arg("-b").arg(kernel.join("usr")).arg(&version))?;
    fs::copy(kernel.join(format!("boot/vmlinuz-{version}")), dir.join("vmlinuz"))?;
    let modules = kernel.join("usr/lib/modules").join(&version);
    initrd::make(&modules, &root.join("bin/busybox"), dir)?;
    furnish(&root)?;
    let there = root.join("usr/lib/modules");
    fs::create_dir_all(&there)?;
    finish(Command::new("cp").arg("-a").arg(&modules).arg(&there))?;
    let mut command = Command::new("mke2fs");
    command.args(["-q", "-t", "ext4", "-L", "root", "-d"]).arg(&root);
    finish(command.arg(dir.join("root.img")).arg(SIZE))?;
    fs::remove_dir_all(&root)?;
    fs::remove_dir_all(&kernel)?;
    Ok(())
}

fn bootstrap(machine: Machine, variant: &str, packages: &str) -> Command {
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--mode=root", "--components=main"]);
    command.arg(format!("--architectures={}", machine.debian()));
    command.arg(format!("--variant={variant}")).arg(format!("--include={packages}"));
    command
}

/// The files, the links and the masks.
fn furnish(root: &Path) -> Result<()> {
    use std::os::unix::fs::symlink;
    let units = root.join("etc/systemd/system");
    for (path, content) in FILES {
        let path = root.join(path);
        fs::create_dir_all(path.parent().context("a file lies somewhere")?)?;
        fs::write(path, content)?;
    }
    for (target, unit) in ENABLED {
        let dir = units.join(target);
        fs::create_dir_all(&dir)?;
        let link = dir.join(Path::new(unit).file_name().context("a unit has a name")?);
        if fs::symlink_metadata(&link).is_err() {
            symlink(unit, link)?;
        }
    }
    for unit in MASKED {
        symlink("/dev/null", units.join(unit))?;
    }
    // mmdebstrap copies the resolver of where it ran; ours is told by DHCP, or there is none.
    fs::write(root.join("etc/resolv.conf"), "nameserver 10.0.2.3\n")?;
    Ok(())
}

/// The mirror that the machine we are on uses for Debian itself.
fn mirror() -> String {
    let sources = fs::read_to_string("/etc/apt/sources.list.d/debian.sources").unwrap_or_default();
    let uris = sources.lines().find_map(|line| line.strip_prefix("URIs: "));
    uris.and_then(|uris| uris.split(' ').next()).unwrap_or(MIRROR).to_owned()
}

fn only_entry(dir: &Path) -> Result<String> {
    let mut entries =
        fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let entry = entries.next().with_context(|| format!("{} is empty", dir.display()))??;
    Ok(entry.file_name().to_string_lossy().into_owned())
}
