//! Requests from outside and from apps: to the right replica, whole, and with a reason where they can't be served.

use std::io::{Read, Write};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Version, header::HOST};
use serde_json::json;
use system_tests::{Board, Document, Image, SHORT, Shared, Stage, eventually};

static STAGE: Shared<Stage> = Shared::new();

fn prepare(board: &mut Board) -> Result<()> {
    board.preload(&Image::testapp("test.local/app:1")?)
}

fn stage() -> Result<Arc<Stage>> {
    STAGE.get(|| Stage::start(prepare))
}

fn app() -> Document {
    Document::new("test.local/app:1")
}

#[test]
fn an_app_answers_to_each_of_its_names() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("many", app())?;
    let status = stage.control.await_running("many")?;
    let suffix = format!("default.{}.internal", stage.board.device());
    let revision = status["latestRevisionName"].as_str().context("no revision")?;
    let client = stage.board.lan_client();
    for name in [
        "many".to_owned(),
        "MANY".to_owned(),
        "many:80".to_owned(),
        format!("many.{suffix}"),
        format!("{revision}.{suffix}"),
    ] {
        let answer = client.get(&name, "/")?;
        ensure!(answer.status == 200, "{name}: {} {}", answer.status, answer.text());
    }
    let answer = client.get("nobody", "/")?;
    assert_eq!(answer.status, 404);
    ensure!(answer.text().contains("UnknownHost"), "{}", answer.text());
    assert_eq!(stage.board.inside().get("many", "/")?.status, 200);
    Ok(())
}

#[test]
fn an_internal_app_is_not_served_on_the_lan() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("inner", app().set("/configuration/ingress/external", false))?;
    stage.control.desire("outer", app())?;
    stage.control.await_running("inner")?;
    stage.control.await_running("outer")?;
    let client = stage.board.lan_client();
    assert_eq!(client.get("inner", "/")?.status, 404);
    let answer = client.get("outer", "/call?url=http://inner/")?;
    ensure!(answer.status == 200 && answer.text().contains("\"inner\""), "{}", answer.text());
    Ok(())
}

#[test]
fn headers_tell_where_a_request_came_from() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("heads", app())?;
    stage.control.await_running("heads")?;
    let headers = stage.board.lan_client().get("heads", "/headers?q=1")?.json();
    assert_eq!(headers["x-forwarded-for"], stage.board.lan().host().to_string());
    assert_eq!(headers["x-forwarded-proto"], "http");
    assert_eq!(headers["x-forwarded-host"], "heads");
    assert_eq!(headers["host"], "heads");
    assert_eq!(headers[":uri"], "/headers?q=1");
    Ok(())
}

#[test]
fn large_bodies_pass_both_ways() -> Result<()> {
    const LARGE: usize = 20 << 20;
    let stage = stage()?;
    stage.control.desire("bodies", app())?;
    stage.control.await_running("bodies")?;
    let client = stage.board.lan_client();
    let answer = client.get("bodies", &format!("/download?bytes={LARGE}"))?;
    assert_eq!(answer.body.len(), LARGE);
    let body = Full::new(Bytes::from(vec![7; LARGE]));
    let answer = client.send(Request::post("/upload").header(HOST, "bodies").body(body)?)?;
    assert_eq!(answer.text(), format!("{LARGE}\n"));
    Ok(())
}

#[test]
fn a_body_streams_and_is_not_collected_first() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("stream", app())?;
    stage.control.await_running("stream")?;
    let mut stream = stage.board.lan_client().connect()?;
    stream
        .write_all(b"POST /echo HTTP/1.1\r\nHost: stream\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    stream.write_all(b"5\r\nfirst\r\n")?;
    // The request is not complete, and its first part is back already.
    let mut seen = Vec::new();
    while !seen.windows(5).any(|bytes| bytes == b"first") {
        let mut buffer = [0; 1024];
        let length = stream.read(&mut buffer)?;
        ensure!(0 < length, "closed: {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&buffer[..length]);
    }
    stream.write_all(b"0\r\n\r\n")?;
    Ok(())
}

#[test]
fn http_2_and_grpc_with_trailers_pass_through() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("grpc", app().set("/configuration/ingress/transport", "http2"))?;
    stage.control.await_running("grpc")?;
    let request = Request::post("/grpc.test/Echo")
        .version(Version::HTTP_2)
        .header(HOST, "grpc")
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(Full::new(Bytes::from_static(b"\0\0\0\0\x02hi")))?;
    let answer = stage.board.lan_client().send(request)?;
    assert_eq!(answer.status, 200);
    assert_eq!(&answer.body[..], b"\0\0\0\0\x02hi");
    assert_eq!(answer.trailers.get("grpc-status").context("no trailers")?, "0");
    let request = Request::get("/headers").version(Version::HTTP_2).header(HOST, "grpc");
    let headers = stage.board.lan_client().send(request.body(Full::default())?)?.json();
    assert_eq!(headers[":version"], "HTTP/2.0");
    Ok(())
}

#[test]
fn an_upgraded_connection_passes_bytes_both_ways() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("socket", app())?;
    stage.control.await_running("socket")?;
    let mut stream = stage.board.lan_client().connect()?;
    stream.write_all(
        b"GET /ws HTTP/1.1\r\nHost: socket\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
          Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    ensure!(head.starts_with("HTTP/1.1 101"), "{head}");
    for word in [&b"ping"[..], b"pong"] {
        stream.write_all(word)?;
        let mut back = [0; 4];
        stream.read_exact(&mut back)?;
        assert_eq!(back, word);
    }
    Ok(())
}

#[test]
fn the_least_busy_replica_is_asked() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("busy", app().replicas(2))?;
    stage.control.await_status("busy", |status| status["revisions"][0]["readyReplicas"] == 2)?;
    let client = stage.board.lan_client();
    thread::scope(|scope| {
        let slow = scope.spawn(|| client.get("busy", "/slow?ms=3000"));
        // Once the slow request is under way, every quick one is answered by the other replica.
        let last = eventually("five answers of one replica", SHORT, || {
            let mut replicas = Vec::new();
            for _ in 0..5 {
                replicas.push(client.get("busy", "/")?.json()["replica"].clone());
            }
            replicas.dedup();
            ensure!(replicas.len() == 1 && !slow.is_finished(), "{replicas:?}");
            Ok(replicas.remove(0))
        })?;
        let slow = slow.join().ok().context("the slow request panicked")??;
        assert_ne!(slow.json()["replica"], last);
        Ok(())
    })
}

#[test]
fn a_replica_that_is_not_ready_gets_no_request() -> Result<()> {
    let stage = stage()?;
    let probe = json!([{"type": "Readiness", "httpGet": {"path": "/ready", "port": 8080},
        "periodSeconds": 1, "failureThreshold": 48}]);
    let document = app().env("READY_AFTER_MS", "3000").main("/probes", probe);
    stage.control.desire("slow-start", document)?;
    let client = stage.board.lan_client();
    let refused = client.await_status("slow-start", "/ready", 503)?;
    ensure!(refused.text().contains("NoReadyReplica"), "{}", refused.text());
    stage.control.await_reason("slow-start", "WaitingForProbe")?;
    // The first request that passes meets a replica that says that it is ready.
    let first = eventually("a request to pass", 3 * SHORT, || {
        let answer = client.get("slow-start", "/ready")?;
        ensure!(!answer.text().contains("NoReadyReplica"), "refused by the ingress");
        Ok(answer)
    })?;
    assert_eq!(first.status, 200, "{}", first.text());
    Ok(())
}

#[test]
fn a_stopped_app_and_one_without_ingress_say_so() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("stopped", app())?;
    stage.control.await_running("stopped")?;
    stage.board.cli(["stop", "stopped"])?;
    let client = stage.board.lan_client();
    let answer = client.await_status("stopped", "/", 503)?;
    ensure!(answer.text().contains("AppStopped"), "{}", answer.text());
    stage.board.cli(["start", "stopped"])?;
    client.await_status("stopped", "/", 200)?;

    stage.control.desire("hidden", app().without_ingress())?;
    stage.control.await_running("hidden")?;
    let answer = client.get("hidden", "/")?;
    ensure!((400..600).contains(&answer.status), "{}", answer.status);
    Ok(())
}

#[test]
fn a_replica_that_dies_under_a_request_is_told_from_an_absent_one() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("dying", app())?;
    stage.control.await_running("dying")?;
    let client = stage.board.lan_client();
    thread::scope(|scope| {
        let slow = scope.spawn(|| client.get("dying", "/slow?ms=20000"));
        eventually("the request to be under way", SHORT, || {
            let pids = stage.board.pids_of("dying")?;
            let (id, _) = pids.iter().next().context("no process")?;
            stage.board.ctr(["tasks", "kill", "--signal", "SIGKILL", id])?;
            ensure!(slow.is_finished(), "it waits");
            Ok(())
        })?;
        let answer = slow.join().ok().context("the request panicked")??;
        ensure!((502..=503).contains(&answer.status), "{}", answer.status);
        Ok(())
    })
}
