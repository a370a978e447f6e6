//! Power cuts at random moments of pulls, unpacking, commits, writes of the store and rollouts. Each time the board
//! starts by itself: nothing that was acknowledged is lost, and the app serves without anybody's help.
//!
//! The dice are thrown from a seed, `SKERRY_SEED` or a fixed one. `SKERRY_LONG` makes it a hundred cuts.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use system_tests::{
    Board, Card, Document, Image, LONG, Lan, Registry, SHORT, eventually, now, pause,
};

const APP: &str = "lamp";
/// An app that never runs: only the store has to do with it.
const NOTE: &str = "note";
/// Bytes that each new image brings.
const NOISE: u64 = 3 << 20;

/// Numbers that come again from the same seed (the mixer of `SplitMix64`).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// Letters that no packing makes much smaller.
fn noise(number: u64) -> String {
    let mut dice = Dice(number);
    (0..NOISE).map(|_| char::from(33 + u8::try_from(dice.below(90)).unwrap_or(0))).collect()
}

/// Which generation of a document the board has for sure, and which it may have.
#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    acknowledged: u64,
    sent: u64,
}

struct Scene {
    dice: Dice,
    board: Board,
    disk: Card,
    registry: Registry,
    image: String,
    images: u64,
    asked: BTreeMap<&'static str, Asked>,
    applying: Option<(&'static str, Child)>,
    tally: BTreeMap<&'static str, u64>,
}

impl Scene {
    fn set(seed: u64) -> Result<Self> {
        let lan = Lan::take()?;
        let registry = Registry::open(&lan)?;
        let mut board = Board::new(lan)?;
        let image = "test.local/app:1".to_owned();
        board.preload(&Image::testapp(&image)?)?;
        board.settings().registry(&registry);
        board.show_boot("boot-0")?;
        let disk = Card::insert(&board)?;
        board.start_containerd()?;
        board.start()?;
        let (asked, tally) = (BTreeMap::new(), BTreeMap::new());
        let dice = Dice(seed);
        let mut scene =
            Self { dice, board, disk, registry, image, images: 1, asked, applying: None, tally };
        for app in [APP, NOTE] {
            scene.send(app)?;
            scene.await_answer()?;
        }
        scene.await_serving()?;
        Ok(scene)
    }

    fn count(&mut self, what: &'static str, number: u64) {
        *self.tally.entry(what).or_default() += number;
    }

    /// Sends the next generation of an app's document, and does not wait for the answer.
    fn send(&mut self, app: &'static str) -> Result<()> {
        let asked = self.asked.entry(app).or_default();
        asked.sent += 1;
        let document = Document::new(&self.image)
            .env("VERSION", &asked.sent.to_string())
            .set("/template/terminationGracePeriodSeconds", 1)
            .skerry("generation", asked.sent)
            .skerry("probationSeconds", 1);
        let mut document =
            if app == NOTE { document.set("/template/scale/minReplicas", 0) } else { document };
        document.0["name"] = app.into();
        let path = self.board.dir().join("document.json");
        fs::write(&path, document.text())?;
        let mut command = self.board.cli_command();
        command.args(["apply", "-f"]).arg(path).stdout(Stdio::null()).stderr(Stdio::null());
        self.applying = Some((app, command.spawn()?));
        Ok(())
    }

    /// Takes the answer to what was sent, however it came out.
    fn take_answer(&mut self) -> Result<()> {
        let Some((app, mut child)) = self.applying.take() else { return Ok(()) };
        if child.wait()?.success() {
            let asked = self.asked.entry(app).or_default();
            asked.acknowledged = asked.sent;
            self.count("acknowledged", 1);
        }
        Ok(())
    }

    /// Waits for the answer, which has to be good.
    fn await_answer(&mut self) -> Result<()> {
        let (app, child) = self.applying.as_mut().context("nothing was sent")?;
        let app = *app;
        eventually("an answer", SHORT, || child.try_wait()?.context("none"))?;
        self.take_answer()?;
        let Asked { acknowledged, sent } = self.asked[app];
        ensure!(acknowledged == sent, "{app}: generation {sent} was refused");
        Ok(())
    }

    /// Begins something, and lets it go on for a while.
    fn begin(&mut self) -> Result<()> {
        let patience = match self.dice.below(4) {
            0 => {
                self.count("cut at a rollout", 1);
                self.send(APP)?;
                1200
            }
            1 => {
                self.count("cut at writes of the store", 1);
                for _ in 0..self.dice.below(4) {
                    self.send(NOTE)?;
                    self.await_answer()?;
                }
                self.send(NOTE)?;
                60
            }
            _ => {
                self.count("cut at a new image", 1);
                self.images += 1;
                let tag = format!("app:{}", self.images);
                let image =
                    Image::testapp("test.local/new:1")?.file("/noise", &noise(self.images), 0o644);
                self.image = image.push(&self.registry, &tag)?;
                self.send(APP)?;
                1800
            }
        };
        pause(Duration::from_millis(self.dice.below(patience)));
        Ok(())
    }

    fn cut(&mut self, number: u64) -> Result<()> {
        let Self { disk, board, dice, .. } = self;
        let cut = disk.cut(board, |bound| dice.below(bound))?;
        self.take_answer()?;
        self.count("blocks lost in the card's cache", cut.lost);
        self.count("cuts that lost blocks", u64::from(0 < cut.lost));
        self.board.show_boot(&format!("boot-{number}"))?;
        self.disk.mount()?;
        self.note_phase()
    }

    /// What was going on with images when the power went, as the disk tells.
    fn note_phase(&mut self) -> Result<()> {
        let files = |folder: &str| {
            let entries = fs::read_dir(self.board.dir().join(folder)).into_iter().flatten();
            entries.flatten().count()
        };
        let unfinished =
            fs::read_dir(self.board.dir().join("state/unpacking")).into_iter().flatten();
        let mut begun = 0;
        for mark in unfinished {
            let mark: Value = serde_json::from_slice(&fs::read(mark?.path())?).unwrap_or_default();
            begun += u64::from(mark["flushed"] == false);
        }
        let ingests = files("c/io.containerd.content.v1.content/ingest");
        self.count("unfinished images", begun);
        self.count("of those, with blobs on their way", u64::from(0 < begun && 0 < ingests));
        Ok(())
    }

    /// The board comes back by itself.
    fn come_back(&mut self) -> Result<()> {
        let begun = now();
        self.board.start_containerd()?;
        self.board.start()?;
        self.await_serving()?;
        let took = u64::try_from(begun.elapsed().as_millis())?;
        self.count("milliseconds until served", took);
        let log = self.board.agent_log();
        let told = |words: &str| u64::try_from(log.matches(words).count());
        self.tally.insert("images found cut", told("an image was cut")?);
        self.tally.insert("images in doubt and whole", told("may have been cut is whole")?);
        Ok(())
    }

    /// Waits until each app is as it was last acknowledged, or as was sent when the power went.
    fn await_serving(&mut self) -> Result<()> {
        for app in [APP, NOTE] {
            let Self { board, asked, .. } = &mut *self;
            let Asked { acknowledged, sent } = asked[app];
            let text = board.cli(["show", app, "-o", "json"])?;
            let generation = generation(&text)?;
            ensure!(
                generation == acknowledged || generation == sent,
                "{app}: generation {generation}, and {acknowledged} was acknowledged of {sent}"
            );
            asked.insert(app, Asked { acknowledged: generation, sent: generation });
        }
        let wanted = self.asked[APP].acknowledged.to_string();
        let client = self.board.lan_client();
        let served = eventually(&format!("version {wanted}"), LONG, || {
            let answer = client.get(APP, "/")?;
            ensure!(answer.json()["version"] == wanted.as_str(), "{}", answer.text());
            Ok(())
        });
        served.with_context(|| {
            let told = self.board.cli(["show", APP]).unwrap_or_default();
            format!("{told}\n{}", self.board.cli(["events"]).unwrap_or_default())
        })
    }
}

fn generation(show: &str) -> Result<u64> {
    let status: Value = serde_json::from_str(show)?;
    let told = &status["generation"];
    let number = told.as_u64().or_else(|| told.as_str().and_then(|text| text.parse().ok()));
    number.with_context(|| format!("no generation in {show}"))
}

#[test]
fn a_board_comes_back_by_itself_wherever_the_power_is_cut() -> Result<()> {
    let long = env::var_os("SKERRY_LONG").is_some();
    let seed = env::var("SKERRY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20);
    let mut scene = Scene::set(seed)?;
    let cuts = if long { 100 } else { 6 };
    for number in 1..=cuts {
        scene.begin()?;
        scene.cut(number)?;
        scene
            .come_back()
            .with_context(|| format!("seed {seed}, cut {number}, so far {:?}", scene.tally))?;
    }
    scene.count("cuts", cuts);
    println!("seed {seed}: {:#?}", scene.tally);
    Ok(())
}
