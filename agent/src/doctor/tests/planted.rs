//! A board in a folder, on which nothing is wrong until a fault is planted.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use domain::model::WallTime;
use tempfile::TempDir;

use super::answering::{asked, broker};
use crate::config::Config;
use crate::doctor::{Board, Space, Verdict, checks};

/// 2026-06-01.
const NOW: u64 = 1_780_272_000;
/// 2026-04-02.
const BUILT: u64 = 1_775_088_000;

/// The head of the kernel's tables of sockets, and the line of one socket.
const SOCKETS: &str = "  sl  local_address rem_address   st tx_queue rx_queue\n";

/// A kernel's options, as a distribution lists them.
pub(in crate::doctor) const OPTIONS: &str = "CONFIG_NAMESPACES=y\nCONFIG_NET_NS=y\nCONFIG_PID_NS=y\nCONFIG_IPC_NS=y\nCONFIG_UTS_NS=y\n\
    CONFIG_POSIX_MQUEUE=y\nCONFIG_CGROUPS=y\nCONFIG_MEMCG=y\nCONFIG_CGROUP_SCHED=y\nCONFIG_CGROUP_PIDS=y\nCONFIG_VETH=m\n\
    CONFIG_BRIDGE=m\nCONFIG_NF_TABLES=m\nCONFIG_NF_TABLES_INET=y\nCONFIG_NFT_CT=m\nCONFIG_NFT_MASQ=m\n";

/// A board in a folder, with those that answer on its sockets.
pub(in crate::doctor) struct Planted {
    pub(in crate::doctor) dir: TempDir,
    pub(in crate::doctor) board: Board,
    sockets: Vec<UnixListener>,
}

impl Planted {
    pub(in crate::doctor) fn write(&self, path: &str, text: &str) {
        let path = self.board.place(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(in crate::doctor) fn remove(&self, path: &str) {
        let path = self.board.place(path);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }

    pub(in crate::doctor) fn private(&self, path: &str, text: &str, mode: u32) {
        self.write(path, text);
        fs::set_permissions(self.board.place(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A process `name` that has a port, as `/proc` shows it.
    pub(in crate::doctor) fn listener(
        &self,
        table: &str,
        address: &str,
        port: u16,
        state: &str,
        name: &str,
    ) {
        let line = format!(
            "   0: {address}:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 4711 1\n"
        );
        self.write(&format!("/proc/net/{table}"), &format!("{SOCKETS}{line}"));
        self.write("/proc/99/comm", &format!("{name}\n"));
        fs::create_dir_all(self.board.place("/proc/99/fd")).unwrap();
        symlink("socket:[4711]", self.board.place("/proc/99/fd/3")).unwrap();
    }

    pub(in crate::doctor) fn verdict(&self, check: &str) -> Verdict {
        let check = checks().find(|one| one.name == check).expect("the check is there");
        (check.look)(&self.board)
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the shape of the question")]
pub(in crate::doctor) fn much(_: &Path) -> Option<Space> {
    Some(Space { bytes: 8 << 30, free_bytes: 4 << 30, inodes: 1000, free_inodes: 900 })
}

#[expect(clippy::unnecessary_wraps, reason = "the shape of the question")]
pub(in crate::doctor) fn little(_: &Path) -> Option<Space> {
    Some(Space { bytes: 8 << 30, free_bytes: 1 << 20, inodes: 1000, free_inodes: 9 })
}

/// Much everywhere but on another disk.
pub(in crate::doctor) fn little_data(path: &Path) -> Option<Space> {
    let data = path.components().any(|part| part.as_os_str() == "data");
    much(path)
        .map(|space| Space { free_bytes: if data { 100 << 20 } else { space.free_bytes }, ..space })
}

pub(in crate::doctor) fn pem(until_year: i32) -> String {
    identity(until_year).0
}

/// A certificate and its key.
pub(in crate::doctor) fn identity(until_year: i32) -> (String, String) {
    let mut params = rcgen::CertificateParams::new(vec!["pi-1".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(until_year, 6, 8);
    let key = rcgen::KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// A board on which nothing is wrong.
pub(in crate::doctor) fn well() -> Planted {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.device.id = "pi-1".to_owned();
    config.mqtt.url = format!("mqtt://127.0.0.1:{}", broker(0).port());
    config.mqtt.username = "pi-1".to_owned();
    for (setting, path) in [
        (&mut config.mqtt.password_file, "/etc/skerry/password"),
        (&mut config.mqtt.key, "/etc/skerry/key.pem"),
        (&mut config.mqtt.cert, "/etc/skerry/cert.pem"),
        (&mut config.mqtt.ca, "/etc/skerry/ca.pem"),
    ] {
        path.clone_into(setting);
    }
    let board = Board {
        root: dir.path().to_owned(),
        config,
        config_error: None,
        now: WallTime(Duration::from_secs(NOW)),
        built: WallTime(Duration::from_secs(BUILT)),
        asked: asked(),
        space: much,
    };
    let mut planted = Planted { dir, board, sockets: Vec::new() };
    let (long, key) = identity(2046);
    let empty = [
        "/proc/self/ns/net",
        "/proc/self/ns/pid",
        "/proc/self/ns/mnt",
        "/proc/self/ns/ipc",
        "/proc/self/ns/uts",
        "/proc/sys/kernel/seccomp/actions_avail",
        "/proc/pressure/memory",
        "/usr/sbin/nft",
        "/usr/bin/containerd",
        "/usr/bin/containerd-shim-runc-v2",
        "/usr/sbin/runc",
        "/run/systemd/timesync/synchronized",
        "/usr/share/zoneinfo/UTC",
        "/boot/firmware/cmdline.txt",
    ];
    for path in empty {
        planted.write(path, "");
    }
    for (path, text) in [
        ("/proc/sys/kernel/osrelease", "6.12.1-v8\n"),
        ("/proc/sys/kernel/arch", std::env::consts::ARCH),
        ("/boot/config-6.12.1-v8", OPTIONS),
        ("/proc/filesystems", "nodev\tproc\nnodev\toverlay\n"),
        (
            "/lib/modules/6.12.1-v8/modules.builtin",
            "kernel/net/bridge/bridge.ko\nkernel/drivers/net/veth.ko\n",
        ),
        (
            "/lib/modules/6.12.1-v8/modules.dep",
            "kernel/net/netfilter/nf_tables.ko: kernel/lib/x.ko\n",
        ),
        ("/sys/devices/platform/soc/soc:firmware/get_throttled", "0x0\n"),
        ("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n"),
        ("/proc/meminfo", "MemTotal: 900000 kB\nMemFree: 1 kB\nMemAvailable: 500000 kB\n"),
        ("/proc/swaps", "Filename Type Size Used Priority\n/dev/zram0 partition 1 0 5\n"),
        ("/proc/mounts", "/dev/mmcblk0p2 / ext4 rw,noatime 0 0\ntmpfs /run tmpfs rw 0 0\n"),
        ("/sys/block/mmcblk0/device/life_time", "0x01 0x02\n"),
        ("/sys/block/mmcblk0/device/pre_eol_info", "0x01\n"),
        ("/proc/sys/net/ipv4/ip_forward", "1\n"),
        (
            "/proc/net/route",
            "Iface\tDestination\neth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\nsk-default\t0000D50A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n",
        ),
        ("/etc/resolv.conf", "nameserver 127.0.0.1\n"),
        ("/etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
        ("/etc/skerry/ca.pem", &long),
        ("/etc/skerry/cert.pem", &long),
        ("/etc/ssl/certs/ca-certificates.crt", &long),
    ] {
        planted.write(path, text);
    }
    planted.private("/etc/skerry/password", "hunter2\n", 0o600);
    planted.private("/etc/skerry/key.pem", &key, 0o600);
    for path in ["/run/containerd/containerd.sock", "/run/skerry/agent.sock"] {
        let path = planted.board.place(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        planted.sockets.push(UnixListener::bind(path).unwrap());
    }
    planted
}
