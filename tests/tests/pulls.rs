//! Pulls over bad lines: what broke goes on, what serves goes on serving, and whoever looks sees how far it has come.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use system_tests::{
    Access, Board, Broker, Control, Dice, Document, Image, LONG, Lan, Line, Message, Registry,
    eventually, now, run,
};

/// What may come twice for each cut and each kill.
const TWICE: u64 = 1 << 20;
/// Of the image that is pulled over a bad line.
const NOISE: usize = 20 << 20;
/// Seed of all that is random here.
const SEED: u64 = 7;

struct Scene {
    control: Control,
    board: Board,
    registry: Registry,
    _broker: Broker,
}

impl Scene {
    fn set() -> Result<Self> {
        let lan = Lan::take()?;
        let broker = Broker::start(&lan, Access::Anonymous)?;
        let registry = Registry::open(&lan)?;
        let mut board = Board::new(lan)?;
        board.start_containerd()?;
        board.preload(&Image::testapp("test.local/app:1")?.env("VERSION", "1"))?;
        board.settings().broker(&broker);
        let control = Control::connect(&broker, &board.device())?;
        Ok(Self { control, board, registry, _broker: broker })
    }

    /// The size of an image's layers in the registry.
    fn size_of(&self, repository: &str) -> Result<u64> {
        let source = format!("docker://{}/{repository}", self.registry.address());
        let text = run("skopeo", ["inspect", "--raw", "--tls-verify=false", &source])?;
        let manifest: serde_json::Value = serde_json::from_str(&text)?;
        let layers = manifest["layers"].as_array().context("no layers")?;
        Ok(layers.iter().filter_map(|layer| layer["size"].as_u64()).sum())
    }
}

#[test]
fn a_pull_survives_cuts_and_kills_while_the_old_revision_serves() -> Result<()> {
    let mut scene = Scene::set()?;
    let image = Image::testapp("test.local/app:2")?.env("VERSION", "2");
    image.file("/noise", &Dice::new(SEED).noise(NOISE), 0o644).push(&scene.registry, "app:2")?;
    let size = scene.size_of("app:2")?;
    let mut dice = Dice::new(SEED);
    let budgets: Vec<u64> = (0..12).map(|_| dice.between(1_000, 2_500_000)).collect();
    let lan = scene.board.lan();
    let line = Line::to(lan, scene.registry.address(), budgets, 4 << 20)?;
    let insecure = format!("[\"{}\"]", line.address());
    scene.board.settings().set("images", "insecure_registries", insecure);
    scene.board.start()?;
    let Scene { control, board, .. } = &mut scene;
    control.desire("hello", Document::new("test.local/app:1").text())?;
    control.await_running("hello")?;

    let client = board.lan_client();
    let new = Document::new(&format!("{}/app:2", line.address()));
    control.desire("hello", new.skerry("probationSeconds", 1).text())?;
    let mut kills = 0;
    for _ in 0..3 {
        let enough = line.passed() + dice.between(500_000, size / 5);
        eventually("some more of the image came", LONG, || {
            ensure!(enough <= line.passed(), "{} of {enough}", line.passed());
            Ok(())
        })?;
        let answer = client.await_status("hello", "/", 200)?;
        ensure!(answer.text().contains('1'), "the old revision serves: {}", answer.text());
        board.kill_agent()?;
        kills += 1;
        board.start()?;
    }
    control.await_status("hello", |status| {
        let revision = &status["revisions"][0];
        revision["phase"] == "Committed"
            && status["revisions"][0]["image"] != ""
            && revision["image"].as_str().is_some_and(|image| image.contains("app:2"))
    })?;
    client.await_status("hello", "/", 200)?;

    let twice = line.passed().saturating_sub(size);
    let cuts = line.cuts();
    println!("{cuts} cuts and {kills} kills: {twice} bytes more than the {size} of the image");
    ensure!(10 <= cuts, "{cuts} cuts");
    ensure!(twice < (cuts + kills) * TWICE, "{twice} bytes came twice");

    let told = control.history("apps/hello/status");
    let is_progress = |details: &str| details.contains(" MiB, ") && details.contains(" layers");
    let progress = told.iter().any(|message| {
        let revision = &message.json()["revisions"][0];
        revision["reason"] == "PullingImage"
            && revision["details"].as_str().is_some_and(is_progress)
    });
    let newest = |message: &Message| {
        let revision = &message.json()["revisions"][0];
        format!("{} {} {}", revision["name"], revision["reason"], revision["details"])
    };
    let all: Vec<String> = told.iter().map(newest).collect();
    ensure!(progress, "no status told of the progress: {all:#?}");
    let event = control.await_event("hello", "PullingImage")?;
    ensure!(is_progress(event.json()["message"].as_str().unwrap_or_default()), "{event:?}");
    Ok(())
}

#[test]
fn a_registry_behind_a_proxy_is_reached_through_it() -> Result<()> {
    let mut scene = Scene::set()?;
    // Something that the board has not.
    let image = Image::testapp("test.local/app:2")?;
    let noise = Dice::new(SEED).noise(200_000);
    image.file("/noise", &noise, 0o644).push(&scene.registry, "app:2")?;
    // An HTTP proxy takes absolute URLs; the registry does too, so a line to it is one.
    let line = Line::to(scene.board.lan(), scene.registry.address(), [], 0)?;
    scene.board.settings().set("images", "insecure_registries", "[\"registry.test:5000\"]");
    scene
        .board
        .launch_by("env", [&format!("HTTP_PROXY=http://{}", line.address()), "NO_PROXY="])?;
    let document = Document::new("registry.test:5000/app:2").text();
    scene.control.desire("hello", document)?;
    scene.control.await_running("hello")?;
    ensure!(100_000 < line.passed(), "{} bytes came through the proxy", line.passed());
    Ok(())
}

#[test]
fn a_slow_line_is_slow_and_no_failure() -> Result<()> {
    if std::env::var_os("SKERRY_LONG").is_none() {
        println!("skipped: takes minutes; `cargo xtask test --long` runs it");
        return Ok(());
    }
    let mut scene = Scene::set()?;
    let image = Image::busybox("test.local/slow:1").command(["-c", "sleep 3600"]);
    image.push(&scene.registry, "slow:1")?;
    let size = scene.size_of("slow:1")?;
    let line = Line::to(scene.board.lan(), scene.registry.address(), [], 0)?;
    let insecure = format!("[\"{}\"]", line.address());
    scene.board.settings().set("images", "insecure_registries", insecure);
    scene.board.start()?;
    let cable = format!("skt{}", scene.board.lan().number());
    let shape = "rate 64kbit burst 3000 latency 2s";
    let words = ["qdisc", "add", "dev", &cable, "root", "tbf"].into_iter().chain(shape.split(' '));
    run("tc", words.collect::<Vec<_>>())?;
    let document = Document::new(&format!("{}/slow:1", line.address())).without_ingress();
    let start = now();
    scene.control.desire("slow", document.skerry("readyDeadlineSeconds", 3600).text())?;
    let patience = Duration::from_secs(size / 8_000 * 2 + 120);
    let ready = eventually("the image came over the slow line", patience, || {
        let text = scene.board.cli(["apps", "-o", "json"])?;
        ensure!(text.contains("\"Running\""), "{text}");
        Ok(())
    });
    run("tc", ["qdisc", "del", "dev", &cable, "root"])?;
    ready?;
    let twice = line.passed().saturating_sub(size);
    println!("{size} bytes over 64 kbit/s in {:?}, {twice} more than the image", start.elapsed());
    ensure!(twice < TWICE, "{twice} bytes came twice");
    Ok(())
}
