//! Images that nobody needs: when they are looked through, what stays, and what is told.

use domain::keep::{Cause, Extent, Removed};
use domain::model::{Digest, RevisionName};
use domain::reason::Reason;
use domain::replica::Trouble;
use domain::status::RunningStatus;
use tokio::time::Instant;

use super::world::{Board, document};

#[tokio::test(start_paused = true)]
async fn every_hour_and_with_all_that_is_needed_named() {
    let mut board = Board::start();
    for (tag, generation) in [("v1", 1), ("v2", 2), ("v3", 3)] {
        board.send("hello", &document("hello", tag, generation)).await.unwrap();
        let revision = format!("hello--000000{generation}");
        board
            .until("hello", |status| {
                status.running_status == RunningStatus::Running
                    && status.latest_ready_revision.as_ref().map(RevisionName::as_str)
                        == Some(revision.as_str())
                    && status.revisions.iter().filter(|one| one.active).count() == 1
            })
            .await;
    }
    let name = "registry.example/hello:v1".to_owned();
    board.world().unneeded =
        vec![Removed { digest: Digest::of(name.as_bytes()), name, cause: Cause::Age }];
    // Of the paused clock: five minutes to the first look, an hour to each of the next.
    tokio::time::sleep(std::time::Duration::from_hours(3)).await;
    board.until_world(|world| 3 <= world.clearings.len()).await;
    let looks = board.world().clearings.clone();
    let first = &looks[0];
    assert_eq!(first.extent, Extent::Routine);
    // The one that serves, and the one before it.
    let kept = ["registry.example/hello:v2", "registry.example/hello:v3"];
    assert_eq!(first.needs.references.iter().collect::<Vec<_>>(), kept);
    let digests = kept.map(|name| Digest::of(name.as_bytes()));
    assert_eq!(first.needs.digests, digests.into_iter().collect());
    let wait = looks[2].as_of.since(looks[1].as_of);
    assert!((3600..3700).contains(&wait.as_secs()), "{wait:?}");
    assert_eq!(board.told(Reason::ImagesRemoved), 1);
}

#[tokio::test(start_paused = true)]
async fn an_image_without_room_has_others_cleared_and_is_fetched_within_half_a_minute_of_room() {
    let mut board = Board::start();
    board.send("hello", &document("hello", "v1", 1)).await.unwrap();
    board.until("hello", |status| status.running_status == RunningStatus::Running).await;
    let details = "it needs 9 MiB".to_owned();
    board.world().fetch_trouble = Some(Trouble { reason: Reason::ImageNoSpace, details });
    board.send("hello", &document("hello", "v2", 2)).await.unwrap();
    let status = board
        .until("hello", |status| status.revisions[0].reason == Some(Reason::ImageNoSpace))
        .await;
    assert_eq!(status.revisions[0].details, "it needs 9 MiB");
    assert_eq!(board.backends("hello"), ["10.213.0.2:8080"], "the old one serves");
    board.until_world(|world| !world.clearings.is_empty()).await;
    // For hours nothing changes, and nobody looks more often than once a minute.
    tokio::time::sleep(std::time::Duration::from_hours(3)).await;
    let looks = board.world().clearings.len();
    assert!((100..=185).contains(&looks), "{looks} looks in three hours");
    board.world().fetch_trouble = None;
    let room = Instant::now();
    let serves = |status: &domain::status::AppStatus| {
        status.latest_ready_revision.as_ref().is_some_and(|one| one.as_str() == "hello--0000002")
    };
    board.until("hello", serves).await;
    assert!(room.elapsed().as_secs() <= 31, "{:?}", room.elapsed());
}
