//! What the replicas use of what they may, in per cent, added up.

use std::collections::BTreeMap;

use domain::model::{Moment, ReplicaName};
use domain::scale::{Resource, Sample, Source};
use tokio::sync::watch;

use super::{Tell, deadline, ticks, within};
use crate::clock::Clock;
use crate::runtime::{Meter, Usage};

/// Measures the replicas of a rule until it is dropped. Nothing is told before there is something to tell: processor
/// time is measured between two samples.
pub(super) async fn watch<M: Meter>(
    resource: Resource,
    sample: watch::Receiver<Sample>,
    meter: M,
    clock: Clock,
    tell: Tell,
) {
    let (limit, mut ticks) = {
        let sample = sample.borrow();
        (deadline(&sample), ticks(sample.every))
    };
    let mut before: Option<(Moment, Measured)> = None;
    loop {
        ticks.tick().await;
        let replicas = replicas(&sample.borrow());
        if replicas.is_empty() {
            before = None;
            continue;
        }
        let asking = async { meter.usage(replicas).await.map_err(|error| error.to_string()) };
        let measured = match within(limit, asking).await {
            Ok(measured) => measured,
            Err(got) => {
                tell.failed(format!("the use of the replicas: {got}"));
                continue;
            }
        };
        let now = clock.now();
        let value = match resource {
            Resource::Memory => memory(&measured),
            Resource::Cpu => before.as_ref().and_then(|(then, before)| {
                let elapsed = now.0.saturating_sub(then.0).as_nanos();
                cpu(before, &measured, elapsed)
            }),
        };
        if let Some(value) = value {
            tell.value(value);
        }
        before = Some((now, measured));
    }
}

type Measured = BTreeMap<ReplicaName, Usage>;

fn replicas(sample: &Sample) -> Vec<ReplicaName> {
    match &sample.source {
        Source::Usage(_, replicas) => replicas.clone(),
        Source::Mqtt(_) | Source::MetricsApi(_) | Source::Prometheus(_) | Source::External(_) => {
            Vec::new()
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share in per cent needs no 53 bits")]
fn memory(now: &Measured) -> Option<f64> {
    let limited = now.values().filter(|usage| 0 < usage.memory_limit_bytes);
    let shares =
        limited.map(|usage| usage.memory_bytes as f64 / usage.memory_limit_bytes as f64 * 100.0);
    total(shares, now.len())
}

/// Per cent of the limit between two samples that are `elapsed` nanoseconds apart.
#[expect(clippy::cast_precision_loss, reason = "a share in per cent needs no 53 bits")]
fn cpu(before: &Measured, now: &Measured, elapsed: u128) -> Option<f64> {
    let shares = now.iter().filter_map(|(replica, usage)| {
        // Less than before is a container that was started afresh.
        let spent = usage.cpu_nanos.checked_sub(before.get(replica)?.cpu_nanos)?;
        let may = elapsed as f64 * usage.cpu_limit_cores;
        (0.0 < may).then(|| spent as f64 / may * 100.0)
    });
    total(shares, now.len())
}

/// The sum over all `count` replicas. One that was not measured yet counts as much as the others do on average: it
/// must not look idle, nor busy, only for being new.
#[expect(clippy::cast_precision_loss, reason = "there are far fewer replicas than that")]
fn total(shares: impl Iterator<Item = f64>, count: usize) -> Option<f64> {
    let shares: Vec<f64> = shares.collect();
    let measured = shares.len();
    (0 < measured).then(|| shares.iter().sum::<f64>() / measured as f64 * count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a=CPU nanoseconds`, each replica with half a core and 100 bytes, of which it uses 25.
    fn measured(replicas: &[(&str, u64)]) -> Measured {
        let usage = |cpu_nanos| Usage {
            cpu_nanos,
            cpu_limit_cores: 0.5,
            memory_bytes: 25,
            memory_limit_bytes: 100,
        };
        let name = |short: &str| format!("app--1-{short}").parse().unwrap();
        replicas.iter().map(|(short, nanos)| (name(short), usage(*nanos))).collect()
    }

    #[track_caller]
    fn check(before: &[(&str, u64)], now: &[(&str, u64)], expected: Option<f64>) {
        assert_eq!(cpu(&measured(before), &measured(now), 1000), expected);
    }

    #[test]
    fn processor_time_is_a_share_of_the_limit_since_the_sample_before() {
        check(&[("aaaaa", 0)], &[("aaaaa", 250)], Some(50.0));
        check(&[("aaaaa", 100), ("bbbbb", 0)], &[("aaaaa", 600), ("bbbbb", 250)], Some(150.0));
        // A new one counts as the others do.
        check(&[("aaaaa", 0)], &[("aaaaa", 250), ("bbbbb", 9)], Some(100.0));
        check(&[("aaaaa", 100)], &[("aaaaa", 99)], None);
        check(&[], &[("aaaaa", 99)], None);
    }

    #[test]
    fn memory_is_a_share_of_the_limit() {
        assert_eq!(memory(&measured(&[("aaaaa", 0), ("bbbbb", 0)])), Some(50.0));
        assert_eq!(memory(&Measured::new()), None);
    }
}
