//! The command line against a running agent: what it prints, and what it refuses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use system_tests::{Board, Document, Image, LONG, Shared, Stage, eventually};

static STAGE: Shared<Stage> = Shared::new();

fn stage() -> Result<Arc<Stage>> {
    STAGE.get(|| Stage::start(|board| board.preload(&Image::testapp("test.local/app:1")?)))
}

fn app() -> Document {
    Document::new("test.local/app:1")
}

fn demo(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("demo").join(name).display().to_string()
}

/// A file with the document of `name`.
fn file(board: &Board, name: &str, mut document: Document) -> Result<PathBuf> {
    document.0["name"] = name.into();
    let path = board.dir().join(format!("{name}.json"));
    fs::write(&path, document.text())?;
    Ok(path)
}

fn apply(board: &Board, name: &str, document: Document) -> Result<String> {
    let path = file(board, name, document)?;
    board.cli(["apply", "-f", &path.display().to_string()])
}

/// A refused command: its exit code is not 0 and it says `error: …`.
fn refused<const N: usize>(board: &Board, arguments: [&str; N]) -> Result<String> {
    let outcome = board.try_cli(arguments)?;
    let said = String::from_utf8_lossy(&outcome.stderr).into_owned();
    ensure!(!outcome.status.success(), "{arguments:?} was not refused");
    ensure!(said.contains("error: "), "{said}");
    Ok(said)
}

#[test]
fn check_needs_no_agent_and_tells_errors_by_path() -> Result<()> {
    let stage = stage()?;
    let board = &stage.board;
    for document in ["greeter.yaml", "front.yaml"] {
        board.cli(["check", &demo(document)])?;
    }
    let broken = app().set("/template/scale/minReplicas", "MIN");
    let path = file(board, "broken", broken)?.display().to_string();
    let outcome = board.try_cli(["check", &path])?;
    assert_eq!(outcome.status.code(), Some(1));
    let said = String::from_utf8_lossy(&[outcome.stdout, outcome.stderr].concat()).into_owned();
    ensure!(said.contains("properties.template.scale.minReplicas"), "{said}");
    let json = board.try_cli(["check", &path, "-o", "json"])?;
    let json: Value = serde_json::from_slice(&json.stdout).context("not JSON")?;
    ensure!(system_tests::tells(&json, "InvalidType"), "{json}");
    Ok(())
}

#[test]
fn what_is_applied_is_shown_and_what_is_deleted_is_gone() -> Result<()> {
    let stage = stage()?;
    let board = &stage.board;
    apply(board, "local", app())?;
    board.lan_client().await_status("local", "/", 200)?;
    stage.control.await_running("local")?;
    for (command, words) in [
        ("show", ["local--", "Running"]),
        ("revisions", ["local--", "100"]),
        ("replicas", ["local--", "10."]),
    ] {
        let said = board.cli([command, "local"])?;
        ensure!(words.iter().all(|word| said.contains(word)), "{command}: {said}");
    }
    ensure!(board.cli(["apps"])?.contains("local"), "not listed");
    board.cli(["delete", "local"])?;
    board.lan_client().await_status("local", "/", 404)?;
    eventually("it to be gone", LONG, || {
        let list = board.cli(["apps"])?;
        ensure!(!list.lines().any(|line| line.starts_with("local ")), "{list}");
        Ok(())
    })?;
    ensure!(refused(board, ["show", "local"])?.contains("UnknownApp"), "another reason");
    Ok(())
}

#[test]
fn json_is_the_status_that_is_published() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("equal", app())?;
    stage.control.await_running("equal")?;
    eventually("both to be equal", LONG, || {
        let published = stage.control.latest("apps/equal/status").context("none")?.json();
        let said: Value = serde_json::from_str(&stage.board.cli(["show", "equal", "-o", "json"])?)?;
        ensure!(published == said, "{said}\nand not\n{published}");
        Ok(())
    })?;
    let yaml = stage.board.cli(["show", "equal", "-o", "yaml"])?;
    ensure!(yaml.contains("runningStatus: Running"), "{yaml}");
    Ok(())
}

#[test]
fn an_app_of_another_source_is_left_alone_unless_forced() -> Result<()> {
    let stage = stage()?;
    let board = &stage.board;
    stage.control.desire("owned", app())?;
    stage.control.await_running("owned")?;
    let path = file(board, "owned", app().env("CHANGED", "yes"))?.display().to_string();
    let said = refused(board, ["apply", "-f", &path])?;
    ensure!(said.contains("OwnedByOtherSource"), "{said}");
    ensure!(refused(board, ["delete", "owned"])?.contains("OwnedByOtherSource"), "deleted");
    board.cli(["apply", "--force", "-f", &path])?;
    let client = board.lan_client();
    client.await_answer("owned", "/env", |answer| answer.json()["CHANGED"] == "yes")?;
    Ok(())
}

#[test]
fn a_file_in_the_folder_is_an_app_for_as_long_as_it_is_there() -> Result<()> {
    let stage = stage()?;
    let board = &stage.board;
    let path = board.dir().join("apps.d/filed.yaml");
    let mut document = app();
    document.0["name"] = "filed".into();
    fs::write(&path, document.text())?;
    board.lan_client().await_status("filed", "/", 200)?;
    let status = stage.control.await_running("filed")?;
    assert_eq!(status["source"], "file");
    fs::remove_file(path)?;
    board.lan_client().await_status("filed", "/", 404)?;
    Ok(())
}

#[test]
fn logs_are_told_and_followed() -> Result<()> {
    let stage = stage()?;
    let board = &stage.board;
    stage.control.desire("talking", app())?;
    let client = board.lan_client();
    client.await_status("talking", "/log?lines=5&text=early", 200)?;
    eventually("five lines", LONG, || {
        let said = board.cli(["logs", "talking", "--tail", "5"])?;
        ensure!(said.lines().filter(|line| line.contains("early")).count() == 5, "{said}");
        Ok(())
    })?;
    let path = board.dir().join("followed.log");
    let mut command = board.cli_command();
    command.args(["logs", "talking", "-f", "--tail", "1"]);
    let mut follower = system_tests::Process::start("skerry logs -f", &mut command, &path)?;
    follower.await_ready(LONG, || {
        ensure!(fs::read_to_string(&path)?.contains("early"), "nothing yet");
        Ok(())
    })?;
    client.await_status("talking", "/log?lines=1&text=later", 200)?;
    eventually("the new line", LONG, || {
        ensure!(fs::read_to_string(&path)?.contains("later"), "not followed");
        Ok(())
    })
}

#[test]
fn a_scale_target_holds_until_it_is_cleared() -> Result<()> {
    let stage = stage()?;
    let board = &stage.board;
    apply(board, "wide", app())?;
    stage.control.await_running("wide")?;
    board.cli(["scale", "wide", "--replicas", "2"])?;
    stage.control.await_status("wide", |status| status["revisions"][0]["readyReplicas"] == 2)?;
    board.cli(["scale", "wide", "--clear"])?;
    stage.control.await_status("wide", |status| status["revisions"][0]["replicas"] == 1)?;
    Ok(())
}

#[test]
fn every_reason_is_explained_and_so_is_an_app() -> Result<()> {
    let stage = stage()?;
    let all = stage.board.cli(["explain"])?;
    ensure!(all.contains("PortClosed") && all.contains("targetPort"), "{all}");
    stage.control.desire("odd", app().set("/configuration/ingress/targetPort", 9999))?;
    stage.control.await_reason("odd", "PortClosed")?;
    let said = stage.board.cli(["explain", "odd"])?;
    ensure!(said.contains("PortClosed") && said.contains("targetPort"), "{said}");
    ensure!(stage.board.cli(["events"])?.lines().next().is_some(), "no events at all");
    Ok(())
}

#[test]
fn an_agent_that_is_not_there_is_told_with_a_hint() -> Result<()> {
    let stage = stage()?;
    let mut command = Command::new(stage.board.binary());
    command.args(["--socket", "/nonexistent/agent.sock", "apps"]);
    let outcome = system_tests::output(&mut command)?;
    let said = String::from_utf8_lossy(&outcome.stderr).into_owned();
    ensure!(!outcome.status.success() && said.contains("error: "), "{said}");
    ensure!(said.contains("/nonexistent/agent.sock") && said.contains("hint: "), "{said}");
    Ok(())
}
