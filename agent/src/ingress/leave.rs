//! How a replica leaves: who wants to stop it learns when nothing of it is open any more.
//!
//! Nobody polls: the table tells that it changed, the last request of a replica that left rings a bell. While nobody
//! waits, a request costs one look more than without.

use std::future::pending;
use std::sync::Arc;

use domain::model::ReplicaName;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::fleet::Shared;
use crate::drain::Drain;

/// The way out of the ingress.
#[derive(Debug)]
pub(super) struct Leave(pub(super) Arc<Shared>);

impl Drain for Leave {
    fn drained(&self, replica: &ReplicaName) -> BoxFuture<'static, ()> {
        drained(Arc::clone(&self.0), replica.clone()).boxed()
    }
}

async fn drained(shared: Arc<Shared>, replica: ReplicaName) {
    let mut routes = shared.routes();
    loop {
        routes.mark_unchanged();
        let fleet = shared.fleet();
        if fleet.upstreams.contains_key(&replica) {
            drop(fleet);
            if routes.changed().await.is_err() {
                // The loop is gone, and the last table holds for ever.
                pending::<()>().await;
            }
            continue;
        }
        let open = fleet.leaving.iter().find(|(name, one)| *name == replica && one.open() != 0);
        let Some(open) = open.map(|(_, upstream)| Arc::clone(upstream)) else { return };
        drop(fleet);
        open.finished().await;
    }
}
