//! What the loop needs of a container runtime. `containerd` is one; a map is another.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::keep::{Cleared, Clearing};
use domain::model::ReplicaName;
use domain::replica::{
    Executed, FetchOrder, Listener, ObservedReplica, ReplicaOrder, ResolvedImage, Survey, Trouble,
};

/// A container runtime, in the words of the domain.
///
/// Clones share one connection. Every verb may be called again after it failed or was cut short, and by then does
/// only what is left to do.
pub trait Runtime: Clone + Send + Sync + 'static {
    /// Every replica there is a record of, of this boot or an earlier one.
    fn observe(
        &self,
    ) -> impl Future<Output = Result<BTreeMap<ReplicaName, ObservedReplica>, RuntimeError>> + Send;

    /// Makes the images local and unpacked, and says which bits each reference stands for.
    fn fetch(
        &self,
        order: FetchOrder,
    ) -> impl Future<Output = Result<Vec<ResolvedImage>, RuntimeError>> + Send;

    /// Removes images that nobody needs: by age, for want of room, or all of them where the order says so.
    fn clear(&self, order: Clearing) -> impl Future<Output = Result<Cleared, RuntimeError>> + Send;

    /// Makes the records and root file systems of a replica's containers. Needs no network yet.
    fn create(&self, order: &ReplicaOrder)
    -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Runs the init containers in order and makes the processes of the others without starting them, in the network
    /// namespace of the order: a start has next to nothing left to do. What runs already is left as it is.
    fn arm(&self, order: &ReplicaOrder) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Runs the init containers in order, then starts the others, in the network namespace of the order. Those of an
    /// armed replica are started as they are, and a frozen one is thawed.
    fn start(&self, order: &ReplicaOrder) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Pauses a running replica: none of its processes makes progress until it is thawed, also if the agent goes away.
    /// Its memory is offered back to the board where the kernel can take it. Waits for commands in its containers to
    /// end, and begins none until it is thawed. An error leaves it thawed.
    fn freeze(
        &self,
        replica: &ReplicaName,
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Lets a frozen replica go on where it was paused; one that is not frozen is left as it is.
    fn thaw(&self, replica: &ReplicaName) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Starts one container of a running replica afresh: a new root file system, the same network and volumes. One that
    /// still runs gets SIGTERM, and SIGKILL after `grace`. A frozen replica is thawed first, all of it.
    fn restart(
        &self,
        order: &ReplicaOrder,
        container: &str,
        grace: Duration,
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// SIGTERM, SIGKILL after `grace`, then removes everything of the replica but its network. Zero kills at once. A frozen
    /// replica is thawed first; containers that were never started are removed without asking them.
    fn stop(
        &self,
        replica: &ReplicaName,
        grace: Duration,
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Measures the board, and these replicas on it.
    fn survey(
        &self,
        replicas: Vec<ReplicaName>,
    ) -> impl Future<Output = Result<Survey, RuntimeError>> + Send;

    /// What those of these replicas that stand by hold of the board's memory, in bytes.
    fn held(&self, observed: &BTreeMap<ReplicaName, ObservedReplica>)
    -> BTreeMap<ReplicaName, u64>;

    /// The TCP ports on which something in a replica listens, in order; none where nothing of it runs.
    fn listening(
        &self,
        replica: &ReplicaName,
    ) -> impl Future<Output = Result<Vec<Listener>, RuntimeError>> + Send;
}

/// Runs commands in containers. Apart from [`Runtime`], as the prober needs nothing else of it.
pub trait Exec: Clone + Send + Sync + 'static {
    /// Runs a command beside a container's process and waits for its end; past `limit` it is killed, which is an error.
    /// In a frozen container none is begun: that is [`RuntimeError::Unavailable`], as it tells nothing of the app.
    fn exec(
        &self,
        replica: &ReplicaName,
        container: &str,
        command: &[String],
        limit: Duration,
    ) -> impl Future<Output = Result<Executed, RuntimeError>> + Send;
}

/// Measures what replicas use. Apart from [`Runtime`], as the samplers need nothing else of it.
pub trait Meter: Clone + Send + Sync + 'static {
    /// What each of these replicas uses now; one of which nothing runs is not listed.
    fn usage(
        &self,
        replicas: Vec<ReplicaName>,
    ) -> impl Future<Output = Result<BTreeMap<ReplicaName, Usage>, RuntimeError>> + Send;
}

/// What a replica uses, all its containers together, and what it may use at most.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Usage {
    /// Processor time since its containers started, in nanoseconds. Falls when one is started afresh.
    pub cpu_nanos: u64,
    /// In cores; all of the board's where there is no limit.
    pub cpu_limit_cores: f64,
    /// The working set, in bytes: memory less what the kernel can drop at once.
    pub memory_bytes: u64,
    /// In bytes; all of the board's where there is no limit.
    pub memory_limit_bytes: u64,
}

/// How a runtime fails, told apart by what the loop does about it.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// Passing, and not the app's fault: try the same again after a back-off, for everyone.
    #[error("containerd is unavailable: {0}")]
    Unavailable(String),
    /// The socket cannot be opened for lack of rights.
    #[error("no rights to the socket of containerd: {0}")]
    Forbidden(String),
    /// This one order failed: tell, and try again after its own back-off.
    #[error("{}: {}", .0.reason, .0.details)]
    Failed(Trouble),
}

impl RuntimeError {
    /// The reason and details for a status.
    pub fn trouble(&self) -> Trouble {
        match self {
            Self::Unavailable(details) => Trouble {
                reason: domain::reason::Reason::ContainerdUnavailable,
                details: details.clone(),
            },
            Self::Forbidden(details) => Trouble {
                reason: domain::reason::Reason::ContainerdForbidden,
                details: details.clone(),
            },
            Self::Failed(trouble) => trouble.clone(),
        }
    }
}
