//! Pulls from a real registry, and what is done without one.

use std::collections::BTreeMap;

use domain::reason::Reason;
use serde_json::json;

use containerd_client::services::v1::ListRequest as ListLeases;
use containerd_client::services::v1::snapshots::RemoveSnapshotRequest;

use super::fixture::{
    Access, Registry, Sample, architecture, archive, assert_reason, images, mirrored,
};
use crate::containerd::images::content::Content;
use crate::containerd::testing::{PrivateContainerd, blobs};

#[tokio::test]
async fn a_tag_is_pulled_then_followed_and_without_its_registry_used_with_a_warning() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let Some(mut registry) = Registry::start(Access::Everyone).await else { return };
    let (old, new) = (Sample::here("old"), Sample::here("new"));
    let reference = format!("{}/a/hello:1", registry.host);
    let images = images(&containerd, &[&registry]);

    registry.push("a/hello", "1", &old).await;
    let first = images.ensure(&reference, &[]).await.unwrap();
    assert_eq!((first.digest, &first.warning), (old.root.digest, &None));
    assert_eq!(first.name, reference);
    assert_eq!(images.config(&first).await.unwrap().chain_id, old.chain);
    assert_eq!(images.ensure(&reference, &[]).await.unwrap(), first);

    registry.push("a/hello", "1", &new).await;
    assert_eq!(images.ensure(&reference, &[]).await.unwrap().digest, new.root.digest);
    let listed = images.list().await.unwrap();
    let names: Vec<&str> = listed.iter().map(|image| image.name.as_str()).collect();
    let pinned = format!("{}/a/hello@{}", registry.host, old.root.digest);
    assert_eq!(names, [reference.as_str(), pinned.as_str()]);

    let missing = images.ensure(&format!("{}/a/hello:none", registry.host), &[]).await;
    assert_reason(missing, Reason::ImageNotFound, &["a/hello:none"]);
    let missing = images.ensure(&format!("{}/nobody/none:1", registry.host), &[]).await;
    assert_reason(missing, Reason::ImageNotFound, &["nobody/none:1"]);

    // A registry that has lost the tag is no reason to stop what can run.
    registry.lose_all();
    let lost = images.ensure(&reference, &[]).await.unwrap();
    assert_eq!(lost.digest, new.root.digest);
    let why = lost.warning.unwrap();
    assert_eq!(why.reason, Reason::ImageNotFound);
    assert!(why.details.contains("is not there; the local copy"), "{}", why.details);

    registry.stop();
    let away = images.ensure(&reference, &[]).await.unwrap();
    assert_eq!(away.digest, new.root.digest);
    let why = away.warning.unwrap();
    assert_eq!(why.reason, Reason::RegistryUnreachable);
    assert!(why.details.contains("the local copy"), "{}", why.details);
    // The bits of an earlier revision need no registry, nor a warning.
    let pinned = images.ensure(&pinned, &[]).await.unwrap();
    assert_eq!((pinned.digest, pinned.warning), (old.root.digest, None));
    let never = images.ensure(&format!("{}/a/never:1", registry.host), &[]).await;
    assert_reason(never, Reason::RegistryUnreachable, &["a/never"]);
}

#[tokio::test]
async fn nothing_of_an_image_is_collected_not_even_after_its_tag_moved_on() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let Some(registry) = Registry::start(Access::Everyone).await else { return };
    let (old, new) = (Sample::here("old"), Sample::here("new"));
    let here = format!("linux/{}", architecture());
    let index = Sample::index(&[(&here, &new)]);
    let images = images(&containerd, &[&registry]);
    let reference = format!("{}/hello:1", registry.host);
    let connection = containerd.connection();
    let expires = "2100-01-01T00:00:00Z".to_owned();
    let early = connection.leased("early", expires).await.unwrap();
    for (blob, bytes) in &old.blobs {
        // Someone else brought them, and did not say what belongs to what.
        Content(early.clone()).put(blob, bytes, BTreeMap::new()).await.unwrap();
    }
    for sample in [&old, &index] {
        registry.push("hello", "1", sample).await;
        images.ensure(&reference, &[]).await.unwrap();
    }
    early.discard().await.unwrap();
    let stored = blobs(&connection).await;
    for (blob, _) in old.blobs.iter().chain(&index.blobs) {
        assert!(stored.contains(&blob.digest.to_string()), "{} is gone", blob.media_type);
    }
    for chain in [&old.chain, &new.chain] {
        assert!(images.snapshots(&connection).contains(chain).await.unwrap());
    }
    let mut leases = connection.client().await.unwrap().leases();
    let left = leases.list(connection.request(ListLeases::default())).await.unwrap();
    assert!(left.into_inner().leases.is_empty());
}

#[tokio::test]
async fn many_may_ask_for_one_image_at_once() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let Some(registry) = Registry::start(Access::Everyone).await else { return };
    let sample = Sample::here("popular");
    registry.push("hello", "1", &sample).await;
    let images = images(&containerd, &[&registry]);
    let reference = format!("{}/hello:1", registry.host);
    let asked = (0..5).map(|_| images.ensure(&reference, &[]));
    for answer in futures_util::future::join_all(asked).await {
        assert_eq!(answer.unwrap().digest, sample.root.digest);
    }
}

#[tokio::test]
async fn mirrors_are_asked_first_and_passed_over_when_they_are_away() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let Some(mut away) = Registry::start(Access::Everyone).await else { return };
    let Some(mirror) = Registry::start(Access::Everyone).await else { return };
    away.stop();
    let sample = Sample::here("mirrored");
    mirror.push("library/hello", "1", &sample).await;
    let images = mirrored(&containerd, &[&away.host, &mirror.host]);
    let image = images.ensure("hello:1", &[]).await.unwrap();
    assert_eq!(
        (image.name.as_str(), image.digest),
        ("docker.io/library/hello:1", sample.root.digest)
    );
}

#[tokio::test]
async fn credentials_open_a_closed_registry_and_wrong_ones_do_not() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let Some(registry) = Registry::start(Access::Users).await else { return };
    let sample = Sample::here("closed");
    registry.push("closed", "1", &sample).await;
    let images = images(&containerd, &[&registry]);
    let reference = format!("{}/closed:1", registry.host);
    let denied = images.ensure(&reference, &[]).await;
    assert_reason(denied, Reason::ImageUnauthorized, &["wants credentials"]);
    let denied = images.ensure(&reference, &registry.login("wrong")).await;
    assert_reason(denied, Reason::ImageUnauthorized, &["skerry"]);
    assert!(blobs(&containerd.connection()).await.is_empty());
    let image = images.ensure(&reference, &registry.right_login()).await.unwrap();
    assert_eq!(image.digest, sample.root.digest);

    // A password that is good no more is no reason to stop what can run; a person is told all the same.
    let image = images.ensure(&reference, &registry.login("wrong")).await.unwrap();
    let why = image.warning.unwrap();
    assert_eq!((image.digest, why.reason), (sample.root.digest, Reason::ImageUnauthorized));
    assert!(why.details.contains("the local copy"), "{}", why.details);
    let by_hand = images.pull_by_hand(&reference, None).await;
    assert_reason(by_hand, Reason::ImageUnauthorized, &["wants credentials"]);
}

#[tokio::test]
async fn of_an_index_only_the_part_for_this_board_is_fetched() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let Some(registry) = Registry::start(Access::Everyone).await else { return };
    let (ours, theirs) = (Sample::here("ours"), Sample::new("s390x", "theirs"));
    let here = format!("linux/{}", architecture());
    let index = Sample::index(&[("linux/s390x", &theirs), (&here, &ours)]);
    registry.push("many", "1", &index).await;
    let images = images(&containerd, &[&registry]);
    let image = images.ensure(&format!("{}/many:1", registry.host), &[]).await.unwrap();
    assert_eq!(image.digest, index.root.digest);
    assert_eq!(images.config(&image).await.unwrap().chain_id, ours.chain);
    let stored = blobs(&containerd.connection()).await;
    assert!(stored.contains(&ours.root.digest.to_string()));
    assert!(!stored.contains(&theirs.root.digest.to_string()));

    let by_digest = format!("{}/many@{}", registry.host, ours.root.digest);
    assert_eq!(images.ensure(&by_digest, &[]).await.unwrap().digest, ours.root.digest);
    let foreign = Sample::index(&[("linux/s390x", &theirs)]);
    registry.push("many", "2", &foreign).await;
    let refused = images.ensure(&format!("{}/many:2", registry.host), &[]).await;
    assert_reason(refused, Reason::ImagePlatformMismatch, &["linux/s390x", architecture()]);
}

#[tokio::test]
async fn a_damaged_blob_is_refused_and_pulled_anew_once_it_is_whole() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let Some(registry) = Registry::start(Access::Everyone).await else { return };
    let sample = Sample::here("damaged");
    registry.push("hello", "1", &sample).await;
    // The upper of two, so that something came before it.
    let (layer, _) = &sample.blobs[1];
    registry.damage(&layer.digest);
    let images = images(&containerd, &[&registry]);
    let reference = format!("{}/hello:1", registry.host);
    assert_reason(images.ensure(&reference, &[]).await, Reason::ImageCorrupt, &[]);
    // What is good may stay, if it came before.
    let here = blobs(&containerd.connection()).await;
    assert!(!here.contains(&layer.digest.to_string()), "{here:?}");
    // Damaged twice is whole.
    registry.damage(&layer.digest);
    assert_eq!(images.ensure(&reference, &[]).await.unwrap().digest, sample.root.digest);
}

#[tokio::test]
async fn a_registry_that_is_not_listed_is_not_spoken_to_without_tls() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let Some(registry) = Registry::start(Access::Everyone).await else { return };
    registry.push("hello", "1", &Sample::here("plain")).await;
    let images = images(&containerd, &[]);
    let refused = images.ensure(&format!("{}/hello:1", registry.host), &[]).await;
    assert_reason(refused, Reason::RegistryUnreachable, &["hello:1"]);
}

#[tokio::test]
async fn a_snapshot_that_has_gone_is_unpacked_again() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let images = images(&containerd, &[]);
    let sample = Sample::here("gone");
    let path = archive(
        containerd.dir(),
        "a.tar",
        &sample.oci_files(&json!({ "io.containerd.image.name": "docker.io/library/hello:1" })),
    );
    images.import(&path).await.unwrap();
    let connection = containerd.connection();
    let mut snapshots = connection.client().await.unwrap().snapshots();
    let remove =
        RemoveSnapshotRequest { snapshotter: "overlayfs".to_owned(), key: sample.chain.clone() };
    snapshots.remove(connection.request(remove.clone())).await.unwrap();
    let image = images.ensure("hello:1", &[]).await.unwrap();
    snapshots.remove(connection.request(remove.clone())).await.unwrap();
    images.forget(&image);
    images.config(&image).await.unwrap();
    snapshots.remove(connection.request(remove)).await.unwrap();
}

#[tokio::test]
async fn what_another_namespace_has_is_taken_over_and_kept() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let Some(registry) = Registry::start(Access::Everyone).await else { return };
    let sample = Sample::here("shared");
    registry.push("hello", "1", &sample).await;
    let reference = format!("{}/hello:1", registry.host);
    let ours = images(&containerd, &[&registry]);
    let mut theirs = ours.clone();
    theirs.connection = containerd.connection_to("other");
    theirs.known = std::sync::Arc::default();
    theirs.ensure(&reference, &[]).await.unwrap();
    let image = ours.ensure(&reference, &[]).await.unwrap();
    assert_eq!(ours.config(&image).await.unwrap().chain_id, sample.chain);
    assert_eq!(blobs(&containerd.connection()).await.len(), sample.blobs.len());
}
