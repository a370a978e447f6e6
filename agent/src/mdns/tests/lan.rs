//! Two namespaces and a cable; a board that announces in one, sockets that ask in the other.

use std::fs::{self, File};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use domain::zone::{Announcements, LanNames};
use nix::sched::{CloneFlags, setns};
use simple_dns::rdata::{A, RData};
use simple_dns::{CLASS, Name, Packet, QCLASS, QTYPE, Question, ResourceRecord, TYPE};
use tempfile::TempDir;
use tokio::runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{BOARD, NEIGHBOUR};
use crate::config::Mdns;
use crate::mdns::{MdnsSettings, run};
use crate::published::{DeviceState, Publisher, channels};

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
/// At the far end of what is, on the board, the bridge of an environment.
const INNER_NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(10, 231, 8, 2);
/// Waits of a quarter of a second before a test gives up.
const WAITS: usize = 60;

/// Two namespaces and a cable, gone with the value.
pub(super) struct Lan {
    board: String,
    neighbour: String,
}

impl Lan {
    /// `None`, with a word why, where namespaces cannot be made.
    pub(super) fn new(name: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: namespaces need root");
            return None;
        }
        let tag = format!("wtmq-{name}-{}", std::process::id());
        let lan = Self { board: format!("{tag}-a"), neighbour: format!("{tag}-b") };
        for line in [
            format!("netns add {}", lan.board),
            format!("netns add {}", lan.neighbour),
            format!(
                "-n {} link add lan0 type veth peer name lan0 netns {}",
                lan.board, lan.neighbour
            ),
            format!("-n {} addr add {BOARD}/24 dev lan0", lan.board),
            format!("-n {} addr add {NEIGHBOUR}/24 dev lan0", lan.neighbour),
            format!("-n {} link set lan0 up", lan.board),
            format!("-n {} link set lo up", lan.board),
            format!("-n {} link set lan0 up", lan.neighbour),
            format!("-n {} route add 224.0.0.0/4 dev lan0", lan.neighbour),
            format!(
                "-n {} link add sk-default type veth peer name inner0 netns {}",
                lan.board, lan.neighbour
            ),
            format!("-n {} addr add 10.231.8.1/24 dev sk-default", lan.board),
            format!("-n {} link set sk-default up", lan.board),
            format!("-n {} addr add {INNER_NEIGHBOUR}/24 dev inner0", lan.neighbour),
            format!("-n {} link set inner0 up", lan.neighbour),
        ] {
            assert!(ip(&line), "ip {line}");
        }
        Some(lan)
    }

    /// An avahi beside the board, where there is one: a closure that runs one of its tools.
    pub(super) fn avahi(&self) -> Option<Avahi> {
        if !["dbus-daemon", "avahi-resolve", "avahi-browse"]
            .iter()
            .all(|tool| Path::new("/usr/bin").join(tool).exists())
            || !Path::new("/usr/sbin/avahi-daemon").exists()
        {
            println!("skipped: avahi or dbus is not installed");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("wtmq-").tempdir().unwrap();
        let file = |name: &str| dir.path().join(name).display().to_string();
        let bus = format!("unix:path={}", file("bus"));
        fs::write(dir.path().join("bus.conf"), BUS.replace("{bus}", &bus)).unwrap();
        fs::write(dir.path().join("avahi.conf"), "[server]\nhost-name=neighbour\nuse-ipv6=no\nallow-interfaces=lan0\n[wide-area]\n[publish]\n").unwrap();
        // Both keep their pid files to themselves; whatever runs on the machine is not met.
        let script = format!(
            "mkdir -p /run/avahi-daemon && mount -t tmpfs none /run/avahi-daemon && \
             dbus-daemon --nofork --nopidfile --config-file={} & \
             while ! test -S {}; do :; done; exec avahi-daemon --no-drop-root --no-chroot --no-rlimits -f {}",
            file("bus.conf"),
            file("bus"),
            file("avahi.conf")
        );
        let process = Command::new("ip")
            .env("DBUS_SYSTEM_BUS_ADDRESS", &bus)
            .args([
                "netns",
                "exec",
                &self.neighbour,
                "unshare",
                "-fp",
                "--kill-child",
                "sh",
                "-c",
                &script,
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Some(Avahi { process, bus, namespace: self.neighbour.clone(), _dir: dir })
    }

    /// A socket beside the board, which hears all that is said.
    pub(super) fn neighbour(&self) -> Neighbour {
        let bound = inside(&self.neighbour, || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 5353)).unwrap();
            socket.join_multicast_v4(&GROUP, &NEIGHBOUR).unwrap();
            socket.join_multicast_v4(&GROUP, &INNER_NEIGHBOUR).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(250))).unwrap();
            socket
        });
        Neighbour(bound.join().unwrap())
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        ip(&format!("netns del {}", self.board));
        ip(&format!("netns del {}", self.neighbour));
    }
}

fn ip(line: &str) -> bool {
    Command::new("ip").args(line.split(' ')).status().is_ok_and(|status| status.success())
}

/// Runs `work` on a thread inside a namespace; sockets it makes stay there.
fn inside<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let namespace = File::open(format!("/run/netns/{namespace}")).unwrap();
    thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
}

/// A bus for one daemon.
const BUS: &str = r#"<busconfig><type>system</type><listen>{bus}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_type="method_call"/>
<allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>"#;

/// A foreign resolver that people use.
pub(super) struct Avahi {
    process: Child,
    bus: String,
    namespace: String,
    _dir: TempDir,
}

impl Avahi {
    /// Runs one of its tools until it says `wanted`.
    pub(super) fn says(&self, line: &str, wanted: &str) -> String {
        let mut said = String::new();
        for _ in 0..WAITS {
            let output = Command::new("ip")
                .args(["netns", "exec", &self.namespace, "timeout", "3"])
                .args(line.split(' '))
                .env("DBUS_SYSTEM_BUS_ADDRESS", &self.bus)
                .output()
                .unwrap();
            said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            if said.contains(wanted) {
                return said;
            }
        }
        panic!("{line}: no {wanted:?} in {said:?}");
    }
}

impl Drop for Avahi {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// The adapter, running inside the board's namespace.
pub(super) struct Board {
    publisher: Publisher,
    names: watch::Receiver<Arc<LanNames>>,
    stop: CancellationToken,
    thread: thread::JoinHandle<()>,
}

impl Board {
    pub(super) fn start(lan: &Lan, enabled: bool, interfaces: &[&str]) -> Self {
        let (publisher, levels) = channels();
        let (report, names) = watch::channel(Arc::default());
        let stop = CancellationToken::new();
        let interfaces = interfaces.iter().map(|name| (*name).to_owned()).collect();
        let settings = MdnsSettings {
            mdns: Mdns { enabled, interfaces },
            device: "pi-1".to_owned(),
            port: 80,
        };
        let adapter = run(settings, levels, report, stop.clone());
        let thread = inside(&lan.board, move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(adapter);
        });
        publisher
            .device
            .send_replace(Arc::new(DeviceState { rounds: 1, ..DeviceState::default() }));
        Self { publisher, names, stop, thread }
    }

    pub(super) fn announce(&self, announcements: Arc<Announcements>) {
        self.publisher.announcements.send_replace(announcements);
    }

    pub(super) fn names(&self) -> Arc<LanNames> {
        Arc::clone(&self.names.borrow())
    }

    /// Waits until a name is held for `app`.
    pub(super) fn held(&self, app: &str) -> String {
        let mut names = self.names.clone();
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let app: domain::model::AppName = app.parse().unwrap();
        let held = async {
            let wait = names.wait_for(|names| names.contains_key(&app));
            tokio::time::timeout(Duration::from_secs(15), wait)
                .await
                .expect("a name is held")
                .unwrap()[&app]
                .clone()
        };
        runtime.block_on(held)
    }

    pub(super) fn stop(self) {
        self.stop.cancel();
        self.thread.join().unwrap();
        assert!(self.names.borrow().is_empty(), "no name is held after the end");
    }
}

/// A foreign resolver.
pub(super) struct Neighbour(UdpSocket);

type Record = ResourceRecord<'static>;

impl Neighbour {
    /// Asks until an answer satisfies `wanted`; returns all that was heard meanwhile.
    pub(super) fn ask(
        &self,
        name: &str,
        kind: TYPE,
        wanted: impl Fn(&Record) -> bool,
    ) -> Vec<Record> {
        let mut query = Packet::new_query(0);
        let question = Question::new(
            Name::new_unchecked(name),
            QTYPE::TYPE(kind),
            QCLASS::CLASS(CLASS::IN),
            false,
        );
        query.questions.push(question);
        let query = query.build_bytes_vec().unwrap();
        let wanted = |record: &Record| record.name.to_string() == name && wanted(record);
        self.wait(name, Some(&query), wanted)
    }

    /// Listens until something satisfies `wanted`.
    pub(super) fn hear(&self, what: &str, wanted: impl Fn(&Record) -> bool) {
        self.wait(what, None, wanted);
    }

    fn wait(
        &self,
        what: &str,
        query: Option<&[u8]>,
        wanted: impl Fn(&Record) -> bool,
    ) -> Vec<Record> {
        let mut heard = Vec::new();
        for n in 0..WAITS {
            if let Some(query) = query.filter(|_| n % 4 == 0) {
                self.0.send_to(query, (GROUP, 5353)).unwrap();
            }
            while let Some(packet) = self.receive() {
                let packet = Packet::parse(&packet).unwrap();
                let records = packet.answers.iter().chain(&packet.additional_records);
                heard.extend(records.map(|record| record.clone().into_owned()));
                if heard.iter().any(&wanted) {
                    return heard;
                }
            }
        }
        panic!("waited in vain for {what}; heard {heard:#?}");
    }

    /// Answers the first question about `name`, as one who holds it.
    pub(super) fn defend(&self, name: &str, address: Ipv4Addr) {
        let mut reply = Packet::new_reply(0);
        let data = RData::A(A { address: address.into() });
        let record = ResourceRecord::new(Name::new_unchecked(name), CLASS::IN, 120, data)
            .with_cache_flush(true);
        reply.answers.push(record);
        let reply = reply.build_bytes_vec().unwrap();
        for _ in 0..WAITS {
            while let Some(packet) = self.receive() {
                let packet = Packet::parse(&packet).unwrap();
                if packet.questions.iter().any(|question| question.qname.to_string() == name) {
                    self.0.send_to(&reply, (GROUP, 5353)).unwrap();
                    return;
                }
            }
        }
        panic!("nobody asked for {name}");
    }

    /// A packet, or nothing for a quarter of a second. What this socket said itself is not heard.
    fn receive(&self) -> Option<Vec<u8>> {
        let mut packet = vec![0; 9000];
        loop {
            let (length, from) = self.0.recv_from(&mut packet).ok()?;
            let own = [NEIGHBOUR, INNER_NEIGHBOUR];
            if !own.iter().any(|own| from.ip() == *own) {
                assert_eq!(from.ip(), BOARD, "the bridge of an environment is not the LAN");
                packet.truncate(length);
                return Some(packet);
            }
        }
    }
}

/// The addresses that were said for a host, each once.
pub(super) fn addresses(records: &[Record], host: &str) -> Vec<Ipv4Addr> {
    let mut all: Vec<Ipv4Addr> = Vec::new();
    for record in records.iter().filter(|record| record.name.to_string() == host) {
        if let RData::A(a) = &record.rdata {
            all.push(a.address.into());
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// It is a TXT record with this attribute.
pub(super) fn has_text(record: &Record, key: &str, value: &str) -> bool {
    let RData::TXT(content) = &record.rdata else { return false };
    content.attributes().get(key).is_some_and(|known| known.as_deref() == Some(value))
}

/// It is a PTR record to this instance.
pub(super) fn points_to(record: &Record, instance: &str) -> bool {
    matches!(&record.rdata, RData::PTR(pointer) if pointer.0.to_string() == instance)
}
