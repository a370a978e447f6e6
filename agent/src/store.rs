//! What the loop needs of durable state.

use domain::event::Event;
use domain::replica::Trouble;
use domain::state::{Changes, State};

/// Durable state, in the words of the domain.
pub trait Store: Send + 'static {
    /// Makes the changes durable: once this returns `Ok`, no power cut undoes them. On an error nothing has changed
    /// that a later start could see, and the same changes may be tried again.
    fn commit(&mut self, changes: &Changes) -> Result<(), StoreError>;
}

/// What was found at start.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Loaded {
    /// Apps, jobs and counters.
    pub state: State,
    /// Events that the control plane has not acknowledged, oldest first.
    pub outbox: Vec<Event>,
    /// The store would not open and was rebuilt; in words, for an event.
    pub rebuilt: Option<String>,
    /// Secrets whose values could not be opened: whose, and their names.
    pub lost_secrets: Vec<(String, String)>,
}

/// How the store fails.
#[derive(Debug, thiserror::Error)]
#[error("{}: {}", .0.reason, .0.details)]
pub struct StoreError(pub Trouble);
