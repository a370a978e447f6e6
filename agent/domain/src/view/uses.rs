//! Which apps and jobs run which images, for whoever lists these.

use crate::model::{AppName, Digest};
use crate::state::State;

/// An image that an app or a job runs, or would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUse {
    /// Whose.
    pub by: AppName,
    /// As the template has it.
    pub reference: String,
    /// What it was resolved to; none where it was not yet.
    pub digest: Option<Digest>,
}

/// The images of every active revision, and of every job.
pub fn image_uses(state: &State) -> Vec<ImageUse> {
    let mut uses = Vec::new();
    for record in state.apps.values().filter(|record| !record.removed) {
        for revision in record.revisions.iter().filter(|revision| revision.active) {
            uses.extend(revision.template.images().map(|reference| ImageUse {
                by: record.name.clone(),
                reference: reference.to_owned(),
                digest: revision.images.get(reference).map(|image| image.digest),
            }));
        }
    }
    for record in state.jobs.values().filter(|record| !record.removed) {
        let Some(accepted) = &record.accepted else { continue };
        uses.extend(accepted.document.template.images().map(|reference| ImageUse {
            by: record.name.clone(),
            reference: reference.to_owned(),
            digest: None,
        }));
    }
    uses
}
