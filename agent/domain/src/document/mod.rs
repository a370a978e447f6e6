//! The ACA document: what it may say, and what it says.

mod app;

pub use self::app::*;

use crate::reason::Reason;

/// Something found in a document: an error that refuses it, or a warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where: `properties.template.containers[0].image`; empty for the whole document.
    pub path: String,
    /// What kind.
    pub reason: Reason,
    /// The rule and the value, for people.
    pub message: String,
    /// Line and column, for errors of syntax.
    pub position: Option<(u64, u64)>,
}
