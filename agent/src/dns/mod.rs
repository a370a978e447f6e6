//! The DNS server of each environment.
