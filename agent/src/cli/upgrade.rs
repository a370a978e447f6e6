//! `skerry upgrade`: puts a new agent in the old one's place, and the old one back where the new one does not work.
//!
//! What becomes of the new agent is not decided here: the unit's guard and the agent's first round decide, whether
//! anybody watches or not. This one watches, and loses patience sooner than the guard does with an agent that hangs.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use nix::unistd::geteuid;
use tokio::process::Command;
use tokio::time::{self, Instant};

use super::error::CliError;
use super::output::Console;
use crate::report::Chain;
use crate::trial::{Guarded, Trial, TrialError};

/// The service.
const UNIT: &str = "skerry.service";

/// Between two looks at what became of the new agent.
const PACE: Duration = Duration::from_millis(250);

/// A program that is asked for its version has this long to say it.
const VERSION_WAIT: Duration = Duration::from_secs(10);

/// What a file is by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Program,
    Package,
}

/// Puts the agent in `file` in the place of the one that is there.
pub(super) async fn upgrade(
    console: &mut Console,
    file: PathBuf,
    patience: Duration,
) -> Result<(), CliError> {
    let kind = kind(&file)?;
    if !geteuid().is_root() {
        return Err(refused("only root may", Some("use sudo")));
    }
    if !Path::new("/run/systemd/system").is_dir() {
        let hint = "replace the binary and start the agent anew by whatever runs it";
        return Err(refused("systemd does not run here", Some(hint)));
    }
    let trial = Trial::of_the_board();
    match kind {
        Kind::Program => program(&trial, &file).await?,
        Kind::Package => package(&trial, &file).await?,
    }
    console.say("the new agent is in its place; waiting for its first round\n");
    let ended = verdict(&trial, patience).await;
    // The last word on it is said once, here or there.
    let Err(why) = ended else {
        return console.print("the new agent has completed a round, and stays\n");
    };
    let hint = match kind {
        Kind::Program => "journalctl --unit skerry has what the new one said",
        Kind::Package => {
            "journalctl --unit skerry has what the new one said; dpkg lists its version until the old package is installed"
        }
    };
    Err(refused(format!("{why}; the old one is back"), Some(hint)))
}

/// What the unit asks for, of the agent before, ahead of each start of a new one.
pub(super) fn guard(console: &mut Console) -> Result<(), CliError> {
    let trial = Trial::of_the_board();
    match trial.guard().map_err(|error| broken(&error))? {
        Guarded::Nothing => (),
        Guarded::Tried(starts) => console.say(&format!("a new agent is tried, start {starts}\n")),
        Guarded::Returned => console.say("the new agent completed no round; the old one is back\n"),
    }
    Ok(())
}

fn kind(file: &Path) -> Result<Kind, CliError> {
    let unread = |source| CliError::Read { path: file.to_owned(), source };
    let mut head = Vec::new();
    File::open(file).and_then(|file| file.take(8).read_to_end(&mut head)).map_err(unread)?;
    match head.as_slice() {
        [0x7f, b'E', b'L', b'F', ..] => Ok(Kind::Program),
        b"!<arch>\n" => Ok(Kind::Package),
        _ => {
            let why = format!("{} is neither a program nor a Debian package", file.display());
            Err(refused(why, None))
        }
    }
}

/// Replaces the program alone.
async fn program(trial: &Trial, file: &Path) -> Result<(), CliError> {
    let next = trial.next();
    trial.fetch(file).map_err(|error| broken(&error))?;
    // One for another machine, or with a library that is not here, is found out while the old one runs.
    let asked = time::timeout(VERSION_WAIT, run(&next, ["--version"])).await;
    let said = match asked {
        Ok(said) => said?,
        Err(_) => return Err(refused(format!("{} hangs", file.display()), None)),
    };
    let version = String::from_utf8_lossy(&said.stdout);
    let version = version.lines().next().unwrap_or_default();
    if !said.status.success() || !version.starts_with("skerry ") {
        let why = format!("{} is no skerry: it says {version:?}", file.display());
        return Err(refused(why, None));
    }
    let installed = trial.begin().and_then(|()| trial.install(&next));
    drop(fs::remove_file(&next));
    installed.map_err(|error| broken(&error))?;
    restart().await
}

/// Replaces the package, whose scripts start the agent anew.
async fn package(trial: &Trial, file: &Path) -> Result<(), CliError> {
    let field = [OsStr::new("--field"), file.as_os_str(), OsStr::new("Package")];
    let name = run(Path::new("dpkg-deb"), field).await?;
    if String::from_utf8_lossy(&name.stdout).trim() != "skerry" {
        return Err(refused(format!("{} is not the package skerry", file.display()), None));
    }
    trial.begin().map_err(|error| broken(&error))?;
    // Nobody is asked: a configuration that the owner changed stays.
    let words = ["--force-confdef", "--force-confold", "--install"].map(OsStr::new);
    let words = words.into_iter().chain([file.as_os_str()]);
    let said = run(Path::new("dpkg"), words).await?;
    if said.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&said.stderr).trim().to_owned();
    if trial.is_on() {
        trial.go_back("its package could not be installed").map_err(|error| broken(&error))?;
        restart().await?;
    }
    let why = format!("dpkg cannot install {}: {text}", file.display());
    Err(refused(why, Some("dpkg --audit says what it left undone")))
}

/// Waits until the new agent has completed a round, or the old one is back; brings it back where that takes too long.
async fn verdict(trial: &Trial, patience: Duration) -> Result<(), String> {
    let until = Instant::now() + patience;
    while trial.is_on() {
        if until <= Instant::now() {
            let why = format!("it completed no round in {} seconds", patience.as_secs());
            trial.go_back(&why).map_err(|error| Chain(&error).to_string())?;
            restart().await.map_err(|error| Chain(&error).to_string())?;
            return Err(why);
        }
        time::sleep(PACE).await;
    }
    trial.came_back().map_or(Ok(()), Err)
}

/// Has the unit started anew. It comes back at once: a start that hangs is not to be waited for.
async fn restart() -> Result<(), CliError> {
    let said = run(Path::new("systemctl"), ["--no-block", "restart", UNIT]).await?;
    if said.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&said.stderr).trim().to_owned();
    Err(refused(format!("systemctl cannot restart {UNIT}: {text}"), None))
}

async fn run<S: AsRef<OsStr>>(
    program: &Path,
    words: impl IntoIterator<Item = S>,
) -> Result<Output, CliError> {
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).kill_on_drop(true);
    let started = command.output().await;
    started.map_err(|error| refused(format!("cannot run {}: {error}", program.display()), None))
}

fn refused(why: impl Into<String>, hint: Option<&str>) -> CliError {
    CliError::NotUpgraded { why: why.into(), hint: hint.map(str::to_owned) }
}

fn broken(error: &TrialError) -> CliError {
    refused(Chain(error).to_string(), Some("is the disk full, or the system read-only?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_neither_program_nor_package_is_refused_before_anything_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("new");
        for (head, expected) in [
            (&b"\x7fELF\x02\x01\x01\0more"[..], Some(Kind::Program)),
            (b"!<arch>\ndebian-binary", Some(Kind::Package)),
            (b"#!/bin/sh\n", None),
            (b"", None),
        ] {
            fs::write(&file, head).unwrap();
            assert_eq!(kind(&file).ok(), expected, "{head:?}");
        }
        assert!(matches!(kind(&dir.path().join("none")), Err(CliError::Read { .. })));
    }
}
