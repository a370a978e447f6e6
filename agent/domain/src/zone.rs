//! What the DNS server of each environment answers, and what is announced on the LAN.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::model::{AppName, EnvironmentName, RevisionName};

/// One zone for each environment.
pub type Zones = BTreeMap<EnvironmentName, Zone>;

/// The names of one environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// Where its DNS server listens; A records of apps point here too.
    pub gateway: Ipv4Addr,
    /// `{environment}.{device}.internal`, or what `[network] dns_suffix` makes of it. Lower case.
    pub suffix: String,
    /// `host.<suffix>` answers the gateway where `[network] allow_host` opens something.
    pub host: bool,
    /// The apps with ingress.
    pub apps: BTreeMap<AppName, ZoneEntry>,
}

/// The records of one app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneEntry {
    /// The target port, for SRV.
    pub port: u16,
    /// The ready replicas, for `replicas.<app>` and SRV.
    pub replicas: Vec<Ipv4Addr>,
}

/// What is announced on the LAN by mDNS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Announcements {
    /// External apps that have a ready replica.
    pub apps: BTreeMap<AppName, AnnouncedApp>,
}

/// An external app on the LAN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnouncedApp {
    /// The revision with the traffic, for TXT.
    pub revision: RevisionName,
    /// The TCP port that is its own; none for HTTP.
    pub port: Option<u16>,
}

/// The names that are held on the LAN after conflicts were settled, without `.local`.
pub type LanNames = BTreeMap<AppName, String>;
