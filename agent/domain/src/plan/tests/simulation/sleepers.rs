//! What must hold of apps that scale, looked at in every round: their numbers, and what stands by for them.

use std::collections::BTreeSet;

use super::run::{Checked, Run, broken};
use super::wants::{asked, bounds, is_followed};
use crate::document;
use crate::model::ReplicaName;
use crate::plan::{Doing, Fleet, Tier};
use crate::probe::ProbePlan;
use crate::replica::ReplicaOrder;
use crate::route::RouteTable;
use crate::state::{AppRecord, RevisionRecord};
use crate::status::Phase;

impl Run {
    /// Whatever the rules come to is within the bounds, and whoever waits gets a replica.
    pub(super) fn check_scales(&self) -> Checked {
        let waited_for = self.agent.crowd.waited_for();
        for record in self.agent.state.apps.values() {
            for revision in record.revisions.iter().filter(|one| one.active) {
                let Some(count) = revision.scaled else { continue };
                let (least, most) = bounds(record, revision);
                if record.stopped || record.removed || record.scale.replicas.is_some() {
                    return broken("scales what is not to scale", revision.name.to_string());
                }
                if count < least || most < count {
                    let details = format!("{}: {count} of {least} to {most}", revision.name);
                    return broken("scales beyond the bounds", details);
                }
                if count == 0 && revision.phase != Phase::Committed {
                    return broken("goes to zero on its way", revision.name.to_string());
                }
                if count == 0 && waited_for.contains(&revision.name) {
                    return broken(
                        "stays at zero though somebody waits",
                        revision.name.to_string(),
                    );
                }
            }
        }
        Ok(())
    }

    /// What stands by gets neither requests nor probes.
    pub(super) fn check_sleepers(&self, routes: &RouteTable, probed: &ProbePlan) -> Checked {
        let stands_by = |name: &ReplicaName| {
            let real = self.board.replicas.get(name);
            real.is_some_and(super::board::Real::stands_by)
        };
        if let Some(name) = probed.keys().find(|name| stands_by(name)) {
            return broken("what stands by is probed", name.to_string());
        }
        let services = routes.environments.values().flat_map(|routes| routes.apps.values());
        let mut backends = services.flat_map(|service| service.revisions.values().flatten());
        match backends.find(|backend| stands_by(&backend.replica)) {
            Some(backend) => broken("traffic to what stands by", backend.replica.to_string()),
            None => Ok(()),
        }
    }

    pub(super) fn check_prepare(
        &self,
        fleet: &Fleet<'_>,
        order: &ReplicaOrder,
        tier: Tier,
        stops: &BTreeSet<&ReplicaName>,
    ) -> Checked {
        let record = self.agent.state.apps.get(&order.app);
        let revision = record.and_then(|record| record.revision(&order.revision));
        let (Some(record), Some(revision)) = (record, revision) else {
            return broken("prepares what nobody asked for", order.replica.to_string());
        };
        super::orders::check_order(record, order)?;
        if !rests(record, revision) {
            return broken("prepares for what does not rest", order.replica.to_string());
        }
        if most_ahead(record, revision) < tier {
            return broken("prepares more than asked for", format!("{} {tier:?}", order.replica));
        }
        let spares = fleet.spares(&revision.name).iter();
        let stands = spares.into_iter().any(|spare| !stops.contains(&spare.view.name));
        let mut doing = self.agent.doing.values();
        let comes = doing.any(
            |doing| matches!(doing, Doing::Preparing(other) if other.revision == revision.name),
        );
        if stands || comes {
            return broken("two stand by for one revision", order.replica.to_string());
        }
        Ok(())
    }

    pub(super) fn check_freeze(&self, fleet: &Fleet<'_>, name: &ReplicaName) -> Checked {
        for record in self.agent.state.apps.values() {
            for revision in &record.revisions {
                let views = fleet.replicas(&revision.name);
                let Some(view) = views.iter().find(|view| view.name == *name) else { continue };
                let frozen = record
                    .document_of(revision)
                    .is_some_and(|one| one.skerry.standby == document::Standby::Frozen);
                if !view.ready || !frozen || !rests(record, revision) {
                    return broken("freezes what is not to be frozen", name.to_string());
                }
                if !fleet.spares(&revision.name).is_empty() {
                    return broken("two stand by for one revision", name.to_string());
                }
                return Ok(());
            }
        }
        broken("freezes what is of no revision", name.to_string())
    }

    pub(super) fn check_wake(
        &self,
        fleet: &Fleet<'_>,
        order: &ReplicaOrder,
        tier: Tier,
    ) -> Checked {
        let spares = fleet.spares(&order.revision);
        let known = spares.iter().find(|spare| spare.view.name == order.replica);
        let freezing = matches!(self.agent.doing.get(&order.replica), Some(Doing::Freezing));
        let called_back = freezing && tier == Tier::Frozen;
        if !called_back && known.is_none_or(|spare| spare.tier != tier) {
            return broken("wakes what does not stand by", order.replica.to_string());
        }
        let record = self.agent.state.apps.get(&order.app);
        let revision = record.and_then(|record| record.revision(&order.revision));
        match (record, revision) {
            (Some(record), Some(revision)) if 0 < asked(record, revision) => Ok(()),
            (_, _) => broken("wakes what is at zero", order.replica.to_string()),
        }
    }
}

/// It is at zero, from where somebody who asks brings it back; and one may stand by for it.
pub(super) fn rests(record: &AppRecord, revision: &RevisionRecord) -> bool {
    let fetched = !revision.images.is_empty() && !revision.refetch;
    revision.scaled == Some(0)
        && revision.active
        && !record.stopped
        && !record.removed
        && record.scale.replicas.is_none()
        && revision.phase == Phase::Committed
        && fetched
        && revision.template.extras.devices.is_empty()
        && !is_followed(record, revision)
}

/// The most that is made ahead for a revision.
fn most_ahead(record: &AppRecord, revision: &RevisionRecord) -> Tier {
    match record.document_of(revision).map(|one| one.skerry.standby) {
        None | Some(document::Standby::None) => Tier::Prepared,
        Some(document::Standby::Created | document::Standby::Frozen) => Tier::Created,
    }
}
