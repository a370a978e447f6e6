//! The clock the agent goes by: whether it is behind what was known, and whether somebody sets it.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::{Board, Check, Topic, Verdict};
use crate::clock::rfc3339;

pub(super) const CHECKS: &[Check] = &[
    Check::new("clock-floor", Topic::Agent, floor),
    Check::new("clock-synchronised", Topic::Agent, synchronised),
    Check::new("time-zones", Topic::Agent, zones),
];

/// Who sets the clock, asked on the board itself.
#[derive(Debug, Clone, Copy)]
pub struct Timekeepers {
    /// chronyd, for its own client.
    pub chrony: SocketAddr,
    /// ntpd, for everybody.
    pub ntp: SocketAddr,
}

impl Default for Timekeepers {
    fn default() -> Self {
        let local = |port| (Ipv4Addr::LOCALHOST, port).into();
        Self { chrony: local(323), ntp: local(123) }
    }
}

fn floor(board: &Board) -> Verdict {
    let floor = board.floor();
    if board.now < floor {
        return Verdict::fail(
            format!(
                "it is {} here, and it was {} before; certificates are judged by the later",
                rfc3339(board.now),
                rfc3339(floor)
            ),
            "set the clock: timedatectl set-ntp true; a board without a battery wants fake-hwclock",
        );
    }
    Verdict::ok(rfc3339(board.now))
}

fn synchronised(board: &Board) -> Verdict {
    if board.has("/run/systemd/timesync/synchronized") {
        return Verdict::ok("by systemd-timesyncd");
    }
    let processes = board.names("/proc").into_iter().filter(|name| name.parse::<u32>().is_ok());
    let running: Vec<_> =
        processes.filter_map(|pid| board.text(format!("/proc/{pid}/comm"))).collect();
    let runs = |name: &str| running.iter().any(|comm| comm == name);
    let (name, knows, fix) = if runs("chronyd") {
        ("chronyd", chrony_knows(board.asked.timekeepers.chrony), "chronyc sources")
    } else if runs("ntpd") {
        ("ntpd", ntp_knows(board.asked.timekeepers.ntp), "ntpq -p")
    } else if runs("systemd-timesyn") {
        ("systemd-timesyncd", Some(false), "timedatectl timesync-status")
    } else {
        return Verdict::warn("nobody sets the clock by the network", "timedatectl set-ntp true");
    };
    match knows {
        Some(true) => Verdict::ok(format!("by {name}")),
        Some(false) => Verdict::warn(
            format!("{name} runs, and has not found the time yet"),
            format!("see whether its servers answer: {fix}"),
        ),
        None => Verdict::ok(format!("{name} runs")),
    }
}

/// What a request for chronyd's tracking is, and where its answer says whether it follows anybody: its protocol 6.
const CHRONY_REQUEST: usize = 104;
const CHRONY_LEAP: usize = 55;
/// Both protocols say by this that they follow nobody.
const NOT_SYNCHRONISED: u8 = 3;

/// chronyd follows a server, as it tells its own client; none where it does not answer.
fn chrony_knows(at: SocketAddr) -> Option<bool> {
    let mut request = [0; CHRONY_REQUEST];
    // Protocol 6, a request, for command 33.
    request[..6].copy_from_slice(&[6, 1, 0, 0, 0, 33]);
    let answer = ask(at, &request)?;
    let understood = answer.get(..2) == Some(&[6, 2]) && answer.get(8..10) == Some(&[0, 0]);
    let leap = *answer.get(CHRONY_LEAP)?;
    understood.then_some(leap != NOT_SYNCHRONISED)
}

/// A server of NTP follows another, as it tells whoever asks for the time; none where it does not answer.
fn ntp_knows(at: SocketAddr) -> Option<bool> {
    let mut request = [0; 48];
    // Version 4, from a client.
    request[0] = 0b00_100_011;
    let first = *ask(at, &request)?.first()?;
    Some(first >> 6 != NOT_SYNCHRONISED)
}

fn ask(at: SocketAddr, request: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
    // It is on this board.
    socket.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    socket.connect(at).ok()?;
    socket.send(request).ok()?;
    let mut answer = vec![0; 512];
    let length = socket.recv(&mut answer).ok()?;
    answer.truncate(length);
    Some(answer)
}

fn zones(board: &Board) -> Verdict {
    if board.has("/usr/share/zoneinfo/Etc/UTC") || board.has("/usr/share/zoneinfo/UTC") {
        return Verdict::ok("there");
    }
    Verdict::warn(
        "there is no time zone database: windows and cron rules in a zone do not open",
        "apt install tzdata",
    )
}
