//! What an agent that was killed left of its leases.

use containerd_client::services::v1::ListRequest;
use domain::keep::Needs;
use serde_json::json;

use super::fixture::{Sample, archive, images};
use crate::containerd::connection::Connection;
use crate::containerd::images::content::{Blob, Content, ingest_of};
use crate::containerd::testing::PrivateContainerd;

/// A date that no lease of the test comes to.
const FAR: &str = "2999-01-01T00:00:00Z";

async fn leases(connection: &Connection) -> Vec<String> {
    let request = connection.request(ListRequest::default());
    let answer = connection.client().await.unwrap().leases().list(request).await.unwrap();
    let mut ids: Vec<String> =
        answer.into_inner().leases.into_iter().map(|lease| lease.id).collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn a_lease_whose_image_is_recorded_is_ended_and_that_of_unfinished_work_stays() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let connection = containerd.connection();
    let sample = Sample::here("lease");
    let files = sample.oci_files(&json!({ "io.containerd.image.name": "test.local/a:1" }));
    let path = archive(containerd.dir(), "a.tar", &files);
    images(&containerd, &[]).import(&path).await.unwrap();
    assert_eq!(leases(&connection).await, [""; 0]);

    let (done, unfinished) = (sample.root.digest.hex(), "ab".repeat(32));
    let left = [format!("skerry-import-{done}"), format!("skerry-unpack-{done}")];
    let stay = [format!("other-{done}"), format!("skerry-pull-{unfinished}")];
    for id in left.iter().chain(&stay) {
        connection.leased(id, FAR.to_owned()).await.unwrap();
    }
    let next_run = images(&containerd, &[]);
    let own = format!("skerry-own-{done}");
    next_run.lease("own", sample.root.digest).await.unwrap();
    next_run.end_finished_leases().await.unwrap();
    let mut expected = [stay.as_slice(), &[own]].concat();
    expected.sort();
    assert_eq!(leases(&connection).await, expected);

    // What is left from here on is this run's own work.
    connection.leased(&left[0], FAR.to_owned()).await.unwrap();
    next_run.end_finished_leases().await.unwrap();
    assert!(leases(&connection).await.contains(&left[0]));
}

#[tokio::test]
async fn a_pull_that_stopped_half_way_is_given_up_once_it_is_sure_that_nobody_waits_for_it() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let connection = containerd.connection();
    let sample = Sample::here("half");
    let (layer, bytes) = &sample.blobs[0];
    let lease = format!("skerry-pull-{}", sample.root.digest.hex());
    let leased = connection.leased(&lease, FAR.to_owned()).await.unwrap();
    let content = Content(leased);
    let Blob::Missing(mut ingest) = content.open(&ingest_of(layer), layer).await.unwrap() else {
        panic!("it is not there yet")
    };
    ingest.write(&bytes[..300_000]).await.unwrap();
    ingest.keep().await;
    assert!(content.left(&ingest_of(layer)).await.unwrap().is_some());

    let images = images(&containerd, &[]);
    let name = "registry.example/a/half:1";
    let needs = |references: &[&str]| Needs {
        references: references.iter().map(ToString::to_string).collect(),
        ..Needs::default()
    };
    // It may be that of the image that is waited for: nobody has asked what that one is.
    assert!(!images.end_useless_pulls(&needs(&[name])).await.unwrap());
    // It is that one.
    images.asks_for(&name.parse().unwrap(), sample.root.digest);
    assert!(!images.end_useless_pulls(&needs(&[name])).await.unwrap());
    assert_eq!(leases(&connection).await, [lease]);
    // That image is another one by now.
    images.asks_for(&name.parse().unwrap(), layer.digest);
    assert!(images.end_useless_pulls(&needs(&[name])).await.unwrap());
    assert_eq!(leases(&connection).await, [""; 0]);
    assert_eq!(content.left(&ingest_of(layer)).await.unwrap(), None, "what came of it is gone");
}
