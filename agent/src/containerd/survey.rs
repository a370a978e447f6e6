//! What a second copy of an app would have to share the board with: memory as it is used, and locks that apps keep.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::Path;
use std::thread;
use std::time::Duration;

use containerd_client::types::v1::Status as TaskStatus;
use domain::model::ReplicaName;
use domain::replica::{ContainerState, ObservedReplica, ProcessorTime, Survey};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag};

use super::Containerd;
use super::cgroup::{Cgroups, own_memory};
use super::record::{Record, container_id};
use super::shims::parent_of;
use super::within::open_within;
use crate::runtime::{RuntimeError, Usage};

/// Where an app says that it must not be replaced now, in the eyes of its container.
const LOCK: &str = "run/skerry/lock";

/// A container's file system may hang, as one over a network does; the board's own never takes so long.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// One container that runs.
struct Running {
    replica: ReplicaName,
    pid: u32,
    cgroup: String,
}

impl<I> Containerd<I> {
    pub(super) async fn survey_of(&self, wanted: &[ReplicaName]) -> Result<Survey, RuntimeError> {
        let shared = &self.shared;
        let running = self.running(wanted).await?;
        let (cgroups, wanted) = (shared.cgroups.clone(), wanted.to_vec());
        let about = wanted.first().map(ToString::to_string).unwrap_or_default();
        let look = move || measured(&cgroups, &wanted, &running);
        shared.surveying.run(&about, look).await.map_err(|error| {
            RuntimeError::Unavailable(format!("a look into the app's containers: {error}"))
        })
    }

    pub(super) async fn usage_of(
        &self,
        wanted: &[ReplicaName],
    ) -> Result<BTreeMap<ReplicaName, Usage>, RuntimeError> {
        let running = self.running(wanted).await?;
        Ok(used(&self.shared.cgroups, &running))
    }

    /// What those of these replicas hold that stand by: of their containers what cannot be dropped at once, and their
    /// shims. The files are the kernel's own, so reading them never waits.
    pub(super) fn held_by(
        &self,
        observed: &BTreeMap<ReplicaName, ObservedReplica>,
    ) -> BTreeMap<ReplicaName, u64> {
        let cgroups = &self.shared.cgroups;
        let held = observed.iter().filter_map(|(replica, seen)| {
            let idle = seen.containers.iter().filter(|(_, state)| ContainerState::stands_by(state));
            let groups: Vec<String> = idle
                .map(|(container, _)| self.shared.cgroup_path(&container_id(replica, container)))
                .collect();
            (!groups.is_empty()).then(|| (replica.clone(), held_in(cgroups, &groups)))
        });
        held.collect()
    }

    /// The containers of these replicas that run.
    async fn running(&self, wanted: &[ReplicaName]) -> Result<Vec<Running>, RuntimeError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let calls = &self.shared.calls;
        let (records, tasks) = tokio::try_join!(calls.containers(None, Record::of), calls.tasks())?;
        let of: BTreeMap<String, Record> = records
            .into_iter()
            .filter(|record| wanted.contains(&record.replica))
            .map(|record| (record.id.clone(), record))
            .collect();
        let running = tasks.iter().filter(|task| task.status() == TaskStatus::Running);
        let running = running.filter_map(|task| {
            let record = of.get(&task.id)?;
            let cgroup = self.shared.cgroup_path(&task.id);
            Some(Running { replica: record.replica.clone(), pid: task.pid, cgroup })
        });
        Ok(running.collect())
    }
}

/// What each replica uses of what it may. The files are the kernel's own, so reading them never waits.
fn used(cgroups: &Cgroups, running: &[Running]) -> BTreeMap<ReplicaName, Usage> {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = kib(&meminfo, "MemTotal:");
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let cores = f64::from(u32::try_from(cores).unwrap_or(u32::MAX));
    let mut used: BTreeMap<ReplicaName, Usage> = BTreeMap::new();
    for Running { replica, cgroup, .. } in running {
        let of = used.entry(replica.clone()).or_default();
        of.cpu_nanos = of.cpu_nanos.saturating_add(cgroups.cpu_nanos(cgroup));
        of.memory_bytes += cgroups.working_set(cgroup);
        of.cpu_limit_cores += cgroups.cpu_limit(cgroup).unwrap_or(cores);
        of.memory_limit_bytes =
            of.memory_limit_bytes.saturating_add(cgroups.memory_limit(cgroup).unwrap_or(memory));
    }
    for of in used.values_mut() {
        // Several containers together have no more than there is.
        of.cpu_limit_cores = of.cpu_limit_cores.min(cores);
        of.memory_limit_bytes = of.memory_limit_bytes.min(memory);
    }
    used
}

fn measured(cgroups: &Cgroups, wanted: &[ReplicaName], running: &[Running]) -> Survey {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let mut working_sets: BTreeMap<ReplicaName, u64> =
        wanted.iter().map(|replica| (replica.clone(), 0)).collect();
    let mut locked = BTreeSet::new();
    for Running { replica, pid, cgroup } in running {
        if let Some(sum) = working_sets.get_mut(replica) {
            *sum += cgroups.working_set(cgroup);
        }
        if is_locked(*pid) {
            locked.insert(replica);
        }
    }
    Survey {
        available: kib(&meminfo, "MemAvailable:"),
        total: kib(&meminfo, "MemTotal:"),
        working_sets,
        locked_by: wanted.iter().find(|replica| locked.contains(replica)).cloned(),
        processors: processors(&fs::read_to_string("/proc/stat").unwrap_or_default()),
    }
}

/// What these groups hold, and the shims of their processes: one for all containers of a replica.
fn held_in(cgroups: &Cgroups, groups: &[String]) -> u64 {
    let first = groups.iter().filter_map(|group| cgroups.processes(group).into_iter().next());
    let shims: BTreeSet<i32> = first.filter_map(parent_of).collect();
    let own = groups.iter().map(|group| cgroups.working_set(group));
    own.chain(shims.into_iter().map(own_memory)).sum()
}

/// `cpu  USER NICE SYSTEM IDLE IOWAIT IRQ SOFTIRQ STEAL …`, all processors together. What is nice gives way to all other
/// work; the columns behind these are parts of them.
fn processors(stat: &str) -> ProcessorTime {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    let words = line.unwrap_or_default().split_whitespace().take(8);
    let times: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
    let all = times.iter().fold(0, |sum: u64, time| sum.saturating_add(*time));
    let spare = [1, 3, 4].into_iter().filter_map(|at| times.get(at));
    let spare = spare.fold(0, |sum: u64, time| sum.saturating_add(*time));
    ProcessorTime { busy: all.saturating_sub(spare), all }
}

/// `MemTotal:        8010552 kB`, in bytes.
pub(super) fn kib(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0).saturating_mul(1024)
}

/// Whether a container keeps its lock, as its own first process sees it.
fn is_locked(pid: u32) -> bool {
    File::open(format!("/proc/{pid}/root")).is_ok_and(|root| exists_in(&root, LOCK))
}

/// Whether there is something at `path` below `root`. Links are followed as the container follows them, never out of it.
fn exists_in(root: &File, path: &str) -> bool {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    match open_within(root, path, how) {
        Ok(_) => true,
        // A kernel before 5.6 cannot be asked like this: then no link is followed at all.
        Err(Errno::ENOSYS) => exists_without_links(root, path),
        Err(_) => false,
    }
}

fn exists_without_links(root: &File, path: &str) -> bool {
    let mut at = Path::new("").to_owned();
    path.split('/').all(|part| {
        at.push(part);
        let found = nix::sys::stat::fstatat(root, &at, AtFlags::AT_SYMLINK_NOFOLLOW);
        found.is_ok_and(|found| found.st_mode & nix::libc::S_IFMT != nix::libc::S_IFLNK)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_boards_memory_is_read() {
        let text = "MemTotal:        8010552 kB\nMemFree:   5 kB\nMemAvailable:    4096 kB\n";
        assert_eq!(kib(text, "MemTotal:"), 8_010_552 << 10);
        assert_eq!(kib(text, "MemAvailable:"), 4 << 20);
        assert_eq!(kib("MemTotal: much kB", "MemTotal:"), 0);
        let survey = measured(&Cgroups::detect(), &[], &[]);
        assert!(0 < survey.available && survey.available <= survey.total);
    }

    #[test]
    fn processors_have_work_where_it_is_not_of_the_kind_that_gives_way() {
        let stat = "cpu  10 20 30 400 50 6 7 8 900 1000\ncpu0 1 1 1 1 1 1 1 1 1 1\nintr 5\n";
        assert_eq!(processors(stat), ProcessorTime { busy: 61, all: 531 });
        assert_eq!(processors("intr 5\n"), ProcessorTime::default());
        let survey = measured(&Cgroups::detect(), &[], &[]);
        assert!(0 < survey.processors.all && survey.processors.busy <= survey.processors.all);
    }

    #[test]
    fn what_stands_by_holds_what_its_containers_and_their_shim_have() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("cgroup.controllers"), "memory\n").unwrap();
        let pid = std::process::id();
        for (name, bytes) in [("x", 100), ("y", 200)] {
            let group = folder.path().join("s").join(name);
            fs::create_dir_all(&group).unwrap();
            fs::write(group.join("memory.current"), format!("{bytes}\n")).unwrap();
            // This process stands for theirs, so the one above it stands for their shim.
            fs::write(group.join("cgroup.procs"), format!("{pid}\n")).unwrap();
        }
        let groups = ["/s/x".to_owned(), "/s/y".to_owned()];
        let shim = own_memory(std::os::unix::process::parent_id().cast_signed());
        let held = held_in(&Cgroups::at(folder.path()), &groups);
        assert!(0 < shim && held.abs_diff(300 + shim) < 16 << 20, "{held} {shim}");
    }

    #[test]
    fn what_a_replica_uses_is_what_its_containers_use_together() {
        let folder = tempfile::tempdir().unwrap();
        let running = ["x", "y"].map(|name| {
            let group = folder.path().join("s").join(name);
            fs::create_dir_all(&group).unwrap();
            fs::write(group.join("cpu.stat"), "usage_usec 5\n").unwrap();
            fs::write(group.join("memory.current"), "100\n").unwrap();
            fs::write(group.join("memory.max"), "1000\n").unwrap();
            fs::write(group.join("cpu.max"), "10000 100000\n").unwrap();
            let replica = "app--1-abcde".parse().unwrap();
            Running { replica, pid: 0, cgroup: format!("/s/{name}") }
        });
        fs::write(folder.path().join("cgroup.controllers"), "cpu memory\n").unwrap();
        let found = used(&Cgroups::at(folder.path()), &running);
        let together = Usage {
            cpu_nanos: 10_000,
            cpu_limit_cores: 0.2,
            memory_bytes: 200,
            memory_limit_bytes: 2000,
        };
        assert_eq!(found, [("app--1-abcde".parse().unwrap(), together)].into());
    }

    #[test]
    fn a_lock_is_looked_for_inside_the_container_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
        fs::create_dir_all(root.join("run")).unwrap();
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("lock"), "").unwrap();
        let is_locked = || {
            let root = File::open(&root).unwrap();
            [exists_in(&root, LOCK), exists_without_links(&root, LOCK)]
        };
        assert_eq!(is_locked(), [false, false]);
        symlink(&outside, root.join("run/skerry")).unwrap();
        assert_eq!(is_locked(), [false, false], "the link leads out of the container");
        fs::remove_file(root.join("run/skerry")).unwrap();
        fs::create_dir(root.join("run/skerry")).unwrap();
        assert_eq!(is_locked(), [false, false]);
        fs::write(root.join("run/skerry/lock"), "").unwrap();
        assert_eq!(is_locked(), [true, true]);
        // Inside, a link is a way like any other.
        fs::rename(root.join("run"), root.join("var")).unwrap();
        symlink("/var", root.join("run")).unwrap();
        assert_eq!(is_locked(), [true, false]);
    }
}
