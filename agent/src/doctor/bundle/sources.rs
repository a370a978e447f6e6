//! What of the board goes into a bundle: files that have no secrets by their nature, and lists of names.

use std::path::{Path, PathBuf};

use super::Piece;
use crate::doctor::Board;

/// Of each file; more of one tells nobody more.
const LARGEST: usize = 256 << 10;

/// The most names of a folder, with those below it.
const MOST_NAMES: usize = 2000;

/// How deep folders are looked into.
const DEEPEST: usize = 6;

/// Files as they are.
const FILES: &[&str] = &[
    "/proc/version",
    "/proc/cmdline",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/swaps",
    "/proc/mounts",
    "/proc/filesystems",
    "/proc/modules",
    "/proc/cgroups",
    "/proc/partitions",
    "/proc/diskstats",
    "/proc/pressure/cpu",
    "/proc/pressure/io",
    "/proc/pressure/memory",
    "/proc/net/dev",
    "/proc/net/route",
    "/proc/net/tcp",
    "/proc/net/tcp6",
    "/proc/net/udp",
    "/proc/net/udp6",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/device-tree/model",
    "/sys/fs/cgroup/cgroup.controllers",
    "/sys/fs/cgroup/cgroup.subtree_control",
    "/etc/os-release",
    "/etc/resolv.conf",
    "/etc/containerd/config.toml",
];

/// Where units are, the owner's before the system's.
const UNITS: &[&str] = &["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];

/// What a cgroup of ours says of itself.
const CGROUP: &[&str] =
    &["memory.current", "memory.max", "memory.events", "pids.current", "cgroup.events"];

/// All of it.
pub(super) fn pieces(board: &Board) -> Vec<Piece> {
    let mut pieces: Vec<_> =
        FILES.iter().filter_map(|path| piece(board, Path::new(path))).collect();
    pieces.extend(units(board));
    pieces.push(Piece::new("nft.txt", (board.asked.nft.ruleset)().unwrap_or_else(|error| error)));
    pieces.push(Piece::new("processes.txt", processes(board)));
    pieces.push(Piece::new("cgroups.txt", cgroups(board)));
    for (name, dir) in
        [("state.txt", &board.config.state.dir), ("run.txt", &board.config.state.run_dir)]
    {
        pieces.push(Piece::new(name, listing(board, dir)));
    }
    pieces
}

/// A file under its own path; none where it cannot be read.
fn piece(board: &Board, path: &Path) -> Option<Piece> {
    let text = board.text(path)?;
    let end = text.floor_char_boundary(LARGEST);
    let name = path.strip_prefix("/").unwrap_or(path).display().to_string();
    Some(Piece::new(name, format!("{}\n", &text[..end])))
}

/// The units of the agent and containerd, and what the owner changes of them; values of variables stay here.
fn units(board: &Board) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for unit in ["skerry.service", "containerd.service"] {
        for dir in UNITS.iter().map(Path::new) {
            let drops = dir.join(format!("{unit}.d"));
            let names = board.names(&drops).into_iter().map(|name| drops.join(name));
            let found = names.chain([dir.join(unit)]).filter_map(|path| piece(board, &path));
            pieces.extend(
                found.map(|Piece { name, text }| Piece { name, text: without_values(&text) }),
            );
        }
    }
    pieces
}

/// `Environment=NAME=***`, and no credential.
fn without_values(unit: &str) -> String {
    let clean = |line: &str| {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        if key.trim() == "Environment" {
            let names = value.split_whitespace().filter_map(|word| word.split_once('='));
            let names: Vec<_> = names
                .map(|(name, _)| format!("{}=***", name.trim_start_matches(['"', '\''])))
                .collect();
            return format!("Environment={}\n", names.join(" "));
        }
        if key.trim().starts_with("SetCredential") {
            return format!("{key}=***\n");
        }
        format!("{line}\n")
    };
    unit.lines().map(clean).collect()
}

/// The processes of the runtime and the agent: what each takes, never how it was called.
fn processes(board: &Board) -> String {
    let ours = [
        "skerry",
        "containerd",
        "runc",
        "crun",
        "nft",
        "systemd-timesyn",
        "chronyd",
        "ntpd",
        "avahi-daemon",
    ];
    let mut text = String::from("PID COMMAND STATE RSS THREADS\n");
    for pid in board.names("/proc").into_iter().filter(|name| name.parse::<u32>().is_ok()) {
        let status = board.text(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or("-").trim().to_owned()
        };
        let name = field("Name");
        if ours.iter().any(|known| name.starts_with(known)) {
            let fields = [&*pid, &name, &field("State"), &field("VmRSS"), &field("Threads")];
            text.extend([&fields.join(" "), "\n"]);
        }
    }
    text
}

/// The cgroups of apps: those of the agent's own name.
fn cgroups(board: &Board) -> String {
    let mut text = String::new();
    for root in ["/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/system.slice"] {
        let names = board.names(root).into_iter().filter(|name| name.contains("skerry"));
        for dir in names.map(|name| Path::new(root).join(name)) {
            walk(board, &dir, DEEPEST, &mut |path| {
                let is_told =
                    path.file_name().is_some_and(|name| CGROUP.iter().any(|told| *told == name));
                if let Some(said) = is_told.then(|| board.text(path)).flatten() {
                    text.extend([
                        &path.display().to_string(),
                        ": ",
                        &said.replace('\n', ", "),
                        "\n",
                    ]);
                }
            });
        }
    }
    text
}

/// The names below a folder, with their sizes.
fn listing(board: &Board, dir: &Path) -> String {
    let mut lines = Vec::new();
    walk(board, dir, DEEPEST, &mut |path| {
        if lines.len() < MOST_NAMES {
            let size = board.place(path).symlink_metadata().map_or(0, |meta| meta.len());
            lines.push(format!("{size:>12} {}\n", path.display()));
        }
    });
    lines.concat()
}

/// Calls `each` with every name below `dir`, but for what is mounted into it: volumes and replicas have files of their own.
fn walk(board: &Board, dir: &Path, depth: usize, each: &mut impl FnMut(&Path)) {
    let own = ["volumes", "logs", "rootfs"];
    let names = board.names(dir).into_iter().filter(|name| !own.contains(&name.as_str()));
    for path in names.map(|name| dir.join(name)).collect::<Vec<PathBuf>>() {
        each(&path);
        let is_dir = board.place(&path).symlink_metadata().is_ok_and(|meta| meta.is_dir());
        if is_dir && 0 < depth {
            walk(board, &path, depth - 1, each);
        }
    }
}
