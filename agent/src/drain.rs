//! What the loop needs of whoever serves requests: word that a replica has nothing open any more.
//!
//! It asks nothing to end: what is open ends by itself, or with the replica once its grace is over.

use std::fmt;

use domain::model::ReplicaName;
use futures_util::future::BoxFuture;

/// Tells when a replica may go.
pub trait Drain: fmt::Debug + Send + Sync + 'static {
    /// Comes back once `replica` is picked for no request any more and none of its requests, streams and upgraded
    /// connections is open. It waits for the routes too, so whoever asks has published them without the replica.
    fn drained(&self, replica: &ReplicaName) -> BoxFuture<'static, ()>;
}
