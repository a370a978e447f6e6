//! What the loop publishes: levels, not edges. Whoever comes late sees the same as everyone.

use std::sync::Arc;

use domain::event::Event;
use domain::model::AppName;
use domain::model::{Digest, Moment};
use domain::probe::{HealthReport, ProbePlan};
use domain::replica::{Pulls, Trouble};
use domain::route::RouteTable;
use domain::scale::{Demand, Readings, SamplePlan};
use domain::status::Statuses;
use domain::zone::{Announcements, LanNames, Zones};
use tokio::sync::watch;

/// The sending halves, held by the loop.
#[derive(Debug)]
pub struct Publisher {
    /// The state of every app.
    pub statuses: watch::Sender<Arc<Statuses>>,
    /// What is known of the device itself.
    pub device: watch::Sender<Arc<DeviceState>>,
    /// Events that the control plane has not acknowledged, oldest first.
    pub outbox: watch::Sender<Arc<Vec<Event>>>,
    /// The latest events, delivered or not, oldest first.
    pub recent: watch::Sender<Arc<Vec<Event>>>,
    /// What the ingress does.
    pub routes: watch::Sender<Arc<RouteTable>>,
    /// What the DNS answers.
    pub zones: watch::Sender<Arc<Zones>>,
    /// What is announced on the LAN.
    pub announcements: watch::Sender<Arc<Announcements>>,
    /// What is probed.
    pub probes: watch::Sender<Arc<ProbePlan>>,
    /// What is sampled for scaling.
    pub samples: watch::Sender<Arc<SamplePlan>>,
    /// When the last round was over, or the loop began.
    pub round: watch::Sender<Moment>,
}

/// The receiving halves, cloned to the adapters.
#[derive(Debug, Clone)]
pub struct Published {
    /// The state of every app.
    pub statuses: watch::Receiver<Arc<Statuses>>,
    /// What is known of the device itself.
    pub device: watch::Receiver<Arc<DeviceState>>,
    /// Events that the control plane has not acknowledged, oldest first.
    pub outbox: watch::Receiver<Arc<Vec<Event>>>,
    /// The latest events, delivered or not, oldest first.
    pub recent: watch::Receiver<Arc<Vec<Event>>>,
    /// What the ingress does.
    pub routes: watch::Receiver<Arc<RouteTable>>,
    /// What the DNS answers.
    pub zones: watch::Receiver<Arc<Zones>>,
    /// What is announced on the LAN.
    pub announcements: watch::Receiver<Arc<Announcements>>,
    /// What is probed.
    pub probes: watch::Receiver<Arc<ProbePlan>>,
    /// What is sampled for scaling.
    pub samples: watch::Receiver<Arc<SamplePlan>>,
    /// When the last round was over, or the loop began. Read when somebody asks; nobody waits for it.
    pub round: watch::Receiver<Moment>,
}

/// What is known of the device itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceState {
    /// Rounds completed since the agent started; 0 is before the first.
    pub rounds: u64,
    /// What is wrong with the device as a whole: containerd, network, store.
    pub troubles: Vec<Trouble>,
    /// Generation and digest of every app, for `hello`.
    pub apps: Vec<(AppName, u64, Digest)>,
}

/// Whether the control plane is in reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Link {
    /// There is a connection to the broker.
    pub online: bool,
    /// The epoch of the last connection.
    pub epoch: u64,
}

/// What comes back to the loop from adapters that watch the world.
#[derive(Debug, Clone)]
pub struct Reports {
    /// From the prober.
    pub health: watch::Receiver<Arc<HealthReport>>,
    /// From the ingress: who is asked for.
    pub demand: watch::Receiver<Arc<Demand>>,
    /// From the samplers.
    pub readings: watch::Receiver<Arc<Readings>>,
    /// From mDNS: the names held.
    pub lan_names: watch::Receiver<Arc<LanNames>>,
    /// From the runtime: rises whenever something happened to a container.
    pub runtime: watch::Receiver<u64>,
    /// From listeners: ports that could not be bound, and the like; by the listener's name.
    pub listeners: watch::Receiver<Arc<std::collections::BTreeMap<String, Trouble>>>,
    /// From the runtime: how far pulls of images have come.
    pub pulls: watch::Receiver<Arc<Pulls>>,
    /// From the watch on memory: whether processes of the board wait for it.
    pub pressure: watch::Receiver<bool>,
}

/// Both halves of everything the loop publishes.
pub fn channels() -> (Publisher, Published) {
    let (statuses, statuses_rx) = watch::channel(Arc::default());
    let (device, device_rx) = watch::channel(Arc::default());
    let (outbox, outbox_rx) = watch::channel(Arc::default());
    let (recent, recent_rx) = watch::channel(Arc::default());
    let (routes, routes_rx) = watch::channel(Arc::default());
    let (zones, zones_rx) = watch::channel(Arc::default());
    let (announcements, announcements_rx) = watch::channel(Arc::default());
    let (probes, probes_rx) = watch::channel(Arc::default());
    let (samples, samples_rx) = watch::channel(Arc::default());
    let (round, round_rx) = watch::channel(Moment::default());
    let publisher = Publisher {
        statuses,
        device,
        outbox,
        recent,
        routes,
        zones,
        announcements,
        probes,
        samples,
        round,
    };
    let receiving = Published {
        statuses: statuses_rx,
        device: device_rx,
        outbox: outbox_rx,
        recent: recent_rx,
        routes: routes_rx,
        zones: zones_rx,
        announcements: announcements_rx,
        probes: probes_rx,
        samples: samples_rx,
        round: round_rx,
    };
    (publisher, receiving)
}
