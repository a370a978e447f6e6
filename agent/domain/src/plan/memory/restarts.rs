//! Restarts: how often each container came down or was started afresh, and when it may be again.

use crate::backoff::Backoff;
use crate::model::{Moment, ReplicaName};
use crate::replica::{ContainerState, Trouble};

use super::Memory;

/// What is remembered of one container.
#[derive(Debug, Clone, Default)]
pub(super) struct Restarts {
    backoff: Backoff,
    /// Starts after the first.
    count: u32,
    /// When it was last seen to start.
    up_since: Moment,
    /// The exit that the back-off counts already.
    counted: Option<Moment>,
    /// Why the last restart failed, if it did.
    trouble: Option<Trouble>,
    /// It ran when it was last seen.
    runs: bool,
}

impl Memory {
    /// A container was started afresh, or could not be.
    pub fn restarted(
        &mut self,
        replica: &ReplicaName,
        container: &str,
        trouble: Option<Trouble>,
        now: Moment,
    ) {
        self.thawed.remove(replica);
        let known = self.containers.entry(replica.clone()).or_default();
        let restarts = known.entry(container.to_owned()).or_default();
        restarts.count = restarts.count.saturating_add(1);
        // One that still ran was condemned by a probe, which counts as an exit does.
        if trouble.is_some() || restarts.runs {
            restarts.backoff.fail(now, restarts.up_since);
        }
        restarts.up_since = now;
        restarts.runs = false;
        restarts.trouble = trouble;
    }

    pub(in crate::plan) fn restart_at(&self, replica: &ReplicaName, container: &str) -> Moment {
        self.container(replica, container)
            .map_or(Moment::default(), |known| known.backoff.retry_at())
    }

    /// How often a container was started again.
    pub(crate) fn restarts_of(&self, replica: &ReplicaName, container: &str) -> u32 {
        self.container(replica, container).map_or(0, |known| known.count)
    }

    /// How often a container came down in a row.
    pub fn exits(&self, replica: &ReplicaName, container: &str) -> u32 {
        self.container(replica, container).map_or(0, |known| known.backoff.failures())
    }

    /// Why the last restart of a container failed, if it did.
    pub fn restart_trouble(&self, replica: &ReplicaName, container: &str) -> Option<&Trouble> {
        self.container(replica, container).and_then(|known| known.trouble.as_ref())
    }

    fn container(&self, replica: &ReplicaName, container: &str) -> Option<&Restarts> {
        self.containers.get(replica).and_then(|containers| containers.get(container))
    }

    /// Restarts of all containers of a replica.
    pub(in crate::plan) fn restart_count(&self, replica: &ReplicaName) -> u32 {
        let containers = self.containers.get(replica);
        containers.map_or(0, |containers| containers.values().map(|known| known.count).sum())
    }
}

impl Restarts {
    pub(super) fn see(&mut self, state: &ContainerState, now: Moment) {
        self.runs = matches!(state, ContainerState::Running { .. });
        match state {
            ContainerState::Running { since } => {
                self.up_since = *since;
                self.trouble = None;
            }
            ContainerState::Exited { at, .. } if self.counted != Some(*at) => {
                self.counted = Some(*at);
                self.backoff.fail(now.min(*at), self.up_since);
            }
            // One that stands by has neither run long enough nor come down.
            ContainerState::Created
            | ContainerState::Armed
            | ContainerState::Frozen { .. }
            | ContainerState::Exited { .. } => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(secs: u64) -> Moment {
        Moment(Duration::from_secs(secs))
    }

    #[test]
    fn a_container_that_a_probe_condemns_waits_longer_each_time() {
        let (mut memory, replica) = (Memory::new(0), "a--1-22222".parse::<ReplicaName>().unwrap());
        let mut waits = Vec::new();
        for n in 1..=4 {
            let now = at(1000 + n * 60);
            let known = memory.containers.entry(replica.clone()).or_default();
            let up = ContainerState::Running { since: at(1000) };
            known.entry("main".to_owned()).or_default().see(&up, now);
            memory.restarted(&replica, "main", None, now);
            waits.push(memory.restart_at(&replica, "main").since(now).as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8]);
    }

    #[test]
    fn an_exit_is_counted_once() {
        let (mut memory, replica) = (Memory::new(0), "a--1-22222".parse::<ReplicaName>().unwrap());
        let known = memory.containers.entry(replica.clone()).or_default();
        let exit =
            ContainerState::Exited { code: 1, oom: false, at: at(1000), words: String::new() };
        known.entry("main".to_owned()).or_default().see(&exit, at(1000));
        memory.restarted(&replica, "main", None, at(1001));
        assert_eq!(memory.exits(&replica, "main"), 1);
    }
}
