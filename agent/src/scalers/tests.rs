//! The samplers against real servers, and their schedule against a meter that is made of a map.

mod external;
mod http;
mod mqtt;
mod schedule;

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use domain::model::{EnvironmentName, ReplicaName};

use super::*;
use crate::network::{NetworkError, Vantage};
use crate::runtime::{RuntimeError, Usage};

/// Longer than anything takes that goes well.
const PATIENCE: Duration = Duration::from_secs(20);

/// The network that the test is in, in place of an environment's.
#[derive(Clone, Default)]
struct Here(Arc<Mutex<Vec<String>>>);

impl Here {
    fn note(&self, what: &str, environment: &EnvironmentName) {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notes.push(format!("{what} {environment}"));
    }

    fn notes(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Lookout for Here {
    async fn open(&self, environment: &EnvironmentName) -> Result<Vantage, NetworkError> {
        self.note("open", environment);
        Ok(Vantage { netns: "/proc/self/ns/net".into(), address: [10, 0, 0, 254].into() })
    }

    async fn close(&self, environment: &EnvironmentName) -> Result<(), NetworkError> {
        self.note("close", environment);
        Ok(())
    }
}

/// What replicas use, by name; without any, it never answers.
#[derive(Clone, Default)]
struct Meters {
    used: Arc<Mutex<Option<BTreeMap<ReplicaName, Usage>>>>,
    asked: Arc<Mutex<u32>>,
}

impl Meters {
    fn set(&self, replica: &str, cpu_nanos: u64, memory_bytes: u64) {
        let usage =
            Usage { cpu_nanos, memory_bytes, cpu_limit_cores: 1.0, memory_limit_bytes: 100 };
        let mut used = self.used.lock().unwrap();
        used.get_or_insert_default().insert(replica.parse().unwrap(), usage);
    }

    fn asked(&self) -> u32 {
        *self.asked.lock().unwrap()
    }
}

impl Meter for Meters {
    async fn usage(
        &self,
        replicas: Vec<ReplicaName>,
    ) -> Result<BTreeMap<ReplicaName, Usage>, RuntimeError> {
        *self.asked.lock().unwrap() += 1;
        let used = self.used.lock().unwrap().clone();
        let Some(mut used) = used else { return std::future::pending().await };
        used.retain(|replica, _| replicas.contains(replica));
        Ok(used)
    }
}

/// Samplers at work; they end with this.
struct Bench {
    plan: watch::Sender<Arc<SamplePlan>>,
    readings: watch::Receiver<Arc<Readings>>,
    meters: Meters,
    here: Here,
    stop: CancellationToken,
}

impl Bench {
    fn new(broker: Option<Access>) -> Self {
        let (plan, plan_rx) = watch::channel(Arc::default());
        let (readings_tx, readings) = watch::channel(Arc::default());
        let (meters, here, stop) = (Meters::default(), Here::default(), CancellationToken::new());
        let (meter, lookout) = (meters.clone(), here.clone());
        let means = Means { meter, lookout, broker, device: "pi".to_owned() };
        let running = run(means, plan_rx, readings_tx, Clock::default(), stop.clone());
        crate::tasks::Tasks::default().spawn_short(tracing::Span::none(), running);
        Self { plan, readings, meters, here, stop }
    }

    fn plan(&self, samples: &[(&str, Sample)]) {
        let samples = samples.iter().map(|(rule, sample)| (key(rule), sample.clone()));
        self.plan.send_replace(Arc::new(samples.collect()));
    }

    /// Waits until the reading of a rule is like this.
    async fn reading(&mut self, rule: &str, like: impl Fn(&Reading) -> bool) -> Reading {
        let key = key(rule);
        let found = self.readings.wait_for(|all| all.get(&key).is_some_and(&like));
        let Ok(found) = time::timeout(PATIENCE, found).await else {
            panic!("waited in vain; the last reading is {:?}", self.readings.borrow().get(&key))
        };
        found.unwrap()[&key].clone()
    }

    async fn value(&mut self, rule: &str, expected: f64) {
        let like = |reading: &Reading| matches!(reading, Reading::Value { value, .. } if value.total_cmp(&expected).is_eq());
        self.reading(rule, like).await;
    }

    async fn failure(&mut self, rule: &str, expected: &str) {
        let like = |reading: &Reading| matches!(reading, Reading::Failed(trouble) if trouble.details == expected);
        self.reading(rule, like).await;
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn key(rule: &str) -> SampleKey {
    SampleKey { revision: "app--0000001".parse().unwrap(), rule: rule.to_owned() }
}

/// A rule as it stands in a document, as a sample; its environment variables are `KEY=s3cret`.
fn sample(kind: &str, metadata: &[(&str, &str)], every: Duration) -> Sample {
    let polled = polled(kind, metadata);
    Sample {
        app: "app".parse().unwrap(),
        environment: EnvironmentName::default(),
        every,
        source: polled.source,
        target: polled.target,
        activation: polled.activation,
    }
}

fn polled(kind: &str, metadata: &[(&str, &str)]) -> domain::scale::Polled {
    use domain::document::{Container, EnvValue, EnvVar, ScaleRule, ScaleTrigger, Template};
    let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let trigger = ScaleTrigger::Custom { kind: kind.to_owned(), metadata: metadata.collect() };
    let rule = ScaleRule { name: "rule".to_owned(), trigger, auth: Vec::new(), identity: None };
    let variable = EnvVar { name: "KEY".to_owned(), value: EnvValue::Plain("s3cret".to_owned()) };
    let first = Container { env: vec![variable], ..Container::default() };
    let template = Template { containers: vec![first], ..Template::default() };
    domain::scale::read(&rule, &template, &BTreeMap::new()).unwrap()
}

/// Whether a test may enter a network namespace, be it its own; says why where it may not.
fn may_dial() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("skipped: only root can enter network namespaces");
    }
    root
}

/// An address of this machine that nobody listens at.
async fn nobody() -> SocketAddr {
    tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}
