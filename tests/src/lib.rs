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
mod card;
mod cgroup;
mod command;
mod control;
mod debian;
mod dice;
mod disk;
mod document;
mod freezable;
mod http;
mod image;
mod lan;
mod leftovers;
mod line;
mod machine;
mod process;
mod registry;
mod shared;
mod shell;
mod signer;
mod small_disk;
mod sweep;
mod wait;

pub use self::agent::Settings;
pub use self::board::Board;
pub use self::broker::{Access, Broker, Certificates};
pub use self::card::{Card, Cut};
pub use self::cgroup::{cgroup_file, counter};
pub use self::command::{output, run};
pub use self::control::{Control, Message, tells};
pub use self::debian::Debian;
pub use self::dice::Dice;
pub use self::disk::Disk;
pub use self::document::Document;
pub use self::freezable::{FreezableDisk, Hanging};
pub use self::http::{Answer, Client};
pub use self::image::{Image, testapp};
pub use self::lan::{Lan, within};
pub use self::leftovers::{await_nothing_left, leftovers};
pub use self::line::Line;
pub use self::machine::{Boot, EMULATED, Kind, Machine};
pub use self::process::Process;
pub use self::registry::Registry;
pub use self::shared::{Shared, Stage};
pub use self::shell::Shell;
pub use self::signer::Signer;
pub use self::small_disk::{Filler, SmallDisk};
pub use self::wait::{LONG, SHORT, eventually, look_every, now, pause};
