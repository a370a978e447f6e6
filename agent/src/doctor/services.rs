//! The container runtime: its socket and its programs.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;

use super::{Board, Check, Topic, Verdict, unread};

pub(super) const CHECKS: &[Check] = &[
    Check::new("containerd-socket", Topic::Containerd, socket),
    Check::new("containerd-program", Topic::Containerd, program),
    Check::new("containerd-shim", Topic::Containerd, shim),
    Check::new("runc", Topic::Containerd, runc),
    Check::new("image-authorities", Topic::Containerd, authorities),
];

fn socket(board: &Board) -> Verdict {
    let path = &board.config.containerd.address;
    match UnixStream::connect(board.place(path)) {
        Ok(_) => Verdict::ok(path.display().to_string()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Verdict::warn(format!("{} is for root alone", path.display()), "run it as root")
        }
        Err(error) => Verdict::fail(
            format!("nobody answers at {}: {error}", path.display()),
            "systemctl enable --now containerd; where its socket is elsewhere, set [containerd] address",
        ),
    }
}

fn program(board: &Board) -> Verdict {
    has_program(board, "containerd", "apt install containerd")
}

fn shim(board: &Board) -> Verdict {
    // containerd makes the program's name of the runtime's: io.containerd.runc.v2 is containerd-shim-runc-v2.
    let runtime = &board.config.containerd.runtime;
    let mut parts = runtime.rsplit('.');
    let (version, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let fix = format!(
        "apt install containerd, or set [containerd] runtime to one that is there instead of {runtime}"
    );
    has_program(board, &format!("containerd-shim-{name}-{version}"), &fix)
}

fn runc(board: &Board) -> Verdict {
    if !board.config.containerd.runtime.contains(".runc.") {
        return Verdict::ok(format!("not needed by {}", board.config.containerd.runtime));
    }
    // The shim starts what is called runc, unless containerd's configuration of this very runtime says otherwise; the agent
    // makes containers by the API, where that configuration does not count.
    has_program(
        board,
        "runc",
        "apt install runc; another, such as crun, serves by ln -s /usr/bin/crun /usr/local/sbin/runc",
    )
}

fn has_program(board: &Board, name: &str, fix: &str) -> Verdict {
    match board.program(name) {
        Some(path) => Verdict::ok(path.display().to_string()),
        None => Verdict::warn(format!("no program {name} is seen"), fix),
    }
}

fn authorities(board: &Board) -> Verdict {
    let own = &board.config.images.ca;
    let (path, fix) = if own.is_empty() {
        (crate::dial::tls::SYSTEM_AUTHORITIES, "apt install ca-certificates")
    } else {
        (own.as_str(), "set [images] ca to a PEM file with certificates")
    };
    match board.bytes(path) {
        Ok(pem) if !crate::dial::tls::authorities(&pem).is_empty() => Verdict::ok(path),
        Ok(_) => Verdict::fail(format!("{path} holds no certificate"), fix),
        Err(error) => unread(path, &error, fix),
    }
}
