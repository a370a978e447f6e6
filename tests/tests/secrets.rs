//! Secrets on a board: what reaches the containers, and that nothing else tells of it.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use system_tests::{Board, Document, Image, Shared, Stage, tells};

static STAGE: Shared<Stage> = Shared::new();

fn stage() -> Result<Arc<Stage>> {
    STAGE.get(|| Stage::start(|board| board.preload(&Image::testapp("test.local/app:1")?)))
}

/// An app with a secret in a variable, and all of them in a volume.
fn app(secrets: serde_json::Value) -> Document {
    Document::new("test.local/app:1")
        .set("/configuration/secrets", secrets)
        .main("/env/0", json!({"name": "TOKEN", "secretRef": "token"}))
        .main("/volumeMounts", json!([{"volumeName": "keys", "mountPath": "/keys"}]))
        .set("/template/volumes", json!([{"name": "keys", "storageType": "Secret"}]))
}

/// What the container of `app` has: in its variable, and in its file.
fn has(stage: &Stage, app: &str) -> Result<(String, String)> {
    let client = stage.board.lan_client();
    let variable = client.await_status(app, "/env", 200)?.json()["TOKEN"].clone();
    let file = client.await_status(app, "/read?path=/keys/token", 200)?.text();
    Ok((variable.as_str().unwrap_or_default().to_owned(), file))
}

fn twice(value: &str) -> (String, String) {
    (value.to_owned(), value.to_owned())
}

/// Runs the command line with `input` on its standard input.
fn cli_with<const N: usize>(board: &Board, arguments: [&str; N], input: &str) -> Result<Output> {
    let mut command = board.cli_command();
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("the command line")?;
    child.stdin.take().context("its input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(output)
}

fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

/// The files below `dir` that hold `value`, but those of Secret volumes, which are there for it. Network namespaces look
/// like files and cannot be read.
fn files_with(dir: &Path, value: &str, found: &mut Vec<String>) -> Result<usize> {
    let mut seen = 0;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let kind = fs::symlink_metadata(&path)?.file_type();
        if path.ends_with("volumes") || path.ends_with("netns") {
            continue;
        }
        if kind.is_dir() {
            seen += files_with(&path, value, found)?;
        } else if kind.is_file() {
            seen += 1;
            let bytes = fs::read(&path)?;
            if bytes.windows(value.len()).any(|part| part == value.as_bytes()) {
                found.push(path.display().to_string());
            }
        }
    }
    Ok(seen)
}

/// Nothing that the agent wrote or said holds `value`.
fn ensure_untold(stage: &Stage, value: &str) -> Result<()> {
    let mut found = Vec::new();
    for dir in ["state", "run"] {
        let seen = files_with(&stage.board.dir().join(dir), value, &mut found)?;
        ensure!(0 < seen, "there is no file in {dir}");
    }
    ensure!(found.is_empty(), "these files tell {value}: {found:?}");
    ensure!(!stage.board.agent_log().contains(value), "the log tells {value}");
    let mut messages = 0;
    for message in stage.control.everything() {
        if message.topic.ends_with("/desired") {
            continue; // that is what we sent
        }
        messages += 1;
        let text = String::from_utf8_lossy(&message.payload).into_owned();
        ensure!(!text.contains(value), "{} tells {value}: {text}", message.topic);
    }
    ensure!(0 < messages, "the device said nothing");
    Ok(())
}

#[test]
fn a_value_reaches_the_container_and_nothing_else_tells_of_it() -> Result<()> {
    let stage = stage()?;
    let value = "hunter2-by-mqtt";
    stage.control.desire("quiet", app(json!([{"name": "token", "value": value}])))?;
    stage.control.await_running("quiet")?;
    assert_eq!(has(&stage, "quiet")?, twice(value));
    for arguments in [["show", "quiet"], ["explain", "quiet"]] {
        ensure!(!stage.board.cli(arguments)?.contains(value), "{arguments:?} tells it");
    }
    ensure!(!stage.board.cli(["-o", "json", "show", "quiet"])?.contains(value));
    ensure_untold(&stage, value)
}

#[test]
fn a_name_without_a_value_keeps_what_is_known() -> Result<()> {
    let stage = stage()?;
    let value = "hunter2-that-stays";
    stage.control.desire("kept", app(json!([{"name": "token", "value": value}])))?;
    let first = stage.control.await_running("kept")?["latestRevisionName"].clone();
    let again = app(json!([{"name": "token"}])).env("VERSION", "2");
    stage.control.desire("kept", again)?;
    stage.control.await_status("kept", |status| {
        status["latestReadyRevisionName"] != first && status["runningStatus"] == "Running"
    })?;
    assert_eq!(has(&stage, "kept")?, twice(value));
    ensure_untold(&stage, value)
}

#[test]
fn a_value_set_by_hand_is_waited_for_and_read_with_a_restart() -> Result<()> {
    let stage = stage()?;
    let board = &stage.board;
    stage.control.desire("by-hand", app(json!([{"name": "token"}])))?;
    stage.control.await_reason("by-hand", "SecretValueMissing")?;
    let table = board.cli(["secret", "ls", "by-hand"])?;
    ensure!(table.contains("missing"), "{table}");

    let set = ["secret", "set", "by-hand", "token"];
    cli_with(board, set, "hunter2-by-hand\n")?;
    let status = stage.control.await_running("by-hand")?;
    assert_eq!(has(&stage, "by-hand")?, twice("hunter2-by-hand"));

    let output = said(&cli_with(board, set, "hunter3-by-hand")?);
    let revision = status["latestRevisionName"].as_str().context("a revision")?;
    ensure!(output.contains(&format!("skerry revision restart {revision}")), "{output}");
    ensure!(!output.contains("hunter"), "{output}");
    assert_eq!(has(&stage, "by-hand")?.0, "hunter2-by-hand", "what runs keeps its variable");
    let slip = said(&cli_with(board, ["secret", "set", "by-hand", "tokn"], "hunter2-by-hand")?);
    let expected = "\"tokn\" is not listed by the document of \"by-hand\", which lists \"token\"";
    ensure!(slip.contains(expected) && !slip.contains("restart"), "{slip}");
    board.cli(["secret", "rm", "by-hand", "tokn"])?;
    restart_by_new_revision(&stage)?;
    assert_eq!(has(&stage, "by-hand")?, twice("hunter3-by-hand"));

    let listed: serde_json::Value =
        serde_json::from_str(&board.cli(["-o", "json", "secret", "ls", "by-hand"])?)?;
    assert_eq!(listed, json!([{"name": "token", "hasValue": true, "listed": true}]));
    board.cli(["secret", "rm", "by-hand", "token"])?;
    let again = board.try_cli(["secret", "rm", "by-hand", "token"])?;
    ensure!(!again.status.success() && said(&again).contains("UnknownSecret"), "{}", said(&again));
    ensure!(said(&again).contains("hint: skerry secret ls by-hand lists them"), "{}", said(&again));
    stage.control.await_event("by-hand", "SecretChanged")?;
    for value in ["hunter2-by-hand", "hunter3-by-hand"] {
        ensure_untold(&stage, value)?;
    }
    Ok(())
}

/// A new revision reads secrets anew, as a restart does.
fn restart_by_new_revision(stage: &Stage) -> Result<()> {
    let before = stage.control.await_running("by-hand")?["latestRevisionName"].clone();
    let next = app(json!([{"name": "token"}])).env("VERSION", "2");
    stage.control.desire("by-hand", next)?;
    stage.control.await_status("by-hand", |status| {
        status["latestReadyRevisionName"] != before && status["runningStatus"] == "Running"
    })?;
    Ok(())
}

#[test]
fn a_value_is_sealed_for_the_device_and_no_broker_sees_it() -> Result<()> {
    let stage = stage()?;
    let value = "hunter2-sealed";
    let device = stage.control.await_json("status", system_tests::SHORT, |status| {
        status["publicKey"].as_str().is_some_and(|key| !key.is_empty())
    })?;
    let key = device["publicKey"].as_str().context("a public key")?;
    let sealed = said(&cli_with(&stage.board, ["secret", "seal", "--public-key", key], value)?);
    let sealed = sealed.trim();
    ensure!(sealed.starts_with("sealed:") && !sealed.contains(value), "{sealed}");
    stage.control.desire("sealed", app(json!([{"name": "token", "value": sealed}])))?;
    stage.control.await_running("sealed")?;
    assert_eq!(has(&stage, "sealed")?, twice(value));
    ensure_untold(&stage, value)?;
    let seen = stage.control.everything();
    let text =
        |message: &system_tests::Message| String::from_utf8_lossy(&message.payload).into_owned();
    ensure!(!seen.iter().any(|message| text(message).contains(value)), "the broker saw it");

    // The last byte of the box belongs to its seal.
    let mut broken = sealed.to_owned().into_bytes();
    let at = broken.len() - 6;
    broken[at] = if broken[at] == b'A' { b'B' } else { b'A' };
    let broken = String::from_utf8(broken)?;
    stage.control.desire("broken", app(json!([{"name": "token", "value": broken}])))?;
    let refused =
        stage.control.await_status("broken", |status| tells(status, "SealedValueUnreadable"))?;
    assert_eq!(refused["error"]["path"], "properties.configuration.secrets[0].value");
    Ok(())
}

#[test]
fn a_reference_to_what_is_not_listed_is_refused_by_its_path() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("missing", app(json!([{"name": "other", "value": "x"}])))?;
    let refused =
        stage.control.await_status("missing", |status| tells(status, "SecretRefNotFound"))?;
    assert_eq!(refused["error"]["path"], "properties.template.containers[0].env[0].secretRef");
    Ok(())
}

#[test]
fn values_survive_a_restart_of_the_agent_and_a_lost_key_costs_them_alone() -> Result<()> {
    let mut stage = Stage::start(|board| board.preload(&Image::testapp("test.local/app:1")?))?;
    let value = "hunter2-of-the-key";
    stage.control.desire("lasting", app(json!([{"name": "token", "value": value}])))?;
    stage.control.await_running("lasting")?;
    stage.board.stop_agent()?;
    stage.board.start()?;
    stage.control.await_running("lasting")?;
    ensure!(stage.board.cli(["secret", "ls", "lasting"])?.contains("set"), "it is still known");

    stage.board.stop_agent()?;
    fs::remove_file(stage.board.dir().join("state/key"))?;
    stage.board.start()?;
    stage.control.await_trouble("SecretsLost")?;
    assert_eq!(has(&stage, "lasting")?, twice(value), "what runs, runs on");
    ensure!(stage.board.cli(["secret", "ls", "lasting"])?.contains("missing"), "it is lost");
    cli_with(&stage.board, ["secret", "set", "lasting", "token"], "hunter3-of-the-key")?;
    stage
        .control
        .await_json("status", system_tests::SHORT, |status| !tells(status, "SecretsLost"))?;
    for value in [value, "hunter3-of-the-key"] {
        ensure_untold(&stage, value)?;
    }
    Ok(())
}
