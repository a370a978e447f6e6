//! What the system tests, the demo and the bench stand on: a board of one's own, made of the real parts.
//!
//! ```text
//!   root namespace                          namespace skt-N
//!   ┌──────────────────────────┐            ┌────────────────────────────────────┐
//!   │ test · Broker · Registry │── 10.199.N ┤ containerd · skerry agent · bridges │
//!   └──────────────────────────┘  .1    .2  └────────────────────────────────────┘
//! ```
//!
//! Each [`Board`] has its network namespace, containerd, state and agent, so boards run side by side and the machine
//! stays as it was. A board cleans up when it is dropped, and one whose test was killed is cleaned up by the next that
//! takes its number.

mod agent;
mod board;
mod broker;
mod cgroup;
mod command;
mod control;
mod disk;
mod document;
mod http;
mod image;
mod lan;
mod leftovers;
mod line;
mod process;
mod registry;
mod shared;
mod sweep;
mod wait;

pub use self::agent::Settings;
pub use self::board::Board;
pub use self::broker::{Access, Broker, Certificates};
pub use self::cgroup::{cgroup_file, counter};
pub use self::command::{output, run};
pub use self::control::{Control, Message, tells};
pub use self::disk::{Cut, Disk};
pub use self::document::Document;
pub use self::http::{Answer, Client};
pub use self::image::{Image, testapp};
pub use self::lan::{Lan, within};
pub use self::leftovers::{await_nothing_left, leftovers};
pub use self::line::Line;
pub use self::process::Process;
pub use self::registry::Registry;
pub use self::shared::{Shared, Stage};
pub use self::wait::{LONG, SHORT, eventually, look_every, now, pause};
