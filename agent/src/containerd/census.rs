//! What containerd tells of itself, for whoever looks at the board beside a running agent.

use std::collections::BTreeSet;

use containerd_client::services::v1::{ListContainersRequest, PluginsRequest};

use super::connection::{Connection, failed};
use super::shims;
use crate::config;
use crate::runtime::RuntimeError;

/// What there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Census {
    /// Such as `1.7.24`.
    pub version: String,
    /// The snapshotters that work.
    pub snapshotters: Vec<String>,
    /// Shims of our containers that serve none: their process ids.
    pub orphans: Vec<i32>,
}

/// Asks the containerd of this configuration. A deadline is the caller's.
pub async fn census(config: &config::Containerd) -> Result<Census, RuntimeError> {
    let connection = Connection::new(config.address.clone(), config.namespace.clone());
    let client = connection.client().await?;
    let version = client.version().version(connection.request(())).await;
    let version = version.map_err(|status| failed("ask for the version", &status))?.into_inner();
    let filters = vec!["type==io.containerd.snapshotter.v1".to_owned()];
    let request = connection.request(PluginsRequest { filters });
    let plugins = client.introspection().plugins(request).await;
    let plugins =
        plugins.map_err(|status| failed("list snapshotters", &status))?.into_inner().plugins;
    let request = connection.request(ListContainersRequest::default());
    let listed = client.containers().list(request).await;
    let listed = listed.map_err(|status| failed("list containers", &status))?.into_inner();
    let known: BTreeSet<String> = listed.containers.into_iter().map(|one| one.id).collect();
    // Only root sees how others were started; nobody else sees any.
    let idle = shims::idle(&config.namespace).unwrap_or_default();
    Ok(Census {
        version: version.version.trim_start_matches('v').to_owned(),
        snapshotters: plugins
            .into_iter()
            .filter(|one| one.init_err.is_none())
            .map(|one| one.id)
            .collect(),
        orphans: idle
            .into_iter()
            .filter(|shim| !known.contains(&shim.id))
            .map(|shim| shim.pid)
            .collect(),
    })
}
