//! A line to the registry that breaks, an agent that is stopped, and a pull that goes on where it stopped.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use domain::reason::Reason;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tracing::Span;

use super::fixture::{Access, OCI_LAYER, Registry, Sample, assert_reason, configured, images};
use crate::config;
use crate::containerd::images::Images;
use crate::containerd::images::content::{Blob, Content};
use crate::containerd::images::manifest::Descriptor;
use crate::containerd::testing::{PrivateContainerd, blobs};
use crate::tasks::Tasks;

/// Less than the large layer, more than all else.
const FIRST_BUDGET: u64 = 500_000;
/// What may come twice, of each cut (issue: at most 1 MiB).
const TWICE: u64 = 1 << 20;

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, from: u64, to: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        from + (self.0 >> 33) % (to - from)
    }
}

/// Passes on what the registry answers until the first budget is used up, then breaks every connection; then comes the
/// next budget, and after the last there is none to use up.
struct Line {
    host: String,
    budgets: Arc<Mutex<Vec<u64>>>,
    passed: Arc<AtomicU64>,
    tasks: Tasks,
}

impl Line {
    fn to(registry: &Registry, mut budgets: Vec<u64>) -> Self {
        // What waits in a large buffer on this side never went over the line.
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(32 << 10).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(64).unwrap();
        let host = listener.local_addr().unwrap().to_string();
        budgets.reverse();
        let budgets = Arc::new(Mutex::new(budgets));
        let tasks = Tasks::default();
        let line = Self { host, budgets, passed: Arc::default(), tasks: tasks.clone() };
        let (left, passed) = (Arc::clone(&line.budgets), Arc::clone(&line.passed));
        let far = registry.host.clone();
        tasks.spawn_short(Span::none(), async move {
            let connections = Tasks::default();
            while let Ok((near, _)) = listener.accept().await {
                let (left, passed) = (Arc::clone(&left), Arc::clone(&passed));
                let far = TcpStream::connect(&far).await.unwrap();
                connections.spawn_short(Span::none(), pass(near, far, left, passed));
            }
        });
        line
    }

    fn cuts_to_come(&self) -> usize {
        self.budgets.lock().unwrap().len()
    }

    fn images(&self, containerd: &PrivateContainerd) -> Images {
        let insecure_registries = vec![self.host.clone()];
        configured(containerd, config::Images { insecure_registries, ..config::Images::default() })
    }

    async fn end(self) {
        self.tasks.shut_down(Duration::ZERO).await;
    }
}

/// Whether so many bytes may pass before the line breaks.
fn spend(budgets: &Mutex<Vec<u64>>, bytes: u64) -> bool {
    let mut budgets = budgets.lock().unwrap();
    let Some(left) = budgets.last_mut() else { return true };
    if let Some(rest) = left.checked_sub(bytes) {
        *left = rest;
        return true;
    }
    budgets.pop();
    false
}

async fn pass(
    near: TcpStream,
    far: TcpStream,
    budgets: Arc<Mutex<Vec<u64>>>,
    passed: Arc<AtomicU64>,
) {
    let (mut from_near, mut to_near) = near.into_split();
    let (mut from_far, mut to_far) = far.into_split();
    let answers = async {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(length @ 1..) = from_far.read(&mut buffer).await {
            if !spend(&budgets, length as u64)
                || to_near.write_all(&buffer[..length]).await.is_err()
            {
                return;
            }
            passed.fetch_add(length as u64, Ordering::SeqCst);
        }
    };
    tokio::select! {
        () = answers => (),
        _ = tokio::io::copy(&mut from_near, &mut to_far) => (),
    }
}

fn size(sample: &Sample) -> u64 {
    sample.blobs.iter().map(|(blob, _)| blob.size).sum()
}

#[tokio::test]
async fn a_line_that_stays_away_is_told_and_the_next_pull_goes_on() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let Some(registry) = Registry::start(Access::Everyone).await else { return };
    let sample = Sample::here("flaky");
    registry.push("hello", "1", &sample).await;
    // Nothing passes after the first cut, not even a head.
    let budgets = std::iter::once(FIRST_BUDGET).chain([0; 20]).collect();
    let line = Line::to(&registry, budgets);
    let images = line.images(&containerd);
    let reference = format!("{}/hello:1", line.host);
    let broken = images.ensure(&reference, &[]).await;
    assert_reason(broken, Reason::RegistryUnreachable, &[]);
    let first = line.passed.load(Ordering::SeqCst);
    line.budgets.lock().unwrap().clear();
    assert_eq!(images.ensure(&reference, &[]).await.unwrap().digest, sample.root.digest);
    let second = line.passed.load(Ordering::SeqCst) - first;
    assert!(second < FIRST_BUDGET, "{second} bytes came again after {first}");
    line.end().await;
}

#[tokio::test]
async fn fifty_cuts_of_the_line_are_one_pull_and_each_costs_a_mebibyte_at_most() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let Some(registry) = Registry::start(Access::Everyone).await else { return };
    let sample = Sample::large(48 << 20);
    registry.push("hello", "1", &sample).await;
    let mut dice = Dice(50);
    let budgets = (0..50).map(|_| dice.throw(1_000, 1_600_000)).collect();
    let line = Line::to(&registry, budgets);
    let images = line.images(&containerd);
    let image = images.ensure(&format!("{}/hello:1", line.host), &[]).await.unwrap();
    assert_eq!(image.digest, sample.root.digest);
    assert_eq!(images.config(&image).await.unwrap().chain_id, sample.chain);
    assert_eq!(line.cuts_to_come(), 0);
    let (passed, size) = (line.passed.load(Ordering::SeqCst), size(&sample));
    let twice = passed.saturating_sub(size);
    println!("50 cuts of the line: {twice} bytes more than the {size} of the image");
    assert!(twice < 50 * TWICE / 4, "{passed} bytes for {size}");
    line.end().await;
}

#[tokio::test]
async fn an_agent_stopped_in_the_middle_of_a_pull_fetches_a_mebibyte_twice_at_most() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let Some(registry) = Registry::start(Access::Everyone).await else { return };
    let sample = Sample::large(24 << 20);
    registry.push("hello", "1", &sample).await;
    let line = Line::to(&registry, Vec::new());
    let mut dice = Dice(20);
    let (mut stopped, mut counted, size) = (0, 0, size(&sample));
    let digest = loop {
        // Each is an agent of its own: nothing is left in memory.
        let images = line.images(&containerd);
        let reference = format!("{}/hello:1", line.host);
        let enough = counted + dice.throw(200_000, 2_500_000);
        let passed = Arc::clone(&line.passed);
        let stop = async {
            while passed.load(Ordering::SeqCst) < enough {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            image = images.ensure(&reference, &[]) => break image.unwrap().digest,
            () = stop => stopped += 1,
        }
        counted = line.passed.load(Ordering::SeqCst);
        assert!(stopped < 100, "no end of it");
    };
    assert_eq!(digest, sample.root.digest);
    let twice = line.passed.load(Ordering::SeqCst).saturating_sub(size);
    println!("{stopped} stops of the agent: {twice} bytes more than the {size} of the image");
    assert!(5 < stopped && twice < stopped * TWICE, "{twice} bytes twice in {stopped} stops");
    line.end().await;
}

#[tokio::test]
async fn what_an_earlier_try_left_and_is_spoilt_is_thrown_away() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let Some(registry) = Registry::start(Access::Everyone).await else { return };
    let connection = containerd.connection();
    let kinds = ["other bytes", "more bytes", "another length"];
    for (n, kind) in kinds.into_iter().enumerate() {
        let sample = Sample::here(kind);
        registry.push("hello", &n.to_string(), &sample).await;
        let (layer, bytes) = sample.blob(OCI_LAYER);
        let expires = "2100-01-01T00:00:00Z".to_owned();
        let lease = format!("skerry-pull-{}", sample.root.digest.hex());
        let leased = connection.leased(&lease, expires).await.unwrap();
        let told = match kind {
            "another length" => layer.size + 5,
            "more bytes" => layer.size * 2,
            _ => layer.size,
        };
        let told = Descriptor::plain("", layer.digest, told);
        let name = format!("skerry-pull-{}", layer.digest);
        let content = Content(leased);
        let Blob::Missing(mut left) = content.open(&name, &told).await.unwrap() else {
            panic!("{kind}: the layer is there");
        };
        left.write(&vec![7; 100_000]).await.unwrap();
        if kind == "more bytes" {
            left.write(bytes).await.unwrap();
        }
        left.keep().await;
        let images = images(&containerd, &[&registry]);
        let image = images.ensure(&format!("{}/hello:{n}", registry.host), &[]).await.unwrap();
        assert_eq!(image.digest, sample.root.digest, "{kind}");
        forget_all(&connection).await;
        assert!(blobs(&connection).await.is_empty());
    }
}

/// Removes every image, and waits until its content is gone.
async fn forget_all(connection: &crate::containerd::connection::Connection) {
    use containerd_client::services::v1 as services;
    let mut images = connection.client().await.unwrap().images();
    let list = images.list(connection.request(services::ListImagesRequest::default())).await;
    for image in list.unwrap().into_inner().images {
        let request =
            services::DeleteImageRequest { name: image.name, sync: true, ..Default::default() };
        images.delete(connection.request(request)).await.unwrap();
    }
}
