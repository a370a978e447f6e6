//! What a client is answered: a replica's response as it comes, or a refusal of our own.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use domain::reason::Reason;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};

use super::fleet::Shared;
use super::link::Link;
use super::upstream::Busy;

const REASON: HeaderName = HeaderName::from_static("x-skerry-reason");

/// The body of an answer.
pub(super) enum Reply {
    /// From a replica.
    Relayed(Relay),
    /// Our own words, said once.
    Text(Option<Bytes>),
}

/// A replica's body on its way to the client.
pub(super) struct Relay {
    incoming: Incoming,
    /// Driven while the body comes, kept for the next request when it has ended.
    link: Option<Link>,
    shared: Arc<Shared>,
    busy: Busy,
}

/// Why a request is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is no request that could be.
    Malformed(&'static str),
    /// Nobody can serve it.
    Because(Reason),
}

impl Refusal {
    /// The answer; `bodiless` for HEAD.
    pub(super) fn response(self, bodiless: bool) -> Response<Reply> {
        let (status, text) = match self {
            Self::Malformed(what) => (StatusCode::BAD_REQUEST, format!("{what}\n")),
            Self::Because(why) => (status(why), format!("{}: {}\n", why.word(), why.sentence())),
        };
        let length = HeaderValue::from(text.len());
        let text = if bodiless { None } else { Some(Bytes::from(text)) };
        let mut response = Response::new(Reply::Text(text));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(CONTENT_LENGTH, length);
        if let Self::Because(reason) = self {
            headers.insert(REASON, HeaderValue::from_static(reason.word()));
            if reason == Reason::ActivationQueueFull {
                // In seconds. Room is made at once when the first replica is ready.
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
        }
        response
    }
}

/// 404, 502 and 504 have one reason each; whatever else stands in the way is 503.
fn status(reason: Reason) -> StatusCode {
    if reason == Reason::UnknownHost {
        StatusCode::NOT_FOUND
    } else if reason == Reason::UpstreamFailed {
        StatusCode::BAD_GATEWAY
    } else if reason == Reason::UpstreamTimeout {
        StatusCode::GATEWAY_TIMEOUT
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

impl Relay {
    pub(super) fn new(
        incoming: Incoming,
        link: Option<Link>,
        shared: Arc<Shared>,
        busy: Busy,
    ) -> Self {
        let mut relay = Self { incoming, link, shared, busy };
        if relay.incoming.is_end_stream() {
            relay.end();
        }
        relay
    }

    fn end(&mut self) {
        if let Some(link) = self.link.take() {
            self.busy.upstream().put_back(link, &self.shared);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let first = Pin::new(&mut self.incoming).poll_frame(cx);
        let (Poll::Pending, Some(link)) = (&first, &mut self.link) else { return first };
        // Asking has told the link that more is wanted; now it can read it.
        link.drive(cx);
        Pin::new(&mut self.incoming).poll_frame(cx)
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let relay = match self.get_mut() {
            Self::Relayed(relay) => relay,
            Self::Text(text) => return Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
        };
        let polled = relay.poll(cx);
        match &polled {
            Poll::Pending => (),
            Poll::Ready(Some(Err(_))) => relay.link = None,
            Poll::Ready(Some(Ok(_))) if !relay.incoming.is_end_stream() => (),
            Poll::Ready(Some(Ok(_)) | None) => {
                // The link has the end of the answer still to take note of.
                if let Some(link) = &mut relay.link {
                    link.drive(cx);
                }
                relay.end();
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Relayed(relay) => relay.incoming.is_end_stream(),
            Self::Text(text) => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Relayed(relay) => relay.incoming.size_hint(),
            Self::Text(text) => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
        }
    }
}
