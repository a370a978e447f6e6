//! What was sent on this connection and is not acknowledged yet.
//!
//! The client library gives a message its packet id only when it writes it, and tells in the order in which messages
//! were handed over: the ledger joins the two, so that an event leaves the outbox at its own acknowledgement.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore};

/// Messages of ours that may be unacknowledged at a time. Half of what the packet ids allow, so that ids never collide.
const WINDOW: usize = 8;

/// What a message was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// A level: if it is lost, the next connection says it again.
    Level,
    /// The event with this number.
    Event(u64),
    /// The last word of this connection.
    Farewell,
}

/// What is under way.
#[derive(Debug)]
pub(super) struct Ledger {
    books: Mutex<Books>,
    window: Semaphore,
    /// An event was acknowledged.
    pub(super) delivered: Notify,
    /// The last word was acknowledged.
    pub(super) farewell: Notify,
}

#[derive(Debug, Default)]
struct Books {
    handed_over: VecDeque<Sent>,
    in_flight: BTreeMap<u16, Sent>,
    delivered: Vec<u64>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            books: Mutex::default(),
            window: Semaphore::new(WINDOW),
            delivered: Notify::new(),
            farewell: Notify::new(),
        }
    }
}

impl Ledger {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until one more message may be under way.
    pub(super) async fn admit(&self) {
        if let Ok(permit) = self.window.acquire().await {
            // Given back at its acknowledgement.
            permit.forget();
        }
    }

    /// A message is handed to the client.
    pub(super) fn handed_over(&self, sent: Sent) {
        self.books().handed_over.push_back(sent);
    }

    /// The client wrote the oldest of those handed over, under this id.
    pub(super) fn written(&self, packet: u16) {
        let mut books = self.books();
        if let Some(sent) = books.handed_over.pop_front() {
            books.in_flight.insert(packet, sent);
        }
    }

    /// The broker has it, or will not take it (`taken` is false): the event then stays for the next connection.
    pub(super) fn acknowledged(&self, packet: u16, taken: bool) {
        let mut books = self.books();
        match books.in_flight.remove(&packet) {
            Some(Sent::Farewell) => self.farewell.notify_one(),
            Some(Sent::Level) => self.window.add_permits(1),
            Some(Sent::Event(id)) => {
                self.window.add_permits(1);
                if taken {
                    books.delivered.push(id);
                    self.delivered.notify_one();
                }
            }
            None => {}
        }
    }

    /// An event that no broker will ever take is as good as delivered: it must not stand before the others for ever.
    pub(super) fn given_up(&self, event: u64) {
        self.books().delivered.push(event);
        self.delivered.notify_one();
    }

    /// The events acknowledged since this was last asked.
    pub(super) fn take_delivered(&self) -> Vec<u64> {
        mem::take(&mut self.books().delivered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_delivered_at_its_own_acknowledgement_only() {
        let ledger = Ledger::default();
        for sent in [Sent::Event(7), Sent::Level, Sent::Event(8)] {
            ledger.handed_over(sent);
        }
        for packet in [1, 2, 3] {
            ledger.written(packet);
        }
        ledger.acknowledged(2, true);
        assert!(ledger.take_delivered().is_empty());
        ledger.acknowledged(3, true);
        assert_eq!(ledger.take_delivered(), [8]);
        ledger.acknowledged(1, false);
        ledger.acknowledged(9, true);
        assert!(ledger.take_delivered().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_the_window_is_under_way() {
        let ledger = Ledger::default();
        for packet in 1..=8 {
            ledger.admit().await;
            ledger.handed_over(Sent::Level);
            ledger.written(packet);
        }
        let hour = std::time::Duration::from_hours(1);
        assert!(tokio::time::timeout(hour, ledger.admit()).await.is_err());
        ledger.acknowledged(5, true);
        ledger.admit().await;
    }
}
