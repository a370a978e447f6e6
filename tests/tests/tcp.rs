//! TCP ingress on the real parts: ports on the LAN and by name, to zero and back, the split, and the way out.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use system_tests::{
    Board, Client, Document, Image, LONG, Shared, Stage, eventually, now, pause, within,
};

static STAGE: Shared<Stage> = Shared::new();

/// Where the test app speaks TCP.
const ECHO: u16 = 9000;

fn prepare(board: &mut Board) -> Result<()> {
    board.preload(&Image::testapp("test.local/app:1")?)
}

fn stage() -> Result<Arc<Stage>> {
    STAGE.get(|| Stage::start(prepare))
}

/// An external app that speaks TCP at this port.
fn app(exposed: u16) -> Document {
    Document::new("test.local/app:1")
        .env("ECHO_PORTS", "9000,9001")
        .set("/template/terminationGracePeriodSeconds", 5)
        .set("/configuration/ingress/transport", "tcp")
        .set("/configuration/ingress/targetPort", ECHO)
        .set("/configuration/ingress/exposedPort", exposed)
        .skerry("probationSeconds", 0)
}

/// Somebody on the LAN who connects to this port of the board.
fn lan(stage: &Stage, port: u16) -> Client {
    stage.board.lan_client().at(SocketAddr::from((stage.board.lan().board(), port)))
}

/// A connection to the test app, which has said who it is.
struct Talk {
    stream: BufReader<TcpStream>,
    who: Value,
}

impl Talk {
    /// Sends its first words before it has read any.
    fn open(client: &Client) -> Result<Self> {
        let mut stream = client.connect()?;
        stream.write_all(b"first words\n")?;
        let mut talk = Self { stream: BufReader::new(stream), who: Value::Null };
        let line = talk.line()?;
        talk.who = serde_json::from_str(&line).with_context(|| format!("{line:?}"))?;
        ensure!(talk.line()? == "first words", "the first words are lost");
        Ok(talk)
    }

    /// The same, as soon as somebody listens.
    fn await_open(client: &Client) -> Result<Self> {
        eventually("a connection that is served", LONG, || Self::open(client))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        ensure!(line.ends_with('\n'), "closed after {line:?}");
        Ok(line.trim_end().to_owned())
    }

    fn echo(&mut self, words: &str) -> Result<()> {
        self.stream.get_mut().write_all(format!("{words}\n").as_bytes())?;
        let back = self.line()?;
        ensure!(back == words, "{back:?} came back");
        Ok(())
    }

    /// Ends its sending; the answer goes on to its own end.
    fn end(mut self) -> Result<()> {
        self.stream.get_ref().shutdown(Shutdown::Write)?;
        let mut rest = String::new();
        self.stream.read_to_string(&mut rest)?;
        ensure!(rest == "bye\n", "{rest:?} came to the end");
        Ok(())
    }

    fn revision(&self) -> &str {
        self.who["revision"].as_str().unwrap_or_default()
    }
}

/// It holds each time it is looked at, for so long.
fn throughout(time: Duration, mut holds: impl FnMut() -> Result<()>) -> Result<()> {
    let over = now() + time;
    while now() < over {
        holds()?;
        pause(Duration::from_millis(200));
    }
    Ok(())
}

/// What the test app `caller`, which has its own ingress, is answered by somebody at a port.
fn asked_by(stage: &Stage, caller: &str, to: &str) -> Result<(u16, String)> {
    let answer = stage.board.lan_client().get(caller, &format!("/ask?to={to}&text=hello"))?;
    Ok((answer.status, answer.text()))
}

fn caller(stage: &Stage, name: &str, environment: &str) -> Result<()> {
    let mut document = Document::new("test.local/app:1");
    document.0["properties"]["environmentId"] = environment.into();
    stage.control.desire(name, document)?;
    stage.board.lan_client().await_status(name, "/", 200)?;
    Ok(())
}

#[test]
fn a_port_leads_to_its_app_from_the_lan_and_by_name_from_another_app() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("db", app(5432))?;
    let client = lan(&stage, 5432);
    let mut talk = Talk::await_open(&client)?;
    assert_eq!(talk.who["app"], "db");
    for n in 0..100 {
        talk.echo(&format!("words {n}"))?;
    }
    talk.end()?;
    caller(&stage, "asks", "default")?;
    let full = format!("db.default.{}.internal:5432", stage.board.device());
    for name in ["db:5432", full.as_str()] {
        let (status, said) = asked_by(&stage, "asks", name)?;
        ensure!(status == 200 && said.ends_with("hellobye\n"), "{name}: {status} {said}");
    }
    // Its host name leads nowhere by HTTP.
    assert_eq!(stage.board.lan_client().get("db", "/")?.status, 404);
    // Another port, and the one before is closed.
    stage.control.desire("db", app(5433))?;
    Talk::await_open(&lan(&stage, 5433))?.end()?;
    ensure!(client.connect().is_err(), "5432 is still open");
    let status = stage.control.await_running("db")?;
    assert_eq!(status["revisions"].as_array().map(Vec::len), Some(1), "no revision is made");
    Ok(())
}

#[test]
fn an_internal_port_is_reached_from_its_own_environment_only() -> Result<()> {
    let stage = stage()?;
    let inner = app(5440).set("/configuration/ingress/external", false);
    stage.control.desire("inner", inner)?;
    caller(&stage, "near", "default")?;
    caller(&stage, "far", "elsewhere")?;
    let said = eventually("the internal app", LONG, || {
        let (status, said) = asked_by(&stage, "near", "inner:5440")?;
        ensure!(status == 200, "{said}");
        Ok(said)
    })?;
    ensure!(said.ends_with("hellobye\n"), "{said}");
    ensure!(lan(&stage, 5440).connect().is_err(), "it is open to the LAN");
    let gateway = stage.board.lan_client().get("near", "/resolve?name=inner")?.text();
    let own = stage.board.lan_client().get("far", "/resolve?name=far")?.text();
    let board = stage.board.lan().board().to_string();
    for address in [gateway.trim(), own.trim(), board.as_str()] {
        let answer =
            stage.board.lan_client().get("far", &format!("/tcp?to={address}:5440&ms=1500"))?;
        ensure!(answer.status != 200, "{address} is open to another environment");
    }
    Ok(())
}

fn await_zero(stage: &Stage, app: &str) -> Result<()> {
    stage.control.await_json(&format!("apps/{app}/status"), 2 * LONG, |status| {
        status["revisions"][0]["runningState"] == "ScaledToZero"
            && status["revisions"][0]["replicas"] == 0
    })?;
    Ok(())
}

fn lazy(exposed: u16) -> Document {
    let scale = json!({ "minReplicas": 0, "maxReplicas": 2, "cooldownPeriod": 1 });
    app(exposed).set("/template/scale", scale)
}

#[test]
fn an_app_goes_to_zero_by_itself_and_a_connection_wakes_it() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("lazy", lazy(5450))?;
    let client = lan(&stage, 5450);
    let mut talk = Talk::await_open(&client)?;
    // While it is open the app stays: two windows and the cool-down pass.
    throughout(Duration::from_secs(35), || talk.echo("still here"))?;
    talk.end()?;
    await_zero(&stage, "lazy")?;
    let mut talk = Talk::open(&client)?;
    talk.echo("awake")?;
    talk.end()
}

#[test]
fn whatever_stands_by_is_woken_by_a_connection() -> Result<()> {
    let stage = stage()?;
    for (n, tier) in (0..).zip(["none", "created", "frozen"]) {
        let name = format!("tier-{tier}");
        let client = lan(&stage, 5460 + n);
        let document = lazy(5460 + n).set("/template/scale/cooldownPeriod", 600);
        stage.control.desire(&name, document.skerry("standby", tier))?;
        Talk::await_open(&client)?.end()?;
        for _ in 0..2 {
            let said = stage.board.cli(["scale", name.as_str(), "--to-zero"])?;
            ensure!(said.contains("goes to zero"), "{said}");
            await_zero(&stage, &name)?;
            let mut talk = Talk::open(&client).with_context(|| name.clone())?;
            talk.echo(tier)?;
            talk.end()?;
        }
    }
    Ok(())
}

#[test]
fn connections_are_split_between_revisions() -> Result<()> {
    let stage = stage()?;
    let of = |suffix: &str, traffic: Value| {
        app(5470)
            .set("/configuration/activeRevisionsMode", "Multiple")
            .set("/template/revisionSuffix", suffix)
            .set("/configuration/ingress/traffic", traffic)
    };
    let all = json!([{ "latestRevision": true, "weight": 100 }]);
    stage.control.desire("halves", of("one", all))?;
    stage.control.await_running("halves")?;
    let halves = json!([
        { "revisionName": "halves--one", "weight": 50 },
        { "revisionName": "halves--two", "weight": 50 },
    ]);
    stage.control.desire("halves", of("two", halves))?;
    stage.control.await_status("halves", |status| {
        let revisions = status["revisions"].as_array();
        let ready = |one: &Value| one["readyReplicas"] == 1 && one["trafficWeight"] == 50;
        revisions.is_some_and(|all| all.len() == 2 && all.iter().all(ready))
    })?;
    let client = lan(&stage, 5470);
    let mut open = Vec::new();
    for _ in 0..40 {
        open.push(Talk::await_open(&client)?);
    }
    let ones = open.iter().filter(|talk| talk.revision() == "halves--one").count();
    ensure!((18..=22).contains(&ones), "{ones} of 40");
    Ok(())
}

#[test]
fn additional_ports_lead_to_the_same_replicas() -> Result<()> {
    let stage = stage()?;
    let ports = json!([
        { "targetPort": 9000, "exposedPort": 5480, "external": true },
        { "targetPort": 9001 },
    ]);
    let document = Document::new("test.local/app:1")
        .env("ECHO_PORTS", "9000,9001")
        .set("/configuration/ingress/additionalPortMappings", ports);
    stage.control.desire("more", document)?;
    let mut talk = Talk::await_open(&lan(&stage, 5480))?;
    assert_eq!(talk.who["app"], "more");
    talk.echo("by the additional port")?;
    talk.end()?;
    let by_http = stage.board.lan_client().await_status("more", "/", 200)?;
    assert_eq!(by_http.json()["app"], "more");
    caller(&stage, "asks-more", "default")?;
    for to in ["more:5480", "more:9001"] {
        let (status, said) = asked_by(&stage, "asks-more", to)?;
        ensure!(status == 200 && said.ends_with("hellobye\n"), "{to}: {status} {said}");
    }
    ensure!(lan(&stage, 9001).connect().is_err(), "9001 is not external");
    let status = stage.control.await_running("more")?;
    ensure!(status["warnings"] == json!([]), "{}", status["warnings"]);
    Ok(())
}

#[test]
fn an_update_leaves_an_open_connection_its_grace() -> Result<()> {
    const GRACE: Duration = Duration::from_secs(8);
    let stage = stage()?;
    let of = |version: &str| {
        let grace = GRACE.as_secs();
        app(5490).env("VERSION", version).set("/template/terminationGracePeriodSeconds", grace)
    };
    stage.control.desire("rolls", of("1"))?;
    let client = lan(&stage, 5490);
    let (mut ends, mut stays) = (Talk::await_open(&client)?, Talk::await_open(&client)?);
    stage.control.desire("rolls", of("2"))?;
    eventually("the new revision to be connected to", LONG, || {
        let talk = Talk::open(&client)?;
        ensure!(talk.who["version"] == "2", "{}", talk.who);
        Ok(())
    })?;
    let switched = now();
    ends.echo("the old one still serves")?;
    ends.end()?;
    throughout(GRACE / 2, || stays.echo("so does it here"))?;
    eventually("the grace to be over", GRACE + LONG, || {
        ensure!(stays.echo("and here").is_err(), "still open");
        Ok(())
    })?;
    ensure!(GRACE / 2 <= switched.elapsed(), "cut after {:?}", switched.elapsed());
    // What came first waited for nothing: the new one was there before the old one went.
    Talk::open(&client)?.end()
}

#[test]
fn a_port_belongs_to_who_came_first() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("zebra", app(5500))?;
    let client = lan(&stage, 5500);
    Talk::await_open(&client)?.end()?;
    stage.control.desire("ant", app(5500))?;
    let status = stage.control.await_reason("ant", "PortConflict")?;
    let warned = status["warnings"].as_array().context("no warnings")?;
    let path = "properties.configuration.ingress.exposedPort";
    ensure!(warned.iter().all(|one| one["path"] == path), "{warned:?}");
    ensure!(status.to_string().contains("belongs to app zebra on the LAN"), "{status}");
    let said = stage.board.cli(["explain", "ant"])?;
    ensure!(said.contains("PortConflict"), "{said}");
    assert_eq!(Talk::open(&client)?.who["app"], "zebra");
    stage.control.remove("zebra")?;
    eventually("the port to go over", LONG, || {
        ensure!(Talk::open(&client)?.who["app"] == "ant", "not yet");
        Ok(())
    })?;
    stage.control.await_status("ant", |status| status["warnings"] == json!([]))?;
    Ok(())
}

#[test]
fn a_port_that_a_program_holds_is_told_and_had_once_it_is_free() -> Result<()> {
    let stage = stage()?;
    let address = SocketAddr::from((stage.board.lan().board(), 5510));
    let held = within(&stage.board.lan().netns(), || TcpListener::bind(address))??;
    stage.control.desire("waits", app(5510))?;
    let status = stage.control.await_reason("waits", "PortTaken")?;
    let told = status["warnings"].to_string();
    ensure!(told.contains("5510") && told.contains("is held by"), "{told}");
    stage.control.await_trouble("PortTaken")?;
    stage.control.await_running("waits")?;
    // Other apps reach it meanwhile.
    caller(&stage, "asks-waits", "default")?;
    let (status, said) = asked_by(&stage, "asks-waits", "waits:5510")?;
    ensure!(status == 200 && said.ends_with("hellobye\n"), "{status} {said}");
    drop(held);
    Talk::await_open(&lan(&stage, 5510))?.end()?;
    stage.control.await_status("waits", |status| status["warnings"] == json!([]))?;
    Ok(())
}

#[test]
fn a_restart_of_the_agent_keeps_ports_and_who_came_first() -> Result<()> {
    let mut stage = Stage::start(prepare)?;
    for name in ["zebra", "ant"] {
        stage.control.desire(name, app(5520))?;
        stage.control.await_running(name)?;
    }
    let client = lan(&stage, 5520);
    assert_eq!(Talk::await_open(&client)?.who["app"], "zebra");
    stage.board.kill_agent()?;
    stage.board.launch()?;
    assert_eq!(Talk::await_open(&client)?.who["app"], "zebra");
    stage.control.await_reason("ant", "PortConflict")?;
    assert_eq!(Talk::open(&client)?.who["app"], "zebra");
    Ok(())
}
