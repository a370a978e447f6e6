//! The agent: a pure decision (package `domain`) inside a thin shell.
//!
//! ```text
//!   mqtt ─┐                        ┌─▶ containerd   (Runtime)
//!   api  ─┼─▶ inbox ─▶ reconcile ──┼─▶ netlink      (Network)
//!   files ┘              │   ▲     ├─▶ sled_store   (Store)
//!                        │   │     └─▶ ingress      (Drain)
//!                        ▼   │
//!                    published: routes ─▶ ingress · zones ─▶ dns · announcements ─▶ mdns
//!                               probes ─▶ probe ─▶ health ─┘ · statuses, outbox ─▶ mqtt, api
//!                               samples ─▶ scalers ─▶ readings ─┘
//! ```
//!
//! Ports (`runtime`, `network`, `store`, `drain`) speak the domain's words. Adapters implement one each and don't know each
//! other; they meet on the channels of `inbox` and `published`, which `main` wires.

// Ports, channels and the loop.
pub mod broker;
pub mod clock;
pub mod config;
pub mod course;
pub mod dial;
pub mod drain;
pub mod inbox;
pub mod keys;
pub mod manager;
pub mod network;
pub mod published;
pub mod reconcile;
pub mod report;
pub mod runtime;
pub mod space;
pub mod store;
pub mod tasks;
pub mod trial;
pub mod wire;

// Adapters.
pub mod api;
pub mod containerd;
pub mod dns;
pub mod ingress;
pub mod logger;
pub mod mdns;
pub mod mqtt;
pub mod netlink;
pub mod pressure;
pub mod probe;
pub mod scalers;
pub mod sled_store;
pub mod watch_dir;

// The process and the command line.
pub mod agent;
pub mod cli;
pub mod doctor;
