//! Addresses, names and ports.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use super::{Board, Check, Topic, Verdict};

pub(super) const CHECKS: &[Check] = &[
    Check::new("forwarding", Topic::Network, forwarding),
    Check::new("firewalls", Topic::Network, firewalls),
    Check::new("nft", Topic::Network, nft),
    Check::new("address-pool", Topic::Network, pool),
    Check::new("default-route", Topic::Network, default_route),
    Check::new("name-servers", Topic::Network, servers),
    Check::new("port-http", Topic::Network, http),
    Check::new("port-https", Topic::Network, https),
    Check::new("port-dns", Topic::Network, dns),
    Check::new("port-mdns", Topic::Network, mdns),
];

/// How the name of each environment's bridge begins.
const BRIDGE: &str = "sk-";

/// The owner of a socket whose files may not be listed.
const UNSEEN: &str = "a process that only root sees";

/// State of a listening TCP socket, and of a UDP socket that is bound, in `/proc/net`.
const LISTENING: &str = "0A";
const BOUND: &str = "07";

fn forwarding(board: &Board) -> Verdict {
    let on = board.text("/proc/sys/net/ipv4/ip_forward").as_deref() == Some("1");
    let bridges = board.names("/sys/class/net").iter().any(|name| name.starts_with(BRIDGE));
    match (on, bridges) {
        (true, _) => Verdict::ok("on"),
        (false, false) => Verdict::ok("off; the agent turns it on with the first environment"),
        (false, true) => Verdict::fail(
            "ip_forward is off, and apps reach no other host",
            "sysctl -w net.ipv4.ip_forward=1, and find what turns it off: grep -r ip_forward /etc/sysctl*",
        ),
    }
}

fn firewalls(board: &Board) -> Verdict {
    let known = [
        ("/run/firewalld", "firewalld"),
        ("/sys/class/net/docker0", "docker"),
        ("/run/ufw.lock", "ufw"),
        ("/sys/class/net/cni0", "a Kubernetes network"),
    ];
    let others: Vec<_> =
        known.into_iter().filter(|(path, _)| board.has(path)).map(|(_, name)| name).collect();
    if others.is_empty() {
        return Verdict::ok("no other is seen");
    }
    Verdict::warn(
        format!("{} may drop what apps send", others.join(" and ")),
        "skerry status says ForwardBlocked where it does; nft list ruleset shows the chain",
    )
}

fn nft(board: &Board) -> Verdict {
    match board.program("nft") {
        Some(path) => Verdict::ok(path.display().to_string()),
        None => Verdict::fail("there is no program nft", "apt install nftables"),
    }
}

fn pool(board: &Board) -> Verdict {
    let pool = board.config.network.pool;
    let overlapping = routes(board).into_iter().find(|(interface, net)| {
        0 < net.prefix_len()
            && !interface.starts_with(BRIDGE)
            && (net.contains(&pool) || pool.contains(net))
    });
    match overlapping {
        Some((interface, net)) => Verdict::fail(
            format!("{net} is on {interface} and overlaps with {pool}"),
            "set [network] pool to a network that nobody uses, such as 10.214.0.0/16",
        ),
        None => Verdict::ok(pool.to_string()),
    }
}

fn default_route(board: &Board) -> Verdict {
    match routes(board).into_iter().find(|(_, net)| net.prefix_len() == 0) {
        Some((interface, _)) => Verdict::ok(format!("by {interface}")),
        None => Verdict::warn(
            "there is no way to other networks",
            "see the uplink: ip link, ip route; apps on the board run without it",
        ),
    }
}

/// The board's routes: interface and destination.
fn routes(board: &Board) -> Vec<(String, Ipv4Net)> {
    let text = board.text("/proc/net/route").unwrap_or_default();
    let parse = |line: &str| {
        let field: Vec<_> = line.split_whitespace().collect();
        // The kernel writes them as its memory has them.
        let address =
            |text: &str| Some(Ipv4Addr::from(u32::from_str_radix(text, 16).ok()?.to_ne_bytes()));
        let (net, mask) = (address(field.get(1)?)?, address(field.get(7)?)?);
        let net = Ipv4Net::with_netmask(net, mask).ok()?;
        Some(((*field.first()?).to_owned(), net))
    };
    text.lines().skip(1).filter_map(parse).collect()
}

fn servers(board: &Board) -> Verdict {
    let servers = name_servers(board);
    if servers.is_empty() {
        return Verdict::fail(
            "/etc/resolv.conf names no server: no image and no broker is found by its name",
            "set [network] upstream_dns = [\"9.9.9.9\"], or have DHCP write /etc/resolv.conf",
        );
    }
    Verdict::ok(servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}

/// The name servers that the agent asks.
pub(super) fn name_servers(board: &Board) -> Vec<IpAddr> {
    let set = &board.config.network.upstream_dns;
    if !set.is_empty() {
        return set.clone();
    }
    let text = board.text("/etc/resolv.conf").unwrap_or_default();
    let servers = text.lines().filter_map(|line| line.strip_prefix("nameserver"));
    servers.filter_map(|word| word.trim().parse().ok()).collect()
}

/// The interfaces with a way to other networks, each once.
pub(super) fn uplinks(board: &Board) -> Vec<String> {
    let out = routes(board).into_iter().filter(|(_, net)| net.prefix_len() == 0);
    let names: std::collections::BTreeSet<_> = out.map(|(interface, _)| interface).collect();
    names.into_iter().collect()
}

fn http(board: &Board) -> Verdict {
    tcp_port(board, board.config.ingress.http.port(), "set [ingress] http to another")
}

fn https(board: &Board) -> Verdict {
    tcp_port(board, board.config.ingress.https.port(), "set [ingress] https to another")
}

fn tcp_port(board: &Board, port: u16, otherwise: &str) -> Verdict {
    match taken(board, &["tcp", "tcp6"], LISTENING, port, false) {
        Some(owner) if owner == UNSEEN => {
            Verdict::warn(format!("{owner} has port {port}"), "run it as root")
        }
        Some(owner) => Verdict::fail(
            format!("{owner} has port {port}"),
            format!("stop it, or {otherwise}; ss -tlnp shows it"),
        ),
        None => Verdict::ok(port.to_string()),
    }
}

fn dns(board: &Board) -> Verdict {
    match taken(board, &["udp", "udp6"], BOUND, 53, true) {
        Some(owner) => Verdict::fail(
            format!("{owner} has port 53 on every address, that of the environments too"),
            "bind it to its own interfaces: dnsmasq wants bind-dynamic and except-interface=sk-*",
        ),
        None => Verdict::ok("53"),
    }
}

fn mdns(board: &Board) -> Verdict {
    if !board.config.mdns.enabled {
        return Verdict::ok("not used");
    }
    match taken(board, &["udp", "udp6"], BOUND, 5353, false) {
        Some(owner) if owner.starts_with("avahi") || owner.starts_with("systemd-resolve") => {
            Verdict::ok(format!("shared with {owner}"))
        }
        Some(owner) => Verdict::warn(
            format!("{owner} has port 5353 and may not share it"),
            "stop it, or set [mdns] enabled = false; ss -ulnp shows it",
        ),
        None => Verdict::ok("5353"),
    }
}

/// Who but the agent has a port, in the tables of `/proc/net`; on every address alone, if `wild`.
fn taken(board: &Board, tables: &[&str], state: &str, port: u16, wild: bool) -> Option<String> {
    for table in tables {
        let text = board.text(format!("/proc/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let field: Vec<_> = line.split_whitespace().collect();
            let [_, local, _, at, ..] = field.as_slice() else { continue };
            let Some((address, local)) = local.split_once(':') else { continue };
            let everywhere = address.bytes().all(|digit| digit == b'0');
            let same = u16::from_str_radix(local, 16) == Ok(port) && *at == state;
            if !same || wild && !everywhere {
                continue;
            }
            let owner = field.get(9).and_then(|inode| owner(board, inode));
            let owner = owner.unwrap_or_else(|| UNSEEN.to_owned());
            if owner != "skerry" {
                return Some(owner);
            }
        }
    }
    None
}

/// The name of the process that has a socket.
fn owner(board: &Board, inode: &str) -> Option<String> {
    let socket = format!("socket:[{inode}]");
    let pids = board.names("/proc").into_iter().filter(|name| name.parse::<u32>().is_ok());
    for pid in pids {
        let files = board.names(format!("/proc/{pid}/fd"));
        let link = |file: &String| fs::read_link(board.place(format!("/proc/{pid}/fd/{file}")));
        if files.iter().filter_map(|file| link(file).ok()).any(|link| link.as_os_str() == &*socket)
        {
            return board.text(format!("/proc/{pid}/comm"));
        }
    }
    None
}
