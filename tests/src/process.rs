//! A program that runs beside the test, with its output in a file, and ends with its owner.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::{SHORT, eventually};

/// A running program.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; its output is appended to `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// A command that runs `program` in the network namespace at `netns`, and else where we are.
    ///
    /// `ip netns exec` would give it a mount namespace too, and then the agent and containerd would not see each
    /// other's mounts.
    pub fn in_netns(netns: &Path, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", netns.display())).arg(program);
        command
    }

    /// Its process id. `nsenter` becomes the program it starts, so this is the program's.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has printed.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(pid, signal).with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// Waits for its end.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        eventually(&what, patience, || self.ended()?.context("it runs"))
    }

    /// Asks it to end, and waits.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        self.signal(Signal::SIGTERM)?;
        self.wait(SHORT)
    }

    /// Ends it without asking.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits until `ready`; a program that ended instead is an error that quotes it.
    pub fn await_ready<T>(
        &mut self,
        patience: Duration,
        mut ready: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let what = format!("{} to be ready", self.name);
        let outcome = eventually(&what, patience, || match self.ended()? {
            Some(status) => Ok(Err(status)),
            None => ready().map(Ok),
        })?;
        match outcome {
            Ok(value) => Ok(value),
            Err(status) => bail!("{} ended with {status}: {}", self.name, tail(&self.log(), 20)),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.signal(Signal::SIGTERM);
            if self.wait(SHORT).is_err() {
                let _ = self.kill();
            }
        }
    }
}

/// The last lines of `text`.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// An empty file to write a log to, so that reading it before its writer starts is no error.
pub(crate) fn touch(path: &Path) -> Result<()> {
    File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(())
}
