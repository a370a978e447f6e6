//! The agent as a process: it puts the parts together, runs them, and takes them apart again.
//!
//! Three beats: the configuration is read (pure), everything that may fail is built, and then it runs until a signal.
//! The apps outlive it; `--drain` is the exception.

mod dirs;
mod drain;
mod error;
mod images;
mod preload;
mod service;
mod sources;
mod workers;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use domain::allowances::Allowances;
use domain::plan::Settings;
use domain::ports;
use domain::reason::Reason;
use domain::replica::{Pulls, Trouble};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::level_filters::LevelFilter;
use tracing::{info, info_span, warn};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use self::error::AgentError;
use self::service::Service;
use self::workers::Workers;
use crate::api::sources::About;
use crate::api::{self, Api, ApiSocket};
use crate::cli::AgentArgs;
use crate::clock::{Clock, ZoneFiles};
use crate::config::{self, BOOT_FILES, Config};
use crate::containerd::connection::Connection;
use crate::containerd::images::Images;
use crate::containerd::{self, Containerd};
use crate::inbox::{INBOX_DEPTH, Inbox};
use crate::ingress::{self, Ingress};
use crate::keys::Keys;
use crate::manager::ServiceManager;
use crate::mdns::{self, MdnsSettings};
use crate::mqtt::{self, MqttSettings, Session};
use crate::netlink::Netlink;
use crate::network::Redirects;
use crate::published::{Link, Published, Reports, channels};
use crate::reconcile::{Parts, Reconciler};
use crate::report::Report;
use crate::sled_store::SledStore;
use crate::tasks::Tasks;
use crate::trial::Trial;
use crate::{dns, pressure, probe, scalers, watch_dir};

/// Open requests may take this long to end after SIGTERM. Below the unit's `TimeoutStopSec`.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

/// Troubles by the name of the part that met them.
type Troubles = watch::Sender<Arc<BTreeMap<String, Trouble>>>;

/// Runs the agent until a signal, or until it cannot run.
pub fn run(args: &AgentArgs) -> ExitCode {
    match try_run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "the last word belongs on the terminal")]
            {
                eprintln!("{}", Report(&error));
            }
            // One that is on trial is to be started again, until the one before is back: that one may take this very
            // configuration.
            if Trial::of_the_board().is_on() { ExitCode::FAILURE } else { error.exit_code() }
        }
    }
}

fn try_run(args: &AgentArgs) -> Result<(), AgentError> {
    let config = Config::load(&args.config)?;
    if !nix::unistd::geteuid().is_root() {
        return Err(AgentError::NotRoot);
    }
    log_to_stderr();
    // While there is one thread, and before anything is opened.
    let manager = ServiceManager::of_this_process();
    // One crypto library for all; a second installation is refused, and harmless.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let workers = Workers::new().map_err(AgentError::Runtime)?;
    workers.run(async |for_ingress| {
        let _lock = dirs::make(&config).await?;
        let mut config = config.clone();
        config.take_boot_file(&BOOT_FILES);
        if args.drain {
            drain::drain(&config).await
        } else {
            serve(&config, &manager, &for_ingress).await
        }
    })
}

/// What was said is for the journal, which adds the time and the unit; `RUST_LOG` says how much, by level and by part:
/// `info,skerry::mqtt=debug`.
fn log_to_stderr() {
    let asked = std::env::var("RUST_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter = asked.unwrap_or_else(|| {
        let quiet = ["mdns_sd", "rumqttc"].map(|target| (target, LevelFilter::OFF));
        Targets::new().with_default(LevelFilter::INFO).with_targets(quiet)
    });
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false);
    let log = if journal { log.without_time().boxed() } else { log.boxed() };
    // A subscriber that is there already (in tests) is as good.
    let _ = tracing_subscriber::registry().with(filter).with(log).try_init();
}

/// What this boot is called by the kernel.
fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

fn about(config: &Config, public_key: String) -> About {
    About {
        device: config.device.id.clone(),
        tags: config.device.tags.clone(),
        boot_id: boot_id(),
        public_key,
        control_plane: config.mqtt.url.clone(),
    }
}

fn settings(config: &Config) -> Settings {
    Settings {
        device: config.device.id.clone(),
        dns_suffix: config.network.dns_suffix.clone(),
        netns_dir: config.state.run_dir.join("netns"),
        boot: boot_id(),
        host_allowed: !config.network.allow_host.is_empty(),
        own_ports: own_ports(config),
        allowances: Allowances {
            devices: config.devices.allow.clone(),
            capabilities: config.devices.capabilities.clone(),
            storages: config.allowed_storages(),
        },
    }
}

/// What the name servers and HTTP listen on.
fn own_ports(config: &Config) -> BTreeSet<u16> {
    let lan = [config.ingress.http.port(), config.ingress.https.port()];
    lan.into_iter().chain(ports::HTTP).chain([ports::DNS]).collect()
}

/// The adapter to containerd, and the images it makes containers of.
fn containerd(
    config: &Config,
    clock: Clock,
) -> Result<(Containerd<Images>, Images, Connection), AgentError> {
    let part = &config.containerd;
    let connection = Connection::new(part.address.clone(), part.namespace.clone());
    let images =
        Images::new(connection.clone(), part.snapshotter.clone(), config.images.clone(), clock)
            .marked(config.state.dir.join("unpacking"), boot_id());
    let settings = containerd::Settings {
        namespace: part.namespace.clone(),
        snapshotter: part.snapshotter.clone(),
        runtime: part.runtime.clone(),
        run_dir: config.state.run_dir.clone(),
        volumes_dir: config.state.dir.join("volumes"),
        log_dir: config.log_dir(),
        max_log_file_bytes: config.logs.max_file_bytes,
        max_log_files: config.logs.max_files,
        logger: std::env::current_exe().map_err(AgentError::OwnBinary)?,
    };
    Ok((Containerd::new(connection.clone(), settings, images.clone(), clock), images, connection))
}

/// Builds everything, runs it, and ends it.
async fn serve(
    config: &Config,
    manager: &ServiceManager,
    for_ingress: &Handle,
) -> Result<(), AgentError> {
    let clock = Clock::default();
    let dir = config.state.dir.clone();
    // Before the store, which seals with one of them.
    let Keys { records, device } = Keys::load(&dir, config::credentials().as_deref())?;
    let opened = tokio::task::spawn_blocking(move || SledStore::open(&dir, &records)).await;
    let (store, loaded) = opened.map_err(|_| AgentError::StorePanicked)??;
    clock.raise_floor(loaded.state.device.clock_floor_secs);
    let (public_key, device_key) = (device.public(), Arc::new(device));
    let session = if loaded.rebuilt.is_some() { Session::Fresh } else { Session::Resumed };
    let broker =
        MqttSettings::new(config, env!("CARGO_PKG_VERSION"), &boot_id(), &public_key, session)?;
    let socket = ApiSocket::bind(&config.socket())?;
    let (runtime, images, connection) = containerd(config, clock)?;
    // Before the loop asks for the first image, or it would not wait for one that is about to be imported.
    let preloads = preload::expect(&config.images.preload_dir, &images);

    let tasks = Tasks::default();
    let (levels, published) = channels();
    let (inbox, requests) = mpsc::channel(INBOX_DEPTH);
    let wires = Wires::default();
    wires.tell_boot_problem(config);
    let network = Netlink::new(config, [80], wires.redirects.subscribe(), published.routes.clone());
    let ingress = Ingress::new(
        ingress::Settings::new(config.ingress.http),
        published.routes.clone(),
        wires.demand.clone(),
        wires.troubles.clone(),
        manager.clone(),
        tasks.clone(),
    );
    let reconciler = Reconciler::new(Parts {
        runtime: runtime.clone(),
        network: network.clone(),
        drain: ingress.drain(),
        store,
        loaded,
        clock,
        zone_files: ZoneFiles::of_the_board(),
        settings: settings(config),
        tasks: tasks.clone(),
        inbox: requests,
        reports: wires.reports(images.slow_pulls()),
        publisher: levels,
        durable_events: broker.is_some(),
        device_key,
    });
    info!(version = env!("CARGO_PKG_VERSION"), device = config.device.id, "skerry starts");
    tasks.spawn(info_span!("reconcile"), |stop| reconciler.run(stop));
    {
        // What it spawns itself runs there too.
        let _there = for_ingress.enter();
        tasks.spawn(info_span!("ingress"), |stop| ingress.run(stop));
    }
    dns::serve(&tasks, config, published.zones.clone(), wires.dns_tells(manager));
    let lookout = network.clone();
    tasks.spawn(info_span!("netlink"), |stop| network.follow(stop));
    let means = probe::Means { exec: runtime.clone(), netns_dir: settings(config).netns_dir };
    spawn_probe(&tasks, means, &wires, &published, clock);
    spawn_scalers(&tasks, config, &runtime, lookout, broker.as_ref(), &wires, &published, clock);
    tasks.spawn(info_span!("containerd"), |stop| runtime.watch(wires.pulses.clone(), stop));
    tasks.spawn(info_span!("pressure"), |stop| pressure::run(wires.pressure.clone(), stop));
    spawn_control(&tasks, broker, &inbox, &published, &wires, clock);
    spawn_lan(&tasks, config, &published, &wires);
    let preload_dir = preloads.then(|| config.images.preload_dir.clone());
    let preload = preload::run(preload_dir, images.clone(), connection, inbox.clone());
    tasks.spawn_short(info_span!("preload"), preload);
    let about = about(config, public_key);
    spawn_api(&tasks, config, socket, images.clone(), &inbox, &published, &wires, clock, about);
    watch_dir_of(&tasks, config, &inbox, &published);

    let mut signals = Signals::new()?;
    tokio::select! {
        () = Service::new(manager.clone(), Trial::of_the_board(), published.device.clone(), inbox.clone()).attend() => (),
        () = signals.asked() => (),
        () = tasks.stopping() => (),
    }
    let failed = tasks.stop_signal().is_cancelled();
    manager.tell("STOPPING=1");
    info!("skerry stops; the apps run on");
    tasks.shut_down(SHUTDOWN_GRACE).await;
    images.end_well();
    if failed { Err(AgentError::TaskEnded) } else { Ok(()) }
}

/// The channels on which adapters report.
#[derive(Debug, Default)]
struct Wires {
    troubles: Troubles,
    redirects: watch::Sender<Arc<Redirects>>,
    health: watch::Sender<Arc<domain::probe::HealthReport>>,
    demand: watch::Sender<Arc<domain::scale::Demand>>,
    readings: watch::Sender<Arc<domain::scale::Readings>>,
    lan_names: watch::Sender<Arc<domain::zone::LanNames>>,
    pulses: watch::Sender<u64>,
    link: watch::Sender<Link>,
    pressure: watch::Sender<bool>,
}

impl Wires {
    fn reports(&self, pulls: watch::Receiver<Arc<Pulls>>) -> Reports {
        Reports {
            health: self.health.subscribe(),
            demand: self.demand.subscribe(),
            readings: self.readings.subscribe(),
            lan_names: self.lan_names.subscribe(),
            runtime: self.pulses.subscribe(),
            listeners: self.troubles.subscribe(),
            pressure: self.pressure.subscribe(),
            pulls,
        }
    }

    /// It stays so until the agent starts again.
    fn tell_boot_problem(&self, config: &Config) {
        let Some(details) = config.boot_problem.clone() else { return };
        warn!(details, "the boot partition's skerry.toml is not used");
        let trouble = Trouble { reason: Reason::BootFileUnusable, details };
        self.troubles
            .send_modify(|all| drop(Arc::make_mut(all).insert("boot".to_owned(), trouble)));
    }

    fn dns_tells(&self, manager: &ServiceManager) -> dns::Tells {
        dns::Tells {
            redirects: self.redirects.clone(),
            listeners: self.troubles.clone(),
            manager: manager.clone(),
        }
    }
}

fn spawn_probe(
    tasks: &Tasks,
    means: probe::Means<Containerd<Images>>,
    wires: &Wires,
    published: &Published,
    clock: Clock,
) {
    let (plan, report) = (published.probes.clone(), wires.health.clone());
    tasks.spawn(info_span!("probe"), |stop| probe::run(means, plan, report, clock, stop));
}

#[expect(clippy::too_many_arguments, reason = "it wires what `serve` has built, and nothing else")]
fn spawn_scalers(
    tasks: &Tasks,
    config: &Config,
    runtime: &Containerd<Images>,
    lookout: Netlink,
    broker: Option<&MqttSettings>,
    wires: &Wires,
    published: &Published,
    clock: Clock,
) {
    let means = scalers::Means {
        meter: runtime.clone(),
        lookout,
        broker: broker.map(|settings| settings.access.clone()),
        device: config.device.id.clone(),
    };
    let (plan, readings) = (published.samples.clone(), wires.readings.clone());
    tasks.spawn(info_span!("scalers"), |stop| scalers::run(means, plan, readings, clock, stop));
}

fn spawn_control(
    tasks: &Tasks,
    broker: Option<MqttSettings>,
    inbox: &Inbox,
    published: &Published,
    wires: &Wires,
    clock: Clock,
) {
    let Some(broker) = broker else { return };
    let (inbox, published) = (inbox.clone(), published.clone());
    let tells = mqtt::Tells { troubles: wires.troubles.clone(), link: wires.link.clone() };
    tasks.spawn(info_span!("mqtt"), move |stop| {
        mqtt::run(broker, inbox, published, tells, clock, stop)
    });
}

fn spawn_lan(tasks: &Tasks, config: &Config, published: &Published, wires: &Wires) {
    let settings = MdnsSettings {
        mdns: config.mdns.clone(),
        device: config.device.id.clone(),
        port: config.ingress.http.port(),
    };
    let (published, names) = (published.clone(), wires.lan_names.clone());
    tasks.spawn(info_span!("mdns"), move |stop| mdns::run(settings, published, names, stop));
}

#[expect(clippy::too_many_arguments, reason = "it wires what `serve` has built, and nothing else")]
fn spawn_api(
    tasks: &Tasks,
    config: &Config,
    socket: ApiSocket,
    images: Images,
    inbox: &Inbox,
    published: &Published,
    wires: &Wires,
    clock: Clock,
    about: About,
) {
    let api = Api {
        inbox: inbox.clone(),
        published: published.clone(),
        images: images::BoardImages::new(images, inbox.clone()),
        spool_dir: config.state.dir.join("spool"),
        logs: sources::BoardLogs::new(config.log_dir(), tasks.clone()),
        about,
        link: wires.link.subscribe(),
        clock,
        stop: tasks.stop_signal(),
    };
    let short = tasks.clone();
    tasks.spawn(info_span!("api"), |stop| api::serve(socket, api, short, stop));
}

fn watch_dir_of(tasks: &Tasks, config: &Config, inbox: &Inbox, published: &Published) {
    let (dir, inbox, published) = (config.apps.dir.clone(), inbox.clone(), published.clone());
    tasks.spawn(info_span!("files"), |stop| watch_dir::run(dir, inbox, published, stop));
}

/// The signals that end the agent.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, AgentError> {
        let of = |kind| signal(kind).map_err(AgentError::Runtime);
        Ok(Self {
            terminate: of(SignalKind::terminate())?,
            interrupt: of(SignalKind::interrupt())?,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => (),
            _ = self.interrupt.recv() => (),
        }
    }
}
