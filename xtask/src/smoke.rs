//! What was built for ARM boards, run here: qemu translates the program, and the kernel is this machine's.
//!
//! Enough to see what another processor or 32 bits would break: documents are read and checked, the agent starts, opens
//! its store, answers over its socket, and knows after a kill what it had acknowledged. Containers are the work of
//! `cargo xtask vm`, for they need a kernel of the board's kind.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::cross::{BOARDS, Board};
use crate::install::install_all;

/// The agent answers within a second here; a busy machine may take its time.
const TRIES: u32 = 120;
const PAUSE: Duration = Duration::from_millis(500);

/// What is quickly built, and quickly forgotten.
pub(crate) const PROFILE: &str = "smoke";

const DOCUMENT: &str = "\
name: hello
type: Microsoft.App/containerApps
properties:
  configuration:
    ingress: { external: true, targetPort: 8080 }
  template:
    containers:
      - name: main
        image: docker.io/library/hello:1
        resources: { cpu: 0.25, memory: 128Mi }
";

/// Runs what was built for each board.
#[expect(clippy::print_stdout, reason = "a command line")]
pub(crate) fn run() -> Result<()> {
    install_all(&[("qemu-aarch64-static", "qemu-user-static")])?;
    for board in BOARDS {
        let visit = Visit::new(board)?;
        let outcome = visit.all().with_context(|| format!("on {}", board.name));
        if outcome.is_err() {
            println!("{}", fs::read_to_string(visit.dir.join("agent.log")).unwrap_or_default());
        }
        fs::remove_dir_all(&visit.dir)?;
        outcome?;
        println!("{}: the agent checks, stores, answers, and remembers", board.name);
    }
    Ok(())
}

/// One board's programs, and a folder for their files.
struct Visit {
    board: &'static Board,
    binary: PathBuf,
    dir: PathBuf,
}

impl Visit {
    fn new(board: &'static Board) -> Result<Self> {
        let binary = board.binary(PROFILE)?;
        // In a place with a short name: that of a socket has 107 bytes at most.
        let dir =
            std::env::temp_dir().join(format!("skerry-{}-{}", board.name, std::process::id()));
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("hello.yaml"), DOCUMENT)?;
        fs::write(dir.join("broken.yaml"), DOCUMENT.replace("image:", "imago:"))?;
        fs::write(dir.join("agent.toml"), configuration(&dir))?;
        Ok(Self { board, binary, dir })
    }

    fn all(&self) -> Result<()> {
        let said = self.good(&["--version"])?;
        ensure!(said.trim() == concat!("skerry ", env!("CARGO_PKG_VERSION")), "it is {said:?}");
        let said = self.good(&["check", "hello.yaml"])?;
        ensure!(said.contains("would be accepted"), "a good document: {said:?}");
        ensure!(!self.skerry(&["check", "broken.yaml"])?.status.success(), "a broken one passed");

        let agent = self.agent()?;
        self.good_at_last(&["apply", "-f", "hello.yaml"], "accepted")?;
        drop(agent);
        let agent = self.agent()?;
        self.knows_hello().context("after a kill")?;
        drop(agent);
        // The other of its two copies serves as well.
        fs::remove_dir_all(self.dir.join("lib/state")).context("there was no store")?;
        let _agent = self.agent()?;
        self.knows_hello().context("without sled's copy")
    }

    fn knows_hello(&self) -> Result<()> {
        self.good_at_last(&["apps"], "hello.default.smoke.internal")
    }

    /// Starts the agent, in a network of its own. It ends with what is returned, by a kill.
    fn agent(&self) -> Result<Agent> {
        let _ = fs::remove_file(self.dir.join("run/agent.sock"));
        let log = File::options().create(true).append(true).open(self.dir.join("agent.log"))?;
        let mut command = Command::new("unshare");
        command.args(["--net", self.board.qemu, "-L"]).arg(self.board.libraries());
        command.arg(&self.binary).args(["agent", "--config", "agent.toml"]);
        command.current_dir(&self.dir).stdout(Stdio::null()).stderr(log);
        Ok(Agent(command.spawn().context("cannot start the agent")?))
    }

    fn skerry(&self, words: &[&str]) -> Result<Output> {
        let mut command = Command::new(self.board.qemu);
        command.arg("-L").arg(self.board.libraries()).arg(&self.binary);
        command.args(words).current_dir(&self.dir);
        command.env("SKERRY_SOCKET", self.dir.join("run/agent.sock"));
        command.output().with_context(|| format!("cannot start {command:?}"))
    }

    /// What a command prints that must succeed.
    fn good(&self, words: &[&str]) -> Result<String> {
        let output = self.skerry(words)?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "skerry {words:?} ended with {}: {error}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Asks until the answer has `part` in it: the agent may not answer yet, or not know yet what it has stored.
    #[expect(clippy::disallowed_methods, reason = "nothing else runs in this thread")]
    fn good_at_last(&self, words: &[&str], part: &str) -> Result<()> {
        let mut last = String::new();
        for _ in 0..TRIES {
            last = match self.good(words) {
                Ok(said) if said.contains(part) => return Ok(()),
                Ok(said) => said,
                Err(error) => error.to_string(),
            };
            sleep(PAUSE);
        }
        bail!("skerry {words:?} does not say {part:?}, but {last:?}")
    }
}

/// All that would be outside of `dir` is within.
fn configuration(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "[device]\nid = 'smoke'\n[state]\ndir = '{dir}/lib'\nrun_dir = '{dir}/run'\n\
         [containerd]\naddress = '{dir}/containerd.sock'\n[apps]\ndir = '{dir}/apps.d'\n\
         [images]\npreload_dir = '{dir}/images'\n[mdns]\nenabled = false\n"
    )
}

/// An agent that runs.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
