//! The lookout of an environment: a namespace in which nothing runs, at the last address of its subnet. From there the
//! agent asks on behalf of the environment's apps, also while none of them has a replica, and under the same rules.
//!
//! Its file lies beside those of the replicas, with a name that no replica can have.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use domain::ipam;
use domain::model::EnvironmentName;
use domain::replica::Place;
use ipnet::Ipv4Net;

use super::board::{Board, gateway};
use super::error::NetlinkError;
use super::namespace;
use crate::network::Vantage;

/// Begins the file's name; no replica's name begins with it.
const MARK: char = '@';

/// The name of the lookout's interface on the board: of the same length as the bridge's.
fn outside(environment: &EnvironmentName) -> String {
    environment.bridge().replacen("sk-", "skl", 1)
}

fn netns(directory: &Path, environment: &EnvironmentName) -> PathBuf {
    directory.join(format!("{MARK}{environment}"))
}

/// Makes the lookout stand, whether nothing, half of it or all of it is there. On a thread of its own.
pub(super) fn open(
    directory: &Path,
    environment: &EnvironmentName,
) -> Result<Vantage, NetlinkError> {
    let board = super::connected(async |handle| Board::read(&handle).await)?;
    let bridge = environment.bridge();
    let found = board.environments().get(environment).copied();
    let subnet: Ipv4Net = found.ok_or_else(|| NetlinkError::NoBridge(bridge.clone()))?;
    let place = Place {
        bridge,
        subnet,
        gateway: gateway(subnet).addr(),
        address: ipam::lookout(subnet),
        netns: netns(directory, environment),
    };
    namespace::stand(&outside(environment), &place)?;
    Ok(Vantage { netns: place.netns, address: place.address })
}

/// Removes the lookout, whatever there is of it. On a thread of its own.
pub(super) fn close(directory: &Path, environment: &EnvironmentName) -> Result<(), NetlinkError> {
    namespace::remove(&outside(environment), &netns(directory, environment))
}

/// Removes the lookouts of environments that are no more. On a thread of its own.
pub(super) fn close_others(
    directory: &Path,
    environments: &BTreeMap<EnvironmentName, Ipv4Net>,
) -> Result<(), NetlinkError> {
    let failed = || NetlinkError::doing::<io::Error>(format!("list {}", directory.display()));
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed())?,
    };
    for entry in entries {
        let name = entry.map_err(failed())?.file_name();
        let of = name.to_str().and_then(|name| name.strip_prefix(MARK));
        if let Some(Ok(environment)) = of.map(str::parse::<EnvironmentName>)
            && !environments.contains_key(&environment)
        {
            close(directory, &environment)?;
        }
    }
    Ok(())
}
