//! Bad input and trouble: each with the message that a user reads, and nothing lost.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use system_tests::{
    Access, Board, Broker, Control, Document, Image, LONG, Lan, Shared, Stage, eventually, run,
    tells, within,
};

static STAGE: Shared<Stage> = Shared::new();

fn prepare(board: &mut Board) -> Result<()> {
    board.preload(&Image::testapp("test.local/app:1")?)?;
    board.preload(&Image::testapp("test.local/app:2")?.env("VERSION", "2"))?;
    board.preload(&Image::busybox("test.local/tool:1"))?;
    board.preload(&Image::testapp("test.local/foreign:1")?.platform("s390x", ""))
}

fn stage() -> Result<Arc<Stage>> {
    STAGE.get(|| Stage::start(prepare))
}

fn app() -> Document {
    Document::new("test.local/app:1")
}

/// A container that runs a line of shell.
fn shell(line: &str) -> Document {
    Document::new("test.local/tool:1").without_ingress().main("/args", vec!["-c", line])
}

/// A board with a broker and a containerd whose agent is not started yet.
fn unstarted() -> Result<(Control, Board, Broker)> {
    let lan = Lan::take()?;
    let broker = Broker::start(&lan, Access::Anonymous)?;
    let mut board = Board::new(lan)?;
    prepare(&mut board)?;
    board.settings().broker(&broker);
    let control = Control::connect(&broker, &board.device())?;
    Ok((control, board, broker))
}

// The configuration.

#[test]
fn an_unknown_key_is_named_with_the_nearest_known_one() -> Result<()> {
    let mut board = Board::new(Lan::take()?)?;
    board.settings().set("ingress", "htp", "\"0.0.0.0:80\"");
    board.launch()?;
    let (code, said) = board.await_end()?;
    assert_eq!(code, Some(78));
    ensure!(said.contains("error: ") && said.contains("unknown key \"htp\""), "{said}");
    ensure!(said.contains("hint: did you mean \"http\"?"), "{said}");
    Ok(())
}

#[test]
fn bad_toml_is_told_with_its_line() -> Result<()> {
    let mut board = Board::new(Lan::take()?)?;
    board.settings().set("ingress", "http", "");
    board.launch()?;
    let (code, said) = board.await_end()?;
    assert_eq!(code, Some(78));
    ensure!(said.contains("agent.toml:"), "{said}");
    Ok(())
}

// The machine.

#[test]
fn an_agent_that_is_not_root_says_so() -> Result<()> {
    let mut board = Board::new(Lan::take()?)?;
    for path in [board.dir().to_owned(), board.dir().join("state"), board.dir().join("run")] {
        chown(&path, Some(65534), Some(65534))?;
    }
    fs::set_permissions(board.dir().join("agent.log"), PermissionsExt::from_mode(0o666))?;
    board.launch_by("setpriv", ["--reuid=65534", "--regid=65534", "--clear-groups"])?;
    let (code, said) = board.await_end()?;
    assert_ne!(code, Some(0));
    ensure!(said.contains("NotRoot") || said.contains("does not run as root"), "{said}");
    Ok(())
}

#[test]
fn a_taken_port_is_named_and_taken_over_when_it_is_free() -> Result<()> {
    let (control, mut board, _broker) = unstarted()?;
    board.start_containerd()?;
    let squatter = within(&board.lan().netns(), || TcpListener::bind("0.0.0.0:80"))??;
    board.start()?;
    control.await_trouble("PortTaken")?;
    control.desire("hello", app())?;
    eventually("a replica", LONG, || {
        ensure!(!board.pids_of("hello")?.is_empty(), "none");
        Ok(())
    })?;
    drop(squatter);
    board.lan_client().await_status("hello", "/ready", 200)?;
    Ok(())
}

#[test]
fn a_containerd_that_comes_later_is_waited_for() -> Result<()> {
    let (control, mut board, _broker) = unstarted()?;
    board.launch()?;
    control.await_trouble("ContainerdUnavailable")?;
    control.desire("patient", app())?;
    control.await_status("patient", |status| status["digest"] != "")?;
    board.start_containerd()?;
    board.lan_client().await_status("patient", "/", 200)?;
    control.await_running("patient")?;

    // And one that goes away takes nothing with it.
    let before = board.pids_of("patient")?;
    board.stop_containerd()?;
    control.await_trouble("ContainerdUnavailable")?;
    assert_eq!(board.lan_client().get("patient", "/")?.status, 200);
    board.start_containerd()?;
    control.await_json("status", LONG, |status| !tells(status, "ContainerdUnavailable"))?;
    assert_eq!(board.pids_of("patient")?, before);
    Ok(())
}

#[test]
fn the_ingress_serves_while_containerd_hangs() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("lively", app())?;
    stage.control.await_running("lively")?;
    stage.board.freeze_containerd()?;
    stage.control.desire("blocked", app())?;
    let answers = (0..50).map(|_| stage.board.lan_client().get("lively", "/"));
    let good = answers.filter(|answer| answer.as_ref().is_ok_and(|answer| answer.status == 200));
    let good = good.count();
    stage.board.thaw_containerd()?;
    assert_eq!(good, 50);
    stage.control.await_running("blocked")?;
    Ok(())
}

#[test]
fn a_socket_without_rights_is_told_apart_from_an_absent_containerd() -> Result<()> {
    let (control, mut board, _broker) = unstarted()?;
    board.start_containerd()?;
    let socket = board.dir().join("c.sock");
    chown(&socket, Some(65534), Some(65534))?;
    fs::set_permissions(&socket, PermissionsExt::from_mode(0o600))?;
    let without = "--bounding-set=-dac_override,-dac_read_search";
    board.launch_by("setpriv", [without, "--inh-caps=-dac_override,-dac_read_search"])?;
    control.await_trouble("ContainerdForbidden")?;
    chown(&socket, Some(0), Some(0))?;
    control.await_json("status", LONG, |status| !tells(status, "ContainerdForbidden"))?;
    Ok(())
}

#[test]
fn a_bridge_name_that_is_taken_is_left_alone() -> Result<()> {
    let (control, mut board, _broker) = unstarted()?;
    board.start_containerd()?;
    board.run("ip", ["link", "add", "sk-default", "type", "veth", "peer", "name", "other0"])?;
    board.start()?;
    control.desire("bridgeless", app())?;
    control.await_reason("bridgeless", "BridgeNameTaken")?;
    ensure!(board.run("ip", ["-d", "link", "show", "sk-default"])?.contains("veth"), "replaced");
    board.run("ip", ["link", "delete", "sk-default"])?;
    board.lan_client().await_status("bridgeless", "/", 200)?;
    Ok(())
}

#[test]
fn an_address_pool_in_use_is_left_alone() -> Result<()> {
    let (control, mut board, _broker) = unstarted()?;
    board.start_containerd()?;
    board.settings().set("network", "pool", "\"10.77.0.0/16\"");
    board.run("ip", ["link", "add", "office", "type", "veth", "peer", "name", "desk"])?;
    board.run("ip", ["address", "add", "10.77.0.9/16", "dev", "office"])?;
    board.run("ip", ["link", "set", "office", "up"])?;
    board.run("ip", ["link", "set", "desk", "up"])?;
    board.start()?;
    control.desire("homeless", app())?;
    control.await_reason("homeless", "AddressPoolInUse")?;
    board.run("ip", ["link", "delete", "office"])?;
    board.lan_client().await_status("homeless", "/", 200)?;
    Ok(())
}

#[test]
fn a_full_disk_refuses_what_cannot_be_stored_and_keeps_what_was() -> Result<()> {
    let (control, mut board, _broker) = unstarted()?;
    board.start_containerd()?;
    let dir = board.dir().join("small");
    fs::create_dir(&dir)?;
    let path = dir.display().to_string();
    run("mount", ["-t", "tmpfs", "-o", "size=8m", "tmpfs", &path])?;
    board.settings().set("state", "dir", format!("\"{path}\""));
    board.start()?;
    control.desire("early", app())?;
    control.await_running("early")?;
    let filler = dir.join("filler");
    // As much as there is room for: the error at the end is the point.
    let _ = run("dd", ["if=/dev/zero", &format!("of={}", filler.display()), "bs=4k"]);
    control.desire("late", app())?;
    control.await_json("status", LONG, |status| tells(&status["troubles"], "StorageFull"))?;
    assert_eq!(board.lan_client().get("early", "/")?.status, 200);
    fs::remove_file(filler)?;
    // It was never acknowledged, or it was kept in mind: either way it comes through.
    board.lan_client().await_status("late", "/", 200)?;
    board.kill_agent()?;
    board.start()?;
    board.lan_client().await_status("early", "/", 200)?;
    board.lan_client().await_status("late", "/", 200)?;
    Ok(())
}

// Documents.

#[test]
fn a_document_under_another_name_is_refused() -> Result<()> {
    let stage = stage()?;
    let mut document = app();
    document.0["name"] = "somebody".into();
    stage.control.desire("nobody", document)?;
    let status = stage.control.await_reason("nobody", "NameMismatch")?;
    assert_eq!(status["error"]["path"], "name");
    assert!(stage.control.latest("apps/somebody/status").is_none());
    Ok(())
}

#[test]
fn of_two_documents_in_a_burst_the_second_counts() -> Result<()> {
    let stage = stage()?;
    for _ in 0..3 {
        stage.control.publish_soon("apps/burst/desired", app().text())?;
        stage
            .control
            .publish_soon("apps/burst/desired", Document::new("test.local/app:2").text())?;
    }
    let client = stage.board.lan_client();
    client.await_answer("burst", "/", |answer| answer.json()["version"] == "2")?;
    stage.control.await_running("burst")?;
    assert_eq!(client.get("burst", "/")?.json()["version"], "2");
    Ok(())
}

#[test]
fn a_job_is_stored_and_says_that_it_must_wait() -> Result<()> {
    let stage = stage()?;
    let job = serde_json::json!({"properties": {
        "configuration": {"triggerType": "Manual", "replicaTimeout": 60,
            "manualTriggerConfig": {"parallelism": 1, "replicaCompletionCount": 1}},
        "template": {"containers": [{"name": "main", "image": "test.local/tool:1"}]},
    }});
    stage.control.publish("jobs/nightly/desired", job.to_string())?;
    stage
        .control
        .await_json("jobs/nightly/status", LONG, |status| tells(status, "NotYetSupported"))?;
    Ok(())
}

// Images and containers.

#[test]
fn an_image_for_another_machine_is_named_with_what_it_is_for() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("foreign", Document::new("test.local/foreign:1"))?;
    let status = stage.control.await_reason("foreign", "ImagePlatformMismatch")?;
    ensure!(status.to_string().contains("s390x"), "{status}");
    Ok(())
}

#[test]
fn an_image_that_is_nowhere_is_named() -> Result<()> {
    let stage = stage()?;
    // Nobody listens there.
    let image = format!("{}:1/absent:1", stage.board.lan().host());
    stage.control.desire("absent", Document::new(&image))?;
    stage.control.await_reason("absent", "RegistryUnreachable")?;
    Ok(())
}

#[test]
fn a_command_that_does_not_exist_is_named() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("lost", app().main("/command", vec!["/no/such/program"]))?;
    let status = stage.control.await_reason("lost", "CommandNotFound")?;
    ensure!(status.to_string().contains("/no/such/program"), "{status}");
    let said = stage.board.cli(["explain", "lost"])?;
    ensure!(said.contains("CommandNotFound"), "{said}");
    Ok(())
}

#[test]
fn a_container_that_exits_with_0_is_started_again_and_then_waits() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("brief", shell("exit 0"))?;
    stage.control.await_json("apps/brief/status", LONG, |status| {
        let replicas = &status["revisions"][0]["replicaList"];
        let restarts = replicas[0]["restartCount"].as_u64().unwrap_or_default();
        2 <= restarts && tells(status, "CrashLoopBackOff")
    })?;
    Ok(())
}

#[test]
fn a_full_speed_log_stays_within_its_bound() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("chatty", app().env("FLOOD", "1"))?;
    stage.board.lan_client().await_status("chatty", "/", 200)?;
    let dir = stage.board.dir().join("run/logs");
    // Well past the bound: the app writes some hundred megabytes in that time.
    let pids = stage.board.pids_of("chatty")?;
    let pid = pids.values().next().context("no process")?;
    eventually("64 MiB to be written", LONG, || {
        let counters = fs::read_to_string(format!("/proc/{pid}/io"))?;
        let written = counters.lines().find_map(|line| line.strip_prefix("wchar: "));
        let written: u64 = written.context("no wchar")?.parse()?;
        ensure!(64 << 20 < written, "{written} so far");
        Ok(())
    })?;
    let kept = bytes_under(&dir)?;
    ensure!(kept <= 16 << 20, "{kept} bytes of logs");
    let tail = stage.board.cli(["logs", "chatty", "--tail", "3"])?;
    ensure!(tail.lines().count() == 3 && tail.contains("flood"), "{tail}");
    stage.control.remove("chatty")?;
    Ok(())
}

fn bytes_under(dir: &std::path::Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.metadata()?;
        sum += if kind.is_dir() { bytes_under(&entry.path())? } else { kind.len() };
    }
    Ok(sum)
}
