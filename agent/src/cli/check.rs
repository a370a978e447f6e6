//! `skerry check`: a document is looked at without an agent.

use std::fmt;

use domain::reason::Reason;
use serde::Serialize;

/// What was found in a document.
#[derive(Debug, Serialize)]
pub struct CheckReport {
    errors: Vec<String>,
}

impl CheckReport {
    /// The agent would take it.
    pub fn ok(&self) -> bool {
        self.errors.is_empty()
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errors.as_slice() {
            [] => f.write_str("ok"),
            errors => f.write_str(&errors.join("\n")),
        }
    }
}

/// Looks at a document: its size and its syntax.
pub fn check(bytes: &[u8]) -> CheckReport {
    let mut errors = Vec::new();
    if 256 << 10 < bytes.len() {
        errors.push(format!(
            "{} ({})",
            Reason::DocumentTooLarge.sentence(),
            Reason::DocumentTooLarge
        ));
    } else if let Err(error) = serde_saphyr::from_slice::<serde_json::Value>(bytes) {
        errors.push(format!("{error} ({})", Reason::InvalidSyntax));
    }
    CheckReport { errors }
}
