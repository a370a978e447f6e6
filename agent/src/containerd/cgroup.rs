//! What the board's kernel can limit, and whether it killed for memory. Reads; never writes: runc does that, and `freezer`.

use std::fs;
use std::path::{Path, PathBuf};

use super::freezer::Freezer;
use super::survey::kib;

/// Where every distribution mounts it.
const ROOT: &str = "/sys/fs/cgroup";

/// The limits that can be asked for: runc refuses a container whose limit has no file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a file that is there or not")]
pub(super) struct Cgroups {
    root: PathBuf,
    /// The unified hierarchy.
    pub(super) v2: bool,
    /// Absent on a Raspberry Pi unless the kernel's command line says so.
    pub(super) memory: bool,
    /// Swap is counted too.
    pub(super) swap: bool,
    /// CPU time can be capped.
    pub(super) quota: bool,
    /// CPU time can be weighed.
    pub(super) shares: bool,
    /// Processes can be counted.
    pub(super) pids: bool,
}

impl Cgroups {
    /// Those of this board.
    pub(super) fn detect() -> Self {
        Self::below(Path::new(ROOT), &fs::read_to_string("/proc/self/cgroup").unwrap_or_default())
    }

    /// Those below another root, as tests have them.
    #[cfg(test)]
    pub(super) fn at(root: &Path) -> Self {
        Self::below(root, "")
    }

    fn below(root: &Path, own: &str) -> Self {
        let there = |file: &str| root.join(file).exists();
        let Ok(controllers) = fs::read_to_string(root.join("cgroup.controllers")) else {
            return Self {
                root: root.to_owned(),
                v2: false,
                memory: there("memory/memory.limit_in_bytes"),
                swap: there("memory/memory.memsw.limit_in_bytes"),
                quota: there("cpu/cpu.cfs_quota_us"),
                shares: there("cpu/cpu.shares"),
                pids: there("pids"),
            };
        };
        let has = |name: &str| controllers.split_whitespace().any(|controller| controller == name);
        // The root group has no limits, so no files for them: look where this process is.
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
        let own = |file: &str| there(&format!("{own}/{file}"));
        Self {
            root: root.to_owned(),
            v2: true,
            memory: has("memory"),
            swap: has("memory") && own("memory.swap.max"),
            quota: has("cpu") && (own("cpu.max") || !own("cpu.weight")),
            shares: has("cpu"),
            pids: has("pids"),
        }
    }

    /// What pauses the processes of a group.
    pub(super) fn freezer(&self) -> Freezer {
        Freezer::below(&self.root, self.v2)
    }

    /// Memory of the group at `path` that the kernel cannot drop at once, in bytes.
    ///
    /// Where the kernel does not count memory, it is what the group's processes have for themselves.
    pub(super) fn working_set(&self, path: &str) -> u64 {
        let path = path.trim_start_matches('/');
        if !self.memory {
            return self.processes(path).iter().map(|pid| own_memory(*pid)).sum();
        }
        let (folder, used, idle) = if self.v2 {
            (self.root.join(path), "memory.current", "inactive_file ")
        } else {
            let folder = self.root.join("memory").join(path);
            (folder, "memory.usage_in_bytes", "total_inactive_file ")
        };
        let read = |file| fs::read_to_string(folder.join(file)).unwrap_or_default();
        let used = read(used).trim().parse().unwrap_or(0_u64);
        let stat = read("memory.stat");
        let idle = stat.lines().find_map(|line| line.strip_prefix(idle)?.trim().parse().ok());
        used.saturating_sub(idle.unwrap_or(0))
    }

    /// Processor time of the group at `path`, in nanoseconds.
    pub(super) fn cpu_nanos(&self, path: &str) -> u64 {
        if self.v2 {
            let stat = self.read("", path, "cpu.stat");
            let micros = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
            return number(micros.unwrap_or_default()).unwrap_or(0).saturating_mul(1000);
        }
        number(&self.read("cpuacct", path, "cpuacct.usage")).unwrap_or(0)
    }

    /// Cores that the group at `path` may use; `None` is all.
    pub(super) fn cpu_limit(&self, path: &str) -> Option<f64> {
        let (quota, period) = if self.v2 {
            let text = self.read("", path, "cpu.max");
            let (quota, period) = text.trim().split_once(' ')?;
            (quota.parse::<f64>().ok()?, period.parse::<f64>().ok()?)
        } else {
            let read = |file| self.read("cpu", path, file).trim().parse::<f64>().ok();
            (read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?)
        };
        (0.0 < quota && 0.0 < period).then(|| quota / period)
    }

    /// Bytes that the group at `path` may use; `None` is all.
    pub(super) fn memory_limit(&self, path: &str) -> Option<u64> {
        let text = if self.v2 {
            self.read("", path, "memory.max")
        } else {
            self.read("memory", path, "memory.limit_in_bytes")
        };
        number(&text)
    }

    fn read(&self, controller: &str, path: &str, file: &str) -> String {
        let folder =
            if controller.is_empty() { self.root.clone() } else { self.root.join(controller) };
        let file = folder.join(path.trim_start_matches('/')).join(file);
        fs::read_to_string(file).unwrap_or_default()
    }

    /// The processes of the group at `path`.
    pub(super) fn processes(&self, path: &str) -> Vec<i32> {
        let hierarchy = match (self.v2, self.pids) {
            (true, _) => self.root.clone(),
            (false, true) => self.root.join("pids"),
            (false, false) => self.root.join("memory"),
        };
        let list = hierarchy.join(path.trim_start_matches('/')).join("cgroup.procs");
        let list = fs::read_to_string(list).unwrap_or_default();
        list.lines().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// The kernel has killed a process of the group at `path` for memory.
    pub(super) fn oom_killed(&self, path: &str) -> bool {
        let file = if self.v2 {
            self.root.join(path.trim_start_matches('/')).join("memory.events")
        } else {
            self.root.join("memory").join(path.trim_start_matches('/')).join("memory.oom_control")
        };
        let text = fs::read_to_string(file).unwrap_or_default();
        let mut kills = text.lines().filter_map(|line| line.strip_prefix("oom_kill "));
        kills.any(|count| count.trim() != "0")
    }
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// What a process has in memory and shares with no file, in bytes.
pub(super) fn own_memory(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    kib(&status, "RssAnon:") + kib(&status, "RssShmem:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_board_without_the_memory_controller_is_asked_for_no_memory_limit() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("cgroup.controllers"), "cpuset cpu io pids\n").unwrap();
        let found = Cgroups::below(folder.path(), "0::/init.scope\n");
        assert!(found.v2 && !found.memory && !found.swap && found.pids && found.shares);
    }

    #[test]
    fn a_working_set_is_what_cannot_be_dropped_on_both_versions() {
        let folder = tempfile::tempdir().unwrap();
        let write = |group: &str, files: [(&str, &str); 2]| {
            let group = folder.path().join(group);
            fs::create_dir_all(&group).unwrap();
            for (file, text) in files {
                fs::write(group.join(file), text).unwrap();
            }
        };
        fs::create_dir_all(folder.path().join("memory")).unwrap();
        fs::write(folder.path().join("memory/memory.limit_in_bytes"), "9").unwrap();
        let stat = "inactive_file 7\ntotal_inactive_file 300\n";
        write("memory/s/x", [("memory.usage_in_bytes", "1000\n"), ("memory.stat", stat)]);
        let v1 = Cgroups::below(folder.path(), "");
        assert_eq!((v1.working_set("/s/x"), v1.working_set("/s/gone")), (700, 0));
        fs::write(folder.path().join("cgroup.controllers"), "memory\n").unwrap();
        write("s/x", [("memory.current", "1000\n"), ("memory.stat", "inactive_file 400\n")]);
        assert_eq!(Cgroups::below(folder.path(), "").working_set("/s/x"), 600);
        // Without the controller the processes are looked at: this one has memory of its own.
        fs::write(folder.path().join("cgroup.controllers"), "pids\n").unwrap();
        let own = format!("{}\n", std::process::id());
        fs::write(folder.path().join("s/x/cgroup.procs"), own).unwrap();
        assert!(100 << 10 < Cgroups::below(folder.path(), "").working_set("/s/x"));
    }

    #[test]
    fn use_and_limits_are_read_on_both_versions() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let file = folder.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        let read = |path: &str| {
            let groups = Cgroups::below(folder.path(), "");
            (groups.cpu_nanos(path), groups.cpu_limit(path), groups.memory_limit(path))
        };
        write("cpuacct/s/x/cpuacct.usage", "7000\n");
        write("cpu/s/x/cpu.cfs_quota_us", "25000\n");
        write("cpu/s/x/cpu.cfs_period_us", "100000\n");
        write("memory/s/x/memory.limit_in_bytes", "4096\n");
        write("cpu/s/y/cpu.cfs_quota_us", "-1\n");
        write("cpu/s/y/cpu.cfs_period_us", "100000\n");
        assert_eq!(read("/s/x"), (7000, Some(0.25), Some(4096)));
        assert_eq!(read("/s/y"), (0, None, None));
        write("cgroup.controllers", "cpu memory\n");
        write("s/x/cpu.stat", "usage_usec 9\nuser_usec 5\n");
        write("s/x/cpu.max", "150000 100000\n");
        write("s/x/memory.max", "8192\n");
        write("s/y/cpu.max", "max 100000\n");
        write("s/y/memory.max", "max\n");
        assert_eq!(read("/s/x"), (9000, Some(1.5), Some(8192)));
        assert_eq!(read("/s/y"), (0, None, None));
    }

    #[test]
    fn a_kill_for_memory_is_read_on_both_versions() {
        let folder = tempfile::tempdir().unwrap();
        let group = folder.path().join("memory/skerry/x");
        fs::create_dir_all(&group).unwrap();
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n";
        fs::write(group.join("memory.oom_control"), text).unwrap();
        let v1 = Cgroups::below(folder.path(), "");
        assert!(v1.oom_killed("/skerry/x") && !v1.oom_killed("/skerry/y"));
        fs::write(folder.path().join("cgroup.controllers"), "memory\n").unwrap();
        let group = folder.path().join("skerry/x");
        fs::create_dir_all(&group).unwrap();
        fs::write(group.join("memory.events"), "oom 1\noom_kill 0\noom_group_kill 0\n").unwrap();
        assert!(!Cgroups::below(folder.path(), "").oom_killed("/skerry/x"));
    }
}
