//! Work that a dead disk or network may keep for ever, on threads of its own, and few of them.
//!
//! A thread that waits in the kernel cannot be ended. So none of the runtime's is lent to such work, where others would
//! wait behind it: the store, for one. And nothing that hangs is tried again beside itself.

use std::collections::BTreeMap;
use std::io;
use std::thread;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{oneshot, watch};
use tokio::time;

/// At most so many of these threads at a time.
const MOST: usize = 3;

/// Why there is no result.
#[derive(Debug, Error)]
pub(super) enum NoResult {
    #[error("no answer in {0:?}")]
    Late(Duration),
    #[error("an earlier try hangs still; its disk or file system does not answer")]
    Hangs,
    #[error("cannot start a thread: {0}")]
    NoThread(#[from] io::Error),
    #[error("the thread panicked")]
    Panicked,
}

/// The threads of one kind of work. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Threads {
    name: &'static str,
    limit: Duration,
    /// What is worked on, and whether that takes longer than it may.
    busy: watch::Sender<BTreeMap<String, bool>>,
}

/// The right to work on something: given back by the thread itself, whenever it ends.
struct Seat {
    about: String,
    busy: watch::Sender<BTreeMap<String, bool>>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.busy.send_modify(|busy| {
            busy.remove(&self.about);
        });
    }
}

impl Threads {
    /// Threads of this name, each of which is waited for so long.
    pub(super) fn new(name: &'static str, limit: Duration) -> Self {
        Self { name, limit, busy: watch::Sender::default() }
    }

    /// Does `work`, after what else is done about the same. Refused where that hangs, or where all threads do.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        about: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoResult> {
        let ended = async {
            let seat = self.seat(about).await?;
            let (done, result) = oneshot::channel();
            thread::Builder::new().name(self.name.to_owned()).spawn(move || {
                let result = work();
                // First, so that whoever is told finds it free. And nobody may be there to be told.
                drop(seat);
                let _ = done.send(result);
            })?;
            result.await.map_err(|_| NoResult::Panicked)
        };
        if let Ok(ended) = time::timeout(self.limit, ended).await {
            return ended;
        }
        self.busy.send_if_modified(|busy| {
            let found = busy.get_mut(about).filter(|late| !**late);
            found.map(|late| *late = true).is_some()
        });
        Err(NoResult::Late(self.limit))
    }

    async fn seat(&self, about: &str) -> Result<Seat, NoResult> {
        let mut changes = self.busy.subscribe();
        loop {
            let mut hangs = false;
            let taken = self.busy.send_if_modified(|busy| {
                let late = busy.values().filter(|late| **late).count();
                hangs = busy.get(about) == Some(&true) || MOST <= late;
                let free = !busy.contains_key(about) && busy.len() < MOST;
                if free {
                    busy.insert(about.to_owned(), false);
                }
                free
            });
            if taken {
                return Ok(Seat { about: about.to_owned(), busy: self.busy.clone() });
            }
            if hangs || changes.changed().await.is_err() {
                return Err(NoResult::Hangs);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const NOT_LONG: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_mins(1);

    /// Threads that are waited for shortly, and the same ones waited for long.
    fn threads() -> (Threads, Threads) {
        let hasty = Threads::new("test", NOT_LONG);
        (hasty.clone(), Threads { limit: LONG, ..hasty })
    }

    /// Keeps a thread until the sender is dropped.
    async fn hang(hasty: &Threads, about: &str) -> mpsc::Sender<()> {
        let (release, held) = mpsc::channel::<()>();
        let hung = hasty.run(about, move || held.recv().is_err()).await;
        assert!(matches!(hung, Err(NoResult::Late(_))), "{hung:?}");
        release
    }

    #[tokio::test]
    async fn what_hangs_is_not_tried_beside_itself_and_is_free_when_it_ends() {
        let (hasty, patient) = threads();
        let release = hang(&hasty, "a").await;
        assert!(matches!(patient.run("a", || ()).await, Err(NoResult::Hangs)));
        assert_eq!(patient.run("b", || 5).await.unwrap(), 5);
        let mut busy = patient.busy.subscribe();
        drop(release);
        busy.wait_for(BTreeMap::is_empty).await.unwrap();
        assert_eq!(patient.run("a", || 6).await.unwrap(), 6);
    }

    #[tokio::test]
    async fn where_all_threads_hang_the_next_is_refused_at_once() {
        let (hasty, patient) = threads();
        let held = [hang(&hasty, "a").await, hang(&hasty, "b").await, hang(&hasty, "c").await];
        assert!(matches!(patient.run("d", || ()).await, Err(NoResult::Hangs)));
        let mut busy = patient.busy.subscribe();
        drop(held);
        busy.wait_for(BTreeMap::is_empty).await.unwrap();
        patient.run("d", || ()).await.unwrap();
    }

    #[tokio::test]
    async fn work_about_the_same_waits_for_its_turn() {
        let (_, patient) = threads();
        let (release, held) = mpsc::channel::<()>();
        let first = patient.run("a", move || held.recv().is_err());
        let second = patient.run("a", || true);
        let third = patient.run("b", move || drop(release));
        let (first, second, third) = tokio::join!(first, second, third);
        assert_eq!((first.unwrap(), second.unwrap()), (true, true));
        third.unwrap();
    }

    #[tokio::test]
    async fn a_panic_is_told_and_leaves_the_thread_to_others() {
        let (_, patient) = threads();
        let lost = patient.run("a", || panic!("on purpose")).await;
        assert!(matches!(lost, Err(NoResult::Panicked)));
        patient.run("a", || ()).await.unwrap();
    }
}
