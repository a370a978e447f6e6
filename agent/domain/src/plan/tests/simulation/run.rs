//! One run: a clock that jumps from event to event, a board, and an agent on it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::agent::Agent;
use super::asks::{Ask, app_name};
use super::board::{Board, Time};
use super::crowd::Call;
use super::dice::Dice;
use super::script::{Fall, Happening, Point, Script};
use super::tally::{self, Tally};
use crate::model::{AppName, EnvironmentName, ReplicaName};
use crate::plan::Tier;
use crate::reason::Reason;
use crate::replica::{FetchOrder, ObservedReplica, ReplicaOrder};
use crate::rollout::Step;
use crate::scale::SampleKey;

/// After the last happening there is time for every back-off, deadline and probation.
const CALM: Time = 40 * 60_000;

/// By then everything should have come to rest; and once more until the calm is over.
const KNOCK: Time = 22 * 60_000;

/// More events at one instant than anything calls for.
const MOST_AT_ONCE: u32 = 400;

/// More rounds than the longest run takes.
const MOST_ROUNDS: u64 = 20_000;

/// A rule was broken.
#[derive(Debug, Clone)]
pub(super) struct Violation {
    /// Which, so that two of a kind are told as one.
    pub(super) rule: &'static str,
    pub(super) details: String,
}

pub(super) type Checked = Result<(), Violation>;

pub(super) fn broken(rule: &'static str, details: impl Into<String>) -> Checked {
    Err(Violation { rule, details: details.into() })
}

/// What the clock is advanced to.
#[derive(Debug)]
pub(super) enum Event {
    Happens(Happening),
    /// From here on nothing goes wrong any more.
    Calm,
    /// Somebody asks for every app.
    Knock,
    Boots,
    AgentStarts,
    /// The prober told of something, and the loop goes round.
    Told,
    /// Containerd tells that something changed.
    Pulse,
    Look,
    Looks(u64, Option<Sighting>),
    Looked(u64, Option<Sighting>),
    Settled(BTreeSet<EnvironmentName>),
    Fetched(FetchOrder),
    Surveyed(AppName, Vec<ReplicaName>),
    Makes(Arc<ReplicaOrder>),
    Runs(Arc<ReplicaOrder>),
    StartFails(Arc<ReplicaOrder>),
    Started(ReplicaName, Outcome),
    /// What stands by is made, on the board; and the agent is told.
    Arms(Arc<ReplicaOrder>, Tier),
    Prepared(Arc<ReplicaOrder>, Tier, Outcome),
    Freezes(ReplicaName),
    Frozen(ReplicaName, Outcome),
    Thaws(Arc<ReplicaOrder>),
    /// Requests come.
    Calls(Call),
    Flows(usize, u64, Time),
    /// A window of the ingress ends.
    Window,
    Sampled(SampleKey),
    Halves(Arc<ReplicaOrder>, String),
    Whole(Arc<ReplicaOrder>, String, Option<Box<super::board::Real>>),
    Restarted(ReplicaName, String, Outcome),
    Ends(ReplicaName),
    Removed(ReplicaName),
    Stopped(ReplicaName, Outcome),
    Probes(ReplicaName, u64),
    /// A process ends by itself: which of its replica's starts it belongs to.
    Exits(ReplicaName, String, u64),
}

/// What a look found.
pub(super) type Sighting = (BTreeMap<ReplicaName, ObservedReplica>, BTreeSet<ReplicaName>);

impl Event {
    /// For a trace: what happens, and to whom.
    fn words(&self) -> String {
        match self {
            Self::Happens(happening) => format!("{happening:?}"),
            Self::Calm => "calm".to_owned(),
            Self::Knock => "somebody asks for all".to_owned(),
            Self::Boots => "boots".to_owned(),
            Self::AgentStarts => "the agent starts".to_owned(),
            Self::Told => "the prober tells".to_owned(),
            Self::Pulse | Self::Look => "looks".to_owned(),
            Self::Looks(begun, _) => format!("look {begun} is made"),
            Self::Looked(begun, Some((replicas, namespaces))) => {
                format!(
                    "look {begun} found {} replicas, {} networks",
                    replicas.len(),
                    namespaces.len()
                )
            }
            Self::Looked(begun, None) => format!("look {begun} failed"),
            Self::Settled(names) => format!("networks stand: {names:?}"),
            Self::Fetched(order) => format!("fetch of {} ends", order.revision),
            Self::Surveyed(app, _) => format!("the board is measured for {app}"),
            Self::Makes(order) => format!("{} is made", order.replica),
            Self::Runs(order) => format!("{} runs", order.replica),
            Self::StartFails(order) => format!("{} cannot be started", order.replica),
            Self::Started(name, outcome) => format!("{name}: start told: {outcome:?}"),
            Self::Arms(order, tier) => format!("{} stands by: {}", order.replica, tier.word()),
            Self::Prepared(order, _, outcome) => {
                format!("{}: preparation told: {outcome:?}", order.replica)
            }
            Self::Freezes(name) => format!("{name} is frozen"),
            Self::Frozen(name, outcome) => format!("{name}: freeze told: {outcome:?}"),
            Self::Thaws(order) => format!("{} is thawed", order.replica),
            Self::Calls(call) => format!("{call:?}"),
            Self::Flows(number, rate, until) => {
                format!("{rate} requests a second for {} until {until}", app_name(*number))
            }
            Self::Window => "a window ends".to_owned(),
            Self::Sampled(key) => format!("{} of {} is sampled", key.rule, key.revision),
            Self::Halves(order, container) => {
                format!("{container} of {} is taken away", order.replica)
            }
            Self::Whole(order, container, _) => format!("{container} of {} is made", order.replica),
            Self::Restarted(name, container, outcome) => {
                format!("{name}: restart of {container} told: {outcome:?}")
            }
            Self::Ends(name) => format!("{name} ends, as it was told"),
            Self::Removed(name) => format!("{name} is removed"),
            Self::Stopped(name, outcome) => format!("{name}: stop told: {outcome:?}"),
            Self::Probes(name, epoch) => format!("{name} is probed, epoch {epoch}"),
            Self::Exits(name, container, _) => format!("{container} of {name} ends by itself"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Well,
    Failed,
}

/// Troubles that last, and until when.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    pub(super) containerd: Time,
    pub(super) disk: Time,
    pub(super) deeds: Time,
    /// No memory is left.
    pub(super) memory: Time,
    /// Processes wait for memory.
    pub(super) pressure: Time,
    /// Apps keep their locks.
    pub(super) locks: Time,
}

#[derive(Debug)]
pub(super) struct Run {
    pub(super) dice: Dice,
    pub(super) now: Time,
    /// An event of the agent has the number of the life in which it began; it is lost with it.
    queue: BTreeMap<(Time, u64), (Option<u64>, Event)>,
    thrown: u64,
    pub(super) board: Board,
    pub(super) agent: Agent,
    /// What came while the agent could not take it.
    pub(super) inbox: Vec<Happening>,
    pub(super) ambush: Option<(Point, Fall, Time)>,
    pub(super) troubles: Troubles,
    pub(super) calm: bool,
    /// Replicas that a probe found ready, or would have.
    pub(super) proved: BTreeSet<ReplicaName>,
    /// The last document that was accepted of each app.
    pub(super) asked: BTreeMap<usize, Ask>,
    /// What the source of each app says that is sampled.
    pub(super) values: BTreeMap<usize, u32>,
    /// What came of the calls that matter: how long they waited, or why they were sent away.
    pub(super) answers: BTreeMap<usize, Result<Time, Reason>>,
    /// The apps that were asked in the end.
    pub(super) knocked: BTreeSet<usize>,
    /// A request that comes so long after an app's last replica was told to go.
    pub(super) spring: Option<(usize, Time)>,
    /// Memory was low at some time.
    pub(super) pressed: bool,
    /// When something was last ordered for each app.
    pub(super) acted: BTreeMap<AppName, Time>,
    pub(super) tally: Tally,
    pub(super) trace: Option<Vec<String>>,
}

impl Run {
    /// Plays a script to its end, and says how it went. With a trace where one is asked for.
    pub(super) fn play(script: &Script, trace: Option<Vec<String>>) -> (Self, Checked) {
        let mut dice = Dice::new(!script.seed);
        let agent = Agent::new(dice.roll(1 << 40));
        let mut run = Self {
            dice,
            now: 0,
            queue: BTreeMap::new(),
            thrown: 0,
            board: Board::new(),
            agent,
            inbox: Vec::new(),
            ambush: None,
            troubles: Troubles::default(),
            calm: false,
            proved: BTreeSet::new(),
            asked: BTreeMap::new(),
            values: BTreeMap::new(),
            answers: BTreeMap::new(),
            knocked: BTreeSet::new(),
            spring: None,
            pressed: false,
            acted: BTreeMap::new(),
            tally: Tally::new(),
            trace,
        };
        run.at(0, Event::AgentStarts);
        for (at, happening) in &script.happenings {
            run.at(1 + *at, Event::Happens(happening.clone()));
        }
        let end = script.end() + 2;
        run.at(end, Event::Calm);
        run.at(end + KNOCK, Event::Knock);
        let played = run.play_out(end + CALM).and_then(|()| run.force_what_failed(end + CALM));
        let checked = played.and_then(|end| run.check_end().and_then(|()| run.check_rest(end)));
        (run, checked)
    }

    /// Templates that failed for want of luck are asked for once more, by force.
    /// Returns when the time for it was over.
    fn force_what_failed(&mut self, from: Time) -> Result<Time, Violation> {
        let mut forced = false;
        for (number, ask) in self.asked.clone() {
            let record = self.agent.state.apps.get(&app_name(number));
            if record.is_some_and(super::wants::was_rolled_back) {
                forced = true;
                tally::add(&mut self.tally, "forced");
                let ask = Ask { force: true, deadline: ask.deadline + 60, ..ask };
                self.at(from + 1, Event::Happens(Happening::Send(number, ask)));
            }
        }
        let end = if forced { from + CALM } else { from };
        if forced {
            self.play_out(end)?;
        }
        Ok(end)
    }

    fn play_out(&mut self, end: Time) -> Checked {
        let (mut at_once, mut rounds) = (0, 0);
        loop {
            let event = self.queue.first_key_value().map(|((at, _), _)| *at);
            let wake = self.agent.wake.filter(|_| self.agent.up);
            let Some(next) = event.into_iter().chain(wake).min() else {
                return Ok(());
            };
            // What is under way comes to its end.
            if end < next && !self.agent.is_busy() || 2 * end < next {
                return Ok(());
            }
            let next = next.max(self.now);
            rounds += 1;
            if next == self.now {
                at_once += 1;
            } else {
                self.check_sleep(next)?;
                at_once = 0;
            }
            if MOST_AT_ONCE < at_once || MOST_ROUNDS < rounds {
                return broken("the loop spins", format!("{rounds} rounds, {at_once} at once"));
            }
            self.now = next;
            while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= next) {
                let (life, event) = entry.remove();
                if life.is_none_or(|life| life == self.agent.life) {
                    self.note(|| event.words());
                    self.handle(event)?;
                }
            }
            self.round()?;
        }
    }

    /// Something will happen, whatever becomes of the agent.
    pub(super) fn at(&mut self, at: Time, event: Event) {
        self.throw(at, None, event);
    }

    /// The agent does something; if it dies before, it does not.
    pub(super) fn soon(&mut self, after: Time, event: Event) {
        self.throw(self.now + after, Some(self.agent.life), event);
    }

    fn throw(&mut self, at: Time, life: Option<u64>, event: Event) {
        self.thrown += 1;
        self.queue.insert((at, self.thrown), (life, event));
    }

    pub(super) fn note(&mut self, words: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>9} {}", self.now, words()));
        }
    }

    /// Whether what the agent is about to do with containerd fails.
    pub(super) fn fails(&mut self) -> bool {
        self.is_containerd_away() || self.now < self.troubles.deeds && self.dice.once_in(4)
    }

    pub(super) fn is_containerd_away(&self) -> bool {
        self.now < self.troubles.containerd
    }

    /// The agent is cut short here, if it was to be.
    pub(super) fn falls_at(&mut self, point: Point) -> bool {
        let Some((_, fall, away)) = self.ambush.filter(|(at, ..)| *at == point) else {
            return false;
        };
        self.ambush = None;
        tally::add(&mut self.tally, "falls");
        self.note(|| format!("falls at {point:?}: {fall:?}"));
        self.fall(fall, away);
        true
    }

    pub(super) fn fall(&mut self, fall: Fall, away: Time) {
        if !self.board.powered {
            return;
        }
        let was_up = self.agent.up;
        self.agent.die();
        match fall {
            Fall::Agent if was_up => self.at(self.now + away, Event::AgentStarts),
            Fall::Agent => (),
            Fall::Power => {
                self.board.lose_power();
                self.at(self.now + away, Event::Boots);
            }
        }
    }
}

/// What a step tells, for a trace.
pub(super) fn steps(step: &Step) -> String {
    let told =
        step.told.iter().map(|told| format!("{} {} {}", told.revision, told.reason, told.message));
    format!("  step: {}", told.collect::<Vec<_>>().join("; "))
}
