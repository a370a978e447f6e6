//! Probes in their course, told as tries and answers.

use super::*;
use crate::model::Moment;

fn at(millis: u64) -> Moment {
    Moment(Duration::from_millis(millis))
}

/// An explicit TCP probe: every second, one success, three failures.
fn probe(kind: ProbeKind) -> Probe {
    Probe {
        container: "main".to_owned(),
        kind,
        ask: Ask::Tcp { host: None, port: 8080 },
        initial_delay: Duration::ZERO,
        period: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        success_threshold: 1,
        failure_threshold: 3,
        grace: None,
        eager: false,
    }
}

fn http(host: Option<&str>) -> Ask {
    let (host, path) = (host.map(str::to_owned), "/live".to_owned());
    Ask::Http { host, port: 80, path, https: false, headers: Vec::new() }
}

fn refused() -> Answer {
    Answer::Bad { got: "connection refused".to_owned(), refused: true }
}

fn text(health: &Health) -> Option<&str> {
    health.failure.as_ref().map(|failure| failure.text.as_str())
}

fn target(probes: &[Probe]) -> ProbeTarget {
    ProbeTarget {
        address: Ipv4Addr::new(10, 213, 0, 5),
        probes: probes.to_vec(),
        epoch: 1,
        adopted: false,
    }
}

/// Lets a checkup run from `from` to `to` (milliseconds) against `open`, which tells whether the port is open at a
/// moment; each try is answered at once. Returns when which probe was asked.
fn run(checkup: &mut Checkup, from: u64, to: u64, open: impl Fn(u64) -> bool) -> Vec<(u64, usize)> {
    let mut tries = Vec::new();
    let mut now = from;
    loop {
        for number in checkup.due(at(now)) {
            tries.push((now, number));
            let answer = if open(now) { Answer::Good } else { refused() };
            checkup.answer(number, answer, at(now));
        }
        match checkup.next() {
            Some(next) if next <= at(to) => {
                now = u64::try_from(next.0.as_millis()).unwrap().max(now);
            }
            Some(_) | None => return tries,
        }
    }
}

#[test]
fn a_replica_without_probes_is_ready_at_once_and_needs_no_timer() {
    let mut checkup = Checkup::new(target(&[]), at(0));
    assert!(checkup.due(at(0)).is_empty());
    assert_eq!(checkup.next(), None);
    let health = checkup.health();
    assert!(health.started && health.ready && health.unhealthy.is_empty());
}

#[test]
fn an_explicit_probe_keeps_to_its_delay_and_period_and_only_then_joins_the_grid() {
    let readiness = Probe { initial_delay: Duration::from_secs(2), ..probe(ProbeKind::Readiness) };
    let mut checkup = Checkup::new(target(&[readiness]), at(300));
    let tries = run(&mut checkup, 300, 7000, |now| 4000 < now);
    let times: Vec<u64> = tries.into_iter().map(|(time, _)| time).collect();
    assert_eq!(times, [2300, 3300, 4300, 5000, 6000, 7000]);
    assert!(checkup.health().ready);
}

#[test]
fn an_eager_probe_is_tried_in_growing_steps_that_use_up_no_failure() {
    let startup = Probe { eager: true, failure_threshold: 2, ..probe(ProbeKind::Startup) };
    let mut checkup = Checkup::new(target(&[startup]), at(0));
    let times: Vec<u64> =
        run(&mut checkup, 0, 3000, |_| false).into_iter().map(|(time, _)| time).collect();
    let begin = [0, 2, 5, 9, 14, 20, 27, 35, 45, 57, 72, 90];
    let end = [1197, 1667, 2607];
    assert!(times.starts_with(&begin) && times.ends_with(&end), "{times:?}");
    let lost = times.windows(2).skip(5).filter(|pair| pair[1] < 1000);
    assert!(lost.into_iter().all(|pair| pair[1] - pair[0] <= pair[0].div_ceil(3)), "{times:?}");
    let health = checkup.health();
    assert_eq!(text(&health), Some("Startup tcp 10.213.0.5:8080: connection refused"));
    assert!(health.unhealthy.is_empty());
    run(&mut checkup, 3607, 3607, |_| false);
    assert_eq!(checkup.health().unhealthy, ["main"]);
}

#[test]
fn the_first_success_of_a_default_startup_probe_makes_the_replica_ready_too() {
    let eager = |kind| Probe { eager: true, ..probe(kind) };
    let probes = [ProbeKind::Startup, ProbeKind::Readiness, ProbeKind::Liveness].map(eager);
    let mut checkup = Checkup::new(target(&probes), at(100));
    let tries = run(&mut checkup, 100, 120, |now| 110 < now);
    assert_eq!(tries, [(100, 0), (102, 0), (105, 0), (109, 0), (114, 0)]);
    let health = checkup.health();
    assert!(health.started && health.ready);
    assert_eq!(health.failure, None);
    assert_eq!(run(&mut checkup, 120, 1000, |_| true), [(1000, 1), (1000, 2)]);
}

#[test]
fn others_wait_for_the_startup_probe_of_their_container() {
    let probes =
        [probe(ProbeKind::Startup), probe(ProbeKind::Readiness), probe(ProbeKind::Liveness)];
    let mut checkup = Checkup::new(target(&probes), at(0));
    let tries = run(&mut checkup, 0, 1000, |now| 500 < now);
    assert_eq!(tries, [(0, 0), (1000, 0), (1000, 1), (1000, 2)]);
    assert!(checkup.health().ready);

    let aside = Probe { container: "aside".to_owned(), ..probe(ProbeKind::Readiness) };
    let mut checkup = Checkup::new(target(&[probe(ProbeKind::Startup), aside]), at(0));
    assert_eq!(checkup.due(at(0)), [0, 1]);
    checkup.answer(1, Answer::Good, at(0));
    let health = checkup.health();
    assert!(!health.started && !health.ready);
}

#[test]
fn thresholds_count_answers_in_a_row() {
    let strict =
        Probe { success_threshold: 2, failure_threshold: 2, ..probe(ProbeKind::Readiness) };
    let mut checkup = Checkup::new(target(&[strict]), at(0));
    let mut ready = Vec::new();
    for (second, good) in [1, 0, 1, 1, 0, 1, 0, 0, 1, 1].into_iter().enumerate() {
        run(&mut checkup, second as u64 * 1000, second as u64 * 1000, |_| good == 1);
        ready.push(u8::from(checkup.health().ready));
    }
    assert_eq!(ready, [0, 0, 0, 1, 1, 1, 1, 0, 0, 1]);
}

#[test]
fn a_failing_liveness_probe_names_its_container_and_what_it_got() {
    let ask = http(None);
    let liveness = Probe { ask, ..probe(ProbeKind::Liveness) };
    let mut checkup = Checkup::new(target(&[liveness]), at(0));
    run(&mut checkup, 0, 1000, |_| false);
    assert!(checkup.health().unhealthy.is_empty());
    run(&mut checkup, 2000, 2000, |_| false);
    let health = checkup.health();
    assert_eq!(health.unhealthy, ["main"]);
    assert_eq!(text(&health), Some("Liveness http 10.213.0.5:80/live: connection refused"));
    assert!(health.started && health.ready);
}

#[test]
fn what_was_refused_and_by_whom_is_a_fact_of_the_failure() {
    let got = |ask: Ask, refused: bool| {
        let mut checkup =
            Checkup::new(target(&[Probe { ask, ..probe(ProbeKind::Liveness) }]), at(0));
        checkup.due(at(0));
        checkup.answer(0, Answer::Bad { got: "no".to_owned(), refused }, at(0));
        checkup.health().failure.unwrap()
    };
    let expected = ProbeFailure {
        kind: ProbeKind::Liveness,
        container: "main".to_owned(),
        text: "Liveness http 10.213.0.5:80/live: no".to_owned(),
        refused: true,
        port: Some(80),
    };
    assert_eq!(got(http(None), true), expected);
    assert_eq!(got(http(None), false), ProbeFailure { refused: false, ..expected });
    // Somebody else's closed port says nothing of the app's.
    let elsewhere = got(http(Some("db")), true);
    assert_eq!(elsewhere.text, "Liveness http db:80/live: no");
    assert_eq!((elsewhere.refused, elsewhere.port), (false, None));
    let command = vec!["cat".to_owned(), "é".repeat(100)];
    let exec = got(Ask::Exec { command }, false);
    assert_eq!(exec.text, format!("Liveness exec cat {}…: no", "é".repeat(76)));
    assert_eq!(exec.port, None);
}

#[test]
fn the_bad_probe_gives_its_own_grace() {
    let secs = Duration::from_secs;
    let startup = Probe { grace: Some(secs(1)), ..probe(ProbeKind::Startup) };
    let liveness = Probe { grace: Some(secs(2)), ..probe(ProbeKind::Liveness) };
    let readiness = Probe { grace: Some(secs(3)), ..probe(ProbeKind::Readiness) };
    let mut checkup = Checkup::new(target(&[startup, readiness, liveness.clone()]), at(0));
    run(&mut checkup, 0, 500, |_| true);
    assert!(checkup.health().graces.is_empty());
    run(&mut checkup, 1000, 9000, |_| false);
    assert_eq!(checkup.health().graces, [("main".to_owned(), secs(2))].into());
    let silent = Probe { grace: None, ..liveness };
    let mut checkup = Checkup::new(target(&[silent]), at(0));
    run(&mut checkup, 0, 9000, |_| false);
    assert_eq!(checkup.health().unhealthy, ["main"]);
    assert!(checkup.health().graces.is_empty());
}

#[test]
fn what_could_not_be_asked_counts_for_nothing_and_is_asked_again() {
    let mut checkup = Checkup::new(target(&[probe(ProbeKind::Liveness)]), at(0));
    for second in 0..9 {
        assert_eq!(checkup.due(at(second * 1000)), [0], "{second}");
        checkup.answer(0, Answer::Unasked, at(second * 1000 + 1));
    }
    let health = checkup.health();
    assert!(health.unhealthy.is_empty() && health.failure.is_none());
    checkup.due(at(9000));
    checkup.answer(0, refused(), at(9000));
    assert_eq!(checkup.next(), Some(at(10_000)));
}

#[test]
fn an_adopted_replica_is_ready_until_its_probe_says_otherwise() {
    let probes = [probe(ProbeKind::Startup), probe(ProbeKind::Readiness)];
    let mut checkup = Checkup::new(ProbeTarget { adopted: true, ..target(&probes) }, at(1500));
    assert!(checkup.health().started && checkup.health().ready);
    assert_eq!(run(&mut checkup, 1500, 3000, |_| false), [(2000, 1), (3000, 1)]);
    assert!(checkup.health().ready);
    run(&mut checkup, 4000, 4000, |_| false);
    assert!(checkup.health().started && !checkup.health().ready);
}

#[test]
fn an_answer_that_nobody_waits_for_changes_nothing() {
    let mut checkup = Checkup::new(target(&[probe(ProbeKind::Readiness)]), at(0));
    checkup.answer(0, Answer::Good, at(0));
    checkup.answer(7, Answer::Good, at(0));
    assert!(!checkup.health().ready);
    assert_eq!(checkup.due(at(0)), [0]);
    assert!(checkup.due(at(9000)).is_empty());
    assert_eq!(checkup.next(), None);
}

#[test]
fn a_new_epoch_is_another_checkup_and_being_adopted_is_not() {
    let target = target(&[probe(ProbeKind::Readiness)]);
    let checkup = Checkup::new(target.clone(), at(0));
    assert!(checkup.is_of(&ProbeTarget { adopted: true, ..target.clone() }));
    assert!(!checkup.is_of(&ProbeTarget { epoch: 2, ..target }));
}

#[test]
fn the_steady_probes_of_many_replicas_fall_on_the_same_instants() {
    let eager =
        |kind, seconds| Probe { eager: true, period: Duration::from_secs(seconds), ..probe(kind) };
    let probes = [
        eager(ProbeKind::Startup, 1),
        eager(ProbeKind::Readiness, 5),
        eager(ProbeKind::Liveness, 10),
    ];
    let mut instants = std::collections::BTreeSet::new();
    for started in [0, 137, 1203, 2999, 3001, 4444, 4999] {
        let mut checkup = Checkup::new(target(&probes), at(started));
        let tries = run(&mut checkup, started, 65_000, |_| true);
        instants.extend(tries.into_iter().map(|(time, _)| time).filter(|time| 5000 <= *time));
    }
    let expected: Vec<u64> = (1..=13).map(|n| n * 5000).collect();
    assert_eq!(instants.into_iter().collect::<Vec<_>>(), expected);
}
