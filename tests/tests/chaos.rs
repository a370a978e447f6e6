//! Fifty random operations on one board, with the agent killed between them and in the midst of them. Afterwards what
//! runs is what was asked for, and of everything else nothing is left.
//!
//! The dice are thrown from a seed, `SKERRY_SEED` or a fixed one, so that a run can be thrown again; what falls between
//! two kills is up to the machine.

use std::collections::BTreeMap;
use std::env;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use system_tests::{
    Board, Dice, Document, Image, LONG, SHORT, Stage, await_nothing_left, eventually, leftovers,
    pause,
};

const OPERATIONS: usize = 50;
const APPS: [&str; 4] = ["ash", "birch", "cedar", "dogwood"];

/// What was last asked of an app.
#[derive(Debug, Clone, Copy)]
struct Asked {
    /// Which document: its container tells the number.
    number: usize,
    shape: Shape,
    replicas: u32,
    pinned: Option<u32>,
    stopped: bool,
}

/// What an app is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Plain,
    /// An init container, a sidecar, a volume and a secret on one.
    Elaborate,
    /// The old one stops first.
    Recreate,
    /// It ends soon after it started, again and again.
    Crashing,
}

impl Asked {
    fn document(self) -> Document {
        let document = Document::new("test.local/app:1")
            .env("N", &self.number.to_string())
            .replicas(self.replicas)
            .set("/template/terminationGracePeriodSeconds", 1)
            .skerry("probationSeconds", 1)
            .skerry("readyDeadlineSeconds", 20);
        match self.shape {
            Shape::Plain => document,
            Shape::Elaborate => elaborate(document),
            Shape::Recreate => document.skerry("updateStrategy", "recreate"),
            Shape::Crashing => document.env("EXIT_AFTER_MS", "20").env("EXIT_CODE", "3"),
        }
    }

    fn running_replicas(self) -> usize {
        let count = if self.stopped { 0 } else { self.pinned.unwrap_or(self.replicas) };
        usize::try_from(count).unwrap_or_default()
    }

    fn running_containers(self) -> usize {
        let each = if self.shape == Shape::Elaborate { 2 } else { 1 };
        self.running_replicas() * each
    }
}

fn elaborate(document: Document) -> Document {
    let tool = |name: &str, script: &str| {
        json!({"name": name, "image": "test.local/tool:1", "args": ["-c", script],
               "resources": {"cpu": 0.25, "memory": "64Mi"}})
    };
    document
        .set("/configuration/secrets", json!([{"name": "key", "value": "opens"}]))
        .set(
            "/template/volumes",
            json!([{"name": "shared", "storageType": "EmptyDir"},
                   {"name": "keys", "storageType": "Secret"}]),
        )
        .main(
            "/volumeMounts",
            json!([{"volumeName": "shared", "mountPath": "/shared"},
                   {"volumeName": "keys", "mountPath": "/keys"}]),
        )
        .set("/template/containers/1", tool("side", "sleep 1000"))
        .set("/template/initContainers", json!([tool("first", "true")]))
}

/// A board under fire, and what was asked of it.
struct Chaos {
    stage: Stage,
    dice: Dice,
    asked: BTreeMap<&'static str, Asked>,
    log: Vec<String>,
}

impl Chaos {
    fn start(seed: u64) -> Result<Self> {
        let prepare = |board: &mut Board| {
            board.preload(&Image::testapp("test.local/app:1")?)?;
            board.preload(&Image::busybox("test.local/tool:1"))
        };
        let stage = Stage::start(prepare)?;
        Ok(Self { stage, dice: Dice::new(seed), asked: BTreeMap::new(), log: Vec::new() })
    }

    fn operate(&mut self, number: usize) -> Result<()> {
        let app = *self.dice.pick(&APPS);
        match (self.dice.below(10), self.asked.get(app).copied()) {
            (0, Some(_)) => {
                self.log.push(format!("remove {app}"));
                // A target is kept at the broker, and would come again with the next app of this name.
                self.stage.control.publish(&format!("apps/{app}/scale"), "")?;
                self.stage.control.remove(app)?;
                self.asked.remove(app);
            }
            (1 | 2, Some(asked)) => self.scale(app, asked)?,
            (3, Some(asked)) => self.turn(app, asked)?,
            (4, Some(_)) => self.restart(app)?,
            (5, _) => self.kill_a_container()?,
            (_, _) => self.send(app, number)?,
        }
        if self.dice.one_in(2) {
            let wait = self.dice.millis(500);
            self.log.push(format!("kill the agent after {wait:?}"));
            pause(wait);
            self.stage.board.kill_agent()?;
            pause(self.dice.millis(300));
            self.stage.board.start()?;
        }
        pause(self.dice.millis(700));
        Ok(())
    }

    fn send(&mut self, app: &'static str, number: usize) -> Result<()> {
        let shapes = [Shape::Plain, Shape::Elaborate, Shape::Recreate, Shape::Crashing];
        let before = self.asked.get(app).copied();
        let asked = Asked {
            number,
            shape: *self.dice.pick(&shapes),
            replicas: 1 + u32::try_from(self.dice.below(2))?,
            pinned: before.and_then(|before| before.pinned),
            stopped: before.is_some_and(|before| before.stopped),
        };
        self.log.push(format!("send {app} {asked:?}"));
        self.stage.control.desire(app, asked.document())?;
        self.asked.insert(app, asked);
        Ok(())
    }

    fn scale(&mut self, app: &'static str, asked: Asked) -> Result<()> {
        let pinned =
            if self.dice.one_in(2) { Some(u32::try_from(self.dice.below(4))?) } else { None };
        self.log.push(format!("scale {app} {pinned:?}"));
        let target = pinned.map(|count| json!({"replicas": count}).to_string());
        self.stage.control.publish(&format!("apps/{app}/scale"), target.unwrap_or_default())?;
        self.asked.insert(app, Asked { pinned, ..asked });
        Ok(())
    }

    /// Stops the app, or starts it.
    fn turn(&mut self, app: &'static str, asked: Asked) -> Result<()> {
        let verb = if asked.stopped { "start" } else { "stop" };
        self.log.push(format!("{verb} {app}"));
        // The document may still be on its way.
        eventually(&format!("{app} to {verb}"), SHORT, || self.stage.board.cli([verb, app]))?;
        self.asked.insert(app, Asked { stopped: !asked.stopped, ..asked });
        Ok(())
    }

    fn restart(&mut self, app: &'static str) -> Result<()> {
        let status = self.stage.board.try_cli(["show", app, "-o", "json"])?;
        let status: Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
        if let Some(revision) = status["latestRevisionName"].as_str() {
            self.log.push(format!("restart {revision}"));
            // One that failed meanwhile is not restarted, and that is told.
            self.stage.board.try_cli(["revision", "restart", revision])?;
        }
        Ok(())
    }

    fn kill_a_container(&mut self) -> Result<()> {
        let pids: Vec<u32> = self.stage.board.container_pids()?.into_values().collect();
        if !pids.is_empty() {
            let pid = *self.dice.pick(&pids);
            self.log.push(format!("kill process {pid}"));
            let _ = kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL);
        }
        Ok(())
    }

    /// What ends again and again is no state to compare with: each app gets a document that can run.
    fn mend(&mut self) -> Result<()> {
        for (n, app) in APPS.into_iter().enumerate() {
            if let Some(asked) = self.asked.get(app).copied()
                && asked.shape == Shape::Crashing
            {
                let asked = Asked { shape: Shape::Plain, number: OPERATIONS + n, ..asked };
                self.stage.control.desire(app, asked.document())?;
                self.asked.insert(app, asked);
            }
        }
        Ok(())
    }

    fn await_what_was_asked(&self) -> Result<()> {
        let Self { stage, asked, .. } = self;
        for (app, asked) in asked {
            eventually(&format!("{app} to be {asked:?}"), 2 * LONG, || {
                let pids = stage.board.pids_of(app)?;
                ensure!(pids.len() == asked.running_containers(), "{pids:?}");
                let status = stage.control.latest(&format!("apps/{app}/status"));
                let status = status.context("no status")?.json();
                let replicas = &status["revisions"][0]["replicas"];
                ensure!(*replicas == asked.running_replicas(), "{status:#}");
                Ok(())
            })?;
            if 0 < asked.running_replicas() {
                let number = asked.number.to_string();
                let answers = |answer: &system_tests::Answer| answer.json()["N"] == *number;
                stage.board.lan_client().await_answer(app, "/env", answers)?;
            }
        }
        let replicas: usize = asked.values().map(|asked| asked.running_replicas()).sum();
        let running: usize = asked.values().map(|asked| asked.running_containers()).sum();
        eventually("nothing beside what was asked for", 2 * LONG, || {
            let left = leftovers(&stage.board)?;
            let count = |what: &str| left.iter().filter(|line| line.starts_with(what)).count();
            let seen =
                ["container ", "task ", "snapshot ", "netns ", "cable ", "lease ", "ingest "]
                    .map(count);
            let expected = [running, running, running, replicas, replicas, 0, 0];
            ensure!(seen == expected, "{seen:?} in place of {expected:?}: {left:#?}");
            Ok(())
        })
    }
}

#[test]
fn after_fifty_operations_under_kills_there_is_what_was_asked_for_and_nothing_else() -> Result<()> {
    let seed = env::var("SKERRY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut chaos = Chaos::start(seed)?;
    let outcome = (|| {
        for number in 0..OPERATIONS {
            chaos.operate(number)?;
        }
        chaos.mend()?;
        chaos.await_what_was_asked()?;
        for app in std::mem::take(&mut chaos.asked).into_keys() {
            chaos.stage.control.remove(app)?;
        }
        await_nothing_left(&chaos.stage.board)
    })();
    outcome.with_context(|| format!("seed {seed}:\n{}", chaos.log.join("\n")))
}
