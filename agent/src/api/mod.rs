//! The local API: gRPC on `agent.sock`, for the command line and whoever else may open the socket.
//!
//! ```text
//!   agent.sock ─▶ server (http/2) ─▶ service ─▶ inbox      what shall change
//!                                          ├──▶ published  what is
//!                                          └──▶ sources    images, logs
//! ```
//!
//! The calls decide nothing: each is a request to the loop, or a look at what it publishes. Who may call is decided by
//! the rights of the socket alone (mode 0660, group `skerry`).

mod deadline;
mod images;
mod refusal;
mod secrets;
mod server;
mod service;
mod socket;
pub mod sources;
mod spool;
mod streams;
#[cfg(test)]
pub(crate) mod tests;
mod verbs;

pub use self::server::serve;
pub use self::service::Api;
pub use self::socket::{ApiSocket, SocketError};
