//! The way out: name servers that answer, and nobody who drops what apps send.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use super::network::name_servers;
use super::{Board, Check, Topic, Verdict};

pub(super) const CHECKS: &[Check] = &[
    Check::new("upstream-dns", Topic::Network, dns),
    Check::new("forward-chains", Topic::Network, chains),
    Check::new("reverse-path", Topic::Network, reverse_path),
];

/// The resolver of the C library asks no more of them either.
const MOST_SERVERS: usize = 3;

/// For one server's answer; it is asked twice.
const ANSWER: Duration = Duration::from_millis(1500);

/// A question for the name servers of the root, and its number.
const QUESTION: [u8; 17] = [0x5c, 0x52, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];

/// The code of an answer that says that the server got none itself.
const SERVER_FAILED: u8 = 2;

/// What a name server does.
enum Standing {
    Answers,
    Fails,
    Silent,
}

fn dns(board: &Board) -> Verdict {
    let servers = name_servers(board);
    let asked = servers.iter().take(MOST_SERVERS);
    // At once: three that are silent would take the time of all checks.
    let standings: Vec<_> = std::thread::scope(|scope| {
        let port = board.asked.dns_port;
        let asking: Vec<_> =
            asked.map(|server| (server, scope.spawn(move || standing(*server, port)))).collect();
        let answer = |(server, thread): (_, std::thread::ScopedJoinHandle<'_, Standing>)| {
            (server, thread.join().unwrap_or(Standing::Silent))
        };
        asking.into_iter().map(answer).collect()
    });
    let words = |wanted: fn(&Standing) -> bool| {
        let named = standings.iter().filter(|(_, standing)| wanted(standing));
        named.map(|(server, _)| server.to_string()).collect::<Vec<_>>().join(", ")
    };
    let well = words(|standing| matches!(standing, Standing::Answers));
    let ill = words(|standing| !matches!(standing, Standing::Answers));
    let fix = "see the uplink, or set [network] upstream_dns to a server that answers";
    if ill.is_empty() {
        let found =
            if well.is_empty() { "none is named".to_owned() } else { format!("{well} answers") };
        return Verdict::ok(found);
    }
    let failing = words(|standing| matches!(standing, Standing::Fails));
    if well.is_empty() && failing.is_empty() {
        return Verdict::fail(format!("{ill} does not answer: no name is found"), fix);
    }
    if well.is_empty() {
        return Verdict::fail(format!("{failing} finds no name itself"), fix);
    }
    Verdict::warn(format!("{ill} does not answer, and each name waits for it"), fix)
}

fn standing(server: IpAddr, port: u16) -> Standing {
    (0..2).find_map(|_| ask(server, port)).unwrap_or(Standing::Silent)
}

fn ask(server: IpAddr, port: u16) -> Option<Standing> {
    let any: IpAddr = match server {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.set_read_timeout(Some(ANSWER)).ok()?;
    socket.connect((server, port)).ok()?;
    socket.send(&QUESTION).ok()?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).ok()?;
    let answer = answer.get(..length)?;
    let code = answer.get(3)? & 0x0f;
    // Any answer to this question but that one shows a server at work, a refusal too.
    (answer[..2] == QUESTION[..2]).then_some(if code == SERVER_FAILED {
        Standing::Fails
    } else {
        Standing::Answers
    })
}

fn chains(board: &Board) -> Verdict {
    match (board.asked.nft.blockers)() {
        Ok(chains) if chains.is_empty() => Verdict::ok("nobody drops what apps send"),
        Ok(chains) => {
            let rules = chains.iter().map(|chain| {
                format!("nft insert rule {chain} iifname sk-* accept; nft insert rule {chain} oifname sk-* accept")
            });
            let rules = rules.collect::<Vec<_>>().join("; ");
            Verdict::fail(
                format!("{} drops what apps send and receive", chains.join(" and ")),
                format!(
                    "{}; and the same in that firewall's own configuration",
                    rules.replace("sk-*", "'\"sk-*\"'")
                ),
            )
        }
        Err(_) if board.program("nft").is_none() => Verdict::ok("there is no nft to ask"),
        Err(error) => Verdict::warn(format!("nft does not tell: {error}"), "run it as root"),
    }
}

/// Strict: a packet is dropped unless its answer would leave by the interface it came by.
const STRICT: &str = "1";

fn reverse_path(board: &Board) -> Verdict {
    let set =
        |interface: &str| board.text(format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter"));
    // The kernel goes by the higher of the two numbers; 2 is loose.
    let all = set("all").unwrap_or_default();
    let uplinks = super::network::uplinks(board);
    let strict = |interface: &&String| {
        let own = set(interface).unwrap_or_default();
        all != "2" && own != "2" && (all == STRICT || own == STRICT)
    };
    let strict: Vec<_> = uplinks.iter().filter(strict).cloned().collect();
    if uplinks.len() < 2 || strict.is_empty() {
        return Verdict::ok("no packet is dropped for its way");
    }
    Verdict::warn(
        format!(
            "there are ways out by {}, and {} drops what comes by another than it would answer by",
            uplinks.join(" and "),
            strict.join(" and ")
        ),
        "sysctl -w net.ipv4.conf.all.rp_filter=2, and into /etc/sysctl.d for the next boot",
    )
}
