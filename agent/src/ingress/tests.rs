//! The ingress against real sockets on loopback.
