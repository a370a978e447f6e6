//! A replica's network namespace: a file under `netns/` that a namespace is mounted on, and an interface in it.
//!
//! ```text
//!   board:      sk-default (10.213.0.1/24) ── skv7f3k2…
//!                                                │ veth
//!   namespace:  lo                            eth0 (10.213.0.5/24), default route by 10.213.0.1
//! ```
//!
//! Everything here blocks and moves its thread between namespaces: it runs on a thread of its own (`apart`).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use domain::model::ReplicaName;
use domain::replica::Place;
use ipnet::Ipv4Net;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use nix::sys::statfs::{NSFS_MAGIC, statfs};
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tracing::debug;

use super::apart::connected;
use super::board::Board;
use super::bridge::write_if_there;
use super::error::NetlinkError;

/// The interface inside.
const INSIDE: &str = "eth0";

/// Settings of a new namespace.
const SETTINGS: [(&str, &str); 3] = [
    // IPv4 only for now: interfaces that come later have no IPv6, while the loopback keeps its own.
    ("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"),
    // An app that is not root may listen on port 80 and may ping, as images that were made for Docker expect.
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    ("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"),
];

/// The most mounts that are taken off one file. One is usual; more are what two agents at once could leave.
const MAX_STACKED: usize = 8;

/// The name of a replica's interface on the board.
pub(super) fn outside(replica: &ReplicaName) -> String {
    format!("skv{}", replica.short())
}

/// Makes a replica's namespace and interface stand.
pub(super) fn attach(replica: &ReplicaName, place: &Place) -> Result<(), NetlinkError> {
    stand(&outside(replica), place)
}

/// Makes the namespace of `place` and its interface stand, whether nothing, half of it or all of it is there; on the
/// board the interface is called `outside`.
pub(super) fn stand(outside: &str, place: &Place) -> Result<(), NetlinkError> {
    let home = this_network()?;
    join_mounts_of_init()?;
    let (inside, fresh) = stand_up(&place.netns, &home)?;
    let furnished = !fresh && {
        enter(&inside)?;
        let furnished = connected(async |handle| is_furnished(&handle, place).await)?;
        enter(&home)?;
        furnished
    };
    let made =
        connected(async |handle| link_up(&handle, outside, place, &inside, furnished).await)?;
    if made {
        enter(&inside)?;
        connected(async |handle| furnish(&handle, place).await)?;
    }
    Ok(())
}

/// Removes a replica's namespace and interface.
pub(super) fn detach(replica: &ReplicaName, netns: &Path) -> Result<(), NetlinkError> {
    remove(&outside(replica), netns)
}

/// Removes a namespace and its interface, whatever there is of them.
pub(super) fn remove(outside: &str, netns: &Path) -> Result<(), NetlinkError> {
    // The interface first: it would go with the namespace, but later, and its address would not be free until then.
    connected(async |handle| {
        let board = Board::read(&handle).await?;
        let Some(link) = board.link(outside) else { return Ok(()) };
        match handle.link().del(link.index).execute().await {
            Err(rtnetlink::Error::NetlinkError(answer))
                if answer.raw_code() == -(Errno::ENODEV as i32) =>
            {
                Ok(())
            }
            removed => removed.map_err(NetlinkError::doing(format!("remove {}", link.name))),
        }
    })?;
    join_mounts_of_init()?;
    for _ in 0..MAX_STACKED {
        match nix::mount::umount2(netns, MntFlags::MNT_DETACH) {
            Ok(()) => (),
            // Not a mount any more, or not even a file.
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(error) => {
                return Err(NetlinkError::doing(format!("unmount {}", netns.display()))(error));
            }
        }
    }
    match fs::remove_file(netns) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(NetlinkError::doing(format!("remove {}", netns.display()))),
    }
}

/// The replicas that have a mounted namespace in `directory`.
pub(super) fn mounted(directory: &Path) -> Result<BTreeSet<ReplicaName>, NetlinkError> {
    let mut replicas = of_replicas(directory)?;
    replicas.retain(|replica| is_namespace(&directory.join(replica.as_str())));
    Ok(replicas)
}

/// Removes the files in `directory` that no namespace is mounted on: an agent that was killed between two steps leaves
/// them, and nobody would look for them again. Whoever attaches at the same time would lose the file under the mount.
pub(super) fn remove_bare(directory: &Path) -> Result<(), NetlinkError> {
    for replica in of_replicas(directory)? {
        let file = directory.join(replica.as_str());
        if !is_namespace(&file) {
            fs::remove_file(&file)
                .map_err(NetlinkError::doing(format!("remove {}", file.display())))?;
        }
    }
    Ok(())
}

/// The replicas that have a file in `directory`.
fn of_replicas(directory: &Path) -> Result<BTreeSet<ReplicaName>, NetlinkError> {
    join_mounts_of_init()?;
    let failed = || NetlinkError::doing::<io::Error>(format!("list {}", directory.display()));
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries.map_err(failed())?,
    };
    let mut replicas = BTreeSet::new();
    for entry in entries {
        let entry = entry.map_err(failed())?;
        if let Some(Ok(replica)) = entry.file_name().to_str().map(str::parse) {
            replicas.insert(replica);
        }
    }
    Ok(replicas)
}

/// The network namespace that this thread is in.
fn this_network() -> Result<File, NetlinkError> {
    File::open("/proc/thread-self/ns/net")
        .map_err(NetlinkError::doing("open this thread's network namespace"))
}

fn enter(namespace: &File) -> Result<(), NetlinkError> {
    nix::sched::setns(namespace, CloneFlags::CLONE_NEWNET)
        .map_err(NetlinkError::doing("enter a network namespace"))
}

/// Makes this thread see and make mounts as PID 1 does.
///
/// The unit may have a mount namespace of its own, which containerd and runc would not look into. Where PID 1 may not
/// be looked at, as in a sandbox that kept its own rights from root, everything shares the sandbox's mounts.
fn join_mounts_of_init() -> Result<(), NetlinkError> {
    let failed = || NetlinkError::doing::<io::Error>("look at the mount namespace of PID 1");
    let ours = fs::metadata("/proc/thread-self/ns/mnt").map_err(failed())?;
    let init = match File::open("/proc/1/ns/mnt") {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            debug!(%error, "mounts stay in the agent's own mount namespace");
            return Ok(());
        }
        init => init.map_err(failed())?,
    };
    if init.metadata().map_err(failed())?.ino() == ours.ino() {
        return Ok(());
    }
    let joining = || NetlinkError::doing::<Errno>("join the mount namespace of PID 1");
    // A thread that shares root and working directory with others may not change its mounts.
    nix::sched::unshare(CloneFlags::CLONE_FS).map_err(joining())?;
    nix::sched::setns(&init, CloneFlags::CLONE_NEWNS).map_err(joining())
}

/// The namespace at `path`, and whether it was made just now.
fn stand_up(path: &Path, home: &File) -> Result<(File, bool), NetlinkError> {
    let open = || {
        let failed = NetlinkError::doing(format!("open {}", path.display()));
        File::open(path).map_err(failed)
    };
    if is_namespace(path) {
        return Ok((open()?, false));
    }
    let failed = || NetlinkError::doing::<io::Error>(format!("make {}", path.display()));
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(failed())?;
    }
    File::create(path).map_err(failed())?;
    nix::sched::unshare(CloneFlags::CLONE_NEWNET)
        .map_err(NetlinkError::doing("make a network namespace"))?;
    for (setting, value) in SETTINGS {
        write_if_there(setting, value)?;
    }
    let none: Option<&Path> = None;
    let this = Some("/proc/thread-self/ns/net");
    nix::mount::mount(this, path, none, MsFlags::MS_BIND, none)
        .map_err(NetlinkError::doing(format!("mount a network namespace on {}", path.display())))?;
    enter(home)?;
    Ok((open()?, true))
}

fn is_namespace(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC)
}

/// Makes the pair of interfaces, unless it is there and the inner one is `furnished`; says whether it did.
async fn link_up(
    handle: &Handle,
    outside: &str,
    place: &Place,
    inside: &File,
    furnished: bool,
) -> Result<bool, NetlinkError> {
    let board = Board::read(handle).await?;
    let bridge = match board.link(&place.bridge) {
        Some(link) if link.environment().is_some() => link,
        Some(_) => return Err(NetlinkError::NameTaken(place.bridge.clone())),
        None => return Err(NetlinkError::NoBridge(place.bridge.clone())),
    };
    if let Some(link) = board.link(outside) {
        if furnished && link.up && link.controller == Some(bridge.index) {
            return Ok(false);
        }
        let removed = handle.link().del(link.index).execute().await;
        removed.map_err(NetlinkError::doing(format!("remove {outside}")))?;
    }
    // The kernel makes the inner end in its namespace at once: it never has a name on the board that could clash. It
    // comes up later, by `furnish`: no end can be up before the other is there.
    let peer = LinkUnspec::new_with_name(INSIDE)
        .setns_by_fd(inside.as_raw_fd())
        .address(hardware(place.address))
        .build();
    let pair = LinkMessageBuilder::<LinkVeth>::new(outside, INSIDE)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .controller(bridge.index)
        .up()
        .build();
    let made = handle.link().add(pair).execute().await;
    made.map_err(NetlinkError::doing(format!("make {outside}")))?;
    Ok(true)
}

/// Whether the namespace that this thread is in has all that `furnish` gives.
async fn is_furnished(handle: &Handle, place: &Place) -> Result<bool, NetlinkError> {
    let board = Board::read(handle).await?;
    let Some(eth0) = board.link(INSIDE) else { return Ok(false) };
    let addresses: Vec<Ipv4Net> =
        board.addresses_of(eth0.index).map(|address| address.net).collect();
    let lo_up = board.links.iter().any(|link| link.loopback && link.up);
    let default_route = board
        .routes
        .iter()
        .any(|route| route.to.prefix_len() == 0 && route.out == Some(eth0.index));
    Ok(eth0.up && lo_up && default_route && addresses == [address(place)])
}

/// Gives the namespace that this thread is in its loopback, address and route.
async fn furnish(handle: &Handle, place: &Place) -> Result<(), NetlinkError> {
    let failed = |what: &str| {
        NetlinkError::doing::<rtnetlink::Error>(format!("{what} for {}", place.address))
    };
    let board = Board::read(handle).await?;
    for link in board.links.iter().filter(|link| link.loopback || link.name == INSIDE) {
        let message = LinkUnspec::new_with_index(link.index).up().build();
        handle.link().set(message).execute().await.map_err(failed("bring interfaces up"))?;
    }
    let eth0 = board.link(INSIDE).ok_or_else(|| NetlinkError::NoBridge(INSIDE.to_owned()))?;
    let address = address(place);
    let request = handle.address().add(eth0.index, address.addr().into(), address.prefix_len());
    request.execute().await.map_err(failed("set the address"))?;
    let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(place.gateway).build();
    handle.route().add(route).execute().await.map_err(failed("set the default route"))
}

/// The hardware address that belongs to an address: `02` is "locally administered", then `r`.
///
/// Whoever spoke to the one that had the address before, the board first of all, remembers for up to a minute where it
/// was: its successor must be there.
fn hardware(address: Ipv4Addr) -> Vec<u8> {
    let [a, b, c, d] = address.octets();
    vec![0x02, b'r', a, b, c, d]
}

fn address(place: &Place) -> Ipv4Net {
    Ipv4Net::new(place.address, place.subnet.prefix_len()).unwrap_or_else(|_| place.address.into())
}
