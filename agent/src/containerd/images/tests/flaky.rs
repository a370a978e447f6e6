//! A line to the registry that breaks, and a pull that goes on where it stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::reason::Reason;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tracing::Span;

use super::fixture::{Access, Registry, Sample, assert_reason, images};
use crate::containerd::testing::PrivateContainerd;
use crate::tasks::Tasks;

/// Less than the large layer, more than all else.
const FIRST_BUDGET: u64 = 500_000;

/// Passes on what the registry answers until the budget is used up, then breaks every connection.
struct Line {
    host: String,
    left: Arc<AtomicU64>,
    passed: Arc<AtomicU64>,
    tasks: Tasks,
}

impl Line {
    async fn to(registry: &Registry) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (left, passed) = (Arc::new(AtomicU64::new(FIRST_BUDGET)), Arc::new(AtomicU64::new(0)));
        let tasks = Tasks::default();
        let line = Self { host, left, passed, tasks: tasks.clone() };
        let (left, passed) = (Arc::clone(&line.left), Arc::clone(&line.passed));
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
}

async fn pass(near: TcpStream, far: TcpStream, left: Arc<AtomicU64>, passed: Arc<AtomicU64>) {
    let (mut from_near, mut to_near) = near.into_split();
    let (mut from_far, mut to_far) = far.into_split();
    let answers = async {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(length @ 1..) = from_far.read(&mut buffer).await {
            let piece = &buffer[..length];
            let length = length as u64;
            let spent = left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(length));
            if spent.is_err() || to_near.write_all(piece).await.is_err() {
                return;
            }
            passed.fetch_add(length, Ordering::SeqCst);
        }
    };
    tokio::select! {
        () = answers => (),
        _ = tokio::io::copy(&mut from_near, &mut to_far) => (),
    }
}

#[tokio::test]
async fn a_pull_that_broke_goes_on_where_it_stopped() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let Some(registry) = Registry::start(Access::Everyone).await else { return };
    let sample = Sample::here("flaky");
    registry.push("hello", "1", &sample).await;
    let line = Line::to(&registry).await;
    let mut images = images(&containerd, &[]);
    images.config = Arc::new(crate::config::Images {
        insecure_registries: vec![line.host.clone()],
        ..crate::config::Images::default()
    });
    let reference = format!("{}/hello:1", line.host);
    let broken = images.ensure(&reference, &[]).await;
    assert_reason(broken, Reason::RegistryUnreachable, &[]);
    let first = line.passed.load(Ordering::SeqCst);
    line.left.store(u64::MAX, Ordering::SeqCst);
    assert_eq!(images.ensure(&reference, &[]).await.unwrap().digest, sample.root.digest);
    let second = line.passed.load(Ordering::SeqCst) - first;
    assert!(second < FIRST_BUDGET, "{second} bytes came again after {first}");
    line.tasks.clone().shut_down(Duration::ZERO).await;
}
