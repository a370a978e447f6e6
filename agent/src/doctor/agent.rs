//! The agent itself: its configuration, its name, its socket.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;

use skerry_proto::v1::DeviceReply;

use super::{Board, Check, Silence, Topic, Verdict};

pub(super) const CHECKS: &[Check] = &[
    Check::new("configuration", Topic::Agent, configuration),
    Check::new("device-id", Topic::Agent, device_id),
    Check::new("machine-id", Topic::Agent, machine_id),
    Check::new("agent-socket", Topic::Agent, socket),
    Check::new("agent-round", Topic::Agent, round),
    Check::new("agent-version", Topic::Agent, version),
    Check::new("agent-troubles", Topic::Agent, troubles),
    Check::new("agent-broker", Topic::ControlPlane, broker),
];

/// The loop goes round once a minute at least; a board whose disk is busy may take longer.
const LONGEST_ROUND_SECS: u32 = 180;

/// What is said where there is no agent to ask; `agent-socket` says what to do.
const NOBODY: &str = "no agent runs";

fn device(board: &Board) -> Result<DeviceReply, Silence> {
    (board.asked.agent)(&board.place(board.config.socket()))
}

fn round(board: &Board) -> Verdict {
    let restart = "systemctl restart skerry, apps go on; before it, skerry doctor --bundle FILE.tar.gz for whoever looks for the cause";
    match device(board) {
        Ok(reply) if LONGEST_ROUND_SECS < reply.seconds_since_round => Verdict::fail(
            format!("the last round was {} seconds ago", reply.seconds_since_round),
            restart,
        ),
        Ok(reply) => Verdict::ok(format!("{} seconds ago", reply.seconds_since_round)),
        Err(Silence::Hangs) => Verdict::fail("the agent does not answer", restart),
        Err(Silence::Absent(why)) => Verdict::warn(
            format!("there is no round: {why}"),
            "systemctl enable --now skerry; where it ended, journalctl --unit skerry says why",
        ),
    }
}

fn version(board: &Board) -> Verdict {
    let own = env!("CARGO_PKG_VERSION");
    match device(board) {
        Ok(DeviceReply { status: Some(status), .. }) if status.agent_version != own => {
            Verdict::warn(
                format!(
                    "the agent that runs is {}, what is installed is {own}",
                    status.agent_version
                ),
                "systemctl restart skerry; apps go on meanwhile",
            )
        }
        Ok(_) => Verdict::ok(own),
        Err(_) => Verdict::ok(NOBODY),
    }
}

fn troubles(board: &Board) -> Verdict {
    let Ok(reply) = device(board) else { return Verdict::ok(NOBODY) };
    let troubles = reply.status.unwrap_or_default().troubles;
    let Some(first) = troubles.first() else { return Verdict::ok("it has none") };
    let said = troubles.iter().map(|one| format!("{}: {}", one.reason, one.message));
    Verdict::warn(said.collect::<Vec<_>>().join("; "), format!("skerry explain {}", first.reason))
}

fn broker(board: &Board) -> Verdict {
    if board.config.mqtt.url.is_empty() {
        return Verdict::ok("there is no control plane");
    }
    match device(board) {
        Ok(DeviceReply { status: Some(status), .. }) if status.online => {
            Verdict::ok(format!("connected, epoch {}", status.epoch))
        }
        Ok(_) => Verdict::warn(
            "the agent is not connected to its broker; apps run on",
            "see broker-login and broker-reach above; it tries again by itself, within 5 minutes",
        ),
        Err(_) => Verdict::ok(NOBODY),
    }
}

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
