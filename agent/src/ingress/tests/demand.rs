//! What is told of the requests for each revision, and when nothing is.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};

use domain::route::Side;
use domain::scale::Asked;
use futures_util::FutureExt as _;

use super::super::demand;
use super::super::errand::{Errand, Finding};
use super::super::upstream::Busy;
use super::*;

/// The ingress without sockets, on a clock of its own.
struct Still {
    routes: watch::Sender<Arc<RouteTable>>,
    demand: watch::Receiver<Arc<Demand>>,
    shared: Arc<Shared>,
}

impl Still {
    fn new(apps: Vec<Service>) -> Self {
        let (routes, routes_rx) = watch::channel(table(apps));
        let (demand_tx, demand) = watch::channel(Arc::default());
        let shared = Shared::new(settings(), routes_rx, demand_tx, Tasks::default());
        Self { routes, demand, shared: Arc::new(shared) }
    }

    fn running(apps: Vec<Service>) -> Self {
        let still = Self::new(apps);
        let shared = Arc::clone(&still.shared);
        shared.tasks.spawn(Span::none(), |stop| demand::run(Arc::clone(&shared), stop));
        still
    }

    fn ask(&self, host: &str) -> Busy {
        match Errand::new(host, &Side::Lan, &self.shared).look(&self.shared) {
            Finding::Reserved(reserved) => reserved.busy,
            Finding::Asleep(_) | Finding::Nobody(_) => panic!("nobody serves {host}"),
        }
    }

    /// What is told next, and how many seconds after `since`.
    async fn next(&mut self, since: time::Instant) -> (u64, String) {
        let told = time::timeout(Duration::from_hours(1), self.demand.changed()).await;
        told.expect("something is told").unwrap();
        (since.elapsed().as_secs(), words(&self.demand.borrow_and_update()))
    }

    /// What has been told since the last look.
    fn told(&mut self) -> Option<String> {
        self.demand.has_changed().unwrap().then(|| words(&self.demand.borrow_and_update()))
    }
}

/// `hello--1: 2 begun, 1 open, 0 waiting`
fn words(demand: &Demand) -> String {
    let one = |(revision, asked): (&RevisionName, &Asked)| {
        let Asked { begun, open, waiting } = asked;
        format!("{revision}: {begun} begun, {open} open, {waiting} waiting")
    };
    demand.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn at(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
}

#[tokio::test(start_paused = true)]
async fn requests_are_told_window_by_window_until_one_without() {
    let mut still = Still::running(vec![app("hello", &[at(1)]), app("other", &[at(2)])]);
    let since = time::Instant::now();
    let open = still.ask("hello");
    drop((still.ask("hello"), still.ask("other")));
    // Whoever comes after a rest is told at once, for what is about to go to zero.
    let told = "hello--1: 1 begun, 0 open, 0 waiting; other--1: 1 begun, 0 open, 0 waiting";
    assert_eq!(still.next(since).await, (0, told.to_owned()));
    let told = "hello--1: 2 begun, 1 open, 0 waiting; other--1: 1 begun, 0 open, 0 waiting";
    assert_eq!(still.next(since).await, (15, told.to_owned()));
    // What stays open is told, whoever else is gone.
    for end in [30, 45] {
        let told = "hello--1: 0 begun, 1 open, 0 waiting".to_owned();
        assert_eq!(still.next(since).await, (end, told));
    }
    drop(open);
    assert_eq!(still.next(since).await, (60, String::new()));
    time::sleep(Duration::from_hours(1)).await;
    assert_eq!(still.told(), None);
    // The next request begins a window.
    let since = time::Instant::now();
    drop(still.ask("hello"));
    let told = "hello--1: 1 begun, 0 open, 0 waiting".to_owned();
    assert_eq!(still.next(since).await, (0, told.clone()));
    assert_eq!(still.next(since).await, (15, told));
    assert_eq!(still.next(since).await, (30, String::new()));
}

#[tokio::test(start_paused = true)]
async fn what_began_at_a_replica_that_has_left_is_counted() {
    let mut still = Still::running(vec![app("hello", &[at(1)])]);
    let since = time::Instant::now();
    let open = still.ask("hello");
    still.routes.send_replace(table(vec![app("hello", &[at(2)])]));
    drop(still.ask("hello"));
    still.routes.send_replace(table(vec![asleep("hello", Sleep::Wakes)]));
    drop(still.shared.fleet());
    let told = "hello--1: 1 begun, 0 open, 0 waiting".to_owned();
    assert_eq!(still.next(since).await, (0, told));
    let told = "hello--1: 2 begun, 1 open, 0 waiting".to_owned();
    assert_eq!(still.next(since).await, (15, told));
    drop(open);
    assert_eq!(still.next(since).await, (30, String::new()));
}

#[tokio::test(start_paused = true)]
async fn the_first_that_waits_and_the_last_are_told_at_once() {
    let mut still = Still::new(vec![asleep("hello", Sleep::Wakes)]);
    let shared = Arc::clone(&still.shared);
    let wait = || {
        let shared = &shared;
        async move { Errand::new("hello", &Side::Lan, shared).reserve(shared, || 0).await.ok() }
    };
    let (mut first, mut second) = (wait().boxed(), wait().boxed());
    assert!(first.as_mut().now_or_never().is_none());
    assert_eq!(still.told().unwrap(), "hello--1: 0 begun, 0 open, 1 waiting");
    assert!(second.as_mut().now_or_never().is_none());
    drop(first);
    assert_eq!(still.told(), None);
    drop(second);
    assert_eq!(still.told().unwrap(), "");

    let (mut first, mut second) = (wait().boxed(), wait().boxed());
    assert!(first.as_mut().now_or_never().is_none());
    assert!(second.as_mut().now_or_never().is_none());
    assert_eq!(still.told().unwrap(), "hello--1: 0 begun, 0 open, 1 waiting");
    still.routes.send_replace(table(vec![app("hello", &[at(1)])]));
    shared.waiting.call(&shared);
    // They are told as open, or it would go to sleep again before the window ends.
    assert_eq!(still.told().unwrap(), "hello--1: 1 begun, 2 open, 0 waiting");
    let served = (first.await.unwrap(), second.await.unwrap());
    let since = time::Instant::now();
    shared.tasks.spawn(Span::none(), |stop| demand::run(Arc::clone(&shared), stop));
    let told = "hello--1: 2 begun, 2 open, 0 waiting".to_owned();
    assert_eq!(still.next(since).await, (15, told));
    drop(served);
    assert_eq!(still.next(since).await, (30, String::new()));
}

#[tokio::test(start_paused = true)]
async fn who_goes_on_waiting_is_told_with_each_window() {
    let mut still = Still::running(vec![asleep("hello", Sleep::Wakes)]);
    let shared = Arc::clone(&still.shared);
    let wait = || {
        let shared = &shared;
        async move { Errand::new("hello", &Side::Lan, shared).reserve(shared, || 0).await.ok() }
    };
    let since = time::Instant::now();
    let mut waits = [wait().boxed(), wait().boxed()];
    for one in &mut waits {
        assert!(one.as_mut().now_or_never().is_none());
    }
    let told = "hello--1: 0 begun, 0 open, 1 waiting".to_owned();
    assert_eq!(still.next(since).await, (0, told));
    for end in [15, 30] {
        let told = "hello--1: 0 begun, 0 open, 2 waiting".to_owned();
        assert_eq!(still.next(since).await, (end, told));
    }
    drop(waits);
    assert_eq!(still.next(since).await, (30, String::new()));
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn no_timer_runs_while_nobody_asks() {
    let still = Still::new(vec![app("hello", &[at(1)])]);
    let rung = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&rung));
    let stop = CancellationToken::new();
    let mut windows = demand::run(Arc::clone(&still.shared), stop).boxed();
    let mut turn = || assert!(windows.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let woken = || rung.0.load(Ordering::SeqCst);
    turn();
    time::sleep(Duration::from_hours(1)).await;
    assert_eq!(woken(), 0, "at rest from the beginning");
    for rests in [3, 6] {
        drop(still.ask("hello"));
        // The first of many requests rings.
        drop(still.ask("hello"));
        turn();
        for _ in 0..2 {
            time::sleep(Duration::from_secs(16)).await;
            turn();
        }
        assert_eq!(woken(), rests, "one ring, two windows");
        time::sleep(Duration::from_hours(1)).await;
        turn();
        assert_eq!(woken(), rests, "at rest again");
    }
}
