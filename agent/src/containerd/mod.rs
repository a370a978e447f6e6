//! The container runtime, through the API of containerd alone.

pub mod connection;
