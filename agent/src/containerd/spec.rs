//! The OCI specification of one container: the image's configuration, the document's container, and our bounds.

use std::collections::{BTreeMap, BTreeSet};

use domain::document::{ALL_CAPABILITIES, Capabilities, Container, EnvValue};
use domain::reason::Reason;
use domain::replica::{ReplicaOrder, Trouble};
use serde_json::{Value, json};

use super::cgroup::Cgroups;
use super::devices::Nodes;
use super::image_source::ImageConfig;
use super::places::hostname;
use super::seccomp;
use super::user::User;

/// Processes and threads of one container: a fork bomb must not take the board's.
const MAX_PIDS: u64 = 1024;

/// Open files a program starts with. Some loop over all they might have, so this is not the hard limit.
const OPEN_FILES_SOFT: u64 = 1024;

/// Open files a program may raise its limit to, if the board's own limit is not lower.
const OPEN_FILES_HARD: u64 = 1 << 20;

/// For the kernel's choice under memory pressure: an app goes before the agent and containerd.
const OOM_SCORE: u32 = 500;

/// Microseconds in which a quota is used up: the kernel's own default.
const CPU_PERIOD: u64 = 100_000;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What images expect of root in a container; nothing in it reaches the board.
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Hidden: they tell of, or touch, the board itself.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// All that goes into a specification.
#[derive(Debug)]
pub(super) struct Ingredients<'a> {
    pub(super) order: &'a ReplicaOrder,
    pub(super) container: &'a Container,
    pub(super) image: &'a ImageConfig,
    pub(super) user: &'a User,
    pub(super) mounts: Vec<Value>,
    pub(super) devices: Nodes,
    pub(super) cgroups: &'a Cgroups,
    pub(super) cgroup_path: &'a str,
    /// The hard limit of open files that this process was given: ours to hand on, not to exceed.
    pub(super) open_files: u64,
}

/// The specification as JSON.
pub(super) fn spec(from: &Ingredients<'_>) -> Result<Vec<u8>, Trouble> {
    let Ingredients { order, container, image, user, devices, .. } = from;
    let Capabilities { add, drop } = &order.template.extras.capabilities;
    let capabilities = capabilities(add, drop);
    let added: Vec<String> = add.iter().map(|name| format!("CAP_{name}")).collect();
    let mut groups: BTreeSet<u32> = devices.groups.clone();
    groups.extend(&user.groups);
    let hard = OPEN_FILES_HARD.min(from.open_files);
    let cwd = if image.working_dir.is_empty() { "/" } else { image.working_dir.as_str() };
    let mut mounts = system_mounts();
    mounts.extend(from.mounts.iter().cloned());
    let mut namespaces = vec![
        json!({"type": "pid"}),
        json!({"type": "ipc"}),
        json!({"type": "uts"}),
        json!({"type": "mount"}),
        json!({"type": "network", "path": order.place.netns}),
    ];
    if from.cgroups.v2 {
        namespaces.push(json!({"type": "cgroup"}));
    }
    let spec = json!({
        "ociVersion": "1.0.2",
        "hostname": hostname(&order.replica),
        "root": {"path": "rootfs"},
        "process": {
            "args": arguments(container, image)?,
            "env": environment(order, container, image)?,
            "cwd": cwd,
            "user": {"uid": user.uid, "gid": user.gid, "additionalGids": groups},
            "noNewPrivileges": true,
            // What is asked for by name is for users other than root too, who keep no capability otherwise.
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                "inheritable": added, "ambient": added},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": OPEN_FILES_SOFT.min(hard), "hard": hard}],
            "oomScoreAdj": OOM_SCORE,
        },
        "mounts": mounts,
        // One shim serves all containers of the replica: it finds the others by this.
        "annotations": {"io.containerd.runc.v2.group": order.replica.short()},
        "linux": {
            "namespaces": namespaces,
            "cgroupsPath": from.cgroup_path,
            "devices": devices.listed,
            "resources": resources(container, from.cgroups, &devices.rules),
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
            "seccomp": seccomp::profile(add),
            // The namespace is the replica's own, so low ports in it are nobody else's.
            "sysctl": {"net.ipv4.ip_unprivileged_port_start": "0"},
        },
    });
    Ok(serde_json::to_vec(&spec).expect("a JSON value is serialisable"))
}

/// Kubernetes' meaning: a command replaces the image's entrypoint and drops its arguments; arguments replace those.
fn arguments(container: &Container, image: &ImageConfig) -> Result<Vec<String>, Trouble> {
    let (command, args) = match (container.command.is_empty(), container.args.is_empty()) {
        (false, _) => (&container.command, &container.args),
        (true, false) => (&image.entrypoint, &container.args),
        (true, true) => (&image.entrypoint, &image.cmd),
    };
    let arguments: Vec<String> = command.iter().chain(args).cloned().collect();
    if arguments.is_empty() {
        let details = format!(
            "container {:?}: neither the document nor the image gives a command",
            container.name
        );
        return Err(Trouble { reason: Reason::CommandNotFound, details });
    }
    Ok(arguments)
}

/// The image's variables, then ACA's, then the container's own; of two with one name the later wins.
pub(super) fn environment(
    order: &ReplicaOrder,
    container: &Container,
    image: &ImageConfig,
) -> Result<Vec<String>, Trouble> {
    let mut variables = BTreeMap::from([
        ("PATH".to_owned(), PATH.to_owned()),
        ("HOSTNAME".to_owned(), hostname(&order.replica).to_owned()),
    ]);
    let given = image.env.iter().filter_map(|variable| variable.split_once('='));
    variables.extend(given.map(|(name, value)| (name.to_owned(), value.to_owned())));
    variables.extend(order.variables.iter().cloned());
    for variable in &container.env {
        let value = match &variable.value {
            EnvValue::Plain(value) => value.clone(),
            EnvValue::Secret(secret) => match order.secrets.get(secret) {
                Some(value) => value.0.clone(),
                None => {
                    let details = format!(
                        "container {:?}: the secret {secret:?} of {} has no value",
                        container.name, variable.name
                    );
                    return Err(Trouble { reason: Reason::SecretValueMissing, details });
                }
            },
        };
        variables.insert(variable.name.clone(), value);
    }
    Ok(variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
}

/// The usual capabilities but those that are dropped, and those that are added.
fn capabilities(add: &[String], drop: &[String]) -> Vec<String> {
    let dropped = |name: &str| drop.iter().any(|drop| drop == ALL_CAPABILITIES || drop == name);
    let usual = CAPABILITIES.iter().filter_map(|name| name.strip_prefix("CAP_"));
    let kept: BTreeSet<&str> =
        usual.filter(|name| !dropped(name)).chain(add.iter().map(String::as_str)).collect();
    kept.into_iter().map(|name| format!("CAP_{name}")).collect()
}

/// Only what this kernel can hold: runc refuses a limit that has no file.
fn resources(container: &Container, cgroups: &Cgroups, devices: &[Value]) -> Value {
    let asked = container.resources;
    let nothing_else = json!({"allow": false, "access": "rwm"});
    let rules: Vec<&Value> = [&nothing_else].into_iter().chain(devices).collect();
    let mut resources = json!({"devices": rules});
    if cgroups.memory && 0 < asked.memory_bytes {
        resources["memory"] = json!({"limit": asked.memory_bytes});
        if cgroups.swap {
            // Memory and swap together: none of it may be swap.
            resources["memory"]["swap"] = asked.memory_bytes.into();
        }
    }
    if 0 < asked.cpu_millis {
        let millis = u64::from(asked.cpu_millis);
        if cgroups.shares {
            resources["cpu"]["shares"] = (millis * 1024 / 1000).max(2).into();
        }
        if cgroups.quota {
            // The kernel takes no quota below a millisecond.
            resources["cpu"]["quota"] = (millis * CPU_PERIOD / 1000).max(1000).into();
            resources["cpu"]["period"] = CPU_PERIOD.into();
        }
    }
    if cgroups.pids {
        resources["pids"] = json!({"limit": MAX_PIDS});
    }
    resources
}

fn system_mounts() -> Vec<Value> {
    let mount = |target: &str, kind: &str, options: &str| {
        let options: Vec<&str> = options.split(' ').collect();
        json!({"destination": target, "type": kind, "source": kind, "options": options})
    };
    vec![
        mount("/proc", "proc", "nosuid noexec nodev"),
        mount("/dev", "tmpfs", "nosuid strictatime mode=755 size=64m"),
        mount("/dev/pts", "devpts", "nosuid noexec newinstance ptmxmode=0666 mode=0620 gid=5"),
        mount("/dev/shm", "tmpfs", "nosuid noexec nodev mode=1777 size=64m"),
        mount("/dev/mqueue", "mqueue", "nosuid noexec nodev"),
        mount("/sys", "sysfs", "nosuid noexec nodev ro"),
        mount("/sys/fs/cgroup", "cgroup", "nosuid noexec nodev relatime ro"),
    ]
}

/// The hard limit of open files of this process, without asking for more rights than reading.
pub(super) fn own_open_files() -> u64 {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    line.and_then(|line| line.split_whitespace().nth(1)).map_or(OPEN_FILES_SOFT, |hard| {
        // "unlimited" is no number, and bounds nothing.
        hard.parse().unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_the_usual_ones_but_for_what_is_dropped_and_added() {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let of = |add: &[&str], drop: &[&str]| capabilities(&texts(add), &texts(drop));
        assert_eq!(of(&[], &[]), CAPABILITIES);
        let changed = of(&["NET_ADMIN"], &["CHOWN", "SYS_ADMIN"]);
        assert!(changed.contains(&"CAP_NET_ADMIN".to_owned()));
        assert!(!changed.contains(&"CAP_CHOWN".to_owned()));
        assert_eq!(changed.len(), CAPABILITIES.len());
        assert_eq!(of(&["CHOWN", "NET_RAW"], &["ALL"]), ["CAP_CHOWN", "CAP_NET_RAW"]);
    }
}
