//! The broker: what the connection proves itself with, and whether anybody answers.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::certificate::validity;
use super::{Board, Check, Topic, Verdict, unread};
use crate::broker::Broker;
use crate::clock::rfc3339;

pub(super) const CHECKS: &[Check] = &[
    Check::new("broker-url", Topic::ControlPlane, url),
    Check::new("broker-reach", Topic::ControlPlane, reach),
    Check::new("broker-password", Topic::ControlPlane, password),
    Check::new("broker-key", Topic::ControlPlane, key),
    Check::new("broker-certificate", Topic::ControlPlane, certificate),
    Check::new("broker-authorities", Topic::ControlPlane, authorities),
];

/// What a broker at the other end of a bad line needs, within the check's deadline.
const CONNECT: Duration = Duration::from_secs(5);

/// Time enough to have a certificate renewed.
const SOON: Duration = Duration::from_hours(14 * 24);

/// What is said where there is no control plane.
const NONE: &str = "not used";

/// Bits of a file's mode that let others than its owner and group read it.
const WORLD: u32 = 0o007;

fn url(board: &Board) -> Verdict {
    let url = &board.config.mqtt.url;
    if url.is_empty() {
        return Verdict::ok("there is no control plane");
    }
    match Broker::parse(url) {
        None => Verdict::fail(
            "[mqtt] url is no URL of a broker",
            "set [mqtt] url = \"mqtts://HOST:8883\", without user, password and path",
        ),
        Some(broker) if broker.is_exposed() => Verdict::warn(
            format!("what goes to {broker} can be read on its way"),
            format!("set [mqtt] url = \"mqtts://{}:8883\"", broker.host),
        ),
        Some(broker) => Verdict::ok(broker.to_string()),
    }
}

fn reach(board: &Board) -> Verdict {
    let Some(broker) = Broker::parse(&board.config.mqtt.url) else { return Verdict::ok(NONE) };
    let (host, port) = (broker.host.as_str(), broker.port);
    let addresses = match (host, port).to_socket_addrs() {
        Ok(addresses) => addresses,
        Err(error) => {
            return Verdict::fail(
                format!("the name {host} is not found: {error}"),
                format!("see what getent hosts {host} says, and /etc/resolv.conf"),
            );
        }
    };
    let mut why = "it has no address".to_owned();
    for address in addresses.take(2) {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(_) => return Verdict::ok(format!("{address} answers")),
            Err(error) => why = error.to_string(),
        }
    }
    Verdict::fail(
        format!("nobody answers at {broker}: {why}"),
        "see whether the broker runs and a firewall lets the board through; apps run without it",
    )
}

fn password(board: &Board) -> Verdict {
    let mqtt = &board.config.mqtt;
    if mqtt.password_file.is_empty() {
        return Verdict::ok(NONE);
    }
    if mqtt.username.is_empty() {
        return Verdict::warn("there is a password and no user name", "set [mqtt] username");
    }
    match board.text(&mqtt.password_file) {
        Some(text) if text.is_empty() => Verdict::fail(
            format!("{} is empty", mqtt.password_file),
            format!("write the password into the first line of {}", mqtt.password_file),
        ),
        _ => private(board, &mqtt.password_file),
    }
}

fn key(board: &Board) -> Verdict {
    let key = &board.config.mqtt.key;
    if key.is_empty() { Verdict::ok(NONE) } else { private(board, key) }
}

/// A file that is there and that not everybody can read.
fn private(board: &Board, path: &str) -> Verdict {
    if let Err(error) = board.bytes(path) {
        let fix = format!("put it there for root alone: install -m 0600 FILE {path}");
        return unread(path, &error, fix);
    }
    let mode = board.place(path).metadata().map(|meta| meta.permissions().mode());
    match mode {
        Ok(mode) if mode & WORLD != 0 => {
            Verdict::warn(format!("everybody can read {path}"), format!("chmod 0600 {path}"))
        }
        Ok(_) | Err(_) => Verdict::ok("for its owner alone"),
    }
}

fn certificate(board: &Board) -> Verdict {
    dates(board, &board.config.mqtt.cert, "[mqtt] cert")
}

fn authorities(board: &Board) -> Verdict {
    dates(board, &board.config.mqtt.ca, "[mqtt] ca")
}

/// The dates of the certificates in a file: the one that ends first counts.
fn dates(board: &Board, path: &str, setting: &str) -> Verdict {
    if path.is_empty() {
        return Verdict::ok(NONE);
    }
    let pem = match board.bytes(path) {
        Ok(pem) => pem,
        Err(error) => {
            let fix = format!("put it there, or set {setting} to where it is");
            return unread(path, &error, fix);
        }
    };
    let certificates = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok);
    let spans = certificates.filter_map(|certificate| validity(&certificate));
    let Some((from, until)) = spans.min_by_key(|(_, until)| *until) else {
        return Verdict::fail(
            format!("{path} holds no certificate"),
            format!("set {setting} to a PEM file with -----BEGIN CERTIFICATE-----"),
        );
    };
    let (end, now) = (rfc3339(until), board.date());
    if now < from {
        return Verdict::fail(
            format!("{path} begins to hold only at {}", rfc3339(from)),
            "set the clock: timedatectl set-ntp true",
        );
    }
    if until <= now {
        return Verdict::fail(format!("{path} held until {end}"), format!("renew {path}"));
    }
    if until.0 <= now.0 + SOON {
        return Verdict::warn(format!("{path} holds until {end}"), format!("renew {path}"));
    }
    Verdict::ok(format!("until {end}"))
}
