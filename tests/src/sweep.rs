//! Cleaning up after a board, whether it ended well or its test was killed.
//!
//! Everything is found by the board's number (namespace, cable, directory, cgroup), nothing by what a live board
//! remembers, so the same broom serves both cases. It goes on whatever fails.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::run;
use crate::lan::Lan;
use crate::wait::{SHORT, eventually};

/// Removes every trace of the board with this number.
pub(crate) fn sweep(lan: &Lan) {
    if !lan.dir().exists() && !lan.netns().exists() {
        return;
    }
    end_board(lan, |_| false);
    let _ = fs::remove_dir_all(lan.dir());
}

/// Ends all that runs on the board at once and takes its network and its mounts away, as a power cut does. The broker and
/// the registry stand elsewhere.
pub(crate) fn cut(lan: &Lan) {
    end_board(lan, stands_elsewhere);
    for folder in ["run", "s", "c.sock", "c.sock.ttrpc"] {
        let path = lan.dir().join(folder);
        let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    }
    let _ = fs::create_dir_all(lan.dir().join("run"));
}

fn stands_elsewhere(pid: i32) -> bool {
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let program = command.split('\0').next().unwrap_or_default();
    ["mosquitto", "docker-registry"].iter().any(|part| program.contains(part))
}

/// The processes of the board itself: all that could write to its disk.
pub(crate) fn of_board(lan: &Lan) -> Vec<i32> {
    let name = lan.name();
    let on_it =
        |pid: i32| in_cgroup(pid, &name) || is_container(pid, lan.dir()) || belongs(pid, lan);
    processes().into_iter().filter(|pid| on_it(*pid) && !stands_elsewhere(*pid)).collect()
}

fn end_board(lan: &Lan, spared: impl Fn(i32) -> bool) {
    let name = lan.name();
    // What is frozen does not die.
    for cgroup in cgroups(&name) {
        thaw(&cgroup);
    }
    // Containers first: a shim that dies leaves them running with nobody to ask about them.
    end_all(|pid| in_cgroup(pid, &name) || is_container(pid, lan.dir()));
    end_all(|pid| belongs(pid, lan) && !spared(pid));
    unmount_under(lan.dir());
    let _ = run("ip", ["link", "delete", &lan.cable()]);
    let _ = run("ip", ["netns", "delete", &name]);
    for cgroup in cgroups(&name) {
        remove_cgroup(&cgroup);
    }
    let _ = fs::remove_dir_all(Path::new("/run/containerd/runc").join(&name));
    let _ = fs::remove_dir_all(Path::new("/run/containerd/fifo").join(&name));
}

/// Kills every process that `ours` holds for, until there is none.
fn end_all(ours: impl Fn(i32) -> bool) {
    let _ = eventually("the board's processes to end", SHORT, || {
        let living: Vec<i32> = processes().into_iter().filter(|pid| ours(*pid)).collect();
        for pid in &living {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        anyhow::ensure!(living.is_empty(), "{living:?} are still there");
        Ok(())
    });
}

fn processes() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// A process that has ended and waits for its parent has no cgroup path of ours any more.
fn in_cgroup(pid: i32, name: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/cgroup"))
        .is_ok_and(|text| text.contains(&format!("/{name}/")) && !is_zombie(pid))
}

/// Whether the root of the process is a mount made of the board's directory.
fn is_container(pid: i32, dir: &Path) -> bool {
    let prefix = format!("{}/", dir.display());
    fs::read_to_string(format!("/proc/{pid}/mountinfo")).is_ok_and(|text| {
        text.lines().any(|line| line.split(' ').nth(4) == Some("/") && line.contains(&prefix))
    }) && !is_zombie(pid)
}

/// Whether the process lives in the board's network namespace or was started with its directory, as shims are.
fn belongs(pid: i32, lan: &Lan) -> bool {
    if u32::try_from(pid) == Ok(std::process::id()) || is_zombie(pid) {
        return false;
    }
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let prefix = format!("{}/", lan.dir().display());
    let is_part = ["containerd", "skerry", "mosquitto", "docker-registry", "qemu-system"]
        .iter()
        .any(|part| command.split('\0').next().is_some_and(|program| program.contains(part)));
    (is_part && command.contains(&prefix)) || shares_namespace(pid, &lan.netns())
}

fn shares_namespace(pid: i32, netns: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let theirs = fs::metadata(format!("/proc/{pid}/ns/net"));
    let (Ok(theirs), Ok(board), Ok(ours)) =
        (theirs, fs::metadata(netns), fs::metadata("/proc/self/ns/net"))
    else {
        return false;
    };
    theirs.ino() == board.ino() && board.ino() != ours.ino()
}

fn is_zombie(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
}

/// Innermost first.
fn unmount_under(dir: &Path) {
    let Ok(mounts) = fs::read_to_string("/proc/self/mounts") else { return };
    for line in mounts.lines().rev() {
        if let Some(target) = line.split(' ').nth(1).filter(|path| Path::new(path).starts_with(dir))
        {
            let _ = umount2(target, MntFlags::MNT_DETACH);
        }
    }
}

/// The board's cgroup in the unified hierarchy, or in each of the old ones.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    hierarchies
        .chain([root.to_owned()])
        .map(|dir| dir.join(name))
        .filter(|dir| dir.is_dir())
        .collect()
}

/// Both versions of the freezer: one of the files is there.
fn thaw(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        for (file, word) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
            let file = entry.path().join(file);
            if file.exists() {
                let _ = fs::write(file, word);
            }
        }
    }
}

fn remove_cgroup(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(dir);
}
