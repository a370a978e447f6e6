//! A board for a test: a network namespace of its own with a cable to a LAN, and no way to the machine's own network.
//!
//! The thread of a test lives in that namespace, and so do the threads and programs that it starts; the machine's own
//! interfaces, settings and tables are never touched.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{self, Command};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use domain::model::{EnvironmentName, ReplicaName};
use domain::replica::Place;
use domain::route::RouteTable;
use ipnet::Ipv4Net;
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::config::{Config, HostPort, Protocol};
use crate::netlink::{IP_FORWARD, Netlink};
use crate::network::{Network, Redirects};

pub(super) const POOL: &str = "10.231.0.0/16";
pub(super) const BOARD: &str = "192.0.2.1";
pub(super) const LAN: &str = "192.0.2.2";

/// How long a connection may take before it counts as dropped.
pub(super) const PATIENCE: Duration = Duration::from_millis(1500);

/// A board with a cable to a LAN of one machine.
pub(super) struct Bed {
    pub(super) dir: TempDir,
    pub(super) config: Config,
    pub(super) redirects: watch::Sender<Arc<Redirects>>,
    pub(super) routes: watch::Sender<Arc<RouteTable>>,
    pub(super) lan: File,
}

impl Drop for Bed {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.dir.path().join("netns")).into_iter().flatten().flatten() {
            let _ = umount2(&entry.path(), MntFlags::MNT_DETACH);
        }
    }
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("wtnet-").tempdir().unwrap();
        let mut config = Config::default();
        config.network.pool = POOL.parse().unwrap();
        config.network.allow_host = vec![HostPort { protocol: Protocol::Tcp, port: 1883 }];
        config.state.run_dir = dir.path().to_owned();
        fs::write(IP_FORWARD, "0").unwrap();
        sh("ip link set lo up");
        let lan = neighbour("lan0", BOARD, LAN);
        let (redirects, routes) = (watch::Sender::default(), watch::Sender::default());
        let bed = Self { dir, config, redirects, routes, lan };
        // The LAN knows where our subnets are: routing is not what keeps it out.
        within(&bed.lan, || sh(&format!("ip route add {POOL} via {BOARD}")));
        bed
    }

    pub(super) fn netlink(&self) -> Netlink {
        Netlink::new(&self.config, [80], self.redirects.subscribe(), self.routes.subscribe())
    }

    /// Settles two environments with one replica in each.
    pub(super) async fn two_replicas(&self, netlink: &Netlink) -> [File; 2] {
        assert_eq!(netlink.settle(&environments(&["default", "lab"])).await.unwrap(), []);
        let (one, other) = (replica("web", 1), replica("api", 2));
        netlink.attach(&one, &place(netlink, "default", &one, 5)).await.unwrap();
        netlink.attach(&other, &place(netlink, "lab", &other, 5)).await.unwrap();
        [one, other].map(|replica| File::open(netlink.netns(&replica)).unwrap())
    }
}

/// Runs `test` on a thread, in a network namespace of its own.
pub(super) fn on_a_board(test: impl AsyncFnOnce(Bed) + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can make network namespaces");
        return;
    }
    let board = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(Bed::new()));
    });
    if let Err(panic) = board.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `work` in another network namespace.
pub(super) fn within<T: Send>(namespace: &File, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        inside.join().unwrap()
    })
}

/// A machine in a namespace of its own, at the other end of a cable.
pub(super) fn neighbour(cable: &str, here: &str, there: &str) -> File {
    let machine = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        File::open("/proc/thread-self/ns/net").unwrap()
    });
    let machine = machine.join().unwrap();
    let fd = format!("/proc/{}/fd/{}", process::id(), machine.as_raw_fd());
    sh(&format!("ip link add {cable} type veth peer name eth0 netns {fd}"));
    sh(&format!("ip addr add {here}/24 dev {cable} && ip link set {cable} up"));
    within(&machine, || {
        sh(&format!("ip link set lo up && ip addr add {there}/24 dev eth0 && ip link set eth0 up"));
    });
    machine
}

#[track_caller]
pub(super) fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(super) fn environments(names: &[&str]) -> BTreeMap<EnvironmentName, Ipv4Net> {
    let pool: Ipv4Net = POOL.parse().unwrap();
    names.iter().map(|name| name.parse().unwrap()).zip(pool.subnets(24).unwrap()).collect()
}

pub(super) fn replica(app: &str, ticket: u64) -> ReplicaName {
    ReplicaName::new(&format!("{app}--0000001").parse().unwrap(), ticket)
}

pub(super) fn place(
    netlink: &Netlink,
    environment: &str,
    replica: &ReplicaName,
    host: u8,
) -> Place {
    let third = u8::from(environment == "lab");
    Place {
        bridge: format!("sk-{environment}"),
        subnet: Ipv4Net::new_assert([10, 231, third, 0].into(), 24),
        gateway: [10, 231, third, 1].into(),
        address: [10, 231, third, host].into(),
        netns: netlink.netns(replica),
    }
}

pub(super) fn listen(namespace: &File, port: u16) -> TcpListener {
    within(namespace, || TcpListener::bind(("0.0.0.0", port)).unwrap())
}

/// How it ends to connect from `namespace`.
pub(super) fn connect(namespace: &File, to: &str) -> Result<(), ErrorKind> {
    let to: SocketAddr = to.parse().unwrap();
    let connected = within(namespace, || TcpStream::connect_timeout(&to, PATIENCE));
    connected.map(drop).map_err(|error: io::Error| error.kind())
}

pub(super) fn here() -> File {
    File::open("/proc/thread-self/ns/net").unwrap()
}

pub(super) fn inode(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap())
}
