//! `skerry agent --drain`: stops every app and takes the networks down, without a running agent. What is desired stays
//! stored, so the next start of the agent brings it all back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tracing::{info, warn};

use super::{AgentError, containerd};
use crate::clock::Clock;
use crate::config::Config;
use crate::netlink::Netlink;
use crate::network::Network as _;
use crate::runtime::Runtime as _;

/// ACA's grace; what an app's document says of it is not looked up for the end of all.
const GRACE: Duration = Duration::from_secs(30);

/// Stops all replicas at once and removes what held them.
pub(super) async fn drain(config: &Config) -> Result<(), AgentError> {
    let (runtime, ..) = containerd(config, Clock::default())?;
    let network = Netlink::new(
        config,
        [80],
        watch::channel(Arc::default()).1,
        watch::channel(Arc::default()).1,
    );
    let replicas = runtime.observe().await.map_err(AgentError::Drain)?;
    info!(replicas = replicas.len(), "draining");
    let stops = replicas.keys().map(|replica| {
        let (runtime, network) = (&runtime, &network);
        async move {
            let stopped = runtime.stop(replica, GRACE).await;
            if let Err(error) = &stopped {
                warn!(%replica, %error, "cannot stop");
            }
            let detached = network.detach(replica).await;
            if let Err(error) = &detached {
                warn!(%replica, %error, "cannot take the network down");
            }
            stopped.is_ok() && detached.is_ok()
        }
    });
    let left = join_all(stops).await.into_iter().filter(|done| !done).count();
    if let Err(error) = network.settle(&BTreeMap::new()).await {
        warn!(%error, "cannot take the networks down");
    }
    if left == 0 { Ok(()) } else { Err(AgentError::DrainLeft(left)) }
}
