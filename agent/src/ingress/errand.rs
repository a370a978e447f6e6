//! What one request is out for: a replica of the app that its host name leads to, reserved until the answer has ended.

use std::sync::Arc;

use domain::reason::Reason;
use domain::route::{Backend, Picked, Side, Ticket, Transport};

use super::fleet::Shared;
use super::upstream::{Busy, Upstream};

/// A request on its way to a replica.
pub(super) struct Errand<'a> {
    host: &'a str,
    side: &'a Side,
    /// Drawn once: a second try stays with the revision of the first where it can.
    number: Option<u32>,
    /// Replicas that could not be reached.
    passed_over: Vec<Arc<Upstream>>,
}

impl<'a> Errand<'a> {
    pub(super) fn new(host: &'a str, side: &'a Side) -> Self {
        Self { host, side, number: None, passed_over: Vec::new() }
    }

    /// Not this replica again.
    pub(super) fn pass_over(&mut self, upstream: &Arc<Upstream>) {
        self.passed_over.push(Arc::clone(upstream));
    }

    /// Picks a replica and counts the request in before the replica can leave.
    pub(super) fn reserve(&mut self, shared: &Shared) -> Result<(Busy, Transport), Reason> {
        loop {
            let fleet = shared.fleet();
            let found = fleet.table.find(self.host, self.side)?;
            let number = *self.number.get_or_insert_with(|| shared.number());
            let open = |backend: &Backend| {
                let upstream = fleet.upstreams.get(&backend.replica)?;
                let passed = self.passed_over.iter().any(|one| Arc::ptr_eq(one, upstream));
                (!passed).then(|| upstream.open())
            };
            let turn = usize::try_from(number).unwrap_or(0);
            let picked = match found.pick(Ticket::nth(number), open, turn) {
                Ok(Picked::Ready(picked)) => picked,
                Ok(Picked::Asleep(_)) => return Err(found.service.unready),
                Err(_) if !self.passed_over.is_empty() => return Err(Reason::UpstreamFailed),
                Err(reason) => return Err(reason),
            };
            let upstream = fleet.upstreams.get(&picked.replica).ok_or(found.service.unready)?;
            if let Some(busy) = Busy::reserve(upstream) {
                return Ok((busy, found.service.transport));
            }
            // It left between our look at the table and our word: the table in force has it no more.
        }
    }
}
