//! What must be in the end, when nothing went wrong for a long time: what runs is what was asked for.

use std::collections::BTreeMap;

use super::asks::Fate;
use super::rest::tier;
use super::run::{Checked, Run, Violation, broken};
use super::tally;
use super::wants::{asked, is_single, kept};
use crate::model::{AppName, RevisionName};
use crate::reason::Reason;
use crate::state::{AppRecord, RevisionRecord};
use crate::status::Phase;
use crate::view;

impl Run {
    pub(super) fn check_end(&mut self) -> Checked {
        if !self.agent.up {
            return broken("the agent did not come back", "");
        }
        self.check_leftovers()?;
        for record in self.agent.state.apps.values() {
            self.check_app(record)?;
        }
        self.check_told().map(drop)
    }

    /// Now and then: what is not as asked for has a reason.
    pub(super) fn check_reasons(&mut self) -> Checked {
        if self.dice.once_in(16) {
            for reason in self.check_told()? {
                tally::add(&mut self.tally, reason.word());
            }
        }
        Ok(())
    }

    /// The reasons that statuses tell of. Nothing is ever pending without one.
    fn check_told(&self) -> Result<Vec<Reason>, Violation> {
        let (names, fleet) = (BTreeMap::new(), self.fleet());
        let ports = self.ports();
        let scene = self.scene(&fleet, &names, &ports);
        let mut reasons = Vec::new();
        for record in self.agent.state.apps.values() {
            let status = view::app_status(record, scene);
            for told in &status.revisions {
                let revision = record.revision(&told.name);
                let wanted = revision.map_or(0, |revision| kept(record, revision));
                if told.active && told.ready_replicas < wanted && told.reason.is_none() {
                    let details = format!("{}: {told:?}", told.name);
                    broken("not as asked for, and no reason why", details)?;
                }
                reasons.extend(told.reason);
            }
        }
        Ok(reasons)
    }

    /// Nothing is there that belongs to nobody.
    fn check_leftovers(&self) -> Checked {
        for (name, real) in &self.board.replicas {
            if !self.board.namespaces.contains(name) {
                return broken("a replica without a network is left over", name.to_string());
            }
            let record = self.agent.state.apps.get(&real.seen.app);
            let revision = record.and_then(|record| {
                record.revisions.iter().find(|known| known.name == real.seen.revision)
            });
            if revision.is_none_or(|revision| !revision.active)
                || real.seen.boot != self.board.boot()
            {
                return broken("a replica is left over", name.to_string());
            }
        }
        let stray =
            self.board.namespaces.iter().find(|name| !self.board.replicas.contains_key(*name));
        match stray {
            Some(name) => broken("a network is left over", name.to_string()),
            None => Ok(()),
        }
    }

    fn check_app(&self, record: &AppRecord) -> Checked {
        let Some(latest) = record.latest() else {
            let running = self.running_of(&record.name);
            return match running.keys().next() {
                None => Ok(()),
                Some(name) => broken("a removed app runs", name.to_string()),
            };
        };
        if !is_single(record) {
            let active = record.revisions.iter().filter(|one| one.active);
            return active
                .filter(|one| is_well(record, one) && !self.is_blocked(one))
                .try_for_each(|one| self.check_replicas(record, one));
        }
        if is_well(record, latest) && !self.is_blocked(latest) {
            return self
                .check_replicas(record, latest)
                .and_then(|()| self.check_alone_in(record, latest));
        }
        let Some(serving) = record.serving() else { return Ok(()) };
        let tries = matches!(latest.phase, Phase::Starting | Phase::Probation);
        if tries && serving.name != latest.name && 0 < asked(record, latest) {
            let details = format!("{} is {:?}", latest.name, latest.phase);
            return broken("what fails is not rolled back", details);
        }
        if !is_well(record, serving) || self.is_blocked(serving) {
            return Ok(());
        }
        self.check_replicas(record, serving).and_then(|()| self.check_alone_in(record, serving))
    }

    /// A revision that is well is there for good, with the replicas that it is asked to have, all ready.
    fn check_replicas(&self, record: &AppRecord, revision: &RevisionRecord) -> Checked {
        let alone = !revision.template.extras.devices.is_empty();
        let wanted = asked(record, revision).min(if alone { 1 } else { u32::MAX });
        let is_off = record.stopped || record.scale.replicas == Some(0);
        let rolled_back = revision.phase == Phase::RolledBack;
        if !is_off && (revision.active || rolled_back) && revision.phase != Phase::Committed {
            let details = format!("{} is {:?}", revision.name, revision.phase);
            return broken("what is well does not take over", details);
        }
        if self.is_just_scaled(record) {
            return Ok(());
        }
        let running = self.running_of(&record.name);
        let (there, ready) = running.get(&revision.name).copied().unwrap_or_default();
        if (there, ready) == (wanted, wanted) {
            return Ok(());
        }
        let details =
            format!("{}: {there} run, {ready} are ready, {wanted} are asked for", revision.name);
        broken("what runs is not what was asked for", details)
    }

    /// In Single mode nothing else runs beside it.
    fn check_alone_in(&self, record: &AppRecord, revision: &RevisionRecord) -> Checked {
        let running = self.running_of(&record.name);
        match running.keys().find(|name| **name != revision.name) {
            Some(other) => broken("a revision that is over runs", other.to_string()),
            None => Ok(()),
        }
    }

    /// How many replicas of each revision there are, and how many of them are ready; not those that stand by.
    fn running_of(&self, app: &AppName) -> BTreeMap<RevisionName, (u32, u32)> {
        let mut running: BTreeMap<RevisionName, (u32, u32)> = BTreeMap::new();
        for real in self.board.replicas.values().filter(|real| real.seen.app == *app) {
            if tier(real).is_some() {
                continue;
            }
            let counts = running.entry(real.seen.revision.clone()).or_default();
            counts.0 += 1;
            counts.1 += u32::from(real.is_ready(self.now));
        }
        running
    }

    /// Another replica holds a device that it needs.
    pub(super) fn is_blocked(&self, revision: &RevisionRecord) -> bool {
        let devices = &revision.template.extras.devices;
        devices.iter().any(|device| {
            self.board.replicas.values().any(|real| {
                real.seen.revision != revision.name && real.devices.contains(&device.host_path)
            })
        })
    }

    /// It may have to wait until another revision, of whichever app, has no need of a device any more.
    pub(super) fn is_contended(&self, revision: &RevisionRecord) -> bool {
        let own = &revision.template.extras.devices;
        let all = self.agent.state.apps.values().flat_map(|record| &record.revisions);
        let mut others = all.filter(|one| one.active && one.name != revision.name);
        others.any(|other| {
            let theirs = &other.template.extras.devices;
            theirs.iter().any(|one| own.iter().any(|own| own.host_path == one.host_path))
        })
    }

    /// The state of things, for people who look for a fault.
    pub(super) fn summary(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::new();
        for record in self.agent.state.apps.values() {
            let _ = writeln!(
                text,
                "  {} removed {} stopped {} scale {}",
                record.name, record.removed, record.stopped, record.scale
            );
            for one in &record.revisions {
                let _ = writeln!(
                    text,
                    "    {} {} {:?} active {} was_ready {} images {}",
                    one.name,
                    one.template.containers[0].image,
                    one.phase,
                    one.active,
                    one.was_ready,
                    one.images.len()
                );
            }
        }
        for (name, real) in &self.board.replicas {
            let doing = self.agent.doing.contains_key(name);
            let _ = writeln!(
                text,
                "  {name} {} {:?} ready {} network {} doing {doing} health {:?}",
                real.seen.boot,
                real.seen.containers,
                real.is_ready(self.now),
                self.board.namespaces.contains(name),
                self.agent.health.get(name),
            );
        }
        text
    }
}

/// Left alone it becomes ready in time.
fn is_well(record: &AppRecord, revision: &RevisionRecord) -> bool {
    let fate = Fate::of(&revision.template.containers[0].image);
    let deadline = record.document().map_or(0, |document| document.skerry.ready_deadline_secs);
    fate.is_well() && (fate == Fate::Good || 60 <= deadline)
}
