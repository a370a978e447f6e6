//! The loop against ports made of maps: what it does with documents, crashes, outages and reboots.

mod clearing;
mod draining;
mod environments;
mod fit;
mod ports;
mod pressure;
mod scaling;
mod secrets;
mod troubles;
mod world;

use std::time::Duration;

use domain::model::ReplicaName;
use domain::reason::Reason;
use domain::replica::{ContainerState, Trouble};
use domain::status::{Phase, RunningState, RunningStatus, Source};
use expect_test::expect;

use self::world::{Board, document};
use crate::inbox::Run;
use crate::runtime::RuntimeError;

#[tokio::test(start_paused = true)]
async fn a_document_becomes_a_replica_that_serves() {
    let mut board = Board::start();
    let accepted = board.send("hello", &document("hello", "v1", 1)).await.unwrap();
    assert!(accepted.changed);
    let status =
        board.until("hello", |status| status.running_status == RunningStatus::Running).await;
    let revision = &status.revisions[0];
    assert_eq!(revision.name.as_str(), "hello--0000001");
    assert_eq!(revision.phase, Phase::Committed);
    assert_eq!((revision.replicas, revision.ready_replicas, revision.traffic_weight), (1, 1, 100));
    assert_eq!(revision.replica_list[0].address.unwrap().to_string(), "10.213.0.2");
    assert_eq!(status.fqdn, "hello.default.pi-1.internal");
    assert_eq!(board.backends("hello"), ["10.213.0.2:8080"]);
    assert!(board.stored("hello").revisions[0].was_ready);
}

#[tokio::test(start_paused = true)]
async fn an_update_takes_over_only_once_it_is_ready() {
    let mut board = Board::start();
    board.send("hello", &document("hello", "v1", 1)).await.unwrap();
    board.until("hello", |status| status.running_status == RunningStatus::Running).await;
    board.hold_health();
    board.send("hello", &document("hello", "v2", 2)).await.unwrap();
    let status = board
        .until("hello", |status| status.revisions[0].replicas == 1 && status.revisions.len() == 2)
        .await;
    assert_eq!(status.revisions[0].reason, Some(Reason::WaitingForProbe));
    assert_eq!(board.backends("hello"), ["10.213.0.2:8080"], "the old one serves");
    board.release_health();
    let status = board
        .until("hello", |status| {
            status.revisions[0].traffic_weight == 100 && status.revisions[1].replicas == 0
        })
        .await;
    assert_eq!(status.latest_ready_revision.unwrap().as_str(), "hello--0000002");
    assert!(!status.revisions[1].active);
    assert_eq!(
        board.backends("hello"),
        ["10.213.0.3:8080"],
        "a successor has an address of its own"
    );
}

#[tokio::test(start_paused = true)]
async fn a_newer_document_supersedes_one_that_is_stuck() {
    let mut board = Board::start();
    board.world().missing_images.insert("registry.example/hello:v1".to_owned());
    board.send("hello", &document("hello", "v1", 1)).await.unwrap();
    let status = board.until("hello", |status| status.revisions[0].reason.is_some()).await;
    assert_eq!(status.revisions[0].reason, Some(Reason::ImageNotFound));
    board.send("hello", &document("hello", "v2", 2)).await.unwrap();
    let status =
        board.until("hello", |status| status.running_status == RunningStatus::Running).await;
    assert_eq!(status.latest_revision.unwrap().as_str(), "hello--0000002");
    assert!(!status.revisions[1].active);
}

#[tokio::test(start_paused = true)]
async fn a_crashing_container_waits_out_its_backoff() {
    let mut board = Board::start();
    board.send("hello", &document("hello", "v1", 1)).await.unwrap();
    board.until("hello", |status| status.running_status == RunningStatus::Running).await;
    board.crash_all(3);
    let status = board.until("hello", |status| status.revisions[0].reason.is_some()).await;
    assert_eq!(status.revisions[0].reason, Some(Reason::ContainerExited));
    assert_eq!(status.revisions[0].details, "container main ended with exit code 3");
    assert!(board.backends("hello").is_empty());
    let crashed = tokio::time::Instant::now();
    let status = board.until("hello", |status| status.revisions[0].ready_replicas == 1).await;
    assert_eq!(status.revisions[0].replica_list[0].restart_count, 1);
    assert!(Duration::from_millis(900) <= crashed.elapsed(), "{:?}", crashed.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_adopts_what_runs() {
    let mut board = Board::start();
    board.send("hello", &document("hello", "v1", 1)).await.unwrap();
    let before =
        board.until("hello", |status| status.running_status == RunningStatus::Running).await;
    let mut board = board.restart().await;
    let after =
        board.until("hello", |status| status.running_status == RunningStatus::Running).await;
    assert_eq!(after.revisions[0].replica_list[0].name, before.revisions[0].replica_list[0].name);
    assert_eq!(board.world().starts, 1, "nothing was started again");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_dies_while_an_app_is_recreated_waits_for_nobody_who_made_room() {
    let recreated = |tag, generation| {
        document("hello", tag, generation)
            .replace("skerry: {", "skerry: {updateStrategy: recreate, probationSeconds: 0, ")
    };
    let mut board = Board::start();
    board.send("hello", &recreated("v1", 1)).await.unwrap();
    board.until("hello", |status| status.running_status == RunningStatus::Running).await;
    board.hold_health();
    board.send("hello", &recreated("v2", 2)).await.unwrap();
    board
        .until("hello", |status| {
            status.revisions[0].replicas == 1 && status.revisions[1].replicas == 0
        })
        .await;
    let mut board = board.restart().await;
    let began = tokio::time::Instant::now();
    board.until("hello", |status| status.revisions[0].phase == Phase::Committed).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn records_of_an_earlier_boot_are_made_anew() {
    let mut board = Board::start();
    board.send("hello", &document("hello", "v1", 1)).await.unwrap();
    let before =
        board.until("hello", |status| status.running_status == RunningStatus::Running).await;
    board.world().reboot();
    let mut board = board.restart().await;
    let old: ReplicaName = before.revisions[0].replica_list[0].name.clone();
    board
        .until("hello", |status| {
            let list = &status.revisions[0].replica_list;
            list.len() == 1 && list[0].ready && list[0].name != old
        })
        .await;
    board.until_world(|world| !world.replicas.contains_key(&old)).await;
}

#[tokio::test(start_paused = true)]
async fn containerd_may_come_later() {
    let mut board = Board::start();
    board.world().away = Some(RuntimeError::Unavailable("no such file".to_owned()));
    board.send("hello", &document("hello", "v1", 1)).await.unwrap();
    let status = board.until("hello", |status| status.revisions[0].reason.is_some()).await;
    assert_eq!(status.revisions[0].reason, Some(Reason::ContainerdUnavailable));
    board.world().away = None;
    board.until("hello", |status| status.running_status == RunningStatus::Running).await;
}

#[tokio::test(start_paused = true)]
async fn a_hanging_containerd_holds_up_no_document() {
    let mut board = Board::start();
    board.send("hello", &document("hello", "v1", 1)).await.unwrap();
    board.until("hello", |status| status.running_status == RunningStatus::Running).await;
    board.world().hangs = true;
    board.pulse();
    let accepted = board.send("other", &document("other", "v1", 1)).await.unwrap();
    assert!(accepted.changed);
    board.until("other", |status| status.revisions.len() == 1).await;
    assert_eq!(board.backends("hello"), ["10.213.0.2:8080"]);
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_for_now_and_loses_nothing() {
    let mut board = Board::start();
    board.send("hello", &document("hello", "v1", 1)).await.unwrap();
    board.until("hello", |status| status.running_status == RunningStatus::Running).await;
    let full = Trouble { reason: Reason::StorageFull, details: "0 bytes free".to_owned() };
    board.world().store_trouble = Some(full);
    let refused = board.send("hello", &document("hello", "v2", 2)).await.unwrap_err();
    assert!(refused.passing);
    let status = board.until("hello", |status| status.error.is_some()).await;
    assert_eq!(status.error.unwrap().reason, Reason::StorageFull);
    assert_eq!(status.revisions.len(), 1);
    board.world().store_trouble = None;
    board.send("hello", &document("hello", "v2", 2)).await.unwrap();
    let status = board.until("hello", |status| status.revisions.len() == 2).await;
    assert_eq!(status.error, None);
}

#[tokio::test(start_paused = true)]
async fn what_was_removed_goes_and_leaves_a_tombstone() {
    let mut board = Board::start();
    let first = document("hello", "v1", 1);
    board.send("hello", &first).await.unwrap();
    board.until("hello", |status| status.running_status == RunningStatus::Running).await;
    board.send("hello", "name: hello\nskerry: {generation: 2, absent: true}\n").await.unwrap();
    board.until_world(|world| world.replicas.is_empty() && world.namespaces.is_empty()).await;
    board.until_removed("hello").await;
    let refused = board.send("hello", &first).await.unwrap_err();
    assert_eq!(refused.findings[0].reason, Reason::GenerationConflict);
}

#[tokio::test(start_paused = true)]
async fn generations_rise_and_sources_own() {
    let board = Board::start();
    board.send("hello", &document("hello", "v1", 5)).await.unwrap();
    let repeat = board.send("hello", &document("hello", "v1", 5)).await.unwrap();
    assert!(!repeat.changed);
    let refused = board.send("hello", &document("hello", "v2", 5)).await.unwrap_err();
    expect!["skerry.generation: GenerationConflict: generation 5 does not rise over 5"]
        .assert_eq(&refused.to_string());
    let local = document("hello", "v3", 6);
    let refused = board.send_from(Source::Local, &local, false).await.unwrap_err();
    assert_eq!(refused.findings[0].reason, Reason::OwnedByOtherSource);
    assert!(board.send_from(Source::Local, &local, true).await.unwrap().changed);
    let retained = board.send("hello", &document("hello", "v1", 5)).await.unwrap();
    assert!(!retained.changed, "the forced change holds against the retained message");
    assert!(board.send("hello", &document("hello", "v4", 7)).await.unwrap().changed);
    assert_eq!(board.stored("hello").source, Source::Mqtt);
}

#[tokio::test(start_paused = true)]
async fn a_bad_first_document_has_a_status_with_its_error() {
    let mut board = Board::start();
    let refused = board.send("hello", "name: [").await.unwrap_err();
    assert!(!refused.passing);
    let status = board.until("hello", |status| status.error.is_some()).await;
    assert_eq!(status.error.unwrap().reason, Reason::InvalidSyntax);
    let refused = board.send("other", &document("hello", "v1", 1)).await.unwrap_err();
    assert_eq!(refused.findings[0].reason, Reason::NameMismatch);
    board.until("other", |status| status.error.is_some()).await;
}

#[tokio::test(start_paused = true)]
async fn scale_targets_hold_without_a_revision() {
    let mut board = Board::start();
    board.scale("hello", "{replicas: 3}").await.unwrap();
    board.send("hello", &document("hello", "v1", 1)).await.unwrap();
    let status = board.until("hello", |status| status.revisions[0].ready_replicas == 3).await;
    assert_eq!(status.scale_target, "replicas=3");
    board.scale("hello", "{replicas: 0}").await.unwrap();
    let status = board.until("hello", |status| status.revisions[0].replicas == 0).await;
    assert_eq!(status.revisions[0].running_state, RunningState::ScaledToZero);
    assert_eq!(board.unready("hello"), Reason::PinnedToZero);
    board.scale("hello", "").await.unwrap();
    let status = board.until("hello", |status| status.revisions[0].ready_replicas == 1).await;
    assert_eq!((status.revisions.len(), status.scale_target.as_str()), (1, ""));
}

#[tokio::test(start_paused = true)]
async fn a_stopped_app_keeps_its_definition_and_starts_again() {
    let mut board = Board::start();
    board.send("hello", &document("hello", "v1", 1)).await.unwrap();
    board.until("hello", |status| status.running_status == RunningStatus::Running).await;
    board.run("hello", Run::Stopped).await.unwrap();
    board.until_world(|world| world.replicas.is_empty()).await;
    assert_eq!(board.unready("hello"), Reason::AppStopped);
    let mut board = board.restart().await;
    board.until("hello", |status| status.running_status == RunningStatus::Stopped).await;
    board.run("hello", Run::Started).await.unwrap();
    board.until("hello", |status| status.running_status == RunningStatus::Running).await;
}

#[tokio::test(start_paused = true)]
async fn a_container_killed_behind_our_back_comes_back_at_the_next_look() {
    let mut board = Board::start();
    board.send("hello", &document("hello", "v1", 1)).await.unwrap();
    board.until("hello", |status| status.running_status == RunningStatus::Running).await;
    board.world().lose_all(); // no event tells of it
    board
        .until_world(|world| {
            let mut states =
                world.replicas.values().flat_map(|replica| replica.containers.values());
            2 <= world.starts && states.all(|state| matches!(state, ContainerState::Running { .. }))
        })
        .await;
}
