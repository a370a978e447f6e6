//! Names to addresses by `/etc/hosts` and the name server of `/etc/resolv.conf`.
//!
//! A static binary has no system resolver, and a test wants to see what the board's name server says, uncached.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time;

/// Twice this is the longest a lookup of one name may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Larger answers come truncated.
const ANSWER_BYTES: usize = 1232;

/// Every IPv4 address of `name`, in the order of the answer.
pub(crate) async fn resolve(name: &str) -> io::Result<Vec<Ipv4Addr>> {
    if let Ok(address) = name.parse() {
        return Ok(vec![address]);
    }
    if let Some(address) = in_hosts(name) {
        return Ok(vec![address]);
    }
    let config = fs::read_to_string("/etc/resolv.conf")?;
    let servers = values(&config, "nameserver").filter_map(|text| text.parse().ok());
    let server: IpAddr = servers.into_iter().next().ok_or_else(|| other("no nameserver"))?;
    let mut last = other("no such name");
    for candidate in candidates(name, values(&config, "search")) {
        match ask(server, &candidate).await {
            Ok(addresses) if !addresses.is_empty() => return Ok(addresses),
            Ok(_) => (),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn other(text: &str) -> io::Error {
    io::Error::other(text.to_owned())
}

fn values<'a>(config: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    config
        .lines()
        .filter_map(move |line| line.trim().strip_prefix(key))
        .flat_map(str::split_whitespace)
}

/// A name without a dot is looked for in the search domains first, any other one as it is first.
fn candidates<'a>(name: &str, search: impl Iterator<Item = &'a str>) -> Vec<String> {
    let plain = name.trim_end_matches('.').to_owned();
    if name.ends_with('.') {
        return vec![plain];
    }
    let mut names: Vec<String> = search.map(|domain| format!("{plain}.{domain}")).collect();
    let at = if plain.contains('.') { 0 } else { names.len() };
    names.insert(at, plain);
    names
}

fn in_hosts(name: &str) -> Option<Ipv4Addr> {
    let hosts = fs::read_to_string("/etc/hosts").ok()?;
    hosts.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|word| word == name).then_some(address)
    })
}

async fn ask(server: IpAddr, name: &str) -> io::Result<Vec<Ipv4Addr>> {
    let socket = UdpSocket::bind("0.0.0.0:0").await?;
    socket.connect((server, 53)).await?;
    let question = question(name)?;
    let mut buffer = [0; ANSWER_BYTES];
    for _ in 0..2 {
        socket.send(&question).await?;
        if let Ok(received) = time::timeout(PATIENCE, socket.recv(&mut buffer)).await {
            return addresses(&buffer[..received?]).ok_or_else(|| other("garbled answer"))?;
        }
    }
    Err(other("the name server does not answer"))
}

fn question(name: &str) -> io::Result<Vec<u8>> {
    // Id, recursion desired, one question.
    let mut packet = vec![0x51, 0x4b, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length));
        packet.push(length.ok_or_else(|| other("not a name"))?);
        packet.extend_from_slice(label.as_bytes());
    }
    packet.extend_from_slice(&[0, 0, 1, 0, 1]);
    Ok(packet)
}

/// The A records of an answer; `None` if it cannot be read.
fn addresses(packet: &[u8]) -> Option<io::Result<Vec<Ipv4Addr>>> {
    let code = packet.get(3)? & 15;
    if code != 0 {
        return Some(Err(other(&format!("the name server says {code}"))));
    }
    let mut at = after_name(packet, 12)? + 4;
    let mut found = Vec::new();
    for _ in 0..pair(packet, 6)? {
        at = after_name(packet, at)?;
        let (kind, length) = (pair(packet, at)?, usize::from(pair(packet, at + 8)?));
        let data = packet.get(at + 10..at + 10 + length)?;
        if let (1, [a, b, c, d]) = (kind, data) {
            found.push(Ipv4Addr::new(*a, *b, *c, *d));
        }
        at += 10 + length;
    }
    Some(Ok(found))
}

fn pair(packet: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]))
}

fn after_name(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match packet.get(at)? {
            0 => return Some(at + 1),
            length if 0xc0 <= *length => return Some(at + 2),
            length => at += 1 + usize::from(*length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_with_a_compressed_name_is_read() {
        let mut packet = question("a.b").unwrap();
        packet[2] = 0x81;
        packet[7] = 2;
        packet.extend_from_slice(&[0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 2, 0xc0, 12]);
        packet.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 10, 0, 0, 7]);
        assert_eq!(addresses(&packet).unwrap().unwrap(), [Ipv4Addr::new(10, 0, 0, 7)]);
        packet.truncate(packet.len() - 1);
        assert!(addresses(&packet).is_none());
    }

    #[test]
    fn a_short_name_is_searched_and_a_long_one_is_tried_as_it_is_first() {
        assert_eq!(candidates("web", ["x.y"].into_iter()), ["web.x.y", "web"]);
        assert_eq!(candidates("web.z", ["x.y"].into_iter()), ["web.z", "web.z.x.y"]);
        assert_eq!(candidates("web.", ["x.y"].into_iter()), ["web"]);
    }
}
