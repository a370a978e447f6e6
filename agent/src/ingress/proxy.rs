//! One request: from its host name to a replica, and the answer back.

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use domain::reason::Reason;
use domain::route::Transport;
use hyper::body::{Body, Incoming};
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING, UPGRADE,
};
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::TokioIo;
use tracing::{debug, debug_span};

use super::connection::Visit;
use super::errand::{Errand, Reserved};
use super::headers;
use super::link::Upload;
use super::reply::{Refusal, Relay, Reply};
use super::upstream::{Answer, Busy, Choice, Lost};
use super::waiting::weight;
use crate::course;

/// How often one request is tried: another replica, and once more after a link that had gone stale.
const TRIES_MAX: usize = 3;

/// A request made ready for a replica.
struct Call {
    request: Request<Upload>,
    /// Over HTTP/2.
    wide: bool,
    /// May be sent twice.
    again: bool,
    /// The client's side of an upgrade it asks for.
    upgrade: Option<OnUpgrade>,
}

/// Answers a request. It never fails: what goes wrong is an answer too.
pub(super) async fn answer(
    visit: Arc<Visit>,
    request: Request<Incoming>,
) -> Result<Response<Reply>, Infallible> {
    visit.arrived();
    let bodiless = *request.method() == Method::HEAD;
    let response = match relay(&visit, request).await {
        Ok(response) => response,
        Err(refusal) => {
            debug!(?refusal, "refused");
            refusal.response(bodiless)
        }
    };
    Ok(response)
}

async fn relay(visit: &Visit, request: Request<Incoming>) -> Result<Response<Reply>, Refusal> {
    let host = host(&request)?;
    let name = host.to_str().map_err(|_| Refusal::Because(Reason::UnknownHost))?;
    let mut errand = Errand::new(name, &visit.side, &visit.shared);
    let reserved = errand.reserve(&visit.shared, || weight(&request)).await;
    let Reserved { busy, transport, .. } = reserved.map_err(Refusal::Because)?;
    let mut call = prepare(request, &host, &visit.peer, transport)?;
    let upgrade = call.upgrade.take();
    let (answer, busy) = send(visit, errand, busy, call).await?;
    settle(visit, answer, busy, upgrade).await
}

/// The host that is asked for: the target's own where it has one, which wins over the header (RFC 9112, 3.2.2).
fn host(request: &Request<Incoming>) -> Result<HeaderValue, Refusal> {
    if *request.method() == Method::CONNECT {
        return Err(Refusal::Malformed("CONNECT is not served"));
    }
    let mut given = request.headers().get_all(HOST).iter();
    let (first, second) = (given.next(), given.next());
    if second.is_some() {
        return Err(Refusal::Malformed("more than one Host header"));
    }
    if let Some(authority) = request.uri().authority() {
        let named = HeaderValue::from_str(authority.as_str());
        return named.map_err(|_| Refusal::Malformed("no host name"));
    }
    first.cloned().ok_or(Refusal::Malformed("no Host header"))
}

fn prepare(
    mut request: Request<Incoming>,
    host: &HeaderValue,
    peer: &HeaderValue,
    transport: Transport,
) -> Result<Call, Refusal> {
    let wide = match transport {
        Transport::Http2 => true,
        Transport::Auto => {
            request.version() == Version::HTTP_2 && headers::is_grpc(request.headers())
        }
        Transport::Http | Transport::Tcp => false,
    };
    let asked = if wide || request.version() != Version::HTTP_11 {
        None
    } else {
        headers::upgrade(request.headers())
    };
    let upgrade = asked.is_some().then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    let again = body.is_end_stream() && parts.method.is_idempotent();
    headers::forward(&mut parts.headers, host, peer);
    if let Some(protocol) = asked {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(UPGRADE, protocol);
    }
    if wide {
        widen(&mut parts.uri, &mut parts.headers, host)?;
    } else {
        narrow(&mut parts.uri, &mut parts.headers, host);
    }
    let mut request = Request::new(Upload::new(body));
    *request.method_mut() = parts.method;
    *request.uri_mut() = parts.uri;
    *request.headers_mut() = parts.headers;
    *request.version_mut() = if wide { Version::HTTP_2 } else { Version::HTTP_11 };
    Ok(Call { request, wide, again, upgrade })
}

/// The target as HTTP/1.1 writes it: a path, and the host in its header.
fn narrow(uri: &mut Uri, headers: &mut HeaderMap, host: &HeaderValue) {
    if uri.authority().is_some() {
        let path = uri.path_and_query().cloned();
        *uri = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        headers.insert(HOST, host.clone());
        headers::join_cookies(headers);
    }
}

/// The target as HTTP/2 has it: whole, and no host header.
fn widen(uri: &mut Uri, headers: &mut HeaderMap, host: &HeaderValue) -> Result<(), Refusal> {
    let malformed = Refusal::Malformed("no host name");
    let mut parts = std::mem::take(uri).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    if parts.authority.is_none() {
        parts.authority = Some(Authority::try_from(host.as_bytes()).map_err(|_| malformed)?);
    }
    parts.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
    *uri = Uri::from_parts(parts).map_err(|_| malformed)?;
    headers.remove(HOST);
    Ok(())
}

/// Has a replica answer: the reserved one, or another where that one cannot be reached.
async fn send(
    visit: &Visit,
    mut errand: Errand<'_>,
    mut busy: Busy,
    call: Call,
) -> Result<(Answer, Busy), Refusal> {
    let mut choice = Choice::Any;
    let mut request = call.request;
    for left in (0..TRIES_MAX).rev() {
        let upstream = busy.upstream();
        let sent = if call.wide {
            upstream.send_wide(&visit.shared, request, choice, call.again, errand.until()).await
        } else {
            upstream.send(&visit.shared, request, choice, call.again, errand.until()).await
        };
        match sent {
            Ok(answer) => {
                course::answered(&upstream.tally.revision);
                return Ok((answer, busy));
            }
            Err(Lost::Unreachable(unsent)) => {
                errand.pass_over(upstream);
                request = *unsent;
            }
            Err(Lost::Stale(unsent)) => {
                choice = Choice::New;
                request = *unsent;
            }
            Err(Lost::Late) => return Err(Refusal::Because(Reason::UpstreamTimeout)),
            Err(Lost::Broken) => break,
        }
        if left == 0 {
            break;
        }
        drop(busy);
        let reserved = errand.reserve(&visit.shared, || weight(&request)).await;
        busy = reserved.map_err(Refusal::Because)?.busy;
    }
    Err(Refusal::Because(Reason::UpstreamFailed))
}

/// Makes a replica's answer the client's.
async fn settle(
    visit: &Visit,
    answer: Answer,
    busy: Busy,
    upgrade: Option<OnUpgrade>,
) -> Result<Response<Reply>, Refusal> {
    let Answer { mut response, mut link } = answer;
    *response.version_mut() = Version::default();
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let client = upgrade.ok_or(Refusal::Because(Reason::UpstreamFailed))?;
        if let Some(link) = &mut link {
            link.set_free(&visit.shared.tasks);
        }
        let replica = hyper::upgrade::on(&mut response);
        tunnel(visit, client, replica, busy);
        let protocol = headers::upgrade(response.headers());
        headers::strip(response.headers_mut());
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        if let Some(protocol) = protocol {
            response.headers_mut().insert(UPGRADE, protocol);
        }
        return Ok(response.map(|_| Reply::Text(None)));
    }
    if response.headers_mut().remove(TRANSFER_ENCODING).is_some() {
        // A length beside chunks is not to be believed (RFC 9112, 6.3).
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    headers::strip(response.headers_mut());
    if let Some(link) = &mut link
        && response.body().is_end_stream()
    {
        // The link has the end of the answer still to take note of.
        poll_fn(|cx| {
            link.drive(cx);
            Poll::Ready(())
        })
        .await;
    }
    let shared = Arc::clone(&visit.shared);
    Ok(response.map(|incoming| Reply::Relayed(Relay::new(incoming, link, shared, busy))))
}

/// Lets the two ends of an upgraded connection speak until one of them, or the agent, ends it.
fn tunnel(visit: &Visit, client: OnUpgrade, replica: OnUpgrade, busy: Busy) {
    let stop = visit.shared.tasks.stop_signal();
    visit.shared.tasks.spawn_short(debug_span!("tunnel"), async move {
        let _busy = busy;
        let speak = async {
            let (Ok(client), Ok(replica)) = (client.await, replica.await) else { return };
            let (mut client, mut replica) = (TokioIo::new(client), TokioIo::new(replica));
            drop(tokio::io::copy_bidirectional(&mut client, &mut replica).await);
        };
        tokio::select! {
            () = speak => (),
            () = stop.cancelled() => (),
        }
    });
}
