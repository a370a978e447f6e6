//! Announcements on the LAN: multicast DNS and DNS service discovery (RFC 6762, RFC 6763).
//!
//! ```text
//!   hello.local                  A     every address of the LAN interfaces
//!   hello._http._tcp.local       SRV   hello.local:80        TXT app revision device
//!   db._skerry-app._tcp.local    SRV   db.local:5432         where an app speaks TCP
//!   pi-1._skerry._tcp.local      SRV   pi-1-skerry.local:80  TXT device
//! ```
//!
//! Each app is one service with a host name of its own, so that its goodbye takes back its own records and no other's.
//! A name that another host holds is changed (`hello-2.local`), and the name that is held is reported. Nothing is
//! announced on the bridges of environments or on loopback, and nothing here browses.

mod names;
mod service;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domain::model::AppName;
use domain::zone::{AnnouncedApp, Announcements, LanNames};
use mdns_sd::{DaemonEvent, IfKind, IfPredicate, Receiver, ServiceDaemon, ServiceInfo};
use tokio::sync::watch;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::names::Names;
use crate::config::Mdns;
use crate::published::Published;

/// Interfaces that are never the LAN: bridges of environments, and the host's ends of what hangs on them.
const INNER: [&str; 3] = ["sk-", "skv", "skl"];
/// How often the board's addresses are looked at: one wake-up in half a minute, and DHCP is seldom faster.
const ADDRESS_CHECK_SECS: u32 = 30;
/// For the goodbyes.
const FAREWELL: Duration = Duration::from_secs(1);
/// Times that a full command queue is tried again, and the wait between.
const TRIES: u32 = 50;
const RETRY: Duration = Duration::from_millis(20);

/// What is announced, and where.
#[derive(Debug, Clone)]
pub struct MdnsSettings {
    /// `[mdns]`
    pub mdns: Mdns,
    /// The device id.
    pub device: String,
    /// The port of the ingress.
    pub port: u16,
}

/// Announces whatever is published, until `stop`; then takes it back.
///
/// Starts nothing before the first round: until then there is nothing to say.
pub async fn run(
    settings: MdnsSettings,
    mut published: Published,
    names: watch::Sender<Arc<LanNames>>,
    stop: CancellationToken,
) {
    let ready = tokio::select! {
        () = stop.cancelled() => return,
        ready = published.device.wait_for(|state| 0 < state.rounds) => ready.is_ok(),
    };
    let responder = if settings.mdns.enabled && ready { Responder::start(&settings) } else { None };
    match responder {
        Some(responder) => responder.keep(published.announcements, &names, &stop).await,
        None => stop.cancelled().await,
    }
    names.send_replace(Arc::default());
}

/// The thread that answers, and what it was told.
struct Responder {
    settings: MdnsSettings,
    daemon: ServiceDaemon,
    events: Receiver<DaemonEvent>,
    told: BTreeMap<AppName, AnnouncedApp>,
    names: Names,
}

impl Responder {
    /// Starts the thread; `None`, with a word in the log, where it cannot.
    fn start(settings: &MdnsSettings) -> Option<Self> {
        let started = ServiceDaemon::new().and_then(|daemon| {
            let wanted = settings.mdns.interfaces.clone();
            daemon.disable_interface(IfKind::All)?;
            daemon.enable_interface(IfKind::Predicate(IfPredicate::new(move |interface| {
                interface.ip().is_ipv4()
                    && !interface.is_loopback()
                    && !INNER.iter().any(|prefix| interface.name.starts_with(prefix))
                    && (wanted.is_empty() || wanted.contains(&interface.name))
            })))?;
            daemon.set_ip_check_interval(ADDRESS_CHECK_SECS)?;
            let events = daemon.monitor()?;
            Ok((daemon, events))
        });
        match started {
            Ok((daemon, events)) => Some(Self {
                settings: settings.clone(),
                daemon,
                events,
                told: BTreeMap::new(),
                names: Names::default(),
            }),
            Err(error) => {
                warn!(%error, "nothing is announced on the LAN");
                None
            }
        }
    }

    async fn keep(
        mut self,
        mut announcements: watch::Receiver<Arc<Announcements>>,
        names: &watch::Sender<Arc<LanNames>>,
        stop: &CancellationToken,
    ) {
        self.register(service::device(&self.settings)).await;
        loop {
            let wanted = Arc::clone(&announcements.borrow_and_update());
            self.settle(&wanted.apps).await;
            self.publish(names);
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.farewell().await,
                changed = announcements.changed() => if changed.is_err() {
                    return self.farewell().await;
                },
                () = self.listen(names) => {
                    warn!("nothing is announced on the LAN any more");
                    return stop.cancelled().await;
                }
            }
        }
    }

    /// Follows what the thread says, until it ends. Safe to cancel.
    async fn listen(&mut self, names: &watch::Sender<Arc<LanNames>>) {
        while let Ok(event) = self.events.recv_async().await {
            match event {
                DaemonEvent::Announce(name, _) => self.names.announced(&name),
                DaemonEvent::NameChange(change) => {
                    info!(original = %change.original, new = %change.new_name, "a name on the LAN is taken; it was changed");
                    self.names.changed(&change.original, &change.new_name);
                }
                DaemonEvent::Error(error) => warn!(%error, "announcing on the LAN"),
                DaemonEvent::IpAdd(_) | DaemonEvent::IpDel(_) | DaemonEvent::Respond(_) | _ => {
                    continue;
                }
            }
            self.publish(names);
        }
    }

    /// Says which names are held, where that changed.
    fn publish(&self, names: &watch::Sender<Arc<LanNames>>) {
        let held = self.names.held(&self.told);
        names.send_if_modified(|known| {
            let changed = **known != held;
            if changed {
                *known = Arc::new(held);
            }
            changed
        });
    }

    /// Announces and takes back until `wanted` is what is announced.
    async fn settle(&mut self, wanted: &BTreeMap<AppName, AnnouncedApp>) {
        let name = |(app, announced): (&AppName, &AnnouncedApp)| service::instance(app, announced);
        let stays = |told: &(&AppName, &AnnouncedApp)| {
            wanted.get_key_value(told.0).is_some_and(|one| name(one) == name(*told))
        };
        let gone: Vec<(AppName, String)> = self
            .told
            .iter()
            .filter(|told| !stays(told))
            .map(|told| (told.0.clone(), name(told)))
            .collect();
        for (app, name) in gone {
            self.told.remove(&app);
            self.names.forget(&name);
            debug!(%app, "taken back from the LAN");
            self.command(|daemon| daemon.unregister(&name).map(drop)).await;
        }
        for (app, announced) in wanted {
            if self.told.get(app) != Some(announced) {
                self.told.insert(app.clone(), announced.clone());
                self.register(service::app(&self.settings, app, announced)).await;
            }
        }
    }

    async fn register(&self, service: Result<ServiceInfo, mdns_sd::Error>) {
        match service {
            Ok(service) => self.command(|daemon| daemon.register(service.clone())).await,
            Err(error) => warn!(%error, "a service cannot be announced on the LAN"),
        }
    }

    /// Gives a command; waits where the queue, which holds 100, is full.
    async fn command(&self, give: impl Fn(&ServiceDaemon) -> Result<(), mdns_sd::Error>) {
        for _ in 0..TRIES {
            match give(&self.daemon) {
                Ok(()) => return,
                Err(mdns_sd::Error::Again) => time::sleep(RETRY).await,
                Err(error) => return warn!(%error, "announcing on the LAN"),
            }
        }
        warn!("announcing on the LAN takes too long; something is left out");
    }

    /// Takes everything back: the thread says goodbye for each service before it ends.
    async fn farewell(self) {
        if let Ok(ended) = self.daemon.shutdown()
            && time::timeout(FAREWELL, ended.recv_async()).await.is_err()
        {
            warn!("no time left to say goodbye on the LAN");
        }
    }
}
