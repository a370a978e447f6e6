//! Names, and who reaches whom: from app to app, from environment to environment, from the LAN.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use system_tests::{
    Board, Client, Document, Image, LONG, Lan, SHORT, Shared, Stage, eventually, run, within,
};

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

fn ask(stage: &Stage, app: &str, path: &str) -> Result<(u16, String)> {
    let answer = stage.board.lan_client().get(app, path)?;
    Ok((answer.status, answer.text()))
}

fn addresses(status: &Value) -> Vec<Ipv4Addr> {
    let list = status["revisions"][0]["replicaList"].as_array().cloned().unwrap_or_default();
    list.iter().filter_map(|replica| replica["address"].as_str()?.parse().ok()).collect()
}

/// The bridge's own address, which is the first of the subnet.
fn gateway(replica: Ipv4Addr) -> Ipv4Addr {
    let [a, b, c, _] = replica.octets();
    Ipv4Addr::new(a, b, c, 1)
}

#[test]
fn an_app_finds_another_by_each_of_its_names() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("caller", app())?;
    stage.control.desire("called", app().replicas(2))?;
    let status = stage.control.await_running("called")?;
    stage.control.await_running("caller")?;
    let suffix = format!("default.{}.internal", stage.board.device());
    for name in
        ["called".to_owned(), format!("called.{suffix}"), format!("called.internal.{suffix}")]
    {
        let (code, body) = ask(&stage, "caller", &format!("/call?url=http://{name}/"))?;
        ensure!(code == 200 && body.contains("\"app\":\"called\""), "{name}: {code} {body}");
    }
    let mut replicas = addresses(&status);
    replicas.sort();
    eventually("both replicas by name", SHORT, || {
        let (_, body) = ask(&stage, "caller", "/resolve?name=replicas.called")?;
        let mut found: Vec<Ipv4Addr> = body.lines().filter_map(|line| line.parse().ok()).collect();
        found.sort();
        ensure!(found == replicas, "{found:?} and not {replicas:?}");
        Ok(())
    })?;
    let (code, body) = ask(&stage, "caller", "/resolve?name=nobody")?;
    ensure!(code == 502, "{body}");
    Ok(())
}

#[test]
fn environments_do_not_reach_each_other() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("here", app())?;
    let id = "/subscriptions/x/resourceGroups/y/providers/Microsoft.App/managedEnvironments/other";
    stage.control.desire("there", app().set("/environmentId", id))?;
    let here = addresses(&stage.control.await_running("here")?)[0];
    let there = stage.control.await_running("there")?;
    ensure!(there["fqdn"].as_str().unwrap_or_default().contains(".other."), "{}", there["fqdn"]);
    for to in [here, gateway(here)] {
        for port in [8080, 80, 53] {
            let (code, body) = ask(&stage, "there", &format!("/tcp?to={to}:{port}"))?;
            ensure!(code != 200, "it reaches {to}:{port}: {body}");
        }
    }
    let (code, _) = ask(&stage, "there", "/resolve?name=here")?;
    assert_eq!(code, 502);
    Ok(())
}

#[test]
fn what_leaves_the_board_has_the_address_of_the_board() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("outbound", app())?;
    stage.control.await_running("outbound")?;
    let listener = TcpListener::bind((stage.board.lan().host(), 0))?;
    let to = listener.local_addr()?;
    let (code, body) = ask(&stage, "outbound", &format!("/tcp?to={to}"))?;
    ensure!(code == 200, "{body}");
    assert_eq!(listener.accept()?.1.ip(), IpAddr::V4(stage.board.lan().board()));
    Ok(())
}

#[test]
fn the_board_itself_is_closed_but_for_what_is_allowed() -> Result<()> {
    let stage = Stage::start(|board| {
        board.settings().set("network", "allow_host", "[\"tcp/5555\"]");
        prepare(board)
    })?;
    let bind = |port: u16| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port));
    let netns = stage.board.lan().netns();
    let _open = within(&netns, || bind(5555))??;
    let _closed = within(&netns, || bind(6666))??;
    stage.control.desire("guest", app())?;
    let gateway = gateway(addresses(&stage.control.await_running("guest")?)[0]);
    let board = stage.board.lan().board();
    for to in [format!("{gateway}:6666"), format!("{board}:6666")] {
        let (code, body) = ask(&stage, "guest", &format!("/tcp?to={to}"))?;
        ensure!(code != 200, "it reaches {to}: {body}");
    }
    let name = format!("host.default.{}.internal", stage.board.device());
    let (code, body) = ask(&stage, "guest", &format!("/resolve?name={name}"))?;
    ensure!(code == 200, "{body}");
    let (code, body) = ask(&stage, "guest", &format!("/tcp?to={}:5555", body.trim()))?;
    ensure!(code == 200, "{body}");
    Ok(())
}

#[test]
fn the_lan_reaches_the_ingress_and_nothing_behind_it() -> Result<()> {
    let stage = stage()?;
    stage.control.desire("public", app())?;
    let replica = addresses(&stage.control.await_running("public")?)[0];

    // A neighbour with a cable to the board and a route to the replicas through it.
    let neighbour = Lan::take()?;
    let (board, other) = (stage.board.lan().name(), neighbour.name());
    run(
        "ip",
        [
            "-n", &board, "link", "add", "next0", "type", "veth", "peer", "name", "next0", "netns",
            &other,
        ],
    )?;
    for (name, address) in [(&board, "10.198.0.1/24"), (&other, "10.198.0.2/24")] {
        run("ip", ["-n", name, "address", "add", address, "dev", "next0"])?;
        run("ip", ["-n", name, "link", "set", "next0", "up"])?;
    }
    let subnet = format!("{}/24", gateway(replica));
    let subnet = subnet.replace(".1/24", ".0/24");
    run("ip", ["-n", &other, "route", "add", &subnet, "via", "10.198.0.1"])?;

    let client =
        |to: Ipv4Addr, port: u16| Client::inside(neighbour.netns(), SocketAddr::from((to, port)));
    let board_address = Ipv4Addr::new(10, 198, 0, 1);
    assert_eq!(client(board_address, 80).get("public", "/")?.status, 200);
    for (to, port) in [(replica, 8080), (gateway(replica), 80), (gateway(replica), 53)] {
        ensure!(client(to, port).connect().is_err(), "the neighbour reaches {to}:{port}");
    }
    Ok(())
}

#[test]
fn another_firewall_in_the_way_is_named() -> Result<()> {
    let stage = Stage::start(prepare)?;
    stage.control.desire("walled", app())?;
    stage.control.await_running("walled")?;
    stage.board.run("nft", ["add", "table", "ip", "other"])?;
    let chain = "{ type filter hook forward priority 0; policy drop; }";
    stage.board.run("nft", ["add", "chain", "ip", "other", "forward", chain])?;
    stage.control.desire("again", app())?;
    stage.control.await_trouble("ForwardBlocked")?;
    Ok(())
}

#[test]
fn an_external_app_is_announced_on_the_lan() -> Result<()> {
    let stage = Stage::start(|board| {
        board.settings().set("mdns", "enabled", "true");
        prepare(board)
    })?;
    stage.control.desire("loud", app())?;
    stage.control.desire("quiet", app().set("/configuration/ingress/external", false))?;
    let status = stage.control.await_status("loud", |status| status["lanName"] != "")?;
    let name = status["lanName"].as_str().context("no name")?.to_owned();
    assert_eq!(name, "loud.local");
    stage.board.lan_client().await_status(&name, "/", 200)?;
    stage.control.await_running("quiet")?;
    eventually("an answer to loud.local", LONG, || {
        let answer = multicast_query(stage.board.lan().host(), "loud.local")?;
        let address = stage.board.lan().board().octets();
        ensure!(answer.windows(4).any(|bytes| bytes == address), "not the board's address");
        Ok(())
    })?;
    ensure!(multicast_query(stage.board.lan().host(), "quiet.local").is_err(), "it is announced");
    Ok(())
}

/// A one-shot query as of RFC 6762, section 5.1: from a port of our own, so that the answer comes to us.
fn multicast_query(from: Ipv4Addr, name: &str) -> Result<Vec<u8>> {
    let socket = UdpSocket::bind((from, 0))?;
    socket.set_read_timeout(Some(std::time::Duration::from_secs(1)))?;
    let mut packet = vec![0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        packet.push(u8::try_from(label.len())?);
        packet.extend_from_slice(label.as_bytes());
    }
    packet.extend_from_slice(&[0, 0, 1, 0, 1]);
    socket.send_to(&packet, (Ipv4Addr::new(224, 0, 0, 251), 5353))?;
    let mut buffer = [0; 1500];
    let length = socket.recv(&mut buffer)?;
    Ok(buffer[..length].to_vec())
}
