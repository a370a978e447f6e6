//! What a container may take of the board, and what happens when it takes more: cores, memory, processes, files.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use system_tests::{
    Board, Document, Image, LONG, Shared, Stage, cgroup_file, counter, eventually, now, pause,
    tells,
};

/// Long enough for twenty of the kernel's periods.
const WATCHED: Duration = Duration::from_secs(2);

static STAGE: Shared<Stage> = Shared::new();

fn stage() -> Result<Arc<Stage>> {
    STAGE.get(|| {
        Stage::start(|board: &mut Board| {
            board.preload(&Image::testapp("test.local/app:1")?)?;
            board.preload(&Image::busybox("test.local/tool:1"))
        })
    })
}

/// A container that runs a line of the shell, with so many cores.
fn shell(line: &str, cpu: f64) -> Document {
    Document::new("test.local/tool:1")
        .without_ingress()
        .main("/command", json!(["/bin/busybox", "sh", "-c", line]))
        .main("/resources", json!({"cpu": cpu, "memory": "64Mi"}))
}

fn pid_of(stage: &Stage, app: &str) -> Result<u32> {
    stage.control.await_running(app)?;
    stage.board.pids_of(app)?.into_values().next().context("no process")
}

/// Nanoseconds of a core that a container has used.
fn used(pid: u32) -> Result<u64> {
    let text = cgroup_file(pid, "cpuacct", "cpuacct.usage", "cpu.stat")?;
    text.parse().or_else(|_| Ok(counter(&text, "usage_usec")? * 1000))
}

#[test]
fn a_container_gets_its_share_of_a_core_and_no_more() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("busy", shell("while :; do :; done", 0.2))?;
    let pid = pid_of(&stage, "busy")?;
    let throttled = || counter(&cgroup_file(pid, "cpu", "cpu.stat", "cpu.stat")?, "nr_throttled");
    let (throttled_before, used_before, began) = (throttled()?, used(pid)?, now());
    pause(WATCHED);
    let took = now() - began;
    let used = Duration::from_nanos(used(pid)? - used_before);
    let cores = used.as_secs_f64() / took.as_secs_f64();
    ensure!(throttled_before < throttled()?, "it was never held back");
    // On a machine with other work it may get less, and never more but for the period that is under way.
    ensure!((0.02..0.25).contains(&cores), "it had {cores} of a core");
    Ok(())
}

#[test]
fn a_container_that_outgrows_its_memory_is_killed_and_the_reason_says_so() -> Result<()> {
    let stage = stage()?;
    let document = Document::new("test.local/app:1").main("/resources/memory", "64Mi");
    stage.control.desire("glutton", document)?;
    stage.control.await_running("glutton")?;
    // It dies of it, so no answer is an answer too.
    let _ = stage.board.lan_client().get("glutton", "/eat?mb=200");
    eventually("OOMKilled in a status", LONG, || {
        let history = stage.control.history("apps/glutton/status");
        let told = history.iter().any(|status| tells(&status.json(), "OOMKilled"));
        ensure!(told, "no status tells it");
        Ok(())
    })?;
    stage.control.await_running("glutton")?;
    Ok(())
}

#[test]
fn a_fork_bomb_ends_at_its_bound_and_the_board_goes_on() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("neighbour", Document::new("test.local/app:1"))?;
    stage.board.lan_client().await_status("neighbour", "/", 200)?;
    let line = "(while :; do sleep 1000 & done) 2>/dev/null; exec sleep 1000";
    // Each process takes some memory of its own: the bound on their number is what acts here.
    let bomb = shell(line, 1.0).main("/resources/memory", "1Gi");
    stage.control.desire("bomb", bomb)?;
    let pid = pid_of(&stage, "bomb")?;
    eventually("the bound to act", LONG, || {
        let events = cgroup_file(pid, "pids", "pids.events", "pids.events")?;
        ensure!(0 < counter(&events, "max")?, "{events}");
        Ok(())
    })?;
    let processes: u32 = cgroup_file(pid, "pids", "pids.current", "pids.current")?.parse()?;
    ensure!(processes <= 1024, "{processes} processes");
    stage.board.lan_client().await_status("neighbour", "/", 200)?;
    stage.control.remove("bomb")?;
    eventually("the end of the bomb", LONG, || {
        ensure!(fs::metadata(format!("/proc/{pid}")).is_err(), "it lives");
        Ok(())
    })
}

#[test]
fn what_a_document_says_of_ephemeral_storage_is_answered_with_the_table() -> Result<()> {
    let stage = stage()?;
    let resources = json!({"cpu": 0.5, "memory": "64Mi", "ephemeralStorage": "9Gi"});
    let document = shell("exec sleep 1000", 0.5).main("/resources", resources);
    stage.control.desire("roomy", document)?;
    let status = stage.control.await_running("roomy")?;
    let path = "properties.template.containers[0].resources.ephemeralStorage";
    let warnings = status["warnings"].as_array().context("no list of warnings")?;
    let warning = warnings.iter().find(|warning| warning["path"] == path);
    let message = warning.context("no warning")?["message"].to_string();
    ensure!(message.contains("2Gi for 0.50"), "{message}");
    Ok(())
}
