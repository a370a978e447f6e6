//! Who holds a port: a look into `/proc`, taken only when a port could not be had.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

/// The state of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// A listening socket of the board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listening {
    /// Its IPv4 address; none for IPv6.
    pub(super) address: Option<Ipv4Addr>,
    pub(super) port: u16,
    inode: u64,
}

/// Every listening TCP socket in this network namespace.
pub(super) fn listening() -> Vec<Listening> {
    let text = |path| fs::read_to_string(path).unwrap_or_default();
    let mut all = parse(&text("/proc/net/tcp"));
    all.extend(parse(&text("/proc/net/tcp6")));
    all
}

/// For people: `nginx (process 812)`, where that can be found out.
pub(super) fn name(address: SocketAddr) -> Option<String> {
    let holder = listening().into_iter().find(|socket| clashes(socket, address))?;
    let link = format!("socket:[{}]", holder.inode);
    let processes = fs::read_dir("/proc").ok()?;
    for process in processes.flatten() {
        let id = process.file_name();
        let Some(id) = id.to_str().filter(|id| id.bytes().all(|byte| byte.is_ascii_digit())) else {
            continue;
        };
        if holds(&process.path(), &link) {
            let command = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (process {id})", command.trim()));
        }
    }
    None
}

/// Whether a socket stands in the way of one at `address`.
fn clashes(socket: &Listening, address: SocketAddr) -> bool {
    let wild = address.ip().is_unspecified();
    let same = socket.address.is_none_or(|held| held.is_unspecified() || address.ip() == held);
    socket.port == address.port() && (wild || same)
}

fn holds(process: &Path, link: &str) -> bool {
    let files = fs::read_dir(process.join("fd"));
    files.is_ok_and(|files| {
        files.flatten().any(|file| {
            fs::read_link(file.path()).is_ok_and(|target| target.to_str() == Some(link))
        })
    })
}

fn parse(text: &str) -> Vec<Listening> {
    text.lines().skip(1).filter_map(parse_line).collect()
}

/// `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …`, addresses as the hexadecimal of
/// their words in the board's byte order.
fn parse_line(line: &str) -> Option<Listening> {
    let mut fields = line.split_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    if fields.nth(1)? != LISTEN {
        return None;
    }
    let inode = fields.nth(5)?.parse().ok()?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = (address.len() == 8).then(|| u32::from_str_radix(address, 16));
    let address = word.transpose().ok()?.map(|word| Ipv4Addr::from(word.to_ne_bytes()));
    Some(Listening { address, port, inode })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_holder_of_a_port_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let holder = name(address).unwrap();
        assert!(holder.ends_with(&format!("(process {})", std::process::id())), "{holder}");
        drop(listener);
        assert_eq!(name(address), None);
    }

    #[test]
    fn a_line_of_proc_net_tcp_reads_as_a_listening_socket_or_not_at_all() {
        let tail = "00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0";
        let any = format!("   0: 00000000:0050 00000000:0000 0A {tail}");
        let socket = Listening { address: Some(Ipv4Addr::UNSPECIFIED), port: 80, inode: 4711 };
        assert_eq!(parse_line(&any), Some(socket));
        let six = format!("   0: {}:0050 {}:0000 0A {tail}", "0".repeat(32), "0".repeat(32));
        let socket = Listening { address: None, port: 80, inode: 4711 };
        assert_eq!(parse_line(&six), Some(socket));
        assert_eq!(parse_line(&any.replace(" 0A ", " 01 ")), None);
        for cut in 0..any.len().min(60) {
            assert_eq!(parse_line(&any[..cut]), None, "{cut}");
        }
    }
}
