//! Each check's fault, planted in a board that is well, and seen.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use domain::model::WallTime;
use tempfile::TempDir;

use super::{Board, Level, Nft, Space, Timekeepers, checks, examine, unread, within};
use crate::config::{Config, LogStorage};

/// 2026-06-01.
const NOW: u64 = 1_780_272_000;
/// 2026-04-02.
const BUILT: u64 = 1_775_088_000;

/// The head of the kernel's tables of sockets, and the line of one socket.
const SOCKETS: &str = "  sl  local_address rem_address   st tx_queue rx_queue\n";

/// A kernel's options, as a distribution lists them.
const OPTIONS: &str = "CONFIG_NAMESPACES=y\nCONFIG_NET_NS=y\nCONFIG_PID_NS=y\nCONFIG_IPC_NS=y\nCONFIG_UTS_NS=y\n\
    CONFIG_POSIX_MQUEUE=y\nCONFIG_CGROUPS=y\nCONFIG_MEMCG=y\nCONFIG_CGROUP_SCHED=y\nCONFIG_CGROUP_PIDS=y\nCONFIG_VETH=m\n\
    CONFIG_BRIDGE=m\nCONFIG_NF_TABLES=m\nCONFIG_NF_TABLES_INET=y\nCONFIG_NFT_CT=m\nCONFIG_NFT_MASQ=m\n";

/// A board in a folder, with those that answer on its sockets.
pub(super) struct Planted {
    pub(super) dir: TempDir,
    pub(super) board: Board,
    _broker: TcpListener,
    sockets: Vec<UnixListener>,
}

impl Planted {
    pub(super) fn write(&self, path: &str, text: &str) {
        let path = self.board.place(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn remove(&self, path: &str) {
        let path = self.board.place(path);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }

    fn private(&self, path: &str, text: &str, mode: u32) {
        self.write(path, text);
        fs::set_permissions(self.board.place(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A process `name` that has a port, as `/proc` shows it.
    fn listener(&self, table: &str, address: &str, port: u16, state: &str, name: &str) {
        let line = format!(
            "   0: {address}:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 4711 1\n"
        );
        self.write(&format!("/proc/net/{table}"), &format!("{SOCKETS}{line}"));
        self.write("/proc/99/comm", &format!("{name}\n"));
        fs::create_dir_all(self.board.place("/proc/99/fd")).unwrap();
        symlink("socket:[4711]", self.board.place("/proc/99/fd/3")).unwrap();
    }

    fn verdict(&self, check: &str) -> super::Verdict {
        let check = checks().find(|one| one.name == check).expect("the check is there");
        (check.look)(&self.board)
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the shape of the question")]
fn much(_: &Path) -> Option<Space> {
    Some(Space { bytes: 8 << 30, free_bytes: 4 << 30, inodes: 1000, free_inodes: 900 })
}

#[expect(clippy::unnecessary_wraps, reason = "the shape of the question")]
fn little(_: &Path) -> Option<Space> {
    Some(Space { bytes: 8 << 30, free_bytes: 1 << 20, inodes: 1000, free_inodes: 9 })
}

/// Much everywhere but on another disk.
fn little_data(path: &Path) -> Option<Space> {
    let data = path.components().any(|part| part.as_os_str() == "data");
    much(path)
        .map(|space| Space { free_bytes: if data { 100 << 20 } else { space.free_bytes }, ..space })
}

fn pem(until_year: i32) -> String {
    let mut params = rcgen::CertificateParams::new(vec!["pi-1".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(until_year, 6, 8);
    params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
}

/// A board on which nothing is wrong.
pub(super) fn well() -> Planted {
    let dir = tempfile::tempdir().unwrap();
    let broker = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = Config::default();
    config.device.id = "pi-1".to_owned();
    config.mqtt.url = format!("mqtt://127.0.0.1:{}", broker.local_addr().unwrap().port());
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
        timekeepers: Timekeepers::default(),
        nft: Nft {
            blockers: || Ok(Vec::new()),
            ruleset: || Ok("table inet skerry {\n}\n".to_owned()),
        },
        space: much,
    };
    let mut planted = Planted { dir, board, _broker: broker, sockets: Vec::new() };
    let long = pem(2046);
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
        ("/etc/resolv.conf", "nameserver 192.168.1.1\n"),
        ("/etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
        ("/etc/skerry/ca.pem", &long),
        ("/etc/skerry/cert.pem", &long),
        ("/etc/ssl/certs/ca-certificates.crt", &long),
    ] {
        planted.write(path, text);
    }
    planted.private("/etc/skerry/password", "hunter2\n", 0o600);
    planted.private("/etc/skerry/key.pem", "a key", 0o600);
    for path in ["/run/containerd/containerd.sock", "/run/skerry/agent.sock"] {
        let path = planted.board.place(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        planted.sockets.push(UnixListener::bind(path).unwrap());
    }
    planted
}

/// A fault: the check that sees it, how bad it is, and how it comes about.
type Fault = (&'static str, Level, fn(&mut Planted));

const FAULTS: &[Fault] = &[
    ("kernel-version", Level::Warn, |b| b.write("/proc/sys/kernel/osrelease", "4.9.80-v7")),
    ("architecture", Level::Warn, |b| b.write("/proc/sys/kernel/arch", "riscv64")),
    ("kernel-options", Level::Fail, |b| {
        b.write(
            "/boot/config-6.12.1-v8",
            &OPTIONS.replace("CONFIG_NFT_MASQ=m", "# CONFIG_NFT_MASQ is not set"),
        );
    }),
    ("namespaces", Level::Fail, |b| b.remove("/proc/self/ns/pid")),
    ("overlayfs", Level::Fail, |b| b.write("/proc/filesystems", "nodev\tproc\n")),
    ("bridges", Level::Warn, |b| {
        b.write("/lib/modules/6.12.1-v8/modules.builtin", "net/bridge.ko");
    }),
    ("nftables", Level::Warn, |b| b.write("/lib/modules/6.12.1-v8/modules.dep", "")),
    ("nftables", Level::Warn, |b| {
        b.remove("/lib/modules");
        b.remove("/boot/config-6.12.1-v8");
    }),
    ("bridges", Level::Warn, |b| {
        b.remove("/lib/modules");
        b.remove("/boot/config-6.12.1-v8");
    }),
    ("seccomp", Level::Warn, |b| b.remove("/proc/sys/kernel/seccomp")),
    ("power", Level::Fail, |b| {
        b.write("/sys/devices/platform/soc/soc:firmware/get_throttled", "0x50005");
    }),
    ("power", Level::Warn, |b| {
        b.write("/sys/devices/platform/soc/soc:firmware/get_throttled", "0x50000");
    }),
    ("cgroup-version", Level::Warn, |b| b.remove("/sys/fs/cgroup/cgroup.controllers")),
    ("cgroup-version", Level::Fail, |b| b.remove("/sys/fs/cgroup")),
    ("memory-controller", Level::Fail, |b| {
        b.write("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io pids\n");
    }),
    ("memory-controller", Level::Fail, |b| {
        b.remove("/sys/fs/cgroup/cgroup.controllers");
        b.write("/proc/cgroups", "#subsys_name hierarchy num_cgroups enabled\nmemory 0 1 0\n");
    }),
    ("cpu-controller", Level::Fail, |b| b.write("/sys/fs/cgroup/cgroup.controllers", "memory")),
    ("pids-controller", Level::Fail, |b| b.write("/sys/fs/cgroup/cgroup.controllers", "memory")),
    ("memory-size", Level::Warn, |b| b.write("/proc/meminfo", "MemTotal: 100000 kB\n")),
    ("memory-free", Level::Warn, |b| {
        b.write("/proc/meminfo", "MemTotal: 900000 kB\nMemAvailable: 9000 kB\n");
    }),
    ("memory-pressure", Level::Warn, |b| b.remove("/proc/pressure")),
    ("swap", Level::Warn, |b| {
        b.write("/proc/swaps", "Filename Type Size Used Priority\n/var/swap file 1 0 -2\n");
    }),
    ("state-durable", Level::Fail, |b| {
        b.write("/proc/mounts", "/dev/root / ext4 ro 0 0\ntmpfs /var tmpfs rw 0 0\n");
    }),
    ("state-writable", Level::Fail, |b| {
        b.write("/proc/mounts", "/dev/root / ext4 ro,noatime 0 0\n");
    }),
    ("state-space", Level::Fail, |b| b.board.space = little),
    ("state-inodes", Level::Fail, |b| b.board.space = little),
    ("image-space", Level::Fail, |b| b.board.space = little),
    ("image-space", Level::Warn, |b| {
        b.write("/etc/containerd/config.toml", "version = 2\nroot = '/data/images'\n");
        b.board.space = little_data;
    }),
    ("state-store", Level::Fail, |b| {
        b.write("/var/lib/skerry/desired.snapshot", "skerry snapshot\nsha256:00\nhalf");
    }),
    ("state-damage", Level::Warn, |b| b.write("/var/lib/skerry/state.damaged/db", "")),
    ("flash-wear", Level::Fail, |b| b.write("/sys/block/mmcblk0/device/life_time", "0x01 0x0b")),
    ("flash-wear", Level::Warn, |b| b.write("/sys/block/mmcblk0/device/pre_eol_info", "0x02")),
    ("container-logs", Level::Warn, |b| b.board.config.logs.storage = LogStorage::Persistent),
    ("forwarding", Level::Fail, |b| {
        b.write("/proc/sys/net/ipv4/ip_forward", "0");
        b.write("/sys/class/net/sk-default/mtu", "1500");
    }),
    ("firewalls", Level::Warn, |b| b.write("/sys/class/net/docker0/mtu", "1500")),
    ("nft", Level::Fail, |b| b.remove("/usr/sbin/nft")),
    ("address-pool", Level::Fail, |b| {
        b.write("/proc/net/route", "Iface\neth0\t0005D50A\t0\t1\t0\t0\t0\t00FFFFFF\n");
    }),
    ("default-route", Level::Warn, |b| b.write("/proc/net/route", "Iface\n")),
    ("name-servers", Level::Fail, |b| b.write("/etc/resolv.conf", "search lan\n")),
    ("port-http", Level::Fail, |b| b.listener("tcp", "00000000", 80, "0A", "nginx")),
    ("port-https", Level::Fail, |b| {
        b.listener("tcp6", &"0".repeat(32), 443, "0A", "nginx");
    }),
    ("port-dns", Level::Fail, |b| b.listener("udp", "00000000", 53, "07", "dnsmasq")),
    ("port-mdns", Level::Warn, |b| b.listener("udp", "00000000", 5353, "07", "chromium")),
    ("containerd-socket", Level::Fail, |b| b.remove("/run/containerd/containerd.sock")),
    ("containerd-program", Level::Warn, |b| b.remove("/usr/bin/containerd")),
    ("containerd-shim", Level::Warn, |b| b.remove("/usr/bin/containerd-shim-runc-v2")),
    ("runc", Level::Warn, |b| b.remove("/usr/sbin/runc")),
    ("runc", Level::Warn, |b| {
        b.remove("/usr/sbin/runc");
        b.write("/usr/bin/crun", "");
    }),
    ("image-authorities", Level::Fail, |b| b.write("/etc/ssl/certs/ca-certificates.crt", "")),
    ("broker-url", Level::Fail, |b| b.board.config.mqtt.url = "mqtt://me:secret@broker".to_owned()),
    ("broker-url", Level::Warn, |b| b.board.config.mqtt.url = "mqtt://10.0.0.1".to_owned()),
    ("broker-reach", Level::Fail, |b| {
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        b.board.config.mqtt.url = format!("mqtt://{gone}");
    }),
    ("broker-password", Level::Fail, |b| b.remove("/etc/skerry/password")),
    ("broker-password", Level::Fail, |b| b.write("/etc/skerry/password", "\n")),
    ("broker-password", Level::Warn, |b| b.private("/etc/skerry/password", "hunter2", 0o644)),
    ("broker-key", Level::Warn, |b| b.private("/etc/skerry/key.pem", "a key", 0o604)),
    ("broker-key", Level::Fail, |b| b.remove("/etc/skerry/key.pem")),
    ("broker-certificate", Level::Warn, |b| b.write("/etc/skerry/cert.pem", &pem(2026))),
    ("broker-certificate", Level::Fail, |b| {
        b.board.now.0 += Duration::from_hours(30 * 24);
        b.write("/etc/skerry/cert.pem", &pem(2026));
    }),
    ("broker-certificate", Level::Fail, |b| {
        b.board.built = WallTime::default();
        b.board.now = WallTime(Duration::ZERO);
    }),
    ("broker-authorities", Level::Fail, |b| b.write("/etc/skerry/ca.pem", "no PEM")),
    ("configuration", Level::Fail, |b| b.board.config_error = Some("unknown key".to_owned())),
    ("device-id", Level::Warn, |b| b.board.config.device.id = "raspberrypi".to_owned()),
    ("machine-id", Level::Warn, |b| b.write("/etc/machine-id", "uninitialized\n")),
    ("agent-socket", Level::Warn, |b| b.remove("/run/skerry/agent.sock")),
    ("clock-floor", Level::Fail, |b| b.board.now = WallTime(Duration::from_mins(1))),
    ("clock-synchronised", Level::Warn, |b| b.remove("/run/systemd/timesync/synchronized")),
    ("clock-synchronised", Level::Warn, |b| {
        // It was killed and left its file.
        b.remove("/run/systemd/timesync/synchronized");
        b.write("/run/chrony/chronyd.pid", "4711\n");
    }),
    ("clock-synchronised", Level::Warn, |b| {
        b.remove("/run/systemd/timesync/synchronized");
        b.write("/proc/77/comm", "systemd-timesyn\n");
    }),
    ("clock-synchronised", Level::Warn, |b| {
        b.remove("/run/systemd/timesync/synchronized");
        b.write("/proc/77/comm", "chronyd\n");
        b.board.timekeepers.chrony = timekeeper(chrony_tracking(3));
    }),
    ("clock-synchronised", Level::Warn, |b| {
        b.remove("/run/systemd/timesync/synchronized");
        b.write("/proc/77/comm", "ntpd\n");
        b.board.timekeepers.ntp = timekeeper(vec![0b11_100_100; 48]);
    }),
    ("time-zones", Level::Warn, |b| b.remove("/usr/share/zoneinfo/UTC")),
];

#[test]
fn each_fault_is_found_and_says_what_to_do() {
    for (check, level, plant) in FAULTS {
        let mut planted = well();
        plant(&mut planted);
        let verdict = planted.verdict(check);
        assert_eq!(verdict.level, *level, "{check}: {verdict:?}");
        assert!(!verdict.fix.is_empty() && !verdict.found.is_empty(), "{check}: {verdict:?}");
        assert!(!verdict.found.contains("secret"), "{check}: {verdict:?}");
    }
}

#[test]
fn every_check_has_a_fault_that_it_finds() {
    let names: Vec<_> = checks().map(|check| check.name).collect();
    let distinct: BTreeSet<_> = names.iter().copied().collect();
    assert_eq!(names.len(), distinct.len(), "two checks have one name");
    let planted: BTreeSet<_> = FAULTS.iter().map(|(check, ..)| *check).collect();
    assert_eq!(planted, distinct);
    assert!(30 <= names.len());
}

#[tokio::test]
async fn nothing_is_found_on_a_board_that_is_well() {
    let planted = well();
    let board = Arc::new(planted.board);
    let findings = examine(&board, checks().collect()).await;
    let wrong: Vec<_> = findings.iter().filter(|one| one.level != Level::Ok).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(findings.len(), checks().count());
    drop(planted.dir);
}

/// Answers one question with `answer`.
fn timekeeper(answer: Vec<u8>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut request = [0; 512];
        let (_, from) = socket.recv_from(&mut request).unwrap();
        socket.send_to(&answer, from).unwrap();
    });
    address
}

/// What chronyd says of itself: version, reply, command, kind; and far in, whether it follows anybody.
fn chrony_tracking(leap: u8) -> Vec<u8> {
    let mut answer = vec![6, 2, 0, 0, 0, 33, 0, 5, 0, 0];
    answer.resize(104, 0);
    answer[55] = leap;
    answer
}

#[test]
fn a_timekeeper_that_follows_a_server_is_believed() {
    let mut planted = well();
    planted.remove("/run/systemd/timesync/synchronized");
    planted.write("/proc/77/comm", "chronyd\n");
    planted.board.timekeepers.chrony = timekeeper(chrony_tracking(0));
    let verdict = planted.verdict("clock-synchronised");
    assert_eq!((verdict.level, &*verdict.found), (Level::Ok, "by chronyd"));
    planted.write("/proc/77/comm", "ntpd\n");
    planted.board.timekeepers.ntp = timekeeper(vec![0b00_100_100; 48]);
    assert_eq!(planted.verdict("clock-synchronised").found, "by ntpd");
}

#[test]
fn a_certificate_is_judged_by_the_floor_of_a_clock_that_forgot() {
    let mut planted = well();
    planted.board.now = WallTime::default();
    assert_eq!(planted.verdict("broker-certificate").level, Level::Ok);
    assert_eq!(planted.verdict("clock-floor").level, Level::Fail);
}

#[test]
fn what_only_root_may_read_is_no_fault() {
    let denied = unread("/etc/skerry/password", &ErrorKind::PermissionDenied.into(), "write it");
    assert_eq!((denied.level, &*denied.fix), (Level::Warn, "run it as root"));
    let missing = unread("/etc/skerry/password", &ErrorKind::NotFound.into(), "write it");
    assert_eq!((missing.level, &*missing.fix), (Level::Fail, "write it"));
}

#[tokio::test]
async fn checks_that_hang_share_one_deadline_and_say_what_hangs() {
    let mut planted = well();
    // Whoever opens a pipe that nobody writes to waits.
    let pipes = ["/etc/skerry/ca.pem", "/etc/skerry/cert.pem", "/proc/swaps"];
    for pipe in pipes {
        planted.remove(pipe);
        nix::unistd::mkfifo(&planted.board.place(pipe), nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    planted.board.config.mqtt.password_file.clear();
    let board = Arc::new(planted.board);
    let patience = Duration::from_secs(2);
    let began = tokio::time::Instant::now();
    let findings = within(&board, checks().collect(), patience).await;
    let took = began.elapsed();
    // Those that still wait go on when somebody has written.
    for pipe in pipes {
        fs::write(board.place(pipe), "").unwrap();
    }
    let hung = findings.iter().filter(|one| one.found == "no answer within 2 seconds");
    let hung: Vec<_> = hung.map(|one| (one.check, one.fix.split(':').next().unwrap())).collect();
    let files = "see whether the broker's name is found and its files are plain files";
    let expected = [
        ("swap", "see what the kernel waits for"),
        ("broker-certificate", files),
        ("broker-authorities", files),
    ];
    assert_eq!(hung, expected);
    assert!(took < patience * 2, "{took:?}");
    drop(planted.dir);
}

#[test]
fn a_port_of_the_agent_itself_is_no_fault() {
    let planted = well();
    planted.listener("tcp", "00000000", 80, "0A", "skerry");
    assert_eq!(planted.verdict("port-http").level, Level::Ok);
}

#[test]
fn every_field_of_a_finding_is_always_there() {
    let finding = super::Finding {
        check: "power",
        topic: super::Topic::ControlPlane,
        level: Level::Ok,
        found: String::new(),
        fix: String::new(),
    };
    let json = serde_json::to_string(&finding).unwrap();
    let expected = r#"{"check":"power","topic":"controlPlane","level":"ok","found":"","fix":""}"#;
    assert_eq!(json, expected);
}

#[test]
fn the_page_lists_every_check() {
    let mut page = String::from(
        "# The doctor\n\n\
         ```sh\nskerry doctor\nskerry doctor -o json\n```\n\n\
         It looks at the board and needs no agent. Each check is `ok`, `warn` (apps run, and something is missing) or `fail` \
         (what\ndocuments ask for cannot work), with something to type where it is not `ok`. Exit code 1 where a check fails, \
         else 0. It\nchanges nothing, and ends within seconds: a check that hangs is a finding. Some things are for root to \
         see; those\nchecks say so. `-o json` is a list with `check`, `topic`, `level`, `found` and `fix`, always all \
         five.\n\n\
         This page is made by `UPDATE_EXPECT=1 cargo test --package skerry --lib doctor::`.\n\n\
         | about | check | what to do, as for the usual fault |\n|---|---|---|\n",
    );
    for check in checks() {
        let (.., plant) = FAULTS.iter().find(|(name, ..)| *name == check.name).unwrap();
        let mut planted = well();
        plant(&mut planted);
        let fix = planted.verdict(check.name).fix.replace('|', "\\|");
        let topic = check.topic.to_string();
        page.extend(["| ", &topic, " | `", check.name, "` | ", &fix, " |\n"]);
    }
    expect_test::expect_file!["../../../docs/guide/doctor.md"].assert_eq(&page);
}
