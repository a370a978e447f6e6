//! How a replica goes: once nothing of it is open, or after its grace.

use std::time::Duration;

use domain::model::ReplicaName;
use domain::status::RunningStatus;
use tokio::time::{Instant, sleep};

use super::world::{Board, document};

/// A document whose replicas get so many seconds.
fn graceful(tag: &str, generation: u64, grace: u32) -> String {
    let grace = format!("    terminationGracePeriodSeconds: {grace}\n    scale:");
    let document = document("hello", tag, generation).replacen("    scale:", &grace, 1);
    document.replacen("skerry: {", "skerry: {probationSeconds: 0, ", 1)
}

/// A board where a second version has just taken over from the first, whose replica has requests open, and when.
async fn taken_over(grace: u32) -> (Board, ReplicaName, Instant) {
    let mut board = Board::start();
    board.send("hello", &graceful("v1", 1, grace)).await.unwrap();
    let status =
        board.until("hello", |status| status.running_status == RunningStatus::Running).await;
    let old = status.revisions[0].replica_list[0].name.clone();
    board.world().open = true;
    board.send("hello", &graceful("v2", 2, grace)).await.unwrap();
    board.until("hello", |status| status.revisions[0].traffic_weight == 100).await;
    assert_eq!(board.backends("hello"), ["10.213.0.3:8080"], "the routes are without it first");
    (board, old, Instant::now())
}

#[tokio::test(start_paused = true)]
async fn a_replica_is_stopped_once_its_requests_have_ended() {
    let (mut board, old, since) = taken_over(30).await;
    sleep(Duration::from_secs(20)).await;
    assert!(board.world().replicas.contains_key(&old), "a request is open");
    board.world().open = false;
    board.until_world(|world| world.stops.contains_key(&old)).await;
    let waited = board.world().stops[&old] - since;
    assert!((20..22).contains(&waited.as_secs()), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn requests_that_do_not_end_hold_a_replica_for_its_grace_and_no_longer() {
    let (mut board, old, since) = taken_over(7).await;
    board.until_world(|world| world.stops.contains_key(&old)).await;
    let waited = board.world().stops[&old] - since;
    assert!((6..9).contains(&waited.as_secs()), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn without_a_grace_nobody_is_waited_for() {
    let (mut board, old, since) = taken_over(0).await;
    board.until_world(|world| world.stops.contains_key(&old)).await;
    let waited = board.world().stops[&old].saturating_duration_since(since);
    assert!(waited < Duration::from_secs(1), "{waited:?}");
}
