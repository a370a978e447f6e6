//! The main job: a document over MQTT runs, serves, is reported, rolls on, and outlives the agent.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use system_tests::{Document, Image, LONG, Shared, Stage, eventually};

static STAGE: Shared<Stage> = Shared::new();

/// A board with two versions of the test app on it.
fn stage() -> Result<Arc<Stage>> {
    STAGE.get(|| {
        Stage::start(|board| {
            for version in ["1", "2"] {
                let name = format!("test.local/hello:{version}");
                board.preload(&Image::testapp(&name)?.env("VERSION", version))?;
            }
            Ok(())
        })
    })
}

fn hello(version: u32) -> Document {
    Document::new(&format!("test.local/hello:{version}"))
}

#[test]
fn a_published_document_runs_serves_and_is_reported() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("first", hello(1).skerry("generation", 3))?;
    let answer = stage.board.lan_client().await_status("first", "/", 200)?;
    assert_eq!(answer.json()["version"], "1");

    let status = stage.control.await_running("first")?;
    assert_eq!(status["app"], "first");
    assert_eq!(status["generation"], "3");
    assert_eq!(status["source"], "mqtt");
    assert_eq!(status["error"]["reason"], "");
    assert_eq!(status["fqdn"], format!("first.default.{}.internal", stage.board.device()));
    let revision = &status["revisions"][0];
    assert_eq!(revision["name"], status["latestRevisionName"]);
    assert_eq!(revision["trafficWeight"], 100);
    assert_eq!(revision["readyReplicas"], 1);
    assert_eq!(revision["healthState"], "Healthy");
    assert_eq!(revision["replicaList"][0]["ready"], true);
    assert_eq!(answer.json()["revision"], status["latestRevisionName"]);
    assert_eq!(answer.json()["replica"], revision["replicaList"][0]["name"]);

    let device = stage.control.latest("status").context("the device has no status")?.json();
    assert_eq!(device["online"], true);
    Ok(())
}

#[test]
fn a_change_rolls_through_without_a_failed_request() -> Result<()> {
    let stage = stage()?;
    let client = stage.board.lan_client();
    stage.control.desire("rolling", hello(1))?;
    client.await_status("rolling", "/", 200)?;
    let before = stage.control.await_running("rolling")?;

    stage.control.desire("rolling", hello(2).skerry("probationSeconds", 1))?;
    eventually("version 2 to answer", LONG, || {
        let answer = client.get("rolling", "/")?;
        // A failed request ends the test at once: it must not be looked over.
        assert_eq!(answer.status, 200, "while rolling: {}", answer.text());
        ensure!(answer.json()["version"] == "2", "still version 1");
        Ok(())
    })?;
    let after = stage.control.await_status("rolling", |status| {
        status["latestReadyRevisionName"] != before["latestReadyRevisionName"]
            && status["revisions"][0]["phase"] == "Committed"
    })?;
    assert_eq!(after["runningStatus"], "Running");
    eventually("the old replica to be gone", LONG, || {
        let pids = stage.board.pids_of("rolling")?;
        ensure!(pids.len() == 1, "there are {}", pids.len());
        Ok(())
    })
}

#[test]
fn an_app_is_removed_by_its_document_and_its_status_is_cleared() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("leaving", hello(1))?;
    stage.control.await_running("leaving")?;
    let mark = stage.control.mark();
    stage.control.remove("leaving")?;
    stage.control.await_since(mark, "the status to be cleared", LONG, |message| {
        message.topic == "apps/leaving/status" && message.payload.is_empty()
    })?;
    stage.board.lan_client().await_status("leaving", "/", 404)?;
    assert!(stage.board.pids_of("leaving")?.is_empty());
    Ok(())
}

#[test]
fn an_agent_that_is_killed_comes_back_and_nothing_was_restarted() -> Result<()> {
    let mut stage = Stage::start(|board| board.preload(&Image::testapp("test.local/hello:1")?))?;
    stage.control.desire("steady", hello(1).replicas(2))?;
    stage.control.await_running("steady")?;
    let before = stage.board.pids_of("steady")?;
    assert_eq!(before.len(), 2);

    stage.board.kill_agent()?;
    assert_eq!(stage.board.pids_of("steady")?, before);
    stage.board.start()?;
    let answer = stage.board.lan_client().await_status("steady", "/", 200)?;
    assert_eq!(answer.json()["app"], "steady");
    assert_eq!(stage.board.pids_of("steady")?, before);
    Ok(())
}
