//! A small service manager for one agent: it listens to what the agent says, keeps the sockets that it is handed, and
//! gives them to the next one. What it does is what systemd does.
//!
//! ```text
//!   keeper NOTIFY_SOCKET PROGRAM ARGUMENT…        its orders come to NOTIFY_SOCKET.orders:
//!     restart   ends the agent and starts the next      kill   the same, without asking the agent
//!     list      prints the names of what is kept
//! ```
//!
//! It is a program of its own because what it keeps must not be inherited by anything but the agent, and has one thread
//! because files have no owner here but their numbers.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{self, IoSliceMut, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command};

use anyhow::{Context, Result, bail};
use nix::cmsg_space;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
use nix::unistd::{Pid, close};

/// What is kept has numbers from here on, so that none is where the agent's are to be.
const FIRST_KEPT: RawFd = 100;

/// Hands sockets over as systemd does: from 3 on, with their count, their names, and for whom they are.
const HAND_OVER: &str = r#"at=3
for kept in $KEPT; do eval "exec $at<&$kept $kept<&-"; at=$((at + 1)); done
LISTEN_FDS=$((at - 3)) LISTEN_PID=$$ exec "$@""#;

struct Keeper {
    socket: UnixDatagram,
    program: Vec<String>,
    kept: BTreeMap<String, RawFd>,
    agent: Child,
}

fn main() -> Result<()> {
    let mut words = env::args().skip(1);
    let place = words.next().context("no socket")?;
    let program: Vec<String> = words.collect();
    // Their numbers are taken until the end.
    let mut low = vec![File::open("/dev/null")?];
    while low.last().is_some_and(|file| file.as_raw_fd() < FIRST_KEPT) {
        low.push(File::open("/dev/null")?);
    }
    let _ = fs::remove_file(&place);
    let socket = UnixDatagram::bind(&place)?;
    let orders = format!("{place}.orders");
    let _ = fs::remove_file(&orders);
    let orders = UnixDatagram::bind(orders)?;
    let agent = start(&program, &place, &BTreeMap::new())?;
    let mut keeper = Keeper { socket, program, kept: BTreeMap::new(), agent };
    let ended = keeper.run(&place, &orders);
    let _ = keeper.agent.kill();
    ended
}

impl Keeper {
    fn run(&mut self, place: &str, orders: &UnixDatagram) -> Result<()> {
        loop {
            let mut ready = [
                PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
                PollFd::new(orders.as_fd(), PollFlags::POLLIN),
            ];
            poll(&mut ready, PollTimeout::NONE)?;
            let [said, ordered] = ready.map(|one| one.any().unwrap_or(false));
            if said {
                self.hear()?;
            }
            if !ordered {
                continue;
            }
            let mut bytes = [0; 64];
            let length = orders.recv(&mut bytes)?;
            match &bytes[..length] {
                b"restart" => self.end(Signal::SIGTERM)?,
                b"kill" => self.end(Signal::SIGKILL)?,
                b"list" => {
                    let names: Vec<&str> = self.kept.keys().map(String::as_str).collect();
                    say(&format!("KEPT {}", names.join(" ")))?;
                    continue;
                }
                other => bail!("there is no order {other:?}"),
            }
            self.agent = start(&self.program, place, &self.kept)?;
        }
    }

    /// Ends the agent, listening to it meanwhile: it says that it stops.
    fn end(&mut self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.agent.id())?), signal)?;
        while self.agent.try_wait()?.is_none() {
            let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            // 20 ms: it may end without a word.
            if 0 < poll(&mut ready, PollTimeout::from(20_u8))? {
                self.hear()?;
            }
        }
        Ok(())
    }

    fn hear(&mut self) -> Result<()> {
        let mut bytes = [0; 4096];
        let mut space = cmsg_space!([RawFd; 4]);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let from = self.socket.as_raw_fd();
        let message = recvmsg::<UnixAddr>(from, &mut parts, Some(&mut space), MsgFlags::empty())?;
        let mut came = Vec::new();
        for part in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(files) = part {
                came.extend(files);
            }
        }
        let length = message.bytes;
        let text = std::str::from_utf8(&bytes[..length])?;
        let has = |line: &str| text.lines().any(|one| one == line);
        let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or("stored");
        if has("FDSTORE=1") {
            for file in came {
                if let Some(before) = self.kept.insert(name.to_owned(), file) {
                    close(before)?;
                }
            }
        }
        if has("FDSTOREREMOVE=1") {
            self.kept.remove(name).map(close).transpose()?;
        }
        say(&text.replace('\n', " "))
    }
}

fn start(program: &[String], place: &str, kept: &BTreeMap<String, RawFd>) -> Result<Child> {
    let names: Vec<&str> = kept.keys().map(String::as_str).collect();
    let numbers: Vec<String> = kept.values().map(ToString::to_string).collect();
    let mut command = Command::new("bash");
    command.args(["-c", HAND_OVER, "bash"]).args(program);
    command.env("KEPT", numbers.join(" ")).env("LISTEN_FDNAMES", names.join(":"));
    Ok(command.env("NOTIFY_SOCKET", place).stdin(std::process::Stdio::null()).spawn()?)
}

#[expect(clippy::print_stdout, reason = "what the agent said, for who gives the orders")]
fn say(line: &str) -> Result<()> {
    println!("{line}");
    Ok(io::stdout().flush()?)
}
