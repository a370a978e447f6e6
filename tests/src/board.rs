//! A board: a namespace with a containerd and an agent in it.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::agent::{Settings, binary};
use crate::command::{output, run};
use crate::http::Client;
use crate::image::Image;
use crate::lan::Lan;
use crate::process::{Process, touch};
use crate::wait::{SHORT, eventually};

/// What the unit `skerry.service` tells the C library's allocator.
const ALLOCATOR: [(&str, &str); 4] = [
    ("MALLOC_ARENA_MAX", "2"),
    ("MALLOC_MMAP_THRESHOLD_", "65536"),
    ("MALLOC_TRIM_THRESHOLD_", "65536"),
    ("MALLOC_TOP_PAD_", "16384"),
];

/// Puts files in the place of some in `/proc`, for the program that follows alone: `FILE NAME … -- PROGRAM …`.
const WITH_FILES: &str = r#"mount --make-private /proc || exit
while [ "$1" != -- ]; do mount --bind "$1" "/proc/$2" || exit; shift 2; done; shift; exec "$@""#;

/// A board of the test's own.
#[derive(Debug)]
pub struct Board {
    agent: Option<Process>,
    containerd: Option<Process>,
    settings: Settings,
    binary: PathBuf,
    log_filter: &'static str,
    /// What the agent reads in place of files in `/proc`, by their names there.
    shown: BTreeMap<&'static str, PathBuf>,
    /// The period of the watchdog, where somebody watches over the agent.
    watchdog: Option<Duration>,
    /// What the agent said and nobody has asked for yet, and where it says more.
    heard: Vec<String>,
    notices: Option<UnixDatagram>,
    lan: Lan,
}

impl Board {
    /// A board with its files in place and nothing running yet.
    pub fn new(lan: Lan) -> Result<Self> {
        for dir in ["apps.d", "images", "run", "state"] {
            fs::create_dir_all(lan.dir().join(dir))?;
        }
        for log in ["agent.log", "containerd.log"] {
            touch(&lan.dir().join(log))?;
        }
        let settings = Settings::of(&lan);
        Ok(Self {
            agent: None,
            containerd: None,
            settings,
            binary: binary()?,
            log_filter: "info,skerry=debug",
            shown: BTreeMap::new(),
            watchdog: None,
            heard: Vec::new(),
            notices: None,
            lan,
        })
    }

    /// The configuration, for a change before the next start.
    pub fn settings(&mut self) -> &mut Settings {
        &mut self.settings
    }

    /// The agent's binary, which is the command line too.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Has the agent log no more than it does on a device.
    pub fn log_as_shipped(&mut self) {
        self.log_filter = "info";
    }

    /// The same, and one line for each wake.
    pub fn log_wakes(&mut self) {
        self.log_filter = "info,skerry::course=debug";
    }

    /// Has the agent read another `/proc/meminfo` than the kernel's from its next start on, one that says that so much
    /// is available. To be called before containerd starts, and as often as wanted afterwards.
    pub fn show_available_mib(&mut self, mib: u64) -> Result<()> {
        let text = fs::read_to_string("/proc/meminfo")?;
        let (mine, others): (Vec<&str>, Vec<&str>) =
            text.lines().partition(|line| line.starts_with("MemAvailable:"));
        ensure!(mine.len() == 1, "the kernel does not say what is available");
        let lines = others.join("\n");
        self.show("meminfo", &format!("MemAvailable: {:12} kB\n{lines}\n", mib << 10))
    }

    /// Has the agent read another `/proc/stat` than the kernel's, likewise: so much of all the time processors had work.
    pub fn show_processors(&mut self, busy: u64, all: u64) -> Result<()> {
        let idle = all.saturating_sub(busy);
        self.show("stat", &format!("cpu  {busy:12} 0 0 {idle:12} 0 0 0 0 0 0\n"))
    }

    /// Has the agent take this for the name of the boot from its next start on.
    pub fn show_boot(&mut self, id: &str) -> Result<()> {
        self.show_as("sys/kernel/random/boot_id", "boot_id", &format!("{id}\n"))
    }

    fn show(&mut self, name: &'static str, text: &str) -> Result<()> {
        self.show_as(name, name, text)
    }

    fn show_as(&mut self, name: &'static str, file: &str, text: &str) -> Result<()> {
        let path = self.dir().join(file);
        // In place and at once: it is mounted, and another file of its name would not be; an empty one tells nothing.
        let mut file = File::options().write(true).create(true).truncate(false).open(&path)?;
        file.write_all(text.as_bytes())?;
        file.set_len(text.len() as u64)?;
        if self.shown.is_empty() {
            // The agent gets mounts of its own, and those below the board's directory are still everybody's.
            let dir = self.dir().display().to_string();
            run("mount", ["--bind", &dir, &dir])?;
            run("mount", ["--make-shared", &dir])?;
        }
        self.shown.insert(name, path);
        Ok(())
    }

    /// Watches over the agent from its next start on, as a service manager does: what it says is kept, and must be
    /// asked for by [`Self::told`] before the socket is full.
    pub fn watch_over(&mut self, watchdog: Duration) {
        self.watchdog = Some(watchdog);
    }

    /// What the agent has told the service manager since this was asked last; nothing where nobody watches over it.
    pub fn told(&mut self) -> Result<Vec<String>> {
        let mut said = std::mem::take(&mut self.heard);
        let Some(socket) = &self.notices else { return Ok(said) };
        socket.set_nonblocking(true)?;
        let mut buffer = [0; 1024];
        while let Ok(length) = socket.recv(&mut buffer) {
            said.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        Ok(said)
    }

    /// The network.
    pub fn lan(&self) -> &Lan {
        &self.lan
    }

    /// The directory of everything.
    pub fn dir(&self) -> &Path {
        self.lan.dir()
    }

    /// The device id, which is the last part of the topics' prefix.
    pub fn device(&self) -> String {
        self.lan.name()
    }

    // The runtime.

    /// Starts containerd and waits until it answers.
    pub fn start_containerd(&mut self) -> Result<()> {
        let dir = self.dir();
        let config = dir.join("containerd.toml");
        fs::write(&config, containerd_config(dir))?;
        let mut command = Process::in_netns(&self.lan.netns(), Path::new("containerd"));
        command.arg("--config").arg(&config);
        let mut process = Process::start("containerd", &mut command, &dir.join("containerd.log"))?;
        process.await_ready(SHORT, || self.ctr(["version"]))?;
        self.containerd = Some(process);
        Ok(())
    }

    /// Stops containerd; containers go on.
    pub fn stop_containerd(&mut self) -> Result<()> {
        self.containerd.take().context("containerd is not running")?.terminate()?;
        Ok(())
    }

    /// Holds containerd still, as an overloaded board does; its socket is open and nobody answers.
    pub fn freeze_containerd(&self) -> Result<()> {
        self.containerd.as_ref().context("containerd is not running")?.signal(Signal::SIGSTOP)
    }

    /// Lets containerd go on.
    pub fn thaw_containerd(&self) -> Result<()> {
        self.containerd.as_ref().context("containerd is not running")?.signal(Signal::SIGCONT)
    }

    /// Asks containerd by its own tool.
    pub fn ctr<const N: usize>(&self, arguments: [&str; N]) -> Result<String> {
        let socket = self.dir().join("c.sock").display().to_string();
        let name = self.lan.name();
        let head = ["--address", socket.as_str(), "--namespace", name.as_str()];
        run("ctr", head.into_iter().chain(arguments))
    }

    /// The process id of each running container, by container id.
    pub fn container_pids(&self) -> Result<BTreeMap<String, u32>> {
        let table = self.ctr(["tasks", "list"])?;
        let rows = table.lines().skip(1).filter(|row| row.contains("RUNNING"));
        rows.map(|row| {
            let mut words = row.split_whitespace();
            let id = words.next().context("no id")?.to_owned();
            Ok((id, words.next().context("no pid")?.parse()?))
        })
        .collect()
    }

    /// The process id of each running container of `app`, by container id.
    pub fn pids_of(&self, app: &str) -> Result<BTreeMap<String, u32>> {
        let filter = format!("labels.\"skerry.io/app\"=={app}");
        let ours = self.ctr(["containers", "list", "--quiet", &filter])?;
        let mut pids = self.container_pids()?;
        pids.retain(|id, _| ours.lines().any(|line| line == id));
        Ok(pids)
    }

    /// Takes the power away: nothing runs any more, nothing is mounted, and what was not on the disk is lost.
    pub fn cut_power(&mut self) -> Result<()> {
        for process in [self.agent.take(), self.containerd.take()].iter_mut().flatten() {
            process.kill()?;
        }
        self.shown.clear();
        self.lan.cut()
    }

    // Images.

    /// Puts an image where the agent finds it at its next start.
    pub fn preload(&self, image: &Image) -> Result<()> {
        let file = image.name().replace(['/', ':'], "_");
        image.write_oci(&self.dir().join("images").join(format!("{file}.tar")))
    }

    /// Imports an image by the agent that runs.
    pub fn import(&self, image: &Image) -> Result<()> {
        let path = self.dir().join("import.tar");
        image.write_oci(&path)?;
        self.cli(["images", "import", &path.display().to_string()])?;
        fs::remove_file(path)?;
        Ok(())
    }

    // The agent.

    /// Starts the agent and waits until it says that it is ready.
    pub fn start(&mut self) -> Result<()> {
        let socket = self.notify_socket()?;
        self.launch()?;
        let agent = self.agent.as_mut().context("launched above")?;
        let said = agent.await_ready(3 * SHORT, || {
            let mut buffer = [0; 1024];
            let length = socket.recv(&mut buffer)?;
            let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
            ensure!(said.contains("READY=1"), "it said {said}");
            Ok(said)
        })?;
        if self.watchdog.is_some() {
            (self.heard, self.notices) = (vec![said], Some(socket));
        }
        Ok(())
    }

    /// Starts the agent and does not wait.
    pub fn launch(&mut self) -> Result<()> {
        if self.shown.is_empty() {
            let mut command = Process::in_netns(&self.lan.netns(), &self.binary);
            return self.launch_as(&mut command, &[]);
        }
        let own = ["--mount", "--propagation", "unchanged", "sh", "-c", WITH_FILES, "sh"];
        let mut command = Process::in_netns(&self.lan.netns(), Path::new("unshare"));
        command.args(own);
        for (name, file) in &self.shown {
            command.arg(file).arg(name);
        }
        command.arg("--").arg(&self.binary);
        self.launch_as(&mut command, &[])
    }

    /// Starts the agent by way of another program, such as one that takes rights away, and does not wait.
    pub fn launch_by<const N: usize>(&mut self, program: &str, arguments: [&str; N]) -> Result<()> {
        let mut command = Process::in_netns(&self.lan.netns(), Path::new(program));
        command.args(arguments).arg(&self.binary);
        self.launch_as(&mut command, &[])
    }

    /// Runs `skerry agent --drain` to its end, which stops every container.
    pub fn drain(&mut self) -> Result<()> {
        let mut command = Process::in_netns(&self.lan.netns(), &self.binary);
        self.launch_as(&mut command, &["--drain"])?;
        let status = self.agent()?.wait(6 * SHORT)?;
        self.agent = None;
        ensure!(status.success(), "draining ended with {status}");
        Ok(())
    }

    fn launch_as(&mut self, command: &mut Command, flags: &[&str]) -> Result<()> {
        let config = self.dir().join("agent.toml");
        fs::write(&config, self.settings.to_string())?;
        command
            .arg("agent")
            .arg("--config")
            .arg(&config)
            .args(flags)
            .env("NOTIFY_SOCKET", self.dir().join("notify"))
            .env("RUST_LOG", self.log_filter)
            .envs(ALLOCATOR);
        if let Some(period) = self.watchdog {
            command.env("WATCHDOG_USEC", period.as_micros().to_string());
        }
        let process = Process::start("the agent", command, &self.dir().join("agent.log"))?;
        self.agent = Some(process);
        Ok(())
    }

    fn notify_socket(&self) -> Result<UnixDatagram> {
        let path = self.dir().join("notify");
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path)?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        Ok(socket)
    }

    /// The agent.
    pub fn agent(&mut self) -> Result<&mut Process> {
        self.agent.as_mut().context("the agent is not running")
    }

    /// Ends the agent without a word, as a crash does.
    pub fn kill_agent(&mut self) -> Result<()> {
        self.agent.take().context("the agent is not running")?.kill()
    }

    /// Stops the agent as systemd does; its containers go on.
    pub fn stop_agent(&mut self) -> Result<()> {
        let status = self.agent.take().context("the agent is not running")?.terminate()?;
        ensure!(status.success(), "the agent ended with {status}");
        Ok(())
    }

    /// Runs a command of the command line against the agent; what it printed.
    pub fn cli<const N: usize>(&self, arguments: [&str; N]) -> Result<String> {
        let outcome = self.try_cli(arguments)?;
        let said = String::from_utf8_lossy(&outcome.stderr);
        ensure!(outcome.status.success(), "skerry {arguments:?}: {}", said.trim());
        Ok(String::from_utf8_lossy(&outcome.stdout).into_owned())
    }

    /// Runs a command of the command line against the agent; the whole outcome.
    pub fn try_cli<const N: usize>(&self, arguments: [&str; N]) -> Result<Output> {
        output(self.cli_command().args(arguments))
    }

    /// A command of the command line, to be completed.
    pub fn cli_command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--socket").arg(self.dir().join("run/agent.sock"));
        command
    }

    /// Waits for the agent to end by itself: its exit code and what it said.
    pub fn await_end(&mut self) -> Result<(Option<i32>, String)> {
        let mut agent = self.agent.take().context("the agent is not running")?;
        let status = agent.wait(SHORT)?;
        Ok((status.code(), agent.log()))
    }

    /// Everything the agent has logged.
    pub fn agent_log(&self) -> String {
        fs::read_to_string(self.dir().join("agent.log")).unwrap_or_default()
    }

    /// Waits for a line of the agent's log that contains `words`.
    pub fn await_log(&self, words: &str) -> Result<String> {
        eventually(&format!("{words:?} in the log"), SHORT, || {
            let log = self.agent_log();
            let line = log.lines().find(|line| line.contains(words)).map(str::to_owned);
            line.context("no such line")
        })
    }

    // The network.

    /// Somebody on the LAN who asks the board's ingress.
    pub fn lan_client(&self) -> Client {
        Client::new(SocketAddr::from((self.lan.board(), 80)))
    }

    /// Somebody on the board itself who asks the ingress.
    pub fn inside(&self) -> Client {
        Client::inside(self.lan.netns(), SocketAddr::from(([127, 0, 0, 1], 80)))
    }

    /// Runs a program in the board's namespace.
    pub fn run<const N: usize>(&self, program: &str, arguments: [&str; N]) -> Result<String> {
        let netns = format!("--net={}", self.lan.netns().display());
        run("nsenter", [netns.as_str(), program].into_iter().chain(arguments))
    }

    /// Asks containerd to end every container, so that nothing is left to be killed.
    fn empty(&self) -> Result<()> {
        for id in self.ctr(["tasks", "list", "--quiet"])?.lines() {
            let _ = self.ctr(["tasks", "delete", "--force", id]);
        }
        Ok(())
    }

    /// Copies the logs to the directory that `SKERRY_LOGS` names, under the name of the test.
    fn keep_logs(&self) -> Result<()> {
        let Some(kept) = env::var_os("SKERRY_LOGS") else { return Ok(()) };
        fs::create_dir_all(&kept)?;
        let thread = thread::current();
        let test = thread.name().unwrap_or("main");
        for entry in fs::read_dir(self.dir())? {
            let path = entry?.path();
            if let Some(log) = path.file_name().and_then(OsStr::to_str).filter(|_| is_log(&path)) {
                fs::copy(&path, Path::new(&kept).join(format!("{test}.{log}")))?;
            }
        }
        Ok(())
    }
}

fn is_log(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "log")
}

impl Drop for Board {
    fn drop(&mut self) {
        drop(self.agent.take());
        let _ = self.keep_logs();
        if self.containerd.is_some() {
            let _ = self.thaw_containerd();
            let _ = self.empty();
        }
        drop(self.containerd.take());
    }
}

fn containerd_config(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "version = 2\nroot = \"{dir}/c\"\nstate = \"{dir}/s\"\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.snapshotter.v1.btrfs\", \
         \"io.containerd.snapshotter.v1.zfs\", \"io.containerd.snapshotter.v1.aufs\", \
         \"io.containerd.snapshotter.v1.devmapper\", \"io.containerd.tracing.processor.v1.otlp\"]\n\
         [grpc]\naddress = \"{dir}/c.sock\"\n[debug]\nlevel = \"info\"\n\
         [plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{dir}/opt\"\n"
    )
}
