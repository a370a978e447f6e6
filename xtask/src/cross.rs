//! `cargo xtask build`: the agent for ARM boards, on a machine that is none, with packages of Debian alone.
//!
//! Rust's own standard library for these boards is taken where the toolchain has it (`rustup target add …`). Where it has
//! not, Debian's `rustc-web` builds it along: `rust-web-src` has its source, and the two must be of one version.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::install::install_all;
use crate::{cargo, finish, target_dir};

/// What the stripped binary may take.
const BUDGET_BYTES: u64 = 10_000_000;

/// The compiler of `rustc-web`, and where `rust-web-src` puts the source of the standard library.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_SOURCE: &str = "/usr/lib/rustlib/src/rust/library/std/Cargo.toml";

/// The oldest compiler that builds the agent: `rust-version` of the workspace.
const OLDEST_RUSTC: (u32, u32) = (1, 95);

/// A kind of board.
#[derive(Debug)]
pub(crate) struct Board {
    /// How it is called on the command line, and what it may be called as well.
    pub(crate) name: &'static str,
    debian: &'static str,
    /// What Rust calls it: whole, and as a processor.
    pub(crate) triple: &'static str,
    arch: &'static str,
    /// What the names of its compiler and its folder below `/usr` begin with.
    gnu: &'static str,
    /// Runs its programs here.
    pub(crate) qemu: &'static str,
    packages: &'static [(&'static str, &'static str)],
}

pub(crate) const BOARDS: &[Board] = &[
    Board {
        name: "aarch64",
        debian: "arm64",
        triple: "aarch64-unknown-linux-gnu",
        arch: "aarch64",
        gnu: "aarch64-linux-gnu",
        qemu: "qemu-aarch64-static",
        packages: &[
            ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
            ("/usr/aarch64-linux-gnu/include/stdio.h", "libc6-dev-arm64-cross"),
        ],
    },
    Board {
        name: "armv7",
        debian: "armhf",
        triple: "armv7-unknown-linux-gnueabihf",
        arch: "arm",
        gnu: "arm-linux-gnueabihf",
        qemu: "qemu-arm-static",
        packages: &[
            ("arm-linux-gnueabihf-gcc", "gcc-arm-linux-gnueabihf"),
            ("/usr/arm-linux-gnueabihf/include/stdio.h", "libc6-dev-armhf-cross"),
        ],
    },
];

impl Board {
    /// The libraries of its system, as the cross compiler brings them.
    pub(crate) fn libraries(&self) -> PathBuf {
        Path::new("/usr").join(self.gnu)
    }

    /// Where the agent for it lies after a build.
    pub(crate) fn binary(&self, profile: &str) -> Result<PathBuf> {
        let folder = if profile == "dev" { "debug" } else { profile };
        Ok(cross_dir()?.join(self.triple).join(folder).join("skerry"))
    }

    fn is_this_machine(&self) -> bool {
        self.arch == env::consts::ARCH
    }

    pub(crate) fn named(name: &str) -> Result<&'static Self> {
        let known = || BOARDS.iter().map(|board| board.name).collect::<Vec<_>>().join(" and ");
        let mut boards = BOARDS.iter();
        let found = boards.find(|board| [board.name, board.debian, board.triple].contains(&name));
        found.with_context(|| format!("there is no target {name:?}; there are {}", known()))
    }
}

/// Builds for the boards that `--target` names, by `--profile` or as the binary that is handed out, and says how big it is.
#[expect(clippy::print_stdout, reason = "a command line")]
pub(crate) fn run(options: &[String]) -> Result<()> {
    let (mut boards, mut profile) = (Vec::new(), "dist");
    let mut words = options.iter();
    while let Some(option) = words.next() {
        let value = words.next().with_context(|| format!("{option} wants a value"))?;
        match option.as_str() {
            "--target" => boards.push(Board::named(value)?),
            "--profile" => profile = value,
            _ => bail!("unknown option {option:?}; there are --target and --profile"),
        }
    }
    ensure!(!boards.is_empty(), "for which board?\nhint: cargo xtask build --target aarch64");
    build(&boards, profile)?;
    for board in boards {
        let binary = board.binary(profile)?;
        let strip = if board.is_this_machine() { "strip" } else { &format!("{}-strip", board.gnu) };
        let bytes = stripped_bytes(&binary, strip)?;
        println!("{}: {}", board.name, binary.display());
        println!("{}: {}", board.name, size_line(bytes));
    }
    Ok(())
}

/// Builds the agent for `boards`, in one run of cargo, which builds once what runs here.
pub(crate) fn build(boards: &[&Board], profile: &str) -> Result<()> {
    let words = ["build", "--locked", "--package", "skerry", "--profile", profile];
    finish(&mut command(boards, &words)?)
}

/// Builds the test app for `board`: static, so that an image needs nothing else. Tells where it is.
pub(crate) fn testapp(board: &Board) -> Result<PathBuf> {
    let mut command = command(&[board], &["build", "--locked", "--package", "testapp"])?;
    command.env("RUSTFLAGS", "-C target-feature=+crt-static");
    finish(command.env("CARGO_PROFILE_DEV_STRIP", "symbols"))?;
    Ok(cross_dir()?.join(board.triple).join("debug/testapp"))
}

/// A run of cargo for `boards`, once all that it needs is installed.
fn command(boards: &[&Board], words: &[&str]) -> Result<Command> {
    let mut packages = vec![("protoc", "protobuf-compiler")];
    let foreign: Vec<&Board> =
        boards.iter().copied().filter(|board| !board.is_this_machine()).collect();
    packages.extend(foreign.iter().flat_map(|board| board.packages));
    // A compiler brings the libraries of each board it was told of, or of none but this machine's.
    let own_std = boards.iter().all(|board| has_std(board));
    if !own_std {
        packages.extend([(DEBIAN_RUSTC, "rustc-web"), (DEBIAN_SOURCE, "rust-web-src")]);
    }
    install_all(&packages)?;

    let mut command = cargo(words);
    command.arg("--target-dir").arg(cross_dir()?);
    for board in boards {
        command.args(["--target", board.triple]);
    }
    for board in foreign {
        let triple = board.triple.to_uppercase().replace('-', "_");
        command
            .env(format!("CARGO_TARGET_{triple}_LINKER"), format!("{}-gcc", board.gnu))
            .env_remove("RUSTFLAGS");
    }
    if !own_std {
        check_debian_rustc()?;
        // Without what reads debug information to name functions: there is none in what is handed out.
        command
            .args(["-Zbuild-std=std", "-Zbuild-std-features=panic-unwind"])
            .env("RUSTC", DEBIAN_RUSTC)
            .env("RUSTC_BOOTSTRAP", "1");
    }
    Ok(command)
}

/// What a binary takes without its symbols.
pub(crate) fn stripped_bytes(binary: &Path, strip: &str) -> Result<u64> {
    let stripped = binary.with_extension("stripped");
    finish(Command::new(strip).arg("-o").arg(&stripped).arg(binary))?;
    Ok(std::fs::metadata(stripped)?.len())
}

/// A size, and what it is of the budget.
pub(crate) fn size_line(bytes: u64) -> String {
    // In whole percent, and a part of one counts.
    let percent = (bytes * 100).div_ceil(BUDGET_BYTES);
    format!("{bytes} bytes stripped, {percent} % of the budget of {BUDGET_BYTES}")
}

fn cross_dir() -> Result<PathBuf> {
    Ok(target_dir()?.join("cross"))
}

/// Whether the toolchain has a standard library for the board.
fn has_std(board: &Board) -> bool {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let asked = Command::new(rustc)
        .args(["--print", "target-libdir", "--target", board.triple])
        .output()
        .ok()
        .filter(|answer| answer.status.success());
    let Some(answer) = asked else { return false };
    let dir = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    files.map(|file| file.file_name()).any(|name| name.to_string_lossy().starts_with("libstd-"))
}

/// Another package of Debian has a compiler of the same name, and it is years old.
fn check_debian_rustc() -> Result<()> {
    let said = Command::new(DEBIAN_RUSTC).arg("--version").output();
    let said = said.with_context(|| format!("cannot start {DEBIAN_RUSTC}"))?;
    let said = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    let version = said.split(' ').nth(1).and_then(major_minor);
    let found = version.with_context(|| format!("{DEBIAN_RUSTC} tells no version: {said:?}"))?;
    let (major, minor) = OLDEST_RUSTC;
    ensure!(
        OLDEST_RUSTC <= found,
        "{DEBIAN_RUSTC} is {said}, and {major}.{minor} or later is needed\n\
         hint: apt-get install rustc-web rust-web-src"
    );
    Ok(())
}

fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_board_is_known_by_each_of_its_names() {
        for name in ["armv7", "armhf", "armv7-unknown-linux-gnueabihf"] {
            assert_eq!(Board::named(name).unwrap().name, "armv7");
        }
        let error = Board::named("mips").unwrap_err().to_string();
        assert_eq!(error, "there is no target \"mips\"; there are aarch64 and armv7");
    }

    #[test]
    fn a_size_is_told_beside_its_budget() {
        assert_eq!(size_line(9_999_999), "9999999 bytes stripped, 100 % of the budget of 10000000");
        assert_eq!(
            size_line(10_000_001),
            "10000001 bytes stripped, 101 % of the budget of 10000000"
        );
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(major_minor("1.96.0"), Some((1, 96)));
        assert!(major_minor("1.100.0") > Some(OLDEST_RUSTC));
        assert!(major_minor("1.63.0") < Some(OLDEST_RUSTC));
        assert_eq!(major_minor("nightly"), None);
    }
}
