//! What one request is out for: a replica of the app that its host name leads to, reserved until the answer has ended.
//! The same of a TCP connection, whose port leads to the app.
//!
//! ```text
//!   look ─▶ reserved
//!        ─▶ nobody, for a reason
//!        ─▶ asleep ─▶ waiting room, which looks again when the table changes
//! ```

use std::borrow::Cow;
use std::net::SocketAddrV4;
use std::sync::Arc;

use domain::model::{AppName, RevisionName};
use domain::reason::Reason;
use domain::route::{Backend, Picked, RouteTable, Side, Ticket, Transport};
use tokio::time::Instant;

use super::fleet::Shared;
use super::upstream::{Busy, Upstream};

/// A request on its way to a replica.
#[derive(Clone)]
pub(super) struct Errand<'a> {
    asks: Asks<'a>,
    side: Cow<'a, Side>,
    /// Drawn once: a second try stays with the revision of the first where it can.
    number: Option<u32>,
    /// Replicas that could not be reached.
    passed_over: Vec<Arc<Upstream>>,
    /// When whoever asks has waited long enough for the head of the answer.
    until: Instant,
}

/// What leads to the app.
#[derive(Clone)]
enum Asks<'a> {
    /// The host name of a request.
    Host(Cow<'a, str>),
    /// The port of a connection.
    Port(u16),
}

/// A replica that counts the request as open.
pub(super) struct Reserved {
    pub(super) busy: Busy,
    /// What is spoken to it.
    pub(super) transport: Transport,
    /// Where.
    pub(super) address: SocketAddrV4,
}

/// What an errand finds at the moment.
pub(super) enum Finding {
    /// Who serves it.
    Reserved(Reserved),
    /// Nobody yet.
    Asleep(Asleep),
    /// Nobody.
    Nobody(Reason),
}

/// A revision that a request is to wake.
pub(super) struct Asleep {
    pub(super) app: AppName,
    pub(super) revision: RevisionName,
    /// The table that says so.
    pub(super) table: Arc<RouteTable>,
}

impl<'a> Errand<'a> {
    /// An errand that begins now and wants its answer within the time that `shared` allows.
    pub(super) fn new(host: &'a str, side: &'a Side, shared: &Shared) -> Self {
        Self::begin(Asks::Host(Cow::Borrowed(host)), side, shared)
    }

    /// The errand of a connection to a port of ours.
    pub(super) fn to_port(port: u16, side: &'a Side, shared: &Shared) -> Self {
        Self::begin(Asks::Port(port), side, shared)
    }

    fn begin(asks: Asks<'a>, side: &'a Side, shared: &Shared) -> Self {
        let until = Instant::now() + shared.settings.response_timeout;
        let side = Cow::Borrowed(side);
        Self { asks, side, number: None, passed_over: Vec::new(), until }
    }

    /// When the head of the answer is to be there.
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// The same for somebody else to run.
    pub(super) fn hand_over(&self) -> Errand<'static> {
        Errand {
            asks: match &self.asks {
                Asks::Host(host) => Asks::Host(Cow::Owned(host.clone().into_owned())),
                Asks::Port(port) => Asks::Port(*port),
            },
            side: Cow::Owned(self.side.clone().into_owned()),
            number: self.number,
            passed_over: self.passed_over.clone(),
            until: self.until,
        }
    }

    /// Not this replica again.
    pub(super) fn pass_over(&mut self, upstream: &Arc<Upstream>) {
        self.passed_over.push(Arc::clone(upstream));
    }

    /// Picks a replica and counts the request in before the replica can leave; where the revision is asleep, once it
    /// is not. `weigh` tells the bytes that the request takes while it waits.
    pub(super) async fn reserve(
        &mut self,
        shared: &Shared,
        weigh: impl FnOnce() -> usize,
    ) -> Result<Reserved, Reason> {
        match self.look(shared) {
            Finding::Reserved(reserved) => Ok(reserved),
            Finding::Asleep(asleep) => shared.waiting.wait(shared, self, asleep, weigh()).await,
            Finding::Nobody(_) if !self.passed_over.is_empty() => Err(Reason::UpstreamFailed),
            Finding::Nobody(reason) => Err(reason),
        }
    }

    /// The same without waiting.
    pub(super) fn look(&mut self, shared: &Shared) -> Finding {
        loop {
            let fleet = shared.fleet();
            let found = match &self.asks {
                Asks::Host(host) => fleet.table.find(host, &self.side),
                Asks::Port(port) => fleet.table.find_port(*port, &self.side),
            };
            let found = match found {
                Ok(found) => found,
                Err(reason) => return Finding::Nobody(reason),
            };
            let number = *self.number.get_or_insert_with(|| shared.number());
            let open = |backend: &Backend| {
                let upstream = fleet.upstreams.get(&backend.replica)?;
                let passed = self.passed_over.iter().any(|one| Arc::ptr_eq(one, upstream));
                (!passed).then(|| upstream.open())
            };
            let turn = usize::try_from(number).unwrap_or(0);
            let picked = match found.pick(Ticket::nth(number), open, turn) {
                Ok(Picked::Ready(picked)) => picked,
                Ok(Picked::Asleep(revision)) => {
                    let (app, revision) = (found.service.app.clone(), revision.clone());
                    let table = Arc::clone(&fleet.table);
                    return Finding::Asleep(Asleep { app, revision, table });
                }
                Err(reason) => return Finding::Nobody(reason),
            };
            let Some(upstream) = fleet.upstreams.get(&picked.replica) else {
                return Finding::Nobody(found.service.unready);
            };
            if let Some(busy) = Busy::reserve(upstream) {
                shared.ledger.asked(&busy.upstream().tally);
                let (transport, address) = (found.service.transport, picked.address);
                return Finding::Reserved(Reserved { busy, transport, address });
            }
            // It left between our look at the table and our word: the table in force has it no more.
        }
    }
}
