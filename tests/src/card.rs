//! A disk of the board's own, and what a power cut leaves of it.
//!
//! ```text
//!   ext4 ── loop device ── backing file ──copy──▶ what was on the platter at this moment
//! ```
//!
//! What a program wrote and nobody flushed is in the page cache of the mounted file system, and not in the backing file:
//! so a copy of the backing file, taken while the disk is in use, is what a cut leaves. While it is taken the board's
//! processes hold still, and it counts only if the device took no write meanwhile: a moment, not a smear.
//!
//! A card has a cache too. What it was given since the last flush it may lose in any order: where there was no flush
//! between two copies, some of the blocks in which they differ are put back.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Whence, lseek};

use crate::board::Board;
use crate::command::run;
use crate::sweep::of_board;
use crate::wait::{LONG, SHORT, eventually, pause};

/// Of the disk; what is not written takes no space.
const SIZE: u64 = 1 << 30;
/// What a file system writes at once.
const BLOCK: usize = 4096;
/// What stands on it: containerd's images, and the agent's state.
const ON_IT: [&str; 2] = ["c", "state"];

/// What a cut left.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cut {
    /// Blocks that were in the card's cache and are lost.
    pub lost: u64,
    /// Blocks that were in the card's cache and were written all the same.
    pub kept: u64,
}

/// The disk of a board: containerd's root and the agent's state lie on it.
#[derive(Debug)]
pub struct Card {
    dir: PathBuf,
    cuts: u32,
}

impl Card {
    /// Makes one for the board, empty, and mounts it.
    pub fn insert(board: &Board) -> Result<Self> {
        let disk = Self { dir: board.dir().to_owned(), cuts: 0 };
        File::create(disk.backing())?.set_len(SIZE)?;
        let path = disk.backing().display().to_string();
        // All at once: nothing is to be written later behind our back.
        let options = "lazy_itable_init=0,lazy_journal_init=0";
        run("mkfs.ext4", ["-q", "-F", "-E", options, &path])?;
        disk.mount()?;
        Ok(disk)
    }

    fn backing(&self) -> PathBuf {
        self.dir.join(format!("disk-{}.img", self.cuts))
    }

    /// Mounts what is there. The kernel replays the journal.
    pub fn mount(&self) -> Result<()> {
        let on = self.dir.join("disk");
        fs::create_dir_all(&on)?;
        let (path, mount) = (self.backing().display().to_string(), on.display().to_string());
        run("mount", ["-o", "loop,nodiscard", &path, &mount])?;
        for folder in ON_IT {
            let (inner, outer) = (on.join(folder), self.dir.join(folder));
            fs::create_dir_all(&inner)?;
            fs::create_dir_all(&outer)?;
            let (inner, outer) = (inner.display().to_string(), outer.display().to_string());
            run("mount", ["--bind", &inner, &outer])?;
        }
        Ok(())
    }

    /// Cuts the power now. `chance` gives numbers below its argument; which of the last writes are lost is left to it.
    pub fn cut(&mut self, board: &mut Board, mut chance: impl FnMut(u64) -> u64) -> Result<Cut> {
        let statistics = statistics(&self.dir.join("disk"))?;
        let (before, after) = (self.dir.join("before.img"), self.dir.join("after.img"));
        let mut cut = Cut::default();
        hold(board, || copy(&self.backing(), &before, &statistics))?;
        let flushes = Counters::read(&statistics)?.flushes;
        // Long enough for a few writes, and short enough for there to be no flush among them.
        pause(Duration::from_micros(chance(6000)));
        halt(board)?;
        copy(&self.backing(), &after, &statistics)?;
        if Counters::read(&statistics)?.flushes == flushes {
            cut = lose(&before, &after, chance)?;
        }
        board.cut_power()?;
        let old = self.backing();
        self.cuts += 1;
        fs::rename(after, self.backing())?;
        fs::remove_file(before)?;
        fs::remove_file(old)?;
        Ok(cut)
    }
}

/// Does `work` while nothing on the board moves.
fn hold(board: &Board, work: impl FnOnce() -> Result<()>) -> Result<()> {
    halt(board)?;
    let done = work();
    for pid in of_board(board.lan()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
    }
    done
}

/// Stops every process of the board, and waits until none is in the middle of a call.
fn halt(board: &Board) -> Result<()> {
    eventually("the board to hold still", SHORT, || {
        let pids = of_board(board.lan());
        let moving: Vec<&i32> = pids.iter().filter(|pid| !is_stopped(**pid)).collect();
        for pid in &moving {
            let _ = kill(Pid::from_raw(**pid), Signal::SIGSTOP);
        }
        ensure!(moving.is_empty(), "{moving:?} move");
        Ok(())
    })
}

/// Whether each thread of the process is stopped, or it has ended meanwhile.
fn is_stopped(pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads
        .filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok())
        .all(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['T', 't', 'Z'])))
}

/// What a block device has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counters {
    writes: u64,
    under_way: u64,
    flushes: u64,
}

impl Counters {
    fn read(statistics: &Path) -> Result<Self> {
        let text = fs::read_to_string(statistics)?;
        let numbers: Vec<u64> = text.split_whitespace().flat_map(str::parse).collect();
        let at = |place: usize| numbers.get(place).copied().context("a number is missing");
        Ok(Self { writes: at(4)?, under_way: at(8)?, flushes: at(15)? })
    }
}

/// The file in which the kernel counts what the device below a mount does.
fn statistics(mount: &Path) -> Result<PathBuf> {
    let source = run("findmnt", ["-n", "-o", "SOURCE", &mount.display().to_string()])?;
    let name = source.trim().trim_start_matches("/dev/").to_owned();
    Ok(PathBuf::from(format!("/sys/block/{name}/stat")))
}

/// Copies the backing file as it is at one moment.
fn copy(from: &Path, to: &Path, statistics: &Path) -> Result<()> {
    let (from, to) = (from.display().to_string(), to.display().to_string());
    eventually("a moment without a write", LONG, || {
        let before = Counters::read(statistics)?;
        run("cp", ["--sparse=auto", &from, &to])?;
        let after = Counters::read(statistics)?;
        ensure!(before == after && after.under_way == 0, "{before:?} and then {after:?}");
        Ok(())
    })
}

/// Puts some of the blocks back to what they were.
fn lose(before: &Path, after: &Path, mut chance: impl FnMut(u64) -> u64) -> Result<Cut> {
    let mut old = File::open(before)?;
    let mut new = File::options().read(true).write(true).open(after)?;
    let (mut was, mut is) = ([0; BLOCK], [0; BLOCK]);
    let mut cut = Cut::default();
    let mut at = 0;
    while let Ok(data) = lseek(&new, at, Whence::SeekData) {
        let hole = lseek(&new, data, Whence::SeekHole)?;
        let mut place = u64::try_from(data)? / BLOCK as u64 * BLOCK as u64;
        while place < u64::try_from(hole)? {
            new.seek(SeekFrom::Start(place))?;
            new.read_exact(&mut is)?;
            old.seek(SeekFrom::Start(place))?;
            old.read_exact(&mut was)?;
            if was != is {
                if chance(2) == 0 {
                    new.seek(SeekFrom::Start(place))?;
                    new.write_all(&was)?;
                    cut.lost += 1;
                } else {
                    cut.kept += 1;
                }
            }
            place += BLOCK as u64;
        }
        at = hole;
    }
    Ok(cut)
}
