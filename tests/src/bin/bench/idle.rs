//! What a process costs while nothing happens, by what the kernel counts.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use system_tests::{Document, pause};

use crate::table::Table;
use crate::{IMAGE, stage};

/// Apps of the idle board.
const APPS: usize = 10;
/// After the last change: allocators settle, timers of the start run out.
const SETTLE: Duration = Duration::from_secs(10);
/// How long nothing happens.
const QUIET: Duration = Duration::from_mins(1);
/// Threads that sled starts and leaves to wait.
const SLEDS: &str = "sled-io";

/// Memory at rest, and what a quiet minute adds up to.
pub(crate) fn measure(table: &mut Table) -> Result<()> {
    let mut stage = stage()?;
    for n in 0..APPS {
        stage.control.desire(&format!("idle-{n}"), Document::new(IMAGE))?;
    }
    for n in 0..APPS {
        stage.control.await_running(&format!("idle-{n}"))?;
    }
    let kept = stage.board.dir().join("state");
    let pid = stage.board.agent()?.pid();
    pause(SETTLE);
    let before = Counters::read(pid, &kept)?;
    pause(QUIET);
    let after = Counters::read(pid, &kept)?;
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    table.row("idle, 10 apps: PSS", mebibytes(field(&rollup, "Pss:")?), "≤ 8 MiB, goal 6");
    table.row("  of it anonymous", mebibytes(field(&rollup, "Pss_Anon:")?), "");
    table.row("  private dirty", mebibytes(field(&rollup, "Private_Dirty:")?), "≤ 4 MiB");
    let written = after.written - before.written;
    table.row("idle: written by the agent in 60 s", bytes(written), "0");
    let grown = after.state.abs_diff(before.state);
    table.row("idle: growth of the state in 60 s", bytes(grown), "0");
    let (mut ours, mut sleds) = (0, 0);
    for (thread, (name, count)) in &after.switches {
        let known = before.switches.get(thread).map_or(0, |(_, count)| *count);
        let sum = if name.starts_with(SLEDS) { &mut sleds } else { &mut ours };
        *sum += count - known;
    }
    table.row("idle: wake-ups", per_second(ours), "≤ 2 /s");
    for (thread, (name, count)) in &after.switches {
        let known = before.switches.get(thread).map_or(0, |(_, count)| *count);
        if *count != known && !name.starts_with(SLEDS) {
            table.row(&format!("  thread {name}"), per_second(count - known), "");
        }
    }
    table.row("idle: wake-ups of sled's pool", per_second(sleds), "none of ours");
    table.row("idle: CPU in 60 s", format!("{} ms", 10 * (after.ticks - before.ticks)), "≤ 60 ms");
    sinks(table, &stage.board.dir().display().to_string())
}

/// The log sinks: one process for each container.
fn sinks(table: &mut Table, logs: &str) -> Result<()> {
    let (mut count, mut pss, mut dirty) = (0, 0, 0);
    for entry in fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
        let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&str> = words.split('\0').collect();
        // One that ends just now is none that is measured.
        let Ok(rollup) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else { continue };
        if matches!(words[..], [_, "logger", order, ..] if order.contains(logs)) {
            count += 1;
            pss += field(&rollup, "Pss:")?;
            dirty += field(&rollup, "Private_Dirty:")?;
        }
    }
    table.row(&format!("{count} log sinks: PSS together"), mebibytes(pss), "");
    table.row("  private dirty together", mebibytes(dirty), "");
    Ok(())
}

#[derive(Debug, Default)]
struct Counters {
    written: u64,
    state: u64,
    /// By thread: its name, and how often it went to sleep.
    switches: BTreeMap<String, (String, u64)>,
    ticks: u64,
}

impl Counters {
    fn read(pid: u32, state: &Path) -> Result<Self> {
        let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
        let mut switches = BTreeMap::new();
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?;
            let status = fs::read_to_string(task.path().join("status"))?;
            let count = field(&status, "voluntary_ctxt_switches:")?;
            let name = fs::read_to_string(task.path().join("comm"))?.trim().to_owned();
            switches.insert(task.file_name().to_string_lossy().into_owned(), (name, count));
        }
        let written = field(&io, "write_bytes:")?;
        Ok(Self { written, state: size(state)?, switches, ticks: ticks(pid)? })
    }
}

/// What a process has used of the CPU, in hundredths of a second.
pub(crate) fn ticks(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit(')').next().context("no fields")?.split_whitespace();
    // User and system time are the 14th and 15th of proc(5), of which the name was the second.
    Ok(fields.skip(11).take(2).filter_map(|text| text.parse::<u64>().ok()).sum())
}

/// The first number after `name` at the beginning of a line.
fn field(text: &str, name: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let word = line.and_then(|line| line.split_whitespace().next());
    Ok(word.with_context(|| format!("no {name}"))?.parse()?)
}

fn size(dir: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.metadata()?;
        sum += if kind.is_dir() { size(&entry.path())? } else { kind.len() };
    }
    Ok(sum)
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn mebibytes(kibibytes: u64) -> String {
    format!("{:.1} MiB", kibibytes as f64 / 1024.0)
}

fn bytes(count: u64) -> String {
    format!("{count} B")
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn per_second(count: u64) -> String {
    format!("{:.2} /s", count as f64 / QUIET.as_secs_f64())
}
