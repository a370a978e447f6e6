//! One replica's probes in their course: which are due, and what their answers add up to.
//!
//! ```text
//!   waiting for startup ─▶ first tries: eager in quick steps, others to the letter ─▶ steady: on the grid
//! ```
//!
//! A probe that has succeeded once is asked at whole multiples of its period since boot, so that the probes of all
//! replicas fall on the same instants and cost one wake-up.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::{Answer, Ask, Health, Probe, ProbeFailure, ProbeKind, ProbeTarget};
use crate::model::Moment;

/// The first wait of an eager probe after a failure. It grows by a quarter, so that a fifth of a start is lost to waiting
/// at most …
const EAGER_FIRST: Duration = Duration::from_millis(2);

/// … up to this; then it doubles up to the period: a start that takes seconds is not worth so many questions.
const EAGER_FINE: Duration = Duration::from_millis(200);

/// A period of zero would ask without end.
const PERIOD_MIN: Duration = Duration::from_millis(100);

/// One replica's probes in their course.
#[derive(Debug, Clone)]
pub struct Checkup {
    target: ProbeTarget,
    courses: Vec<Course>,
}

/// One probe in its course.
#[derive(Debug, Clone)]
struct Course {
    verdict: Verdict,
    /// Answers of one kind in a row.
    successes: u32,
    failures: u32,
    /// It has succeeded at least once.
    steady: bool,
    /// The wait after the next failure of an eager one.
    step: Duration,
    state: State,
    /// What the last try got, if it failed, and when.
    failure: Option<(Moment, ProbeFailure)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// No threshold was reached yet.
    Open,
    Good,
    Bad,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Asked at this moment, once its container's startup probe has succeeded.
    Due(Moment),
    /// Asked at this moment and not answered.
    Asked(Moment),
    /// Not asked any more.
    Done,
}

impl Checkup {
    /// The probes of a replica whose containers started at `now`.
    pub fn new(target: ProbeTarget, now: Moment) -> Self {
        let courses = target.probes.iter().map(|probe| Course::new(probe, target.adopted, now));
        Self { courses: courses.collect(), target }
    }

    /// Whether what was learned holds for `target` too.
    pub fn is_of(&self, target: &ProbeTarget) -> bool {
        let ProbeTarget { address, probes, epoch, adopted: _ } = target;
        (address, probes, epoch) == (&self.target.address, &self.target.probes, &self.target.epoch)
    }

    /// What is probed.
    pub fn target(&self) -> &ProbeTarget {
        &self.target
    }

    /// Numbers of the probes to ask now; they count as asked.
    pub fn due(&mut self, now: Moment) -> Vec<usize> {
        let mut due = Vec::new();
        for number in 0..self.courses.len() {
            if self.when(number).is_some_and(|at| at <= now) {
                self.courses[number].state = State::Asked(now);
                due.push(number);
            }
        }
        due
    }

    /// When the next probe is due.
    pub fn next(&self) -> Option<Moment> {
        (0..self.courses.len()).filter_map(|number| self.when(number)).min()
    }

    /// Takes the answer of a probe that was asked.
    pub fn answer(&mut self, number: usize, answer: Answer, now: Moment) {
        let Some(probe) = self.target.probes.get(number) else { return };
        let State::Asked(asked) = self.courses[number].state else { return };
        match answer {
            Answer::Good => {
                self.courses[number].succeed(probe, now);
                self.share(number, now);
            }
            Answer::Bad { got, refused } => {
                let port = probe.ask.own_port();
                let failure = ProbeFailure {
                    kind: probe.kind,
                    container: probe.container.clone(),
                    text: format!("{} {}: {got}", probe.kind, At(&probe.ask, self.target.address)),
                    refused: refused && port.is_some(),
                    port,
                };
                self.courses[number].fail(probe, failure, asked, now);
            }
            Answer::Unasked => self.courses[number].put_off(probe, asked, now),
        }
    }

    /// What the answers add up to.
    pub fn health(&self) -> Health {
        let good = |kind| self.of(kind).all(|(_, course)| course.verdict == Verdict::Good);
        let started = good(ProbeKind::Startup);
        let condemning = self.of(ProbeKind::Startup).chain(self.of(ProbeKind::Liveness));
        let bad: Vec<&Probe> = condemning
            .filter(|(_, course)| course.verdict == Verdict::Bad)
            .map(|(probe, _)| probe)
            .collect();
        let mut unhealthy: Vec<String> = bad.iter().map(|probe| probe.container.clone()).collect();
        unhealthy.sort();
        unhealthy.dedup();
        let grace = |probe: &&Probe| Some((probe.container.clone(), probe.grace?));
        let failures = self.courses.iter().filter_map(|course| course.failure.as_ref());
        Health {
            epoch: self.target.epoch,
            started,
            ready: started && good(ProbeKind::Readiness),
            failure: failures.max_by_key(|(at, _)| *at).map(|(_, failure)| failure.clone()),
            unhealthy,
            graces: bad.iter().filter_map(grace).collect(),
        }
    }

    fn of(&self, kind: ProbeKind) -> impl Iterator<Item = (&Probe, &Course)> {
        let all = self.target.probes.iter().zip(&self.courses);
        all.filter(move |(probe, _)| probe.kind == kind)
    }

    /// When a probe is due, if its container's startup probe lets it.
    fn when(&self, number: usize) -> Option<Moment> {
        let State::Due(at) = self.courses[number].state else { return None };
        let probe = &self.target.probes[number];
        let blocks = |(other, course): (&Probe, &Course)| {
            other.container == probe.container && course.verdict != Verdict::Good
        };
        let waits = probe.kind != ProbeKind::Startup && self.of(ProbeKind::Startup).any(blocks);
        (!waits).then_some(at)
    }

    /// The first success of a default startup probe answers the container's other default probes that ask the same.
    fn share(&mut self, number: usize, now: Moment) {
        let probe = &self.target.probes[number];
        if probe.kind != ProbeKind::Startup || !probe.eager {
            return;
        }
        for (other, course) in self.target.probes.iter().zip(&mut self.courses) {
            let same = other.container == probe.container && other.ask == probe.ask;
            if same && other.eager && other.kind != ProbeKind::Startup && !course.steady {
                course.succeed(other, now);
            }
        }
    }
}

impl Course {
    fn new(probe: &Probe, adopted: bool, now: Moment) -> Self {
        let state = match (adopted, probe.kind) {
            (true, ProbeKind::Startup) => State::Done,
            (true, ProbeKind::Readiness | ProbeKind::Liveness) => State::Due(grid(probe, now)),
            (false, _) => State::Due(now.after(probe.initial_delay)),
        };
        let verdict = if adopted { Verdict::Good } else { Verdict::Open };
        let step = EAGER_FIRST;
        Self { verdict, successes: 0, failures: 0, steady: adopted, step, state, failure: None }
    }

    fn succeed(&mut self, probe: &Probe, now: Moment) {
        self.failures = 0;
        self.failure = None;
        self.successes = self.successes.saturating_add(1);
        if probe.success_threshold <= self.successes {
            self.verdict = Verdict::Good;
            self.steady = true;
        }
        self.state = match (probe.kind, self.verdict) {
            (ProbeKind::Startup, Verdict::Good) => State::Done,
            (_, Verdict::Good | Verdict::Bad) if self.steady => State::Due(grid(probe, now)),
            (_, Verdict::Open | Verdict::Good | Verdict::Bad) => {
                State::Due(now.after(period(probe)))
            }
        };
    }

    fn fail(&mut self, probe: &Probe, failure: ProbeFailure, asked: Moment, now: Moment) {
        self.successes = 0;
        let quick = probe.eager && !self.steady && self.step < period(probe);
        if quick {
            // The quick steps are Skerry's own: they use up no failure that the probe allows, and tell of none.
            self.state = State::Due(now.after(self.step));
            self.step = after(self.step).min(period(probe));
            return;
        }
        self.failures = self.failures.saturating_add(1);
        self.failure = Some((now, failure));
        if probe.failure_threshold.max(1) <= self.failures {
            self.verdict = Verdict::Bad;
        }
        self.put_off(probe, asked, now);
    }

    /// Asks again at the next time that the period gives.
    fn put_off(&mut self, probe: &Probe, asked: Moment, now: Moment) {
        let next = if self.steady { grid(probe, now) } else { asked.after(period(probe)).max(now) };
        self.state = State::Due(next);
    }
}

/// The wait after this one of an eager probe, in whole milliseconds as timers have them.
fn after(step: Duration) -> Duration {
    if EAGER_FINE <= step {
        return step * 2;
    }
    let quarter = u64::try_from(step.as_millis() / 4).unwrap_or(0);
    step + Duration::from_millis(quarter.max(1))
}

fn period(probe: &Probe) -> Duration {
    probe.period.max(PERIOD_MIN)
}

/// The next whole multiple of the period.
fn grid(probe: &Probe, now: Moment) -> Moment {
    let period = period(probe).as_nanos();
    let next = (now.0.as_nanos() / period + 1).saturating_mul(period);
    Moment(Duration::from_nanos(u64::try_from(next).unwrap_or(u64::MAX)))
}

impl fmt::Display for ProbeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        })
    }
}

/// A command in a failure's text is cut after so many characters.
const MAX_COMMAND_CHARS: usize = 80;

/// A question and to whom it is put, for people.
struct At<'a>(&'a Ask, Ipv4Addr);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(ask, address) = self;
        let whom = |host: &Option<String>| host.clone().unwrap_or_else(|| address.to_string());
        match ask {
            Ask::Tcp { host, port } => write!(f, "tcp {}:{port}", whom(host)),
            Ask::Http { host, port, path, https, headers: _ } => {
                let scheme = if *https { "https" } else { "http" };
                write!(f, "{scheme} {}:{port}{path}", whom(host))
            }
            Ask::Exec { command } => {
                let words = command.join(" ");
                let cut: String = words.chars().take(MAX_COMMAND_CHARS).collect();
                let rest = if cut.len() < words.len() { "…" } else { "" };
                write!(f, "exec {cut}{rest}")
            }
        }
    }
}
