//! Bridges, namespaces, addresses and the nftables table.
