//! From zero to the first answer, by each tier, beside `ctr run` of the same image to the same answer; and up to ten.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use system_tests::{Board, Document, LONG, SHORT, Stage, look_every, now};

use crate::course;
use crate::sample::Sample;
use crate::starts::by_ctr;
use crate::table::Table;
use crate::{IMAGE, stage_with};

/// Wakes of each tier, and runs by `ctr` beside them.
const WAKES: usize = 100;
/// Clients that ask at the same time while apps are sent to zero.
const CLIENTS: usize = 16;
/// How often those apps are sent to zero.
const SENT_AWAY: usize = 1000;
/// Between two looks whether an app is at zero.
const PACE: Duration = Duration::from_millis(5);

/// `skerry.standby`, the word of the status, and the budget.
const TIERS: [(&str, &str, &str); 3] = [
    ("none", "prepared", "≤ 1.0 × ctr run"),
    ("created", "created", "p50 ≤ 25 ms"),
    ("frozen", "frozen", "p50 ≤ 10 ms, p99 ≤ 25 ms"),
];

pub(crate) fn measure(table: &mut Table) -> Result<()> {
    let stage = stage_with(Board::log_wakes)?;
    for (standby, _, _) in TIERS {
        stage.control.desire(&name(standby), lazy(standby))?;
        stage.control.await_running(&name(standby))?;
    }
    by_ctr(&stage.board, "warm-up")?;
    for (standby, word, budget) in TIERS {
        let (mut ours, mut theirs) = (Sample::default(), Sample::default());
        for n in 0..WAKES {
            theirs.add_time(by_ctr(&stage.board, &format!("{standby}-{n}"))?);
            ours.add_time(wake(&stage, &name(standby), word)?);
        }
        table.row(&format!("from zero → 200, standby {standby}"), ours.quantiles(), budget);
        table.row("  ctr run → 200", theirs.quantiles(), "");
        table.row("  over ctr run", ours.over(&theirs).ratio(), "");
        course::rows(table, &stage.board.agent_log(), &name(standby), word)?;
    }
    storm(&stage, table)?;
    ten(&stage, table)
}

fn name(standby: &str) -> String {
    format!("lazy-{standby}")
}

fn lazy(standby: &str) -> Document {
    let scale = json!({ "minReplicas": 0, "maxReplicas": 10, "cooldownPeriod": 3600 });
    Document::new(IMAGE).set("/template/scale", scale).skerry("standby", standby)
}

/// Sends an app to zero, waits until only its tier is left, and asks for it.
fn wake(stage: &Stage, app: &str, word: &str) -> Result<Duration> {
    if send_to_zero(stage, app, word).is_err() {
        // Where memory was low for a moment its tier was given up, and is made again once the app was awake.
        stage.board.lan_client().get(app, "/")?;
        send_to_zero(stage, app, word)?;
    }
    let client = stage.board.lan_client();
    let begin = now();
    let answer = client.get(app, "/")?;
    let taken = begin.elapsed();
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    Ok(taken)
}

fn send_to_zero(stage: &Stage, app: &str, word: &str) -> Result<()> {
    stage.board.cli(["scale", app, "--to-zero"])?;
    // As the agent itself has it: what the broker has is some 100 ms old.
    look_every(PACE, "the tier to stand", SHORT, || {
        let shown = stage.board.cli(["show", app, "-o", "json"])?;
        let status: serde_json::Value = serde_json::from_str(&shown)?;
        let revision = &status["revisions"][0];
        ensure!(revision["standby"] == word && revision["replicas"] == 0, "{revision}");
        Ok(())
    })?;
    let running = usize::from(word == "frozen");
    look_every(PACE, "the app to be at zero", LONG, || {
        let held = stage.board.pids_of(app)?;
        ensure!(held.len() == running, "{held:?}");
        Ok(())
    })
}

/// Clients ask for apps of all tiers while these are sent to zero again and again.
fn storm(stage: &Stage, table: &mut Table) -> Result<()> {
    let (left, asked, failed) = (AtomicU64::new(1), AtomicU64::new(0), AtomicU64::new(0));
    let mut sent = 0;
    thread::scope(|scope| -> Result<()> {
        for n in 0..CLIENTS {
            let (left, asked, failed) = (&left, &asked, &failed);
            let client = stage.board.lan_client();
            scope.spawn(move || {
                let app = name(TIERS[n % TIERS.len()].0);
                while left.load(Ordering::Relaxed) != 0 {
                    let good = client.get(&app, "/").is_ok_and(|answer| answer.status == 200);
                    asked.fetch_add(1, Ordering::Relaxed);
                    failed.fetch_add(u64::from(!good), Ordering::Relaxed);
                }
            });
        }
        while sent < SENT_AWAY {
            for (standby, _, _) in TIERS {
                let away = stage.board.try_cli(["scale", &name(standby), "--to-zero"])?;
                sent += usize::from(away.status.success());
            }
        }
        left.store(0, Ordering::Relaxed);
        Ok(())
    })?;
    let (asked, failed) = (asked.into_inner(), failed.into_inner());
    let what = format!("{CLIENTS} clients, {sent} times sent to zero");
    table.row(&what, format!("{failed} of {asked} failed"), "0");
    Ok(())
}

/// From one replica to ten.
fn ten(stage: &Stage, table: &mut Table) -> Result<()> {
    let app = name("none");
    let ready = |count: u64| {
        stage.control.await_status(&app, move |status| {
            let revision = &status["revisions"][0];
            revision["readyReplicas"] == count && revision["replicas"] == count
        })
    };
    let mut times = Sample::default();
    for _ in 0..5 {
        stage.control.publish(&format!("apps/{app}/scale"), r#"{"replicas": 1}"#)?;
        ready(1)?;
        let begin = now();
        stage.control.publish_soon(&format!("apps/{app}/scale"), r#"{"replicas": 10}"#)?;
        ready(10)?;
        times.add_time(begin.elapsed());
    }
    table.row("1 → 10 replicas, all ready", times.millis(), "≤ 1500 ms");
    Ok(())
}
