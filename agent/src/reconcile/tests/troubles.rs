//! What went wrong once, or could: each test is a defect that a reading of the loop found.

use std::time::Duration;

use domain::model::EnvironmentName;
use domain::reason::Reason;
use domain::replica::Trouble;
use domain::status::{RunningStatus, Source};
use tokio::time::{self, Instant};

use super::world::{Board, document};

fn image(app: &str, tag: &str) -> String {
    format!("registry.example/{app}:{tag}")
}

async fn runs(board: &mut Board, app: &str) {
    board.until(app, |status| status.running_status == RunningStatus::Running).await;
}

#[tokio::test(start_paused = true)]
async fn time_goes_on_while_a_look_hangs() {
    let mut board = Board::start();
    board.send("hello", &document("hello", "v1", 1)).await.unwrap();
    runs(&mut board, "hello").await;
    board.world().hangs = true;
    board.pulse();
    // A loop that spins keeps the paused clock from ever getting there.
    time::sleep(Duration::from_mins(10)).await;
    assert_eq!(board.backends("hello"), ["10.213.0.2:8080"]);
}

#[tokio::test(start_paused = true)]
async fn a_start_without_end_gives_way_to_the_next_document() {
    let mut board = Board::start();
    board.world().endless.insert(image("hello", "v1"));
    board.send("hello", &document("hello", "v1", 1)).await.unwrap();
    board.until("hello", |status| status.revisions[0].replicas == 1).await;
    let sent = Instant::now();
    board.send("hello", &document("hello", "v2", 2)).await.unwrap();
    runs(&mut board, "hello").await;
    assert!(sent.elapsed() < Duration::from_secs(5), "{:?}", sent.elapsed());
    board.until_world(|world| world.replicas.len() == 1 && world.namespaces.len() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_start_whose_remains_cannot_go_is_stopped_again() {
    let mut board = Board::start();
    let trouble =
        |details: &str| Some(Trouble { reason: Reason::VolumeFailed, details: details.to_owned() });
    board.world().volume_trouble = trouble("no disk");
    board.world().stop_trouble = trouble("the mount hangs");
    board.send("hello", &document("hello", "v1", 1)).await.unwrap();
    // Its network stands for as long as there is something to stop: that is how it is found.
    board.until_world(|world| world.vain_stops.values().any(|times| 1 < *times)).await;
    board.world().stop_trouble = None;
    board.world().volume_trouble = None;
    runs(&mut board, "hello").await;
    board.until_world(|world| world.replicas.len() == 1 && world.namespaces.len() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn an_app_whose_start_has_no_end_can_be_removed() {
    let mut board = Board::start();
    board.world().endless.insert(image("hello", "v1"));
    board.send("hello", &document("hello", "v1", 1)).await.unwrap();
    board.until("hello", |status| status.revisions[0].replicas == 1).await;
    board.send("hello", "name: hello\nskerry: {generation: 2, absent: true}\n").await.unwrap();
    board.until_world(|world| world.replicas.is_empty() && world.namespaces.is_empty()).await;
    board.until_removed("hello").await;
}

#[tokio::test(start_paused = true)]
async fn starts_without_end_hold_up_no_other_app_for_long() {
    let mut board = Board::start();
    for n in 0..5 {
        let app = format!("slow{n}");
        board.world().endless.insert(image(&app, "v1"));
        board.send(&app, &document(&app, "v1", 1)).await.unwrap();
    }
    let sent = Instant::now();
    board.send("hello", &document("hello", "v1", 1)).await.unwrap();
    runs(&mut board, "hello").await;
    assert!(sent.elapsed() < Duration::from_mins(1), "{:?}", sent.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_stored_is_not_told_as_an_event() {
    let mut board = Board::start();
    let full = Trouble { reason: Reason::StorageFull, details: "0 bytes free".to_owned() };
    board.world().store_trouble = Some(full);
    for _ in 0..3 {
        board.send("hello", &document("hello", "v1", 1)).await.unwrap_err();
    }
    board.world().store_trouble = None;
    board.send("hello", &document("hello", "v1", 1)).await.unwrap();
    runs(&mut board, "hello").await;
    assert_eq!(board.told(Reason::DesiredChanged), 1);
    assert_eq!(board.told(Reason::RevisionCreated), 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_deleted_and_is_applied_again_comes_back() {
    let mut board = Board::start();
    let text = document("hello", "v1", 1).replace("skerry: {generation: 1}", "");
    for source in [Source::Local, Source::File] {
        board.send_from(source, &text, false).await.unwrap();
        runs(&mut board, "hello").await;
        board.delete(source, "hello").await.unwrap();
        board.until_removed("hello").await;
        let again = board.send_from(source, &text, false).await.unwrap();
        assert!(again.changed, "{source:?}");
        runs(&mut board, "hello").await;
        board.delete(source, "hello").await.unwrap();
        board.until_removed("hello").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_person_needs_force_every_time_and_gets_what_was_applied() {
    let board = Board::start();
    let local = document("hello", "v2", 1).replace("skerry: {generation: 1}", "");
    let ours = |tag| document("hello", tag, 1).replace("skerry: {generation: 1}", "");
    board.send("hello", &ours("v1")).await.unwrap();
    board.send_from(Source::Local, &local, true).await.unwrap();
    board.send("hello", &ours("v3")).await.unwrap();
    assert_eq!(board.stored("hello").source, Source::Mqtt, "other content takes it back");
    let refused = board.send_from(Source::Local, &local, false).await.unwrap_err();
    assert_eq!(refused.findings[0].reason, Reason::OwnedByOtherSource);
    assert!(board.send_from(Source::Local, &local, true).await.unwrap().changed);
    assert_eq!(board.stored("hello").source, Source::Local);
    assert!(!board.send_from(Source::Local, &local, false).await.unwrap().changed);
}

#[tokio::test(start_paused = true)]
async fn an_app_that_changes_its_environment_moves_to_the_other_network() {
    let mut board = Board::start();
    board.send("hello", &document("hello", "v1", 1)).await.unwrap();
    runs(&mut board, "hello").await;
    let moved = document("hello", "v1", 2)
        .replace("properties:\n", "properties:\n  environmentId: /x/managedEnvironments/other\n");
    board.send("hello", &moved).await.unwrap();
    let other: EnvironmentName = "other".parse().unwrap();
    board
        .until_world(|world| {
            world.replicas.len() == 1
                && world.replicas.values().all(|replica| replica.environment == other)
                && world.environments.len() == 1
        })
        .await;
    runs(&mut board, "hello").await;
    assert_eq!(board.stored("hello").revisions.len(), 1, "the template is the same");
}

#[tokio::test(start_paused = true)]
async fn better_credentials_end_the_wait_for_an_image() {
    let mut board = Board::start();
    board.world().missing_images.insert(image("hello", "v1"));
    board.send("hello", &document("hello", "v1", 1)).await.unwrap();
    time::sleep(Duration::from_mins(20)).await;
    board.world().missing_images.clear();
    let better = document("hello", "v1", 2)
        .replace("configuration:\n", "configuration:\n    secrets: [{name: pw, value: x}]\n");
    let sent = Instant::now();
    board.send("hello", &better).await.unwrap();
    runs(&mut board, "hello").await;
    assert!(sent.elapsed() < Duration::from_secs(2), "{:?}", sent.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_refused_job_is_no_word_about_an_app_of_its_name() {
    let mut board = Board::start();
    board.send("hello", &document("hello", "v1", 1)).await.unwrap();
    runs(&mut board, "hello").await;
    board.send_job("hello", "name: [").await.unwrap_err();
    board.pulse();
    board.until("hello", |status| status.error.is_none()).await;
    time::sleep(Duration::from_secs(1)).await;
    let statuses = board.statuses();
    assert_eq!(statuses.apps["hello"].error, None);
    let job = &statuses.jobs["hello"];
    assert_eq!(job.error.as_ref().unwrap().reason, Reason::InvalidSyntax);
}

#[tokio::test(start_paused = true)]
async fn a_job_goes_with_its_file() {
    let board = Board::start();
    let job = "name: tidy\ntype: Microsoft.App/jobs\nproperties:\n  configuration: {triggerType: Manual, replicaTimeout: 60}\n  \
               template:\n    containers: [{name: main, image: 'a/b:1'}]\n";
    board.send_from(Source::File, job, false).await.unwrap();
    board.delete(Source::File, "tidy").await.unwrap();
    time::sleep(Duration::from_secs(1)).await;
    assert!(board.statuses().jobs.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_remark_about_an_image_is_a_warning_of_the_status() {
    let mut board = Board::start();
    let details = "the registry refused; the local copy is used".to_owned();
    board.world().image_warning = Some(Trouble { reason: Reason::ImageUnauthorized, details });
    board.send("hello", &document("hello", "v1", 1)).await.unwrap();
    runs(&mut board, "hello").await;
    let status = board.until("hello", |status| !status.warnings.is_empty()).await;
    let warning = status.warnings.last().unwrap();
    assert_eq!(warning.path, "properties.template.containers[0].image");
    assert_eq!(warning.reason, Reason::ImageUnauthorized);
}

#[tokio::test(start_paused = true)]
async fn a_topic_may_make_a_host_name_too_long() {
    let board = Board::start();
    let text = document("x", "v1", 1).replace("name: x\n", "").replace(
        "  template:\n",
        "  template:\n    revisionSuffix: a123456789012345678901234567890123456789\n",
    );
    let long = "a".repeat(32);
    let refused = board.send(&long, &text).await.unwrap_err();
    assert_eq!(refused.findings[0].reason, Reason::HostNameTooLong);
}

#[tokio::test(start_paused = true)]
async fn whatever_is_stored_says_when_and_no_clock_is_believed_to_be_earlier() {
    let board = Board::start();
    board.send("hello", &document("hello", "v1", 1)).await.unwrap();
    let noted = board.world().stored.device.clock_floor_secs;
    assert!(crate::clock::BUILT.0.as_secs() <= noted, "{noted}");
}
