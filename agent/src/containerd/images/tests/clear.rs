//! Images that nobody needs go with all that was theirs, and nothing else does.

use std::collections::BTreeSet;

use domain::keep::{Cause, Cleared, Clearing, Extent, Needs};
use domain::model::{Digest, Moment};
use serde_json::json;

use super::fixture::{Access, Registry, Sample, archive, images};
use crate::containerd::images::Images;
use crate::containerd::images::unpack::Snapshots;
use crate::containerd::testing::{PrivateContainerd, blobs};

/// After whatever was asked for before.
fn later(images: &Images) -> Moment {
    images.clock.now().after(std::time::Duration::from_nanos(1))
}

fn order(images: &Images, digests: &[Digest], references: &[&str], extent: Extent) -> Clearing {
    let needs = Needs {
        digests: digests.iter().copied().collect(),
        references: references.iter().map(ToString::to_string).collect(),
    };
    Clearing { needs, as_of: later(images), extent }
}

async fn names(images: &Images) -> Vec<String> {
    images.list().await.unwrap().into_iter().map(|image| image.name).collect()
}

async fn is_unpacked(images: &Images, chain: &str) -> bool {
    let snapshots = Snapshots { connection: &images.connection, snapshotter: "overlayfs" };
    snapshots.contains(chain).await.unwrap()
}

#[tokio::test]
async fn what_nobody_needs_goes_wholly_and_what_is_needed_by_name_or_bits_stays() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let Some(registry) = Registry::start(Access::Everyone).await else { return };
    let (old, new, next) = (Sample::here("old"), Sample::here("new"), Sample::here("next"));
    let images = images(&containerd, &[&registry]);
    let reference = format!("{}/a/hello:1", registry.host);
    let other = format!("{}/a/hello:2", registry.host);
    for (sample, reference) in [(&old, &reference), (&new, &reference), (&next, &other)] {
        registry.push("a/hello", &reference[reference.len() - 1..], sample).await;
        images.ensure(reference, &[]).await.unwrap();
    }
    let brought = Sample::here("brought");
    let files = brought.oci_files(&json!({ "io.containerd.image.name": "test.local/a:1" }));
    images.import(&archive(containerd.dir(), "a.tar", &files)).await.unwrap();
    let flashed = Sample::here("flashed");
    let files = flashed.oci_files(&json!({ "io.containerd.image.name": "test.local/b:1" }));
    let preloads = containerd.dir().join("preloads");
    std::fs::create_dir(&preloads).unwrap();
    archive(&preloads, "b.tar", &files);
    images.preload(&preloads).await;

    let routine = order(&images, &[new.root.digest], &[&other], Extent::Routine);
    assert_eq!(images.clear(routine).await.unwrap().removed, [], "it is young, and there is room");
    let asked = order(&images, &[new.root.digest], &[&other], Extent::Unneeded);
    let Cleared { removed, .. } = images.clear(asked).await.unwrap();
    let gone: Vec<_> = removed.iter().map(|one| (one.digest, one.cause)).collect();
    assert_eq!(gone, [(old.root.digest, Cause::Asked)]);
    let left = [reference.as_str(), other.as_str(), "test.local/a:1", "test.local/b:1"];
    assert_eq!(names(&images).await, left);
    let there: BTreeSet<String> = blobs(&containerd.connection()).await.into_iter().collect();
    let digests = |sample: &Sample| -> BTreeSet<String> {
        sample.blobs.iter().map(|(blob, _)| blob.digest.to_string()).collect()
    };
    for sample in [&new, &next, &brought, &flashed] {
        assert!(digests(sample).is_subset(&there), "a blob of one that stays is gone");
        assert!(is_unpacked(&images, &sample.chain).await);
    }
    let shared: BTreeSet<String> = digests(&old).intersection(&digests(&new)).cloned().collect();
    for own in digests(&old).difference(&shared) {
        assert!(!there.contains(own), "{own} stays though nobody refers to it");
    }
    assert!(!is_unpacked(&images, &old.chain).await);

    // The next run knows what lies on the board, and nothing else of the last one.
    let next_run = super::fixture::images(&containerd, &[&registry]);
    next_run.preload(&preloads).await;
    let asked = order(&next_run, &[], &[], Extent::Unneeded);
    let removed = next_run.clear(asked).await.unwrap().removed;
    assert_eq!(removed.len(), 2, "{removed:?}");
    assert_eq!(names(&next_run).await, ["test.local/a:1", "test.local/b:1"]);
}

#[tokio::test]
async fn what_was_asked_for_since_the_order_stays() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let Some(registry) = Registry::start(Access::Everyone).await else { return };
    let sample = Sample::here("wanted");
    registry.push("a/hello", "1", &sample).await;
    let images = images(&containerd, &[&registry]);
    let asked = order(&images, &[], &[], Extent::Unneeded);
    let reference = format!("{}/a/hello:1", registry.host);
    images.ensure(&reference, &[]).await.unwrap();
    assert_eq!(images.clear(asked).await.unwrap().removed, []);
    assert_eq!(names(&images).await, [reference]);
}

#[tokio::test]
async fn it_is_written_down_since_when_nobody_needs_an_image_and_no_longer_once_somebody_does() {
    use crate::containerd::images::records::{self, UNNEEDED};

    let Some(containerd) = PrivateContainerd::start().await else { return };
    let Some(registry) = Registry::start(Access::Everyone).await else { return };
    let sample = Sample::here("aged");
    registry.push("a/hello", "1", &sample).await;
    let reference = format!("{}/a/hello:1", registry.host);
    images(&containerd, &[&registry]).ensure(&reference, &[]).await.unwrap();
    let images = images(&containerd, &[&registry]);
    let dates = async || -> BTreeSet<Option<String>> {
        let records = records::list(&images.connection).await.unwrap();
        records.iter().map(|record| record.labels.get(UNNEEDED).cloned()).collect()
    };
    let routine = |digests: &[Digest]| images.clear(order(&images, digests, &[], Extent::Routine));
    routine(&[]).await.unwrap();
    let noted = dates().await;
    assert!(noted.len() == 1 && !noted.contains(&None), "{noted:?}");
    routine(&[sample.root.digest]).await.unwrap();
    assert_eq!(dates().await, BTreeSet::from([None]));

    for name in [reference.clone(), format!("{}/a/hello@{}", registry.host, sample.root.digest)] {
        let date = "2025-02-01T00:00:00Z".to_owned();
        records::label(&images.connection, name, UNNEEDED, date).await.unwrap();
    }
    let removed = routine(&[]).await.unwrap().removed;
    assert_eq!(removed.iter().map(|one| one.cause).collect::<Vec<_>>(), [Cause::Age]);
    assert_eq!(names(&images).await, [""; 0]);
}
