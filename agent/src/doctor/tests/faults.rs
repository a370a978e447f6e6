//! The faults: one at least for each check.

use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use domain::model::WallTime;
use skerry_proto::v1::{DeviceReply, DeviceStatus, Finding};

use super::answering::{answering, broker, census, chrony_tracking, device, dns_answer, stranger};
use super::planted::{OPTIONS, Planted, little, little_data, pem};
use crate::config::{LogStorage, Trust};
use crate::containerd::Census;
use crate::doctor::{Level, Silence};

/// A fault: the check that sees it, how bad it is, and how it comes about.
pub(in crate::doctor) type Fault = (&'static str, Level, fn(&mut Planted));

pub(in crate::doctor) const FAULTS: &[Fault] = &[
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
    ("upstream-dns", Level::Fail, |b| {
        // Nobody listens there.
        b.board.asked.dns_port =
            UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    }),
    ("upstream-dns", Level::Fail, |b| b.board.asked.dns_port = answering(dns_answer(2)).port()),
    ("upstream-dns", Level::Warn, |b| {
        b.write("/etc/resolv.conf", "nameserver 127.0.0.1\nnameserver 127.0.0.2\n");
    }),
    ("forward-chains", Level::Fail, |b| {
        b.board.asked.nft.blockers = || Ok(vec!["ip filter FORWARD".to_owned()]);
    }),
    ("forward-chains", Level::Warn, |b| {
        b.board.asked.nft.blockers = || Err("Operation not permitted".to_owned());
    }),
    ("reverse-path", Level::Warn, |b| {
        let routes = b.board.text("/proc/net/route").unwrap();
        let second = "wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n";
        b.write("/proc/net/route", &format!("{routes}\n{second}"));
        b.write("/proc/sys/net/ipv4/conf/all/rp_filter", "1\n");
    }),
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
    ("containerd-version", Level::Warn, |b| {
        b.board.asked.containerd = |_| Ok(Census { version: "1.4.13~ds1".to_owned(), ..census() });
    }),
    ("containerd-version", Level::Fail, |b| {
        b.board.asked.containerd = |_| Err("no answer within 5 seconds".to_owned());
    }),
    ("snapshotter", Level::Fail, |b| {
        b.board.asked.containerd =
            |_| Ok(Census { snapshotters: vec!["native".to_owned()], ..census() });
    }),
    ("shims", Level::Warn, |b| {
        b.board.asked.containerd = |_| Ok(Census { orphans: vec![4711], ..census() });
    }),
    ("image-trust", Level::Fail, |b| {
        let trust = Trust { keys: vec!["/etc/skerry/cosign.pub".into()], ..Trust::default() };
        b.board.config.images.trust.insert("*".to_owned(), trust);
    }),
    ("image-trust", Level::Fail, |b| {
        b.write(
            "/etc/skerry/cosign.pub",
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        );
        let trust = Trust { keys: vec!["/etc/skerry/cosign.pub".into()], ..Trust::default() };
        b.board.config.images.trust.insert("*".to_owned(), trust);
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
    ("broker-identity", Level::Fail, |b| b.write("/etc/skerry/cert.pem", &pem(2046))),
    ("broker-identity", Level::Fail, |b| b.write("/etc/skerry/key.pem", "no key")),
    ("broker-login", Level::Fail, |b| {
        // Not authorised, which is what mosquitto says to a wrong password.
        b.board.config.mqtt.url = format!("mqtt://{}", broker(0x87));
        b.board.asked.agent = |_| Err(Silence::Absent("nobody".to_owned()));
    }),
    ("broker-login", Level::Fail, |b| b.board.config.mqtt.url = format!("mqtts://{}", stranger())),
    ("configuration", Level::Fail, |b| b.board.config_error = Some("unknown key".to_owned())),
    ("device-id", Level::Warn, |b| b.board.config.device.id = "raspberrypi".to_owned()),
    ("machine-id", Level::Warn, |b| b.write("/etc/machine-id", "uninitialized\n")),
    ("agent-socket", Level::Warn, |b| b.remove("/run/skerry/agent.sock")),
    ("agent-round", Level::Warn, |b| {
        b.board.asked.agent = |_| Err(Silence::Absent("nobody answers".to_owned()));
    }),
    ("agent-round", Level::Fail, |b| b.board.asked.agent = |_| Err(Silence::Hangs)),
    ("agent-round", Level::Fail, |b| {
        b.board.asked.agent = |_| Ok(DeviceReply { seconds_since_round: 600, ..device() });
    }),
    ("agent-version", Level::Warn, |b| {
        b.board.asked.agent = |_| {
            let status =
                DeviceStatus { agent_version: "0.0.1".to_owned(), ..DeviceStatus::default() };
            Ok(DeviceReply { status: Some(status), ..device() })
        };
    }),
    ("agent-troubles", Level::Warn, |b| {
        b.board.asked.agent = |_| {
            let trouble = Finding { reason: "PortTaken".to_owned(), ..Finding::default() };
            let status = DeviceStatus { troubles: vec![trouble], ..DeviceStatus::default() };
            Ok(DeviceReply { status: Some(status), ..device() })
        };
    }),
    ("agent-broker", Level::Warn, |b| {
        b.board.asked.agent =
            |_| Ok(DeviceReply { status: Some(DeviceStatus::default()), ..device() });
    }),
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
        b.board.asked.timekeepers.chrony = answering(chrony_tracking(3));
    }),
    ("clock-synchronised", Level::Warn, |b| {
        b.remove("/run/systemd/timesync/synchronized");
        b.write("/proc/77/comm", "ntpd\n");
        b.board.asked.timekeepers.ntp = answering(vec![0b11_100_100; 48]);
    }),
    ("time-zones", Level::Warn, |b| b.remove("/usr/share/zoneinfo/UTC")),
];
