//! The agent itself: its configuration, its name, its socket, and the clock it goes by.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use domain::model::WallTime;

use super::{Board, Check, Topic, Verdict};
use crate::clock::rfc3339;
use crate::sled_store;

pub(super) const CHECKS: &[Check] = &[
    Check::new("configuration", Topic::Agent, configuration),
    Check::new("device-id", Topic::Agent, device_id),
    Check::new("machine-id", Topic::Agent, machine_id),
    Check::new("agent-socket", Topic::Agent, socket),
    Check::new("clock-floor", Topic::Agent, clock_floor),
    Check::new("clock-synchronised", Topic::Agent, clock_synchronised),
    Check::new("time-zones", Topic::Agent, time_zones),
];

/// No board that runs this release has a date before it: 2026-01-01, in hours since 1970.
const RELEASED: Duration = Duration::from_hours(490_896);

fn configuration(board: &Board) -> Verdict {
    match &board.config_error {
        Some(error) => {
            Verdict::fail(error, "correct /etc/skerry/agent.toml; the other checks go by defaults")
        }
        None => Verdict::ok("understood"),
    }
}

fn device_id(board: &Board) -> Verdict {
    let id = &board.config.device.id;
    if ["device", "localhost", "raspberrypi", "debian", "armbian"].contains(&id.as_str()) {
        return Verdict::warn(
            format!(
                "{id} is what boards are called that nobody named: two of them take each other's place"
            ),
            "set [device] id, or hostnamectl set-hostname NAME",
        );
    }
    Verdict::ok(id)
}

fn machine_id(board: &Board) -> Verdict {
    match board.text("/etc/machine-id") {
        Some(id) if id.len() == 32 => Verdict::ok("there"),
        Some(_) | None => Verdict::warn(
            "there is no /etc/machine-id, or it changes with each boot",
            "systemd-machine-id-setup --commit",
        ),
    }
}

fn socket(board: &Board) -> Verdict {
    let path = board.config.socket();
    match UnixStream::connect(board.place(&path)) {
        Ok(_) => Verdict::ok("the agent runs"),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Verdict::warn(format!("{} is not for you", path.display()), "run it as root")
        }
        Err(_) => Verdict::warn(
            format!("no agent answers at {}", path.display()),
            "systemctl enable --now skerry; where it ended, journalctl --unit skerry says why",
        ),
    }
}

fn clock_floor(board: &Board) -> Verdict {
    let stored = sled_store::inspect_copy(&board.place(&board.config.state.dir));
    let stored = Duration::from_secs(stored.ok().flatten().unwrap_or_default());
    let floor = WallTime(stored.max(RELEASED));
    if board.now < floor {
        return Verdict::fail(
            format!("it is {} here, and it was {} before", rfc3339(board.now), rfc3339(floor)),
            "set the clock: timedatectl set-ntp true; a board without a battery wants fake-hwclock",
        );
    }
    Verdict::ok(rfc3339(board.now))
}

fn clock_synchronised(board: &Board) -> Verdict {
    let told = ["/run/systemd/timesync/synchronized", "/run/chrony/chronyd.pid", "/run/ntpd.pid"];
    if told.into_iter().any(|path| board.has(path)) {
        return Verdict::ok("by the network");
    }
    Verdict::warn("nobody sets the clock by the network", "timedatectl set-ntp true")
}

fn time_zones(board: &Board) -> Verdict {
    if board.has("/usr/share/zoneinfo/Etc/UTC") || board.has("/usr/share/zoneinfo/UTC") {
        return Verdict::ok("there");
    }
    Verdict::warn(
        "there is no time zone database: windows and cron rules in a zone do not open",
        "apt install tzdata",
    )
}
