//! Environment documents: what the loop takes, what it says of them, and what replicas get.

use std::time::Duration;

use domain::document::Finding;
use domain::reason::Reason;
use domain::replica::{StorageSource, Trouble};
use domain::status::{RunningStatus, Source};
use tokio::time::{self, Instant};

use super::world::{Board, document};

const DATA: &str =
    "storages: [{name: data, path: /srv/allowed/data, mountOptions: 'uid=1,gid=2'}]\n";

/// An app with two volumes of the storage `data`, one of which reads only.
fn keeper(generation: u64) -> String {
    let volumes = "  template:\n    volumes:\n    \
                   - {name: v, storageType: AzureFile, storageName: data, mountOptions: 'uid=7'}\n    \
                   - {name: w, storageType: NfsAzureFile, storageName: data, mountOptions: 'uid=7,ro'}\n";
    document("keeper", "v1", generation).replace("  template:\n", volumes)
}

fn first(refused: &crate::inbox::Refusal) -> (Reason, &str) {
    let Finding { reason, path, .. } = &refused.findings[0];
    (*reason, path)
}

async fn runs(board: &mut Board) {
    board.until("keeper", |status| status.running_status == RunningStatus::Running).await;
}

#[tokio::test(start_paused = true)]
async fn a_storage_that_is_missing_is_waited_for_and_found_when_its_document_comes() {
    let mut board = Board::start();
    board.send("keeper", &keeper(1)).await.unwrap();
    let waits = |status: &domain::status::AppStatus| {
        status.revisions[0].reason == Some(Reason::StorageMissing)
    };
    let status = board.until("keeper", waits).await;
    let expected =
        "volume v needs the storage \"data\", which the environment default does not have";
    assert_eq!(status.revisions[0].details, expected);
    board
        .send_environment("default", "storages: [{name: other, device: LABEL=data}]")
        .await
        .unwrap();
    time::sleep(Duration::from_mins(20)).await;
    assert_eq!(board.world().starts, 0, "another storage is of no use");
    let sent = Instant::now();
    board.send_environment("default", DATA).await.unwrap();
    runs(&mut board).await;
    assert!(sent.elapsed() < Duration::from_secs(1), "{:?}", sent.elapsed());
    let place = board.world().storages["data"].clone();
    assert_eq!(place.source, StorageSource::Path("/srv/allowed/data".to_owned()));
    assert_eq!((place.options.uid, place.options.gid), (Some(7), Some(2)), "the app's wins");
    assert!(!place.read_only, "one of the volumes writes");
    let status = board.until_environment("default", |status| status.apps == 1).await;
    assert_eq!(status.source, Some(Source::Mqtt));
    assert_eq!(
        (status.storages[0].reason, status.storages[0].details.as_str()),
        (None, "/srv/allowed/data")
    );
}

#[tokio::test(start_paused = true)]
async fn a_storage_that_goes_stops_nothing_and_starts_nothing() {
    let mut board = Board::start();
    board.send_environment("default", DATA).await.unwrap();
    board.send("keeper", &keeper(1)).await.unwrap();
    runs(&mut board).await;
    board.send_environment("default", "skerry: {absent: true}").await.unwrap();
    board.scale("keeper", "{\"replicas\": 2}").await.unwrap();
    let lacks = |status: &domain::status::AppStatus| {
        status.revisions[0].reason == Some(Reason::StorageMissing)
    };
    let status = board.until("keeper", lacks).await;
    assert_eq!((status.revisions[0].ready_replicas, board.world().starts), (1, 1));
    let statuses = board.statuses();
    assert!(statuses.removed_environments.contains("default"));
    assert_eq!(statuses.environments["default"].source, None, "it has an app, and no document");
    board.send_environment("default", DATA).await.unwrap();
    board.until("keeper", |status| status.revisions[0].ready_replicas == 2).await;
    assert!(board.statuses().removed_environments.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_the_owner_does_not_allow_is_refused_by_path_and_what_was_in_force_stays() {
    let mut board = Board::start();
    let forbidden =
        "properties: {storages: [{name: a, path: /srv/allowed}, {name: b, path: /etc}]}";
    let refused = board.send_environment("shop", forbidden).await.unwrap_err();
    assert_eq!(first(&refused), (Reason::StorageNotAllowed, "properties.storages[1].path"));
    let status = board.until_environment("shop", |status| status.error.is_some()).await;
    assert_eq!((status.digest, status.source), (None, Some(Source::Mqtt)));
    board.send_environment("shop", DATA).await.unwrap();
    let refused = board.send_environment("shop", "storages: [{name: c, device: /dev/sda}]").await;
    assert_eq!(first(&refused.unwrap_err()), (Reason::StorageNotAllowed, "storages[0].device"));
    let status = board
        .until_environment("shop", |status| status.digest.is_some() && status.error.is_some())
        .await;
    assert_eq!(status.storages[0].name, "data");
    // The good one is not sent anew by a broker that holds the bad one; when it is, the error goes.
    assert!(!board.send_environment("shop", DATA).await.unwrap().changed);
    board.pulse();
    board.until_environment("shop", |status| status.error.is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn it_keeps_the_rules_of_every_document() {
    let board = Board::start();
    let itself = "type: Microsoft.App/managedEnvironments\nname: shop\nskerry: {generation: 2}\n";
    assert!(board.send_from(Source::Local, itself, false).await.unwrap().changed);
    assert!(!board.send_from(Source::Local, itself, false).await.unwrap().changed);
    let refused = board.send_environment("shop", "{}").await.unwrap_err();
    assert_eq!(first(&refused).0, Reason::OwnedByOtherSource);
    let older = itself.replace('2', "1");
    let refused = board.send_from(Source::Local, &older, false).await.unwrap_err();
    assert_eq!(first(&refused), (Reason::GenerationConflict, "skerry.generation"));
    let refused = board.send_environment("harbour", itself).await.unwrap_err();
    assert_eq!(first(&refused).0, Reason::NameMismatch);
    let refused = board.send("shop", itself).await.unwrap_err();
    assert_eq!(first(&refused), (Reason::WrongKind, "type"));
    let app = format!("type: Microsoft.App/containerApps\n{}", document("shop", "v1", 1));
    let refused = board.send_environment("shop", &app).await.unwrap_err();
    assert_eq!(first(&refused), (Reason::WrongKind, "type"));
    let refused = board.send_environment("No Name", "{}").await.unwrap_err();
    assert_eq!(first(&refused), (Reason::InvalidValue, "name"));
    let nothing = board.send_environment("never", "skerry: {absent: true}").await.unwrap();
    assert!(!nothing.changed);
    assert!(!board.send_environment("shop", "").await.unwrap().changed);
    assert_eq!(board.told(Reason::DesiredCleared), 1);
}

#[tokio::test(start_paused = true)]
async fn it_goes_with_its_file_and_with_no_other() {
    let board = Board::start();
    let itself = "type: Microsoft.App/managedEnvironments\nname: shop\nstorages: []\n";
    board.send_from(Source::File, itself, false).await.unwrap();
    let refused = board.delete_environment(Source::Mqtt, "shop").await.unwrap_err();
    assert_eq!(first(&refused).0, Reason::OwnedByOtherSource);
    board.delete_environment(Source::File, "shop").await.unwrap();
    board.delete_environment(Source::File, "shop").await.unwrap_err();
    assert!(board.send_from(Source::File, itself, false).await.unwrap().changed, "it is back");
    let board = &mut board.restart().await;
    board.until_environment("shop", |status| status.source == Some(Source::File)).await;
}

#[tokio::test(start_paused = true)]
async fn a_better_document_ends_the_wait_for_a_mount() {
    let mut board = Board::start();
    let details = "no such folder".to_owned();
    board.world().volume_trouble = Some(Trouble { reason: Reason::VolumeFailed, details });
    board.send_environment("default", DATA).await.unwrap();
    board.send("keeper", &keeper(1)).await.unwrap();
    time::sleep(Duration::from_mins(20)).await;
    board.world().volume_trouble = None;
    let sent = Instant::now();
    board.send_environment("default", &format!("{DATA}# again")).await.unwrap();
    runs(&mut board).await;
    assert!(sent.elapsed() < Duration::from_secs(2), "{:?}", sent.elapsed());
}
