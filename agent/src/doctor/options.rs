//! What the kernel was built with, as it tells itself or as its package lists beside it.

use std::io::Read as _;

use flate2::read::GzDecoder;

use super::{Board, Verdict};

/// A kernel's options, as lines of `CONFIG_NAME=value`.
#[derive(Debug)]
pub(super) struct Options(String);

/// The most that is read of them. A kernel with every driver has 300 KB.
const LARGEST: u64 = 4 << 20;

/// What an environment's network, a replica's limits and its seccomp filter are made with; and what is not there without.
const WANTED: &[(&str, &str)] = &[
    ("NAMESPACES", "no container starts"),
    ("NET_NS", "no container starts"),
    ("PID_NS", "no container starts"),
    ("IPC_NS", "no container starts"),
    ("UTS_NS", "no container starts"),
    ("POSIX_MQUEUE", "no container starts"),
    ("CGROUPS", "no container starts"),
    ("MEMCG", "memory has no limits"),
    ("CGROUP_SCHED", "CPU has no limits"),
    ("CGROUP_PIDS", "processes have no limits"),
    ("VETH", "no replica has a network"),
    ("BRIDGE", "no replica has a network"),
    ("NF_TABLES", "no app reaches another host"),
    ("NF_TABLES_INET", "no app reaches another host"),
    ("NFT_CT", "no app reaches another host"),
    ("NFT_MASQ", "no app reaches another host"),
];

/// Whether a kernel has something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Built {
    /// In it, or in a module beside it.
    In,
    /// It was left out.
    Out,
}

impl Options {
    /// Those of the kernel that runs; none where nobody tells.
    pub(super) fn of(board: &Board) -> Option<Self> {
        let told = board.bytes("/proc/config.gz").ok();
        let told = told.and_then(|bytes| {
            let mut text = String::new();
            GzDecoder::new(bytes.as_slice()).take(LARGEST).read_to_string(&mut text).ok()?;
            Some(text)
        });
        let release = board.text("/proc/sys/kernel/osrelease").unwrap_or_default();
        let text = told.or_else(|| board.text(format!("/boot/config-{release}")))?;
        Some(Self(text))
    }

    /// Whether the kernel has `CONFIG_{name}`.
    pub(super) fn built(&self, name: &str) -> Built {
        let set = self.0.lines().any(|line| {
            let value = line.strip_prefix("CONFIG_").and_then(|line| line.strip_prefix(name));
            matches!(value, Some("=y" | "=m"))
        });
        if set { Built::In } else { Built::Out }
    }
}

/// Every option that containers and their networks are made with.
pub(super) fn options(board: &Board) -> Verdict {
    let Some(options) = Options::of(board) else {
        return Verdict::ok("the kernel does not show them");
    };
    let missing = WANTED.iter().filter(|(name, _)| options.built(name) == Built::Out);
    let missing: Vec<_> = missing.collect();
    let Some((_, without)) = missing.first() else {
        return Verdict::ok("all there");
    };
    let names = |value: &str| {
        let names = missing.iter().map(|(name, _)| format!("CONFIG_{name}{value}"));
        names.collect::<Vec<_>>().join(" ")
    };
    Verdict::fail(
        format!("the kernel is built without {}: {without}", names("")),
        format!("build the kernel with {}", names("=y")),
    )
}

/// Modules of the kernel, each with the option that makes it: whether they can be had.
pub(super) fn modules(board: &Board, wanted: &[(&str, &str)], fix: &str) -> Verdict {
    let unseen: Vec<_> = wanted.iter().filter(|(module, _)| !board.has_module(module)).collect();
    if unseen.is_empty() {
        return Verdict::ok("there");
    }
    let names: Vec<_> = unseen.iter().map(|(module, _)| *module).collect();
    let names = names.join(" and ");
    let options = Options::of(board);
    let built = |option: &str| options.as_ref().map(|options| options.built(option));
    if board.knows_modules() || unseen.iter().any(|(_, option)| built(option) == Some(Built::Out)) {
        return Verdict::warn(format!("no module {names} is seen"), fix);
    }
    if unseen.iter().all(|(_, option)| built(option) == Some(Built::In)) {
        return Verdict::ok("built in");
    }
    Verdict::warn(format!("whether the kernel has {names} cannot be told"), fix)
}
