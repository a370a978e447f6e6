//! A mosquitto of the test's own, killed with it.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::within;

/// A broker on a free loopback port. Nothing it knows outlives its process.
pub(super) struct Broker {
    pub(super) port: u16,
    pub(super) dir: TempDir,
    process: Option<Child>,
}

impl Broker {
    /// Starts a broker with further lines of configuration; `None`, with a word why, where there is no mosquitto.
    pub(super) async fn start(config: &str) -> Option<Self> {
        let mut broker = Self::reserve(config)?;
        broker.resume().await;
        Some(broker)
    }

    /// A broker that is not running yet. `{dir}` in the configuration is its folder.
    pub(super) fn reserve(config: &str) -> Option<Self> {
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

    pub(super) async fn resume(&mut self) {
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
        within("the broker to listen", listens).await;
    }

    /// Ends it without warning; what it knew is lost.
    pub(super) async fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await.unwrap();
        }
    }

    pub(super) fn file(&self, name: &str, content: &str) -> String {
        let path = self.dir.path().join(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    }
}

pub(super) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
