//! What each path answers.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::env;
use std::fs;
use std::io::{self, ErrorKind};
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, UPGRADE};
use hyper::rt::Executor;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{self, Instant};

use crate::query::Query;
use crate::tally::Tally;
use crate::{call, dns, echo, say};

/// What a generated body is made of.
const CHUNK: Bytes = Bytes::from_static(&[b'x'; 64 * 1024]);

/// Memory that `/eat` took and never gives back.
static EATEN: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// What `/health` answers by name, where it is not 200.
static HEALTH: Mutex<BTreeMap<String, u16>> = Mutex::new(BTreeMap::new());

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// The app.
#[derive(Debug, Clone)]
pub(crate) struct App {
    /// `/ready` answers 200 from then on.
    pub(crate) ready_at: Instant,
    /// Takes an exit code and ends the process.
    pub(crate) exit: mpsc::Sender<u8>,
    /// What was served.
    pub(crate) tally: Tally,
}

impl App {
    /// The answer to one request.
    pub(crate) async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let query = Query(&query);
        let path = request.uri().path().to_owned();
        self.tally.count(&path);
        Ok(match path.as_str() {
            "/" => text(StatusCode::OK, format!("{}\n", identity())),
            "/ready" if Instant::now() < self.ready_at => {
                text(StatusCode::SERVICE_UNAVAILABLE, "not yet\n")
            }
            "/ready" => text(StatusCode::OK, "ready\n"),
            "/health" => health(&query.text("name")),
            "/switch" => switch(query.text("name"), query.number("status", 200)),
            "/env" => json_of(env::vars().map(|(key, value)| (key, value.into())).collect()),
            "/headers" => json_of(headers(&request)),
            "/echo" => Response::new(request.into_body().boxed_unsync()),
            "/upload" => upload(request).await,
            "/download" => download(query.number("bytes", 0)),
            "/drip" => drip(query.number("ms", 0), self.tally.clone()),
            "/served" => json_of(self.tally.json()),
            "/slow" => {
                time::sleep(Duration::from_millis(query.number("ms", 0))).await;
                text(StatusCode::OK, format!("{}\n", identity()))
            }
            "/call" => match call::get(&query.text("url")).await {
                Ok((status, body)) => bytes(status, body),
                Err(error) => failed(&error),
            },
            "/resolve" => match dns::resolve(&query.text("name")).await {
                Ok(found) => {
                    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
                    text(StatusCode::OK, lines.join("\n"))
                }
                Err(error) => failed(&error),
            },
            "/tcp" => {
                let patience = Duration::from_millis(query.number("ms", 1500));
                match call::connects(&query.text("to"), patience).await {
                    Ok(()) => text(StatusCode::OK, "connected\n"),
                    Err(error) => failed(&error),
                }
            }
            "/ask" => match echo::ask(&query.text("to"), &query.text("text")).await {
                Ok(answer) => text(StatusCode::OK, answer),
                Err(error) => failed(&error),
            },
            "/exit" => {
                // Full means that an end is under way already.
                let _ = self.exit.try_send(query.number("code", 0));
                text(StatusCode::OK, "bye\n")
            }
            "/eat" => eat(query.number("mb", 0)),
            "/log" => {
                for n in 0..query.number("lines", 1_u64) {
                    say(&format!("log line {n} {}", query.text("text")));
                }
                text(StatusCode::OK, "logged\n")
            }
            "/write" => done(fs::write(query.text("path"), query.text("text"))),
            "/read" => match fs::read(query.text("path")) {
                Ok(content) => bytes(200, content.into()),
                Err(error) => failed(&error),
            },
            "/stat" => stat(&query.text("path")),
            "/ws" => upgrade(request),
            "/grpc.test/Echo" => grpc(request),
            other if is_healthy(other) => text(StatusCode::OK, "healthy\n"),
            _ => text(StatusCode::NOT_FOUND, format!("testapp has no {path}\n")),
        })
    }
}

/// Whether `HEALTHY` lists `path`.
fn is_healthy(path: &str) -> bool {
    let list = env::var("HEALTHY").unwrap_or_default();
    list.split(',').any(|entry| entry == path)
}

fn health(name: &str) -> Response<Body> {
    let known = HEALTH.lock().ok().and_then(|health| health.get(name).copied());
    bytes(known.unwrap_or(200), Bytes::new())
}

fn switch(name: String, status: u16) -> Response<Body> {
    let Ok(mut health) = HEALTH.lock() else {
        return failed(&io::Error::other("an earlier switch failed"));
    };
    health.insert(name, status);
    text(StatusCode::OK, "switched\n")
}

/// Who answered.
pub(crate) fn identity() -> Value {
    let variable = |name: &str| env::var(name).unwrap_or_default();
    json!({
        "app": variable("CONTAINER_APP_NAME"),
        "version": variable("VERSION"),
        "revision": variable("CONTAINER_APP_REVISION"),
        "replica": variable("CONTAINER_APP_REPLICA_NAME"),
        "hostname": fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim(),
    })
}

fn headers(request: &Request<Incoming>) -> serde_json::Map<String, Value> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut found: serde_json::Map<String, Value> = request
        .headers()
        .keys()
        .map(|key| {
            let values: Vec<String> = request.headers().get_all(key).iter().map(text).collect();
            (key.as_str().to_owned(), values.join(", ").into())
        })
        .collect();
    found.insert(":version".to_owned(), format!("{:?}", request.version()).into());
    found.insert(":uri".to_owned(), request.uri().to_string().into());
    found
}

async fn upload(request: Request<Incoming>) -> Response<Body> {
    let mut body = request.into_body();
    let mut count = 0;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => count += frame.data_ref().map_or(0, Bytes::len),
            Err(error) => return failed(&io::Error::other(error)),
        }
    }
    text(StatusCode::OK, format!("{count}\n"))
}

fn download(length: usize) -> Response<Body> {
    let frames = stream::unfold(length, |rest| async move {
        let next = rest.min(CHUNK.len());
        (next != 0).then(|| (Ok(Frame::data(CHUNK.slice(..next))), rest - next))
    });
    Response::new(BodyExt::boxed_unsync(StreamBody::new(frames)))
}

/// A body that takes so long: a thousand bytes every tenth of a second.
fn drip(millis: usize, tally: Tally) -> Response<Body> {
    let frames = stream::unfold(millis / 100, move |rest| {
        let tally = tally.clone();
        async move {
            if rest == 0 {
                tally.count("/drip to its end");
                return None;
            }
            time::sleep(Duration::from_millis(100)).await;
            Some((Ok(Frame::data(CHUNK.slice(..1000))), rest - 1))
        }
    });
    Response::new(BodyExt::boxed_unsync(StreamBody::new(frames)))
}

fn eat(megabytes: usize) -> Response<Body> {
    let meal = vec![1; megabytes << 20];
    let Ok(mut eaten) = EATEN.lock() else {
        return failed(&io::Error::other("an earlier meal failed"));
    };
    eaten.push(meal);
    let sum: usize = eaten.iter().map(Vec::len).sum();
    text(StatusCode::OK, format!("{} MiB\n", sum >> 20))
}

fn stat(path: &str) -> Response<Body> {
    use std::os::unix::fs::MetadataExt;
    match fs::metadata(path) {
        Ok(found) => text(
            StatusCode::OK,
            format!("{:o} {}:{} {}\n", found.mode(), found.uid(), found.gid(), found.len()),
        ),
        Err(error) => failed(&error),
    }
}

/// Switches to raw bytes and sends back each one that comes.
fn upgrade(mut request: Request<Incoming>) -> Response<Body> {
    let Some(protocol) = request.headers().get(UPGRADE).cloned() else {
        return text(StatusCode::BAD_REQUEST, "no Upgrade header\n");
    };
    let upgraded = hyper::upgrade::on(&mut request);
    TokioExecutor::new().execute(async move {
        if let Ok(upgraded) = upgraded.await {
            let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
            drop(tokio::io::copy(&mut reader, &mut writer).await);
        }
    });
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
    response.headers_mut().insert(UPGRADE, protocol);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response
}

/// The messages that came, and then the trailers that tell a gRPC client that all went well.
fn grpc(request: Request<Incoming>) -> Response<Body> {
    let frames = stream::unfold(Some(request.into_body()), |body| async move {
        let mut body = body?;
        match body.frame().await {
            Some(frame) => Some((frame, Some(body))),
            None => {
                let status = ("grpc-status".parse().ok()?, HeaderValue::from_static("0"));
                Some((Ok(Frame::trailers(HeaderMap::from_iter([status]))), None))
            }
        }
    });
    let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(frames)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    bytes(status.as_u16(), body.into())
}

fn bytes(status: u16, body: Bytes) -> Response<Body> {
    let mut response =
        Response::new(Full::new(body).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    response
}

fn json_of(map: serde_json::Map<String, Value>) -> Response<Body> {
    text(StatusCode::OK, format!("{}\n", Value::Object(map)))
}

fn done(result: io::Result<()>) -> Response<Body> {
    match result {
        Ok(()) => text(StatusCode::OK, "done\n"),
        Err(error) => failed(&error),
    }
}

/// 504 for what timed out, 502 for what was refused: a test tells a dropped packet from a closed port.
fn failed(error: &io::Error) -> Response<Body> {
    let status = if error.kind() == ErrorKind::TimedOut {
        StatusCode::GATEWAY_TIMEOUT
    } else {
        StatusCode::BAD_GATEWAY
    };
    text(status, format!("{error}\n"))
}
