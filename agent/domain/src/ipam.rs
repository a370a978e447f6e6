//! Addresses: who gets which.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// The gateway of a subnet: its first host.
pub fn gateway(subnet: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.network()) + 1)
}

/// The last host of a subnet: from there the agent asks on behalf of the environment's apps.
pub fn lookout(subnet: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.broadcast()) - 1)
}

/// The first address after `last` that is free, round and round, so that an address rests before it is used again:
/// a client that still holds it must not meet a stranger.
pub fn allocate(
    subnet: Ipv4Net,
    taken: &BTreeSet<Ipv4Addr>,
    last: Option<Ipv4Addr>,
) -> Option<Ipv4Addr> {
    let first = u32::from(subnet.network()) + 2;
    let end = u32::from(lookout(subnet));
    let count = end.checked_sub(first)?;
    let start = last
        .map(u32::from)
        .filter(|last| (first..end).contains(last))
        .map_or(0, |last| last - first + 1);
    (0..count)
        .map(|step| Ipv4Addr::from(first + (start + step) % count))
        .find(|address| !taken.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_rest_before_they_are_used_again() {
        let subnet: Ipv4Net = "10.213.0.0/24".parse().unwrap();
        let address = |last: u8| Ipv4Addr::new(10, 213, 0, last);
        assert_eq!(gateway(subnet), address(1));
        assert_eq!(allocate(subnet, &BTreeSet::new(), None), Some(address(2)));
        let taken = BTreeSet::from([address(3)]);
        assert_eq!(allocate(subnet, &taken, Some(address(2))), Some(address(4)));
        assert_eq!(allocate(subnet, &taken, Some(address(253))), Some(address(2)));
        assert_eq!(lookout(subnet), address(254));
        let all = (2..=253).map(address).collect();
        assert_eq!(allocate(subnet, &all, None), None);
    }
}
