//! What is told of the requests for each revision: who waits, at once; what began and what is open, window by window.
//!
//! ```text
//!   request ─▶ tally +1 ──────▶ ┐
//!   waiting room ─▶ first, last ┼─▶ ledger ─▶ Demand
//!   end of a window ──────────▶ ┘
//! ```
//!
//! A request costs one more count on its way and takes no lock. Windows follow each other while something was asked,
//! waits or is open; after one without, nothing runs here until the next request rings.

use std::collections::BTreeMap;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::model::RevisionName;
use domain::scale::{Asked, Demand};
use tokio::sync::{Notify, watch};
use tokio::time;
use tokio_util::sync::CancellationToken;

use super::fleet::{Fleet, Shared};

/// Requests that ever began for one revision. Its replicas share it, so that what began at one that left is counted.
pub(super) struct Tally {
    pub(super) revision: RevisionName,
    begun: AtomicU64,
    /// The loop knows that somebody asks.
    told: AtomicBool,
}

impl Tally {
    pub(super) fn new(revision: RevisionName) -> Self {
        Self { revision, begun: AtomicU64::new(0), told: AtomicBool::new(false) }
    }

    /// A request begins. Whoever counts has to tell the ledger after it.
    pub(super) fn count(&self) {
        self.begun.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn begun(&self) -> u64 {
        self.begun.load(Ordering::SeqCst)
    }
}

/// Every revision that is asked for or could be.
pub(super) struct Ledger {
    entries: Mutex<BTreeMap<RevisionName, Entry>>,
    /// A window is open.
    counting: AtomicBool,
    /// Rung by the first request after a rest.
    first: Notify,
    demand: watch::Sender<Arc<Demand>>,
}

struct Entry {
    tally: Arc<Tally>,
    /// What the tally said when the last window ended.
    counted: u64,
    waiting: u64,
    /// Called from the waiting room since the last window ended.
    called: u64,
}

/// How one that waited left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// For a replica.
    Called,
    /// With nothing.
    Unserved,
}

impl Ledger {
    pub(super) fn new(demand: watch::Sender<Arc<Demand>>) -> Self {
        let (entries, counting) = (Mutex::default(), AtomicBool::new(false));
        Self { entries, counting, first: Notify::new(), demand }
    }

    /// The tally of a revision, for one of its replicas.
    pub(super) fn tally(&self, revision: &RevisionName) -> Arc<Tally> {
        Arc::clone(&entry(&mut self.entries(), revision).tally)
    }

    /// A request was counted. The first one for a revision after a rest is told at once: what is about to go to zero stays.
    pub(super) fn asked(&self, tally: &Tally) {
        if !tally.told.load(Ordering::SeqCst) && !tally.told.swap(true, Ordering::SeqCst) {
            self.tell(&tally.revision, |asked| asked.begun = asked.begun.max(1));
        }
        // It counts first and looks then; one who ends the last window says so first and looks at the counts then: one
        // of the two sees the other.
        if !self.counting.load(Ordering::SeqCst) && !self.counting.swap(true, Ordering::SeqCst) {
            self.first.notify_one();
        }
    }

    /// A request begins to wait; the first one is told at once.
    pub(super) fn wait(&self, revision: &RevisionName) {
        let mut entries = self.entries();
        let entry = entry(&mut entries, revision);
        entry.waiting += 1;
        if entry.waiting == 1 {
            self.tell(revision, |asked| asked.waiting = 1);
        }
        drop(entries);
        if !self.counting.swap(true, Ordering::SeqCst) {
            self.first.notify_one();
        }
    }

    /// A request waits no more; the last one is told at once. Those that were called are told as open with it: until
    /// the window ends, a revision that has just woken for them would look as if nobody asked for it.
    pub(super) fn leave(&self, revision: &RevisionName, how: Left) {
        let mut entries = self.entries();
        let entry = entry(&mut entries, revision);
        entry.waiting = entry.waiting.saturating_sub(1);
        entry.called += u64::from(how == Left::Called);
        if entry.waiting == 0 {
            let called = mem::take(&mut entry.called);
            self.tell(revision, |asked| {
                asked.waiting = 0;
                asked.open += called;
            });
        }
    }

    fn tell(&self, revision: &RevisionName, change: impl FnOnce(&mut Asked)) {
        self.demand.send_modify(|demand| {
            let demand = Arc::make_mut(demand);
            let asked = demand.entry(revision.clone()).or_default();
            change(asked);
            if *asked == Asked::default() {
                demand.remove(revision);
            }
        });
    }

    /// Ends a window; tells whether anybody was there.
    fn end_window(&self, fleet: &Fleet) -> bool {
        let open = fleet.open();
        let mut entries = self.entries();
        let mut demand = Demand::new();
        for (revision, entry) in entries.iter_mut() {
            let begun = entry.end();
            let asked = Asked {
                begun: begun - entry.counted,
                open: open.get(revision).copied().unwrap_or(0),
                waiting: entry.waiting,
            };
            (entry.counted, entry.called) = (begun, 0);
            if asked != Asked::default() {
                demand.insert(revision.clone(), asked);
            }
        }
        entries.retain(|_, entry| entry.is_needed());
        let some = !demand.is_empty();
        self.demand.send_replace(Arc::new(demand));
        some
    }

    /// Counts no more; tells whether it is at rest until somebody rings.
    fn rest(&self) -> bool {
        self.counting.store(false, Ordering::SeqCst);
        let missed = self.entries().values().any(Entry::is_asked);
        // Where the one we missed says first that it goes on, it has rung too.
        !missed || self.counting.swap(true, Ordering::SeqCst)
    }

    /// Requests that ever began.
    #[cfg(test)]
    pub(super) fn begun(&self) -> u64 {
        self.entries().values().map(|entry| entry.tally.begun()).sum()
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<RevisionName, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entry of a revision. A new one has those go that nobody needs any more: revisions come and go, also where
/// nobody ever asks and no window ends.
fn entry<'a>(
    entries: &'a mut BTreeMap<RevisionName, Entry>,
    revision: &RevisionName,
) -> &'a mut Entry {
    if !entries.contains_key(revision) {
        entries.retain(|_, entry| entry.is_needed());
    }
    entries.entry(revision.clone()).or_insert_with(|| {
        let tally = Arc::new(Tally::new(revision.clone()));
        Entry { tally, counted: 0, waiting: 0, called: 0 }
    })
}

impl Entry {
    /// What the tally says at the end of a window. After one without a request the next is told at once again.
    fn end(&self) -> u64 {
        let begun = self.tally.begun();
        if begun != self.counted {
            return begun;
        }
        self.tally.told.store(false, Ordering::SeqCst);
        // One that counted before this and looked before it too is told with this window.
        self.tally.begun()
    }

    fn is_asked(&self) -> bool {
        self.waiting != 0 || self.tally.begun() != self.counted
    }

    fn is_needed(&self) -> bool {
        self.is_asked() || 1 < Arc::strong_count(&self.tally)
    }
}

/// Ends window after window while anybody asks, and sleeps otherwise.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let windows = async {
        loop {
            shared.ledger.first.notified().await;
            loop {
                time::sleep(shared.settings.window).await;
                let some = shared.ledger.end_window(&shared.fleet());
                if !some && shared.ledger.rest() {
                    break;
                }
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => (),
        () = windows => (),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_request_between_the_last_count_and_the_rest_is_not_forgotten() {
        let ledger = Ledger::new(watch::Sender::default());
        let rang = || ledger.first.notified().now_or_never().is_some();
        let tally = ledger.tally(&"hello--1".parse().unwrap());
        tally.count();
        ledger.asked(&tally);
        assert!(rang(), "the first one");
        assert!(ledger.end_window(&Fleet::default()), "it was there");
        // One that is through before the word.
        tally.count();
        ledger.asked(&tally);
        assert!(!ledger.rest() && !rang(), "it is seen");
        // One that has counted and looks after the word.
        assert!(ledger.end_window(&Fleet::default()) && !ledger.end_window(&Fleet::default()));
        tally.count();
        assert!(!ledger.rest(), "it is seen");
        ledger.asked(&tally);
        assert!(!rang(), "a window is open");
        // One that comes later.
        assert!(ledger.end_window(&Fleet::default()) && ledger.rest());
        tally.count();
        ledger.asked(&tally);
        assert!(rang(), "nobody else would see it");
    }

    #[test]
    fn revisions_that_come_and_go_leave_nothing_behind() {
        let ledger = Ledger::new(watch::Sender::default());
        for number in 0..100 {
            drop(ledger.tally(&format!("hello--{number}").parse().unwrap()));
        }
        assert_eq!(ledger.entries().len(), 1);
    }
}
