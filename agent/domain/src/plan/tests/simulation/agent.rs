//! What an agent knows, and how its loop goes round. All but the state is lost with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipnet::Ipv4Net;

use super::board::Time;
use super::crowd::Crowd;
use super::run::{Checked, Event, Run, Sighting, broken};
use super::script::Point;
use super::tally;
use crate::allowances::Allowances;
use crate::model::{AppName, EnvironmentName, ReplicaName, RevisionName, WallTime};
use crate::plan::{Doing, Fleet, Memory, Plan, Settings, World, plan, scale};
use crate::ports::Holders;
use crate::probe::{Health, ProbePlan};
use crate::reason::Reason;
use crate::replica::{ObservedReplica, Trouble};
use crate::route::RouteTable;
use crate::scale::Readings;
use crate::state::State;
use crate::view::{self, Scene};
use crate::window::Zones;

/// The date at which every run begins: 23 November 2026.
const DATE: Duration = Duration::from_hours(498_720);

/// Every port can be had.
static NO_TROUBLES: BTreeMap<String, Trouble> = BTreeMap::new();

/// More steps in a row than a state can take.
const MOST_STEPS: u32 = 20;

/// Waits so long after the store, the network or containerd failed, as the loop does.
pub(super) const RETRY: Time = 2_000;

#[derive(Debug)]
pub(super) struct Agent {
    pub(super) up: bool,
    pub(super) life: u64,
    /// As it is stored.
    pub(super) state: State,
    pub(super) settings: Settings,
    zones: Zones,
    pub(super) readings: Readings,
    pub(super) crowd: Crowd,
    /// Apps that a person sent to zero.
    pub(super) dismissed: BTreeSet<AppName>,
    pub(super) memory: Memory,
    pub(super) doing: BTreeMap<ReplicaName, Doing>,
    /// Starts that were told that nobody waits for them any more.
    pub(super) given_up: BTreeSet<ReplicaName>,
    pub(super) fetching: BTreeSet<RevisionName>,
    pub(super) surveying: BTreeSet<AppName>,
    pub(super) health: BTreeMap<ReplicaName, Health>,
    pub(super) probed: ProbePlan,
    pub(super) sight: Sight,
    pub(super) nets: Nets,
    /// Who got each app's requests when that was last published.
    pub(super) served: BTreeMap<AppName, BTreeSet<ReplicaName>>,
    pub(super) wake: Option<Time>,
}

#[derive(Debug, Default)]
pub(super) struct Sight {
    pub(super) replicas: BTreeMap<ReplicaName, ObservedReplica>,
    pub(super) namespaces: BTreeSet<ReplicaName>,
    pub(super) sequence: u64,
    pub(super) ended: BTreeMap<ReplicaName, u64>,
    pub(super) looking: bool,
    pub(super) stale: bool,
    pub(super) trouble: Option<Trouble>,
    pub(super) looked: bool,
}

#[derive(Debug, Default)]
pub(super) struct Nets {
    pub(super) subnets: BTreeMap<EnvironmentName, Ipv4Net>,
    pub(super) settled: Option<BTreeSet<EnvironmentName>>,
    pub(super) settling: bool,
    pub(super) seen: bool,
}

impl Agent {
    pub(super) fn new(ticket: u64) -> Self {
        Self {
            up: false,
            life: 0,
            state: State::default(),
            settings: Settings {
                device: "pi-1".to_owned(),
                dns_suffix: "{environment}.{device}.internal".to_owned(),
                netns_dir: "/run/skerry/netns".into(),
                boot: "boot-0".to_owned(),
                host_allowed: false,
                own_ports: BTreeSet::from([53, 80, 443]),
                allowances: Allowances {
                    devices: vec!["/dev/*".to_owned()],
                    ..Allowances::default()
                },
            },
            zones: Zones::default(),
            readings: Readings::new(),
            crowd: Crowd::default(),
            dismissed: BTreeSet::new(),
            memory: Memory::new(ticket),
            doing: BTreeMap::new(),
            given_up: BTreeSet::new(),
            fetching: BTreeSet::new(),
            surveying: BTreeSet::new(),
            health: BTreeMap::new(),
            probed: BTreeMap::new(),
            sight: Sight::default(),
            nets: Nets::default(),
            served: BTreeMap::new(),
            wake: None,
        }
    }

    /// Only what is stored is left.
    pub(super) fn die(&mut self) {
        self.up = false;
        self.life += 1;
        self.doing.clear();
        self.given_up.clear();
        self.fetching.clear();
        self.surveying.clear();
        self.health.clear();
        self.probed.clear();
        self.sight = Sight::default();
        self.nets = Nets::default();
        self.served.clear();
        self.readings.clear();
        self.crowd = Crowd::default();
        self.dismissed.clear();
        self.wake = None;
    }

    /// Something is under way that ends by itself.
    pub(super) fn is_busy(&self) -> bool {
        self.doing.values().any(|doing| !matches!(doing, Doing::Starting(_)))
    }
}

impl Run {
    pub(super) fn world_at(&self, now: Time) -> World<'_> {
        let agent = &self.agent;
        World {
            now: self.board.moment(now),
            wall: WallTime(DATE + Duration::from_millis(now)),
            zones: &agent.zones,
            observed: &agent.sight.replicas,
            namespaces: &agent.sight.namespaces,
            demand: &agent.crowd.demand,
            readings: &agent.readings,
            environments: &agent.state.environments,
            health: &agent.health,
            doing: &agent.doing,
            fetching: &agent.fetching,
            surveying: &agent.surveying,
            subnets: &agent.nets.subnets,
            runtime: agent.sight.trouble.as_ref(),
            network: None,
            memory_low: now < self.troubles.pressure,
            settings: &agent.settings,
        }
    }

    /// What would be planned at a time, and nobody is told.
    pub(super) fn plan_at(&mut self, now: Time) -> Plan {
        let known = self.agent.memory.clone();
        let counts: Vec<Option<u32>> = self.scaled().map(|count| *count).collect();
        let planned = self.plan_for(now);
        self.agent.memory = known;
        self.scaled().zip(counts).for_each(|(count, before)| *count = before);
        planned
    }

    /// What the rules of each revision came to.
    fn scaled(&mut self) -> impl Iterator<Item = &mut Option<u32>> {
        let revisions = self.agent.state.apps.values_mut().flat_map(|app| &mut app.revisions);
        revisions.map(|revision| &mut revision.scaled)
    }

    fn plan(&mut self) -> Plan {
        self.plan_for(self.now)
    }

    fn plan_for(&mut self, now: Time) -> Plan {
        let mut memory = std::mem::take(&mut self.agent.memory);
        let mut apps = std::mem::take(&mut self.agent.state.apps);
        scale(&mut apps, self.world_at(now), &mut memory);
        self.agent.state.apps = apps;
        let planned = plan(&self.agent.state, self.world_at(now), &mut memory);
        self.agent.memory = memory;
        planned
    }

    pub(super) fn fleet(&self) -> Fleet<'_> {
        Fleet::of(&self.agent.state, self.world_at(self.now), &self.agent.memory)
    }

    pub(super) fn routes(&self, fleet: &Fleet<'_>) -> RouteTable {
        let ports = self.ports();
        view::routes(self.scene(fleet, &BTreeMap::new(), &ports))
    }

    pub(super) fn ports(&self) -> Holders {
        Holders::of(&self.agent.state, &self.agent.settings.own_ports)
    }

    pub(super) fn scene<'a>(
        &'a self,
        fleet: &'a Fleet<'a>,
        lan_names: &'a crate::zone::LanNames,
        ports: &'a Holders,
    ) -> Scene<'a> {
        let (state, memory) = (&self.agent.state, &self.agent.memory);
        Scene {
            state,
            fleet,
            world: self.world_at(self.now),
            memory,
            lan_names,
            ports,
            listeners: &NO_TROUBLES,
        }
    }

    /// One decision and what follows from it, in the order in which the loop does it.
    pub(super) fn round(&mut self) -> Checked {
        if !self.agent.up {
            return Ok(());
        }
        if !self.agent.sight.looked {
            let _ = self.plan();
            return Ok(()); // before the first look there is nothing to decide by
        }
        let Some(mut plan) = self.take_steps()? else { return Ok(()) };
        self.check_reasons()?;
        self.check_scales()?;
        self.settle(&plan);
        self.check_actions(&plan.actions)?;
        let actions = std::mem::take(&mut plan.actions);
        for action in &actions {
            self.order(action);
        }
        self.publish()?;
        for (n, action) in actions.into_iter().enumerate() {
            if self.falls_at(Point::Begun(n)) {
                return Ok(());
            }
            self.begin(action);
        }
        self.rest(&plan)
    }

    /// Steps until there are none left; nothing where the agent did not survive them.
    fn take_steps(&mut self) -> Result<Option<Plan>, super::run::Violation> {
        let mut plan = self.plan();
        for _ in 0..MOST_STEPS {
            if plan.steps.is_empty() {
                return Ok(Some(plan));
            }
            if self.falls_at(Point::Decided) {
                return Ok(None);
            }
            if self.now < self.troubles.disk {
                plan.actions.clear();
                plan.wake_at = Some(self.board.moment(self.now + RETRY));
                return Ok(Some(plan));
            }
            for step in std::mem::take(&mut plan.steps) {
                self.note(|| super::run::steps(&step));
                self.check_step(&step.record)?;
                for told in &step.told {
                    tally::add(&mut self.tally, told.reason.word());
                }
                self.agent.state.apps.insert(step.record.name.clone(), *step.record);
            }
            if self.falls_at(Point::Stored) {
                return Ok(None);
            }
            plan = self.plan();
        }
        broken("steps never end", format!("{:?}", plan.steps)).map(|()| None)
    }

    fn rest(&mut self, plan: &Plan) -> Checked {
        self.agent.wake = plan.wake_at.map(|at| self.board.time_of(at));
        match self.agent.wake {
            Some(wake) if wake <= self.now => {
                broken("wakes in the past", format!("{:?}", plan.wake_at))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn settle(&mut self, plan: &Plan) {
        let nets = &mut self.agent.nets;
        let stands = nets.settled.as_ref() == Some(&plan.environments);
        if stands || nets.settling || !nets.seen {
            return;
        }
        nets.settling = true;
        let after = self.dice.span(5, 300);
        self.soon(after, Event::Settled(plan.environments.clone()));
    }

    /// What the loop publishes before it acts, and what follows from it: routes for the ingress, targets for the prober.
    fn publish(&mut self) -> Checked {
        let fleet = self.fleet();
        let routes = self.routes(&fleet);
        self.check_routes(&fleet, &routes)?;
        let served = self.check_service(&routes)?;
        let probed = view::probes(&self.agent.state, &fleet);
        self.check_sleepers(&routes, &probed)?;
        let samples = view::samples(self.scene(&fleet, &BTreeMap::new(), &Holders::default()));
        drop(fleet);
        self.sample(samples);
        self.call_in(routes);
        self.check_waiting()?;
        self.agent.served = served;
        self.agent.health.retain(|name, _| probed.contains_key(name));
        for (name, target) in &probed {
            let known = self.agent.probed.get(name);
            let same = known.is_some_and(|known| {
                (known.address, known.epoch, &known.probes)
                    == (target.address, target.epoch, &target.probes)
            });
            if same {
                continue;
            }
            self.agent.health.remove(name);
            if target.adopted {
                let well =
                    Health { epoch: target.epoch, started: true, ready: true, ..Health::default() };
                self.agent.health.insert(name.clone(), well);
                self.soon(0, Event::Told);
            }
            let ready_at = self.board.replicas.get(name).map_or(0, |real| real.ready_at);
            let ready_in =
                if ready_at == super::board::NEVER { 0 } else { ready_at.saturating_sub(self.now) };
            let after = ready_in + self.dice.span(1, if target.adopted { 10_000 } else { 300 });
            self.soon(after, Event::Probes(name.clone(), target.epoch));
        }
        self.agent.probed = probed;
        Ok(())
    }

    /// Looks at the board. One look at a time: what happens during one calls for another.
    pub(super) fn look(&mut self) {
        let sight = &mut self.agent.sight;
        if sight.looking {
            sight.stale = true;
            return;
        }
        sight.looking = true;
        sight.stale = false;
        sight.sequence += 1;
        let begun = sight.sequence;
        // What it finds is what there was at its beginning, or at its end.
        let early = self.dice.once_in(2).then(|| self.sighting()).flatten();
        let after = self.dice.span(1, 30);
        self.soon(after, Event::Looks(begun, early));
    }

    pub(super) fn sighting(&self) -> Option<Sighting> {
        let seen = self.board.replicas.iter().map(|(name, real)| (name.clone(), real.seen.clone()));
        (!self.is_containerd_away()).then(|| (seen.collect(), self.board.namespaces.clone()))
    }

    /// Takes a look over, except where a deed ended after it began: there the loop knows better.
    pub(super) fn looked(&mut self, begun: u64, sighting: Option<Sighting>) {
        let sight = &mut self.agent.sight;
        sight.looking = false;
        sight.looked = true;
        self.agent.nets.seen = true;
        if self.agent.nets.settled.is_none() {
            self.agent.nets.subnets = self.board.bridges.clone();
        }
        if let Some((mut replicas, mut namespaces)) = sighting {
            sight.trouble = None;
            sight.ended.retain(|_, ended| begun < *ended);
            for name in sight.ended.keys() {
                match sight.replicas.get(name) {
                    Some(known) => drop(replicas.insert(name.clone(), known.clone())),
                    None => drop(replicas.remove(name)),
                }
                if sight.namespaces.contains(name) {
                    namespaces.insert(name.clone());
                } else {
                    namespaces.remove(name);
                }
            }
            sight.replicas = replicas;
            sight.namespaces = namespaces;
        } else {
            let details = "away".to_owned();
            sight.trouble = Some(Trouble { reason: Reason::ContainerdUnavailable, details });
            self.soon(RETRY, Event::Look);
        }
        if self.agent.sight.stale {
            self.look();
        }
    }

    /// A deed ended: looks that began before know less than the loop.
    pub(super) fn end(&mut self, replica: &ReplicaName) {
        self.agent.sight.sequence += 1;
        self.agent.sight.ended.insert(replica.clone(), self.agent.sight.sequence);
    }
}
