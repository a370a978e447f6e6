//! The prober against real sockets; its course in time is tested in `domain::probe`.

use std::net::Ipv4Addr;
use std::time::Duration;

use domain::probe::{Ask, Health, Probe, ProbeKind, ProbeTarget};
use domain::reason::Reason;
use domain::replica::{Executed, Trouble};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::runtime::RuntimeError;

fn probe(kind: ProbeKind, ask: Ask) -> Probe {
    Probe {
        container: "main".to_owned(),
        kind,
        ask,
        initial_delay: Duration::ZERO,
        period: Duration::from_millis(100),
        timeout: Duration::from_secs(2),
        success_threshold: 1,
        failure_threshold: 2,
        grace: None,
        eager: false,
    }
}

fn http(port: u16, path: &str, https: bool) -> Ask {
    let headers =
        vec![("Host".to_owned(), "probed".to_owned()), ("X-A".to_owned(), "b".to_owned())];
    Ask::Http { host: None, port, path: path.to_owned(), https, headers }
}

fn text(health: &Health) -> String {
    health.failure.as_ref().map(|failure| failure.text.clone()).unwrap_or_default()
}

/// Ends commands as they say: `3 words`.
#[derive(Debug, Clone)]
struct Commands;

impl Exec for Commands {
    async fn exec(
        &self,
        replica: &ReplicaName,
        container: &str,
        command: &[String],
        limit: Duration,
    ) -> Result<Executed, RuntimeError> {
        assert_eq!((replica.as_str(), container), ("app--1-abcde", "main"));
        assert_eq!(limit, Duration::from_secs(2));
        let [code, output] = command else { panic!("{command:?}") };
        match code.as_str() {
            "away" => Err(RuntimeError::Unavailable(output.clone())),
            "failed" => Err(RuntimeError::Failed(Trouble {
                reason: Reason::ProbeFailed,
                details: output.clone(),
            })),
            code => Ok(Executed { code: code.parse().unwrap(), output: output.clone() }),
        }
    }
}

fn means() -> Means<Commands> {
    Means { exec: Commands, netns_dir: "/nonexistent".into() }
}

fn replica() -> ReplicaName {
    "app--1-abcde".parse().unwrap()
}

fn plan(probes: Vec<Probe>, epoch: u64) -> Arc<ProbePlan> {
    let target = ProbeTarget { address: Ipv4Addr::LOCALHOST, probes, epoch, adopted: false };
    Arc::new([(replica(), target)].into())
}

/// A prober at work; it ends with this.
struct Bench {
    plan: watch::Sender<Arc<ProbePlan>>,
    report: watch::Receiver<Arc<HealthReport>>,
    stop: CancellationToken,
}

impl Bench {
    fn new(first: Arc<ProbePlan>) -> Self {
        let (plan, plan_rx) = watch::channel(first);
        let (report_tx, report) = watch::channel(Arc::default());
        let stop = CancellationToken::new();
        let running = run(means(), plan_rx, report_tx, Clock::default(), stop.clone());
        crate::tasks::Tasks::default().spawn_short(tracing::Span::none(), running);
        Self { plan, report, stop }
    }

    /// Waits until the report about the replica is like this.
    async fn health(&mut self, like: impl Fn(&Health) -> bool) -> Health {
        let found = self.report.wait_for(|report| report.get(&replica()).is_some_and(&like));
        let found = time::timeout(Duration::from_secs(20), found).await.expect("it comes to that");
        found.unwrap()[&replica()].clone()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Reads a request's head and answers with a status; returns the head.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, status: &str) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let answer = format!("HTTP/1.1 {status} -\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(answer.as_bytes()).await.unwrap();
    stream.shutdown().await.ok();
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn a_port_that_opens_makes_ready_and_one_that_closes_does_not() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let probes = vec![probe(ProbeKind::Readiness, Ask::Tcp { host: None, port: address.port() })];
    let mut bench = Bench::new(plan(probes, 1));
    let refused = format!("Readiness tcp {address}: connection refused");
    let health = bench.health(|health| health.failure.is_some()).await;
    assert_eq!(text(&health), refused);
    let failure = health.failure.as_ref().unwrap();
    assert!(failure.refused && failure.port == Some(address.port()));
    assert!(health.started && !health.ready);

    let listener = socket.listen(16).unwrap();
    let health = bench.health(|health| health.ready).await;
    assert_eq!(health.failure, None);

    drop(listener);
    let health = bench.health(|health| !health.ready).await;
    assert_eq!(text(&health), refused);
}

#[tokio::test]
async fn an_http_probe_sends_its_headers_and_judges_by_the_status() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let probes = vec![probe(ProbeKind::Readiness, http(address.port(), "/up?a=1", false))];
    let mut bench = Bench::new(plan(probes, 1));

    let head = serve(listener.accept().await.unwrap().0, "400").await;
    assert!(head.starts_with("GET /up?a=1 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("host: probed\r\n") && head.contains("x-a: b\r\n"), "{head}");
    let health = bench.health(|health| health.failure.is_some()).await;
    let told = format!("Readiness http {address}/up?a=1: status 400");
    assert_eq!(text(&health), told);
    assert!(!health.failure.unwrap().refused);

    serve(listener.accept().await.unwrap().0, "399").await;
    bench.health(|health| health.ready).await;
}

#[tokio::test]
async fn an_https_probe_takes_any_certificate() {
    let made = rcgen::generate_simple_self_signed(["elsewhere".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut bench = Bench::new(plan(vec![probe(ProbeKind::Readiness, http(port, "/", true))], 1));
    let accepting = TlsAcceptor::from(Arc::new(config)).accept(listener.accept().await.unwrap().0);
    serve(accepting.await.unwrap(), "200").await;
    bench.health(|health| health.ready).await;
}

#[tokio::test]
async fn a_silent_app_fails_its_probe_when_the_time_is_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let ask = http(address.port(), "/", false);
    let liveness = Probe { timeout: Duration::from_millis(50), ..probe(ProbeKind::Liveness, ask) };
    let mut bench = Bench::new(plan(vec![liveness], 1));
    let health = bench.health(|health| !health.unhealthy.is_empty()).await;
    assert_eq!(health.unhealthy, ["main"]);
    assert_eq!(text(&health), format!("Liveness http {address}/: no answer within 0.05 s"));
}

#[tokio::test]
async fn a_restart_forgets_what_was_learned() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let probes = |port| vec![probe(ProbeKind::Readiness, Ask::Tcp { host: None, port })];
    let mut bench = Bench::new(plan(probes(port), 1));
    bench.health(|health| health.ready).await;
    drop(listener);
    bench.plan.send_replace(plan(probes(port), 2));
    let health = bench.health(|health| health.epoch == 2).await;
    assert!(!health.ready);
    bench.plan.send_replace(Arc::default());
    bench.report.wait_for(|report| report.is_empty()).await.unwrap();
}

#[tokio::test]
async fn an_answer_from_before_a_restart_does_not_count_after_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let probes = || vec![probe(ProbeKind::Readiness, http(port, "/", false))];
    let mut bench = Bench::new(plan(probes(), 1));
    let (before, _) = listener.accept().await.unwrap();
    bench.plan.send_replace(plan(probes(), 2));
    let (after, _) = listener.accept().await.unwrap();
    serve(before, "200").await;
    serve(after, "500").await;
    let health = bench.health(|health| health.failure.is_some() || health.ready).await;
    assert!(!health.ready);
}

#[tokio::test]
async fn a_command_is_judged_by_its_exit_code_and_its_last_words_are_told() {
    let ask =
        |code: &str, output: &str| Ask::Exec { command: vec![code.to_owned(), output.to_owned()] };
    let probes = |ask| vec![probe(ProbeKind::Readiness, ask)];
    let mut bench = Bench::new(plan(probes(ask("0", "")), 1));
    bench.health(|health| health.ready).await;
    for (epoch, code, output, told) in [
        (2, "3", "one\ntwo\n", "Readiness exec 3 one\ntwo\n: exit code 3: two"),
        (3, "137", "", "Readiness exec 137 : exit code 137"),
        (4, "failed", "no end", "Readiness exec failed no end: no end"),
    ] {
        bench.plan.send_replace(plan(probes(ask(code, output)), epoch));
        let health = bench.health(|health| health.epoch == epoch && health.failure.is_some()).await;
        assert_eq!(text(&health), told);
        assert!(!health.ready);
    }
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_is_away_is_no_failure_of_the_app() {
    let command = vec!["away".to_owned(), "for a while".to_owned()];
    let mut bench = Bench::new(plan(vec![probe(ProbeKind::Liveness, Ask::Exec { command })], 1));
    time::sleep(Duration::from_mins(1)).await;
    let health = bench.health(|health| health.epoch == 1).await;
    assert!(health.unhealthy.is_empty() && health.failure.is_none());
}

/// How often a future was polled: what a busy loop would show in.
async fn polls(future: impl Future<Output = ()>, during: Duration) -> usize {
    let mut future = std::pin::pin!(future);
    let mut polls = 0;
    let counted = std::future::poll_fn(|cx| {
        polls += 1;
        future.as_mut().poll(cx)
    });
    drop(time::timeout(during, counted).await);
    polls
}

#[tokio::test(start_paused = true)]
async fn where_nothing_is_probed_nothing_wakes() {
    let (_plan, plan_rx) = watch::channel(plan(Vec::new(), 1));
    let (report_tx, report) = watch::channel(Arc::default());
    let running = run(means(), plan_rx, report_tx, Clock::default(), CancellationToken::new());
    // One poll to begin with, one as the hour ends.
    assert!(polls(running, Duration::from_hours(1)).await <= 2);
    assert!(report.borrow()[&replica()].ready);
}

#[tokio::test]
async fn the_last_plan_holds_when_the_loop_is_gone() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (plan_tx, plan_rx) =
        watch::channel(plan(vec![probe(ProbeKind::Readiness, Ask::Tcp { host: None, port })], 1));
    let (report_tx, mut report) = watch::channel(Arc::default());
    drop(plan_tx);
    let stop = CancellationToken::new();
    let running = run(means(), plan_rx, report_tx, Clock::default(), stop.clone());
    let ready = async {
        report.wait_for(|report| report.get(&replica()).is_some_and(|h| h.ready)).await.unwrap();
        stop.cancel();
    };
    time::timeout(Duration::from_secs(20), async { tokio::join!(running, ready) }).await.unwrap();
}
