//! Disks that run full: what serves goes on, the reason is clear, and with room all goes on by itself.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use system_tests::{
    Access, Board, Broker, Control, Document, Image, LONG, Lan, Line, Registry, SmallDisk,
    eventually, now, run, tells,
};

/// With room, everything is well again after no more than this.
const RECOVERY: Duration = Duration::from_mins(1);
/// Of what makes an image large.
const NOISE: usize = 12 << 20;

/// Letters that no packing makes much smaller.
fn noise(seed: u64, size: usize) -> String {
    let mut state = seed;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(33 + u8::try_from((state >> 33) % 90).unwrap_or(0))
    };
    (0..size).map(|_| next()).collect()
}

struct Scene {
    control: Control,
    board: Board,
    registry: Registry,
    disk: SmallDisk,
    _broker: Broker,
}

impl Scene {
    /// A board with these folders on a small disk, and version 1 of an app to come from an archive that is elsewhere.
    fn set<const N: usize>(folders: [&str; N], mib: u64) -> Result<Self> {
        let lan = Lan::take()?;
        let disk = SmallDisk::under(&lan, folders, mib)?;
        let broker = Broker::start(&lan, Access::Anonymous)?;
        let registry = Registry::open(&lan)?;
        let mut board = Board::new(lan)?;
        board.start_containerd()?;
        board.preload(&Image::testapp("test.local/app:1")?.env("VERSION", "1"))?;
        board.settings().broker(&broker).registry(&registry);
        let control = Control::connect(&broker, &board.device())?;
        Ok(Self { control, board, registry, disk, _broker: broker })
    }

    fn push(&self, version: u64) -> Result<String> {
        let image = Image::testapp("test.local/any:1")?.env("VERSION", &version.to_string());
        let image = image.file("/noise", &noise(version, NOISE), 0o644);
        image.push(&self.registry, &format!("app:{version}"))
    }

    fn desire(&self, image: &str) -> Result<()> {
        self.control.desire("hello", Document::new(image).skerry("probationSeconds", 1).text())
    }

    fn await_committed(&self, image: &str, patience: Duration) -> Result<Value> {
        self.control.await_json("apps/hello/status", patience, |status| {
            let revision = &status["revisions"][0];
            revision["phase"] == "Committed"
                && revision["image"].as_str().is_some_and(|one| one.contains(image))
                && status["revisions"]
                    .as_array()
                    .is_some_and(|all| all.iter().filter(|one| one["active"] == true).count() == 1)
        })
    }

    /// What the newest revision waits for.
    fn await_no_space(&self) -> Result<String> {
        let short = |status: &Value| status["revisions"][0]["reason"] == "ImageNoSpace";
        let status = self.control.await_status("hello", short)?;
        let details = status["revisions"][0]["details"].as_str().context("no details")?;
        Ok(details.to_owned())
    }

    fn serves(&self, version: &str) -> Result<()> {
        let answer = self.board.lan_client().await_status("hello", "/", 200)?;
        ensure!(answer.text().contains(version), "version {version}? {}", answer.text());
        Ok(())
    }

    fn images(&self) -> Result<String> {
        self.board.ctr(["images", "list", "--quiet"])
    }
}

#[test]
fn an_image_without_room_waits_while_the_old_one_serves_and_comes_once_there_is_room() -> Result<()>
{
    let mut scene = Scene::set(["c"], 160)?;
    let new = scene.push(2)?;
    scene.board.start()?;
    scene.desire("test.local/app:1")?;
    scene.control.await_running("hello")?;
    let filler = scene.disk.fill()?;
    scene.desire(&new)?;
    let details = scene.await_no_space()?;
    ensure!(details.contains("MiB") || details.contains("no space left"), "{details}");
    scene.serves("1")?;
    ensure!(scene.disk.free()? < 1 << 20, "somebody made room on a disk that has none to make");
    ensure!(scene.images()?.contains("test.local/app:1"), "what serves is needed");
    // The reason stays, for as long as it holds; so does what serves.
    scene.board.stop_agent()?;
    scene.board.start()?;
    scene.await_no_space()?;
    scene.serves("1")?;

    let room = now();
    drop(filler);
    scene.await_committed("app:2", RECOVERY)?;
    println!("committed {:?} after there was room", room.elapsed());
    scene.serves("2")
}

#[test]
fn a_disk_that_fills_during_a_pull_costs_no_byte_twice() -> Result<()> {
    let mut scene = Scene::set(["c"], 160)?;
    let new = scene.push(2)?;
    let line = Line::to(scene.board.lan(), scene.registry.address(), [], 0)?;
    let insecure = format!("[\"{}\"]", line.address());
    scene.board.settings().set("images", "insecure_registries", insecure);
    scene.board.settings().set("images", "max_bytes_per_second", "1500000");
    scene.board.start()?;
    scene.desire("test.local/app:1")?;
    scene.control.await_running("hello")?;
    scene
        .desire(&new.replace(&scene.registry.address().to_string(), &line.address().to_string()))?;
    eventually("a part of the image came", LONG, || {
        ensure!(4 << 20 < line.passed(), "{} bytes", line.passed());
        Ok(())
    })?;
    let filler = scene.disk.fill()?;
    let details = scene.await_no_space()?;
    ensure!(!details.is_empty());
    scene.serves("1")?;
    drop(filler);
    scene.await_committed("app:2", 2 * RECOVERY)?;
    scene.serves("2")?;
    let source = format!("docker://{}/app:2", scene.registry.address());
    let text = run("skopeo", ["inspect", "--raw", "--tls-verify=false", &source])?;
    let manifest: Value = serde_json::from_str(&text)?;
    let layers = manifest["layers"].as_array().context("no layers")?;
    let size: u64 = layers.iter().filter_map(|layer| layer["size"].as_u64()).sum();
    let twice = line.passed().saturating_sub(size);
    println!("{twice} bytes more than the {size} of the image");
    // Each try that finds no room loses what was on the line and in the kernel's buffers.
    ensure!(twice < 4 << 20, "{twice} bytes came twice");
    Ok(())
}

#[test]
fn images_that_nobody_needs_make_room_and_those_that_somebody_does_stay() -> Result<()> {
    let mut scene = Scene::set(["c"], 256)?;
    let images: Vec<String> = (2..=6).map(|version| scene.push(version)).collect::<Result<_>>()?;
    scene.board.start()?;
    scene.desire("test.local/app:1")?;
    scene.control.await_running("hello")?;
    for image in &images[..4] {
        scene.desire(image)?;
        scene.await_committed(image, LONG)?;
    }
    // Version 5 serves, 4 did before, 2 and 3 nobody needs; 1 came with the board.
    let filler = scene.disk.fill()?;
    scene.desire(&images[4])?;
    scene.await_committed(&images[4], LONG)?;
    scene.serves("6")?;
    let left = scene.images()?;
    let flashed = "test.local/app:1".to_owned();
    let stays = [(&images[0], false), (&images[3], true), (&images[4], true), (&flashed, true)];
    for (image, stays) in stays {
        ensure!(left.contains(image.as_str()) == stays, "{image} in\n{left}");
    }
    let told = scene.control.history("events");
    let removed = |event: &Value| {
        event["reason"] == "ImagesRemoved"
            && event["message"].as_str().is_some_and(|text| text.contains(&images[0]))
    };
    ensure!(told.iter().any(|message| removed(&message.json())), "no event told of it");
    drop(filler);
    Ok(())
}

#[test]
fn a_board_whose_only_disk_is_full_serves_says_so_and_takes_up_again() -> Result<()> {
    let mut scene = Scene::set(["c", "state"], 160)?;
    let new = scene.push(2)?;
    scene.board.start()?;
    scene.desire("test.local/app:1")?;
    scene.control.await_running("hello")?;
    let filler = scene.disk.fill()?;
    scene.desire(&new)?;
    scene.control.await_json("status", LONG, |status| tells(&status["troubles"], "StorageFull"))?;
    scene.serves("1")?;
    let room = now();
    drop(filler);
    scene.await_committed("app:2", RECOVERY)?;
    println!("committed {:?} after there was room", room.elapsed());
    scene.serves("2")
}
