//! A program that speaks KEDA's protocol.

use std::pin::Pin;

use futures_util::Stream;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use skerry_proto::externalscaler::external_scaler_server::{ExternalScaler, ExternalScalerServer};
use skerry_proto::externalscaler::{
    GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, MetricSpec,
    MetricValue, ScaledObjectRef,
};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

use super::*;

/// Says what it is told to.
#[derive(Clone, Default)]
struct Scaler {
    state: Arc<Mutex<State>>,
    pushes: watch::Sender<u32>,
}

#[derive(Default)]
struct State {
    active: bool,
    /// Name, target, value.
    metrics: Vec<(&'static str, f64, f64)>,
    broken: bool,
    whose: Option<ScaledObjectRef>,
}

impl Scaler {
    fn set(&self, active: bool, metrics: &[(&'static str, f64, f64)]) {
        let mut state = self.state.lock().unwrap();
        (state.active, state.metrics) = (active, metrics.to_vec());
    }

    async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let service = ExternalScalerServer::new(self.clone());
        let tasks = crate::tasks::Tasks::default();
        tasks.clone().spawn_short(tracing::Span::none(), async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = TowerToHyperService::new(service.clone());
                tasks.spawn_short(tracing::Span::none(), async move {
                    let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ = serving.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        address
    }
}

#[tonic::async_trait]
impl ExternalScaler for Scaler {
    type StreamIsActiveStream =
        Pin<Box<dyn Stream<Item = Result<IsActiveResponse, Status>> + Send>>;

    async fn is_active(
        &self,
        whose: Request<ScaledObjectRef>,
    ) -> Result<Response<IsActiveResponse>, Status> {
        let mut state = self.state.lock().unwrap();
        if state.broken {
            return Err(Status::unavailable("s3cret is no password"));
        }
        state.whose = Some(whose.into_inner());
        Ok(Response::new(IsActiveResponse { result: state.active }))
    }

    async fn stream_is_active(
        &self,
        _: Request<ScaledObjectRef>,
    ) -> Result<Response<Self::StreamIsActiveStream>, Status> {
        let pushes = self.pushes.subscribe();
        let words = futures_util::stream::unfold(pushes, async |mut pushes| {
            pushes.changed().await.ok()?;
            Some((Ok(IsActiveResponse { result: true }), pushes))
        });
        Ok(Response::new(Box::pin(words)))
    }

    async fn get_metric_spec(
        &self,
        _: Request<ScaledObjectRef>,
    ) -> Result<Response<GetMetricSpecResponse>, Status> {
        let state = self.state.lock().unwrap();
        let specs = state.metrics.iter().map(|(name, target, _)| MetricSpec {
            metric_name: (*name).to_owned(),
            target_size: 10,
            target_size_float: *target,
        });
        Ok(Response::new(GetMetricSpecResponse { metric_specs: specs.collect() }))
    }

    async fn get_metrics(
        &self,
        request: Request<GetMetricsRequest>,
    ) -> Result<Response<GetMetricsResponse>, Status> {
        let request = request.into_inner();
        let state = self.state.lock().unwrap();
        let named = state.metrics.iter().filter(|metric| metric.0 == request.metric_name);
        let values = named.map(|(name, _, value)| MetricValue {
            metric_name: (*name).to_owned(),
            metric_value: 0,
            metric_value_float: *value,
        });
        Ok(Response::new(GetMetricsResponse { metric_values: values.collect() }))
    }
}

fn rule(kind: &str, address: &str, every: Duration) -> Sample {
    let metadata = [("scalerAddress", address), ("queue", "a"), ("connectionFromEnv", "KEY")];
    sample(kind, &metadata, every)
}

fn value(value: f64, target: f64, activation: f64) -> Reading {
    Reading::Value { value, target, activation }
}

#[tokio::test]
async fn a_scaler_says_how_much_there_is_and_whether_to_wake_for_it() {
    if !may_dial() {
        return;
    }
    let scaler = Scaler::default();
    scaler.set(true, &[("queue", 2.5, 10.0), ("other", 0.0, 30.0)]);
    let address = scaler.serve().await;
    let mut bench = Bench::new(None);
    bench.plan(&[("scaler", rule("external", &address, Duration::from_secs(1)))]);
    // 10 for 2.5 asks for four replicas, 30 for the whole number 10 for three.
    bench.reading("scaler", |reading| *reading == value(10.0, 2.5, 0.0)).await;
    let whose = scaler.state.lock().unwrap().whose.clone().unwrap();
    assert_eq!((whose.name.as_str(), whose.namespace.as_str()), ("app", "default"));
    let metadata = [("queue", "a"), ("connectionFromEnv", "s3cret")];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(whose.scaler_metadata, metadata.into());
    assert!(!format!("{whose:?}").contains("s3cret"));

    scaler.set(true, &[("queue", 2.5, 0.0)]);
    bench.reading("scaler", |reading| *reading == value(2.5, 2.5, 0.0)).await;
    scaler.set(false, &[("queue", 2.5, 5.0)]);
    bench.reading("scaler", |reading| *reading == value(5.0, 2.5, f64::MAX)).await;
}

#[tokio::test]
async fn a_scaler_that_pushes_wakes_at_once() {
    if !may_dial() {
        return;
    }
    let scaler = Scaler::default();
    scaler.set(false, &[("queue", 1.0, 0.0)]);
    let address = scaler.serve().await;
    let mut bench = Bench::new(None);
    bench.plan(&[("scaler", rule("external-push", &address, Duration::from_hours(1)))]);
    bench.reading("scaler", |reading| *reading == value(0.0, 1.0, f64::MAX)).await;
    let listening = async {
        while scaler.pushes.receiver_count() == 0 {
            tokio::task::yield_now().await;
        }
    };
    time::timeout(PATIENCE, listening).await.unwrap();
    scaler.set(false, &[("queue", 1.0, 3.0)]);
    scaler.pushes.send_replace(1);
    bench.reading("scaler", |reading| *reading == value(3.0, 1.0, 0.0)).await;
    // With its rule, its connection goes.
    bench.plan(&[]);
    let left = async {
        while scaler.pushes.receiver_count() != 0 {
            scaler.pushes.send_replace(2);
            tokio::task::yield_now().await;
        }
    };
    time::timeout(PATIENCE, left).await.unwrap();
    assert!(bench.readings.borrow().is_empty());
}

#[tokio::test]
async fn what_a_scaler_cannot_say_is_told_without_its_words() {
    if !may_dial() {
        return;
    }
    let every = Duration::from_secs(1);
    let scaler = Scaler::default();
    scaler.state.lock().unwrap().broken = true;
    let (address, nobody) = (scaler.serve().await, nobody().await.to_string());
    let mut bench = Bench::new(None);
    bench.plan(&[
        ("broken", rule("external", &address, every)),
        ("nobody", rule("external", &nobody, every)),
    ]);
    let unavailable = "IsActive: The service is currently unavailable";
    bench.failure("broken", &format!("{address}: {unavailable}")).await;
    bench.failure("nobody", &format!("{nobody}: IsActive: connection refused")).await;
    scaler.state.lock().unwrap().broken = false;
    bench.failure("broken", &format!("{address}: GetMetricSpec names no metric")).await;
    scaler.set(true, &[("queue", -1.0, 0.0)]);
    let target = "GetMetricSpec gives a target that is not above 0";
    bench.failure("broken", &format!("{address}: {target}")).await;
}
