//! The ACA document: what it may say, and what it says.
//!
//! ```text
//!   bytes ──▶ node ──▶ fields ──▶ app | job | environment      every finding knows its path, and its line where there is one
//!             text     shapes,    types that
//!             & lines  warnings   cannot be wrong
//! ```
//!
//! Nothing here looks beyond the document: whether a secret has a value or a storage exists is for others to say.

mod app;
mod app_reader;
mod canonical;
mod capability;
mod configuration;
mod container;
mod environment;
mod ephemeral;
mod fields;
mod findings;
mod ingress;
mod job;
mod node;
mod parse;
mod probes;
mod quantity;
pub(crate) mod rules;
mod scale;
mod scale_target;
mod skerry;
mod support;
mod template;
#[cfg(test)]
mod tests;
mod withheld;

pub use self::app::*;
pub use self::capability::{ALL_CAPABILITIES, capability};
pub use self::environment::{EnvironmentDocument, Storage};
pub use self::ephemeral::ephemeral_bytes;
pub use self::findings::Finding;
pub use self::parse::{MAX_DOCUMENT_BYTES, Parsed, parse, parse_environment};
pub use self::probes::{ExecProbes, effective_probes};
pub use self::rules::secret_name;
pub use self::scale_target::ScaleTarget;
pub use self::withheld::{Withheld, parse_withheld, withhold};
