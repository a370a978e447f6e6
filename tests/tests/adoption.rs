//! The apps outlive the agent: it may crash, stop, be replaced, or find that much has changed.

use anyhow::{Context, Result, ensure};
use system_tests::{Board, Document, Image, LONG, SHORT, Stage, eventually, now};

fn prepare(board: &mut Board) -> Result<()> {
    for version in ["1", "2"] {
        let name = format!("test.local/app:{version}");
        board.preload(&Image::testapp(&name)?.env("VERSION", version))?;
    }
    Ok(())
}

fn app(version: u32) -> Document {
    Document::new(&format!("test.local/app:{version}"))
}

#[test]
fn a_stop_leaves_the_containers_running_and_a_start_adopts_them() -> Result<()> {
    let mut stage = Stage::start(prepare)?;
    stage.control.desire("steady", app(1).replicas(2))?;
    stage.control.await_running("steady")?;
    let before = stage.board.container_pids()?;
    stage.board.stop_agent()?;
    assert_eq!(stage.board.container_pids()?, before);
    let offline = stage.control.await_json("status", SHORT, |status| status["online"] == false);
    offline.context("a stop publishes that the device goes offline")?;

    let begin = now();
    stage.board.launch()?;
    stage.board.lan_client().await_status("steady", "/", 200)?;
    // A debug build on a loaded machine; the bench measures the second that is promised.
    assert!(begin.elapsed() < SHORT);
    stage.control.await_running("steady")?;
    assert_eq!(stage.board.container_pids()?, before);
    Ok(())
}

#[test]
fn what_changed_meanwhile_is_put_right() -> Result<()> {
    let mut stage = Stage::start(prepare)?;
    stage.control.desire("old", app(1))?;
    stage.control.desire("leaving", app(1))?;
    stage.control.desire("crashing", app(1))?;
    for name in ["old", "leaving", "crashing"] {
        stage.control.await_running(name)?;
    }
    stage.board.kill_agent()?;
    stage.control.desire("old", app(2))?;
    stage.control.remove("leaving")?;
    stage.control.desire("new", app(1))?;
    let crashed = stage.board.pids_of("crashing")?;
    for id in crashed.keys() {
        stage.board.ctr(["tasks", "kill", "--signal", "SIGKILL", id])?;
    }
    stage.board.start()?;
    let client = stage.board.lan_client();
    client.await_answer("old", "/", |answer| answer.json()["version"] == "2")?;
    client.await_status("new", "/", 200)?;
    client.await_status("leaving", "/", 404)?;
    client.await_status("crashing", "/", 200)?;
    eventually("the replica that left to be gone", LONG, || {
        ensure!(stage.board.pids_of("leaving")?.is_empty(), "it is there");
        Ok(())
    })
}

#[test]
fn draining_stops_what_a_stop_leaves_running() -> Result<()> {
    let mut stage = Stage::start(prepare)?;
    stage.control.desire("drained", app(1))?;
    stage.control.await_running("drained")?;
    stage.board.stop_agent()?;
    assert_eq!(stage.board.container_pids()?.len(), 1);
    stage.board.drain()?;
    assert!(stage.board.container_pids()?.is_empty());

    // Drained is not removed: the next start brings it back.
    stage.board.start()?;
    stage.board.lan_client().await_status("drained", "/", 200)?;
    Ok(())
}

#[test]
fn after_a_reboot_the_records_without_processes_are_made_anew() -> Result<()> {
    let mut stage = Stage::start(prepare)?;
    stage.control.desire("reborn", app(1))?;
    stage.control.await_running("reborn")?;
    let before = stage.board.container_pids()?;
    stage.board.kill_agent()?;
    for id in before.keys() {
        stage.board.ctr(["tasks", "delete", "--force", id])?;
    }
    // What a reboot takes: namespaces, bridges, tables. containerd's records stay.
    let netns = stage.board.dir().join("run/netns");
    for entry in std::fs::read_dir(&netns)? {
        let path = entry?.path();
        nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH)?;
        std::fs::remove_file(path)?;
    }
    stage.board.run("ip", ["link", "delete", "sk-default"])?;
    stage.board.run("nft", ["delete", "table", "inet", "skerry"])?;
    stage.board.start()?;
    stage.board.lan_client().await_status("reborn", "/", 200)?;
    let after = stage.board.pids_of("reborn")?;
    assert_eq!(after.len(), 1);
    assert!(after.keys().all(|id| !before.contains_key(id)));
    Ok(())
}
