//! The connection to the agent: one socket, one command.

use std::io;
use std::path::Path;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper_util::rt::TokioIo;
use skerry_proto::v1;
use skerry_proto::v1::agent_client::AgentClient;
use tokio::net::UnixStream;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use super::error::CliError;
use crate::report::Chain;

/// The agent answers within a round; it says so itself after 30 s, and that word should arrive.
const DEADLINE: Duration = Duration::from_secs(35);

/// A listing of every app there is stays far below this.
const LARGEST_ANSWER: usize = 64 << 20;

/// The agent, as a caller sees it.
pub(super) type Agent = AgentClient<Channel>;

/// Connects to the agent.
pub(super) async fn connect(socket: &Path) -> Result<Agent, CliError> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|source| CliError::Unreachable { socket: socket.to_owned(), source })?;
    // The address is never dialled: the stream is there already.
    let channel = Endpoint::from_static("http://agent.invalid")
        .connect_timeout(DEADLINE)
        .connect_with_connector(Once(Some(stream)))
        .await
        .map_err(|source| CliError::NotAnAgent { socket: socket.to_owned(), source })?;
    Ok(AgentClient::new(channel).max_decoding_message_size(LARGEST_ANSWER))
}

/// What the agent at `socket` tells of the device, or in words why it does not. A deadline is the caller's.
pub(crate) async fn device(socket: &Path) -> Result<v1::DeviceReply, String> {
    let asked = async {
        let mut agent = connect(socket).await?;
        Ok::<_, CliError>(agent.device(brief(v1::DeviceRequest {})).await?.into_inner())
    };
    asked.await.map_err(|error| Chain(&error).to_string())
}

/// A call that is answered soon or not at all.
pub(super) fn brief<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

/// Gives out the one stream there is. A command that loses it has failed, and says so.
struct Once(Option<UnixStream>);

impl Service<Uri> for Once {
    type Response = TokioIo<UnixStream>;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let lost = || io::Error::new(io::ErrorKind::ConnectionAborted, "the agent has gone");
        std::future::ready(self.0.take().map(TokioIo::new).ok_or_else(lost))
    }
}
