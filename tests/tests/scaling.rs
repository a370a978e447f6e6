//! Scaling on the real parts: to zero and back, up and down with the load, and what people set over it.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use system_tests::{Answer, Board, Client, Document, Image, LONG, Shared, Stage, eventually, now};

static STAGE: Shared<Stage> = Shared::new();

fn prepare(board: &mut Board) -> Result<()> {
    // What else keeps this machine busy is no reason to hold anybody back.
    board.show_processors(0, 1)?;
    board.preload(&Image::testapp("test.local/app:1")?)
}

fn stage() -> Result<Arc<Stage>> {
    STAGE.get(|| Stage::start(prepare))
}

/// An app that may go to zero, and does after a second.
fn lazy() -> Document {
    Document::new("test.local/app:1")
        .set("/template/terminationGracePeriodSeconds", 5)
        .set("/template/scale", json!({ "minReplicas": 0, "maxReplicas": 10, "cooldownPeriod": 1 }))
}

fn rules(document: Document, rules: Value) -> Document {
    document.set("/template/scale/rules", rules)
}

fn await_replicas(stage: &Stage, app: &str, count: u64) -> Result<Value> {
    stage.control.await_status(app, |status| {
        let revision = &status["revisions"][0];
        revision["replicas"] == count && revision["readyReplicas"] == count
    })
}

/// A window with a request and one without have to end first.
fn await_zero(stage: &Stage, app: &str) -> Result<Value> {
    stage.control.await_json(&format!("apps/{app}/status"), 2 * LONG, |status| {
        status["revisions"][0]["runningState"] == "ScaledToZero"
            && status["revisions"][0]["replicas"] == 0
    })
}

/// Nothing of the app runs, as containerd sees it.
fn await_gone(stage: &Stage, app: &str) -> Result<()> {
    eventually("nothing runs", LONG, || {
        let left = stage.board.pids_of(app)?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
}

fn answers(client: &Client, host: &str) -> Result<()> {
    let answer = client.get(host, "/")?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    Ok(())
}

#[test]
fn an_app_goes_to_zero_by_itself_and_a_request_wakes_it() -> Result<()> {
    let stage = stage()?;
    let client = stage.board.lan_client();
    stage.control.desire("lazy", lazy())?;
    client.await_status("lazy", "/", 200)?;
    let status = await_zero(&stage, "lazy")?;
    assert_eq!(status["runningStatus"], "Running");
    assert_eq!(status["revisions"][0]["reason"], "");
    await_gone(&stage, "lazy")?;
    answers(&client, "lazy")
}

#[test]
fn no_request_is_lost_between_sleep_and_waking_whatever_stands_by() -> Result<()> {
    let stage = stage()?;
    let client = stage.board.lan_client();
    let apps = ["none", "created", "frozen"].map(|tier| (tier, format!("restless-{tier}")));
    for (tier, app) in &apps {
        stage.control.desire(app, lazy().skerry("standby", *tier))?;
        client.await_status(app, "/", 200)?;
    }
    // The last replicas are sent away again and again while clients ask.
    let over = now() + Duration::from_secs(20);
    let ask = |app: &str| -> Result<u64> {
        let mut asked = 0;
        while now() < over {
            answers(&client, app).with_context(|| app.to_owned())?;
            asked += 1;
        }
        Ok(asked)
    };
    let asked: u64 = thread::scope(|scope| -> Result<u64> {
        let each = apps.iter().flat_map(|(_, app)| [app, app, app]);
        let ask = &ask;
        let clients: Vec<_> = each.map(|app| scope.spawn(move || ask(app))).collect();
        while now() < over {
            for (_, app) in &apps {
                drop(stage.board.cli(["scale", app, "--to-zero"]));
            }
        }
        let join = |client: thread::ScopedJoinHandle<'_, Result<u64>>| {
            client.join().map_err(|_| anyhow::anyhow!("a client panicked"))?
        };
        clients.into_iter().map(join).sum()
    })?;
    ensure!(100 < asked, "only {asked} requests");
    Ok(())
}

#[test]
fn a_person_sends_an_app_to_zero_and_it_stays_wakeable() -> Result<()> {
    let stage = stage()?;
    let client = stage.board.lan_client();
    let document = lazy().set("/template/scale/cooldownPeriod", 600);
    stage.control.desire("sent", document)?;
    client.await_status("sent", "/", 200)?;
    let said = stage.board.cli(["scale", "sent", "--to-zero"])?;
    assert_eq!(said, "app \"sent\" goes to zero; a request brings it back\n");
    await_zero(&stage, "sent")?;
    stage.control.await_event("sent", "SentToZero")?;
    await_gone(&stage, "sent")?;
    answers(&client, "sent")?;
    // What has to keep a replica says so.
    stage.control.publish("apps/sent/scale", r#"{"minReplicas": 1}"#)?;
    stage.control.await_status("sent", |status| status["scaleTarget"] == "minReplicas=1")?;
    let refused = stage.board.try_cli(["scale", "sent", "--to-zero"])?;
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(error.contains("KeepsReplicas") && error.contains("minReplicas is 1"), "{error}");
    Ok(())
}

#[test]
fn a_scale_target_holds_over_restarts_and_makes_no_revision() -> Result<()> {
    let stage = Stage::start(prepare)?;
    let mut stage = stage;
    stage.control.desire("target", lazy())?;
    stage.control.publish("apps/target/scale", r#"{"replicas": 2}"#)?;
    let status = await_replicas(&stage, "target", 2)?;
    assert_eq!(status["scaleTarget"], "replicas=2");
    assert_eq!(status["revisions"].as_array().map(Vec::len), Some(1));
    stage.board.kill_agent()?;
    stage.board.launch()?;
    let status = await_replicas(&stage, "target", 2)?;
    assert_eq!(status["scaleTarget"], "replicas=2");
    stage.control.publish("apps/target/scale", r#"{"replicas": 0}"#)?;
    await_zero(&stage, "target")?;
    let pinned = |answer: &Answer| answer.text().starts_with("PinnedToZero:");
    let answer = stage.board.lan_client().await_answer("target", "/", pinned)?;
    assert_eq!(answer.status, 503);
    stage.control.publish("apps/target/scale", "")?;
    stage.control.await_status("target", |status| status["scaleTarget"] == "")?;
    await_zero(&stage, "target")?;
    answers(&stage.board.lan_client(), "target")
}

#[test]
fn a_load_of_requests_makes_more_replicas() -> Result<()> {
    let stage = stage()?;
    let client = stage.board.lan_client();
    let one_each =
        json!([{ "name": "load", "http": { "metadata": { "concurrentRequests": "1" } } }]);
    let document = rules(lazy(), one_each)
        .set("/template/scale/maxReplicas", 3)
        .set("/template/scale/cooldownPeriod", 600);
    stage.control.desire("busy", document)?;
    client.await_status("busy", "/", 200)?;
    let mark = now();
    let status = eventually("three replicas", LONG, || {
        for _ in 0..20 {
            answers(&client, "busy")?;
        }
        let status = stage.control.latest("apps/busy/status").context("no status")?.json();
        ensure!(status["revisions"][0]["readyReplicas"] == 3, "{status}");
        Ok(status)
    })?;
    assert_eq!(status["revisions"][0]["scaledBy"], "load");
    assert_eq!(status["revisions"][0]["runningState"], "RunningAtMaxScale");
    ensure!(mark.elapsed() < LONG);
    Ok(())
}

#[test]
fn cron_keeps_as_many_as_it_says() -> Result<()> {
    let stage = stage()?;
    // From the first of January to the last minute of the year.
    let metadata = json!({
        "timezone": "UTC", "start": "0 0 1 1 *", "end": "59 23 31 12 *", "desiredReplicas": "2",
    });
    let cron = json!([{ "name": "hours", "custom": { "type": "cron", "metadata": metadata } }]);
    stage.control.desire("hours", rules(lazy(), cron).without_ingress())?;
    let status = await_replicas(&stage, "hours", 2)?;
    assert_eq!(status["revisions"][0]["scaledBy"], "hours");
    Ok(())
}

#[test]
fn a_wake_that_fails_says_why_and_a_rule_that_nobody_knows_is_a_warning() -> Result<()> {
    let stage = stage()?;
    let client = stage.board.lan_client();
    let data = stage.board.dir().join("state/volumes/data");
    std::fs::create_dir_all(&data)?;
    let known = json!({ "storages": [{ "name": "data", "path": data }] }).to_string();
    stage.control.publish("environments/default/desired", known.clone())?;
    let unknown =
        json!([{ "name": "queue", "custom": { "type": "rabbitmq", "metadata": { "a": "b" } } }]);
    let volume = json!([{ "name": "v", "storageType": "AzureFile", "storageName": "data" }]);
    let document = rules(lazy(), unknown)
        .set("/template/volumes", volume)
        .main("/volumeMounts", json!([{ "volumeName": "v", "mountPath": "/v" }]));
    stage.control.desire("fails", document)?;
    client.await_status("fails", "/", 200)?;
    let status = await_zero(&stage, "fails")?;
    let path = "properties.template.scale.rules[0].custom.type";
    let warned = status["warnings"].as_array().context("no warnings")?;
    assert!(warned.iter().any(|one| one["path"] == path), "{warned:?}");
    stage.control.publish("environments/default/desired", "skerry: {absent: true}")?;
    stage.control.await_since(0, "the environment's topic to be cleared", LONG, |message| {
        message.topic == "environments/default/status" && message.payload.is_empty()
    })?;
    let answer = client.await_answer("fails", "/", |answer| answer.status == 503)?;
    assert_eq!(answer.text().split(':').next(), Some("StorageMissing"));
    stage.control.publish("environments/default/desired", known)?;
    client.await_status("fails", "/", 200)?;
    Ok(())
}

/// Processes of the app that are made and not started.
fn made_processes(stage: &Stage, app: &str) -> Result<usize> {
    let filter = format!("labels.\"skerry.io/app\"=={app}");
    let ours = stage.board.ctr(["containers", "list", "--quiet", filter.as_str()])?;
    let tasks = stage.board.ctr(["tasks", "list"])?;
    let made = tasks.lines().filter(|row| row.contains("CREATED"));
    Ok(made.filter(|row| ours.lines().any(|id| row.starts_with(id))).count())
}

/// What stands by for an app holds of the board's memory.
fn held_bytes(status: &Value) -> u64 {
    let bytes = status["revisions"][0]["standbyMemoryBytes"].as_str();
    bytes.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}

#[test]
fn each_standby_tier_holds_what_it_says_and_comes_back_from_it() -> Result<()> {
    let stage = stage()?;
    let client = stage.board.lan_client();
    for (asked, tier, running, waiting) in
        [("none", "prepared", 0, 0), ("created", "created", 0, 1), ("frozen", "frozen", 1, 0)]
    {
        let app = format!("tier-{asked}");
        stage.control.desire(&app, lazy().skerry("standby", asked))?;
        client.await_status(&app, "/", 200)?;
        let mut replicas = Vec::new();
        for _ in 0..3 {
            stage.board.cli(["scale", app.as_str(), "--to-zero"])?;
            stage.control.await_status(&app, |status| {
                status["revisions"][0]["standby"] == tier && status["revisions"][0]["replicas"] == 0
            })?;
            let held = stage
                .control
                .await_status(&app, |status| (held_bytes(status) == 0) == (asked == "none"))?;
            ensure!(held_bytes(&held) < 256 << 20, "{held}");
            // The one that served goes beside it.
            eventually("the tier alone", LONG, || {
                let held = (stage.board.pids_of(&app)?.len(), made_processes(&stage, &app)?);
                ensure!(held == (running, waiting), "{asked} holds {held:?}");
                Ok(())
            })?;
            let answer = client.get(&app, "/")?;
            ensure!(answer.status == 200, "{asked}: {} {}", answer.status, answer.text());
            replicas.push(answer.json()["replica"].as_str().unwrap_or_default().to_owned());
        }
        replicas.dedup();
        // The frozen one is the same each time, the others are made anew.
        ensure!(replicas.len() == if asked == "frozen" { 1 } else { 3 }, "{asked}: {replicas:?}");
    }
    Ok(())
}

#[test]
fn what_stands_by_outlives_the_agent_and_goes_with_its_app() -> Result<()> {
    let mut stage = Stage::start(prepare)?;
    let by = |stage: &Stage, app: &str, tier: &str| {
        let tier = tier.to_owned();
        stage.control.await_status(app, move |status| status["revisions"][0]["standby"] == *tier)
    };
    for tier in ["created", "frozen"] {
        stage.control.desire(tier, lazy().skerry("standby", tier))?;
        stage.board.lan_client().await_status(tier, "/", 200)?;
        stage.board.cli(["scale", tier, "--to-zero"])?;
        by(&stage, tier, tier)?;
    }
    let before = (stage.board.pids_of("created")?, stage.board.pids_of("frozen")?);
    stage.board.kill_agent()?;
    stage.board.launch()?;
    let client = stage.board.lan_client();
    for tier in ["created", "frozen"] {
        by(&stage, tier, tier)?;
    }
    assert_eq!((stage.board.pids_of("created")?, stage.board.pids_of("frozen")?), before);
    for tier in ["created", "frozen"] {
        client.await_status(tier, "/", 200)?;
        stage.board.cli(["scale", tier, "--to-zero"])?;
        by(&stage, tier, tier)?;
        stage.control.remove(tier)?;
        await_gone(&stage, tier)?;
    }
    Ok(())
}

/// A custom rule of a worker that is looked at every second.
fn custom(kind: &str, metadata: &Value) -> Document {
    let rule = json!([{ "name": "rule", "custom": { "type": kind, "metadata": metadata } }]);
    rules(lazy(), rule).set("/template/scale/pollingInterval", 1)
}

#[test]
fn messages_of_the_broker_wake_a_worker() -> Result<()> {
    let stage = stage()?;
    let topic = format!("skerry/v1/{}/orders/+", stage.board.device());
    let metadata = json!({ "topic": topic, "mode": "rate", "value": "1" });
    stage.control.desire("worker", custom("mqtt", &metadata).without_ingress())?;
    await_replicas(&stage, "worker", 1)?;
    await_zero(&stage, "worker")?;
    let status = eventually("the worker to be woken", LONG, || {
        for n in 0..20 {
            stage.control.publish_soon(&format!("orders/{n}"), "one")?;
        }
        let status = stage.control.latest("apps/worker/status").context("no status")?.json();
        ensure!(1 <= status["revisions"][0]["readyReplicas"].as_u64().unwrap_or(0), "{status}");
        Ok(status)
    })?;
    assert_eq!(status["revisions"][0]["scaledBy"], "rule");
    await_zero(&stage, "worker")?;
    Ok(())
}

#[test]
fn a_number_of_another_app_says_how_many() -> Result<()> {
    let stage = stage()?;
    let source = Document::new("test.local/app:1").env("DEPTH", "7");
    stage.control.desire("source", source)?;
    stage.control.await_running("source")?;
    let metadata =
        json!({ "url": "http://source/env", "valueLocation": "DEPTH", "targetValue": "2" });
    stage.control.desire("by-number", custom("metrics-api", &metadata).without_ingress())?;
    await_replicas(&stage, "by-number", 4)?;
    // A source that answers nothing says so, and what there is stays.
    let metadata =
        json!({ "url": "http://nowhere/env", "valueLocation": "DEPTH", "targetValue": "2" });
    stage.control.desire("by-nothing", custom("metrics-api", &metadata).without_ingress())?;
    stage.control.await_reason("by-nothing", "ScalerFailed")?;
    Ok(())
}

#[test]
fn what_replicas_use_makes_more_of_them() -> Result<()> {
    let stage = stage()?;
    let client = stage.board.lan_client();
    let metadata = json!({ "type": "Utilization", "value": "20" });
    let document = custom("cpu", &metadata).set("/template/scale/maxReplicas", 2);
    stage.control.desire("hot", document)?;
    client.await_status("hot", "/", 200)?;
    eventually("a second replica", 2 * LONG, || {
        let answer = client.get("hot", "/download?bytes=50000000")?;
        ensure!(answer.status == 200, "{}", answer.status);
        let status = stage.control.latest("apps/hot/status").context("no status")?.json();
        let revision = &status["revisions"][0];
        // What is used between two requests is less.
        ensure!(revision["readyReplicas"] == 2 && revision["scaledBy"] == "rule", "{status}");
        Ok(())
    })?;
    let refused = stage.board.try_cli(["scale", "hot", "--to-zero"])?;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("KeepsReplicas"));
    Ok(())
}
