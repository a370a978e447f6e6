//! Who is asked beside the board's files: the agent, containerd, the kernel's tables. A test puts others in their place.

use std::path::Path;
use std::time::Duration;

use skerry_proto::v1::DeviceReply;

use super::Timekeepers;
use crate::report::Chain;
use crate::{cli, config, containerd, netlink};

/// What an answer may take that comes from this board: less than the deadline of all checks.
const PATIENCE: Duration = Duration::from_secs(5);

/// The port of name servers.
const DNS: u16 = 53;

/// What is asked of `nft`. The error says why it does not tell.
#[derive(Debug, Clone, Copy)]
pub struct Nft {
    /// Chains of others that drop what they do not know, and know nothing of our bridges.
    pub blockers: fn() -> Result<Vec<String>, String>,
    /// Every table there is.
    pub ruleset: fn() -> Result<String, String>,
}

/// Everybody that is asked.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// Who sets the clock.
    pub timekeepers: Timekeepers,
    /// The kernel's tables.
    pub nft: Nft,
    /// containerd.
    pub containerd: fn(&config::Containerd) -> Result<containerd::Census, String>,
    /// The agent at this socket.
    pub agent: fn(&Path) -> Result<DeviceReply, Silence>,
    /// The port on which name servers answer.
    pub dns_port: u16,
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            timekeepers: Timekeepers::default(),
            nft: Nft { blockers: netlink::blockers, ruleset: netlink::ruleset },
            containerd: ask_containerd,
            agent: ask_agent,
            dns_port: DNS,
        }
    }
}

/// Why the agent tells nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Silence {
    /// Nobody is there, or not for us.
    Absent(String),
    /// It took the question and does not answer.
    Hangs,
}

fn ask_containerd(config: &config::Containerd) -> Result<containerd::Census, String> {
    match wait(PATIENCE, Box::pin(containerd::census(config)))? {
        Some(census) => census.map_err(|error| Chain(&error).to_string()),
        None => Err(format!("no answer within {} seconds", PATIENCE.as_secs())),
    }
}

fn ask_agent(socket: &Path) -> Result<DeviceReply, Silence> {
    match wait(PATIENCE, Box::pin(cli::device(socket))).map_err(Silence::Absent)? {
        Some(answer) => answer.map_err(Silence::Absent),
        None => Err(Silence::Hangs),
    }
}

/// Waits on this thread, which is a check's own; none where it takes too long.
pub(super) fn wait<T>(
    patience: Duration,
    what: impl Future<Output = T>,
) -> Result<Option<T>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
    let answer = runtime.block_on(async { tokio::time::timeout(patience, what).await });
    // A name that is still looked up is not waited for.
    runtime.shutdown_background();
    Ok(answer.ok())
}
