//! The Debian package on a Debian with a systemd: installed, upgraded, gone wrong, removed. Takes minutes, so only with
//! `SKERRY_LONG`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use system_tests::{Debian, FreezableDisk, LONG, SHORT, eventually, output, pause, run};
use tempfile::TempDir;

const UNIT: &str = "skerry.service";

/// A program that says it is a skerry, and as an agent does what its first line says.
const IMPOSTOR: &str = r#"
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "--version")) { puts("skerry 9.9.9"); return 0; }
    if (argc > 1 && !strcmp(argv[1], "agent")) { WHAT; }
    return 1;
}
"#;

/// What is installed, and where it lies.
struct Goods {
    dir: TempDir,
    agent: PathBuf,
}

impl Goods {
    fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let agent = dir.path().join("skerry");
        let built = built()?;
        run("strip", ["-o", &agent.display().to_string(), &built.display().to_string()])?;
        Ok(Self { dir, agent })
    }

    /// A package of this version with this program in it.
    fn package(version: &str, program: &Path) -> Result<PathBuf> {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(["run", "--quiet", "--package", "xtask", "--", "deb", "--version", version]);
        let said = output(command.arg("--binary").arg(program))?;
        let complaint = String::from_utf8_lossy(&said.stderr).into_owned();
        ensure!(said.status.success(), "{complaint}");
        let printed = String::from_utf8(said.stdout)?;
        Ok(printed.lines().last().context("no package")?.into())
    }

    /// A program that is no agent.
    fn impostor(&self, name: &str, does: &str) -> Result<PathBuf> {
        let (source, program) = (self.dir.path().join("i.c"), self.dir.path().join(name));
        fs::write(&source, IMPOSTOR.replace("WHAT", does))?;
        run("gcc", ["-o", &program.display().to_string(), &source.display().to_string()])?;
        Ok(program)
    }

    /// The same agent with another digest.
    fn other(&self) -> Result<PathBuf> {
        let path = self.dir.path().join("other");
        let mut bytes = fs::read(&self.agent)?;
        bytes.extend(b"\nanother build");
        fs::write(&path, bytes)?;
        run("chmod", ["0755", &path.display().to_string()])?;
        Ok(path)
    }
}

/// The agent that cargo has built.
fn built() -> Result<PathBuf> {
    if let Some(path) = env::var_os("SKERRY_BIN") {
        return Ok(path.into());
    }
    let program = env::current_exe()?;
    let found = program.ancestors().map(|dir| dir.join("skerry")).find(|path| path.is_file());
    found.context("the agent is not built: cargo build --package skerry")
}

/// Puts a file into the machine; its path there.
fn put(machine: &Debian, file: &Path) -> Result<String> {
    let name = file.file_name().and_then(|name| name.to_str()).context("no name")?;
    fs::copy(file, machine.at("/root").join(name))?;
    Ok(format!("/root/{name}"))
}

fn install(machine: &Debian, package: &Path) -> Result<()> {
    let path = put(machine, package)?;
    machine.run("dpkg", ["--force-confold", "--install", &path])?;
    Ok(())
}

fn await_active(machine: &Debian) -> Result<u32> {
    eventually("the unit to be active", LONG, || {
        let state = machine.property(UNIT, "ActiveState")?;
        ensure!(state == "active", "it is {state}");
        Ok(machine.property(UNIT, "MainPID")?.parse()?)
    })
}

fn same(machine: &Debian, program: &Path) -> Result<bool> {
    Ok(fs::read(machine.at("/usr/bin/skerry"))? == fs::read(program)?)
}

/// Waits until the agent that runs is `program`, and no trial is on.
fn await_agent(machine: &Debian, program: &Path) -> Result<()> {
    eventually("the agent to be back", LONG, || {
        ensure!(same(machine, program)?, "another is in its place");
        ensure!(!machine.at("/var/lib/skerry/upgrade/previous").exists(), "a trial is on");
        await_active(machine)?;
        Ok(())
    })
}

/// Runs `work` while somebody connects to port 80 again and again; how often that went well. None may fail.
fn unrefused(machine: &Debian, work: impl FnOnce() -> Result<()>) -> Result<u32> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let client = machine.client(80);
            let mut count = 0;
            while !done.load(Ordering::Relaxed) {
                let answer =
                    client.get("nobody", "/").with_context(|| format!("request {count}"))?;
                ensure!(answer.status == 404, "{}", answer.status);
                count += 1;
            }
            Ok(count)
        });
        let worked = work();
        pause(SHORT / 5);
        done.store(true, Ordering::Relaxed);
        let asked = asked.join().unwrap_or_else(|_| bail!("the asking thread panicked"));
        worked.and(asked)
    })
}

#[test]
fn the_package_comes_is_replaced_and_goes() -> Result<()> {
    if env::var_os("SKERRY_LONG").is_none() {
        return Ok(());
    }
    let goods = Goods::new()?;
    let first = Goods::package("0.1.0", &goods.agent)?;
    let other = goods.other()?;
    let second = Goods::package("0.1.1", &other)?;
    let machine = Debian::boot()?;

    install(&machine, &first)?;
    let before = await_active(&machine)?;
    ensure!(machine.run("getent", ["group", "skerry"])?.starts_with("skerry:"), "no group");
    ensure!(machine.at("/etc/skerry/apps.d").is_dir(), "no folder for documents");
    machine.run("skerry", ["status"])?;
    let clean = machine.run("dpkg", ["--verify", "skerry"])?;
    ensure!(clean.is_empty(), "{clean}");

    // An upgrade: the owner's configuration stays, the agent is another, and nobody is refused.
    let config = machine.at("/etc/skerry/agent.toml");
    fs::write(&config, "[device]\nid = \"mine\"\n")?;
    let served = unrefused(&machine, || {
        install(&machine, &second)?;
        await_agent(&machine, &other)
    })?;
    ensure!(50 < served, "only {served} requests were served meanwhile");
    ensure!(await_active(&machine)? != before, "the agent was not started anew");
    ensure!(fs::read_to_string(&config)?.contains("mine"), "the configuration is lost");

    // Removal leaves what the board has; so does a purge, unless it is asked for more.
    let state = machine.at("/var/lib/skerry/key");
    machine.run("dpkg", ["--remove", "skerry"])?;
    ensure!(machine.property(UNIT, "ActiveState")? == "inactive", "the agent runs on");
    ensure!(config.exists() && state.exists(), "a removal took what it should not");
    machine.run("dpkg", ["--purge", "skerry"])?;
    ensure!(!config.exists() && state.exists(), "a purge took what it should not");
    install(&machine, &first)?;
    await_active(&machine)?;
    ensure!(machine.property(UNIT, "UnitFileState")? == "enabled", "it is not enabled");
    machine.run("env", ["SKERRY_PURGE=state", "dpkg", "--purge", "skerry"])?;
    for path in ["/var/lib/skerry", "/etc/skerry", "/run/skerry", "/usr/bin/skerry"] {
        ensure!(!machine.at(path).exists(), "{path} is still there");
    }
    Ok(())
}

#[test]
fn a_new_agent_that_completes_no_round_gives_way_to_the_old_one() -> Result<()> {
    if env::var_os("SKERRY_LONG").is_none() {
        return Ok(());
    }
    let goods = Goods::new()?;
    let machine = Debian::boot()?;
    install(&machine, &Goods::package("0.1.0", &goods.agent)?)?;
    await_active(&machine)?;
    let upgrade = |file: &Path, patience: &str| {
        let path = put(&machine, file)?;
        machine.try_run("skerry", ["upgrade", &path, "--patience", patience])
    };

    // What is no skerry is refused while the old one runs.
    let before = await_active(&machine)?;
    let said = upgrade(Path::new("/bin/true"), "60")?;
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    ensure!(!said.status.success() && text.contains("is no skerry"), "{text}");
    ensure!(await_active(&machine)? == before, "the old agent was started anew");

    // One that ends at once, one that hangs, and one in a package.
    let crashing = goods.impostor("crashing", "return 1")?;
    let package = Goods::package("0.2.0", &crashing)?;
    let hanging = goods.impostor("hanging", "pause()")?;
    for (bad, patience) in [(&crashing, "60"), (&hanging, "5"), (&package, "60")] {
        let said = upgrade(bad, patience)?;
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        ensure!(!said.status.success(), "{} was taken", bad.display());
        ensure!(text.contains("the old one is back"), "{text}");
        await_agent(&machine, &goods.agent)?;
    }

    // Nobody watches: whoever upgrades is killed when the new one is in its place.
    let path = put(&machine, &crashing)?;
    let mut upgrading = machine.command("skerry").args(["upgrade", &path]).spawn()?;
    eventually("the new agent in its place", SHORT, || {
        ensure!(same(&machine, &crashing)?, "not yet");
        Ok(())
    })?;
    machine.run("pkill", ["-KILL", "-f", "skerry upgrade"])?;
    upgrading.wait()?;
    // It may have died before it asked for the restart.
    machine.run("systemctl", ["--no-block", "restart", UNIT])?;
    await_agent(&machine, &goods.agent)?;

    // One that works stays, and leaves no trace of a trial.
    let other = goods.other()?;
    let said = upgrade(&other, "60")?;
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    ensure!(said.status.success(), "{text}");
    await_agent(&machine, &other)?;
    let left = fs::read_dir(machine.at("/var/lib/skerry/upgrade"))?.count();
    ensure!(left == 0, "{left} files are left of the trial");
    Ok(())
}

#[test]
fn a_loop_that_hangs_is_started_again_by_the_watchdog() -> Result<()> {
    if env::var_os("SKERRY_LONG").is_none() {
        return Ok(());
    }
    let goods = Goods::new()?;
    let mut disk = None;
    let machine = Debian::boot_after(|root| {
        disk = Some(FreezableDisk::new(&root.join("disk.img"), &root.join("var/lib/skerry"))?);
        Ok(())
    })?;
    let disk = disk.context("there is no disk")?;
    install(&machine, &Goods::package("0.1.0", &goods.agent)?)?;
    await_active(&machine)?;
    // A tenth of what the unit has, to save a minute.
    let drop_in = machine.at("/etc/systemd/system/skerry.service.d");
    fs::create_dir_all(&drop_in)?;
    fs::write(drop_in.join("watchdog.conf"), "[Service]\nWatchdogSec=6\n")?;
    machine.run("systemctl", ["daemon-reload"])?;
    machine.run("systemctl", ["restart", UNIT])?;
    // An idle one is left alone.
    pause(2 * SHORT);
    ensure!(machine.property(UNIT, "NRestarts")? == "0", "an idle agent was ended");
    let hanging = disk.hang()?;
    let document = "name: late\nproperties: {configuration: {}, template: {containers: [{name: a, image: b}]}}\n";
    fs::write(machine.at("/root/late.yaml"), document)?;
    let mut apply = machine.command("skerry").args(["apply", "-f", "/root/late.yaml"]).spawn()?;
    eventually("the watchdog", 2 * SHORT, || {
        ensure!(machine.journal(UNIT).contains("Watchdog timeout"), "it sleeps");
        Ok(())
    })?;
    // A process that waits for a disk dies when that answers.
    drop(hanging);
    apply.wait()?;
    eventually("the next agent", LONG, || {
        ensure!(machine.property(UNIT, "NRestarts")? == "1", "none was started");
        ensure!(machine.journal(UNIT).contains("a socket is taken over"), "it has no sockets");
        Ok(())
    })?;
    await_active(&machine)?;
    Ok(())
}
