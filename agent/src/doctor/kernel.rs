//! The kernel and the machine.

use super::options::{modules, options};
use super::{Board, Check, Topic, Verdict};

pub(super) const CHECKS: &[Check] = &[
    Check::new("kernel-version", Topic::Kernel, version),
    Check::new("architecture", Topic::Kernel, architecture),
    Check::new("kernel-options", Topic::Kernel, options),
    Check::new("namespaces", Topic::Kernel, namespaces),
    Check::new("overlayfs", Topic::Kernel, overlayfs),
    Check::new("bridges", Topic::Kernel, bridges),
    Check::new("nftables", Topic::Kernel, nftables),
    Check::new("seccomp", Topic::Kernel, seccomp),
    Check::new("power", Topic::Kernel, power),
];

/// The oldest kernel that is looked after and has what containers need.
const OLDEST: (u32, u32) = (5, 4);

/// Bits of the firmware's word that say now, or since boot: too little voltage, or slowed down.
const POWER_NOW: u32 = 0x5;
const POWER_BEFORE: u32 = 0x5_0000;

fn version(board: &Board) -> Verdict {
    let release = board.text("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().ok());
    let version = numbers.next().flatten().zip(numbers.next().flatten());
    match version {
        Some(version) if version < OLDEST => Verdict::warn(
            format!("Linux {release} is older than {}.{}", OLDEST.0, OLDEST.1),
            "update the system: apt full-upgrade, or a newer release of its layer",
        ),
        Some(_) => Verdict::ok(format!("Linux {release}")),
        None => Verdict::warn(
            "/proc/sys/kernel/osrelease tells no version",
            "mount /proc: mount -t proc proc /proc",
        ),
    }
}

fn architecture(board: &Board) -> Verdict {
    let built = std::env::consts::ARCH;
    let kernel = board.text("/proc/sys/kernel/arch").unwrap_or_default();
    let narrow = kernel == "aarch64" && built == "arm" || kernel == "x86_64" && built == "x86";
    if narrow {
        return Verdict::warn(
            format!("the agent is built for {built}, the kernel is {kernel}"),
            format!("images for {kernel} need the agent and a system for {kernel}"),
        );
    }
    if board.has("/proc/sys/kernel/arch") && kernel != built && !kernel.starts_with(built) {
        return Verdict::warn(
            format!("the agent is built for {built} and emulated on {kernel}"),
            format!("install the agent that is built for {kernel}"),
        );
    }
    Verdict::ok(built)
}

fn namespaces(board: &Board) -> Verdict {
    let wanted = ["net", "pid", "mnt", "ipc", "uts"];
    let missing: Vec<_> = wanted
        .into_iter()
        .filter(|name| board.place(format!("/proc/self/ns/{name}")).symlink_metadata().is_err())
        .collect();
    if missing.is_empty() {
        return Verdict::ok("all there");
    }
    let options = missing.iter().map(|name| match *name {
        "mnt" => "CONFIG_NAMESPACES=y".to_owned(),
        name => format!("CONFIG_{}_NS=y", name.to_uppercase()),
    });
    let options = options.collect::<Vec<_>>().join(" ");
    Verdict::fail(
        format!("the kernel has no namespaces for {}", missing.join(", ")),
        format!("build the kernel with {options}"),
    )
}

fn overlayfs(board: &Board) -> Verdict {
    let known = board.text("/proc/filesystems").unwrap_or_default();
    let named = known.lines().any(|line| line.split_whitespace().last() == Some("overlay"));
    if named || board.has_module("overlay") {
        return Verdict::ok("there");
    }
    if board.config.containerd.snapshotter != "overlayfs" {
        return Verdict::ok(format!("not needed by {}", board.config.containerd.snapshotter));
    }
    Verdict::fail("the kernel has no overlayfs", "build the kernel with CONFIG_OVERLAY_FS=y")
}

fn bridges(board: &Board) -> Verdict {
    modules(
        board,
        &[("bridge", "BRIDGE"), ("veth", "VETH")],
        "modprobe -a bridge veth; where that fails, build the kernel with CONFIG_BRIDGE=m CONFIG_VETH=m",
    )
}

fn nftables(board: &Board) -> Verdict {
    modules(
        board,
        &[("nf_tables", "NF_TABLES")],
        "modprobe nf_tables; where that fails, build the kernel with CONFIG_NF_TABLES=m CONFIG_NFT_MASQ=m",
    )
}

fn seccomp(board: &Board) -> Verdict {
    if board.has("/proc/sys/kernel/seccomp/actions_avail") {
        return Verdict::ok("there");
    }
    Verdict::warn(
        "the kernel has no seccomp: containers may make every system call",
        "build the kernel with CONFIG_SECCOMP=y CONFIG_SECCOMP_FILTER=y",
    )
}

fn power(board: &Board) -> Verdict {
    let Some(word) = board.text("/sys/devices/platform/soc/soc:firmware/get_throttled") else {
        return Verdict::ok("the board does not tell");
    };
    let word = u32::from_str_radix(word.trim_start_matches("0x"), 16).unwrap_or_default();
    let fix =
        "use a supply that gives 5.1 V at the current that the board asks for, and a short cable";
    if word & POWER_NOW != 0 {
        return Verdict::fail(format!("too little voltage now ({word:#x})"), fix);
    }
    if word & POWER_BEFORE != 0 {
        return Verdict::warn(format!("too little voltage since boot ({word:#x})"), fix);
    }
    Verdict::ok("enough")
}
