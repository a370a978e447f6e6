//! The prober: asks the replicas what the plan says, and reports what the answers add up to.
//!
//! ```text
//!   plan ─▶ checkups ─▶ due ─▶ tries in flight ─▶ answers ─▶ checkups ─▶ report, where it changed
//! ```
//!
//! One task holds all of it, with one timer for the next probe that is due; where nothing is to be probed there is no
//! timer at all. What an answer means is decided in `domain::probe`.
//!
//! The replica is asked from the board, at its own address. A host that the document names is asked from within the
//! replica's network, and a command is run in the container by whoever runs containers.

mod ask;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;

use domain::model::{Moment, ReplicaName};
use domain::probe::{Answer, Checkup, HealthReport, ProbePlan};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::watch;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::ask::Asker;
use crate::clock::Clock;
use crate::runtime::Exec;

/// By what the prober asks.
#[derive(Debug)]
pub struct Means<E> {
    /// Runs commands in containers.
    pub exec: E,
    /// Where the replicas' networks are, each under the replica's name.
    pub netns_dir: PathBuf,
}

/// A try that is over, and whose it was.
struct Try {
    replica: ReplicaName,
    /// The checkup that asked.
    serial: u64,
    number: usize,
    answer: Answer,
}

/// Probes what `plan` lists and keeps `report` up to date until `stop`.
///
/// Without the loop (the sender of `plan` is gone) the last plan holds.
pub async fn run<E: Exec>(
    means: Means<E>,
    mut plan: watch::Receiver<Arc<ProbePlan>>,
    report: watch::Sender<Arc<HealthReport>>,
    clock: Clock,
    stop: CancellationToken,
) {
    let mut prober = Prober::new(means);
    let mut published = true;
    prober.follow(&plan.borrow_and_update(), clock.now());
    loop {
        prober.ask(clock.now());
        prober.tell(&report);
        let next = prober.checkups.values().filter_map(|(_, checkup)| checkup.next()).min();
        tokio::select! {
            () = stop.cancelled() => return,
            changed = plan.changed(), if published => {
                published = changed.is_ok();
                prober.follow(&plan.borrow_and_update(), clock.now());
            }
            Some(over) = prober.tries.next() => {
                let now = clock.now();
                prober.take(over, now);
                // The answers to one tick come together and make one report.
                while let Some(Some(over)) = prober.tries.next().now_or_never() {
                    prober.take(over, now);
                }
            }
            () = until(next, clock) => (),
        }
    }
}

struct Prober<E> {
    /// Each with a number that no other has had.
    checkups: BTreeMap<ReplicaName, (u64, Checkup)>,
    serial: u64,
    tries: FuturesUnordered<BoxFuture<'static, Try>>,
    asker: Asker<E>,
}

impl<E: Exec> Prober<E> {
    fn new(means: Means<E>) -> Self {
        Self {
            checkups: BTreeMap::new(),
            serial: 0,
            tries: FuturesUnordered::new(),
            asker: Asker::new(means.exec, means.netns_dir),
        }
    }

    /// Begins, goes on with or ends the checkup of each replica.
    fn follow(&mut self, plan: &ProbePlan, now: Moment) {
        self.checkups.retain(|name, _| plan.contains_key(name));
        for (name, target) in plan {
            if !self.checkups.get(name).is_some_and(|(_, checkup)| checkup.is_of(target)) {
                self.serial += 1;
                let checkup = Checkup::new(target.clone(), now);
                self.checkups.insert(name.clone(), (self.serial, checkup));
            }
        }
    }

    /// Asks whatever is due.
    fn ask(&mut self, now: Moment) {
        for (replica, (serial, checkup)) in &mut self.checkups {
            for number in checkup.due(now) {
                let target = checkup.target();
                let (replica, serial) = (replica.clone(), *serial);
                let asking = self.asker.ask(&replica, target.address, &target.probes[number]);
                self.tries.push(Box::pin(async move {
                    Try { replica, serial, number, answer: asking.await }
                }));
            }
        }
    }

    fn take(&mut self, over: Try, now: Moment) {
        debug!(replica = %over.replica, number = over.number, answer = ?over.answer, "probed");
        // An answer about an earlier run of the containers, or of a replica that is gone, says nothing any more.
        if let Some((serial, checkup)) = self.checkups.get_mut(&over.replica)
            && *serial == over.serial
        {
            checkup.answer(over.number, over.answer, now);
        }
    }

    fn tell(&self, report: &watch::Sender<Arc<HealthReport>>) {
        let health =
            self.checkups.iter().map(|(name, (_, checkup))| (name.clone(), checkup.health()));
        let health: HealthReport = health.collect();
        report.send_if_modified(|known| {
            let changed = **known != health;
            if changed {
                *known = Arc::new(health);
            }
            changed
        });
    }
}

async fn until(moment: Option<Moment>, clock: Clock) {
    match moment {
        Some(moment) => time::sleep_until(clock.instant(moment)).await,
        None => pending().await,
    }
}
