//! A whole machine from its first boot through cuts of its power: `cargo xtask vm`.
//!
//! `vm KIND ROOT PROGRAMS`: the kind of machine, the directory with its system, and the one with the agent and the test
//! app. It looks at the machine as its owner does: by MQTT and HTTP, and for what the kernel says by a shell.

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use system_tests::{
    Access, Boot, Broker, Control, Document, EMULATED, Image, Kind, Lan, Machine, eventually, now,
    tells,
};

/// The device's id is its host name where the configuration does not say more.
const DEVICE: &str = "board";
/// A clock without a battery starts about here.
const NO_CLOCK: u32 = 100;

const ON: Boot = Boot { network: true, clock: None };
const ALONE: Boot = Boot { network: false, clock: None };
const WITHOUT_CLOCK: Boot = Boot { network: true, clock: Some(NO_CLOCK) };

#[expect(clippy::print_stderr, reason = "a command line")]
fn main() -> ExitCode {
    match vm() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn vm() -> Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    let [kind, root, programs] = &words[..] else { anyhow::bail!("usage: vm KIND ROOT PROGRAMS") };
    let kind = Kind::parse(kind).with_context(|| format!("there is no machine {kind:?}"))?;
    let scene = Scene { kind, root: root.into(), programs: programs.into() };
    let begin = now();
    let lan = Lan::take()?;
    lan.sweep_when_interrupted()?;
    alone(&scene, &lan)?;
    connected(&scene, &lan)?;
    say(begin.elapsed(), "in all", "it works");
    Ok(())
}

/// What every machine of a run is made of.
struct Scene {
    kind: Kind,
    root: PathBuf,
    programs: PathBuf,
}

impl Scene {
    /// A new machine with three versions of an app.
    fn machine(&self, lan: &Lan, name: &str) -> Result<Machine> {
        let mut machine = Machine::new(lan, name, self.kind, &self.root, &self.programs)?;
        for version in ["1", "2", "3"] {
            machine.preload(&self.image(version))?;
        }
        Ok(machine)
    }

    fn image(&self, version: &str) -> Image {
        let name = format!("test.local/hello:{version}");
        self.kind.testapp(&name, &self.programs).env("VERSION", version)
    }
}

fn hello(version: u32) -> Document {
    Document::new(&format!("test.local/hello:{version}"))
}

/// The first boot of a board that has no network, no broker and no configuration: an app and its image came with it.
fn alone(scene: &Scene, lan: &Lan) -> Result<()> {
    let mut machine = scene.machine(lan, "alone")?;
    let mut document = hello(1);
    document.0["name"] = "hello".into();
    machine.disk().text(&document.text(), "/etc/skerry/apps.d/hello.yaml")?;
    machine.start(ALONE)?;
    let first = || -> Result<(f64, f64)> {
        let ask = "busybox wget -q -T 9 -O /tmp/answer --header 'Host: hello' http://127.0.0.1/";
        machine.run(&format!("until {ask} 2>/dev/null; do busybox usleep 20000; done"))?;
        let uptime: f64 = machine.run("cut -d ' ' -f 1 /proc/uptime")?.parse()?;
        let show = "systemctl show --value -p ExecMainStartTimestampMonotonic skerry";
        let started: f64 = machine.run(show)?.parse()?;
        Ok((started / 1e6, uptime - started / 1e6))
    };
    step("first boot with no network: an app answers", first, |(started, took)| {
        format!("{took:.2} s after the unit's start, which was {started:.2} s after the kernel's")
    })?;
    machine.cut()
}

fn connected(scene: &Scene, lan: &Lan) -> Result<()> {
    let mut broker = Broker::start(lan, Access::Anonymous)?;
    let control = Control::connect(&broker, DEVICE)?;
    let mut machine = scene.machine(lan, "board")?;
    let config = format!("[mqtt]\nurl = \"{}\"\n", broker.url());
    machine.disk().text(&config, "/etc/skerry/agent.toml")?;
    machine.start(ON)?;
    let announced = || {
        online(&machine, &control, 0)?;
        control.latest("status").context("no status").map(|message| message.json())
    };
    step("first boot: it announces itself", announced, |status| {
        format!("{} {}", status["architecture"], status["agentVersion"]).replace('"', "")
    })?;
    let published = || {
        control.desire("hello", hello(1))?;
        answers(&machine, "hello", "1")
    };
    step("a document is published: 200", published, |()| "through the ingress".to_owned())?;
    limits(&mut machine, &control)?;
    // The second time the new version has the traffic already.
    let early = ["Fetching", "Staged", "Starting", "Probation"];
    for (version, phases) in [(2, &early[..]), (3, &early[3..])] {
        cut(&mut machine, &mut broker, &control, version, phases)?;
    }
    machine.cut()
}

/// The kernel's second version of control groups holds what the document says, and tells why a container died.
fn limits(machine: &mut Machine, control: &Control) -> Result<()> {
    let look = || {
        let kind = machine.run("stat -f -c %T /sys/fs/cgroup")?;
        ensure!(kind == "cgroup2fs", "the groups are of the kind {kind}");
        let group = machine.run("cut -d : -f 3- /proc/$(busybox pidof testapp)/cgroup")?;
        let mut value = |file: &str| machine.run(&format!("cat /sys/fs/cgroup{group}/{file}"));
        let (memory, cpu, pids) = (value("memory.max")?, value("cpu.max")?, value("pids.max")?);
        ensure!(memory == (128 << 20).to_string(), "memory.max is {memory}");
        ensure!(cpu == "25000 100000", "cpu.max is {cpu}");
        ensure!(pids.parse::<u32>().is_ok(), "pids.max is {pids}");
        Ok(format!("memory {memory}, cpu {cpu}, pids {pids}"))
    };
    step("limits in cgroup v2", look, String::clone)?;
    let outgrow = || {
        control.desire("glutton", hello(1).main("/resources/memory", "64Mi"))?;
        answers(machine, "glutton", "1")?;
        let mark = control.mark();
        // It dies of it, so no answer is an answer too.
        let _ = machine.client().get("glutton", "/eat?mb=200");
        control.await_since(mark, "OOMKilled in a status", EMULATED, |message| {
            message.topic == "apps/glutton/status" && tells(&message.json(), "OOMKilled")
        })?;
        answers(machine, "glutton", "1")?;
        control.remove("glutton")
    };
    step("an app outgrows its memory", outgrow, |()| "OOMKilled, and started again".to_owned())?;
    Ok(())
}

/// The power fails when the new version is in one of `phases`; the machine comes back with no broker and no clock.
fn cut(
    machine: &mut Machine,
    broker: &mut Broker,
    control: &Control,
    version: u32,
    phases: &[&str],
) -> Result<()> {
    let fail = || {
        let document = hello(version).skerry("probationSeconds", 20);
        control.desire("hello", document)?;
        let status = control.await_json("apps/hello/status", EMULATED, |status| {
            phases.iter().any(|phase| status["revisions"][0]["phase"] == *phase)
        })?;
        machine.cut()?;
        broker.stop()?;
        machine.start(WITHOUT_CLOCK)?;
        let year = machine.run("date +%Y")?;
        ensure!(year == "1970", "its clock shows {year}");
        let served = eventually("an answer of hello", EMULATED, || {
            let answer = machine.client().get("hello", "/")?;
            ensure!(answer.status == 200, "it is {} {}", answer.status, answer.text());
            Ok(answer.json()["version"].clone())
        })
        .with_context(|| machine.told())?;
        Ok((status["revisions"][0]["phase"].clone(), served))
    };
    let what = format!("power cut while hello {version} comes; no broker, 1970");
    step(&what, fail, |(phase, version)| {
        format!("it was in {phase}; hello {version} serves").replace('"', "")
    })?;
    let back = || {
        let before = epoch(control);
        broker.resume()?;
        online(machine, control, before)?;
        control.await_json("apps/hello/status", EMULATED, |status| {
            status["revisions"][0]["phase"] == "Committed"
                && status["latestRevisionName"] == status["latestReadyRevisionName"]
                && status["runningStatus"] == "Running"
        })?;
        answers(machine, "hello", &version.to_string())
    };
    step("the broker is back", back, |()| format!("hello {version} is Committed and serves"))
        .map(drop)
}

/// Waits until the device says that it is online, in a connection after `epoch`.
fn online(machine: &Machine, control: &Control, before: u64) -> Result<()> {
    control
        .await_json("status", EMULATED, |status| {
            status["online"] == true && before < number(&status["epoch"])
        })
        .map(drop)
        .with_context(|| machine.told())
}

fn epoch(control: &Control) -> u64 {
    control.latest("status").map_or(0, |message| number(&message.json()["epoch"]))
}

/// Numbers of 64 bits are texts in protobuf's JSON.
fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn answers(machine: &Machine, app: &str, version: &str) -> Result<()> {
    eventually(app, EMULATED, || {
        let answer = machine.client().get(app, "/")?;
        ensure!(answer.status == 200, "the answer is {} {}", answer.status, answer.text());
        ensure!(answer.json()["version"] == version, "the answer is {}", answer.text());
        Ok(())
    })
    .with_context(|| machine.told())
}

/// Does one step and prints it in one line with its time.
fn step<T>(
    what: &str,
    work: impl FnOnce() -> Result<T>,
    tell: impl FnOnce(&T) -> String,
) -> Result<T> {
    let begin = now();
    let done = work().with_context(|| what.to_owned())?;
    say(begin.elapsed(), what, &tell(&done));
    Ok(done)
}

#[expect(clippy::print_stdout, reason = "a command line")]
fn say(time: Duration, what: &str, result: &str) {
    println!("{:6.1} s  {what:<46} {result}", time.as_secs_f64());
}
