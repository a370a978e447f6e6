//! The scale target of an app: how many replicas, over what the template says, without a new revision.

use super::fields::Fields;
use super::findings::{Finding, Findings};
use super::parse;
use super::support::Place;
use crate::reason::Reason;

/// As for the template: this catches slips of the pen.
const MAX_REPLICAS: u32 = 100_000;

/// A scale target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScaleTarget {
    /// In place of the template's.
    pub min_replicas: Option<u32>,
    /// In place of the template's.
    pub max_replicas: Option<u32>,
    /// Pins the number, even beyond the maximum; 0 is not woken by requests.
    pub replicas: Option<u32>,
}

impl ScaleTarget {
    /// Reads a target; nothing, where the payload is empty and thus clears the one that is set.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, Finding> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        let node = parse::read(bytes)?;
        let found = Findings::default();
        let fields = Fields::of(&node, String::new(), Place::ScaleTarget, &found);
        let target = fields.map(read);
        let (errors, unknown) = found.into_lists();
        // A key that is not known is an error here: a target is typed by hand, and one that does nothing misleads.
        match (errors.into_iter().chain(unknown).next(), target) {
            (Some(finding), _) => Err(finding),
            (None, target) => Ok(target.filter(|target| *target != Self::default())),
        }
    }
}

fn read(mut fields: Fields<'_>) -> ScaleTarget {
    let target = ScaleTarget {
        min_replicas: fields.count("minReplicas", 0..=MAX_REPLICAS),
        max_replicas: fields.count("maxReplicas", 1..=MAX_REPLICAS),
        replicas: fields.count("replicas", 0..=MAX_REPLICAS),
    };
    if let (Some(least), Some(most)) = (target.min_replicas, target.max_replicas)
        && most < least
    {
        let message = format!("{least} is more than maxReplicas, which is {most}");
        fields.error("minReplicas", Reason::InvalidValue, message);
    }
    fields.close();
    target
}
