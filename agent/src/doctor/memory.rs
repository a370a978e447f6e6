//! Cgroups and memory.

use super::{Board, Check, Topic, Verdict};

pub(super) const CHECKS: &[Check] = &[
    Check::new("cgroup-version", Topic::Memory, cgroup_version),
    Check::new("memory-controller", Topic::Memory, memory_controller),
    Check::new("cpu-controller", Topic::Memory, cpu_controller),
    Check::new("pids-controller", Topic::Memory, pids_controller),
    Check::new("memory-size", Topic::Memory, size),
    Check::new("memory-free", Topic::Memory, free),
    Check::new("memory-pressure", Topic::Memory, pressure),
    Check::new("swap", Topic::Memory, swap),
];

/// The controllers of the second version's root.
const CONTROLLERS: &str = "/sys/fs/cgroup/cgroup.controllers";

/// What the system, containerd and the agent take, with a small app.
const SMALL_KB: u64 = 200 * 1024;

fn cgroup_version(board: &Board) -> Verdict {
    if board.has(CONTROLLERS) {
        return Verdict::ok("2");
    }
    if board.has("/sys/fs/cgroup") {
        return Verdict::warn(
            "1, or both",
            format!("add systemd.unified_cgroup_hierarchy=1 to {}", command_line(board)),
        );
    }
    Verdict::fail("there are no cgroups", "build the kernel with CONFIG_CGROUPS=y")
}

fn memory_controller(board: &Board) -> Verdict {
    let fix = format!("add cgroup_enable=memory to {}, and reboot", command_line(board));
    controller(board, "memory", "limits of memory are not enforced", fix)
}

fn cpu_controller(board: &Board) -> Verdict {
    let fix = "build the kernel with CONFIG_CGROUP_SCHED=y CONFIG_CFS_BANDWIDTH=y".to_owned();
    controller(board, "cpu", "limits of CPU are not enforced", fix)
}

fn pids_controller(board: &Board) -> Verdict {
    let fix = "build the kernel with CONFIG_CGROUP_PIDS=y".to_owned();
    controller(board, "pids", "an app may fill the table of processes", fix)
}

fn controller(board: &Board, name: &str, without: &str, fix: String) -> Verdict {
    let there = match board.text(CONTROLLERS) {
        Some(list) => list.split_whitespace().any(|one| one == name),
        // subsys_name, hierarchy, num_cgroups, enabled
        None => board.text("/proc/cgroups").unwrap_or_default().lines().any(|line| {
            let mut fields = line.split_whitespace();
            fields.next() == Some(name) && fields.nth(2) == Some("1")
        }),
    };
    if there { Verdict::ok("on") } else { Verdict::fail(format!("off: {without}"), fix) }
}

/// The file with the kernel's command line, as a person calls it.
fn command_line(board: &Board) -> &'static str {
    let files = ["/boot/firmware/cmdline.txt", "/boot/cmdline.txt"];
    files.into_iter().find(|file| board.has(file)).unwrap_or("the kernel's command line")
}

/// A line of `/proc/meminfo`, in KiB.
fn kib(board: &Board, name: &str) -> Option<u64> {
    let text = board.text("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

fn size(board: &Board) -> Verdict {
    match kib(board, "MemTotal") {
        Some(total) if total < SMALL_KB => Verdict::warn(
            format!("{} MB in all", total / 1024),
            "free what the system does not need: a smaller gpu_mem, fewer services",
        ),
        Some(total) => Verdict::ok(format!("{} MB", total / 1024)),
        None => Verdict::ok("the kernel does not tell"),
    }
}

fn free(board: &Board) -> Verdict {
    match kib(board, "MemAvailable").zip(kib(board, "MemTotal")) {
        Some((free, total)) if free < total / 20 => Verdict::warn(
            format!("{} of {} MB can be had", free / 1024, total / 1024),
            "see who has it: skerry apps, and ps -eo rss,comm --sort=-rss | head",
        ),
        Some((free, _)) => Verdict::ok(format!("{} MB can be had", free / 1024)),
        None => Verdict::ok("the kernel does not tell"),
    }
}

fn pressure(board: &Board) -> Verdict {
    if board.bytes("/proc/pressure/memory").is_ok() {
        return Verdict::ok("told");
    }
    Verdict::warn(
        "the kernel does not tell when processes wait for memory",
        format!("add psi=1 to {}, or build the kernel with CONFIG_PSI=y", command_line(board)),
    )
}

fn swap(board: &Board) -> Verdict {
    let swaps = board.text("/proc/swaps").unwrap_or_default();
    let devices = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    let worn: Vec<_> = devices.filter(|device| !device.starts_with("/dev/zram")).collect();
    if worn.is_empty() {
        return Verdict::ok("not on a disk");
    }
    Verdict::warn(
        format!("{} wears the flash", worn.join(", ")),
        "swap in memory: apt install zram-tools; then swapoff and remove the old one from /etc/fstab",
    )
}
