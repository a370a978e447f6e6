//! One connection to containerd, and what every call needs: the namespace, a deadline, and a lease where there is one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use containerd_client::Client;
use containerd_client::services::v1 as services;
use containerd_client::tonic::transport::Channel;
use containerd_client::tonic::{Code, Request, Status};
use domain::reason::Reason;
use domain::replica::Trouble;
use tokio::sync::OnceCell;

use crate::report::Chain;
use crate::runtime::RuntimeError;

/// A call that takes longer has failed: containerd hangs, or the disk does.
const DEADLINE: Duration = Duration::from_secs(30);

/// A connection that is made at the first call and that heals by itself.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
    lease: Option<String>,
}

struct Shared {
    socket: PathBuf,
    namespace: String,
    channel: OnceCell<Channel>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("socket", &self.shared.socket).finish_non_exhaustive()
    }
}

impl Connection {
    /// A connection to be; nothing is dialled yet.
    pub fn new(socket: PathBuf, namespace: String) -> Self {
        Self {
            shared: Arc::new(Shared { socket, namespace, channel: OnceCell::new() }),
            lease: None,
        }
    }

    /// The client, connected.
    pub async fn client(&self) -> Result<Client, RuntimeError> {
        let channel = self.shared.channel.get_or_try_init(|| async {
            containerd_client::connect(&self.shared.socket)
                .await
                .map_err(|error| unreachable_socket(&self.shared.socket, &error))
        });
        Ok(Client::from(channel.await?.clone()))
    }

    /// A request with namespace, lease and deadline.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = self.endless(message);
        request.set_timeout(DEADLINE);
        request
    }

    /// A request without a deadline, for calls that wait: `Wait`, `Subscribe`, content streams.
    pub fn endless<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let headers = request.metadata_mut();
        let ascii = "namespaces and leases are made of letters, digits and dashes";
        headers.insert("containerd-namespace", self.shared.namespace.parse().expect(ascii));
        if let Some(lease) = &self.lease {
            headers.insert("containerd-lease", lease.parse().expect(ascii));
        }
        request
    }

    /// The same connection, and what it makes stays until the lease is given back or `expires` (RFC 3339) comes.
    pub async fn leased(&self, id: &str, expires: String) -> Result<Self, RuntimeError> {
        let labels = BTreeMap::from([("containerd.io/gc.expire".to_owned(), expires)]);
        let request =
            services::CreateRequest { id: id.to_owned(), labels: labels.into_iter().collect() };
        match self.client().await?.leases().create(self.request(request)).await {
            Ok(_) => (),
            Err(status) if status.code() == Code::AlreadyExists => (),
            Err(status) => return Err(failed("create a lease", &status)),
        }
        Ok(self.under(id))
    }

    /// The same connection under a lease that is there.
    #[must_use]
    pub fn under(&self, id: &str) -> Self {
        Self { shared: Arc::clone(&self.shared), lease: Some(id.to_owned()) }
    }

    /// Gives the lease back. What nothing refers to is collected by containerd in its own time.
    pub async fn release(&self) -> Result<(), RuntimeError> {
        self.end_lease(Collect::Later).await
    }

    /// Gives the lease back and waits until all that only it kept is gone from the disk.
    pub async fn discard(&self) -> Result<(), RuntimeError> {
        self.end_lease(Collect::Now).await
    }

    async fn end_lease(&self, collect: Collect) -> Result<(), RuntimeError> {
        let Some(id) = self.lease.clone() else { return Ok(()) };
        let sync = matches!(collect, Collect::Now);
        let request = self.request(services::DeleteRequest { id, sync });
        match self.client().await?.leases().delete(request).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::NotFound => Ok(()),
            Err(status) => Err(failed("give a lease back", &status)),
        }
    }
}

/// When containerd looks for what nothing refers to.
#[derive(Debug, Clone, Copy)]
enum Collect {
    Now,
    Later,
}

fn unreachable_socket(socket: &Path, error: &(dyn std::error::Error + 'static)) -> RuntimeError {
    let details = format!("{}: {}", socket.display(), Chain(error));
    // The client's error hides the cause: the socket itself tells rights from absence.
    match nix::unistd::access(socket, nix::unistd::AccessFlags::W_OK) {
        Err(nix::errno::Errno::EACCES) => RuntimeError::Forbidden(details),
        Ok(()) | Err(_) => RuntimeError::Unavailable(details),
    }
}

/// The disk has no room: of containerd, or of what it runs.
pub fn is_full(status: &Status) -> bool {
    status.message().contains("no space left on device")
}

/// What a refused call means: containerd is away, or this one thing cannot be done.
pub fn failed(doing: &str, status: &Status) -> RuntimeError {
    let details = format!("cannot {doing}: {}", status.message());
    if is_full(status) {
        return RuntimeError::Failed(Trouble { reason: Reason::StorageFull, details });
    }
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
            RuntimeError::Unavailable(details)
        }
        Code::PermissionDenied => RuntimeError::Forbidden(details),
        Code::Ok
        | Code::Unknown
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => {
            RuntimeError::Failed(Trouble { reason: Reason::ContainerdFailed, details })
        }
    }
}
