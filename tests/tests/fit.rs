//! What scaling wants and the board has no room for: who is held back says why, and grows as soon as there is room.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use system_tests::{Board, Document, Image, LONG, Stage, eventually, tells};

/// Memory that leaves nobody wanting.
const PLENTY: u64 = 4096;

fn stage(available_mib: u64) -> Result<Stage> {
    Stage::start(|board: &mut Board| {
        board.preload(&Image::testapp("test.local/app:1")?)?;
        board.show_available_mib(available_mib)?;
        board.show_processors(0, 1)
    })
}

/// An app with one replica for which a rule asks for three, all the year.
fn three() -> Document {
    let metadata = json!({
        "timezone": "UTC", "start": "0 0 1 1 *", "end": "59 23 31 12 *", "desiredReplicas": "3",
    });
    let cron = json!({ "name": "hours", "custom": { "type": "cron", "metadata": metadata } });
    Document::new("test.local/app:1")
        .set("/template/terminationGracePeriodSeconds", 5)
        .set("/template/scale", json!({ "minReplicas": 1, "maxReplicas": 5, "rules": [cron] }))
}

fn ready(status: &Value) -> &Value {
    &status["revisions"][0]["readyReplicas"]
}

#[test]
fn an_app_that_finds_no_memory_to_grow_says_so_and_grows_when_there_is_some() -> Result<()> {
    let mut stage = stage(8)?;
    stage.control.desire("wide", three())?;
    // The machine itself may be short of memory for a moment, and then that is what is told.
    let status = stage.control.await_json("apps/wide/status", 4 * LONG, |status| {
        let details = status["revisions"][0]["details"].as_str().unwrap_or_default();
        tells(status, "InsufficientMemory") && !details.starts_with("memory is low")
    })?;
    let revision = &status["revisions"][0];
    assert_eq!((ready(&status), &revision["wantedReplicas"]), (&json!(1), &json!(3)));
    let details = revision["details"].as_str().context("details")?;
    ensure!(
        details.starts_with("1 of 3 replicas: one more needs")
            && details.ends_with("8 MiB are left"),
        "{details}"
    );
    let told = stage.board.cli(["explain", "wide"])?;
    ensure!(told.contains("InsufficientMemory") && told.contains("1 of 3 replicas"), "{told}");
    assert_eq!(stage.board.pids_of("wide")?.len(), 1);
    stage.board.show_available_mib(PLENTY)?;
    stage.control.await_status("wide", |status| {
        ready(status) == 3 && status["revisions"][0]["reason"] == ""
    })?;
    Ok(())
}

#[test]
fn an_app_that_finds_the_processors_busy_says_so_and_grows_when_they_have_time() -> Result<()> {
    let mut stage = stage(PLENTY)?;
    let mut time = (0, 1);
    // Work all the time, whenever the agent looks.
    stage.control.desire("wide", three())?;
    eventually("InsufficientCpu", LONG, || {
        time = (time.0 + 100, time.1 + 100);
        stage.board.show_processors(time.0, time.1)?;
        let status = stage.control.latest("apps/wide/status").context("no status")?.json();
        let revision = &status["revisions"][0];
        ensure!(revision["reason"] == "InsufficientCpu", "{status}");
        ensure!(
            (ready(&status), &revision["wantedReplicas"]) == (&json!(1), &json!(3)),
            "{status}"
        );
        Ok(())
    })?;
    stage.control.await_status("wide", |status| ready(status) == 3)?;
    Ok(())
}
