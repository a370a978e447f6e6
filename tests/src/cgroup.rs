//! What the kernel says of a container: its limits, and what it did about them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The text of a file of the process's group, whichever version of cgroups the machine has: `v1` below `controller`, or
/// `v2`.
pub fn cgroup_file(pid: u32, controller: &str, v1: &str, v2: &str) -> Result<String> {
    let membership = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let root = Path::new("/sys/fs/cgroup");
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (names, path) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let file: PathBuf = match names {
            "" => root.join(path.trim_start_matches('/')).join(v2),
            names if names.split(',').any(|name| name == controller) => {
                root.join(controller).join(path.trim_start_matches('/')).join(v1)
            }
            _ => continue,
        };
        if let Ok(text) = fs::read_to_string(file) {
            return Ok(text.trim().to_owned());
        }
    }
    bail!("no file of {controller} in {membership}")
}

/// The number after `key` in a text of lines `key number`.
pub fn counter(text: &str, key: &str) -> Result<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    let (_, number) = lines.find(|(name, _)| *name == key).with_context(|| format!("no {key}"))?;
    Ok(number.trim().parse()?)
}
