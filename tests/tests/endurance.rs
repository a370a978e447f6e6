//! What only shows after a while or under load: crashes at bad moments, a crowd during a change, a flood of documents.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use system_tests::{
    Access, Board, Broker, Control, Document, Image, LONG, Lan, SHORT, Stage, await_nothing_left,
    eventually, pause, tells,
};

fn prepare(board: &mut Board) -> Result<()> {
    for version in ["1", "2"] {
        let name = format!("test.local/app:{version}");
        board.preload(&Image::testapp(&name)?.env("VERSION", version))?;
    }
    board.preload(&Image::busybox("test.local/tool:1"))
}

fn app(version: usize) -> Document {
    Document::new(&format!("test.local/app:{version}"))
}

/// An init container, two containers and a volume: much to be cut short in the midst of.
fn elaborate(version: usize) -> Document {
    app(version)
        .set("/template/terminationGracePeriodSeconds", 1)
        .set("/template/volumes", json!([{"name": "shared", "storageType": "EmptyDir"}]))
        .main("/volumeMounts", json!([{"volumeName": "shared", "mountPath": "/shared"}]))
        .set(
            "/template/containers/1",
            json!({"name": "side", "image": "test.local/tool:1", "args": ["-c", "sleep 1000"],
                   "resources": {"cpu": 0.25, "memory": "64Mi"}}),
        )
        .set(
            "/template/initContainers",
            json!([{"name": "first", "image": "test.local/tool:1", "args": ["-c", "true"],
                    "resources": {"cpu": 0.25, "memory": "64Mi"}}]),
        )
}

#[test]
fn crashes_in_the_midst_of_starts_changes_and_stops_leave_nothing_behind() -> Result<()> {
    let mut stage = Stage::start(prepare)?;
    // A start takes about half a second here, so the crashes fall all over it.
    for n in 0..8 {
        // One that came to serve in between would stand by for the last one, for as long as that is on trial.
        let document = elaborate(1 + n % 2).env("N", &n.to_string()).skerry("probationSeconds", 0);
        stage.control.desire("cut", document)?;
        pause(Duration::from_millis(100 * n as u64));
        stage.board.kill_agent()?;
        stage.board.start()?;
    }
    let client = stage.board.lan_client();
    client.await_answer("cut", "/env", |answer| answer.json()["N"] == "7")?;
    stage.control.await_running("cut")?;
    eventually("two containers and no more", LONG, || {
        let pids = stage.board.pids_of("cut")?;
        ensure!(pids.len() == 2, "{pids:?}");
        Ok(())
    })?;

    stage.control.remove("cut")?;
    pause(Duration::from_millis(150));
    stage.board.kill_agent()?;
    stage.board.start()?;
    await_nothing_left(&stage.board)
}

#[test]
fn a_container_that_ends_again_and_again_keeps_its_one_replica() -> Result<()> {
    let stage = Stage::start(prepare)?;
    let document =
        Document::new("test.local/tool:1").without_ingress().main("/args", json!(["-c", "exit 0"]));
    stage.control.desire("brief", document)?;
    // Other apps that come and go have the loop look while the container is made anew.
    for n in 0..12 {
        let name = format!("beside-{}", n % 3);
        stage.control.desire(&name, app(1).env("N", &n.to_string()).without_ingress())?;
        pause(Duration::from_millis(700));
    }
    let history = stage.control.history("apps/brief/status");
    let names: BTreeSet<String> = history
        .iter()
        .filter_map(|status| {
            let status = status.json();
            Some(status["revisions"][0]["replicaList"][0]["name"].as_str()?.to_owned())
        })
        .collect();
    assert_eq!(names.len(), 1, "{names:?}");
    for name in ["brief", "beside-0", "beside-1", "beside-2"] {
        stage.control.remove(name)?;
    }
    await_nothing_left(&stage.board)
}

#[test]
fn a_crowd_does_not_notice_a_change() -> Result<()> {
    const CROWD: usize = 64;
    let mut stage = Stage::start(prepare)?;
    stage.board.log_as_shipped();
    stage.control.desire("rolling", app(1).replicas(2))?;
    stage.control.await_running("rolling")?;
    let client = stage.board.lan_client();
    let (over, asked, failed) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let first_failure = std::sync::Mutex::new(String::new());
    thread::scope(|scope| {
        for n in 0..CROWD {
            let (client, over, asked, failed) = (&client, &over, &asked, &failed);
            let first_failure = &first_failure;
            scope.spawn(move || {
                let path = format!("/slow?ms={}", n * 5);
                while !over.load(Ordering::Relaxed) {
                    let outcome = client.get("rolling", &path);
                    asked.fetch_add(1, Ordering::Relaxed);
                    if !outcome.as_ref().is_ok_and(|answer| answer.status == 200) {
                        failed.fetch_add(1, Ordering::Relaxed);
                        if let Ok(mut told) = first_failure.lock() {
                            *told = format!("{outcome:?}");
                        }
                    }
                }
            });
        }
        let changes = || -> Result<()> {
            for version in [2, 1, 2] {
                let next = app(version).replicas(2).skerry("probationSeconds", 0);
                stage.control.desire("rolling", next)?;
                stage.control.await_running("rolling")?;
                eventually("the old ones to be gone", LONG, || {
                    ensure!(stage.board.pids_of("rolling")?.len() == 2, "they run");
                    Ok(())
                })?;
            }
            Ok(())
        };
        let outcome = changes();
        over.store(true, Ordering::Relaxed);
        outcome
    })?;
    let (asked, failed) = (asked.into_inner(), failed.into_inner());
    ensure!(CROWD < asked, "only {asked} requests");
    let told = first_failure.into_inner().unwrap_or_default();
    ensure!(failed == 0, "{failed} of {asked} requests failed, such as {told}");
    Ok(())
}

/// Kilobytes that the agent has in memory.
fn resident(board: &mut Board) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", board.agent()?.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

#[test]
fn a_flood_for_fifty_apps_stays_within_its_memory_and_ends_with_the_newest() -> Result<()> {
    let mut stage = Stage::start(prepare)?;
    stage.board.log_as_shipped();
    let document = |n: usize| {
        let filler = "x".repeat(2 << 10);
        // Nobody listens there, so nothing is started and the documents are all there is to do.
        let idle = Document::new("127.0.0.1:1/none:1").without_ingress();
        idle.env("N", &n.to_string()).env("FILLER", &filler).text()
    };
    let before = resident(&mut stage.board)?;
    for n in 0..1000 {
        stage.control.publish_soon(&format!("apps/flood-{}/desired", n % 50), document(n))?;
    }
    for n in 950..1000 {
        use sha2::{Digest, Sha256};
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(document(n))));
        let topic = format!("apps/flood-{}/status", n % 50);
        let newest = |status: &serde_json::Value| status["digest"] == digest.as_str();
        stage.control.await_json(&topic, 2 * LONG, newest).with_context(|| {
            let all = stage.control.everything();
            let came = all.iter().filter(|message| message.topic.ends_with("/desired")).count();
            format!("the broker gave back {came} of 1000 documents")
        })?;
    }
    let after = resident(&mut stage.board)?;
    // The documents of fifty apps, a few revisions of each, in a debug build: not a copy of each document that came.
    ensure!(after < before + (48 << 10), "from {before} kB to {after} kB");
    eventually("the agent to be at ease", SHORT, || stage.board.cli(["apps"]))?;
    Ok(())
}

#[test]
fn a_preloaded_image_is_never_asked_for_at_a_registry() -> Result<()> {
    let lan = Lan::take()?;
    let broker = Broker::start(&lan, Access::Anonymous)?;
    let mut board = Board::new(lan)?;
    // Imported in the order of the names, so that the one that is wanted comes last.
    for name in ["a", "b", "c", "wanted"] {
        board.preload(&Image::testapp(&format!("test.local/{name}:1"))?.env("NAME", name))?;
    }
    board.settings().broker(&broker);
    board.start_containerd()?;
    let control = Control::connect(&broker, &board.device())?;
    // It is there before the agent is, and long before the last archive.
    control.desire("eager", Document::new("test.local/wanted:1"))?;
    board.start()?;
    control.await_running("eager")?;
    let history = control.history("apps/eager/status");
    let asked = history.iter().any(|status| tells(&status.json(), "RegistryUnreachable"));
    ensure!(!asked, "a registry was asked");
    Ok(())
}
