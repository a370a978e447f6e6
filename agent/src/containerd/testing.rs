//! For tests: a containerd of one's own, in a folder of its own, gone with the guard.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use containerd_client::services::v1 as services;
use tempfile::TempDir;

use super::connection::Connection;

/// For a part to come up, or for a level to be reached. Two cores, many tests.
const PATIENCE: Duration = Duration::from_secs(30);

/// A private containerd. Dropped, it takes its mounts, shims and files along.
#[derive(Debug)]
pub(crate) struct PrivateContainerd {
    process: Child,
    dir: TempDir,
}

impl PrivateContainerd {
    /// Starts one and waits for its first answer. None, with the reason printed, where it cannot run.
    pub(crate) async fn start() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: containerd needs root");
            return None;
        }
        // Sockets take 107 characters, hence not below `target`.
        let dir = tempfile::Builder::new().prefix("skc-").tempdir_in("/tmp").unwrap();
        let path = dir.path().display();
        let config = format!(
            "version = 2\nroot = \"{path}/root\"\nstate = \"{path}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{path}/c.sock\"\n"
        );
        let config_path = dir.path().join("config.toml");
        fs::write(&config_path, config).unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let started = Command::new("containerd")
            .arg("--config")
            .arg(&config_path)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let process = match started {
            Ok(process) => process,
            Err(error) => {
                println!("skipped: containerd cannot be started: {error}");
                return None;
            }
        };
        let containerd = Self { process, dir };
        until("containerd answers", async || containerd.answers().await).await;
        Some(containerd)
    }

    /// A connection to it, in the namespace of the agent.
    pub(crate) fn connection(&self) -> Connection {
        self.connection_to("skerry")
    }

    /// A connection to it, in another namespace.
    pub(crate) fn connection_to(&self, namespace: &str) -> Connection {
        Connection::new(self.socket(), namespace.to_owned())
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("c.sock")
    }

    /// A folder that goes with it.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    async fn answers(&self) -> bool {
        let connection = self.connection();
        let Ok(client) = connection.client().await else { return false };
        client.version().version(connection.request(())).await.is_ok()
    }

    /// Ends the shims of this containerd: they carry its socket on their command line.
    fn end_shims(&self) {
        let socket = self.socket().display().to_string();
        let Ok(processes) = fs::read_dir("/proc") else { return };
        for process in processes.flatten() {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).into_owned();
            if command.contains("containerd-shim") && command.contains(&socket) {
                let pid = nix::unistd::Pid::from_raw(pid);
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
        }
    }

    fn unmount(&self) {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        let ours = points.filter(|point| Path::new(point).starts_with(self.dir.path()));
        let mut ours: Vec<&str> = ours.collect();
        ours.reverse();
        for point in ours {
            let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

impl Drop for PrivateContainerd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        self.end_shims();
        self.unmount();
    }
}

/// Asks again and again until it is so, and fails with `what` if it never is.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let asked = tokio::time::timeout(PATIENCE, async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    asked.await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

/// Every blob in the store of this connection's namespace.
pub(crate) async fn blobs(connection: &Connection) -> Vec<String> {
    let request = connection.request(services::ListContentRequest::default());
    let mut client = connection.client().await.unwrap().content();
    let mut list = client.list(request).await.unwrap().into_inner();
    let mut blobs = Vec::new();
    while let Some(part) = list.message().await.unwrap() {
        blobs.extend(part.info.into_iter().map(|info| info.digest));
    }
    blobs
}
