//! Probes as the people behind an app meet them: what fails, what follows from it, and what is told.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use system_tests::{Board, Document, Image, LONG, SHORT, Shared, Stage, eventually, now};

static STAGE: Shared<Stage> = Shared::new();

fn prepare(board: &mut Board) -> Result<()> {
    board.preload(&Image::testapp("test.local/app:1")?)?;
    board.preload(&Image::busybox("test.local/tool:1"))
}

fn stage() -> Result<Arc<Stage>> {
    STAGE.get(|| Stage::start(prepare))
}

/// The test app with one probe of its own, tried every second and bad at once.
fn probed(kind: &str, more: &Value) -> Document {
    let mut probe = json!({ "type": kind, "periodSeconds": 1, "failureThreshold": 1 });
    if let (Some(probe), Some(more)) = (probe.as_object_mut(), more.as_object()) {
        probe.extend(more.clone());
    }
    let document = Document::new("test.local/app:1").main("/probes", json!([probe]));
    // No trial: a revision that fails in it is given up, and these are about what comes of it otherwise.
    document.skerry("probationSeconds", 0)
}

/// The answer of the test app that `/switch` changes.
fn health(name: &str) -> Value {
    json!({ "httpGet": { "port": 8080, "path": format!("/health?name={name}") } })
}

fn revision(status: &Value) -> &Value {
    &status["revisions"][0]
}

fn replica(status: &Value) -> &Value {
    &revision(status)["replicaList"][0]
}

fn restarts(status: &Value) -> u64 {
    replica(status)["restartCount"].as_u64().unwrap_or(0)
}

/// Waits until a status has told of so many restarts. Later ones may tell of none: a revision that fails stops.
fn await_restarts(stage: &Stage, app: &str, count: u64) -> Result<()> {
    eventually(&format!("{count} restarts"), LONG, || {
        let history = stage.control.history(&format!("apps/{app}/status"));
        let most = history.iter().map(|status| restarts(&status.json())).max();
        ensure!(most.is_some_and(|most| count <= most), "{most:?}");
        Ok(())
    })
}

/// Has the app answer `/health` with `status` from now on. It is asked where it is, since ingress may not lead there.
fn switch(stage: &Stage, app: &str, name: &str, status: u16) -> Result<()> {
    let told = stage.control.await_status(app, |told| replica(told)["address"] != "")?;
    let address: Ipv4Addr = replica(&told)["address"].as_str().context("no address")?.parse()?;
    let client = stage.board.inside().at(SocketAddr::from((address, 8080)));
    let answer = client.get(app, &format!("/switch?name={name}&status={status}"))?;
    ensure!(answer.status == 200, "{}", answer.text());
    Ok(())
}

#[test]
fn a_container_that_is_not_alive_is_started_again_within_the_grace_of_its_probe() -> Result<()> {
    let stage = stage()?;
    let mut probe = health("live");
    probe["terminationGracePeriodSeconds"] = 1.into();
    let document = probed("Liveness", &probe)
        .env("IGNORE_TERM", "1")
        .set("/template/terminationGracePeriodSeconds", 600);
    stage.control.desire("alive", document)?;
    let before = stage.control.await_running("alive")?;
    assert_eq!(restarts(&before), 0);
    switch(&stage, "alive", "live", 500)?;
    // It does not heed SIGTERM; the template would have it wait for ten minutes.
    let after = stage.control.await_status("alive", |status| restarts(status) == 1)?;
    assert_eq!(replica(&after)["name"], replica(&before)["name"], "the replica stays");
    stage.board.lan_client().await_status("alive", "/health?name=live", 200)?;
    stage.control.await_running("alive")?;
    let log = stage.board.cli(["logs", "alive"])?;
    ensure!(log.contains("got SIGTERM"), "it was not asked to end:\n{log}");
    Ok(())
}

#[test]
fn a_container_that_never_lives_is_started_later_each_time() -> Result<()> {
    let stage = stage()?;
    let nowhere = json!({ "httpGet": { "port": 8080, "path": "/nowhere" } });
    let began = now();
    stage.control.desire("lifeless", probed("Liveness", &nowhere))?;
    await_restarts(&stage, "lifeless", 3)?;
    // 1 s and 2 s lie between the first and the third; without a back-off it would be moments.
    ensure!(Duration::from_secs(3) < began.elapsed(), "after {:?}", began.elapsed());
    let told = stage.control.history("apps/lifeless/status");
    let told = told.iter().any(|status| status.json().to_string().contains("status 404"));
    ensure!(told, "no status tells what the probe got");
    stage.control.remove("lifeless")
}

#[test]
fn a_replica_that_is_not_ready_gets_no_requests_until_it_is() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("moody", probed("Readiness", &health("ready")))?;
    let status = stage.control.await_running("moody")?;
    assert_eq!(revision(&status)["healthState"], "Healthy");
    let client = stage.board.lan_client();
    client.await_status("moody", "/", 200)?;

    switch(&stage, "moody", "ready", 503)?;
    client.await_status("moody", "/", 503)?;
    let status = stage.control.await_status("moody", |status| {
        revision(status)["healthState"] == "Unhealthy" && revision(status)["readyReplicas"] == 0
    })?;
    let details = replica(&status)["details"].as_str().or(revision(&status)["details"].as_str());
    let details = details.unwrap_or_default();
    ensure!(details.contains("Readiness http") && details.contains("status 503"), "{status}");

    switch(&stage, "moody", "ready", 204)?;
    client.await_status("moody", "/", 200)?;
    let status = stage
        .control
        .await_status("moody", |status| revision(status)["healthState"] == "Healthy")?;
    assert_eq!(restarts(&status), 0, "it was never started again");
    Ok(())
}

#[test]
fn a_container_that_does_not_start_up_is_started_again() -> Result<()> {
    let stage = stage()?;
    let closed = json!({ "tcpSocket": { "port": 9 }, "failureThreshold": 2 });
    stage.control.desire("tardy", probed("Startup", &closed))?;
    stage.control.await_reason("tardy", "PortClosed")?;
    await_restarts(&stage, "tardy", 2)?;
    let history = stage.control.history("apps/tardy/status");
    let ready = history.iter().any(|status| revision(&status.json())["readyReplicas"] != 0);
    ensure!(!ready, "it was taken for ready");
    stage.control.remove("tardy")
}

#[test]
fn a_command_decides_over_readiness_and_life() -> Result<()> {
    let stage = stage()?;
    let script = "sleep 3; : > /ready; sleep 4; : > /dying; exec sleep 999";
    let often = |kind: &str| {
        json!({ "type": kind, "tcpSocket": { "port": 9 }, "periodSeconds": 1, "failureThreshold": 1,
                "terminationGracePeriodSeconds": 0 })
    };
    let command = |words: &[&str]| json!({ "exec": { "command": words } });
    let document = Document::new("test.local/tool:1")
        .without_ingress()
        .skerry("probationSeconds", 0)
        .main("/args", vec!["-c", script])
        .main("/probes", json!([often("Readiness"), often("Liveness")]))
        .skerry(
            "probes",
            json!({ "main": {
                "readiness": command(&["cat", "/ready"]),
                "liveness": command(&["sh", "-c", "[ ! -e /dying ] || { echo I die; exit 7; }"]),
            } }),
        );
    stage.control.desire("ordered", document)?;
    let what = "exit code 1: cat: can't open '/ready': No such file or directory";
    let told = |status: &Value| status.to_string().contains(what);
    stage.control.await_status("ordered", told)?;
    stage.control.await_status("ordered", |status| revision(status)["readyReplicas"] == 1)?;
    await_restarts(&stage, "ordered", 1)?;
    let status = stage.control.await_status("ordered", |_| true)?;
    let warnings = status["warnings"].to_string();
    ensure!(!warnings.contains("probes"), "{warnings}");
    stage.control.remove("ordered")?;
    eventually("no pipe is left", LONG, || {
        let left = std::fs::read_dir(stage.board.dir().join("run/exec"))?.count();
        ensure!(left == 0, "{left}");
        Ok(())
    })
}

/// A server on the LAN that speaks TLS with a certificate that nobody vouches for; it hands on the heads of requests.
fn https_server(address: Ipv4Addr) -> Result<(u16, std::sync::mpsc::Receiver<String>)> {
    let made = rcgen::generate_simple_self_signed(["nobody.example".to_owned()])?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der());
    let key = key.map_err(|error| anyhow::anyhow!("{error}"))?;
    let chain = vec![CertificateDer::from(made.cert.der().to_vec())];
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let config = Arc::new(config);
    let listener = TcpListener::bind((address, 0))?;
    let port = listener.local_addr()?.port();
    let (heads, received) = std::sync::mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let Ok(mut connection) = rustls::ServerConnection::new(Arc::clone(&config)) else {
                return;
            };
            let mut stream = stream;
            let _ = stream.set_read_timeout(Some(SHORT));
            let mut tls = rustls::Stream::new(&mut connection, &mut stream);
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && tls.read(&mut byte).is_ok_and(|read| read == 1) {
                head.push(byte[0]);
            }
            let _ = tls.write_all(b"HTTP/1.1 204 -\r\nconnection: close\r\n\r\n");
            connection.send_close_notify();
            let _ = connection.complete_io(&mut stream);
            if heads.send(String::from_utf8_lossy(&head).into_owned()).is_err() {
                return;
            }
        }
    });
    Ok((port, received))
}

#[test]
fn a_probe_with_a_host_asks_it_from_the_apps_own_network() -> Result<()> {
    let stage = stage()?;
    let host = stage.board.lan().host();
    let (port, heads) = https_server(host)?;
    let probe = json!({ "httpGet": {
        "host": host.to_string(), "port": port, "path": "/up?x=1", "scheme": "HTTPS",
        "httpHeaders": [{ "name": "X-Probe", "value": "one two" }, { "name": "Host", "value": "other.example" }],
    } });
    stage.control.desire("worldly", probed("Readiness", &probe))?;
    stage.control.await_running("worldly")?;
    let head = heads.recv_timeout(SHORT)?;
    ensure!(head.starts_with("GET /up?x=1 HTTP/1.1\r\n"), "{head}");
    ensure!(
        head.contains("x-probe: one two\r\n") && head.contains("host: other.example\r\n"),
        "{head}"
    );

    // Its own loopback, and a name that the environment's name server knows.
    let own = json!({ "httpGet": { "host": "localhost", "port": 8080, "path": "/ready" } });
    stage.control.desire("homely", probed("Readiness", &own))?;
    stage.control.await_running("homely")?;
    let friend = json!({ "httpGet": { "host": "homely", "port": 80, "path": "/ready" } });
    stage.control.desire("friendly", probed("Readiness", &friend))?;
    stage.control.await_running("friendly")?;
    let nobody = format!("nobody.default.{}.internal", stage.board.device());
    let stranger = json!({ "tcpSocket": { "host": nobody, "port": 80 }, "timeoutSeconds": 5 });
    let told = format!("Readiness tcp {nobody}:80: {nobody} has no address");
    stage.control.desire("lonely", probed("Readiness", &stranger))?;
    stage.control.await_status("lonely", |status| status.to_string().contains(&told))?;
    stage.control.remove("lonely")
}
