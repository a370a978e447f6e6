//! The ingress: HTTP from the LAN and from inside the environments to the replicas.
