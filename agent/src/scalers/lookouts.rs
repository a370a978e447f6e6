//! From where the hosts of documents are dialled: one place per environment, open while a rule needs it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use domain::model::EnvironmentName;
use tokio::net::TcpStream;
use tokio::sync::Mutex as AsyncMutex;
use tokio_rustls::TlsConnector;
use tracing::debug;

use crate::broker::{Access, AccessError, Credentials};
use crate::clock::Clock;
use crate::dial::{Elsewhere, Obstacle, tls};
use crate::network::{Lookout, Vantage};

/// The lookouts of the environments.
pub(super) struct Lookouts<L> {
    lookout: L,
    clock: Clock,
    needed: Mutex<BTreeSet<EnvironmentName>>,
    /// Held while one is opened or closed, so that what is closed is not needed.
    open: AsyncMutex<BTreeMap<EnvironmentName, Vantage>>,
}

impl<L: Lookout> Lookouts<L> {
    pub(super) fn new(lookout: L, clock: Clock) -> Self {
        Self { lookout, clock, needed: Mutex::default(), open: AsyncMutex::default() }
    }

    /// Takes note of those that rules need from now on; tells whether fewer are needed than before.
    pub(super) fn need(&self, needed: BTreeSet<EnvironmentName>) -> bool {
        let mut known = self.needed.lock().unwrap_or_else(PoisonError::into_inner);
        let fewer = !known.is_subset(&needed);
        *known = needed;
        fewer
    }

    fn is_needed(&self, environment: &EnvironmentName) -> bool {
        self.needed.lock().unwrap_or_else(PoisonError::into_inner).contains(environment)
    }

    /// Closes those that no rule needs.
    pub(super) async fn close_idle(&self) {
        let mut open = self.open.lock().await;
        let idle: Vec<EnvironmentName> =
            open.keys().filter(|environment| !self.is_needed(environment)).cloned().collect();
        for environment in idle {
            open.remove(&environment);
            if let Err(error) = self.lookout.close(&environment).await {
                debug!(%environment, %error, "a lookout stays; it goes with its environment");
            }
        }
    }

    /// A connection from the network of `environment`. The error says what is in the way.
    pub(super) async fn dial(
        &self,
        environment: &EnvironmentName,
        host: &str,
        port: u16,
    ) -> Result<TcpStream, String> {
        let from = self.vantage(environment).await?;
        let elsewhere = Elsewhere { from, host: host.to_owned(), port };
        match elsewhere.connect().await {
            Ok((stream, _)) => Ok(stream),
            Err(obstacle) => {
                // Somebody may have taken it away, or the environment has moved: it is looked at before the next one.
                self.open.lock().await.remove(environment);
                Err(match obstacle {
                    Obstacle::Ours(error) => format!("no way out of {environment}: {error}"),
                    Obstacle::Theirs(error) if error.raw_os_error().is_some() => {
                        error.kind().to_string()
                    }
                    Obstacle::Theirs(error) => error.to_string(),
                })
            }
        }
    }

    /// TLS to whom the system trusts.
    pub(super) async fn to_the_known(&self) -> Result<TlsConnector, String> {
        tls::to_the_known(self.clock).await
    }

    /// The agent's own credentials at the broker of its control plane.
    pub(super) async fn own(&self, access: &Access) -> Result<Credentials, AccessError> {
        Credentials::read(access, self.clock).await
    }

    async fn vantage(&self, environment: &EnvironmentName) -> Result<Vantage, String> {
        let mut open = self.open.lock().await;
        if let Some(vantage) = open.get(environment) {
            return Ok(vantage.clone());
        }
        let opened = self.lookout.open(environment).await.map_err(|error| error.to_string())?;
        open.insert(environment.clone(), opened.clone());
        Ok(opened)
    }
}
