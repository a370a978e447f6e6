//! What is sampled for scale rules: only what somebody scales by, and of replicas only those that run.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Scene;
use crate::scale::{Polled, Sample, SampleKey, SamplePlan, Source};
use crate::state::{AppRecord, RevisionRecord};
use crate::status::Phase;

/// What the samplers do.
pub fn samples(scene: Scene<'_>) -> SamplePlan {
    let mut plan = BTreeMap::new();
    let scaled =
        |record: &&AppRecord| !record.removed && !record.stopped && record.scale.replicas.is_none();
    for record in scene.state.apps.values().filter(scaled) {
        let stands = |revision: &&RevisionRecord| {
            revision.active && matches!(revision.phase, Phase::Probation | Phase::Committed)
        };
        for revision in record.revisions.iter().filter(stands) {
            of_revision(record, revision, scene, &mut plan);
        }
    }
    plan
}

fn of_revision(
    record: &AppRecord,
    revision: &RevisionRecord,
    scene: Scene<'_>,
    plan: &mut SamplePlan,
) {
    let polled = scene.memory.polled(&revision.name);
    let Some(document) = record.document_of(revision).filter(|_| !polled.is_empty()) else {
        return;
    };
    let every = Duration::from_secs(revision.template.scale.polling_interval_secs.into());
    for (rule, polled) in polled {
        let Polled { mut source, target, activation } = polled.clone();
        if let Source::Usage(_, replicas) = &mut source {
            let ready = scene.fleet.replicas(&revision.name).iter().filter(|replica| replica.ready);
            replicas.extend(ready.map(|replica| replica.name.clone()));
            if replicas.is_empty() {
                continue;
            }
        }
        let key = SampleKey { revision: revision.name.clone(), rule: rule.clone() };
        let (app, environment) = (record.name.clone(), document.environment.clone());
        plan.insert(key, Sample { app, environment, every, source, target, activation });
    }
}
