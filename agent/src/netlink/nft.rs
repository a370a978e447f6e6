//! Running `nft`, and asking the kernel cheaply whether that is needed at all.

use std::io;
use std::os::fd::AsRawFd;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time;

use super::apart::wait;
use super::error::NetlinkError;
use super::rules::{FORWARDING_MARK, TABLE};

/// `nft` takes milliseconds; a board that is starting may need more for loading the kernel's modules.
const DEADLINE: Duration = Duration::from_secs(20);

/// The most that is shown of what `nft` says.
const MAX_MESSAGE: usize = 400;

/// A chain of any table, as `nft -j` tells it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Chain {
    family: String,
    table: String,
    name: String,
    #[serde(default)]
    hook: String,
    #[serde(default)]
    policy: String,
}

/// Replaces our table, in one step.
pub(super) fn apply(text: &str) -> Result<(), NetlinkError> {
    run(&["-f", "-"], text).map(drop)
}

/// Every chain there is.
pub(super) fn chains() -> Result<Vec<Chain>, NetlinkError> {
    parse_chains(&run(&["-j", "list", "chains"], "")?)
}

/// Every table there is, as text.
pub(super) fn ruleset() -> Result<String, NetlinkError> {
    run(&["list", "ruleset"], "")
}

/// Whether our table stands.
pub(super) fn stands(chains: &[Chain]) -> bool {
    chains.iter().any(|chain| chain.is_ours() && chain.name == "forward")
}

/// Whether the table says that Skerry turned forwarding on.
pub(super) fn forwarding_is_ours(chains: &[Chain]) -> bool {
    chains.iter().any(|chain| chain.is_ours() && chain.name == FORWARDING_MARK)
}

/// Chains of others that drop what nobody of theirs accepts, and have no rule for our bridges: `ip filter FORWARD`.
pub(super) fn blockers(chains: &[Chain]) -> Result<Vec<String>, NetlinkError> {
    let mut blockers = Vec::new();
    for chain in chains.iter().filter(|chain| chain.drops_forwarded()) {
        let rules = run(&["list", "table", &chain.family, &chain.table], "")?;
        if !rules.contains("\"sk-") {
            blockers.push(format!("{} {} {}", chain.family, chain.table, chain.name));
        }
    }
    Ok(blockers)
}

impl Chain {
    fn is_ours(&self) -> bool {
        self.family == "inet" && self.table == TABLE
    }

    fn drops_forwarded(&self) -> bool {
        let ipv4 = self.family == "ip" || self.family == "inet";
        ipv4 && !self.is_ours() && self.hook == "forward" && self.policy == "drop"
    }
}

fn parse_chains(json: &str) -> Result<Vec<Chain>, NetlinkError> {
    #[derive(Deserialize)]
    struct Listing {
        nftables: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        chain: Option<Chain>,
    }
    let listing: Listing = serde_json::from_str(json).map_err(|error| {
        NetlinkError::Nft(format!("its list of chains is not understood: {error}"))
    })?;
    Ok(listing.nftables.into_iter().filter_map(|entry| entry.chain).collect())
}

/// Runs `nft` in the network namespace that this thread is in.
fn run(arguments: &[&str], input: &str) -> Result<String, NetlinkError> {
    wait(async {
        let mut command = Command::new("nft");
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                NetlinkError::NoNft
            } else {
                NetlinkError::doing("start nft")(error)
            }
        })?;
        let stdin = child.stdin.take();
        let talk = async {
            if let Some(mut stdin) = stdin {
                // If it leaves without reading, its exit code says more than the broken pipe.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
            child.wait_with_output().await
        };
        let output = time::timeout(DEADLINE, talk)
            .await
            .map_err(|_| NetlinkError::Late(DEADLINE.as_secs()))?
            .map_err(NetlinkError::doing("run nft"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(NetlinkError::Nft(said.trim().chars().take(MAX_MESSAGE).collect()))
    })
}

/// The number that the kernel raises with every change of any table, or nothing where it does not tell.
///
/// While it stays, our table stands as we wrote it: one message of 20 bytes in place of starting a program.
pub(super) fn generation() -> Option<u32> {
    /// `struct nlmsghdr` and `struct nfgenmsg` of `NFT_MSG_GETGEN`: length, type, flags (request), number, port.
    const REQUEST: usize = 20;
    const GET_GENERATION: u16 = 10 << 8 | 16;
    const NEW_GENERATION: u16 = 10 << 8 | 15;
    const GENERATION_ID: u16 = 1;
    let mut request = [0_u8; REQUEST];
    request[..4].copy_from_slice(&20_u32.to_ne_bytes());
    request[4..6].copy_from_slice(&GET_GENERATION.to_ne_bytes());
    request[6..8].copy_from_slice(&1_u16.to_ne_bytes());
    let kind = (AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC);
    let socket = socket(kind.0, kind.1, kind.2, SockProtocol::NetlinkNetFilter).ok()?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(1)).ok()?;
    send(socket.as_raw_fd(), &request, MsgFlags::empty()).ok()?;
    let mut answer = [0_u8; 512];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()).ok()?;
    let answer = answer.get(..length)?;
    if answer.get(4..6)? != NEW_GENERATION.to_ne_bytes() {
        return None;
    }
    let mut attributes = answer.get(REQUEST..)?;
    while let [l0, l1, k0, k1, rest @ ..] = attributes {
        let length = usize::from(u16::from_ne_bytes([*l0, *l1])).checked_sub(4)?;
        if u16::from_ne_bytes([*k0, *k1]) == GENERATION_ID {
            return Some(u32::from_be_bytes(rest.get(..length)?.try_into().ok()?));
        }
        attributes = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_chains_that_drop_what_is_forwarded_are_told_from_the_rest() {
        let chains = parse_chains(
            r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
                {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "handle": 1, "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}},
                {"chain": {"family": "ip", "table": "filter", "name": "INPUT", "handle": 2, "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}},
                {"chain": {"family": "ip6", "table": "filter", "name": "FORWARD", "handle": 2, "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}},
                {"chain": {"family": "inet", "table": "skerry", "name": "forward", "handle": 1, "type": "filter", "hook": "forward", "prio": 0, "policy": "accept"}},
                {"chain": {"family": "inet", "table": "skerry", "name": "forwarding_turned_on", "handle": 1}}]}"#,
        )
        .unwrap();
        let dropping: Vec<&str> = chains
            .iter()
            .filter(|chain| chain.drops_forwarded())
            .map(|c| c.name.as_str())
            .collect();
        assert_eq!(dropping, ["FORWARD"]);
        assert!(stands(&chains));
        assert!(forwarding_is_ours(&chains));
        assert!(parse_chains("[]").is_err());
    }
}
