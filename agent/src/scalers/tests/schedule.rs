//! When the samplers ask, and when they tell.

use super::*;

const EVERY: Duration = Duration::from_secs(30);

fn usage(resource: &str, replicas: &[&str]) -> Sample {
    let mut sample = sample(resource, &[("type", "Utilization"), ("value", "50")], EVERY);
    if let Source::Usage(_, of) = &mut sample.source {
        *of = replicas.iter().map(|replica| replica.parse().unwrap()).collect();
    }
    sample
}

/// Lets everything happen that happens within `time`.
async fn pass(time: Duration) {
    time::sleep(time).await;
}

/// How often a future was polled: what a busy loop or a timer would show in.
async fn polls(future: impl Future<Output = ()>, during: Duration) -> usize {
    let mut future = std::pin::pin!(future);
    let mut polls = 0;
    let counted = std::future::poll_fn(|cx| {
        polls += 1;
        future.as_mut().poll(cx)
    });
    drop(time::timeout(during, counted).await);
    polls
}

#[tokio::test(start_paused = true)]
async fn with_nothing_in_the_plan_nothing_wakes() {
    let (_plan, plan_rx) = watch::channel(Arc::default());
    let (readings, _) = watch::channel(Arc::default());
    let (meter, lookout) = (Meters::default(), Here::default());
    let means = Means { meter, lookout, broker: None, device: "pi".to_owned() };
    let running = run(means, plan_rx, readings, Clock::default(), CancellationToken::new());
    // One poll to begin with, one as the hour ends.
    assert!(polls(running, Duration::from_hours(1)).await <= 2);
}

#[tokio::test(start_paused = true)]
async fn after_the_last_rule_has_left_nothing_wakes_either() {
    let (plan, plan_rx) =
        watch::channel(Arc::new([(key("memory"), usage("memory", &["app--1-aaaaa"]))].into()));
    let (readings, told) = watch::channel(Arc::default());
    let (meter, lookout) = (Meters::default(), Here::default());
    meter.set("app--1-aaaaa", 0, 40);
    let means = Means { meter, lookout, broker: None, device: "pi".to_owned() };
    let running = run(means, plan_rx, readings, Clock::default(), CancellationToken::new());
    let mut running = std::pin::pin!(running);
    assert!(3 < polls(running.as_mut(), Duration::from_mins(5)).await);
    assert_eq!(told.borrow().len(), 1);
    plan.send_replace(Arc::default());
    polls(running.as_mut(), Duration::from_secs(1)).await;
    assert!(told.borrow().is_empty(), "who left the plan has no reading");
    assert!(polls(running.as_mut(), Duration::from_hours(1)).await <= 2);
}

#[tokio::test(start_paused = true)]
async fn a_reading_is_told_when_it_changes_and_not_with_every_sample() {
    let mut bench = Bench::new(None);
    bench.meters.set("app--1-aaaaa", 0, 40);
    bench.plan(&[("memory", usage("memory", &["app--1-aaaaa"]))]);
    bench.value("memory", 40.0).await;
    pass(EVERY * 10 + EVERY / 2).await;
    assert!(!bench.readings.has_changed().unwrap());
    assert_eq!(bench.meters.asked(), 11, "the first at once, then after each interval");
    bench.meters.set("app--1-aaaaa", 0, 60);
    pass(EVERY).await;
    assert!(bench.readings.has_changed().unwrap());
    bench.value("memory", 60.0).await;
    let expected = Reading::Value { value: 60.0, target: 50.0, activation: 0.0 };
    assert_eq!(bench.readings.borrow()[&key("memory")], expected);
    assert_eq!(bench.here.notes(), [""; 0], "nobody is dialled for it");
}

#[tokio::test(start_paused = true)]
async fn processor_time_takes_two_samples_and_another_set_of_replicas_begins_nothing_anew() {
    let mut bench = Bench::new(None);
    let half = u64::try_from(EVERY.as_nanos()).unwrap() / 2;
    let (one, other) = ("app--1-aaaaa", "app--1-bbbbb");
    bench.meters.set(one, 7, 0);
    bench.plan(&[("cpu", usage("cpu", &[one]))]);
    pass(EVERY / 2).await;
    assert!(bench.readings.borrow().is_empty());
    bench.meters.set(one, 7 + half, 0);
    bench.value("cpu", 50.0).await;
    bench.meters.set(one, 7 + half * 3, 0);
    bench.meters.set(other, 0, 0);
    bench.plan(&[("cpu", usage("cpu", &[one, other]))]);
    pass(EVERY / 2).await;
    assert!(!bench.readings.has_changed().unwrap(), "it is not its turn yet");
    bench.value("cpu", 200.0).await;
    // Without replicas there is nothing to measure, and what was measured stays.
    bench.plan(&[("cpu", usage("cpu", &[]))]);
    let asked = bench.meters.asked();
    pass(EVERY * 4).await;
    assert_eq!(bench.meters.asked(), asked);
    assert_eq!(bench.readings.borrow().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_sample_that_hangs_ends_at_its_deadline_and_is_tried_again() {
    let mut bench = Bench::new(None);
    bench.plan(&[("cpu", usage("cpu", &["app--1-aaaaa"]))]);
    pass(DEADLINE.saturating_sub(Duration::from_secs(1))).await;
    assert!(bench.readings.borrow().is_empty());
    pass(Duration::from_millis(1500)).await;
    assert!(!bench.readings.borrow().is_empty(), "it has had its time");
    bench.failure("cpu", "the use of the replicas: no answer within 10 s").await;
    bench.meters.set("app--1-aaaaa", 0, 30);
    bench.plan(&[("cpu", usage("memory", &["app--1-aaaaa"]))]);
    bench.value("cpu", 30.0).await;
    let short = Sample { every: Duration::from_secs(2), ..usage("cpu", &["app--1-aaaaa"]) };
    assert_eq!(deadline(&short), Duration::from_secs(2));
}
