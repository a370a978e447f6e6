//! Images against a real containerd and a real registry.

mod access;
mod archives;
mod clear;
mod cuts;
mod exports;
mod fixture;
mod flaky;
mod leases;
mod pulls;
mod trust;
