//! Revisions on their way: to the traffic, on trial, back, side by side.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use system_tests::{
    Board, Client, Document, Image, LONG, SHORT, Shared, Stage, eventually, now, pause, tells,
};

static STAGE: Shared<Stage> = Shared::new();

fn prepare(board: &mut Board) -> Result<()> {
    board.preload(&Image::testapp("test.local/app:1")?)
}

fn stage() -> Result<Arc<Stage>> {
    STAGE.get(|| Stage::start(prepare))
}

/// A version of the test app that stops soon after it was told to.
fn app(version: u32) -> Document {
    Document::new("test.local/app:1")
        .env("VERSION", &version.to_string())
        .set("/template/terminationGracePeriodSeconds", 5)
}

/// One that ends before anybody can reach it.
fn crashing(version: u32) -> Document {
    app(version).env("PORT", "3000").env("EXIT_AFTER_MS", "50").env("EXIT_CODE", "3")
}

fn revision(status: &Value, number: u32) -> &Value {
    static NONE: Value = Value::Null;
    let ends =
        |name: &Value| name.as_str().is_some_and(|name| name.ends_with(&format!("{number:07}")));
    let all = status["revisions"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().find(|revision| ends(&revision["name"])).unwrap_or(&NONE)
}

fn version(client: &Client, host: &str) -> Result<String> {
    let answer = client.get(host, "/")?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    Ok(answer.json()["version"].as_str().unwrap_or_default().to_owned())
}

fn await_phase(stage: &Stage, app: &str, number: u32, phase: &str) -> Result<Value> {
    let good = |status: &Value| revision(status, number)["phase"] == phase;
    stage.control.await_json(&format!("apps/{app}/status"), LONG, good)
}

/// Phases that statuses told of a revision, in their order.
fn phases(stage: &Stage, app: &str, number: u32) -> Vec<String> {
    let history = stage.control.history(&format!("apps/{app}/status"));
    let phase = |status: Value| revision(&status, number)["phase"].as_str().map(str::to_owned);
    let mut phases: Vec<String> =
        history.iter().filter_map(|message| phase(message.json())).collect();
    phases.dedup();
    phases
}

/// Clients that ask all the time, and count what fails.
struct Watcher {
    over: Arc<AtomicBool>,
    asked: Arc<AtomicU32>,
    failed: Arc<AtomicU32>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Watcher {
    fn start(client: Client, host: &str) -> Self {
        let (over, asked, failed) = (Arc::default(), Arc::default(), Arc::default());
        let mut watcher = Self { over, asked, failed, thread: None };
        let (over, host) = (Arc::clone(&watcher.over), host.to_owned());
        let (asked, failed) = (Arc::clone(&watcher.asked), Arc::clone(&watcher.failed));
        watcher.thread = Some(thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                asked.fetch_add(1, Ordering::Relaxed);
                if version(&client, &host).is_err() {
                    failed.fetch_add(1, Ordering::Relaxed);
                }
                pause(Duration::from_millis(5));
            }
        }));
        watcher
    }

    fn end(mut self) -> Result<()> {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            ensure!(thread.join().is_ok(), "the watcher panicked");
        }
        let (asked, failed) =
            (self.asked.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
        ensure!(0 < asked && failed == 0, "{failed} of {asked} requests failed");
        Ok(())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

#[test]
fn an_update_is_on_trial_before_it_is_committed_and_the_old_one_stands_by() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("trial", app(1).replicas(2))?;
    stage.control.await_running("trial")?;
    let watcher = Watcher::start(stage.board.lan_client(), "trial");
    stage.control.desire("trial", app(2).replicas(2).skerry("probationSeconds", 8))?;
    let status = stage.control.await_status("trial", |status| {
        revision(status, 2)["phase"] == "Probation" && revision(status, 1)["replicas"] == 1
    })?;
    assert_eq!(revision(&status, 2)["trafficWeight"], 100);
    assert_eq!(revision(&status, 2)["readyReplicas"], 2);
    assert_eq!(revision(&status, 1)["active"], true);
    assert_eq!(version(&stage.board.lan_client(), "trial")?, "2");
    let status = await_phase(&stage, "trial", 2, "Committed")?;
    assert_eq!(status["latestReadyRevisionName"], status["latestRevisionName"]);
    stage.control.await_status("trial", |status| {
        revision(status, 1)["active"] == false && revision(status, 1)["replicas"] == 0
    })?;
    watcher.end()?;
    let told = phases(&stage, "trial", 2);
    let order = ["Fetching", "Staged", "Starting", "Probation", "Committed"];
    let mut rest = order.iter();
    ensure!(told.iter().all(|phase| rest.any(|next| next == phase)), "{told:?}");
    for reason in ["RevisionStarting", "RevisionOnTrial", "RevisionCommitted", "RevisionRetired"] {
        stage.control.await_event("trial", reason)?;
    }
    Ok(())
}

#[test]
fn an_update_that_crashes_never_takes_the_traffic_and_is_refused_until_forced() -> Result<()> {
    let stage = stage()?;
    let client = stage.board.lan_client();
    stage.control.desire("crashes", app(1))?;
    stage.control.await_running("crashes")?;
    let watcher = Watcher::start(client.clone(), "crashes");
    stage.control.desire("crashes", crashing(2))?;
    let status = await_phase(&stage, "crashes", 2, "RolledBack")?;
    let failed = revision(&status, 2);
    assert_eq!(failed["provisioningState"], "Failed");
    assert_eq!(failed["runningState"], "Failed");
    assert_eq!(failed["reason"], "CrashLoopBackOff");
    let details = failed["details"].as_str().context("details")?;
    ensure!(details.contains("exit code 3") && details.contains("its last line"), "{details}");
    assert_eq!(revision(&status, 1)["trafficWeight"], 100);
    assert_eq!(status["runningStatus"], "Running");
    assert_eq!(status["latestReadyRevisionName"], revision(&status, 1)["name"]);

    // The same template again, with another configuration: refused, and nothing changes.
    let again = crashing(2).set("/configuration/maxInactiveRevisions", 7);
    stage.control.desire("crashes", again.clone())?;
    let status = stage.control.await_reason("crashes", "TemplateRefused")?;
    assert_eq!(status["error"]["path"], "properties.template");
    let told = stage.board.cli(["explain", "crashes"])?;
    ensure!(told.contains("CrashLoopBackOff") && told.contains("force"), "{told}");

    // By force it is tried again, and fails again.
    let mark = stage.control.mark();
    stage.control.desire("crashes", again.skerry("force", true))?;
    stage.control.await_since(mark, "the next try", LONG, |message| {
        message.topic == "apps/crashes/status"
            && revision(&message.json(), 2)["phase"] == "Starting"
    })?;
    await_phase(&stage, "crashes", 2, "RolledBack")?;

    // A newer document goes its way.
    stage.control.desire("crashes", app(3).skerry("probationSeconds", 0))?;
    await_phase(&stage, "crashes", 3, "Committed")?;
    watcher.end()?;
    assert_eq!(version(&client, "crashes")?, "3");
    Ok(())
}

#[test]
fn an_update_that_fails_on_trial_gives_the_traffic_back() -> Result<()> {
    let stage = stage()?;
    let client = stage.board.lan_client();
    let probe = json!([{
        "type": "Readiness", "periodSeconds": 1, "failureThreshold": 2,
        "httpGet": { "port": 8080, "path": "/health?name=ready" },
    }]);
    stage.control.desire("faints", app(1).main("/probes", probe.clone()))?;
    stage.control.await_running("faints")?;
    stage.control.desire("faints", app(2).main("/probes", probe))?;
    await_phase(&stage, "faints", 2, "Probation")?;
    assert_eq!(version(&client, "faints")?, "2");
    let answer = client.get("faints", "/switch?name=ready&status=500")?;
    assert_eq!(answer.status, 200);
    let sick = now();
    eventually("the old one to serve", LONG, || {
        let serves = version(&client, "faints")?;
        ensure!(serves == "1", "version {serves} serves");
        Ok(())
    })?;
    // The probe's window is two seconds; a second more is the prober's grid, and two are what the design allows.
    let took = sick.elapsed();
    ensure!(took < Duration::from_secs(2 + 1 + 2), "it took {took:?}");
    let status = await_phase(&stage, "faints", 2, "RolledBack")?;
    let details = revision(&status, 2)["details"].as_str().context("details")?;
    assert_eq!(revision(&status, 2)["reason"], "ProbeFailed", "{details}");
    ensure!(details.contains("/health") && details.contains("500"), "{details}");
    stage.control.await_event("faints", "RevisionRolledBack")?;
    Ok(())
}

#[test]
fn an_update_that_ends_on_trial_gives_the_traffic_back_at_once() -> Result<()> {
    let stage = stage()?;
    let client = stage.board.lan_client();
    stage.control.desire("ends", app(1))?;
    stage.control.await_running("ends")?;
    stage.control.desire("ends", app(2))?;
    await_phase(&stage, "ends", 2, "Probation")?;
    assert_eq!(version(&client, "ends")?, "2");
    // The answer may come before the end, or not.
    let _ = client.get("ends", "/exit?code=7");
    let ended = now();
    eventually("the old one to serve", SHORT, || {
        let serves = version(&client, "ends")?;
        ensure!(serves == "1", "version {serves} serves");
        Ok(())
    })?;
    ensure!(ended.elapsed() < Duration::from_secs(2), "it took {:?}", ended.elapsed());
    let status = await_phase(&stage, "ends", 2, "RolledBack")?;
    let details = revision(&status, 2)["details"].as_str().context("details")?;
    ensure!(details.contains("exit code 7"), "{details}");
    Ok(())
}

#[test]
fn a_revision_that_nobody_can_reach_misses_its_deadline_and_its_port_is_named() -> Result<()> {
    let stage = stage()?;
    let client = stage.board.lan_client();
    stage.control.desire("deaf", app(1))?;
    stage.control.await_running("deaf")?;
    let watcher = Watcher::start(client.clone(), "deaf");
    let deaf = app(2).env("PORT", "3000").skerry("readyDeadlineSeconds", 3);
    stage.control.desire("deaf", deaf)?;
    let status = await_phase(&stage, "deaf", 2, "RolledBack")?;
    let failed = revision(&status, 2);
    let details = failed["details"].as_str().context("details")?;
    assert_eq!(failed["reason"], "PortClosed", "{details}");
    ensure!(details.contains("8080") && details.contains("0/1 replicas ready"), "{details}");
    watcher.end()
}

#[test]
fn image_and_port_move_together_and_neither_revision_breaks() -> Result<()> {
    let stage = stage()?;
    let client = stage.board.lan_client();
    stage.control.desire("moves", app(1))?;
    stage.control.await_running("moves")?;
    let watcher = Watcher::start(client.clone(), "moves");
    let moved = app(2).env("PORT", "9090").set("/configuration/ingress/targetPort", 9090);
    stage.control.desire("moves", moved.clone().skerry("probationSeconds", 1))?;
    await_phase(&stage, "moves", 2, "Committed")?;
    assert_eq!(version(&client, "moves")?, "2");
    // One that fails takes its configuration with it.
    let failing = crashing(3).set("/configuration/ingress/targetPort", 7070);
    stage.control.desire("moves", failing)?;
    await_phase(&stage, "moves", 3, "RolledBack")?;
    assert_eq!(version(&client, "moves")?, "2");
    watcher.end()
}

#[test]
fn a_newer_document_supersedes_one_that_is_stuck() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("stuck", app(1))?;
    stage.control.await_running("stuck")?;
    stage.control.desire("stuck", app(2).env("READY_AFTER_MS", "600000").env("PORT", "3000"))?;
    stage.control.await_status("stuck", |status| revision(status, 2)["replicas"] == 1)?;
    let sent = now();
    stage.control.desire("stuck", app(3))?;
    stage.control.await_status("stuck", |status| revision(status, 2)["active"] == false)?;
    ensure!(sent.elapsed() < Duration::from_secs(5), "superseded after {:?}", sent.elapsed());
    await_phase(&stage, "stuck", 3, "Probation")?;
    Ok(())
}

#[test]
fn an_agent_that_dies_on_the_way_takes_it_up_again() -> Result<()> {
    let mut stage = Stage::start(prepare)?;
    let client = stage.board.lan_client();
    stage.control.desire("resumes", app(1))?;
    stage.control.await_running("resumes")?;
    let watcher_dies_with_the_agent = stage.board.pids_of("resumes")?;
    stage.control.desire("resumes", app(2).skerry("probationSeconds", 6))?;
    await_phase(&stage, "resumes", 2, "Probation")?;
    let before = stage.board.pids_of("resumes")?;
    ensure!(before.len() == 2 && watcher_dies_with_the_agent.len() == 1, "{before:?}");
    stage.board.kill_agent()?;
    stage.board.start()?;
    assert_eq!(stage.board.pids_of("resumes")?, before, "nothing was restarted");
    client.await_status("resumes", "/", 200)?;
    assert_eq!(version(&client, "resumes")?, "2");
    await_phase(&stage, "resumes", 2, "Committed")?;
    stage.control.await_status("resumes", |status| revision(status, 1)["replicas"] == 0)?;
    Ok(())
}

#[test]
fn two_revisions_share_the_traffic_by_weight_and_have_names_of_their_own() -> Result<()> {
    let stage = stage()?;
    let client = stage.board.lan_client();
    let many = |version| app(version).set("/configuration/activeRevisionsMode", "Multiple");
    stage.control.desire("split", many(1))?;
    stage.control.await_running("split")?;
    let canary = many(2).set(
        "/configuration/ingress/traffic",
        json!([
            { "revisionName": "split--0000001", "weight": 80, "label": "blue" },
            { "latestRevision": true, "weight": 20, "label": "green" },
        ]),
    );
    stage.control.desire("split", canary)?;
    let status = stage.control.await_status("split", |status| {
        revision(status, 1)["trafficWeight"] == 80 && revision(status, 2)["trafficWeight"] == 20
    })?;
    assert_eq!(revision(&status, 1)["labels"], json!(["blue"]));
    let suffix = status["fqdn"].as_str().and_then(|fqdn| fqdn.split_once('.')).context("fqdn")?.1;
    let of = |count: usize| -> Result<usize> {
        let mut newer = 0;
        for _ in 0..count {
            newer += usize::from(version(&client, "split")? == "2");
        }
        Ok(newer)
    };
    // Three sigma of 200 draws with one in five are 17.
    let newer = of(200)?;
    ensure!((23..=57).contains(&newer), "{newer} of 200");
    for (host, wanted) in [
        (format!("split---blue.{suffix}"), "1"),
        (format!("split---green.{suffix}"), "2"),
        (format!("split--0000001.{suffix}"), "1"),
        (format!("split--0000002.{suffix}"), "2"),
    ] {
        assert_eq!(version(&client, &host)?, wanted, "{host}");
    }

    // A person turns it round; the next document has the last word.
    let told = stage.board.cli(["traffic", "split", "0000001=0"])?;
    stage.control.await_status("split", |status| revision(status, 2)["trafficWeight"] == 100)?;
    assert_eq!(of(20)?, 20, "{told}");
    stage.board.cli(["traffic", "split", "blue=0000002"])?;
    eventually("blue to move", SHORT, || {
        let serves = version(&client, &format!("split---blue.{suffix}"))?;
        ensure!(serves == "2", "blue is {serves}");
        Ok(())
    })?;

    stage.board.cli(["revision", "deactivate", "split--0000001"])?;
    stage.control.await_status("split", |status| {
        revision(status, 1)["active"] == false && revision(status, 1)["replicas"] == 0
    })?;
    stage.board.cli(["revision", "activate", "split--0000001"])?;
    await_phase(&stage, "split", 1, "Committed")?;
    let refused = stage.board.try_cli(["revision", "activate", "split--0000009"])?;
    assert_eq!(refused.status.code(), Some(1));

    // Back to one: a revision goes on serving, and never none.
    let watcher = Watcher::start(client.clone(), "split");
    stage.control.desire("split", app(2))?;
    stage.control.await_status("split", |status| {
        revision(status, 1)["active"] == false && revision(status, 2)["trafficWeight"] == 100
    })?;
    watcher.end()
}

#[test]
fn with_labels_a_revision_lives_while_one_names_it() -> Result<()> {
    let stage = stage()?;
    let client = stage.board.lan_client();
    let labelled = |version, target: &str| {
        app(version)
            .set("/configuration/activeRevisionsMode", "Labels")
            .set("/configuration/targetLabel", target)
            .set("/configuration/ingress/traffic", json!([{ "label": "prod", "weight": 100 }]))
    };
    stage.control.desire("labels", labelled(1, "prod"))?;
    let status = stage.control.await_running("labels")?;
    assert_eq!(revision(&status, 1)["labels"], json!(["prod"]));
    let suffix = status["fqdn"].as_str().and_then(|fqdn| fqdn.split_once('.')).context("fqdn")?.1;
    stage.control.desire("labels", labelled(2, "stage"))?;
    stage
        .control
        .await_status("labels", |status| revision(status, 2)["labels"] == json!(["stage"]))?;
    assert_eq!(version(&client, "labels")?, "1");
    assert_eq!(version(&client, &format!("labels---stage.{suffix}"))?, "2");
    stage.control.desire("labels", labelled(3, "prod"))?;
    stage.control.await_status("labels", |status| {
        revision(status, 3)["labels"] == json!(["prod"]) && revision(status, 1)["active"] == false
    })?;
    assert_eq!(version(&client, "labels")?, "3");
    assert_eq!(version(&client, &format!("labels---stage.{suffix}"))?, "2");
    Ok(())
}

#[test]
fn a_single_writer_is_gone_before_the_next_one_comes() -> Result<()> {
    let stage = stage()?;
    let lone =
        |version| app(version).skerry("updateStrategy", "recreate").skerry("probationSeconds", 0);
    stage.control.desire("lone", lone(1))?;
    stage.control.await_running("lone")?;
    stage.control.desire("lone", lone(2))?;
    let over = now() + LONG;
    loop {
        let pids = stage.board.pids_of("lone")?;
        ensure!(pids.len() <= 1, "two at once: {pids:?}");
        let status = stage.control.latest("apps/lone/status").context("a status")?.json();
        if revision(&status, 2)["phase"] == "Committed" {
            break;
        }
        if over < now() {
            bail!("not committed: {status}");
        }
        pause(Duration::from_millis(20));
    }
    // One that fails gives its place back.
    stage.control.desire("lone", crashing(3).skerry("updateStrategy", "recreate"))?;
    await_phase(&stage, "lone", 3, "RolledBack")?;
    let client = stage.board.lan_client();
    client.await_status("lone", "/", 200)?;
    assert_eq!(version(&client, "lone")?, "2");
    Ok(())
}

#[test]
fn a_restart_makes_the_replicas_anew_and_loses_no_request() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("again", app(1).replicas(2))?;
    let status = stage.control.await_running("again")?;
    let before: Vec<Value> = replicas(revision(&status, 1));
    let watcher = Watcher::start(stage.board.lan_client(), "again");
    stage.board.cli(["revision", "restart", "again--0000001"])?;
    stage.control.await_status("again", |status| {
        let revision = revision(status, 1);
        let now = replicas(revision);
        revision["readyReplicas"] == 2
            && now.len() == 2
            && !now.iter().any(|one| before.contains(one))
    })?;
    watcher.end()
}

fn replicas(revision: &Value) -> Vec<Value> {
    let list = revision["replicaList"].as_array().cloned().unwrap_or_default();
    list.iter().map(|replica| replica["name"].clone()).collect()
}

#[test]
fn an_app_that_keeps_its_lock_and_a_closed_window_defer_an_update() -> Result<()> {
    let stage = stage()?;
    let client = stage.board.lan_client();
    let locking = |version| {
        app(version)
            .set("/template/volumes", json!([{ "name": "run", "storageType": "EmptyDir" }]))
            .main("/volumeMounts", json!([{ "volumeName": "run", "mountPath": "/run/skerry" }]))
    };
    stage.control.desire("busy", locking(1))?;
    stage.control.await_running("busy")?;
    let locked = client.get("busy", "/write?path=/run/skerry/lock&text=busy")?;
    assert_eq!(locked.status, 200, "{}", locked.text());
    stage.control.desire("busy", locking(2))?;
    let status = stage.control.await_reason("busy", "LockedByApp")?;
    assert_eq!(revision(&status, 2)["phase"], "Staged");
    let told = stage.board.cli(["explain", "busy"])?;
    ensure!(told.contains("LockedByApp"), "{told}");

    let rare = json!({ "cron": "0 0 29 2 *", "durationMinutes": 1, "timeZone": "UTC" });
    stage.control.desire("busy", locking(3).skerry("updateWindow", rare))?;
    let status = stage.control.await_reason("busy", "WaitingForWindow")?;
    assert_eq!(revision(&status, 3)["phase"], "Staged");
    ensure!(tells(&status, "Running"), "{status}");
    assert_eq!(version(&client, "busy")?, "1");
    Ok(())
}

#[test]
fn a_copy_is_a_revision_of_its_own() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("copies", app(1))?;
    stage.control.await_running("copies")?;
    stage.control.desire("copies", app(2).skerry("probationSeconds", 0))?;
    await_phase(&stage, "copies", 2, "Committed")?;
    stage.board.cli(["revision", "copy", "copies--0000001", "--suffix", "back"])?;
    stage
        .control
        .await_status("copies", |status| status["latestReadyRevisionName"] == "copies--back")?;
    assert_eq!(version(&stage.board.lan_client(), "copies")?, "1");
    Ok(())
}
