//! The bridges: one per environment, its name and alias ours, its address the gateway's.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use domain::model::EnvironmentName;
use ipnet::Ipv4Net;
use rtnetlink::{Handle, LinkBridge, LinkUnspec};

use super::board::{ALIAS, Board, HARDWARE, Link, gateway};
use super::error::NetlinkError;

/// Makes a bridge stand for `environment`, whether nothing, half of it or all of it is there.
pub(super) async fn stand_up(
    handle: &Handle,
    board: &Board,
    environment: &EnvironmentName,
    subnet: Ipv4Net,
) -> Result<(), NetlinkError> {
    let name = environment.bridge();
    let link = match board.link(&name) {
        None => create(handle, &name, subnet).await?,
        Some(link) if link.environment().as_ref() == Some(environment) => link.clone(),
        Some(link) if link.is_half_made() => link.clone(),
        Some(_) => return Err(NetlinkError::NameTaken(name)),
    };
    if link.alias.is_empty() {
        let alias = format!("{ALIAS}{environment}");
        let message = LinkUnspec::new_with_index(link.index).alias(alias).build();
        let marked = handle.link().set(message).execute().await;
        marked.map_err(NetlinkError::doing(format!("mark the bridge {name}")))?;
    }
    for old in board.addresses_of(link.index).filter(|address| address.net != gateway(subnet)) {
        let removed = handle.address().del(old.message.clone()).execute().await;
        removed.map_err(NetlinkError::doing(format!("take {} from {name}", old.net)))?;
    }
    if !board.addresses_of(link.index).any(|address| address.net == gateway(subnet)) {
        let address = gateway(subnet);
        let request = handle.address().add(link.index, address.addr().into(), address.prefix_len());
        let added = request.execute().await;
        added.map_err(NetlinkError::doing(format!("give {address} to {name}")))?;
    }
    if !link.up {
        let message = LinkUnspec::new_with_index(link.index).up().build();
        let raised = handle.link().set(message).execute().await;
        raised.map_err(NetlinkError::doing(format!("bring {name} up")))?;
    }
    Ok(())
}

async fn create(handle: &Handle, name: &str, subnet: Ipv4Net) -> Result<Link, NetlinkError> {
    let failed = || NetlinkError::doing::<rtnetlink::Error>(format!("make the bridge {name}"));
    let [_, b, c, d] = subnet.network().octets();
    let hardware = [&HARDWARE[..], &[b, c, d]].concat();
    let message = LinkBridge::new(name).address(hardware).build();
    handle.link().add(message).execute().await.map_err(failed())?;
    let board = Board::read(handle).await?;
    let link = board.link(name).ok_or_else(|| NetlinkError::NoBridge(name.to_owned()))?;
    // IPv4 only for now. Without this, containers would reach the board by its link-local IPv6 address, and the
    // kernel would wake up for neighbours and routers that nobody asked for.
    write_if_there(&format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1")?;
    write_if_there(&format!("/proc/sys/net/ipv4/conf/{name}/forwarding"), "1")?;
    Ok(link.clone())
}

/// Removes those of our bridges that no environment asks for.
pub(super) async fn remove_others(
    handle: &Handle,
    board: &Board,
    environments: &BTreeMap<EnvironmentName, Ipv4Net>,
) -> Result<(), NetlinkError> {
    for (environment, link) in board.bridges() {
        if !environments.contains_key(&environment) {
            let removed = handle.link().del(link.index).execute().await;
            removed.map_err(NetlinkError::doing(format!("remove the bridge {}", link.name)))?;
        }
    }
    Ok(())
}

/// Writes a setting of the kernel's, which a kernel without that feature does not have.
pub(super) fn write_if_there(path: &str, value: &str) -> Result<(), NetlinkError> {
    match fs::write(path, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written.map_err(NetlinkError::doing(format!("write {path}"))),
    }
}
