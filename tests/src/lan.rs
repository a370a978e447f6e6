//! The network between a test and its board: a namespace and a cable, both with a number that nobody else has.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sched::{CloneFlags, setns};

use crate::command::run;
use crate::sweep::{cut, sweep};

/// Boards at a time on one machine; the number is a byte of an address.
const BOARDS: u8 = 250;

/// A network namespace for a board, with a cable to the namespace of the test.
#[derive(Debug)]
pub struct Lan {
    number: u8,
    dir: PathBuf,
    /// Held as long as the number is ours; the kernel lets go of it however we end.
    lock: Arc<Flock<File>>,
}

impl Lan {
    /// Takes the first free number, removes what an earlier owner left under it, and lays the cable.
    pub fn take() -> Result<Self> {
        fs::create_dir_all("/run/skt")?;
        let lan = (1..BOARDS).find_map(Self::lock).context("every board number is taken")?;
        sweep(&lan);
        fs::create_dir_all(&lan.dir)?;
        lan.lay().context("cannot lay the cable to the board")?;
        Ok(lan)
    }

    /// Ctrl-C ends the program, and nothing of the board is left: for programs that a person runs.
    pub fn sweep_when_interrupted(&self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let shadow =
            Self { number: self.number, dir: self.dir.clone(), lock: Arc::clone(&self.lock) };
        thread::Builder::new().spawn(move || {
            if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
                sweep(&shadow);
                // What a shell expects of ctrl-C. The main thread is in the middle of a step.
                process::exit(130);
            }
        })?;
        Ok(())
    }

    fn lock(number: u8) -> Option<Self> {
        let file = File::create(format!("/run/skt/{number}.lock")).ok()?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()?;
        Some(Self {
            number,
            dir: PathBuf::from(format!("/tmp/skt-{number}")),
            lock: Arc::new(lock),
        })
    }

    fn lay(&self) -> Result<()> {
        let (name, cable) = (self.name(), self.cable());
        let (ours, theirs) = (format!("{}/24", self.host()), format!("{}/24", self.board()));
        let gateway = self.host().to_string();
        run("ip", ["netns", "add", &name])?;
        run("ip", ["link", "add", &cable, "type", "veth", "peer", "name", "lan0", "netns", &name])?;
        run("ip", ["address", "add", &ours, "dev", &cable])?;
        run("ip", ["link", "set", &cable, "up"])?;
        run("ip", ["-n", &name, "link", "set", "lo", "up"])?;
        run("ip", ["-n", &name, "address", "add", &theirs, "dev", "lan0"])?;
        run("ip", ["-n", &name, "link", "set", "lan0", "up"])?;
        run("ip", ["-n", &name, "route", "add", "default", "via", &gateway])?;
        Ok(())
    }

    /// Takes the board's power away: what ran there is gone, and its network is new.
    pub(crate) fn cut(&self) -> Result<()> {
        cut(self);
        self.lay().context("cannot lay the cable to the board again")
    }

    /// The number of the board.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// The name of the namespace; also of the board's device and of its containerd namespace.
    pub fn name(&self) -> String {
        format!("skt-{}", self.number)
    }

    /// The test's end of the cable.
    pub(crate) fn cable(&self) -> String {
        format!("skt{}", self.number)
    }

    /// The test's address on the cable.
    pub fn host(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 199, self.number, 1)
    }

    /// The board's address on the cable.
    pub fn board(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 199, self.number, 2)
    }

    /// The file of the namespace.
    pub fn netns(&self) -> PathBuf {
        Path::new("/run/netns").join(self.name())
    }

    /// Where everything of the board lies. A short path, for the sake of the sockets in it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A port of the test's address that nobody listens on.
    pub fn free_port(&self) -> Result<u16> {
        Ok(TcpListener::bind((self.host(), 0))?.local_addr()?.port())
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        sweep(self);
    }
}

/// Does `work` on a thread that is in the network namespace at `netns`. A socket made there stays there.
pub fn within<T: Send>(netns: &Path, work: impl FnOnce() -> T + Send) -> Result<T> {
    let file = File::open(netns).with_context(|| format!("cannot open {}", netns.display()))?;
    let done = thread::scope(|scope| {
        scope.spawn(|| setns(file, CloneFlags::CLONE_NEWNET).map(|()| work())).join()
    });
    match done {
        Ok(entered) => entered.with_context(|| format!("cannot enter {}", netns.display())),
        Err(_) => bail!("the work in {} panicked", netns.display()),
    }
}
