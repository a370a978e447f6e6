//! The board as it is, whatever the agent knows of it: records, processes, networks, power.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipnet::Ipv4Net;

use super::asks::Fate;
use super::dice::Dice;
use crate::model::{EnvironmentName, Moment, ReplicaName};
use crate::replica::{ContainerState, ObservedReplica, ReplicaOrder};

/// Milliseconds since the run began. The agent sees the time since the last boot.
pub(super) type Time = u64;

/// Never.
pub(super) const NEVER: Time = Time::MAX;

#[derive(Debug)]
pub(super) struct Board {
    pub(super) boots: u32,
    booted: Time,
    pub(super) powered: bool,
    pub(super) replicas: BTreeMap<ReplicaName, Real>,
    pub(super) namespaces: BTreeSet<ReplicaName>,
    pub(super) bridges: BTreeMap<EnvironmentName, Ipv4Net>,
}

/// A replica there is a record of.
#[derive(Debug, Clone)]
pub(super) struct Real {
    /// What a look finds.
    pub(super) seen: ObservedReplica,
    pub(super) fate: Fate,
    pub(super) devices: Vec<String>,
    /// When its main container answers its probes.
    pub(super) ready_at: Time,
    /// When its liveness probe begins to fail.
    pub(super) condemned_at: Time,
    /// Not ready from then …
    pub(super) sick_from: Time,
    /// … until then.
    pub(super) sick_until: Time,
    /// Counts starts of its containers, so that an end that was thrown for an earlier one does not hit a later one.
    pub(super) starts: u64,
}

impl Board {
    pub(super) fn new() -> Self {
        Self {
            boots: 0,
            booted: 0,
            powered: true,
            replicas: BTreeMap::new(),
            namespaces: BTreeSet::new(),
            bridges: BTreeMap::new(),
        }
    }

    pub(super) fn boot(&self) -> String {
        format!("boot-{}", self.boots)
    }

    /// The monotonic clock, which begins anew with each boot. Some time passes before the agent is there.
    pub(super) fn moment(&self, now: Time) -> Moment {
        Moment(Duration::from_millis(5_000 + now.saturating_sub(self.booted)))
    }

    /// The time at which the clock shows `moment`, rounded up.
    pub(super) fn time_of(&self, moment: Moment) -> Time {
        let millis = moment.0.as_micros().div_ceil(1000);
        let since = Time::try_from(millis).unwrap_or(NEVER).saturating_sub(5_000);
        self.booted.saturating_add(since)
    }

    /// Processes and networks are gone; records are on the disk.
    pub(super) fn lose_power(&mut self) {
        self.powered = false;
        self.namespaces.clear();
        self.bridges.clear();
        for real in self.replicas.values_mut() {
            for state in real.seen.containers.values_mut() {
                *state = ContainerState::Created;
            }
        }
    }

    pub(super) fn regain_power(&mut self, now: Time) {
        self.powered = true;
        self.boots += 1;
        self.booted = now;
    }

    /// A new agent knows of nothing when it began.
    pub(super) fn forget_moments(&mut self, now: Moment) {
        for real in self.replicas.values_mut() {
            for state in real.seen.containers.values_mut() {
                match state {
                    ContainerState::Running { since } | ContainerState::Frozen { since } => {
                        *since = now;
                    }
                    ContainerState::Exited { at, .. } => *at = now,
                    ContainerState::Created | ContainerState::Armed => (),
                }
            }
        }
    }

    /// The other replicas with a running process that hold a device.
    pub(super) fn holders<'a>(
        &'a self,
        device: &'a str,
        but: &'a ReplicaName,
    ) -> impl Iterator<Item = &'a ReplicaName> {
        let others = self.replicas.iter().filter(move |(name, real)| {
            *name != but && real.lives() && real.devices.iter().any(|held| held == device)
        });
        others.map(|(name, _)| name)
    }
}

impl Real {
    pub(super) fn made_by(order: &ReplicaOrder) -> Self {
        let containers = order.template.containers.iter();
        let main = order.template.containers.first().map(|main| main.image.as_str());
        let seen = ObservedReplica {
            app: order.app.clone(),
            revision: order.revision.clone(),
            environment: order.environment.clone(),
            boot: order.boot.clone(),
            template_digest: order.template_digest,
            grace: order.template.grace(),
            address: order.place.address,
            containers: containers.map(|one| (one.name.clone(), ContainerState::Created)).collect(),
        };
        let devices = order.template.extras.devices.iter().map(|device| device.host_path.clone());
        Self {
            seen,
            fate: Fate::of(main.unwrap_or_default()),
            devices: devices.collect(),
            ready_at: NEVER,
            condemned_at: NEVER,
            sick_from: NEVER,
            sick_until: NEVER,
            starts: 0,
        }
    }

    /// There is a process of it, be it paused or not started yet.
    pub(super) fn is_there(&self) -> bool {
        self.seen.containers.values().any(|state| match state {
            ContainerState::Running { .. }
            | ContainerState::Armed
            | ContainerState::Frozen { .. } => true,
            ContainerState::Created | ContainerState::Exited { .. } => false,
        })
    }

    /// It stands by.
    pub(super) fn stands_by(&self) -> bool {
        self.seen.containers.values().any(ContainerState::stands_by)
    }

    /// One of its processes runs.
    pub(super) fn lives(&self) -> bool {
        self.seen.containers.values().any(|state| matches!(state, ContainerState::Running { .. }))
    }

    /// All its processes run.
    pub(super) fn runs(&self) -> bool {
        let running = |state| matches!(state, &ContainerState::Running { .. });
        !self.seen.containers.is_empty() && self.seen.containers.values().all(running)
    }

    /// What an honest probe finds.
    pub(super) fn is_ready(&self, now: Time) -> bool {
        let sick = self.sick_from <= now && now < self.sick_until;
        self.runs() && self.ready_at <= now && !sick
    }

    /// When an honest probe finds something else than now.
    pub(super) fn changes_at(&self, now: Time) -> Option<Time> {
        let times = [self.ready_at, self.condemned_at, self.sick_from, self.sick_until];
        times.into_iter().filter(|at| now < *at && *at != NEVER).min()
    }

    /// Its main container starts: what becomes of it is thrown. Returns when it will end by itself.
    pub(super) fn begin(&mut self, now: Time, dice: &mut Dice) -> Option<Time> {
        self.starts += 1;
        self.sick_from = NEVER;
        self.sick_until = NEVER;
        self.condemned_at = NEVER;
        self.ready_at = now + dice.span(0, 400);
        match self.fate {
            Fate::Good | Fate::Late | Fate::Missing | Fate::InitFails | Fate::InitHangs => None,
            Fate::Slow => {
                self.ready_at = now + dice.span(2_000, 40_000);
                None
            }
            Fate::Crashes => Some(now + dice.span(20, 3_000)),
            Fate::Deaf => {
                self.ready_at = NEVER;
                if dice.once_in(2) {
                    self.condemned_at = now + dice.span(10_000, 240_000);
                }
                None
            }
            Fate::Ailing => {
                self.condemned_at = now + dice.span(3_000, 60_000);
                None
            }
            Fate::Fickle => {
                self.sick_from = now + dice.span(500, 30_000);
                None
            }
        }
    }
}
