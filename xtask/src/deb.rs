//! `cargo xtask deb`: the Debian package, by `dpkg-deb` alone.
//!
//! What is in it is listed here; what is done at install and removal is in `systemd/debian`. The libraries that it
//! depends on are read from the binary, so that it says of itself which Debian is old enough.

use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{cargo, finish, root, target_dir};

/// What goes in as it lies in the repository: from where, to where, its mode.
const FILES: &[(&str, &str, u32)] = &[
    ("systemd/skerry.service", "usr/lib/systemd/system/skerry.service", 0o644),
    ("systemd/skerry.sysusers", "usr/lib/sysusers.d/skerry.conf", 0o644),
    ("systemd/skerry.tmpfiles", "usr/lib/tmpfiles.d/skerry.conf", 0o644),
    ("systemd/agent.toml.example", "usr/share/skerry/agent.toml.example", 0o644),
    ("systemd/override.conf.example", "usr/share/skerry/override.conf.example", 0o644),
    ("systemd/debian/agent.toml", "etc/skerry/agent.toml", 0o644),
    ("systemd/debian/README.Debian", "usr/share/doc/skerry/README.Debian", 0o644),
    ("systemd/debian/copyright", "usr/share/doc/skerry/copyright", 0o644),
    ("systemd/debian/preinst", "DEBIAN/preinst", 0o755),
    ("systemd/debian/postinst", "DEBIAN/postinst", 0o755),
    ("systemd/debian/prerm", "DEBIAN/prerm", 0o755),
    ("systemd/debian/postrm", "DEBIAN/postrm", 0o755),
];

/// What an upgrade leaves alone where the owner has changed it.
const CONFFILES: &str = "/etc/skerry/agent.toml\n";

/// A machine that the package is made for.
struct Machine {
    /// Debian's word for it.
    name: &'static str,
    /// Rust's.
    triple: &'static str,
    /// What stands in the head of its programs: class and machine.
    elf: (u8, u16),
}

const MACHINES: &[Machine] = &[
    Machine { name: "amd64", triple: "x86_64-unknown-linux-gnu", elf: (2, 62) },
    Machine { name: "arm64", triple: "aarch64-unknown-linux-gnu", elf: (2, 183) },
    Machine { name: "armhf", triple: "armv7-unknown-linux-gnueabihf", elf: (1, 40) },
];

/// Makes `target/deb/skerry_VERSION_MACHINE.deb`: of the binary that `--binary` names, or of one that it builds.
#[expect(clippy::print_stdout, reason = "a command line")]
pub(crate) fn make(options: &[String]) -> Result<()> {
    let mut machine = own()?;
    let (mut binary, mut version) = (None, version()?);
    let mut words = options.iter();
    while let Some(option) = words.next() {
        let value = words.next().with_context(|| format!("{option} wants a value"))?;
        match option.as_str() {
            "--target" => machine = of_name(value)?,
            "--binary" => binary = Some(PathBuf::from(value)),
            // For packages that are to be newer than each other.
            "--version" => version.clone_from(value),
            _ => bail!("unknown option {option:?}; there are --target, --binary and --version"),
        }
    }
    let binary = binary.map_or_else(|| build(machine), Ok)?;
    let bytes = fs::read(&binary).with_context(|| format!("cannot read {}", binary.display()))?;
    ensure!(
        elf(&bytes) == Some(machine.elf),
        "{} is no program for {}",
        binary.display(),
        machine.name
    );
    let dir = target_dir()?.join("deb");
    let name = format!("skerry_{version}_{}", machine.name);
    let (tree, package) = (dir.join(&name), dir.join(format!("{name}.deb")));
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    put(&tree.join("usr/bin/skerry"), &bytes, 0o755)?;
    for (from, to, mode) in FILES {
        let from = root().join(from);
        let text = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
        put(&tree.join(to), &text, *mode)?;
    }
    put(&tree.join("DEBIAN/conffiles"), CONFFILES.as_bytes(), 0o644)?;
    let control = control(machine, &version, &bytes);
    put(&tree.join("DEBIAN/control"), control.as_bytes(), 0o644)?;
    // xz, which every Debian reads; the format of trixie's own default is unknown to older ones.
    let words = ["--root-owner-group", "-Zxz", "--build"];
    finish(Command::new("dpkg-deb").args(words).arg(&tree).arg(&package))?;
    fs::remove_dir_all(&tree)?;
    println!("{}", package.display());
    Ok(())
}

fn of_name(name: &str) -> Result<&'static Machine> {
    let names: Vec<&str> = MACHINES.iter().map(|machine| machine.name).collect();
    let found = MACHINES.iter().find(|machine| machine.name == name);
    found.with_context(|| format!("there is no {name:?}; there are {}", names.join(", ")))
}

/// The machine that this runs on.
fn own() -> Result<&'static Machine> {
    let here = match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "arm" => "armhf",
        other => bail!("no package is made for {other}"),
    };
    of_name(here)
}

fn build(machine: &Machine) -> Result<PathBuf> {
    let words = ["build", "--profile", "dist", "--package", "skerry", "--target", machine.triple];
    finish(&mut cargo(&words))?;
    Ok(target_dir()?.join(machine.triple).join("dist/skerry"))
}

/// The version of the workspace.
fn version() -> Result<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml"))?;
    let line = manifest.lines().find_map(|line| line.strip_prefix("version = \""));
    Ok(line.and_then(|rest| rest.split('"').next()).context("no version")?.to_owned())
}

/// Class and machine of a program.
fn elf(bytes: &[u8]) -> Option<(u8, u16)> {
    let head = bytes.get(..20).filter(|head| head.starts_with(b"\x7fELF"))?;
    Some((head[4], u16::from_le_bytes([head[18], head[19]])))
}

fn control(machine: &Machine, version: &str, binary: &[u8]) -> String {
    // One for the few files beside it.
    let size = binary.len() / 1024 + 1;
    let libc =
        libc(binary).map_or_else(|| "libc6".to_owned(), |version| format!("libc6 (>= {version})"));
    format!(
        "Package: skerry\n\
         Version: {version}\n\
         Architecture: {machine}\n\
         Maintainer: Skerry maintainers <maintainers@skerry.invalid>\n\
         Section: admin\n\
         Priority: optional\n\
         Installed-Size: {size}\n\
         Depends: containerd | containerd.io, runc | containerd.io, nftables, ca-certificates, {libc}, libgcc-s1, \
         init-system-helpers (>= 1.54), systemd\n\
         Description: runs Azure Container Apps documents on this board\n \
         One agent that takes the documents of apps over MQTT, from files or from a\n \
         command line, and runs them on containerd: revisions, ingress, scaling, and\n \
         names on the LAN.\n",
        machine = machine.name,
    )
}

/// The newest version of the C library that the binary asks for, as it stands among the names of its symbols.
fn libc(binary: &[u8]) -> Option<String> {
    const MARK: &[u8] = b"GLIBC_2.";
    let places = binary.windows(MARK.len()).enumerate().filter(|(_, bytes)| *bytes == MARK);
    let minors = places.filter_map(|(at, _)| {
        let rest = binary.get(at + MARK.len()..)?.iter().take(4);
        let digits: String =
            rest.map(|byte| char::from(*byte)).take_while(char::is_ascii_digit).collect();
        digits.parse::<u32>().ok()
    });
    minors.max().map(|minor| format!("2.{minor}"))
}

fn put(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let folder = path.parent().context("a file lies in a folder")?;
    fs::create_dir_all(folder)?;
    fs::write(path, bytes)?;
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_of_a_program_says_what_it_is_for() {
        let mut head = vec![0; 20];
        assert_eq!(elf(&head), None);
        head[..4].copy_from_slice(b"\x7fELF");
        (head[4], head[18]) = (2, 183);
        assert_eq!(elf(&head), Some((2, 183)));
        assert_eq!(elf(&head[..19]), None);
    }

    #[test]
    fn the_newest_version_of_the_c_library_counts() {
        assert_eq!(libc(b"\0GLIBC_2.4\0GLIBC_2.34\0GLIBC_2.17\0"), Some("2.34".to_owned()));
        assert_eq!(libc(b"GLIBC_PRIVATE\0GLIBC_2."), None);
    }
}
