//! Updates on a board that is short of memory: one that does not fit waits, and who stands by makes room.
//!
//! Pressure is the whole machine's: every agent on it sees what these tests do, so they have a file of their own.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use system_tests::{Board, Client, Document, Image, LONG, Stage, eventually};

/// Where the kernel tells of pressure, if it was built to.
const PRESSURE: &str = "/proc/pressure/memory";

/// Reads more again and again than its memory holds, so that it waits for the disk all the time.
const THRASHES: &str = "head -c 100000000 /dev/urandom > /big; \
                        while :; do cat /big > /dev/null; done & while :; do cat /big > /dev/null; done";

fn prepare(board: &mut Board) -> Result<()> {
    board.preload(&Image::testapp("test.local/app:1")?)?;
    board.preload(&Image::busybox("test.local/tool:1"))
}

fn app(version: u32) -> Document {
    Document::new("test.local/app:1")
        .env("VERSION", &version.to_string())
        .set("/template/terminationGracePeriodSeconds", 5)
}

fn revision(status: &Value, number: usize) -> &Value {
    let suffix = format!("{number:07}");
    let all = status["revisions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of = |one: &&Value| one["name"].as_str().is_some_and(|name| name.ends_with(&suffix));
    all.iter().find(of).unwrap_or(&Value::Null)
}

fn version(client: &Client, host: &str) -> Result<String> {
    let answer = client.get(host, "/")?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    Ok(answer.json()["version"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn an_update_that_does_not_fit_waits_and_goes_on_when_there_is_memory() -> Result<()> {
    let mut stage = Stage::start(|board| {
        prepare(board)?;
        board.show_available_mib(8)
    })?;
    let client = stage.board.lan_client();
    // A first revision has nobody to leave room for.
    stage.control.desire("grows", app(1))?;
    stage.control.await_running("grows")?;
    stage.control.desire("grows", app(2).skerry("probationSeconds", 0))?;
    let status = stage.control.await_reason("grows", "InsufficientMemory")?;
    let waits = revision(&status, 2);
    assert_eq!((&waits["phase"], &waits["replicas"]), (&json!("Staged"), &json!(0)));
    let details = waits["details"].as_str().context("details")?;
    ensure!(
        details.contains("1 more of") && details.contains("and 8 MiB are available"),
        "{details}"
    );
    let told = stage.board.cli(["explain", "grows"])?;
    ensure!(told.contains("InsufficientMemory") && told.contains("8 MiB"), "{told}");
    assert_eq!(version(&client, "grows")?, "1");

    stage.board.show_available_mib(4096)?;
    stage.control.await_json("apps/grows/status", LONG, |status| {
        revision(status, 2)["phase"] == "Committed" && revision(status, 1)["replicas"] == 0
    })?;
    assert_eq!(version(&client, "grows")?, "2");
    Ok(())
}

#[test]
fn who_stands_by_makes_room_under_pressure_and_serves_again_when_the_trial_fails() -> Result<()> {
    if !Path::new(PRESSURE).exists() {
        return Ok(()); // nobody tells of it
    }
    let stage = Stage::start(prepare)?;
    let client = stage.board.lan_client();
    stage.control.desire("slim", app(1))?;
    stage.control.await_running("slim")?;
    stage.control.desire("slim", app(2).skerry("probationSeconds", 600))?;
    stage.control.await_status("slim", |status| {
        revision(status, 2)["phase"] == "Probation" && revision(status, 1)["replicas"] == 1
    })?;

    let greedy = Document::new("test.local/tool:1")
        .without_ingress()
        .main("/command", json!(["/bin/busybox", "sh", "-c", THRASHES]))
        .main("/resources", json!({"cpu": 1.0, "memory": "48Mi"}));
    stage.control.desire("greedy", greedy)?;
    stage.control.await_event("slim", "StandbyGivenUp")?;
    let status =
        stage.control.await_status("slim", |status| revision(status, 1)["replicas"] == 0)?;
    assert_eq!(revision(&status, 2)["phase"], "Probation");
    assert_eq!(revision(&status, 1)["active"], true);
    assert_eq!(version(&client, "slim")?, "2");
    assert_eq!(stage.board.pids_of("slim")?.len(), 1);
    stage.control.remove("greedy")?;

    // The answer may come before the end, or not.
    let _ = client.get("slim", "/exit?code=7");
    stage.control.await_json("apps/slim/status", LONG, |status| {
        revision(status, 2)["phase"] == "RolledBack" && revision(status, 1)["readyReplicas"] == 1
    })?;
    eventually("the old one to serve", LONG, || {
        let serves = version(&client, "slim")?;
        ensure!(serves == "1", "version {serves} serves");
        Ok(())
    })
}
