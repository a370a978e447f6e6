//! The prober: asks the replicas what the plan says, and reports what the answers add up to.
//!
//! ```text
//!   plan ─▶ checkups ─▶ due ─▶ tries in flight ─▶ answers ─▶ checkups ─▶ report, where it changed
//! ```
//!
//! One task holds all of it, with one timer for the next probe that is due; where nothing is to be probed there is no
//! timer at all. What an answer means is decided in `domain::probe`.

mod ask;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;

use domain::model::{Moment, ReplicaName};
use domain::probe::{Checkup, HealthReport, ProbePlan};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::watch;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::ask::Asker;
use crate::clock::Clock;

/// What a try got, and whose it was.
struct Answer {
    replica: ReplicaName,
    /// The checkup that asked.
    serial: u64,
    number: usize,
    got: Result<(), String>,
}

/// Probes what `plan` lists and keeps `report` up to date until `stop`.
///
/// Without the loop (the sender of `plan` is gone) the last plan holds.
pub async fn run(
    mut plan: watch::Receiver<Arc<ProbePlan>>,
    report: watch::Sender<Arc<HealthReport>>,
    clock: Clock,
    stop: CancellationToken,
) {
    let mut prober = Prober::default();
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
            Some(answer) = prober.tries.next() => {
                let now = clock.now();
                prober.take(answer, now);
                // The answers to one tick come together and make one report.
                while let Some(Some(answer)) = prober.tries.next().now_or_never() {
                    prober.take(answer, now);
                }
            }
            () = until(next, clock) => (),
        }
    }
}

#[derive(Default)]
struct Prober {
    /// Each with a number that no other has had.
    checkups: BTreeMap<ReplicaName, (u64, Checkup)>,
    serial: u64,
    tries: FuturesUnordered<BoxFuture<'static, Answer>>,
    asker: Asker,
}

impl Prober {
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
                let asking = self.asker.ask(target.address, &target.probes[number]);
                self.tries.push(Box::pin(async move {
                    Answer { replica, serial, number, got: asking.await }
                }));
            }
        }
    }

    fn take(&mut self, answer: Answer, now: Moment) {
        debug!(replica = %answer.replica, number = answer.number, got = ?answer.got, "probed");
        // An answer about an earlier run of the containers, or of a replica that is gone, says nothing any more.
        if let Some((serial, checkup)) = self.checkups.get_mut(&answer.replica)
            && *serial == answer.serial
        {
            checkup.answer(answer.number, answer.got, now);
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
