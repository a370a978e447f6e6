//! Memory pressure calls the loop: whoever stands by for a revision on trial gives its replica up.

use domain::reason::Reason;
use domain::state::Standby;
use domain::status::{Phase, RunningStatus};

use super::world::{Board, document};

#[tokio::test(start_paused = true)]
async fn the_one_that_stands_by_gives_up_under_pressure_and_comes_back_when_the_trial_fails() {
    let mut board = Board::start();
    board.send("hello", &document("hello", "v1", 1)).await.unwrap();
    board.until("hello", |status| status.running_status == RunningStatus::Running).await;
    board.send("hello", &document("hello", "v2", 2)).await.unwrap();
    board.until("hello", |status| status.revisions[0].phase == Phase::Probation).await;
    assert_eq!(board.world().replicas.len(), 2);
    board.press();
    board.until_world(|world| world.replicas.len() == 1).await;
    let status = board.until("hello", |status| status.revisions[1].replicas == 0).await;
    assert_eq!(status.revisions[0].phase, Phase::Probation);
    assert!(status.revisions[1].active);
    assert_eq!(board.stored("hello").revisions[1].standby, Standby::GivenUp);
    assert_eq!(board.told(Reason::StandbyGivenUp), 1);

    // What was given up stays given up, also for an agent that knows of no pressure.
    let mut board = board.restart().await;
    let status = board.until("hello", |status| status.revisions[0].replicas == 1).await;
    assert_eq!((status.revisions[0].phase, status.revisions[1].replicas), (Phase::Probation, 0));

    board.crash_all(1);
    let status = board.until("hello", |status| status.revisions[1].ready_replicas == 1).await;
    assert_eq!(status.revisions[0].phase, Phase::RolledBack);
    assert_eq!(status.revisions[1].traffic_weight, 100);
}
