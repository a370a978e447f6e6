//! Speed and size against containerd alone, in one run on one machine: `cargo xtask bench`.
//!
//! What is measured beside something else is told as a ratio, because the machine changes and the ratio does not.

mod idle;
mod table;

use std::env;
use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use system_tests::{Board, Client, Document, Image, LONG, Stage, look_every, now, run};

use crate::table::Table;

/// Starts of each kind; they take turns, so that what else the machine does hits both.
const PAIRS: usize = 20;
/// Apps of the idle board.
const APPS: usize = 10;
/// Containers that an agent finds at its start.
const ADOPTED: u32 = 50;
/// Starts of an agent.
const STARTS: usize = 5;
/// Between two requests for the first answer: short beside what is measured, long enough to cost little.
const PACE: Duration = Duration::from_millis(1);

const IMAGE: &str = "test.local/bench:1";

#[expect(clippy::print_stderr, clippy::print_stdout, reason = "a command line")]
fn main() -> ExitCode {
    let mut table = Table::default();
    let outcome = size(&mut table)
        .and_then(|()| starts(&mut table))
        .and_then(|()| idle(&mut table))
        .and_then(|()| adoption(&mut table));
    print!("{table}");
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn stage() -> Result<Stage> {
    Stage::start(|board| {
        board.log_as_shipped();
        board.preload(&Image::testapp(IMAGE)?)
    })
}

fn size(table: &mut Table) -> Result<()> {
    let binary = env::var("SKERRY_BIN").context("SKERRY_BIN names the release build")?;
    let stripped = tempfile::NamedTempFile::new()?;
    let target = stripped.path().display().to_string();
    run("strip", ["-o", target.as_str(), binary.as_str()])?;
    let bytes = fs::metadata(&target)?.len();
    table.row("binary, stripped", megabytes(bytes), "≤ 10 MB");
    Ok(())
}

/// From the document's publication to the first 200, and from `ctr run` to the same.
fn starts(table: &mut Table) -> Result<()> {
    let stage = stage()?;
    // The agent unpacks at import what containerd's own tool unpacks at its first run.
    by_ctr(&stage.board, "warm-up")?;
    by_document(&stage, "warm-up")?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for n in 0..PAIRS {
        ours.push(by_document(&stage, &format!("app-{n}"))?);
        theirs.push(by_ctr(&stage.board, &format!("run-{n}"))?);
    }
    let (ours, theirs) = (median(ours), median(theirs));
    table.row("ctr run → 200, median", millis(theirs), "");
    table.row("publish → 200, median", millis(ours), "");
    let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
    table.row("  ratio", format!("{ratio:.2}"), "≤ 1.5, goal 1.3");
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

fn by_ctr(board: &Board, name: &str) -> Result<Duration> {
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

fn first_answer(client: &Client, name: &str, begin: std::time::Instant) -> Result<Duration> {
    look_every(PACE, name, LONG, || {
        let answer = client.get(name, "/")?;
        ensure!(answer.status == 200, "{}", answer.text());
        Ok(begin.elapsed())
    })
}

/// What the agent costs while nothing happens.
fn idle(table: &mut Table) -> Result<()> {
    let mut stage = stage()?;
    for n in 0..APPS {
        stage.control.desire(&format!("idle-{n}"), Document::new(IMAGE))?;
    }
    for n in 0..APPS {
        stage.control.await_running(&format!("idle-{n}"))?;
    }
    let kept = stage.board.dir().join("state");
    idle::measure(table, stage.board.agent()?.pid(), &kept)
}

/// From the start of an agent to its first complete round, with everything running already.
fn adoption(table: &mut Table) -> Result<()> {
    let mut stage = stage()?;
    stage.control.desire("many", Document::new(IMAGE).replicas(ADOPTED))?;
    stage.control.await_json("apps/many/status", 5 * LONG, |status| {
        status["revisions"][0]["readyReplicas"] == ADOPTED
    })?;
    let mut times = Vec::new();
    for _ in 0..STARTS {
        stage.board.kill_agent()?;
        let begin = now();
        stage.board.start()?;
        times.push(begin.elapsed());
    }
    let what = format!("start → first round, {ADOPTED} to adopt");
    table.row(&what, millis(median(times)), "≤ 300 ms");
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn millis(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1000.0)
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
