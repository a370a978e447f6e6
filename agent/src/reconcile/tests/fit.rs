//! A board is finite: who has the replicas that fit, who is held back, and that this ends by itself.

use std::time::Duration;

use domain::reason::Reason;
use domain::scale::Asked;
use domain::status::{AppStatus, RevisionStatus, RunningState};
use tokio::time::{Instant, sleep};

use super::world::{ARMED_MIB, Board, REPLICA_MIB, document};

/// A rule without words: ten requests a second for each replica.
fn load(replicas: u64) -> Asked {
    Asked { begun: 15 * 10 * replicas, open: 1, waiting: 0 }
}

fn newest(status: &AppStatus) -> &RevisionStatus {
    &status.revisions[0]
}

fn has(count: u32) -> impl Fn(&AppStatus) -> bool {
    move |status| {
        let revision = newest(status);
        (revision.replicas, revision.ready_replicas, revision.reason) == (count, count, None)
    }
}

/// It has so many, and is held back for this.
fn held(count: u32, reason: Reason) -> impl Fn(&AppStatus) -> bool {
    move |status| {
        let revision = newest(status);
        revision.ready_replicas == count && revision.reason == Some(reason)
    }
}

async fn board(memory_mib: u64, apps: &[&str]) -> Board {
    let mut board = Board::start();
    board.world().memory_mib = memory_mib;
    for app in apps {
        board.send(app, &document(app, "v1", 1)).await.unwrap();
        board.until(app, has(1)).await;
    }
    board
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_is_shared_by_demand_and_goes_on_when_another_one_shrinks() {
    // One more is taken to need 71 MiB: 50, a tenth, and 16.
    let mut board = board(2 * REPLICA_MIB + 180, &["a", "b"]).await;
    board.ask_for("a--0000001", load(4));
    board.ask_for("b--0000001", load(3));
    // Two fit at once, one each; then there are 80 MiB left, and those go to the one that wants the more.
    let status = board.until("a", held(3, Reason::InsufficientMemory)).await;
    let revision = newest(&status);
    assert_eq!(revision.details, "3 of 4 replicas: one more needs 71 MiB, and 9 MiB are left");
    assert_eq!(revision.wanted_replicas, 4);
    assert_eq!(revision.running_state, RunningState::Processing);
    board.until("b", held(2, Reason::InsufficientMemory)).await;
    assert_eq!((board.backends("a").len(), board.backends("b").len()), (3, 2));
    sleep(Duration::from_mins(2)).await;
    assert_eq!(board.world().replicas.len(), 5, "nobody is stopped for it, and nobody starts");

    board.ask_for("b--0000001", load(1));
    board.until("b", has(1)).await;
    let begun = Instant::now();
    board.until("a", has(4)).await;
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_board_is_measured_for_somebody_alone_who_asks_for_more() {
    let mut board = board(1000, &["a", "b"]).await;
    sleep(Duration::from_hours(1)).await;
    assert_eq!(board.world().surveys, 0);
    board.ask_for("a--0000001", load(3));
    board.until("a", has(3)).await;
    let surveys = board.world().surveys;
    assert_eq!(surveys, 2, "what processors do is measured between two looks");
    sleep(Duration::from_hours(1)).await;
    assert_eq!(board.world().surveys, surveys, "it has what it wants");
}

#[tokio::test(start_paused = true)]
async fn with_busy_processors_an_app_has_its_least_and_no_more() {
    let mut board = board(1000, &["a"]).await;
    board.world().busy = 96;
    board.ask_for("a--0000001", load(4));
    let status = board.until("a", held(1, Reason::InsufficientCpu)).await;
    assert_eq!(newest(&status).details, "1 of 4 replicas: the processors have no time left");
    board.scale("a", "{minReplicas: 2}").await.unwrap();
    board.until("a", held(2, Reason::InsufficientCpu)).await;
    sleep(Duration::from_mins(1)).await;
    assert_eq!(board.world().replicas.len(), 2);
    board.world().busy = 50;
    board.until("a", has(4)).await;
}

#[tokio::test(start_paused = true)]
async fn what_stands_by_makes_room_for_what_is_asked_for() {
    let mut board = board(2 * REPLICA_MIB + 73, &["a"]).await;
    let idle = document("idle", "v1", 1)
        .replace("minReplicas: 1", "minReplicas: 0")
        .replace("skerry: {", "skerry: {standby: created, ");
    board.send("idle", &idle).await.unwrap();
    let status = board.until("idle", |status| newest(status).standby == "created").await;
    let holds = |status: &AppStatus| newest(status).standby_memory_bytes == ARMED_MIB << 20;
    board.until("idle", holds).await;
    assert_eq!(newest(&status).replicas, 0);
    // One fits beside what stands by, and another one only without.
    board.ask_for("a--0000001", load(3));
    let status = board.until("idle", |status| newest(status).standby == "prepared").await;
    assert_eq!(newest(&status).standby_memory_bytes, 0);
    assert_eq!(board.told(Reason::StandbyGivenUp), 1);
    board.until("a", has(3)).await;
}

#[tokio::test(start_paused = true)]
async fn where_memory_is_low_and_an_app_is_without_its_least_others_give_up_what_they_have_above_theirs()
 {
    let mut board = board(1000, &["a"]).await;
    let lazy = document("b", "v1", 1).replace("minReplicas: 1", "minReplicas: 0");
    board.send("b", &lazy).await.unwrap();
    board.until("b", has(1)).await;
    board.ask_for("a--0000001", load(3));
    board.until("a", has(3)).await;
    board.until("b", has(0)).await;
    board.press_or_not(true);
    sleep(Duration::from_mins(1)).await;
    assert_eq!(board.backends("a").len(), 3, "what runs is not taken away for nothing");
    board.hold_health();
    board.ask_for("b--0000001", Asked { waiting: 1, ..Asked::default() });
    let status = board.until("a", held(2, Reason::InsufficientMemory)).await;
    assert_eq!(newest(&status).details, "memory is low: 2 of 3 replicas");
    let begun = Instant::now();
    board.until("a", held(1, Reason::InsufficientMemory)).await;
    assert!(Duration::from_secs(9) < begun.elapsed(), "one at a time");
    sleep(Duration::from_mins(5)).await;
    assert_eq!(board.backends("a").len(), 1, "never its least");
    board.release_health();
    board.until("b", has(1)).await;
    board.press_or_not(false);
    board.until("a", has(3)).await;
}

#[tokio::test(start_paused = true)]
async fn an_update_of_one_that_is_held_back_comes_with_as_many_as_that_has() {
    let mut board = board(1000, &["a"]).await;
    board.world().busy = 96;
    board.ask_for("a--0000001", load(4));
    board.until("a", held(1, Reason::InsufficientCpu)).await;
    board.send("a", &document("a", "v2", 2)).await.unwrap();
    let takes_over =
        |status: &AppStatus| status.revisions.len() == 2 && newest(status).traffic_weight == 100;
    let status = board.until("a", takes_over).await;
    assert_eq!(newest(&status).replicas, 1);
    assert_eq!(board.world().starts, 2, "not as many as its rules would have");
}
