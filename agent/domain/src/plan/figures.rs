//! Figures: what was measured of the board and of what runs on it, and how long that is good for.
//!
//! Nothing is measured but for somebody who asks: an update, or a revision whose rules ask for more than it has.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::{AppName, Moment, ReplicaName};
use crate::replica::{ProcessorTime, Survey, Trouble};
use crate::scale::Processors;

use super::Memory;

/// What was measured longer ago says nothing of the board as it is: who is held back asks again.
pub(super) const GOOD_FOR: Duration = Duration::from_secs(10);

/// In less time than this the use of processors is chance.
const SPAN: Duration = Duration::from_secs(1);

/// Over more time than this it says nothing of now.
const SPAN_MAX: Duration = Duration::from_mins(1);

/// The share of their time in which processors have work, in per cent, from which on there is none left.
const BUSY_PERCENT: u64 = 95;

/// A replica that stands by is told to hold another amount than before where it differs by this many bytes: a page more
/// or less is no news.
const NEWS: u64 = 1 << 20;

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Figures {
    surveys: BTreeMap<AppName, Surveyed>,
    /// Replicas whose memory the latest measurement saw, and when it was asked for. What others will take is still to come.
    settled: (Moment, BTreeSet<ReplicaName>),
    load: Load,
    /// What replicas that stand by hold of the board's memory, in bytes.
    held: BTreeMap<ReplicaName, u64>,
    /// Rules ask for replicas for which there is no memory.
    pub(super) short: bool,
    /// When one was last taken from a revision that had more than its least.
    pub(super) shed: Option<Moment>,
}

/// What was last measured for an app.
#[derive(Debug, Clone)]
pub struct Surveyed {
    /// When.
    pub at: Moment,
    /// What.
    pub survey: Result<Survey, Trouble>,
}

/// How busy the processors were between two measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Load {
    last: Option<(Moment, ProcessorTime)>,
    was: Option<Processors>,
}

impl Load {
    fn see(&mut self, time: ProcessorTime, now: Moment) {
        if let Some((at, before)) = self.last {
            let span = now.since(at);
            if span < SPAN {
                return;
            }
            self.was = (span <= SPAN_MAX).then(|| between(before, time));
        }
        self.last = Some((now, time));
    }

    /// What they are at, as far as that is known.
    fn at(&self, now: Moment) -> Option<Processors> {
        match self.last {
            Some((_, time)) if time == ProcessorTime::default() => Some(Processors::Free),
            Some((at, _)) if now.since(at) < GOOD_FOR + SPAN => self.was,
            Some(_) | None => None,
        }
    }
}

fn between(before: ProcessorTime, now: ProcessorTime) -> Processors {
    let all = now.all.saturating_sub(before.all);
    let busy = now.busy.saturating_sub(before.busy);
    let is_busy = 0 < all && all.saturating_mul(BUSY_PERCENT) <= busy.saturating_mul(100);
    if is_busy { Processors::Busy } else { Processors::Free }
}

impl Figures {
    pub(super) fn forget(
        &mut self,
        is_app: impl Fn(&AppName) -> bool,
        is_replica: impl Fn(&ReplicaName) -> bool,
    ) {
        self.surveys.retain(|app, _| is_app(app));
        self.held.retain(|replica, _| is_replica(replica));
    }

    fn see(&mut self, app: AppName, survey: Result<Survey, Trouble>, now: Moment) {
        if let Ok(survey) = &survey {
            self.load.see(survey.processors, now);
        }
        self.surveys.insert(app, Surveyed { at: now, survey });
    }

    /// The board is about to be measured: these replicas have what they use.
    pub(super) fn settle(&mut self, replicas: BTreeSet<ReplicaName>, now: Moment) {
        self.settled = (now, replicas);
    }

    /// What it uses was seen in what is left of the board.
    pub(super) fn is_settled(&self, replica: &ReplicaName) -> bool {
        self.settled.1.contains(replica)
    }

    /// The latest measurement, whoever it was for.
    pub(super) fn latest(&self) -> Option<&Surveyed> {
        self.surveys.values().max_by_key(|one| one.at)
    }

    pub(super) fn processors(&self, now: Moment) -> Option<Processors> {
        self.load.at(now)
    }

    /// The working set of the largest of an app's replicas that `is_one` knows, when it was last measured.
    pub(super) fn largest(
        &self,
        app: &AppName,
        is_one: impl Fn(&ReplicaName) -> bool,
    ) -> Option<u64> {
        let survey = self.surveys.get(app)?.survey.as_ref().ok()?;
        let own = survey.working_sets.iter().filter(|(replica, _)| is_one(replica));
        own.map(|(_, bytes)| *bytes).max().filter(|bytes| 0 < *bytes)
    }

    /// When the board is to be measured again for an app that asks for more than it has.
    pub(super) fn due(&self, app: &AppName, now: Moment) -> Moment {
        let own = self.surveys.get(app).map(|own| own.at);
        let stale = self.latest().is_none_or(|latest| latest.at < self.settled.0);
        let Some(own) = own.filter(|_| !stale) else { return now };
        let over = own.after(GOOD_FOR);
        match (self.processors(now), self.load.last) {
            // Two measurements make one figure.
            (None, Some((at, _))) => over.min(at.after(SPAN)),
            (Some(_) | None, _) => over,
        }
    }
}

impl Memory {
    /// The board was measured for an app, or could not be.
    pub fn surveyed(&mut self, app: AppName, survey: Result<Survey, Trouble>, now: Moment) {
        self.figures.see(app, survey, now);
    }

    pub(crate) fn survey(&self, app: &AppName) -> Option<&Surveyed> {
        self.figures.surveys.get(app)
    }

    /// What replicas that stand by hold of the board's memory, in bytes; what is not listed holds none.
    pub fn holds(&mut self, held: BTreeMap<ReplicaName, u64>) {
        let before = std::mem::take(&mut self.figures.held);
        let steady = held.into_iter().map(|(replica, bytes)| {
            let known = before.get(&replica).copied().filter(|known| known.abs_diff(bytes) < NEWS);
            (replica, known.unwrap_or(bytes))
        });
        self.figures.held = steady.collect();
    }

    /// What a replica that stands by holds of the board's memory, in bytes; 0 where nobody has looked yet.
    pub fn held_by(&self, replica: &ReplicaName) -> u64 {
        self.figures.held.get(replica).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment(Duration::from_millis(millis))
    }

    fn time(busy: u64, all: u64) -> ProcessorTime {
        ProcessorTime { busy, all }
    }

    #[test]
    fn processors_are_busy_where_they_had_work_all_the_time_between_two_looks() {
        let mut load = Load::default();
        load.see(time(0, 100), at(0));
        assert_eq!(load.at(at(1)), None, "one look tells nothing");
        load.see(time(95, 200), at(999));
        assert_eq!(load.at(at(999)), None, "nor do two at almost the same time");
        load.see(time(95, 200), at(1000));
        assert_eq!(load.at(at(1000)), Some(Processors::Busy));
        load.see(time(189, 300), at(5000));
        assert_eq!(load.at(at(5000)), Some(Processors::Free), "94 of 100");
        assert_eq!(load.at(at(16_000)), None, "that was long ago");
        load.see(time(300, 400), at(66_000));
        assert_eq!(load.at(at(66_000)), None, "and is no beginning either");
        // The file of a test, or of a clock that stands still.
        load.see(time(300, 400), at(67_000));
        assert_eq!(load.at(at(67_000)), Some(Processors::Free));
    }

    #[test]
    fn a_kernel_that_does_not_tell_is_not_waited_for() {
        let mut load = Load::default();
        load.see(ProcessorTime::default(), at(0));
        assert_eq!(load.at(at(0)), Some(Processors::Free));
        assert_eq!(load.at(at(100_000)), Some(Processors::Free));
    }

    #[test]
    fn a_page_more_or_less_is_no_news() {
        let (mut memory, replica) = (Memory::new(0), "a--1-22222".parse::<ReplicaName>().unwrap());
        let mut told = |bytes: Option<u64>| {
            memory.holds(bytes.map(|bytes| (replica.clone(), bytes)).into_iter().collect());
            memory.held_by(&replica)
        };
        assert_eq!(told(Some(10 << 20)), 10 << 20);
        assert_eq!(told(Some((10 << 20) + 4096)), 10 << 20);
        assert_eq!(told(Some(9 << 20)), 9 << 20);
        assert_eq!(told(None), 0);
    }
}
