//! What the loop needs of durable state.

use domain::replica::Trouble;

/// How the store fails.
#[derive(Debug, thiserror::Error)]
#[error("{}: {}", .0.reason, .0.details)]
pub struct StoreError(pub Trouble);
