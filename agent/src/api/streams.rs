//! Answers that go on: events, and the state of one app.
//!
//! Both follow levels. Nothing is kept for a slow caller: it gets the newest state when it is ready for it.

use std::collections::VecDeque;
use std::sync::Arc;

use domain::event::Event;
use domain::status::Statuses;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream, Stream};
use skerry_proto::v1;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::wire;

/// What a streaming call answers with.
pub(super) type Answers<T> = BoxStream<'static, Result<T, Status>>;

/// `answers`, until the agent stops.
pub(super) fn until<T: 'static>(
    stop: CancellationToken,
    answers: impl Stream<Item = Result<T, Status>> + Send + 'static,
) -> Answers<T> {
    answers.take_until(stop.cancelled_owned()).boxed()
}

/// What a stream of events has to remember.
struct Events {
    recent: watch::Receiver<Arc<Vec<Event>>>,
    /// Shown up to this number.
    shown: Option<u64>,
    /// Seen and not shown yet.
    waiting: VecDeque<v1::Event>,
    follow: bool,
}

/// The latest events, oldest first; with `follow` also those to come.
pub(super) fn events(
    mut recent: watch::Receiver<Arc<Vec<Event>>>,
    follow: bool,
) -> impl Stream<Item = Result<v1::Event, Status>> + Send + 'static {
    // The first look counts as a change, an empty list too.
    recent.mark_changed();
    let start = Events { recent, shown: None, waiting: VecDeque::new(), follow };
    stream::unfold(start, |mut events| async move {
        loop {
            if let Some(event) = events.waiting.pop_front() {
                return Some((Ok(event), events));
            }
            if !events.follow && !events.recent.has_changed().unwrap_or(false) {
                return None;
            }
            events.recent.changed().await.ok()?;
            events.look();
        }
    })
}

impl Events {
    fn look(&mut self) {
        let recent = Arc::clone(&self.recent.borrow_and_update());
        let fresh = recent.iter().filter(|event| self.shown.is_none_or(|shown| shown < event.id));
        self.waiting.extend(fresh.map(wire::event));
        self.shown = self.shown.max(recent.iter().map(|event| event.id).max());
    }
}

/// The state of one app, and again whenever it changes. An app that is not there yet is waited for: whoever has just
/// applied a document may be faster than the next round. Its removal is the end.
pub(super) fn app(
    mut statuses: watch::Receiver<Arc<Statuses>>,
    name: String,
) -> impl Stream<Item = Result<v1::AppStatus, Status>> + Send + 'static {
    statuses.mark_changed();
    stream::unfold((statuses, name, None), |(mut statuses, name, last)| async move {
        loop {
            statuses.changed().await.ok()?;
            let now = statuses.borrow_and_update().apps.get(&name).map(wire::app);
            match (now, &last) {
                (None, None) => (),
                (None, Some(_)) => return None,
                (Some(now), Some(last)) if now == *last => (),
                (Some(now), _) => return Some((Ok(now.clone()), (statuses, name, Some(now)))),
            }
        }
    })
}
