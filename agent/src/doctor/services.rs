//! The container runtime: its socket and its programs.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;

use super::{Board, Check, Topic, Verdict, unread};
use crate::containerd::Census;
use crate::containerd::images::is_public_key;

pub(super) const CHECKS: &[Check] = &[
    Check::new("containerd-socket", Topic::Containerd, socket),
    Check::new("containerd-program", Topic::Containerd, program),
    Check::new("containerd-shim", Topic::Containerd, shim),
    Check::new("runc", Topic::Containerd, runc),
    Check::new("containerd-version", Topic::Containerd, version),
    Check::new("snapshotter", Topic::Containerd, snapshotter),
    Check::new("shims", Topic::Containerd, shims),
    Check::new("image-authorities", Topic::Containerd, authorities),
    Check::new("image-trust", Topic::Containerd, trust),
];

/// The oldest containerd whose API has what the agent asks for.
const OLDEST: (u32, u32) = (1, 6);

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

/// What cannot be asked is told by `containerd-socket`, where it is for good.
fn census(board: &Board) -> Result<Census, Verdict> {
    let config = &board.config.containerd;
    if UnixStream::connect(board.place(&config.address)).is_err() {
        return Err(Verdict::ok("containerd does not run, or is not for you"));
    }
    (board.asked.containerd)(config).map_err(|error| {
        Verdict::fail(
            format!("containerd does not tell: {error}"),
            "systemctl restart containerd; apps go on meanwhile",
        )
    })
}

fn version(board: &Board) -> Verdict {
    let version = match census(board) {
        Ok(census) => census.version,
        Err(verdict) => return verdict,
    };
    let mut numbers =
        version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().ok());
    match numbers.next().flatten().zip(numbers.next().flatten()) {
        Some(known) if known < OLDEST => Verdict::warn(
            format!("containerd {version} is older than {}.{}", OLDEST.0, OLDEST.1),
            "apt install containerd of a newer release, or containerd.io",
        ),
        Some(_) | None => Verdict::ok(version),
    }
}

fn snapshotter(board: &Board) -> Verdict {
    let wanted = &board.config.containerd.snapshotter;
    match census(board) {
        Ok(census) if census.snapshotters.contains(wanted) => Verdict::ok(wanted),
        Ok(census) => Verdict::fail(
            format!("containerd has no snapshotter {wanted} that works"),
            format!(
                "set [containerd] snapshotter to one that it has: {}; ctr plugins ls says what is wrong with others",
                census.snapshotters.join(", ")
            ),
        ),
        Err(verdict) => verdict,
    }
}

fn shims(board: &Board) -> Verdict {
    match census(board) {
        Ok(census) if census.orphans.is_empty() => Verdict::ok("none serves nobody"),
        Ok(census) => {
            let pids = census.orphans.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            Verdict::warn(
                format!("{} shims serve no container any more", census.orphans.len()),
                format!("the agent ends them within minutes; without it: kill {pids}"),
            )
        }
        Err(verdict) => verdict,
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

fn trust(board: &Board) -> Verdict {
    let trust = &board.config.images.trust;
    let mut keys = 0;
    for (prefix, entry) in trust {
        for key in &entry.keys {
            let path = key.display().to_string();
            let whole = || format!("[images.trust] {prefix}: no image under it is started");
            match board.bytes(key) {
                Ok(text) if is_public_key(&String::from_utf8_lossy(&text)) => keys += 1,
                Ok(_) => {
                    return Verdict::fail(
                        format!("{path} is no public key that is understood; {}", whole()),
                        format!(
                            "cosign public-key --key PRIVATE > {path}, for a key of P-256 or Ed25519"
                        ),
                    );
                }
                Err(error) => {
                    return unread(&path, &error, format!("put the public key there; {}", whole()));
                }
            }
        }
    }
    if trust.is_empty() {
        return Verdict::ok("no image needs a signature");
    }
    let others = if trust.contains_key("*") { "" } else { "; images elsewhere need no signature" };
    Verdict::ok(format!("{} prefixes, {keys} keys{others}", trust.len()))
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
