//! The waiting room: requests for a revision that is asleep, until it has a replica that is ready.
//!
//! ```text
//!   asleep ─▶ take a place ─┐   the table changes
//!                           ▼           ▼
//!                        1 2 3 4 ─▶ call, in order ─▶ reserved, or a reason
//!                          │                └▶ still asleep: keeps its place
//!                          └▶ patience is over, or the client is gone
//! ```
//!
//! Nobody polls: every change of the table has all places looked at once, by one task and first come, first served. Who
//! takes a place after the table it looked at has changed calls by itself, so that nobody waits for a change that has
//! been. What waits holds the head of a request; its body stays with the client and in the windows of the sockets. A
//! client that leaves while a body of HTTP/1.1 is on its way is noticed only when that is read, and keeps its place
//! till then.

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::model::{AppName, RevisionName};
use domain::reason::Reason;
use hyper::Request;
use tokio::sync::oneshot;
use tokio::time;
use tokio_util::sync::CancellationToken;

use super::demand::{Ledger, Left};
use super::errand::{Asleep, Errand, Finding, Reserved};
use super::fleet::Shared;
use crate::course::{self, Step};

/// What is said to all when the agent stops: nobody wakes anything any more.
const STOPPING: Reason = Reason::NoReadyReplica;

/// Requests that wait, by app.
#[derive(Default)]
pub(super) struct WaitingRoom(Mutex<Room>);

#[derive(Default)]
struct Room {
    /// No queue is empty.
    queues: BTreeMap<AppName, Queue>,
    /// Rises for ever: a place that is gone is never mistaken for another.
    next: u64,
    closed: bool,
}

/// Those who wait for one app.
#[derive(Default)]
struct Queue {
    /// By the order in which they came.
    places: BTreeMap<u64, Place>,
    /// Of all places.
    bytes: usize,
}

struct Place {
    errand: Errand<'static>,
    /// Waited for at the moment.
    revision: RevisionName,
    bytes: usize,
    call: oneshot::Sender<Result<Reserved, Reason>>,
}

/// Holding one keeps a place, until it is called.
struct Seat<'a> {
    shared: &'a Shared,
    app: AppName,
    number: u64,
}

impl WaitingRoom {
    /// Waits until somebody serves this errand, or nobody will. A request of `bytes` that finds no room is refused at
    /// once.
    pub(super) async fn wait(
        &self,
        shared: &Shared,
        errand: &Errand<'_>,
        asleep: Asleep,
        bytes: usize,
    ) -> Result<Reserved, Reason> {
        let table = Arc::clone(&asleep.table);
        let (seat, called) = self.enter(shared, errand.hand_over(), asleep, bytes)?;
        if !Arc::ptr_eq(&shared.fleet().table, &table) {
            self.call(shared);
        }
        let called = time::timeout_at(errand.until(), called).await;
        drop(seat);
        match called {
            Ok(Ok(found)) => found,
            Ok(Err(_)) => Err(STOPPING),
            Err(_) => Err(Reason::UpstreamTimeout),
        }
    }

    fn enter<'a>(
        &self,
        shared: &'a Shared,
        errand: Errand<'static>,
        asleep: Asleep,
        bytes: usize,
    ) -> Result<(Seat<'a>, oneshot::Receiver<Result<Reserved, Reason>>), Reason> {
        let Asleep { app, revision, .. } = asleep;
        let settings = &shared.settings;
        let mut room = self.room();
        if room.closed {
            return Err(STOPPING);
        }
        let (places, held) =
            room.queues.get(&app).map_or((0, 0), |queue| (queue.places.len(), queue.bytes));
        if settings.waiting_max <= places || settings.waiting_bytes_max < held + bytes {
            return Err(Reason::ActivationQueueFull);
        }
        let number = room.next;
        room.next += 1;
        let (call, called) = oneshot::channel();
        if places == 0 {
            course::begin(&revision);
        }
        shared.ledger.wait(&revision);
        let queue = room.queues.entry(app.clone()).or_default();
        queue.bytes += bytes;
        queue.places.insert(number, Place { errand, revision, bytes, call });
        Ok((Seat { shared, app, number }, called))
    }

    /// Gives everybody whom the table of the moment serves, or refuses, the word.
    pub(super) fn call(&self, shared: &Shared) {
        let mut room = self.room();
        for queue in room.queues.values_mut() {
            queue.call(shared);
        }
        room.queues.retain(|_, queue| !queue.places.is_empty());
    }

    /// Sends everybody away, and whoever comes later.
    fn close(&self, shared: &Shared) {
        let mut room = self.room();
        room.closed = true;
        for place in mem::take(&mut room.queues).into_values().flat_map(|queue| queue.places) {
            place.1.answer(Err(STOPPING), &shared.ledger);
        }
    }

    /// Places that are taken.
    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        self.room().queues.values().map(|queue| queue.places.len()).sum()
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn call(&mut self, shared: &Shared) {
        for (number, mut place) in mem::take(&mut self.places) {
            let found = match place.errand.look(shared) {
                Finding::Asleep(asleep) => {
                    place.await_now(asleep.revision, &shared.ledger);
                    self.places.insert(number, place);
                    continue;
                }
                Finding::Reserved(reserved) => Ok(reserved),
                Finding::Nobody(reason) => Err(reason),
            };
            self.bytes -= place.bytes;
            place.answer(found, &shared.ledger);
        }
    }
}

impl Place {
    /// The split may lead a request to another revision than before.
    fn await_now(&mut self, revision: RevisionName, ledger: &Ledger) {
        if self.revision != revision {
            ledger.wait(&revision);
            ledger.leave(&mem::replace(&mut self.revision, revision), Left::Unserved);
        }
    }

    fn answer(self, found: Result<Reserved, Reason>, ledger: &Ledger) {
        let served = found.is_ok();
        if served {
            course::over(&self.revision, Step::Ready);
        }
        // One that has just gone takes nothing: what was reserved for it is free again.
        let taken = self.call.send(found).is_ok();
        let how = if served && taken { Left::Called } else { Left::Unserved };
        ledger.leave(&self.revision, how);
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut room = self.shared.waiting.room();
        let Some(queue) = room.queues.get_mut(&self.app) else { return };
        let Some(place) = queue.places.remove(&self.number) else { return };
        queue.bytes -= place.bytes;
        if queue.places.is_empty() {
            room.queues.remove(&self.app);
        }
        self.shared.ledger.leave(&place.revision, Left::Unserved);
    }
}

/// What a request takes while it waits: its target, and the names and values of its headers.
pub(super) fn weight<B>(request: &Request<B>) -> usize {
    let uri = request.uri();
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    let target = uri.path_and_query().map_or(0, |target| target.as_str().len());
    let headers = request.headers().iter();
    let headers: usize = headers.map(|(name, value)| name.as_str().len() + value.len()).sum();
    authority + target + headers
}

/// Calls whenever the table changes, until `stop`; then nobody waits any more.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut routes = shared.routes();
    let calls = async {
        while routes.changed().await.is_ok() {
            shared.waiting.call(&shared);
        }
        // Without the loop the last table holds.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = stop.cancelled() => (),
        () = calls => (),
    }
    shared.waiting.close(&shared);
}
