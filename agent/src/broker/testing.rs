//! A mosquitto of the test's own, killed with it.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time;

/// A slow machine starts a broker in less.
const PATIENCE: Duration = Duration::from_secs(20);

/// A broker on a free loopback port. Nothing it knows outlives its process.
pub(crate) struct Broker {
    pub(crate) port: u16,
    pub(crate) dir: TempDir,
    process: Option<Child>,
}

impl Broker {
    /// Starts a broker with further lines of configuration; `None`, with a word why, where there is no mosquitto.
    pub(crate) async fn start(config: &str) -> Option<Self> {
        let mut broker = Self::reserve(config)?;
        broker.resume().await;
        Some(broker)
    }

    /// A broker that is not running yet. `{dir}` in the configuration is its folder.
    pub(crate) fn reserve(config: &str) -> Option<Self> {
        if !Path::new("/usr/sbin/mosquitto").exists() {
            println!("skipped: /usr/sbin/mosquitto is not installed");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("wtmq-").tempdir().unwrap();
        let port = free_port();
        let config = config.replace("{dir}", &dir.path().display().to_string());
        let base = "user root\nlog_type warning\nmax_queued_messages 0\nmax_inflight_messages 20\n";
        let anonymous =
            if config.contains("allow_anonymous") { "" } else { "allow_anonymous true\n" };
        let listener = format!("listener {port} 127.0.0.1\n");
        fs::write(dir.path().join("m.conf"), format!("{base}{listener}{anonymous}{config}"))
            .unwrap();
        Some(Self { port, dir, process: None })
    }

    pub(crate) async fn resume(&mut self) {
        let config = self.dir.path().join("m.conf");
        let mut command = Command::new("/usr/sbin/mosquitto");
        command
            .arg("-c")
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        self.process = Some(command.spawn().unwrap());
        let listens = async {
            while TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        time::timeout(PATIENCE, listens).await.expect("the broker listens in time");
    }

    /// Ends it without warning; what it knew is lost.
    pub(crate) async fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await.unwrap();
        }
    }

    pub(crate) fn file(&self, name: &str, content: &str) -> String {
        let path = self.dir.path().join(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    }
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
