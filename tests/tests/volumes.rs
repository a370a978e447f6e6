//! Volumes, devices and capabilities, from the document to what a container finds, and what is left on the board after.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use system_tests::{Board, Document, Image, LONG, Shared, Stage, eventually, run};

static STAGE: Shared<Stage> = Shared::new();

fn prepare(board: &mut Board) -> Result<()> {
    board.preload(&Image::testapp("test.local/app:1")?)?;
    board.preload(&Image::testapp("test.local/user:1")?.user("1000:1001"))?;
    let devices = format!("[\"{}/gadget*\"]", board.dir().display());
    board.settings().set("devices", "allow", devices);
    board.settings().set("devices", "capabilities", "[\"CAP_NET_ADMIN\"]");
    Ok(())
}

fn stage() -> Result<Arc<Stage>> {
    STAGE.get(|| Stage::start(prepare))
}

fn with_volume(image: &str, volume: &Value) -> Document {
    Document::new(image)
        .set("/template/volumes", json!([volume]))
        .main("/volumeMounts", json!([{"volumeName": "v", "mountPath": "/v"}]))
}

/// What `app` answers at `path`, once it answers with 200.
fn ask(stage: &Stage, app: &str, path: &str) -> Result<String> {
    Ok(stage.board.lan_client().await_status(app, path, 200)?.text())
}

/// Mounts of volumes on the board.
fn mounts(stage: &Stage) -> Result<Vec<String>> {
    let below = stage.board.dir().join("run/volumes").display().to_string();
    let all = fs::read_to_string("/proc/self/mounts")?;
    Ok(all.lines().filter(|line| line.contains(&below)).map(str::to_owned).collect())
}

fn mounts_of(stage: &Stage, app: &str) -> Result<Vec<String>> {
    let mut mounts = mounts(stage)?;
    mounts.retain(|line| line.contains(&format!("/{app}--")));
    Ok(mounts)
}

#[test]
fn an_empty_dir_survives_a_crash_of_its_container_and_goes_with_its_replica() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("kept", with_volume("test.local/user:1", &json!({"name": "v"})))?;
    ask(&stage, "kept", "/write?path=/v/note&text=kept")?;
    ask(&stage, "kept", "/exit?code=1")?;
    stage.control.await_status("kept", |status| {
        let replica = &status["revisions"][0]["replicaList"][0];
        replica["restartCount"] == 1 && replica["ready"] == true
    })?;
    assert_eq!(ask(&stage, "kept", "/read?path=/v/note")?, "kept");
    // Half of 128 MiB, in memory.
    let mounts = mounts_of(&stage, "kept")?;
    ensure!(mounts.len() == 1 && mounts[0].contains("size=65536k"), "{mounts:?}");
    stage.control.remove("kept")?;
    eventually("the end of the volume", LONG, || {
        let left = mounts_of(&stage, "kept")?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
}

#[test]
fn secrets_are_files_that_no_disk_has_seen() -> Result<()> {
    let stage = stage()?;
    let secrets =
        json!([{"name": "one", "value": "s3cret-one"}, {"name": "two", "value": "s3cret-two"}]);
    let all = with_volume("test.local/user:1", &json!({"name": "v", "storageType": "Secret"}))
        .set("/configuration/secrets", secrets.clone());
    let chosen = json!({"name": "v", "storageType": "Secret",
                        "secrets": [{"secretRef": "two", "path": "deep/second"}]});
    let chosen = with_volume("test.local/user:1", &chosen).set("/configuration/secrets", secrets);
    stage.control.desire("whole", all)?;
    stage.control.desire("chosen", chosen)?;
    for (file, value) in [("one", "s3cret-one"), ("two", "s3cret-two")] {
        assert_eq!(ask(&stage, "whole", &format!("/read?path=/v/{file}"))?, value);
    }
    assert_eq!(ask(&stage, "chosen", "/read?path=/v/deep/second")?, "s3cret-two");
    let absent = stage.board.lan_client().get("chosen", "/read?path=/v/one")?;
    assert_eq!(absent.status, 502);
    let mounts = mounts_of(&stage, "whole")?;
    ensure!(mounts.len() == 1 && mounts[0].contains(" ramfs "), "{mounts:?}");
    let written = stage.board.lan_client().get("whole", "/write?path=/v/one&text=x")?;
    assert_eq!(written.status, 502);
    Ok(())
}

#[test]
fn what_runs_keeps_its_volumes_over_a_restart_of_the_agent_and_a_drain_takes_them_down()
-> Result<()> {
    let mut stage = Stage::start(prepare)?;
    stage.control.desire("steady", with_volume("test.local/app:1", &json!({"name": "v"})))?;
    ask(&stage, "steady", "/write?path=/v/note&text=kept")?;
    stage.board.kill_agent()?;
    stage.board.start()?;
    assert_eq!(ask(&stage, "steady", "/read?path=/v/note")?, "kept");
    ask(&stage, "steady", "/exit?code=1")?;
    assert_eq!(ask(&stage, "steady", "/read?path=/v/note")?, "kept");
    stage.board.stop_agent()?;
    stage.board.drain()?;
    let left = mounts(&stage)?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

/// A device of the board; the node is not there yet.
fn with_device(image: &str, path: &Path, permissions: &str) -> Document {
    let device = json!({"hostPath": path.display().to_string(), "containerPath": "/dev/gadget",
                        "permissions": permissions});
    Document::new(image).skerry("devices", json!([device]))
}

#[test]
fn a_device_is_waited_for_and_given_to_who_asked_for_it() -> Result<()> {
    let stage = stage()?;
    let node = stage.board.dir().join("gadget0");
    stage.control.desire("gadget", with_device("test.local/user:1", &node, "r"))?;
    let status = stage.control.await_reason("gadget", "DeviceMissing")?.to_string();
    ensure!(status.contains("gadget0 is not there"), "{status}");
    // The number of one that containers do not get by themselves.
    run("mknod", [node.display().to_string().as_str(), "c", "10", "229"])?;
    chown(&node, Some(0), Some(4321))?;
    fs::set_permissions(&node, fs::Permissions::from_mode(0o660))?;
    stage.control.await_running("gadget")?;
    let found = ask(&stage, "gadget", "/stat?path=/dev/gadget")?;
    ensure!(found.starts_with("20660 0:4321"), "{found}");
    let status = ask(&stage, "gadget", "/read?path=/proc/self/status")?;
    let groups =
        status.lines().find_map(|line| line.strip_prefix("Groups:")).context("no groups")?;
    ensure!(groups.split_whitespace().any(|group| group == "4321"), "{groups}");
    Ok(())
}

#[test]
fn what_the_board_does_not_allow_is_refused_by_path_with_the_key_that_would() -> Result<()> {
    let stage = stage()?;
    let refused = |app: &str, document: Document, path: &str, reason: &str| -> Result<()> {
        stage.control.desire(app, document)?;
        let status = stage.control.await_reason(app, reason)?;
        assert_eq!(status["error"]["path"], path, "{status}");
        let fix = stage.board.cli(["explain", reason])?;
        ensure!(fix.contains("[devices]") && fix.contains("agent.toml"), "{fix}");
        Ok(())
    };
    let memory = with_device("test.local/app:1", Path::new("/dev/mem"), "rw");
    refused("peeping", memory, "skerry.devices[0].hostPath", "DeviceNotAllowed")?;
    let add = json!({"add": ["NET_ADMIN", "SYS_ADMIN"]});
    let mighty = Document::new("test.local/app:1").skerry("capabilities", add);
    refused("mighty", mighty, "skerry.capabilities.add[1]", "CapabilityNotAllowed")
}

#[test]
fn capabilities_are_added_and_dropped_and_a_change_makes_a_revision() -> Result<()> {
    let stage = stage()?;
    let capabilities = |app: &str| -> Result<u64> {
        let status = ask(&stage, app, "/read?path=/proc/self/status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:\t"));
        Ok(u64::from_str_radix(line.context("no capabilities")?, 16)?)
    };
    let document = || Document::new("test.local/app:1");
    stage.control.desire("able", document())?;
    let before = stage.control.await_running("able")?;
    let usual = capabilities("able")?;
    let changed = json!({"add": ["net_admin"], "drop": ["CHOWN", "cap_mknod"]});
    stage.control.desire("able", document().skerry("capabilities", changed))?;
    stage.control.await_status("able", |status| {
        status["latestRevisionName"] != before["latestRevisionName"]
            && status["latestRevisionName"] == status["latestReadyRevisionName"]
            && status["runningStatus"] == "Running"
    })?;
    // CHOWN is bit 0, NET_ADMIN 12, MKNOD 27.
    let expected = usual & !(1 | 1 << 27) | 1 << 12;
    eventually("the new revision to answer", LONG, || {
        let found = capabilities("able")?;
        ensure!(found == expected, "{found:x} is not {expected:x}");
        Ok(())
    })
}
