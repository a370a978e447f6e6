//! TCP ports: which app has which, on the LAN and inside its environment.
//!
//! ```text
//!   documents ─▶ claims, the earliest first ─▶ holders ─▶ routes, and warnings for whoever came too late
//! ```
//!
//! A port belongs to one app at a time: all names of an environment lead to its one gateway, and the LAN has one
//! address. Who claimed a port first keeps it, over restarts too: the number of the claim is written on the app's record.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::document::{AppDocument, Finding, Ingress, PortMapping};
use crate::model::{AppName, EnvironmentName};
use crate::reason::Reason;
use crate::replica::Trouble;
use crate::route::{Side, Transport};
use crate::state::{AppRecord, State};

/// The port of an environment's name server, on its gateway.
pub const DNS: u16 = 53;

/// The ports of HTTP and HTTPS on every gateway.
pub const HTTP: [u16; 2] = [80, 443];

/// A TCP port that an app asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// Its place among `additionalPortMappings`; none for the ingress's own.
    pub additional: Option<usize>,
    /// What others connect to.
    pub exposed: u16,
    /// What the app listens on.
    pub target: u16,
    /// From the LAN too.
    pub external: bool,
}

impl Port {
    /// Where the document says so.
    pub fn path(self) -> String {
        let ingress = "properties.configuration.ingress";
        match self.additional {
            None => format!("{ingress}.exposedPort"),
            Some(number) => format!("{ingress}.additionalPortMappings[{number}].exposedPort"),
        }
    }

    /// The sides from which it is to be reached.
    pub fn sides(self, environment: &EnvironmentName) -> impl Iterator<Item = Side> {
        let lan = self.external.then_some(Side::Lan);
        [Side::Environment(environment.clone())].into_iter().chain(lan)
    }
}

/// The port of an ingress of TCP. `exposedPort` is `targetPort` where it is not given.
pub fn own(ingress: &Ingress) -> Option<Port> {
    (ingress.transport == Transport::Tcp).then_some(Port {
        additional: None,
        exposed: if ingress.exposed_port == 0 { ingress.target_port } else { ingress.exposed_port },
        target: ingress.target_port,
        external: ingress.external,
    })
}

/// The TCP ports that an ingress asks for.
pub fn of(ingress: &Ingress) -> Vec<Port> {
    let additional = ingress.additional_ports.iter().enumerate().map(|(number, mapping)| {
        let PortMapping { external, target_port, exposed_port } = *mapping;
        Port { additional: Some(number), exposed: exposed_port, target: target_port, external }
    });
    own(ingress).into_iter().chain(additional).collect()
}

/// The ports of a document.
fn of_document(document: Option<&AppDocument>) -> Vec<Port> {
    document.and_then(|document| document.configuration.ingress.as_ref()).map_or(Vec::new(), of)
}

/// Writes on the record which ports its app claims from now on, and keeps the numbers of those that it claimed before.
/// `number` is that of the moment, and rises.
pub fn claim(record: &mut AppRecord, number: u64) {
    let mut wanted: BTreeSet<u16> = BTreeSet::new();
    // What serves has its ports until another revision has taken over.
    for document in [record.document(), record.in_force()] {
        wanted.extend(of_document(document).into_iter().map(|port| port.exposed));
    }
    record.ports.retain(|port, _| wanted.contains(port));
    for port in wanted {
        record.ports.entry(port).or_insert(number);
    }
}

/// The name of the listener of a port, under which it tells what is wrong.
pub fn listener(side: &Side, port: u16) -> String {
    match side {
        Side::Lan => format!("ingress/*:{port}"),
        Side::Environment(name) => format!("ingress/{name}:{port}"),
    }
}

/// Who has a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// The board itself: its name servers, its HTTP.
    Board,
    /// This app.
    App(AppName),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Board => f.write_str("the board itself"),
            Self::App(name) => write!(f, "app {name}"),
        }
    }
}

/// Who has which port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holders {
    board: BTreeSet<u16>,
    apps: BTreeMap<(Side, u16), AppName>,
}

impl Holders {
    /// Gives each port to the first who claimed it. `board` are the ports of the board's own.
    pub fn of(state: &State, board: &BTreeSet<u16>) -> Self {
        let mut holders = Self { board: board.clone(), apps: BTreeMap::new() };
        let mut claims: Vec<(u64, &AppName, Side, u16)> = Vec::new();
        for record in state.apps.values() {
            for (port, side) in asked_for(record) {
                let number = record.ports.get(&port.exposed).copied().unwrap_or(u64::MAX);
                claims.push((number, &record.name, side, port.exposed));
            }
        }
        claims.sort();
        for (_, app, side, port) in claims {
            if !holders.board.contains(&port) {
                holders.apps.entry((side, port)).or_insert_with(|| app.clone());
            }
        }
        holders
    }

    /// Whether an app has a port.
    pub fn has(&self, app: &AppName, side: &Side, port: u16) -> bool {
        self.apps.get(&(side.clone(), port)) == Some(app)
    }

    /// Who has a port that an app does not have.
    fn other(&self, app: &AppName, side: &Side, port: u16) -> Option<Holder> {
        if self.board.contains(&port) {
            return Some(Holder::Board);
        }
        let holder = self.apps.get(&(side.clone(), port))?;
        (holder != app).then(|| Holder::App(holder.clone()))
    }

    /// The ports that an app asks for and others have.
    pub fn conflicts(&self, record: &AppRecord) -> Vec<Finding> {
        let conflict = |(port, side): (Port, Side)| {
            let holder = self.other(&record.name, &side, port.exposed)?;
            let place = match side {
                Side::Lan => "on the LAN".to_owned(),
                Side::Environment(name) => format!("in environment {name}"),
            };
            let message = format!("port {} belongs to {holder} {place}", port.exposed);
            Some(finding(port, Reason::PortConflict, message))
        };
        asked_for(record).filter_map(conflict).collect()
    }

    /// The ports that an app has and that cannot be listened on.
    pub fn closed(
        &self,
        record: &AppRecord,
        listeners: &BTreeMap<String, Trouble>,
    ) -> Vec<Finding> {
        let trouble = |(port, side): (Port, Side)| {
            let trouble = listeners.get(&listener(&side, port.exposed))?;
            let ours = self.has(&record.name, &side, port.exposed);
            ours.then(|| finding(port, trouble.reason, trouble.details.clone()))
        };
        asked_for(record).filter_map(trouble).collect()
    }
}

/// The ports that an app asks for now, from each side.
fn asked_for(record: &AppRecord) -> impl Iterator<Item = (Port, Side)> {
    let document = record.in_force().filter(|_| !record.removed);
    document.into_iter().flat_map(|document| {
        let ports = of_document(Some(document)).into_iter();
        ports.flat_map(|port| port.sides(&document.environment).map(move |side| (port, side)))
    })
}

fn finding(port: Port, reason: Reason, message: String) -> Finding {
    Finding { path: port.path(), reason, message, position: None }
}
