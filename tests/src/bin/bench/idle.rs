//! What a process costs while nothing happens, by what the kernel counts.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use system_tests::pause;

use crate::table::Table;

/// After the last change: allocators settle, timers of the start run out.
const SETTLE: Duration = Duration::from_secs(10);
/// How long nothing happens.
const QUIET: Duration = Duration::from_mins(1);

/// Memory at rest, and what a quiet minute adds up to.
pub(crate) fn measure(table: &mut Table, pid: u32, state: &Path) -> Result<()> {
    pause(SETTLE);
    let before = Counters::read(pid, state)?;
    pause(QUIET);
    let after = Counters::read(pid, state)?;
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    table.row("idle: PSS", mebibytes(field(&rollup, "Pss:")?), "≤ 8 MiB, goal 6");
    table.row("idle: private dirty", mebibytes(field(&rollup, "Private_Dirty:")?), "≤ 4 MiB");
    table.row("idle: written by the agent", bytes(after.written - before.written), "0 in 60 s");
    let grown = after.state.abs_diff(before.state);
    table.row("idle: state directory", bytes(grown), "0 in 60 s");
    table.row("idle: wake-ups", per_second(after.ours - before.ours), "≤ 2 /s");
    table.row(
        "idle: wake-ups of sled's pool",
        per_second(after.sled - before.sled),
        "none of ours",
    );
    table.row("idle: CPU", format!("{} ticks", after.ticks - before.ticks), "≤ 6 in 60 s");
    Ok(())
}

#[derive(Debug, Default)]
struct Counters {
    written: u64,
    state: u64,
    ours: u64,
    sled: u64,
    ticks: u64,
}

impl Counters {
    fn read(pid: u32, state: &Path) -> Result<Self> {
        let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
        let mut counters =
            Self { written: field(&io, "write_bytes:")?, state: size(state)?, ..Self::default() };
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?.path();
            let status = fs::read_to_string(task.join("status"))?;
            let switches = field(&status, "voluntary_ctxt_switches:")?;
            let name = fs::read_to_string(task.join("comm"))?;
            if name.starts_with("sled-io") {
                counters.sled += switches;
            } else {
                counters.ours += switches;
            }
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields = stat.rsplit(')').next().context("no fields")?.split_whitespace();
        // User and system time are the 14th and 15th of proc(5), of which the name was the second.
        counters.ticks = fields.skip(11).take(2).filter_map(|text| text.parse::<u64>().ok()).sum();
        Ok(counters)
    }
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
