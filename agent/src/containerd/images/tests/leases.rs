//! What an agent that was killed left of its leases.

use containerd_client::services::v1::ListRequest;
use serde_json::json;

use super::fixture::{Sample, archive, images};
use crate::containerd::connection::Connection;
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
