//! Reads a scale rule of the kind `custom`: from its type, metadata and secrets to what is to be sampled.
//!
//! The names are KEDA's where KEDA has the scaler. Keys are found whatever their case; what is missing, misspelt or not
//! supported is an error with a message for people and not a guess.

mod metadata;
#[cfg(test)]
mod tests;
mod urls;

use std::collections::BTreeMap;

use self::metadata::Metadata;
use super::exposition::labels;
use super::{Location, Resource, Source};
use crate::document::{ScaleRule, ScaleTrigger, Template};
use crate::replica::Secret;

pub use self::urls::{HttpUrl, MqttUrl};

/// Messages for each replica where an `mqtt` rule does not say.
const MQTT_VALUE: f64 = 5.0;

/// What a rule comes to.
#[derive(Debug, Clone, PartialEq)]
pub struct Polled {
    /// What is sampled.
    pub source: Source,
    /// What each replica is to have of it; more than 0.
    pub target: f64,
    /// At most this is nothing to wake for.
    pub activation: f64,
}

/// Why a rule is not sampled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// No sampler for it here.
    #[error("scale rules of the type {0:?} are not supported")]
    UnknownType(String),
    /// A value of its metadata or secrets.
    #[error("{key}: {problem}")]
    Metadata {
        /// Which, as it was written, or as it has to be.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// `cron`: the clock says how many, and nothing is sampled.
    #[error("the clock decides, nothing is sampled")]
    Scheduled,
    /// `http` and `tcp`: the ingress counts requests, and nothing is sampled.
    #[error("requests are counted, nothing is sampled")]
    Counted,
}

/// Messages of a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MqttSource {
    /// The broker; where there is none, the one that the agent itself is told of.
    pub url: Option<MqttUrl>,
    /// The user.
    pub username: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// A filter: `+` and `#` may stand in it.
    pub topic: String,
    /// What of the messages counts.
    pub mode: MqttMode,
}

/// What of the messages counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MqttMode {
    /// How many came a second, since the sample before.
    Rate,
    /// The number in the retained message; of several topics, the sum.
    Retained,
    /// How many came less those that are done: one message on this filter for each.
    Lag {
        /// A filter.
        done_topic: String,
    },
}

/// A number in a JSON document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsApi {
    /// The document.
    pub url: HttpUrl,
    /// Takes any certificate.
    pub unsafe_ssl: bool,
    /// How the reader shows who it is.
    pub credentials: Credentials,
    /// The number.
    pub location: Location,
}

/// A metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prometheus {
    /// A page of metrics, or the answer to a query.
    pub url: HttpUrl,
    /// Takes any certificate.
    pub unsafe_ssl: bool,
    /// How the reader shows who it is.
    pub credentials: Credentials,
    /// What is read there.
    pub pages: Pages,
    /// A metric that is not there counts as 0, and is not a failure.
    pub absent_is_zero: bool,
}

/// What a metric is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pages {
    /// The program's own page of metrics.
    Exposition {
        /// The metric's name.
        metric: String,
        /// Only samples that have all of these.
        labels: Vec<(String, String)>,
    },
    /// The answer of a Prometheus server to an instant query, which is part of the URL.
    Query,
}

/// How the reader of a page shows who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Not at all.
    None,
    /// `Authorization: Basic`.
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: Secret,
    },
    /// `Authorization: Bearer`.
    Bearer(Secret),
    /// A key.
    Key(ApiKey),
}

/// A key that a page is read with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// What the header or the parameter is called.
    pub name: String,
    /// Which of the two.
    pub place: KeyPlace,
    /// The key.
    pub value: Secret,
}

/// Where a key stands in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyPlace {
    /// Among the headers.
    Header,
    /// In the query of the URL.
    Query,
}

/// A program that speaks KEDA's protocol for external scalers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalScaler {
    /// A name, or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Passed on as it is; what was read from the environment may be secret.
    pub metadata: BTreeMap<String, Secret>,
    /// Whether it says itself when there is something to do.
    pub push: Push,
}

/// Whether a scaler says itself when there is something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Push {
    /// `external`: it is asked.
    Never,
    /// `external-push`: it is asked, and it says so in between.
    Activity,
}

/// What `rule` asks to be sampled, where it does.
///
/// `template` is the rule's own; `secrets` are the app's. Values of metadata that end with `FromEnv` are those of the
/// environment of the template's first container; parameters of the rule's `auth` win over metadata.
pub fn read(
    rule: &ScaleRule,
    template: &Template,
    secrets: &BTreeMap<String, Secret>,
) -> Result<Polled, Unreadable> {
    let (kind, given) = match &rule.trigger {
        ScaleTrigger::Http { .. } | ScaleTrigger::Tcp { .. } => return Err(Unreadable::Counted),
        ScaleTrigger::AzureQueue { .. } => {
            return Err(Unreadable::UnknownType("azureQueue".to_owned()));
        }
        ScaleTrigger::Custom { kind, metadata } => (kind, metadata),
    };
    let metadata = Metadata::new(given, &rule.auth, template, secrets);
    match kind.to_ascii_lowercase().as_str() {
        "cpu" => usage(&metadata, Resource::Cpu),
        "memory" => usage(&metadata, Resource::Memory),
        "mqtt" => mqtt(&metadata),
        "metrics-api" => metrics_api(&metadata),
        "prometheus" => prometheus(&metadata),
        "external" => external(&metadata, Push::Never),
        "external-push" => external(&metadata, Push::Activity),
        "cron" => Err(Unreadable::Scheduled),
        "http" | "tcp" => Err(Unreadable::Counted),
        _ => Err(Unreadable::UnknownType(kind.clone())),
    }
}

fn usage(metadata: &Metadata<'_>, resource: Resource) -> Result<Polled, Unreadable> {
    for key in ["type", "metricType"] {
        let asked = metadata.text(key)?.unwrap_or_else(|| "Utilization".to_owned());
        if !asked.eq_ignore_ascii_case("Utilization") {
            return Err(
                metadata.wrong(key, "only Utilization, in per cent of the limit, is supported")
            );
        }
    }
    let target = metadata.target("value", None)?;
    Ok(Polled { source: Source::Usage(resource, Vec::new()), target, activation: 0.0 })
}

fn mqtt(metadata: &Metadata<'_>) -> Result<Polled, Unreadable> {
    let mode = metadata.text("mode")?.unwrap_or_else(|| "rate".to_owned());
    let mode = match mode.to_ascii_lowercase().as_str() {
        "rate" => MqttMode::Rate,
        "retained" => MqttMode::Retained,
        "lag" => MqttMode::Lag { done_topic: filter(metadata, "doneTopic")? },
        _ => return Err(metadata.wrong("mode", "it is one of rate, retained, lag")),
    };
    let url = metadata.text("url")?;
    let url = url.map(|text| {
        let rule = "it is mqtt://HOST[:PORT] or mqtts://HOST[:PORT], without a user";
        MqttUrl::parse(&text).ok_or_else(|| metadata.wrong("url", rule))
    });
    let source = MqttSource {
        url: url.transpose()?,
        username: metadata.text("username")?,
        password: metadata.secret("password")?,
        topic: filter(metadata, "topic")?,
        mode,
    };
    if source.username.is_some() && source.url.is_none() {
        let problem = "the agent's own broker is reached as the agent; a url of its own is missing";
        return Err(metadata.wrong("username", problem));
    }
    Ok(Polled {
        source: Source::Mqtt(source),
        target: metadata.target("value", Some(MQTT_VALUE))?,
        activation: metadata.number("activationValue")?.unwrap_or(0.0),
    })
}

/// A filter for topics: a wildcard is a level of its own, `#` the last.
fn filter(metadata: &Metadata<'_>, key: &'static str) -> Result<String, Unreadable> {
    let text = metadata.required(key)?;
    let mut levels = text.split('/').peekable();
    let mut good = !text.contains('\0') && u16::try_from(text.len()).is_ok();
    while let Some(level) = levels.next() {
        good &= match level {
            "#" => levels.peek().is_none(),
            "+" => true,
            level => !level.contains(['#', '+']),
        };
    }
    if good { Ok(text) } else { Err(metadata.wrong(key, "it is no filter for MQTT topics")) }
}

fn metrics_api(metadata: &Metadata<'_>) -> Result<Polled, Unreadable> {
    let format = metadata.text("format")?.unwrap_or_else(|| "json".to_owned());
    if !format.eq_ignore_ascii_case("json") {
        return Err(metadata.wrong("format", "only json is supported"));
    }
    let location = Location::parse(&metadata.required("valueLocation")?).ok_or_else(|| {
        metadata.wrong("valueLocation", "it is names between dots, such as a.b.0.c")
    })?;
    let source = MetricsApi {
        url: http_url(metadata, "url")?,
        unsafe_ssl: metadata.flag("unsafeSsl")?.unwrap_or(false),
        credentials: credentials(metadata, "token")?,
        location,
    };
    Ok(Polled {
        source: Source::MetricsApi(source),
        target: metadata.target("targetValue", None)?,
        activation: metadata.number("activationTargetValue")?.unwrap_or(0.0),
    })
}

fn prometheus(metadata: &Metadata<'_>) -> Result<Polled, Unreadable> {
    let server = metadata.text("serverAddress")?;
    let (url, pages) = if server.is_some() {
        let url = http_url(metadata, "serverAddress")?.below("api/v1/query");
        (url.with_parameter("query", &metadata.required("query")?), Pages::Query)
    } else {
        let text = metadata.text("labels")?.unwrap_or_default();
        let text = format!("{}}}", text.trim().trim_start_matches('{').trim_end_matches('}'));
        let labels = labels(&text).filter(|(_, rest)| rest.is_empty());
        let (labels, _) =
            labels.ok_or_else(|| metadata.wrong("labels", r#"it is like queue="a",zone="b""#))?;
        let metric = metadata.required("metricName")?;
        (http_url(metadata, "url")?, Pages::Exposition { metric, labels })
    };
    let source = Prometheus {
        url,
        unsafe_ssl: metadata.flag("unsafeSsl")?.unwrap_or(false),
        credentials: credentials(metadata, "bearerToken")?,
        pages,
        absent_is_zero: metadata.flag("ignoreNullValues")?.unwrap_or(true),
    };
    Ok(Polled {
        source: Source::Prometheus(source),
        target: metadata.target("threshold", None)?,
        activation: metadata.number("activationThreshold")?.unwrap_or(0.0),
    })
}

fn http_url(metadata: &Metadata<'_>, key: &'static str) -> Result<HttpUrl, Unreadable> {
    let rule = "it is http://HOST[:PORT][/PATH] or https://…, without a user";
    HttpUrl::parse(&metadata.required(key)?).ok_or_else(|| metadata.wrong(key, rule))
}

/// `authMode` (or `authModes`, as the type `prometheus` has it); `bearer` is the parameter that holds a token.
fn credentials(metadata: &Metadata<'_>, bearer: &'static str) -> Result<Credentials, Unreadable> {
    let key = if metadata.text("authModes")?.is_some() { "authModes" } else { "authMode" };
    let secret = |name: &'static str| {
        metadata.secret(name)?.ok_or_else(|| metadata.wrong(name, "this authMode needs it"))
    };
    let mode = metadata.text(key)?.unwrap_or_default();
    match mode.to_ascii_lowercase().as_str() {
        "" => Ok(Credentials::None),
        "basic" => Ok(Credentials::Basic {
            username: metadata.required("username")?,
            password: metadata.secret("password")?.unwrap_or_default(),
        }),
        "bearer" => Ok(Credentials::Bearer(secret(bearer)?)),
        "apikey" => {
            let method = metadata.text("method")?.unwrap_or_else(|| "header".to_owned());
            let (place, usual) = match method.to_ascii_lowercase().as_str() {
                "header" => (KeyPlace::Header, "X-API-KEY"),
                "query" => (KeyPlace::Query, "api_key"),
                _ => return Err(metadata.wrong("method", "it is one of header, query")),
            };
            let name = metadata.text("keyParamName")?.unwrap_or_else(|| usual.to_owned());
            Ok(Credentials::Key(ApiKey { name, place, value: secret("apiKey")? }))
        }
        _ => Err(metadata.wrong(key, "it is one of basic, bearer, apiKey")),
    }
}

fn external(metadata: &Metadata<'_>, push: Push) -> Result<Polled, Unreadable> {
    let address = metadata.required("scalerAddress")?;
    let (host, port) = urls::host_and_port(&address, None)
        .ok_or_else(|| metadata.wrong("scalerAddress", "it is HOST:PORT"))?;
    let secure = ["enableTLS", "caCert", "tlsClientCert", "tlsClientKey"];
    for key in secure {
        if !matches!(metadata.text(key)?.as_deref(), None | Some("false")) {
            return Err(metadata.wrong(key, "TLS to a scaler is not supported"));
        }
    }
    let source = ExternalScaler { host, port, metadata: metadata.all_but("scalerAddress")?, push };
    // Its own target comes with its answer.
    Ok(Polled { source: Source::External(source), target: 1.0, activation: 0.0 })
}
