//! The seven rules of synchronising over MQTT, each against a real broker that restarts, forgets and refuses.

use std::fs;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use system_tests::{
    Access, Board, Broker, Control, Document, Image, LONG, Lan, SHORT, Shared, Stage, eventually,
    now, tells,
};

static STAGE: Shared<Stage> = Shared::new();

fn prepare(board: &mut Board) -> Result<()> {
    for version in ["1", "2"] {
        let name = format!("test.local/app:{version}");
        board.preload(&Image::testapp(&name)?.env("VERSION", version))?;
    }
    Ok(())
}

fn stage() -> Result<Arc<Stage>> {
    STAGE.get(|| Stage::start(prepare))
}

fn app(version: u32) -> Document {
    Document::new(&format!("test.local/app:{version}"))
}

/// A document that is accepted and starts nothing.
fn idle() -> Document {
    app(1).without_ingress().set("/template/scale/minReplicas", 0)
}

/// Waits until the broker has the agent's acknowledgement for the document of `name`.
fn await_acknowledged(broker: &Broker, name: &str) -> Result<()> {
    eventually(&format!("the acknowledgement of {name}"), SHORT, || {
        let log = broker.log();
        let topic = format!("/apps/{name}/desired'");
        let mut lines = log.lines();
        let sent = lines
            .by_ref()
            .filter(|line| line.contains(&topic) && !line.contains("to control-"))
            .find_map(|line| line.split_once("Sending PUBLISH to "))
            .context("the agent was not sent it")?
            .1;
        let (client, rest) = sent.split_once(' ').context("no client")?;
        let number = rest.split(", ").find_map(|word| word.strip_prefix('m')).context("no id")?;
        // After it: an earlier connection may have used the number too.
        let answer = format!("Received PUBACK from {client} (Mid: {number},");
        ensure!(lines.any(|line| line.contains(&answer)), "the agent has not acknowledged it");
        Ok(())
    })
}

#[test]
fn what_is_acknowledged_outlives_a_crash_and_a_wiped_broker() -> Result<()> {
    let mut stage = Stage::start(prepare)?;
    for n in 0..5 {
        let name = format!("kept-{n}");
        stage.control.desire(&name, idle())?;
        await_acknowledged(&stage.broker, &name)?;
        stage.board.kill_agent()?;
        stage.broker.wipe()?;
        stage.board.start()?;
        stage.control.await_status(&name, |status| status["app"] == name.as_str())?;
    }
    Ok(())
}

#[test]
fn events_wait_for_a_broker_that_is_away_and_survive_a_crash() -> Result<()> {
    let mut stage = Stage::start(prepare)?;
    stage.broker.stop()?;
    let file = stage.board.dir().join("local.json");
    fs::write(&file, idle().0.to_string().replacen('{', "{\"name\": \"local\",", 1))?;
    stage.board.cli(["apply", "-f", &file.display().to_string()])?;
    stage.board.kill_agent()?;
    stage.board.start()?;
    stage.broker.resume()?;
    stage.control.await_since(0, "the event", LONG, |message| {
        let event = message.json();
        message.topic == "events" && event["app"] == "local" && event["reason"] == "RevisionCreated"
    })?;
    Ok(())
}

#[test]
fn absence_stops_nothing() -> Result<()> {
    let mut stage = Stage::start(prepare)?;
    stage.control.desire("stays", app(1))?;
    stage.control.await_running("stays")?;
    let before = stage.board.pids_of("stays")?;
    let client = stage.board.lan_client();

    stage.control.desire("stays", "")?;
    stage.control.await_event("stays", "DesiredCleared")?;
    assert_eq!(client.get("stays", "/")?.status, 200);

    stage.broker.wipe()?;
    let mark = stage.control.mark();
    stage.control.await_since(mark, "the status anew", LONG, |message| {
        message.topic == "apps/stays/status" && message.json()["runningStatus"] == "Running"
    })?;
    assert_eq!(client.get("stays", "/")?.status, 200);

    stage.board.kill_agent()?;
    stage.broker.wipe()?;
    stage.board.start()?;
    client.await_status("stays", "/", 200)?;
    assert_eq!(stage.board.pids_of("stays")?, before);
    Ok(())
}

#[test]
fn wrong_credentials_stop_nothing_and_right_ones_are_read_again() -> Result<()> {
    let lan = Lan::take()?;
    let broker = Broker::start(&lan, Access::Password)?;
    let mut board = Board::new(lan)?;
    prepare(&mut board)?;
    let password = board.dir().join("password");
    fs::write(&password, "wrong\n")?;
    board.settings().broker(&broker);
    board.settings().set("mqtt", "username", "\"user\"");
    board.settings().set("mqtt", "password_file", format!("\"{}\"", password.display()));
    board.start_containerd()?;
    let control = Control::connect(&broker, &board.device())?;
    control.desire("guarded", app(1))?;
    board.start()?;
    eventually("the broker to refuse", SHORT, || {
        ensure!(broker.log().contains("not authorised"), "nobody was refused");
        Ok(())
    })?;
    fs::write(&password, "secret\n")?;
    control.await_json("status", LONG, |status| status["online"] == true)?;
    control.await_running("guarded")?;
    Ok(())
}

#[test]
fn a_client_certificate_opens_the_broker() -> Result<()> {
    let lan = Lan::take()?;
    let broker = Broker::start(&lan, Access::Certificate)?;
    let mut board = Board::new(lan)?;
    prepare(&mut board)?;
    board.settings().broker(&broker);
    board.start_containerd()?;
    let control = Control::connect(&broker, &board.device())?;
    board.start()?;
    control.desire("sealed", idle())?;
    control.await_status("sealed", |status| status["app"] == "sealed")?;
    Ok(())
}

#[test]
fn a_broker_that_comes_later_is_found() -> Result<()> {
    let lan = Lan::take()?;
    let mut broker = Broker::start(&lan, Access::Anonymous)?;
    let mut board = Board::new(lan)?;
    board.settings().broker(&broker);
    board.start_containerd()?;
    broker.stop()?;
    board.start()?;
    broker.resume()?;
    let control = Control::connect(&broker, &board.device())?;
    control.await_json("status", LONG, |status| status["online"] == true)?;
    let hello = control.await_since(0, "hello", SHORT, |message| message.topic == "hello");
    // It may have been said before we came; it is not retained.
    if let Ok(hello) = hello {
        assert_eq!(hello.json()["apps"], serde_json::json!({}));
    }
    Ok(())
}

#[test]
fn a_stuck_rollout_is_superseded_at_once() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("stuck", app(1).set("/configuration/ingress/targetPort", 9999))?;
    stage.control.await_reason("stuck", "PortClosed")?;
    let begin = now();
    stage.control.desire("stuck", app(2))?;
    let answer = stage.board.lan_client().await_status("stuck", "/", 200)?;
    assert_eq!(answer.json()["version"], "2");
    assert!(begin.elapsed() < SHORT, "it took {:?}", begin.elapsed());
    Ok(())
}

#[test]
fn a_session_is_resumed_and_repeats_change_nothing() -> Result<()> {
    let mut stage = Stage::start(prepare)?;
    stage.control.desire("same", app(1).skerry("generation", 1))?;
    let before = stage.control.await_running("same")?;
    let pids = stage.board.pids_of("same")?;
    let first = stage.control.latest("status").context("no status")?.json();

    let mark = stage.control.mark();
    stage.broker.stop()?;
    stage.broker.resume()?;
    let online = stage.control.await_since(mark, "the device to be back", LONG, |message| {
        message.topic == "status" && message.json()["online"] == true && !message.retained
    })?;
    let epoch = |status: &serde_json::Value| -> Option<u64> {
        status["epoch"].as_str().and_then(|epoch| epoch.parse().ok())
    };
    assert_eq!(epoch(&online.json()), epoch(&first).map(|epoch| epoch + 1));
    // A document that comes after the repeat shows that the repeat was taken in.
    stage.control.desire("other", idle())?;
    stage.control.await_status("other", |status| status["app"] == "other")?;
    let after = stage.control.latest("apps/same/status").context("no status")?.json();
    assert_eq!(before["latestRevisionName"], after["latestRevisionName"]);
    assert_eq!(stage.board.pids_of("same")?, pids);
    let kept =
        stage.broker.log().lines().any(|line| line.contains("as skerry") && line.contains("c0"));
    ensure!(kept || stage.broker.log().contains("c0, k60"), "clean start was never 0");
    Ok(())
}

#[test]
fn the_will_says_that_a_device_is_gone() -> Result<()> {
    let mut stage = Stage::start(prepare)?;
    let online = stage.control.await_json("status", SHORT, |status| status["online"] == true)?;
    stage.board.kill_agent()?;
    let will = stage.control.await_json("status", LONG, |status| status["online"] == false)?;
    assert_eq!(online["epoch"], will["epoch"]);
    Ok(())
}

#[test]
fn a_scale_target_is_set_and_cleared() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("scaled", app(1))?;
    stage.control.await_running("scaled")?;
    let ready =
        |status: &serde_json::Value, count: u32| status["revisions"][0]["readyReplicas"] == count;
    stage.control.publish("apps/scaled/scale", "{replicas: 3}")?;
    stage.control.await_status("scaled", |status| ready(status, 3))?;
    stage.control.publish("apps/scaled/scale", "{replicas: 0}")?;
    stage.control.await_status("scaled", |status| status["revisions"][0]["replicas"] == 0)?;
    let refused = stage.board.lan_client().await_status("scaled", "/", 503)?;
    ensure!(refused.text().contains("PinnedToZero"), "{}", refused.text());
    stage.control.publish("apps/scaled/scale", "")?;
    stage.control.await_status("scaled", |status| ready(status, 1))?;
    Ok(())
}

#[test]
fn documents_that_are_too_large_are_refused_and_stop_nobody() -> Result<()> {
    let stage = stage()?;
    let long = |bytes: usize| format!("# {}\n{}", "x".repeat(bytes), idle().text());
    stage.control.desire("large", long(300 << 10))?;
    stage.control.await_reason("large", "DocumentTooLarge")?;
    // Beyond the maximum packet the broker keeps it to itself.
    stage.control.desire("larger", long(600 << 10))?;
    stage.control.desire("beside", idle())?;
    stage.control.await_status("beside", |status| status["app"] == "beside")?;
    assert!(stage.control.latest("apps/larger/status").is_none());
    Ok(())
}

#[test]
fn one_bad_document_never_blocks_another() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("sound", app(1))?;
    let sound = stage.control.await_running("sound")?;

    stage.control.desire("broken", "properties: [")?;
    let broken = stage.control.await_reason("broken", "InvalidSyntax")?;
    assert_eq!(broken["error"]["reason"], "InvalidSyntax");
    stage.control.desire("wrong", app(1).set("/template/scale/minReplicas", "MIN"))?;
    let wrong = stage.control.await_reason("wrong", "InvalidType")?;
    assert_eq!(wrong["error"]["path"], "properties.template.scale.minReplicas");

    // A running app keeps what it had.
    stage.control.desire("sound", "properties: [")?;
    let refused = stage.control.await_reason("sound", "InvalidSyntax")?;
    assert_eq!(refused["digest"], sound["digest"]);
    assert_eq!(refused["runningStatus"], "Running");
    assert_eq!(stage.board.lan_client().get("sound", "/")?.status, 200);
    Ok(())
}

#[test]
fn the_digest_is_of_the_bytes_received() -> Result<()> {
    use sha2::{Digest, Sha256};
    let stage = stage()?;
    let text = format!("# a comment\n{}", idle().text());
    stage.control.desire("hashed", text.clone())?;
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(&text)));
    stage.control.await_status("hashed", |status| status["digest"] == digest.as_str())?;
    Ok(())
}

#[test]
fn a_generation_outlives_the_app() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("dated", idle().skerry("generation", 5))?;
    stage.control.await_status("dated", |status| status["generation"] == "5")?;
    stage.control.desire("dated", "skerry: {absent: true, generation: 6}")?;
    stage.control.await_since(0, "the status to be cleared", SHORT, |message| {
        message.topic == "apps/dated/status" && message.payload.is_empty()
    })?;
    stage.control.desire("dated", idle().skerry("generation", 4))?;
    stage.control.await_reason("dated", "GenerationConflict")?;
    stage.control.desire("dated", idle().skerry("generation", 7))?;
    stage.control.await_status("dated", |status| {
        status["generation"] == "7" && !tells(status, "GenerationConflict")
    })?;
    Ok(())
}

#[test]
fn a_flood_of_a_thousand_documents_ends_with_the_last_one() -> Result<()> {
    // Alone: what the others wait for would come after it.
    let stage = Stage::start(prepare)?;
    for n in 0..1000 {
        let document = idle().env("N", &n.to_string());
        stage.control.publish_soon(&format!("apps/flood-{}/desired", n % 10), document.text())?;
    }
    for n in 990..1000 {
        use sha2::{Digest, Sha256};
        let text = idle().env("N", &n.to_string()).text();
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&text)));
        let topic = format!("apps/flood-{}/status", n % 10);
        let newest = |status: &serde_json::Value| status["digest"] == digest.as_str();
        stage.control.await_json(&topic, 2 * LONG, newest).with_context(|| {
            let all = stage.control.everything();
            let came = all.iter().filter(|message| message.topic.ends_with("/desired")).count();
            format!("the broker gave back {came} of 1000 documents")
        })?;
    }
    Ok(())
}
