//! Disks and what is kept on them.

use std::io::ErrorKind;
use std::path::Path;

use super::{Board, Check, Topic, Verdict};
use crate::config::LogStorage;
use crate::sled_store;

pub(super) const CHECKS: &[Check] = &[
    Check::new("state-durable", Topic::Storage, durable),
    Check::new("state-writable", Topic::Storage, writable),
    Check::new("state-space", Topic::Storage, state_space),
    Check::new("state-inodes", Topic::Storage, inodes),
    Check::new("state-store", Topic::Storage, store),
    Check::new("state-damage", Topic::Storage, damage),
    Check::new("image-space", Topic::Storage, image_space),
    Check::new("flash-wear", Topic::Storage, wear),
    Check::new("container-logs", Topic::Storage, logs),
];

/// Where containerd's own configuration is, and where it keeps images when that does not say.
const CONTAINERD: &str = "/etc/containerd/config.toml";
const IMAGES: &str = "/var/lib/containerd";

/// The agent's own state stays below a few MB; the rest is for the system that shares the disk.
const LITTLE_BYTES: u64 = 64 << 20;
/// A middling image, fetched and unpacked.
const IMAGE_BYTES: u64 = 512 << 20;

fn durable(board: &Board) -> Verdict {
    let dir = &board.config.state.dir;
    match board.mount(dir) {
        Some((kind, _)) if ["tmpfs", "ramfs", "overlay"].contains(&kind.as_str()) => Verdict::fail(
            format!("{} is on {kind}: a reboot forgets every app", dir.display()),
            "mount a disk there, or set [state] dir to a folder on one",
        ),
        Some((kind, _)) => Verdict::ok(kind),
        None => Verdict::ok("the kernel does not tell"),
    }
}

fn writable(board: &Board) -> Verdict {
    let dir = &board.config.state.dir;
    match board.mount(dir) {
        Some((_, options)) if options.split(',').any(|option| option == "ro") => Verdict::fail(
            format!("{} is read-only", dir.display()),
            "see why with dmesg; then mount -o remount,rw, or check the disk with fsck",
        ),
        Some(_) | None => Verdict::ok("yes"),
    }
}

fn state_space(board: &Board) -> Verdict {
    space(board, &board.config.state.dir, LITTLE_BYTES)
}

fn image_space(board: &Board) -> Verdict {
    let own = board.text(CONTAINERD).and_then(|text| text.parse::<toml::Table>().ok());
    let root = own.as_ref().and_then(|own| own.get("root")?.as_str());
    space(board, Path::new(root.unwrap_or(IMAGES)), IMAGE_BYTES)
}

fn space(board: &Board, dir: &Path, wanted: u64) -> Verdict {
    let Some(space) = (board.space)(&board.place(dir)) else {
        return Verdict::warn(format!("{} cannot be looked at", dir.display()), "run it as root");
    };
    let found = format!("{} MB free of {}", space.free_bytes >> 20, space.bytes >> 20);
    let fix = format!("see what takes it: du -xhd1 {} | sort -h", dir.display());
    if space.free_bytes < wanted / 8 {
        Verdict::fail(found, fix)
    } else if space.free_bytes < wanted {
        Verdict::warn(found, fix)
    } else {
        Verdict::ok(found)
    }
}

fn inodes(board: &Board) -> Verdict {
    let dir = &board.config.state.dir;
    match (board.space)(&board.place(dir)) {
        Some(space) if 0 < space.inodes && space.free_inodes < space.inodes / 50 => Verdict::fail(
            format!("{} of {} free", space.free_inodes, space.inodes),
            "find the folder with too many files: du --inodes -xd3 / | sort -n | tail",
        ),
        Some(space) => Verdict::ok(format!("{} free", space.free_inodes)),
        None => Verdict::warn(format!("{} cannot be looked at", dir.display()), "run it as root"),
    }
}

fn store(board: &Board) -> Verdict {
    let dir = &board.config.state.dir;
    match sled_store::inspect_copy(&board.place(dir)) {
        Ok(Some(_)) => Verdict::ok("the copy is whole"),
        Ok(None) => Verdict::fail(
            "the copy of the store is damaged",
            "systemctl restart skerry writes it anew while the store itself is good; check the disk with fsck",
        ),
        Err(error) if error.kind() == ErrorKind::NotFound => Verdict::ok("nothing is stored yet"),
        Err(error) => Verdict::warn(format!("the copy cannot be read: {error}"), "run it as root"),
    }
}

fn damage(board: &Board) -> Verdict {
    let dir = &board.config.state.dir;
    let names = board.names(dir);
    let kept = names.iter().filter(|name| name.starts_with("state.damaged"));
    let kept: Vec<_> = kept.map(|name| dir.join(name).display().to_string()).collect();
    if kept.is_empty() {
        return Verdict::ok("none was ever found");
    }
    Verdict::warn(
        format!("{} damaged stores were moved aside", kept.len()),
        format!("check the disk with fsck; then rm -r {}", kept.join(" ")),
    )
}

/// An eMMC counts what it has worn in tenths: `0x01` is up to 10 %, `0x0b` is past its life. Two counters, of the two
/// kinds of its cells.
fn wear(board: &Board) -> Verdict {
    let mut told = Vec::new();
    for disk in board.names("/sys/block").iter().filter(|name| name.starts_with("mmcblk")) {
        let life = board.text(format!("/sys/block/{disk}/device/life_time")).unwrap_or_default();
        let tenths = life.split_whitespace().filter_map(hex).max().unwrap_or_default();
        let end = board.text(format!("/sys/block/{disk}/device/pre_eol_info"));
        let end = end.as_deref().and_then(hex).unwrap_or_default();
        let fix = "copy what matters and replace it";
        if 11 <= tenths || 3 <= end {
            return Verdict::fail(format!("{disk} is at the end of its life"), fix);
        }
        if 9 <= tenths || end == 2 {
            return Verdict::warn(format!("{disk} has worn {tenths}0 % of its life"), fix);
        }
        if 0 < tenths {
            told.push(format!("{disk} up to {tenths}0 %"));
        }
    }
    if told.is_empty() { Verdict::ok("no disk tells") } else { Verdict::ok(told.join(", ")) }
}

fn hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
}

fn logs(board: &Board) -> Verdict {
    let disks = board.names("/sys/block");
    let flash = disks.iter().any(|name| name.starts_with("mmcblk"));
    match board.config.logs.storage {
        LogStorage::Persistent if flash => Verdict::warn(
            "what containers write goes to the flash",
            "set [logs] storage = \"volatile\", unless logs must outlive a reboot",
        ),
        LogStorage::Persistent => Verdict::ok("on disk"),
        LogStorage::Volatile => Verdict::ok("in memory"),
    }
}
