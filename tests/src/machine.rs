//! A whole machine, emulated: its own kernel, systemd, containerd and the agent as its unit starts it.
//!
//! ```text
//!   this machine                                     emulated
//!   ┌────────────────────────────────┐              ┌──────────────────────────────┐
//!   │ test ── port ──────────────────┼── forward ──▶│ :80 ingress                  │
//!   │ Broker on the board's cable ◀──┼── NAT ───────┤ skerry.service               │
//!   │ Shell ── socket ───────────────┼── port ─────▶│ test-shell.service           │
//!   └────────────────────────────────┘              └──────────────────────────────┘
//! ```
//!
//! Killing the emulator is cutting the power: what the machine had not written to its disk is lost.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::disk::Disk;
use crate::http::Client;
use crate::image::Image;
use crate::lan::Lan;
use crate::process::{Process, tail};
use crate::shell::Shell;

/// For what an emulated machine does on a loaded one: a boot takes half a minute where nothing else runs.
pub const EMULATED: Duration = Duration::from_mins(8);
/// Lines of the console that say why a step failed.
const CONSOLE_LINES: usize = 60;
/// Where Debian's packages put units.
const UNITS: &str = "/usr/lib/systemd/system";

/// The processor of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A PC.
    X86,
    /// A board with a 64-bit ARM.
    Arm,
}

impl Kind {
    /// By the name on the command line.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "x86-64" => Some(Self::X86),
            "arm64" => Some(Self::Arm),
            _ => None,
        }
    }

    fn emulator(self) -> Command {
        // Boots of a test have time; who works beside them has less.
        let mut command = Command::new("nice");
        match self {
            // Without cx16: Debian's kernel panics on it under this emulation.
            Self::X86 => command
                .args(["qemu-system-x86_64", "-machine", "q35"])
                .args(["-cpu", "max,cx16=off"]),
            Self::Arm => {
                command.args(["qemu-system-aarch64", "-machine", "virt", "-cpu", "cortex-a72"])
            }
        };
        command
    }

    fn console(self) -> &'static str {
        match self {
            Self::X86 => "ttyS0",
            Self::Arm => "ttyAMA0",
        }
    }

    /// The test app as an image for it.
    pub fn testapp(self, name: &str, programs: &Path) -> Image {
        let image = Image::testapp_at(name, programs.join("testapp"));
        match self {
            Self::X86 => image.platform("amd64", ""),
            Self::Arm => image.platform("arm64", "v8"),
        }
    }
}

/// How a machine comes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boot {
    /// Whether there is a network card.
    pub network: bool,
    /// Seconds since 1970 that its clock shows; what it has if it is `None` is the right time.
    pub clock: Option<u32>,
}

/// A machine with its disk, on or off.
#[derive(Debug)]
pub struct Machine {
    kind: Kind,
    root: PathBuf,
    dir: PathBuf,
    disk: Disk,
    /// Where its port 80 can be reached from here.
    web: SocketAddr,
    emulator: Option<Process>,
    shell: Option<Shell>,
}

impl Machine {
    /// A machine that was never on, with the agent as its package lays it, and `name` for its files. `root` has its
    /// system, `programs` the agent and the test app.
    pub fn new(lan: &Lan, name: &str, kind: Kind, root: &Path, programs: &Path) -> Result<Self> {
        let dir = lan.dir().join(name);
        fs::create_dir_all(&dir)?;
        let web = SocketAddr::from((lan.host(), lan.free_port()?));
        let mut disk = Disk::copy(&root.join("root.img"), dir.join("disk.img"))?;
        install(&mut disk, programs)?;
        let root = root.to_owned();
        Ok(Self { kind, root, dir, disk, web, emulator: None, shell: None })
    }

    /// The disk, for what a test adds while the machine is off.
    pub fn disk(&mut self) -> &mut Disk {
        &mut self.disk
    }

    /// Has `image` come with the board.
    pub fn preload(&mut self, image: &Image) -> Result<()> {
        let file = format!("{}.tar", image.name().replace(['/', ':'], "-"));
        let path = self.disk.scratch().join(&file);
        image.write_oci(&path)?;
        self.disk.file(&path, &format!("/usr/share/skerry/images/{file}"), 0o644);
        Ok(())
    }

    /// Turns it on.
    pub fn start(&mut self, boot: Boot) -> Result<()> {
        self.disk.write()?;
        let socket = self.dir.join("shell.sock");
        let _ = fs::remove_file(&socket);
        let mut command = self.kind.emulator();
        command.args(["-accel", "tcg,thread=multi", "-smp", "2", "-m", "1G", "-nodefaults"]);
        command.args(["-display", "none", "-no-reboot"]);
        command.arg("-kernel").arg(self.root.join("vmlinuz"));
        command.arg("-initrd").arg(self.root.join("initrd"));
        command.args(["-append", &self.kernel_words(boot)]);
        let console = self.dir.join("console.log");
        let console = format!("file,id=console,append=on,path={}", console.display());
        command.args(["-chardev", &console, "-serial", "chardev:console"]);
        let disk = self.disk.path().display();
        // Written back like a real disk's cache: what the machine flushes is safe from a kill, all else may not be there.
        command
            .arg("-drive")
            .arg(format!("file={disk},format=raw,if=none,id=disk,cache=writeback"));
        command.args(["-device", "virtio-blk-pci,drive=disk", "-device", "virtio-rng-pci"]);
        command.args(["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=shell"]);
        let chardev = format!("socket,id=shell,path={},server=on,wait=on", socket.display());
        command.args(["-chardev", &chardev]);
        if boot.network {
            let forward = format!("user,id=net,hostfwd=tcp:{}-:80", self.web);
            // No boot from the network, hence no firmware for it.
            command.args(["-netdev", &forward, "-device", "virtio-net-pci,netdev=net,romfile="]);
        }
        if let Some(seconds) = boot.clock {
            command.args(["-rtc", &format!("base=1970-01-02T00:00:{:02}", seconds % 60)]);
        }
        self.emulator = Some(Process::start("qemu", &mut command, &self.dir.join("qemu.log"))?);
        self.shell = Some(Shell::connect(&socket).with_context(|| self.told())?);
        Ok(())
    }

    fn kernel_words(&self, boot: Boot) -> String {
        let console = self.kind.console();
        // systemd moves a clock that is older than itself to its own age; a board without it would stay in 1970.
        let clock = boot.clock.map(|seconds| format!("systemd.clock_usec={seconds}000000"));
        format!(
            "root=/dev/vda rw console={console} net.ifnames=0 panic=-1 systemd.show_status=0 \
             systemd.journald.forward_to_console=1 systemd.journald.max_level_console=info {}",
            clock.unwrap_or_default()
        )
    }

    /// Cuts the power.
    pub fn cut(&mut self) -> Result<()> {
        self.shell = None;
        if let Some(mut emulator) = self.emulator.take() {
            emulator.kill()?;
        }
        Ok(())
    }

    /// Somebody on the LAN.
    pub fn client(&self) -> Client {
        Client::new(self.web)
    }

    /// Runs a line of the shell in it; its first answer says that the machine has come so far.
    pub fn run(&mut self, line: &str) -> Result<String> {
        let outcome = match &mut self.shell {
            Some(shell) => shell.run(line, EMULATED),
            None => anyhow::bail!("the machine is off"),
        };
        outcome.with_context(|| self.told())
    }

    /// The last of its console and of the emulator's complaints, for whoever asks why.
    pub fn told(&self) -> String {
        let text = |name: &str| fs::read(self.dir.join(name)).unwrap_or_default();
        let console = text("console.log");
        let console = String::from_utf8_lossy(&console);
        let complaints = text("qemu.log");
        format!(
            "the console says:\n{}\n{}",
            tail(&console, CONSOLE_LINES),
            String::from_utf8_lossy(&complaints)
        )
    }
}

/// What the package of the agent brings.
fn install(disk: &mut Disk, programs: &Path) -> Result<()> {
    let systemd = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd");
    for folder in
        ["/etc/skerry", "/etc/skerry/apps.d", "/usr/share/skerry", "/usr/share/skerry/images"]
    {
        disk.folder(folder);
    }
    disk.file(&programs.join("skerry"), "/usr/bin/skerry", 0o755);
    for (file, at) in [
        ("skerry.service", format!("{UNITS}/skerry.service")),
        ("skerry.sysusers", "/usr/lib/sysusers.d/skerry.conf".to_owned()),
        ("skerry.tmpfiles", "/usr/lib/tmpfiles.d/skerry.conf".to_owned()),
    ] {
        disk.file(&systemd.join(file), &at, 0o644);
    }
    let wants = "/etc/systemd/system/multi-user.target.wants/skerry.service";
    disk.link(wants, &format!("{UNITS}/skerry.service"));
    disk.write()
}
