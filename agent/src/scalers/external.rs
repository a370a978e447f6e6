//! Numbers from a program that speaks KEDA's protocol for external scalers, which also says whether to wake an app.
//!
//! It brings its own targets. Of several metrics the one counts that asks for the most replicas. One that pushes is
//! asked as the others are, and says in between when there is something to do.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use domain::model::EnvironmentName;
use domain::scale::{ExternalScaler, Push, Reading, Sample};
use futures_util::future::BoxFuture;
use hyper::Uri;
use hyper_util::rt::TokioIo;
use skerry_proto::externalscaler::external_scaler_client::ExternalScalerClient;
use skerry_proto::externalscaler::{
    GetMetricsRequest, IsActiveResponse, MetricSpec, MetricValue, ScaledObjectRef,
};
use tokio::net::TcpStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use super::lookouts::Lookouts;
use super::{DEADLINE, Tell, deadline, ticks, within};
use crate::network::Lookout;

/// Metrics of one scaler that are asked for; KEDA's own scalers have one.
const MOST_METRICS: usize = 16;
/// The largest answer that is taken: names and numbers.
const LARGEST_ANSWER: usize = 64 << 10;
/// A peer that is gone without a word is found out after this long.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

type Client = ExternalScalerClient<Channel>;

/// Asks a rule's scaler until it is dropped.
pub(super) async fn watch<L: Lookout>(
    sample: Sample,
    scaler: ExternalScaler,
    lookouts: Arc<Lookouts<L>>,
    tell: Tell,
) {
    let what = format!("{}:{}", scaler.host, scaler.port);
    let limit = deadline(&sample);
    let environment = sample.environment.clone();
    let mut asker = match client(&scaler, environment, lookouts) {
        Ok(client) => Asker { client, whose: whose(&sample, &scaler) },
        Err(got) => return tell.failed(format!("{what}: {got}")),
    };
    let mut ticks = ticks(sample.every);
    let mut pushed: Option<Streaming<IsActiveResponse>> = None;
    loop {
        let told = tokio::select! {
            _ = ticks.tick() => None,
            told = next(&mut pushed) => match told {
                Some(active) => Some(active),
                // It is opened anew with the next sample.
                None => { pushed = None; continue }
            },
        };
        let asking = Box::pin(asker.ask(told));
        match within(limit, asking).await {
            Ok(reading) => tell.reading(reading),
            Err(got) => tell.failed(format!("{what}: {got}")),
        }
        if pushed.is_none() && scaler.push == Push::Activity {
            // What hinders it is told by the sample, which asks the same program.
            pushed = within(limit, Box::pin(asker.listen())).await.ok();
        }
    }
}

/// The next word of a scaler that pushes; `None` is the end of its words.
async fn next(pushed: &mut Option<Streaming<IsActiveResponse>>) -> Option<bool> {
    match pushed {
        Some(words) => words.message().await.ok().flatten().map(|word| word.result),
        None => std::future::pending().await,
    }
}

fn whose(sample: &Sample, scaler: &ExternalScaler) -> ScaledObjectRef {
    let metadata = scaler.metadata.iter();
    ScaledObjectRef {
        name: sample.app.to_string(),
        namespace: sample.environment.to_string(),
        scaler_metadata: metadata.map(|(key, value)| (key.clone(), value.0.clone())).collect(),
    }
}

/// A client that connects when it is first asked, and again where the connection is lost.
fn client<L: Lookout>(
    scaler: &ExternalScaler,
    environment: EnvironmentName,
    lookouts: Arc<Lookouts<L>>,
) -> Result<Client, String> {
    let ExternalScaler { host, port, .. } = scaler;
    let endpoint = Endpoint::from_shared(format!("http://{host}:{port}"));
    let channel = endpoint
        .map_err(|error| error.to_string())?
        .connect_timeout(DEADLINE)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(DEADLINE)
        .connect_with_connector_lazy(Dialler {
            host: host.clone(),
            port: *port,
            environment,
            lookouts,
        });
    Ok(ExternalScalerClient::new(channel).max_decoding_message_size(LARGEST_ANSWER))
}

struct Asker {
    client: Client,
    whose: ScaledObjectRef,
}

impl Asker {
    /// Asks for everything that makes a reading; `told` is what a push said of the activity.
    async fn ask(&mut self, told: Option<bool>) -> Result<Reading, String> {
        let active = match told {
            Some(active) => active,
            None => {
                let answer = self.client.is_active(self.whose.clone()).await;
                answer.map_err(|status| told_by("IsActive", &status))?.into_inner().result
            }
        };
        let specs = self.client.get_metric_spec(self.whose.clone()).await;
        let specs = specs.map_err(|status| told_by("GetMetricSpec", &status))?.into_inner();
        let mut most: Option<(f64, f64)> = None;
        for spec in specs.metric_specs.into_iter().take(MOST_METRICS) {
            let target = target(&spec)?;
            let value = self.metric(spec).await?;
            if most.is_none_or(|(v, t)| v / t < value / target) {
                most = Some((value, target));
            }
        }
        let (value, target) = most.ok_or("GetMetricSpec names no metric")?;
        Ok(reading(active, value, target))
    }

    async fn metric(&mut self, spec: MetricSpec) -> Result<f64, String> {
        let request = GetMetricsRequest {
            scaled_object_ref: Some(self.whose.clone()),
            metric_name: spec.metric_name.clone(),
        };
        let answer = self.client.get_metrics(request).await;
        let answer = answer.map_err(|status| told_by("GetMetrics", &status))?.into_inner();
        let values = &answer.metric_values;
        let named = values.iter().find(|value| value.metric_name == spec.metric_name);
        let value = named.or(values.first()).map(value_of);
        let value = value.filter(|value| value.is_finite());
        value.ok_or_else(|| "GetMetrics gives no number".to_owned())
    }

    async fn listen(&mut self) -> Result<Streaming<IsActiveResponse>, String> {
        let words = self.client.stream_is_active(self.whose.clone()).await;
        Ok(words.map_err(|status| told_by("StreamIsActive", &status))?.into_inner())
    }
}

/// What a call came to. Not the scaler's own message: it may repeat what it was given.
fn told_by(call: &str, status: &tonic::Status) -> String {
    let cause = std::error::Error::source(status).map(innermost).unwrap_or_default();
    if cause.is_empty() { format!("{call}: {}", status.code()) } else { format!("{call}: {cause}") }
}

/// Why there is no connection: the last of the causes says it best.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

#[expect(clippy::cast_precision_loss, reason = "nobody has that much to do")]
fn target(spec: &MetricSpec) -> Result<f64, String> {
    let target = if spec.target_size_float == 0.0 {
        spec.target_size as f64
    } else {
        spec.target_size_float
    };
    let good = target.is_finite() && 0.0 < target;
    good.then_some(target)
        .ok_or_else(|| "GetMetricSpec gives a target that is not above 0".to_owned())
}

#[expect(clippy::cast_precision_loss, reason = "nobody has that much to do")]
fn value_of(value: &MetricValue) -> f64 {
    if value.metric_value_float == 0.0 {
        value.metric_value as f64
    } else {
        value.metric_value_float
    }
}

/// The scaler itself says whether to wake the app: where it does, a metric of 0 asks for one replica all the same; where
/// it does not, no metric is enough.
fn reading(active: bool, value: f64, target: f64) -> Reading {
    if !active {
        return Reading::Value { value, target, activation: f64::MAX };
    }
    let value = if 0.0 < value { value } else { target };
    Reading::Value { value, target, activation: 0.0 }
}

/// Dials from the environment's network.
struct Dialler<L> {
    host: String,
    port: u16,
    environment: EnvironmentName,
    lookouts: Arc<Lookouts<L>>,
}

impl<L: Lookout> Service<Uri> for Dialler<L> {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { host, port, environment, lookouts } = self;
        let (host, port, environment) = (host.clone(), *port, environment.clone());
        let lookouts = Arc::clone(lookouts);
        Box::pin(async move {
            let dialled = lookouts.dial(&environment, &host, port).await;
            dialled.map(TokioIo::new).map_err(io::Error::other)
        })
    }
}
