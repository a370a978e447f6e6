//! A seeded world in which everything happens that happens to a board, thousands of times.
//!
//! A run has a script, thrown from its seed: documents, crashes, lost power, full disks. A virtual clock jumps from
//! event to event; the agent of a run goes round as the loop of the real one does, and after each round the rules are
//! looked at. After the script nothing goes wrong any more, and in the end what runs must be what was asked for.
//!
//! ```text
//!   script ─▶ events ─▶ board ─▶ looks, probes ─▶ plan ─▶ steps stored ─▶ published ─▶ deeds ─▶ events
//! ```
//!
//! A run that breaks a rule is told with its seed, the part of its script that is enough to break it, and what
//! happened. `SKERRY_SEED=n` plays one alone, `SKERRY_RUNS=n` another number of them.
//!
//! There are two kinds of scripts. In `swings` apps scale: people ask for them, schedules begin and end, numbers that are
//! sampled rise and fall, and whoever asks in the calm after it is answered by what stood by.

mod agent;
mod asks;
mod board;
mod crowd;
mod deeds;
mod dice;
mod elastic;
mod end;
mod events;
mod idle;
mod orders;
mod rest;
mod rules;
mod run;
mod script;
mod sleepers;
mod supplies;
mod swings;
mod tally;
mod wants;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use self::run::{Run, Violation};
use self::script::Script;
use self::tally::{Played, Tally};

const RUNS: u64 = 10_000;

/// Runs of apps that scale: each takes longer.
const SWINGS: u64 = 500;

/// Lines of what happened that are told.
const TOLD: usize = 120;

/// What happens in a run, by its seed.
type Scripts = fn(u64) -> Script;

#[test]
fn every_run_settles_and_none_breaks_a_rule() {
    let tally = play_all(RUNS, Script::of);
    let seldom = tally.seldom(tally::EXPECTED);
    assert!(seldom.is_empty(), "{seldom:?} of {tally:?}");
}

#[test]
fn every_app_that_scales_comes_to_rest_and_wakes_for_whoever_asks() {
    let tally = play_all(SWINGS, Script::of_swings);
    let seldom = tally.seldom(tally::EXPECTED_OF_SWINGS);
    assert!(seldom.is_empty(), "{seldom:?} of {tally:?}");
}

/// Plays as many runs as are asked for, and tells of those that break a rule.
fn play_all(runs: u64, script: Scripts) -> Played {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("SKERRY_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SKERRY_RUNS").unwrap_or(runs),
    };
    let middle = u64::midpoint(seeds.start, seeds.end);
    let (start, end) = (seeds.start, seeds.end);
    let (broken, tally) = thread::scope(|scope| {
        let halves =
            [start..middle, middle..end].map(|half| scope.spawn(move || play(half, script)));
        let [one, two] = halves.map(|half| half.join().expect("a run that panics is caught"));
        ([one.0, two.0].concat(), tally::sum(one.1, two.1))
    });
    // One of each kind, and how many there were.
    let mut kinds: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for (seed, rule) in &broken {
        kinds.entry(rule).or_default().push(*seed);
    }
    let mut report = String::new();
    for (rule, seeds) in &kinds {
        let _ =
            writeln!(report, "{} runs: {rule}: {:?}", seeds.len(), &seeds[..seeds.len().min(8)]);
    }
    for (rule, seeds) in &kinds {
        report.push_str(&told(seeds[0], rule, script));
    }
    assert!(broken.is_empty(), "{report}");
    Played { tally, runs: end - start }
}

/// The runs that break a rule, and which; and what happened in the others.
fn play(seeds: std::ops::Range<u64>, script: Scripts) -> (Vec<(u64, &'static str)>, Tally) {
    let (mut broken, mut sum) = (Vec::new(), Tally::new());
    for seed in seeds {
        match outcome(&script(seed)) {
            Ok(tally) => sum = tally::sum(sum, tally),
            Err(violation) => broken.push((seed, violation.rule)),
        }
    }
    (broken, sum)
}

fn outcome(script: &Script) -> Result<Tally, Violation> {
    let played = catch_unwind(AssertUnwindSafe(|| {
        let (run, checked) = Run::play(script, None);
        checked.map(|()| run.tally)
    }));
    played.unwrap_or_else(|_| Err(Violation { rule: "panics", details: String::new() }))
}

/// The smallest part of a script that breaks the rule, and what happened in it.
fn told(seed: u64, rule: &str, script: Scripts) -> String {
    let mut script = script(seed);
    let breaks = |script: &Script| outcome(script).is_err_and(|broken| broken.rule == rule);
    let mut at = 0;
    while at < script.happenings.len() {
        let mut less = script.clone();
        less.happenings.remove(at);
        if breaks(&less) {
            script = less;
            at = 0;
        } else {
            at += 1;
        }
    }
    let mut text = format!("\n== seed {seed}: {rule}\n");
    if rule == "panics" {
        let _ = writeln!(text, "{:#?}", script.happenings);
        return text;
    }
    let (run, checked) = Run::play(&script, Some(Vec::new()));
    let details = checked.err().map(|violation| violation.details).unwrap_or_default();
    let _ = writeln!(text, "{details}\n-- it takes");
    for (at, happening) in &script.happenings {
        let _ = writeln!(text, "  {at:>8} {happening:?}");
    }
    let trace = run.trace.as_deref().unwrap_or_default();
    let _ = writeln!(text, "-- what happened");
    for line in &trace[trace.len().saturating_sub(TOLD)..] {
        let line: String = line.chars().take(220).collect();
        let _ = writeln!(text, "{line}");
    }
    let _ = writeln!(text, "-- how it stands at {}\n{}", run.now, run.summary());
    text
}
