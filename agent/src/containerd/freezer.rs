//! The kernel's freezer: processes of a container, paused and let go by a file of their cgroup.
//!
//! ```text
//!   v1  freezer/<group>/freezer.state   FROZEN, THAWED; FREEZING until every process stands still
//!   v2  <group>/cgroup.freeze           1, 0; `frozen 1` in cgroup.events once every process stands still
//! ```
//!
//! runc would take ten times as long to write the same file, and containerd would believe that its task is paused. What
//! is frozen is known from the file alone, so it is known to the next agent too. On v1 a frozen process does not even
//! die of SIGKILL before it is thawed.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Memory is taken back in parts of so many bytes: who is thawed meanwhile loses no more than that.
const PART: u64 = 4 << 20;

/// What the processes of a group are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Freeze,
    Thaw,
}

/// The freezer of this board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Freezer {
    root: PathBuf,
    v2: bool,
}

impl Freezer {
    /// The one below `root`, where the hierarchies are mounted.
    pub(super) fn below(root: &Path, v2: bool) -> Self {
        Self { root: if v2 { root.to_owned() } else { root.join("freezer") }, v2 }
    }

    /// Tells the processes of the group at `path`. To be thawed is at once; who is frozen stands still a moment later.
    pub(super) fn tell(&self, path: &str, order: Order) -> io::Result<()> {
        let (file, word) = match (self.v2, order) {
            (false, Order::Freeze) => ("freezer.state", "FROZEN"),
            (false, Order::Thaw) => ("freezer.state", "THAWED"),
            (true, Order::Freeze) => ("cgroup.freeze", "1"),
            (true, Order::Thaw) => ("cgroup.freeze", "0"),
        };
        OpenOptions::new().write(true).open(self.file(path, file))?.write_all(word.as_bytes())
    }

    /// Thaws the group at `path`. One that is not there has nothing to thaw.
    pub(super) fn thaw(&self, path: &str) -> io::Result<()> {
        match self.tell(path, Order::Thaw) {
            // The group went away with its last process, before or after its file was opened.
            Err(error)
                if matches!(error.raw_os_error(), Some(nix::libc::ENOENT | nix::libc::ENODEV)) =>
            {
                Ok(())
            }
            told => told,
        }
    }

    /// The group at `path` is told to be frozen; whether all of it stands still is another question.
    pub(super) fn is_frozen(&self, path: &str) -> bool {
        if self.v2 {
            return self.read(path, "cgroup.freeze").trim() == "1";
        }
        matches!(self.read(path, "freezer.state").trim(), "FROZEN" | "FREEZING")
    }

    /// Every process of the group at `path` stands still.
    pub(super) fn is_still(&self, path: &str) -> bool {
        if self.v2 {
            return has_line(&self.read(path, "cgroup.events"), "frozen 1");
        }
        self.read(path, "freezer.state").trim() == "FROZEN"
    }

    /// There are processes in the group at `path`, or below it.
    pub(super) fn is_populated(&self, path: &str) -> bool {
        if self.v2 {
            return has_line(&self.read(path, "cgroup.events"), "populated 1");
        }
        !self.read(path, "cgroup.procs").trim().is_empty()
    }

    /// Whether the kernel takes memory back from a group when it is asked to: v2, from Linux 5.19 on.
    pub(super) fn takes_memory(&self, path: &str) -> bool {
        self.v2 && self.file(path, "memory.reclaim").exists()
    }

    /// Offers `bytes` of the group at `path` back to the board, for as long as it is frozen. Without swap the kernel takes
    /// less. May take seconds.
    pub(super) fn offer(&self, path: &str, bytes: u64) {
        let mut left = bytes;
        while 0 < left && self.is_frozen(path) {
            let part = left.min(PART);
            let file = OpenOptions::new().write(true).open(self.file(path, "memory.reclaim"));
            // It fails where it could not take all of a part: there is no more to be had.
            if file.and_then(|mut file| file.write_all(part.to_string().as_bytes())).is_err() {
                return;
            }
            left -= part;
        }
    }

    fn read(&self, path: &str, file: &str) -> String {
        fs::read_to_string(self.file(path, file)).unwrap_or_default()
    }

    fn file(&self, path: &str, file: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/')).join(file)
    }
}

fn has_line(text: &str, wanted: &str) -> bool {
    text.lines().any(|line| line == wanted)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    /// Files as the kernel has them, with no kernel behind them.
    fn board(v2: bool, files: &[(&str, &str)]) -> (tempfile::TempDir, Freezer) {
        let folder = tempfile::tempdir().unwrap();
        let freezer = Freezer::below(folder.path(), v2);
        fs::create_dir_all(freezer.file("/s/x", "")).unwrap();
        for (file, text) in files {
            fs::write(freezer.file("/s/x", file), text).unwrap();
        }
        (folder, freezer)
    }

    #[test]
    fn the_state_is_read_as_each_version_tells_it() {
        for (v2, files, expected) in [
            (false, vec![("freezer.state", "THAWED\n")], (false, false)),
            (false, vec![("freezer.state", "FREEZING\n")], (true, false)),
            (false, vec![("freezer.state", "FROZEN\n")], (true, true)),
            (false, vec![], (false, false)),
            (true, vec![("cgroup.freeze", "0\n"), ("cgroup.events", "frozen 0\n")], (false, false)),
            (true, vec![("cgroup.freeze", "1\n"), ("cgroup.events", "frozen 0\n")], (true, false)),
            (true, vec![("cgroup.freeze", "1\n"), ("cgroup.events", "frozen 1\n")], (true, true)),
            (true, vec![], (false, false)),
        ] {
            let (_folder, freezer) = board(v2, &files);
            let found = (freezer.is_frozen("/s/x"), freezer.is_still("/s/x"));
            assert_eq!(found, expected, "{v2} {files:?}");
        }
    }

    #[test]
    fn a_group_that_is_gone_is_thawed_and_cannot_be_frozen() {
        for v2 in [false, true] {
            let (_folder, freezer) = board(v2, &[]);
            freezer.thaw("/s/gone").unwrap();
            assert!(freezer.tell("/s/gone", Order::Freeze).is_err());
        }
    }

    #[test]
    fn memory_is_offered_by_parts_while_frozen_and_where_the_kernel_takes_it() {
        let files = [("cgroup.freeze", "1"), ("memory.reclaim", "")];
        let (_folder, freezer) = board(true, &files);
        assert!(freezer.takes_memory("/s/x") && !freezer.takes_memory("/s/y"));
        freezer.offer("/s/x", PART + 9);
        // The second part was written over the first.
        assert_eq!(freezer.read("/s/x", "memory.reclaim"), format!("9{}", &PART.to_string()[1..]));
        let (_folder, freezer) = board(true, &[("cgroup.freeze", "0"), ("memory.reclaim", "")]);
        freezer.offer("/s/x", 9);
        assert_eq!(freezer.read("/s/x", "memory.reclaim"), "", "it was thawed meanwhile");
        let (_folder, freezer) = board(false, &[("memory.reclaim", "")]);
        assert!(!freezer.takes_memory("/s/x"));
    }

    /// A group of the kernel's own with a busy process in it. Gone with the guard.
    struct Group {
        freezer: Freezer,
        path: String,
        process: Child,
    }

    impl Group {
        /// None where this version is not mounted or may not be written.
        fn new(v2: bool) -> Option<Self> {
            let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
            let root = if v2 {
                roots.into_iter().find(|root| root.join("cgroup.procs").exists())?
            } else {
                roots[0].join("freezer").is_dir().then_some(roots[0])?
            };
            let freezer = Freezer::below(root, v2);
            let path = format!("/skfreezer-{}-{}", std::process::id(), u8::from(v2));
            fs::create_dir(freezer.file(&path, "")).ok()?;
            let process = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
            let group = Self { freezer, path, process };
            let procs = group.freezer.file(&group.path, "cgroup.procs");
            fs::write(procs, group.process.id().to_string()).unwrap();
            Some(group)
        }

        /// Ticks of the processor that its process has used.
        fn ticks(&self) -> u64 {
            let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
            stat.rsplit_once(')').unwrap().1.split_whitespace().nth(11).unwrap().parse().unwrap()
        }
    }

    impl Drop for Group {
        fn drop(&mut self) {
            let _ = self.freezer.thaw(&self.path);
            let _ = self.process.kill();
            let _ = self.process.wait();
            let folder = self.freezer.file(&self.path, "");
            // A killed process leaves its group a moment later.
            while self.freezer.is_populated(&self.path) {}
            let _ = fs::remove_dir(folder);
        }
    }

    #[test]
    fn both_versions_of_the_kernel_freeze_and_thaw() {
        for v2 in [false, true] {
            let Some(group) = Group::new(v2) else {
                println!("skipped: no freezer of version {}", 1 + u8::from(v2));
                continue;
            };
            let Group { freezer, path, .. } = &group;
            assert!(freezer.is_populated(path) && !freezer.is_frozen(path));
            let moves = || {
                let before = group.ticks();
                while group.ticks() == before {}
            };
            moves();
            freezer.tell(path, Order::Freeze).unwrap();
            while !freezer.is_still(path) {}
            assert!(freezer.is_frozen(path));
            let before = group.ticks();
            // Our own ticks are the clock: the frozen one has none in the same time.
            let own = || fs::read_to_string("/proc/self/stat").unwrap();
            let used = |stat: String| -> u64 {
                let rest = stat.rsplit_once(')').unwrap().1.to_owned();
                rest.split_whitespace().nth(11).unwrap().parse().unwrap()
            };
            let began = used(own());
            while used(own()) < began + 5 {}
            assert_eq!(group.ticks(), before);
            freezer.thaw(path).unwrap();
            freezer.thaw(path).unwrap();
            assert!(!freezer.is_frozen(path));
            moves();
        }
    }
}
