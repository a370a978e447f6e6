//! What a power cut leaves of images, planted by hand, and how it is put in order.

use std::fs;
use std::path::{Path, PathBuf};

use containerd_client::services::v1::snapshots::PrepareSnapshotRequest;
use domain::reason::Reason;
use serde_json::json;

use super::fixture::{
    Access, OCI_CONFIG, OCI_LAYER, Registry, Sample, archive, assert_reason, images,
};
use crate::containerd::images::Images;
use crate::containerd::images::manifest::OCI_MANIFEST;
use crate::containerd::testing::PrivateContainerd;

const NAME: &str = "io.containerd.image.name";

/// Images that are marked, in a boot of this name.
fn booted(containerd: &PrivateContainerd, registries: &[&Registry], boot: &str) -> Images {
    images(containerd, registries).marked(marks(containerd), boot.to_owned())
}

fn marks(containerd: &PrivateContainerd) -> PathBuf {
    containerd.dir().join("state/unpacking-marks")
}

fn marked(containerd: &PrivateContainerd) -> usize {
    fs::read_dir(marks(containerd)).map_or(0, Iterator::count)
}

/// Where this file of a layer was unpacked to.
fn unpacked(containerd: &PrivateContainerd, name: &str) -> Vec<PathBuf> {
    let dir = containerd.dir().join("root/io.containerd.snapshotter.v1.overlayfs/snapshots");
    let snapshots = fs::read_dir(dir).unwrap().flatten();
    let files = snapshots.map(|snapshot| snapshot.path().join("fs").join(name));
    files.filter(|path| path.exists()).collect()
}

fn blob(containerd: &PrivateContainerd, sample: &Sample, media_type: &str) -> PathBuf {
    let blobs = containerd.dir().join("root/io.containerd.content.v1.content/blobs/sha256");
    blobs.join(sample.blob(media_type).0.digest.hex())
}

fn zero(path: &Path) {
    let length = fs::metadata(path).unwrap().len();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_len(0).unwrap();
    file.set_len(length).unwrap();
}

#[tokio::test]
async fn a_cut_layer_falls_with_all_upon_it_and_is_unpacked_again() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let sample = Sample::here("one");
    let files = sample.oci_files(&json!({ NAME: "docker.io/library/hello:1" }));
    let path = archive(containerd.dir(), "a.tar", &files);
    let before = booted(&containerd, &[], "first");
    before.import(&path).await.unwrap();
    assert_eq!(marked(&containerd), 1);
    // A container of the boot that was cut.
    let connection = containerd.connection();
    let upon = PrepareSnapshotRequest {
        snapshotter: "overlayfs".to_owned(),
        key: "a-container".to_owned(),
        parent: sample.chain.clone(),
        ..PrepareSnapshotRequest::default()
    };
    let labels = [("containerd.io/gc.root".to_owned(), "1".to_owned())].into();
    let upon = PrepareSnapshotRequest { labels, ..upon };
    let mut client = connection.client().await.unwrap().snapshots();
    client.prepare(connection.request(upon)).await.unwrap();
    let noise = &unpacked(&containerd, "bin/noise")[0];
    fs::write(noise, b"").unwrap();

    let after = booted(&containerd, &[], "second");
    after.look_over().await.unwrap();
    let repaired = after.repaired();
    assert_eq!(repaired.len(), 1);
    assert_eq!(repaired[0].name, "docker.io/library/hello:1");
    let damage = &repaired[0].damage;
    assert!(damage.contains("bin/noise: has 0 bytes of 700000"), "{damage}");
    assert!(after.repaired().is_empty());

    // It was unpacked again without being asked for.
    assert!(after.snapshots(&connection).contains(&sample.chain).await.unwrap());
    assert!(!after.snapshots(&connection).contains("a-container").await.unwrap());
    let image = after.ensure("hello:1", &[]).await.unwrap();
    assert_eq!(after.config(&image).await.unwrap().chain_id, sample.chain);
    let length = |path: &PathBuf| fs::metadata(path).unwrap().len();
    let lengths: Vec<u64> = unpacked(&containerd, "bin/noise").iter().map(length).collect();
    assert!(lengths.contains(&700_000), "{lengths:?}");
    // And once it is in order, a third boot has nothing to do.
    after.end_well();
    assert_eq!(marked(&containerd), 0);
}

#[tokio::test]
async fn blobs_that_were_cut_are_fetched_again() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let Some(registry) = Registry::start(Access::Everyone).await else { return };
    let sample = Sample::here("one");
    registry.push("hello", "1", &sample).await;
    let reference = format!("{}/hello:1", registry.host);
    booted(&containerd, &[&registry], "boot 0").ensure(&reference, &[]).await.unwrap();
    let zeroed: fn(&Path) = zero;
    let lost: fn(&Path) = |path| fs::remove_file(path).unwrap();
    let cases = [OCI_LAYER, OCI_CONFIG, OCI_MANIFEST].map(|part| [(part, zeroed), (part, lost)]);
    for (n, (part, harm)) in cases.into_iter().flatten().enumerate() {
        let path = blob(&containerd, &sample, part);
        harm(&path);
        let images = booted(&containerd, &[&registry], &format!("boot {}", n + 1));
        images.look_over().await.unwrap();
        let damage: Vec<String> = images.repaired().into_iter().map(|one| one.damage).collect();
        let digest = sample.blob(part).0.digest.to_string();
        assert!(damage.len() == 1 && damage[0].contains(&digest), "{part}: {damage:?}");
        assert!(!path.exists(), "{part}");

        let image = images.ensure(&reference, &[]).await.unwrap();
        assert_eq!(images.config(&image).await.unwrap().chain_id, sample.chain);
        let kept = fs::read(&path).unwrap();
        assert!(kept == sample.blob(part).1, "{part}");
    }
}

#[tokio::test]
async fn what_was_preloaded_and_cut_is_imported_again_by_itself() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let dir = containerd.dir().join("preload");
    fs::create_dir(&dir).unwrap();
    let sample = Sample::here("one");
    archive(&dir, "a.tar", &sample.oci_files(&json!({ NAME: "docker.io/library/hello:1" })));
    let before = booted(&containerd, &[], "first");
    before.preload(&dir).await.remove(0).1.unwrap();
    zero(&blob(&containerd, &sample, OCI_LAYER));
    let hello = &unpacked(&containerd, "hello")[0];
    fs::remove_file(hello).unwrap();

    // An app that is desired asks while the archives are still to be looked at: it waits for them.
    let after = booted(&containerd, &[], "second");
    after.expect_preload();
    let asking = after.ensure("hello:1", &[]);
    let starting = async {
        after.look_over().await.unwrap();
        after.preload(&dir).await.remove(0).1.unwrap()
    };
    let (image, imported) = tokio::join!(asking, starting);
    assert!(!imported[0].unchanged);
    assert_eq!(after.config(&image.unwrap()).await.unwrap().chain_id, sample.chain);
    assert_eq!(after.repaired().len(), 1);
    assert!(after.preload(&dir).await.remove(0).1.unwrap()[0].unchanged);
}

#[tokio::test]
async fn an_image_in_doubt_is_looked_over_before_it_is_used_even_if_nobody_did_so_at_start() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let sample = Sample::here("one");
    let files = sample.oci_files(&json!({ NAME: "docker.io/library/hello:1" }));
    let path = archive(containerd.dir(), "a.tar", &files);
    let before = booted(&containerd, &[], "first");
    before.import(&path).await.unwrap();
    let image = before.ensure("hello:1", &[]).await.unwrap();
    before.end_well();
    let noise = &unpacked(&containerd, "bin/noise")[0];
    // The same boot: nothing was cut, and nothing is looked at.
    zero(noise);
    let same = booted(&containerd, &[], "first");
    same.look_over().await.unwrap();
    assert!(same.repaired().is_empty());

    before.import(&path).await.unwrap();
    assert_eq!(marked(&containerd), 1);
    let after = booted(&containerd, &[], "second");
    assert_eq!(after.config(&image).await.unwrap().chain_id, sample.chain);
    assert_eq!(after.repaired().len(), 1);
}

#[tokio::test]
async fn a_pull_that_was_cut_short_leaves_a_mark_and_the_next_boot_ends_it() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let Some(registry) = Registry::start(Access::Everyone).await else { return };
    let sample = Sample::here("one");
    registry.push("hello", "1", &sample).await;
    let reference = format!("{}/hello:1", registry.host);
    let (layer, _) = &sample.blobs[1];
    registry.damage(&layer.digest);
    let before = booted(&containerd, &[&registry], "first");
    assert_reason(before.ensure(&reference, &[]).await, Reason::ImageCorrupt, &[]);
    before.end_well();
    assert_eq!(marked(&containerd), 1, "an unfinished image stays marked");
    // The lower layer came, and was listed; its file did not outlive the cut.
    let blobs = containerd.dir().join("root/io.containerd.content.v1.content/blobs/sha256");
    // Unless it was still on its way, and then there is nothing to lose.
    let _ = fs::remove_file(blobs.join(sample.blobs[0].0.digest.hex()));
    registry.damage(&layer.digest);

    let after = booted(&containerd, &[&registry], "second");
    let image = after.ensure(&reference, &[]).await.unwrap();
    assert_eq!(after.config(&image).await.unwrap().chain_id, sample.chain);
}

#[tokio::test]
async fn a_blob_that_is_listed_and_gone_is_fetched_at_the_second_try_without_any_mark() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let Some(registry) = Registry::start(Access::Everyone).await else { return };
    let sample = Sample::here("one");
    registry.push("hello", "1", &sample).await;
    let reference = format!("{}/hello:1", registry.host);
    let images = images(&containerd, &[&registry]);
    images.ensure(&reference, &[]).await.unwrap();
    let connection = containerd.connection();
    let snapshots = images.snapshots(&connection);
    let blobs = containerd.dir().join("root/io.containerd.content.v1.content/blobs/sha256");
    let bottom = sample.blobs[0].0.digest;
    snapshots.fell(&sample.chain).await.unwrap();
    fs::remove_file(blobs.join(sample.blobs[1].0.digest.hex())).unwrap();
    fs::remove_file(blobs.join(bottom.hex())).unwrap();
    assert_eq!(images.ensure(&reference, &[]).await.unwrap().digest, sample.root.digest);
    assert!(snapshots.contains(&bottom.to_string()).await.unwrap());
    assert!(snapshots.contains(&sample.chain).await.unwrap());
}

#[tokio::test]
async fn a_folder_that_the_snapshotter_forgot_at_a_cut_is_swept_away() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let sample = Sample::here("one");
    let files = sample.oci_files(&json!({ NAME: "docker.io/library/hello:1" }));
    let path = archive(containerd.dir(), "a.tar", &files);
    let dir = containerd.dir().join("root/io.containerd.snapshotter.v1.overlayfs/snapshots");
    fs::create_dir_all(dir.join("1/fs/left")).unwrap();
    let images = booted(&containerd, &[], "first");
    assert_reason(images.import(&path).await, Reason::ContainerdFailed, &["prepare a snapshot"]);
    images.look_over().await.unwrap();
    images.import(&path).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_flushed_is_not_taken_for_written() {
    use crate::containerd::images::flush::Volume;
    let nowhere = Volume::of(Some("/proc/version/fs".into())).await;
    assert_reason(nowhere, Reason::StorageFailed, &["cannot flush /proc/version/fs"]);
    let gone = Volume::of(Some("/nowhere/fs".into())).await.unwrap();
    assert!(matches!(gone, Volume::Unknown));
    gone.flush().await.unwrap();
}
