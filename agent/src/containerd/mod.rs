//! The container runtime, through the API of containerd alone.

pub mod connection;
pub mod images;
#[cfg(test)]
pub(crate) mod testing;
