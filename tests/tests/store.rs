//! The store: two copies, of which either is enough.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use system_tests::{Board, Document, Image, LONG, Stage};

fn prepare(board: &mut Board) -> Result<()> {
    board.preload(&Image::testapp("test.local/app:1")?)
}

fn app() -> Document {
    Document::new("test.local/app:1")
}

/// Writes garbage over every file of a directory.
fn spoil(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            spoil(&path)?;
        } else {
            fs::write(&path, [0xa5; 4096])?;
        }
    }
    Ok(())
}

fn epoch(stage: &Stage) -> Result<u64> {
    let status = stage.control.await_json("status", LONG, |status| status["online"] == true)?;
    Ok(status["epoch"].as_str().context("no epoch")?.parse()?)
}

#[test]
fn a_store_that_will_not_open_is_rebuilt_from_its_copy() -> Result<()> {
    let mut stage = Stage::start(prepare)?;
    stage.control.desire("kept", app().skerry("generation", 9))?;
    stage.control.await_running("kept")?;
    let pids = stage.board.pids_of("kept")?;
    let before = epoch(&stage)?;
    stage.board.kill_agent()?;
    stage.broker.wipe()?;
    spoil(&stage.board.dir().join("state/state"))?;
    stage.board.start()?;
    let status = stage.control.await_running("kept")?;
    assert_eq!(status["generation"], "9");
    assert_eq!(stage.board.pids_of("kept")?, pids);
    stage.control.await_since(0, "the event", LONG, |message| {
        message.topic == "events" && message.json()["reason"] == "StoreRebuilt"
    })?;
    ensure!(before + 1000 <= epoch(&stage)?, "the epoch did not jump");
    Ok(())
}

#[test]
fn a_copy_that_is_lost_is_written_again() -> Result<()> {
    let mut stage = Stage::start(prepare)?;
    stage.control.desire("kept", app())?;
    stage.control.await_running("kept")?;
    let copy = stage.board.dir().join("state/desired.snapshot");
    stage.board.kill_agent()?;
    fs::remove_file(&copy)?;
    stage.broker.wipe()?;
    stage.board.start()?;
    stage.control.await_running("kept")?;
    stage.control.desire("next", app())?;
    stage.control.await_running("next")?;
    ensure!(copy.exists(), "no copy");
    Ok(())
}

#[test]
fn with_both_copies_gone_the_agent_starts_and_takes_documents() -> Result<()> {
    let mut stage = Stage::start(prepare)?;
    stage.control.desire("first", app())?;
    stage.control.await_running("first")?;
    stage.board.kill_agent()?;
    spoil(&stage.board.dir().join("state"))?;
    stage.board.start()?;
    // The broker has it, retained.
    stage.control.await_running("first")?;
    stage.board.lan_client().await_status("first", "/", 200)?;
    Ok(())
}
