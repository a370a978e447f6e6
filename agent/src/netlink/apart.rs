//! Work on a thread of its own.
//!
//! A thread belongs to a network and a mount namespace, and changing them is for ever. So whatever changes them runs
//! on a thread that ends with the work, never on one of the runtime's.

use std::io;
use std::pin::pin;
use std::thread;
use std::time::Duration;

use rtnetlink::Handle;
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::time;

use super::error::NetlinkError;

/// Longest time that any work of this kind may take. The kernel answers in milliseconds; half a minute is for a board
/// whose CPU is all taken.
const DEADLINE: Duration = Duration::from_secs(30);

/// Runs `work` on its own thread and waits for what it returns.
pub(super) async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetlinkError> + Send + 'static,
) -> Result<T, NetlinkError> {
    let (done, result) = oneshot::channel();
    thread::Builder::new()
        .name("network".to_owned())
        .spawn(move || {
            // Whoever asked may have given up: then nobody is there to be told.
            let _ = done.send(work());
        })
        .map_err(NetlinkError::doing("start a thread"))?;
    match time::timeout(DEADLINE, result).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(NetlinkError::doing("finish the work on the network")(io::Error::other(
            "its thread panicked",
        ))),
        Err(_) => Err(NetlinkError::Late(DEADLINE.as_secs())),
    }
}

/// Runs `work` to its end on this thread, which must not be one of the runtime's.
pub(super) fn wait<T>(
    work: impl Future<Output = Result<T, NetlinkError>>,
) -> Result<T, NetlinkError> {
    runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(NetlinkError::doing("make a runtime"))?
        .block_on(work)
}

/// Runs `work` with a connection to the kernel, in the network namespace that this thread is in now.
pub(super) fn connected<T>(
    work: impl AsyncFnOnce(Handle) -> Result<T, NetlinkError>,
) -> Result<T, NetlinkError> {
    wait(async {
        let (connection, handle, _) = rtnetlink::new_connection()
            .map_err(NetlinkError::doing("open a connection to the kernel"))?;
        let (mut work, mut connection) = (pin!(work(handle)), pin!(connection));
        tokio::select! {
            biased;
            result = &mut work => result,
            () = &mut connection => Err(NetlinkError::doing("speak to the kernel")(io::Error::other(
                "it closed the connection",
            ))),
        }
    })
}
