//! Numbers from a page: a JSON document, a page of metrics, or a Prometheus server's answer.

use std::pin::pin;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use domain::model::EnvironmentName;
use domain::replica::Secret;
use domain::scale::{
    self, ApiKey, Credentials, HttpUrl, KeyPlace, MetricsApi, Pages, Prometheus, Sample, Source,
};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};

use super::lookouts::Lookouts;
use super::{Tell, deadline, ticks, within};
use crate::dial::tls;
use crate::network::Lookout;

/// The largest page that is read: a metric is to be looked for, not an archive.
const LARGEST_PAGE: usize = 1 << 20;
/// The most that the head of an answer may take.
const LARGEST_HEAD: usize = 16 << 10;

/// Reads a rule's page until it is dropped.
pub(super) async fn watch<L: Lookout>(sample: Sample, lookouts: Arc<Lookouts<L>>, tell: Tell) {
    let limit = deadline(&sample);
    let mut ticks = ticks(sample.every);
    loop {
        ticks.tick().await;
        let Sample { environment, source, .. } = &sample;
        match source {
            Source::MetricsApi(source) => {
                let asking = Box::pin(number(environment, source, &lookouts));
                tell.outcome(&shown(&source.url), within(limit, asking).await);
            }
            Source::Prometheus(source) => {
                let asking = Box::pin(metric(environment, source, &lookouts));
                tell.outcome(&shown(&source.url), within(limit, asking).await);
            }
            Source::Usage(..) | Source::Mqtt(_) | Source::External(_) => return,
        }
    }
}

/// What is told of a URL: not its query, where keys stand.
fn shown(url: &HttpUrl) -> String {
    let text = url.to_string();
    text.split('?').next().unwrap_or_default().to_owned()
}

async fn number<L: Lookout>(
    environment: &EnvironmentName,
    source: &MetricsApi,
    lookouts: &Lookouts<L>,
) -> Result<f64, String> {
    let MetricsApi { url, unsafe_ssl, credentials, location } = source;
    let page = Page { environment, url, unsafe_ssl: *unsafe_ssl, credentials };
    location.number(&json(&page.read(lookouts).await?)?)
}

async fn metric<L: Lookout>(
    environment: &EnvironmentName,
    source: &Prometheus,
    lookouts: &Lookouts<L>,
) -> Result<f64, String> {
    let Prometheus { url, unsafe_ssl, credentials, pages, absent_is_zero } = source;
    let page = Page { environment, url, unsafe_ssl: *unsafe_ssl, credentials };
    let body = page.read(lookouts).await?;
    let (found, what) = match pages {
        Pages::Exposition { metric, labels } => {
            (scale::sum(&String::from_utf8_lossy(&body), metric, labels), metric.as_str())
        }
        Pages::Query => (scale::answer(&json(&body)?)?, "the query"),
    };
    let absent = absent_is_zero.then_some(0.0);
    found.or(absent).ok_or_else(|| format!("the answer has nothing for {what}"))
}

fn json(body: &[u8]) -> Result<serde_json::Value, String> {
    serde_json::from_slice(body).map_err(|error| {
        format!("the answer is no JSON, from line {} column {} on", error.line(), error.column())
    })
}

/// A page, and how it is asked for.
struct Page<'a> {
    environment: &'a EnvironmentName,
    url: &'a HttpUrl,
    unsafe_ssl: bool,
    credentials: &'a Credentials,
}

impl Page<'_> {
    async fn read<L: Lookout>(&self, lookouts: &Lookouts<L>) -> Result<Bytes, String> {
        let request = self.request()?;
        let HttpUrl { tls, host, port, .. } = self.url;
        let stream = lookouts.dial(self.environment, host, *port).await?;
        if !tls {
            return exchange(stream, request).await;
        }
        let connector =
            if self.unsafe_ssl { tls::to_anyone() } else { lookouts.to_the_known().await }?;
        let name = ServerName::try_from(host.clone()).map_err(|error| error.to_string())?;
        let stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
        exchange(stream, request).await
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>, String> {
        let HttpUrl { host, port, .. } = self.url;
        let keyed = match self.credentials {
            Credentials::Key(ApiKey { name, place: KeyPlace::Query, value: Secret(value) }) => {
                self.url.clone().with_parameter(name, value)
            }
            Credentials::None
            | Credentials::Basic { .. }
            | Credentials::Bearer(_)
            | Credentials::Key(_) => self.url.clone(),
        };
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = keyed.path.parse::<Uri>().map_err(|_| "its path is no path")?;
        let headers = request.headers_mut();
        let value = |text: &str| {
            HeaderValue::from_str(text).map_err(|_| "a value that cannot stand in a header")
        };
        headers.insert(HOST, value(&format!("{host}:{port}"))?);
        headers.insert(USER_AGENT, HeaderValue::from_static("skerry-scaler"));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        match self.credentials {
            Credentials::None => (),
            Credentials::Basic { username, password: Secret(password) } => {
                let login = STANDARD.encode(format!("{username}:{password}"));
                headers.insert(AUTHORIZATION, value(&format!("Basic {login}"))?);
            }
            Credentials::Bearer(Secret(token)) => {
                headers.insert(AUTHORIZATION, value(&format!("Bearer {}", token.trim()))?);
            }
            Credentials::Key(ApiKey { name, place, value: Secret(key) }) => match place {
                KeyPlace::Query => (),
                KeyPlace::Header => {
                    let name: HeaderName =
                        name.parse().map_err(|_| format!("{name:?} is no header name"))?;
                    headers.insert(name, value(key.trim())?);
                }
            },
        }
        Ok(request)
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<Bytes, String> {
    let mut builder = http1::Builder::new();
    let opening = builder.max_buf_size(LARGEST_HEAD).handshake(TokioIo::new(stream));
    let (mut sender, connection) = opening.await.map_err(|error| error.to_string())?;
    let mut asking = pin!(async {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        if answer.status() != StatusCode::OK {
            return Err(format!("status {}", answer.status().as_u16()));
        }
        let body = Limited::new(answer.into_body(), LARGEST_PAGE).collect().await;
        let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(error) => error.to_string(),
            Err(_) => format!("the answer is larger than {LARGEST_PAGE} bytes"),
        })?;
        Ok(body.to_bytes())
    });
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        page = asking.as_mut() => page,
        // Its end is told to whoever waits for the answer.
        _ = connection.as_mut() => asking.await,
    }
}
