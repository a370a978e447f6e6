//! HTTP/2 over the socket: connections, their number, their end.

use std::sync::Arc;
use std::time::Duration;

use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use skerry_proto::v1::agent_server::AgentServer;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{Span, debug, info, info_span, warn};

use super::service::Api;
use super::socket::ApiSocket;
use super::sources::{ImageStore, LogSource};
use crate::report::Chain;
use crate::tasks::Tasks;

/// People and their scripts, each with a few calls that follow something; more wait in the socket's backlog.
const MOST_CONNECTIONS: usize = 32;

/// Calls on one connection at a time.
const MOST_CALLS: u32 = 16;

/// A document is 256 KiB at most, and the loop says so better than a torn stream does.
const LARGEST_MESSAGE: usize = 1 << 20;

/// After an accept failed (out of file descriptors), so that it does not fail a thousand times a second.
const PAUSE: Duration = Duration::from_secs(1);

/// Answers calls until `stop`, then lets open ones finish.
pub async fn serve<I: ImageStore, L: LogSource>(
    socket: ApiSocket,
    api: Api<I, L>,
    tasks: Tasks,
    stop: CancellationToken,
) {
    let service = AgentServer::new(api).max_decoding_message_size(LARGEST_MESSAGE);
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    info!("the local API answers");
    loop {
        let place = tokio::select! {
            () = stop.cancelled() => return,
            place = Arc::clone(&places).acquire_owned() => place,
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = socket.listener.accept() => accepted,
        };
        match accepted {
            Ok((connection, _)) => {
                let service = service.clone();
                let executor = CallExecutor(tasks.clone());
                let stop = stop.clone();
                tasks.spawn_short(info_span!("api"), async move {
                    let _place = place;
                    answer(connection, service, executor, stop).await;
                });
            }
            Err(error) => {
                warn!(error = %Chain(&error), "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn answer<I: ImageStore, L: LogSource>(
    connection: UnixStream,
    service: AgentServer<Api<I, L>>,
    executor: CallExecutor,
    stop: CancellationToken,
) {
    if let Ok(caller) = connection.peer_cred() {
        debug!(uid = caller.uid(), pid = caller.pid(), "a caller");
    }
    let serving = http2::Builder::new(executor)
        .max_concurrent_streams(MOST_CALLS)
        .serve_connection(TokioIo::new(connection), TowerToHyperService::new(service));
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        debug!(error = %Chain(&error), "a caller left in the middle");
    }
}

/// Calls run as tasks of the agent, so that its end waits for them.
#[derive(Clone)]
struct CallExecutor(Tasks);

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for CallExecutor {
    fn execute(&self, call: F) {
        self.0.spawn_short(Span::current(), async move {
            call.await;
        });
    }
}
