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

// --- until the parser is merged ---
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScaleTarget {
    pub min_replicas: Option<u32>,
    pub max_replicas: Option<u32>,
    pub replicas: Option<u32>,
}
impl std::fmt::Display for ScaleTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("")
    }
}
impl ScaleTarget {
    pub fn parse(_: &[u8]) -> Result<Option<Self>, Finding> {
        Ok(None)
    }
}
pub struct Parsed {
    pub document: Result<Document, Vec<Finding>>,
    pub warnings: Vec<Finding>,
}
pub fn parse(_: &[u8]) -> Parsed {
    Parsed { document: Err(vec![]), warnings: vec![] }
}
impl Template {
    pub fn digest(&self) -> crate::model::Digest {
        crate::model::Digest::of(format!("{self:?}").as_bytes())
    }
    pub fn canonical(&self) -> String {
        String::new()
    }
    pub fn from_canonical(_: &str) -> Result<Self, Vec<Finding>> {
        Ok(Self::default())
    }
}
pub fn effective_probes(_: &Container, _: Option<u16>) -> Vec<crate::probe::Probe> {
    vec![]
}
