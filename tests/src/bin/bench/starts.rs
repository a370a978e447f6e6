//! From the document's publication to the first 200, beside `ctr run` of the same image to the same answer.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use system_tests::{Board, Client, Document, LONG, Stage, look_every, now};

use crate::sample::Sample;
use crate::table::Table;
use crate::{IMAGE, stage};

/// Starts of each kind; they take turns, so that what else the machine does hits both.
const PAIRS: usize = 21;
/// Starts that are looked into.
const TRACED: usize = 11;
/// Between two requests for the first answer: short beside what is measured, long enough to cost little.
const PACE: Duration = Duration::from_millis(1);

/// Words of the agent's log, and what they are the end of.
const TRACE: [(&str, &str); 10] = [
    ("desired state", "read and checked"),
    (" fetch ", "stored"),
    ("fetched", "image looked up"),
    (" start ", "decision stored, network stands"),
    ("attached", "replica's network made"),
    ("created", "containers recorded"),
    ("process made", "processes made"),
    ("started", "containers run"),
    ("got=Ok", "probed"),
    (" step ", "routed"),
];

pub(crate) fn measure(table: &mut Table) -> Result<()> {
    pairs(table)?;
    trace(table)
}

fn pairs(table: &mut Table) -> Result<()> {
    let stage = stage()?;
    // The agent unpacks at import what containerd's own tool unpacks at its first run.
    by_document(&stage, "warm-up")?;
    by_ctr(&stage.board, "warm-up")?;
    let (mut ours, mut theirs) = (Sample::default(), Sample::default());
    for n in 0..PAIRS {
        ours.add_time(by_document(&stage, &format!("app-{n}"))?);
        theirs.add_time(by_ctr(&stage.board, &format!("run-{n}"))?);
    }
    table.row("ctr run → 200", theirs.millis(), "");
    table.row("publish → 200, on an empty board", ours.millis(), "");
    table.row("  over ctr run", ours.over(&theirs).ratio(), "≤ 1.5, goal 1.3");
    // The environment's network stands from here on, as it does on a device with apps.
    stage.control.desire("resident", Document::new(IMAGE))?;
    stage.control.await_running("resident")?;
    let (mut ours, mut theirs) = (Sample::default(), Sample::default());
    for n in 0..PAIRS {
        ours.add_time(by_document(&stage, &format!("next-{n}"))?);
        theirs.add_time(by_ctr(&stage.board, &format!("rerun-{n}"))?);
    }
    table.row("publish → 200, beside another app", ours.millis(), "");
    table.row("  over ctr run", ours.over(&theirs).ratio(), "≤ 1.5, goal 1.3");
    Ok(())
}

fn by_document(stage: &Stage, name: &str) -> Result<Duration> {
    let document = Document::new(IMAGE).text();
    let begin = now();
    stage.control.publish_soon(&format!("apps/{name}/desired"), document)?;
    let taken = first_answer(&stage.board.lan_client(), name, begin)?;
    stage.control.await_running(name)?;
    stage.control.remove(name)?;
    stage.board.lan_client().await_status(name, "/", 404)?;
    look_every(10 * PACE, "the replica to be gone", LONG, || {
        ensure!(stage.board.pids_of(name)?.is_empty(), "it is there");
        Ok(())
    })?;
    Ok(taken)
}

pub(crate) fn by_ctr(board: &Board, name: &str) -> Result<Duration> {
    let client = board.lan_client().at((board.lan().board(), 18080).into());
    let begin = now();
    board.ctr([
        "run",
        "--detach",
        "--net-host",
        "--env",
        "PORT=18080",
        "--memory-limit",
        "134217728",
        "--cpus",
        "0.25",
        IMAGE,
        name,
    ])?;
    let taken = first_answer(&client, name, begin)?;
    board.ctr(["tasks", "delete", "--force", name])?;
    board.ctr(["containers", "delete", name])?;
    Ok(taken)
}

fn first_answer(client: &Client, name: &str, begin: Instant) -> Result<Duration> {
    look_every(PACE, name, LONG, || {
        let answer = client.get(name, "/")?;
        ensure!(answer.status == 200, "{}", answer.text());
        Ok(begin.elapsed())
    })
}

/// Where the time goes, by what the agent logs; the log itself costs time, so these runs are none of the pairs.
fn trace(table: &mut Table) -> Result<()> {
    let mut stage = crate::stage_with(|_| ())?;
    stage.control.desire("resident", Document::new(IMAGE))?;
    stage.control.await_running("resident")?;
    let mut times = vec![Sample::default(); TRACE.len()];
    for n in 0..TRACED {
        let name = format!("traced-{n}");
        let begin = time_of_day();
        by_document(&stage, &name)?;
        let log = stage.board.agent_log();
        for ((words, _), sample) in TRACE.iter().zip(&mut times) {
            let line = log.lines().find(|line| line.contains(words) && line.contains(&name));
            let at = line.and_then(stamp).with_context(|| format!("no {words:?} of {name}"))?;
            sample.add((at - begin) * 1000.0);
        }
    }
    for ((_, what), sample) in TRACE.iter().zip(&times) {
        table.row(&format!("  by then: {what}"), sample.millis(), "");
    }
    stage.board.stop_agent()
}

/// Seconds of the day in UTC, as the log has them.
fn time_of_day() -> f64 {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    now.as_secs_f64() % 86400.0
}

/// The seconds of the day in `2026-01-01T12:34:56.789012Z`.
fn stamp(line: &str) -> Option<f64> {
    let time = line.split_once('T')?.1.split_once('Z')?.0;
    let mut parts = time.split(':').map(str::parse::<f64>);
    let mut next = || parts.next()?.ok();
    Some(next()? * 3600.0 + next()? * 60.0 + next()?)
}
