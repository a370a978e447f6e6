//! The address of a host that a document names, asked of the environment's own name server: one question, one answer.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time;

/// The name server is on this board; it is asked again after this long, until the caller's own time is up.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the name server sends at most over UDP.
const ANSWER_BYTES: usize = 1232;

/// The socket is connected and used for one name, so the id tells nothing apart.
const ID: [u8; 2] = *b"sk";

/// Recursion desired, one question.
const HEADER: [u8; 10] = [1, 0, 0, 1, 0, 0, 0, 0, 0, 0];

/// Type A, class IN.
const A_IN: [u8; 4] = [0, 1, 0, 1];

/// Set in the third byte of what is an answer.
const IS_ANSWER: u8 = 0x80;

/// The first IPv4 address of `name`; `socket` is connected to the name server.
pub(super) async fn resolve(socket: &UdpSocket, name: &str) -> io::Result<Ipv4Addr> {
    let question =
        question(name).ok_or_else(|| io::Error::other(format!("{name:?} is no name")))?;
    let mut buffer = [0; ANSWER_BYTES];
    loop {
        socket.send(&question).await?;
        let Ok(received) = time::timeout(PATIENCE, socket.recv(&mut buffer)).await else {
            continue;
        };
        let address = address(&buffer[..received?]);
        return address.ok_or_else(|| io::Error::other(format!("{name} has no address")));
    }
}

fn question(name: &str) -> Option<Vec<u8>> {
    let mut packet = [&ID[..], &HEADER].concat();
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?;
        packet.push(length);
        packet.extend_from_slice(label.as_bytes());
    }
    packet.push(0);
    packet.extend_from_slice(&A_IN);
    Some(packet)
}

/// The first A record of an answer, if there is one.
fn address(packet: &[u8]) -> Option<Ipv4Addr> {
    let code = packet.get(3)? & 15;
    if packet[2] & IS_ANSWER == 0 || code != 0 {
        return None;
    }
    let mut at = after_name(packet, 12)? + A_IN.len();
    for _ in 0..number(packet, 6)? {
        at = after_name(packet, at)?;
        let (kind, length) = (number(packet, at)?, usize::from(number(packet, at + 8)?));
        let data = packet.get(at + 10..at + 10 + length)?;
        if let (1, [a, b, c, d]) = (kind, data) {
            return Some(Ipv4Addr::new(*a, *b, *c, *d));
        }
        at += 10 + length;
    }
    None
}

fn number(packet: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]))
}

/// A name ends with a zero, or with two bytes that say where it goes on.
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
    fn the_first_address_of_an_answer_is_found_behind_an_alias() {
        let mut packet = question("a.b").unwrap();
        assert_eq!(address(&packet), None, "a question is no answer");
        packet[2] |= IS_ANSWER;
        assert_eq!(address(&packet), None, "there is no record in it");
        packet[7] = 2;
        packet.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 2, 0xc0, 12]);
        packet.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 10, 0, 0, 7]);
        assert_eq!(address(&packet), Some(Ipv4Addr::new(10, 0, 0, 7)));
        for length in 0..packet.len() {
            assert_eq!(address(&packet[..length]), None, "cut at {length}");
        }
        packet[3] = 3;
        assert_eq!(address(&packet), None, "there is no such name");
    }

    #[test]
    fn a_name_that_no_packet_can_hold_is_not_asked_for() {
        assert!(question("").is_none() && question("a..b").is_none());
        assert!(question(&"a".repeat(64)).is_none());
    }

    #[tokio::test]
    async fn the_name_server_is_asked_for_the_name() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(server.local_addr().unwrap()).await.unwrap();
        let answering = async {
            let mut buffer = [0; ANSWER_BYTES];
            let (length, from) = server.recv_from(&mut buffer).await.unwrap();
            let mut packet = buffer[..length].to_vec();
            assert_eq!(packet, question("db").unwrap());
            packet[2] |= IS_ANSWER;
            packet[7] = 1;
            packet.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 10, 1, 2, 3]);
            server.send_to(&packet, from).await.unwrap();
        };
        let (address, ()) = tokio::join!(resolve(&client, "db"), answering);
        assert_eq!(address.unwrap(), Ipv4Addr::new(10, 1, 2, 3));
    }
}
