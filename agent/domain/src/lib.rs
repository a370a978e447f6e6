//! What Skerry decides, and the words it decides in.
//!
//! Nothing here knows a clock, a socket or a file: time comes in as a [`model::Moment`], chance as an argument, the
//! world as a value. The shell around it (package `skerry`) looks, asks, acts, reports and rests.
//!
//! ```text
//!   document ──▶ intake ──▶ state ──▶ plan ──▶ actions
//!                             ▲         │
//!                        observed       ├──▶ status   what is reported
//!                                       ├──▶ route    what the ingress does
//!                                       ├──▶ zone     what the DNS answers
//!                                       └──▶ probe    what is probed
//! ```

pub mod allowances;
pub mod backoff;
pub mod document;
pub mod event;
pub mod explain;
pub mod intake;
pub mod ipam;
pub mod keep;
pub mod model;
pub mod plan;
pub mod ports;
pub mod probe;
pub mod reason;
pub mod replica;
pub mod reweigh;
pub mod rollout;
pub mod route;
pub mod scale;
pub mod secrets;
pub mod state;
pub mod status;
pub mod storage;
pub mod traffic;
pub mod verbs;
pub mod view;
pub mod window;
pub mod zone;
