//! What deltas between layers would save: five pairs of layers, made of real Debian packages before and after an update.
//!
//! The new layer is cut into pieces where its content says so (content-defined chunks), and what the old layer holds too
//! need not come over the wire: only the other pieces, each packed by itself, and the list of all of them. Beside it
//! stands the whole layer, packed as registries hold it. `cargo xtask deltas` runs this; ADR 23 tells what follows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

/// Layers as images for boards have them: a runtime or a server that a base image is followed by.
const PAIRS: [(&str, &[&str]); 5] = [
    ("python", &["python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib"]),
    ("node", &["nodejs", "libnode108"]),
    ("java", &["openjdk-17-jre-headless"]),
    ("postgresql", &["postgresql-15", "postgresql-client-15", "libpq5"]),
    ("php", &["php8.2-cli", "php8.2-common", "php8.2-opcache"]),
];

/// Bytes of a piece: the least, what is aimed at beyond that (a power of two), and the most.
const LEAST: usize = 4 << 10;
const AIM: u64 = 16 << 10;
const MOST: usize = 64 << 10;

/// An entry of the list: a digest and a length.
const ENTRY: usize = 32 + 4;

/// Whose clock the files of a layer show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Times {
    /// The packages' own, as `apt-get install` leaves them.
    Own,
    /// One for all, as builds that can be repeated do (`SOURCE_DATE_EPOCH`).
    Fixed,
}

#[expect(clippy::print_stdout, reason = "what it is run for")]
fn main() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut shares: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    println!("layer        files' times    whole gzip   delta        of it");
    for (name, packages) in PAIRS {
        let mut versions = [Vec::new(), Vec::new()];
        for package in packages {
            for (debs, version) in versions.iter_mut().zip(first_and_last(package)?) {
                debs.push(fetched(dir.path(), package, &version)?);
            }
        }
        for times in [Times::Own, Times::Fixed] {
            let [old, new] = [layer(&versions[0], times)?, layer(&versions[1], times)?];
            let (whole, delta) = (packed(&new)?, delta(&old, &new)?);
            let share = ratio(delta, whole);
            let word = if times == Times::Own { "own" } else { "fixed" };
            println!("{name:<12} {word:<12} {whole:>12} {delta:>12} {:>7.1} %", 100.0 * share);
            shares.entry(word).or_default().push(share);
        }
    }
    for (times, mut shares) in shares {
        shares.sort_by(f64::total_cmp);
        println!("median, {times} times: {:.1} %", 100.0 * shares[shares.len() / 2]);
    }
    Ok(())
}

/// The oldest and the newest version that the machine's package sources have.
fn first_and_last(package: &str) -> Result<[String; 2]> {
    let table = said(Command::new("apt-cache").args(["madison", package]))?;
    let versions = table.lines().filter_map(|line| line.split('|').nth(1));
    let versions: BTreeSet<&str> = versions.map(str::trim).collect();
    let mut versions: Vec<&str> = versions.into_iter().collect();
    versions.sort_by(|a, b| {
        let less = Command::new("dpkg").args(["--compare-versions", a, "lt", b]).status();
        if less.is_ok_and(|status| status.success()) {
            std::cmp::Ordering::Less
        } else {
            std::cmp::Ordering::Greater
        }
    });
    ensure!(2 <= versions.len(), "the package sources have one version of {package}: {table}");
    Ok([versions[0].to_owned(), versions[versions.len() - 1].to_owned()])
}

fn fetched(dir: &Path, package: &str, version: &str) -> Result<PathBuf> {
    let place = dir.join(format!("{package}-{}", version.replace([':', '/'], "_")));
    fs::create_dir_all(&place)?;
    let mut download = Command::new("apt-get");
    download.args(["-q", "-o", "APT::Sandbox::User=root", "download"]);
    said(download.arg(format!("{package}={version}")).current_dir(&place))?;
    let entry = fs::read_dir(&place)?.next().context("nothing came")??;
    Ok(entry.path())
}

/// The files of the packages as one layer, in the order of their paths.
fn layer(debs: &[PathBuf], times: Times) -> Result<Vec<u8>> {
    let mut files: BTreeMap<PathBuf, (tar::Header, Vec<u8>)> = BTreeMap::new();
    for deb in debs {
        let mut child = Command::new("dpkg-deb");
        child.arg("--fsys-tarfile").arg(deb);
        let output = child.output()?;
        ensure!(output.status.success(), "dpkg-deb cannot read {}", deb.display());
        let mut archive = tar::Archive::new(&output.stdout[..]);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let mut header = entry.header().clone();
            if times == Times::Fixed {
                header.set_mtime(0);
                header.set_cksum();
            }
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            files.insert(entry.path()?.into_owned(), (header, content));
        }
    }
    let mut bytes = Vec::new();
    for (header, content) in files.values() {
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    Ok(bytes)
}

/// Bytes over the wire for one who has the old layer.
fn delta(old: &[u8], new: &[u8]) -> Result<usize> {
    let mut here: BTreeSet<[u8; 32]> = pieces(old).map(hash).collect();
    let mut bytes = 0;
    for piece in pieces(new) {
        bytes += ENTRY;
        if here.insert(hash(piece)) {
            bytes += packed(piece)?;
        }
    }
    Ok(bytes)
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Cuts where the last bytes, mixed, end in enough zeros: a byte more at the front moves no cut behind it.
fn pieces(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let gear: Vec<u64> = (0..=255_u8)
        .map(|byte| {
            let digest = hash(&[byte]);
            digest.iter().take(8).fold(0, |all, part| all << 8 | u64::from(*part))
        })
        .collect();
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let most = rest.len().min(MOST);
        let mut mixed = 0_u64;
        let cut = (0..most).find(|at| {
            mixed = (mixed << 1).wrapping_add(gear[usize::from(rest[*at])]);
            LEAST <= *at && (mixed >> 48).is_multiple_of(AIM)
        });
        let (piece, after) = rest.split_at(cut.map_or(most, |at| at + 1));
        rest = after;
        Some(piece)
    })
}

fn packed(bytes: &[u8]) -> Result<usize> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?.len())
}

#[expect(clippy::cast_precision_loss, reason = "shares of some megabytes")]
fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

fn said(command: &mut Command) -> Result<String> {
    let output = command.stdin(File::open("/dev/null")?).output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {error}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
