//! What replicas may leave on a board: looked for in each place where something can be forgotten.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::board::Board;
use crate::wait::{LONG, eventually};

/// What of replicas is on the board, in the words of each place where something can be left over.
pub fn leftovers(board: &Board) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for (what, list) in [
        ("container", board.ctr(["containers", "list", "--quiet"])?),
        ("task", board.ctr(["tasks", "list", "--quiet"])?),
        ("lease", board.ctr(["leases", "list", "--quiet"])?),
        ("ingest", board.ctr(["content", "active", "--quiet"]).unwrap_or_default()),
    ] {
        found.extend(list.lines().map(|line| format!("{what} {line}")));
    }
    let snapshots = board.ctr(["snapshots", "list"])?;
    let writable = snapshots.lines().filter(|line| line.contains("Active"));
    found.extend(writable.map(|line| format!("snapshot {line}")));
    let links = board.run("ip", ["-o", "link", "show", "type", "veth"])?;
    let cables = links.lines().filter(|line| !line.contains("lan0"));
    found.extend(cables.map(|line| format!("cable {line}")));
    for folder in ["netns", "etc", "volumes"] {
        for entry in fs::read_dir(board.dir().join("run").join(folder)).into_iter().flatten() {
            found.insert(format!("{folder} {}", entry?.file_name().display()));
        }
    }
    let prefix = board.dir().join("run/netns").display().to_string();
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mounts = mounts.lines().filter(|line| line.contains(&prefix) || line.contains("/s/io."));
    let ours = mounts.filter(|line| line.contains(&format!("{}/", board.dir().display())));
    found.extend(ours.map(|line| format!("mount {line}")));
    found.extend(programs(board.dir(), &board.device()));
    Ok(found)
}

/// Shims and loggers of the board.
fn programs(dir: &Path, device: &str) -> BTreeSet<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = entries.filter_map(|entry| fs::read_to_string(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| line.replace('\0', " "));
    let logs = format!("{}/run/logs", dir.display());
    let shim = format!("-namespace {device} ");
    lines
        .filter(|line| {
            line.contains("containerd-shim") && line.contains(&shim)
                || line.contains(" logger ") && line.contains(&logs)
        })
        .collect()
}

/// Waits until nothing of any replica is on the board.
pub fn await_nothing_left(board: &Board) -> Result<()> {
    eventually("nothing to be left", LONG, || {
        let left = leftovers(board)?;
        ensure!(left.is_empty(), "{left:#?}");
        Ok(())
    })
}
