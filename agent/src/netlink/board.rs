//! What the board's network looks like: links, addresses and routes, read in one go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use domain::model::EnvironmentName;
use futures_util::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::error::NetlinkError;

/// What the alias of our bridges begins with; the environment follows.
pub(super) const ALIAS: &str = "skerry:";

/// What the hardware address of our bridges begins with: `02` is "locally administered", then `sk`.
///
/// It is set in the very message that makes the bridge, which the alias cannot be: so a bridge that a power cut left
/// without its alias is still known as ours.
pub(super) const HARDWARE: [u8; 3] = [0x02, b's', b'k'];

/// The most subnets that are offered: more environments than a board can run, and a pool may be as large as a `/8`.
const MAX_SUBNETS: usize = 256;

/// A route with a shorter prefix stands for "all the world", as the halves that VPNs make of the default route do.
const SHORTEST_NETWORK: u8 = 8;

/// An interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) alias: String,
    pub(super) hardware: Vec<u8>,
    pub(super) controller: Option<u32>,
    pub(super) bridge: bool,
    pub(super) up: bool,
    pub(super) loopback: bool,
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) index: u32,
    pub(super) net: Ipv4Net,
    pub(super) global: bool,
    /// As the kernel sent it, because that is what it wants to delete it.
    pub(super) message: AddressMessage,
}

/// A route, of any table but the local one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) to: Ipv4Net,
    pub(super) out: Option<u32>,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Board {
    pub(super) links: Vec<Link>,
    pub(super) addresses: Vec<Address>,
    pub(super) routes: Vec<Route>,
}

impl Board {
    /// Asks the kernel.
    pub(super) async fn read(handle: &Handle) -> Result<Self, NetlinkError> {
        let links: Vec<LinkMessage> = handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(NetlinkError::doing("list the interfaces"))?;
        let addresses: Vec<AddressMessage> = handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(NetlinkError::doing("list the addresses"))?;
        let routes: Vec<RouteMessage> = handle
            .route()
            .get(RouteMessageBuilder::<Ipv4Addr>::new().build())
            .execute()
            .try_collect()
            .await
            .map_err(NetlinkError::doing("list the routes"))?;
        Ok(Self {
            links: links.iter().map(link).collect(),
            addresses: addresses.into_iter().filter_map(address).collect(),
            routes: routes.iter().filter_map(route).collect(),
        })
    }

    /// The interface of this name.
    pub(super) fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The addresses of an interface.
    pub(super) fn addresses_of(&self, index: u32) -> impl Iterator<Item = &Address> {
        self.addresses.iter().filter(move |address| address.index == index)
    }

    /// Our bridges and the environments they stand for.
    pub(super) fn bridges(&self) -> impl Iterator<Item = (EnvironmentName, &Link)> {
        self.links.iter().filter_map(|link| Some((link.environment()?, link)))
    }

    /// The subnets of our bridges.
    pub(super) fn environments(&self) -> BTreeMap<EnvironmentName, Ipv4Net> {
        self.bridges()
            .filter_map(|(environment, link)| {
                let address = self.addresses_of(link.index).next()?;
                Some((environment, address.net.trunc()))
            })
            .collect()
    }

    /// The addresses by which the LAN knows the board, those of the default route's interface first.
    pub(super) fn lan_addresses(&self) -> Vec<Ipv4Addr> {
        let default = self.routes.iter().find(|route| route.to.prefix_len() == 0);
        let default = default.and_then(|route| route.out);
        let on_lan = |index: u32| {
            self.links.iter().any(|link| {
                link.index == index && link.up && !link.loopback && link.environment().is_none()
            })
        };
        let mut found: Vec<&Address> = self
            .addresses
            .iter()
            .filter(|address| address.global && on_lan(address.index))
            .collect();
        found.sort_by_key(|address| Some(address.index) != default);
        found.iter().map(|address| address.net.addr()).collect()
    }

    /// The `/24`s of `pool` that overlap nothing the board is in, beside our own bridges.
    pub(super) fn free_subnets(&self, pool: Ipv4Net) -> Result<Vec<Ipv4Net>, NetlinkError> {
        let ours: BTreeSet<u32> = self.bridges().map(|(_, link)| link.index).collect();
        let addresses = self
            .addresses
            .iter()
            .filter(|address| !ours.contains(&address.index))
            .map(|address| address.net.trunc());
        let routes = self
            .routes
            .iter()
            .filter(|route| route.out.is_none_or(|out| !ours.contains(&out)))
            .map(|route| route.to)
            .filter(|to| SHORTEST_NETWORK <= to.prefix_len());
        let taken: Vec<Ipv4Net> =
            addresses.chain(routes).filter(|net| overlap(*net, pool)).collect();
        let free: Vec<Ipv4Net> = pool
            .subnets(24)
            .expect("a pool is not smaller than a /24: the configuration was checked")
            .filter(|subnet| !taken.iter().any(|net| overlap(*net, *subnet)))
            .take(MAX_SUBNETS)
            .collect();
        if free.is_empty() { Err(NetlinkError::PoolInUse(pool)) } else { Ok(free) }
    }
}

impl Link {
    /// The environment that this is the bridge of, if it is one of ours.
    pub(super) fn environment(&self) -> Option<EnvironmentName> {
        let environment: EnvironmentName = self.alias.strip_prefix(ALIAS)?.parse().ok()?;
        (self.bridge && environment.bridge() == self.name).then_some(environment)
    }

    /// A bridge that we began and did not finish.
    pub(super) fn is_half_made(&self) -> bool {
        self.bridge && self.alias.is_empty() && self.hardware.starts_with(&HARDWARE)
    }
}

/// The first address of a subnet: gateway, DNS server and ingress.
pub(super) fn gateway(subnet: Ipv4Net) -> Ipv4Net {
    let first = Ipv4Addr::from(u32::from(subnet.network()) + 1);
    Ipv4Net::new_assert(first, subnet.prefix_len())
}

fn overlap(one: Ipv4Net, other: Ipv4Net) -> bool {
    one.contains(&other) || other.contains(&one)
}

fn link(message: &LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        up: flags.contains(LinkFlags::Up),
        loopback: flags.contains(LinkFlags::Loopback),
        ..Link::default()
    };
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            link.name.clone_from(name);
        } else if let LinkAttribute::IfAlias(alias) = attribute {
            link.alias.clone_from(alias);
        } else if let LinkAttribute::Address(hardware) = attribute {
            link.hardware.clone_from(hardware);
        } else if let LinkAttribute::Controller(index) = attribute {
            link.controller = Some(*index);
        } else if let LinkAttribute::LinkInfo(infos) = attribute {
            link.bridge = infos.contains(&LinkInfo::Kind(InfoKind::Bridge));
        }
    }
    link
}

fn address(message: AddressMessage) -> Option<Address> {
    let prefix = message.header.prefix_len;
    // Of a point-to-point link, `Address` is the other end and `Local` this one; elsewhere they are the same.
    let local = message.attributes.iter().find_map(|attribute| {
        if let AddressAttribute::Local(IpAddr::V4(address)) = attribute {
            Some(*address)
        } else {
            None
        }
    })?;
    Some(Address {
        index: message.header.index,
        net: Ipv4Net::new(local, prefix).ok()?,
        global: message.header.scope == AddressScope::Universe,
        message,
    })
}

fn route(message: &RouteMessage) -> Option<Route> {
    let meant_for_us = [RouteType::Local, RouteType::Broadcast, RouteType::Multicast];
    if meant_for_us.contains(&message.header.kind) {
        return None;
    }
    let (mut to, mut out) = (Ipv4Addr::UNSPECIFIED, None);
    for attribute in &message.attributes {
        if let RouteAttribute::Destination(RouteAddress::Inet(address)) = attribute {
            to = *address;
        } else if let RouteAttribute::Oif(index) = attribute {
            out = Some(*index);
        }
    }
    let to = Ipv4Net::new(to, message.header.destination_prefix_length).ok()?;
    Some(Route { to: to.trunc(), out })
}
