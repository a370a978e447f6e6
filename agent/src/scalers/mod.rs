//! The samplers of scale rules: each asks a source again and again how much there is to do.
//!
//! ```text
//!   plan ─▶ one watch per rule ─┬─▶ http      a page, JSON or metrics   ─┐
//!                               ├─▶ mqtt      what a broker's topics say │
//!                               ├─▶ external  a scaler of KEDA's kind    ├─▶ readings, where they changed
//!                               └─▶ usage     what the replicas use     ─┘
//! ```
//!
//! One task holds all of it. A watch lives as long as its rule is in the plan and looks the same, keeps its own time and
//! its own connections, and is dropped with them; with an empty plan there is no timer and no connection at all. What a
//! document names is dialled from its environment's network (`lookouts`); the agent's own broker is dialled as the
//! control plane is. What a number means for the replicas is decided elsewhere.

mod external;
mod http;
mod lookouts;
mod mqtt;
#[cfg(test)]
mod tests;
mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use domain::reason::Reason;
use domain::replica::Trouble;
use domain::scale::{Reading, Readings, Sample, SampleKey, SamplePlan, Source};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{self, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use self::lookouts::Lookouts;
use crate::broker::Access;
use crate::clock::Clock;
use crate::network::Lookout;
use crate::runtime::Meter;

/// A sample takes no longer, and no longer than until the next one.
const DEADLINE: Duration = Duration::from_secs(10);

/// By what the samplers ask.
#[derive(Debug)]
pub struct Means<M, L> {
    /// Measures replicas.
    pub meter: M,
    /// From where the hosts of documents are dialled.
    pub lookout: L,
    /// The agent's own broker, where it has one.
    pub broker: Option<Access>,
    /// The device id: client ids begin with it.
    pub device: String,
}

/// Samples what `plan` lists and keeps `readings` up to date until `stop`.
///
/// Without the loop (the sender of `plan` is gone) the last plan holds.
pub async fn run<M: Meter, L: Lookout>(
    means: Means<M, L>,
    mut plan: watch::Receiver<Arc<SamplePlan>>,
    readings: watch::Sender<Arc<Readings>>,
    clock: Clock,
    stop: CancellationToken,
) {
    let Means { meter, lookout, broker, device } = means;
    let lookouts = Arc::new(Lookouts::new(lookout, clock));
    let kit = Kit { meter, lookouts, broker, device, readings, clock };
    let mut watches = Watches { kit, entries: BTreeMap::new(), running: FuturesUnordered::new() };
    let mut published = true;
    watches.follow(&plan.borrow_and_update());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = plan.changed(), if published => {
                published = changed.is_ok();
                watches.follow(&plan.borrow_and_update());
            }
            Some(()) = watches.running.next() => (),
        }
    }
}

/// What every watch has.
struct Kit<M, L> {
    meter: M,
    lookouts: Arc<Lookouts<L>>,
    broker: Option<Access>,
    device: String,
    readings: watch::Sender<Arc<Readings>>,
    clock: Clock,
}

/// Who is sampled.
struct Watches<M, L> {
    kit: Kit<M, L>,
    entries: BTreeMap<SampleKey, Entry>,
    running: FuturesUnordered<BoxFuture<'static, ()>>,
}

/// One rule that is sampled.
struct Entry {
    /// What the watch reads anew with each sample.
    sample: watch::Sender<Sample>,
    /// Ends the watch.
    end: CancellationToken,
}

impl<M: Meter, L: Lookout> Watches<M, L> {
    /// Begins, goes on with or ends the watch of each rule.
    fn follow(&mut self, plan: &SamplePlan) {
        let goes_on = |key: &SampleKey, entry: &Entry| {
            plan.get(key).is_some_and(|sample| is_same(&entry.sample.borrow(), sample))
        };
        self.entries.retain(|key, entry| {
            let goes_on = goes_on(key, entry);
            if !goes_on {
                entry.end.cancel();
            }
            goes_on
        });
        let entries = &self.entries;
        self.kit.readings.send_if_modified(|all| {
            if all.keys().all(|key| entries.contains_key(key)) {
                return false;
            }
            Arc::make_mut(all).retain(|key, _| entries.contains_key(key));
            true
        });
        for (key, sample) in plan {
            match self.entries.get(key) {
                // Another set of replicas is no other rule.
                Some(entry) => drop(entry.sample.send_replace(sample.clone())),
                None => self.begin(key, sample),
            }
        }
        self.keep_lookouts(plan);
    }

    fn begin(&mut self, key: &SampleKey, sample: &Sample) {
        let end = CancellationToken::new();
        let (sender, receiver) = watch::channel(sample.clone());
        let tell = Tell {
            key: key.clone(),
            target: sample.target,
            activation: sample.activation,
            readings: self.kit.readings.clone(),
            end: end.clone(),
        };
        let Kit { meter, lookouts, broker, device, clock, .. } = &self.kit;
        let lookouts = Arc::clone(lookouts);
        let watching: BoxFuture<'static, ()> = match &sample.source {
            Source::Usage(resource, _) => {
                Box::pin(usage::watch(*resource, receiver, meter.clone(), *clock, tell))
            }
            Source::MetricsApi(_) | Source::Prometheus(_) => {
                Box::pin(http::watch(sample.clone(), lookouts, tell))
            }
            Source::Mqtt(source) => {
                let client = mqtt::client_id(device, key);
                let way = mqtt::Way { own: broker.clone(), lookouts, client };
                Box::pin(mqtt::watch(sample.clone(), source.clone(), way, *clock, tell))
            }
            Source::External(scaler) => {
                Box::pin(external::watch(sample.clone(), scaler.clone(), lookouts, tell))
            }
        };
        let until = end.clone();
        self.running.push(Box::pin(async move {
            // What is over is dropped, connections and all.
            let _ = until.run_until_cancelled_owned(watching).await;
        }));
        self.entries.insert(key.clone(), Entry { sample: sender, end });
    }

    /// Closes the lookouts that nobody needs any more.
    fn keep_lookouts(&mut self, plan: &SamplePlan) {
        let needed: BTreeSet<_> = plan
            .values()
            .filter(|sample| !matches!(sample.source, Source::Usage(..)))
            .map(|sample| sample.environment.clone())
            .collect();
        if self.kit.lookouts.need(needed) {
            let lookouts = Arc::clone(&self.kit.lookouts);
            self.running.push(Box::pin(async move { lookouts.close_idle().await }));
        }
    }
}

/// Whether a watch can go on with `new` in place of `old`: all the same but for the replicas that are measured.
fn is_same(old: &Sample, new: &Sample) -> bool {
    match (&old.source, &new.source) {
        (Source::Usage(resource, _), Source::Usage(other, replicas)) => {
            let source = Source::Usage(*resource, replicas.clone());
            resource == other && Sample { source, ..old.clone() } == *new
        }
        _ => old == new,
    }
}

/// When a sample is due: at once, then after every interval; one that was missed is not made up for.
fn ticks(every: Duration) -> Interval {
    let mut ticks = time::interval(every.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// How long a sample may take.
fn deadline(sample: &Sample) -> Duration {
    DEADLINE.min(sample.every)
}

/// Waits for a sample's answer no longer than it may take.
async fn within<T>(
    limit: Duration,
    asking: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let late = || format!("no answer within {} s", limit.as_secs_f32());
    time::timeout(limit, asking).await.unwrap_or_else(|_| Err(late()))
}

/// Where a watch puts its readings.
struct Tell {
    key: SampleKey,
    target: f64,
    activation: f64,
    readings: watch::Sender<Arc<Readings>>,
    end: CancellationToken,
}

impl Tell {
    /// What came of a sample of `what`.
    fn outcome(&self, what: &str, outcome: Result<f64, String>) {
        match outcome {
            Ok(value) => self.value(value),
            Err(got) => self.failed(format!("{what}: {got}")),
        }
    }

    fn value(&self, value: f64) {
        let Self { target, activation, .. } = *self;
        self.reading(Reading::Value { value, target, activation });
    }

    fn failed(&self, details: String) {
        self.reading(Reading::Failed(Trouble { reason: Reason::ScalerFailed, details }));
    }

    fn reading(&self, reading: Reading) {
        // Whoever is no more in the plan has no reading, whatever was under way.
        if self.end.is_cancelled() {
            return;
        }
        let SampleKey { revision, rule } = &self.key;
        self.readings.send_if_modified(|all| {
            let before = all.get(&self.key);
            if before == Some(&reading) {
                return false;
            }
            match (&reading, before) {
                (Reading::Failed(Trouble { details, .. }), Some(Reading::Value { .. }) | None) => {
                    info!(%revision, rule, details, "a scale rule cannot be sampled");
                }
                _ => debug!(%revision, rule, ?reading, "sampled"),
            }
            Arc::make_mut(all).insert(self.key.clone(), reading);
            true
        });
    }
}
