//! The agent itself: its configuration, its name, its socket.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;

use super::{Board, Check, Topic, Verdict};

pub(super) const CHECKS: &[Check] = &[
    Check::new("configuration", Topic::Agent, configuration),
    Check::new("device-id", Topic::Agent, device_id),
    Check::new("machine-id", Topic::Agent, machine_id),
    Check::new("agent-socket", Topic::Agent, socket),
];

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
