//! The scaler: how many replicas a revision has from now on, and when to decide again.
//!
//! What Kubernetes' autoscaler and KEDA do where ACA leaves it to them (features 7): steps up are of `max(4, 2 × current)`
//! once a window, steps down wait until nothing in five minutes asked for more, the last replicas go once nothing has
//! happened for the cool-down, and whatever is at zero comes back with one.

use std::time::Duration;

use super::WINDOW;
use crate::model::Moment;

/// For so long a smaller number must do before replicas go (features 7).
pub const STABILISATION: Duration = Duration::from_mins(5);

/// The least that a step up may lead to.
const FIRST_STEP: u32 = 4;

/// Changes of mind that are remembered; past it the oldest are taken to be as recent as those after them.
const HISTORY: usize = 64;

/// What a revision is scaled by.
#[derive(Debug, Clone, PartialEq)]
pub struct Terms<'a> {
    /// The least number of replicas.
    pub min: u32,
    /// The most.
    pub max: u32,
    /// It may have none, where `min` allows that.
    pub rests: bool,
    /// How long nothing must have happened before it has none.
    pub cooldown: Duration,
    /// What its rules ask for.
    pub metrics: Vec<Metric<'a>>,
}

/// What one rule asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric<'a> {
    /// Its name.
    pub rule: &'a str,
    /// So many replicas; none where that is not known.
    pub desired: Option<u32>,
    /// Something happens: the app does not go to zero.
    pub active: bool,
    /// Somebody waits for the first replica.
    pub calls: bool,
}

/// What follows from one decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// So many replicas.
    pub count: u32,
    /// The rule that asks for them, where one asks for more than the least.
    pub by: String,
    /// When to decide again, if nothing happens before.
    pub again: Option<Moment>,
}

/// What is remembered of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scaler {
    count: u32,
    /// What the rules asked for when they were last looked at.
    asked: u32,
    /// What they asked for before, and until when: only what is more than everything after it.
    before: Vec<(Moment, u32)>,
    /// When the last step up was taken.
    stepped: Option<Moment>,
    active: bool,
    /// When something was last going on.
    active_until: Moment,
    /// It was sent to zero: what went on then does not bring it back.
    dismissed: bool,
}

impl Scaler {
    /// A revision that has so many replicas.
    pub fn new(count: u32, now: Moment) -> Self {
        Self {
            count,
            asked: count,
            before: Vec::new(),
            stepped: None,
            active: false,
            active_until: now,
            dismissed: false,
        }
    }

    /// How many replicas it has.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Sends it to zero, from where the next request brings it back.
    pub fn dismiss(&mut self) {
        self.count = 0;
        self.dismissed = true;
    }

    /// Decides.
    pub fn decide(&mut self, terms: &Terms<'_>, now: Moment) -> Decision {
        self.see(terms, now);
        let rests = terms.rests && terms.min == 0;
        let least = if rests { 0 } else { terms.min.max(1) }.min(terms.max);
        if self.count == 0 && least == 0 {
            return self.asleep(terms, now);
        }
        let mut again = None;
        // While a rule says nothing, what there is stays.
        let unknown = terms.metrics.iter().any(|metric| metric.desired.is_none());
        if rests && !self.active && !unknown {
            let over = self.active_until.after(terms.cooldown);
            if over <= now {
                self.fall_asleep();
                return Decision { count: 0, by: String::new(), again: None };
            }
            again = Some(over);
        }
        self.count = self.count.max(least).max(1).min(terms.max);
        let (stable, falls) = self.stable();
        let bounded = |count: u32| count.clamp(least.max(1).min(terms.max), terms.max);
        let (asked, stable) = (bounded(self.asked), bounded(stable));
        if self.count < asked {
            match self.stepped.map(|at| at.after(WINDOW)).filter(|at| now < *at) {
                Some(at) => again = earliest(again, Some(at)),
                None => {
                    let most = self.count.saturating_mul(2).max(FIRST_STEP);
                    self.count = asked.min(most);
                    self.stepped = Some(now);
                    let goes_on = (self.count < asked).then(|| now.after(WINDOW));
                    again = earliest(again, goes_on);
                }
            }
        } else {
            self.count = self.count.min(stable);
        }
        // Falling only matters where there is something to fall from.
        let falls = falls.filter(|_| least.max(1) < self.count);
        Decision { count: self.count, by: self.reason(terms), again: earliest(again, falls) }
    }

    /// Takes in what the rules say now.
    fn see(&mut self, terms: &Terms<'_>, now: Moment) {
        let unknown = terms.metrics.iter().any(|metric| metric.desired.is_none());
        let active = terms.metrics.iter().any(|metric| metric.active) || (unknown && self.active);
        if self.active && !active {
            self.active_until = now;
        }
        self.active = active;
        self.dismissed &= active || unknown;
        let known = terms.metrics.iter().filter_map(|metric| metric.desired).max();
        let held = if unknown { self.count } else { 0 };
        let asked = known.unwrap_or(0).max(held);
        if asked != self.asked {
            self.before.retain(|(_, count)| self.asked < *count);
            self.before.push((now, self.asked));
            if HISTORY < self.before.len() {
                self.before.remove(0);
            }
            self.asked = asked;
        }
        self.before.retain(|(until, count)| now < until.after(STABILISATION) && asked < *count);
    }

    /// The most that was asked for within the stabilisation window, and when it may become less.
    fn stable(&self) -> (u32, Option<Moment>) {
        match self.before.first() {
            Some((until, count)) => (*count, Some(until.after(STABILISATION))),
            None => (self.asked, None),
        }
    }

    fn asleep(&mut self, terms: &Terms<'_>, now: Moment) -> Decision {
        let called = |metric: &&Metric<'_>| metric.calls || (metric.active && !self.dismissed);
        let Some(first) = terms.metrics.iter().find(called) else {
            return Decision { count: 0, by: String::new(), again: None };
        };
        // One first; the formula holds from the next window on.
        *self = Self { stepped: Some(now), active: true, ..Self::new(1.min(terms.max), now) };
        let again = Some(now.after(WINDOW));
        Decision { count: self.count, by: first.rule.to_owned(), again }
    }

    fn fall_asleep(&mut self) {
        self.count = 0;
        self.asked = 0;
        self.before.clear();
        self.stepped = None;
    }

    /// The rule that the number is owed to.
    fn reason(&self, terms: &Terms<'_>) -> String {
        if self.count <= terms.min {
            return String::new();
        }
        let most = terms.metrics.iter().max_by_key(|metric| (metric.desired, metric.active));
        most.map(|metric| metric.rule.to_owned()).unwrap_or_default()
    }
}

fn earliest(a: Option<Moment>, b: Option<Moment>) -> Option<Moment> {
    a.into_iter().chain(b).min()
}
