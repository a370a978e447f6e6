//! Images that nobody needs: looked through now and then, and told of when any went.

use std::time::Duration;

use domain::keep::{Cleared, Clearing, Extent, Needs};
use domain::model::Moment;
use domain::reason::Reason;
use futures_util::FutureExt as _;
use tracing::warn;

use super::act::lost;
use super::{Deed, Outcome, Reconciler};
use crate::network::Network;
use crate::report::Chain;
use crate::runtime::{Runtime, RuntimeError};
use crate::store::Store;

/// After the agent's start: what starts with it has the board for itself.
pub(super) const FIRST: Duration = Duration::from_mins(5);

/// Between two looks: ages are told in days, and what has no room calls by itself.
const EVERY: Duration = Duration::from_hours(1);

/// Between two looks for somebody without room.
const AGAIN: Duration = Duration::from_mins(1);

/// Names in an event: more of them nobody reads.
const NAMED: usize = 5;

impl<R: Runtime, N: Network, S: Store> Reconciler<R, N, S> {
    /// Looks through the images when it is time to.
    pub(super) fn clear_images(&mut self, now: Moment) {
        if self.clearing.busy || now < self.clearing.at {
            return;
        }
        self.clearing.busy = true;
        self.clearing.at = now.after(EVERY);
        let order = Clearing { needs: Needs::of(&self.state), as_of: now, extent: Extent::Routine };
        let runtime = self.runtime.clone();
        let lost = Outcome::Cleared(Err(RuntimeError::Failed(lost("clearing"))));
        let clear = async move { Outcome::Cleared(runtime.clear(order).await) };
        self.begin(Deed { name: "clear", work: clear.boxed(), lost });
    }

    /// An image has no room: they are looked through at once, but not again and again in vain.
    pub(super) fn make_room(&mut self, now: Moment) {
        let last = self.clearing.room_at;
        if last.is_none_or(|last| AGAIN <= now.since(last)) {
            self.clearing.room_at = Some(now);
            self.clearing.at = now;
        }
    }

    pub(super) fn images_cleared(&mut self, result: Result<Cleared, RuntimeError>) {
        self.clearing.busy = false;
        match result {
            Ok(cleared) => self.tell_cleared(&cleared),
            Err(error) => warn!(error = %Chain(&error), "images are not looked through"),
        }
    }

    fn tell_cleared(&mut self, cleared: &Cleared) {
        if cleared.removed.is_empty() {
            return;
        }
        self.memory.room_came();
        let names = cleared.removed.iter().take(NAMED);
        let mut words: Vec<String> =
            names.map(|image| format!("{} ({})", image.name, image.cause.word())).collect();
        if NAMED < cleared.removed.len() {
            words.push(format!("{} more", cleared.removed.len() - NAMED));
        }
        let message = format!("{}; {} MiB free by that", words.join(", "), cleared.freed >> 20);
        self.emit(Reason::ImagesRemoved, None, None, None, message);
    }
}
