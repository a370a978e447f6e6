//! Images out of the board again, by archives that this and other tools take.

use std::path::{Path, PathBuf};
use std::process::Command;

use domain::reason::Reason;
use futures_util::TryStreamExt as _;
use serde_json::json;

use super::fixture::{Access, Registry, Sample, architecture, archive, assert_reason, images};
use crate::containerd::images::{Export, Images};
use crate::containerd::testing::PrivateContainerd;
use crate::runtime::RuntimeError;

/// Asks containerd by its own tool.
fn ctr(containerd: &PrivateContainerd, words: &[&str]) -> String {
    let socket = containerd.socket().display().to_string();
    let head = ["--address", &socket, "--namespace", "skerry"];
    let output = Command::new("ctr").args(head).args(words).output().unwrap();
    assert!(output.status.success(), "{words:?} {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Imports a sample under each of the names.
async fn import(images: &Images, dir: &Path, sample: &Sample, names: &[&str]) {
    for name in names {
        let files = sample.oci_files(&json!({ "io.containerd.image.name": name }));
        images.import(&archive(dir, "in.tar", &files)).await.unwrap();
    }
}

async fn write(export: Export, path: PathBuf) -> Result<PathBuf, RuntimeError> {
    let size = export.size;
    let parts: Vec<_> = export.parts.try_collect().await?;
    let bytes = parts.concat();
    assert_eq!(bytes.len() as u64, size, "it is as long as was said");
    std::fs::write(&path, bytes).unwrap();
    Ok(path)
}

#[tokio::test]
async fn an_export_is_imported_elsewhere_under_the_same_names_and_digests() {
    let Some(here) = PrivateContainerd::start().await else { return };
    let Some(there) = PrivateContainerd::start().await else { return };
    let (from, to) = (images(&here, &[]), images(&there, &[]));
    let (one, two) = (Sample::here("one"), Sample::here("two"));
    import(&from, here.dir(), &one, &["docker.io/library/one:1", "registry.test/one:1"]).await;
    import(&from, here.dir(), &two, &["registry.test/two:1"]).await;

    let asked = ["one:1", "registry.test/one:1", "registry.test/two:1", "docker.io/library/one:1"];
    let export = from.export(&asked.map(str::to_owned)).await.unwrap();
    let names = ["docker.io/library/one:1", "registry.test/one:1", "registry.test/two:1"];
    assert_eq!(export.names, names);
    let path = write(export, here.dir().join("out.tar")).await.unwrap();
    let again = from.export(&names.map(str::to_owned)).await.unwrap();
    let again = write(again, here.dir().join("again.tar")).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(again).unwrap());

    let imported = to.import(&path).await.unwrap();
    let found: Vec<_> = imported.iter().map(|image| (image.name.as_str(), image.digest)).collect();
    let roots = [one.root.digest, one.root.digest, two.root.digest];
    assert_eq!(found, names.into_iter().zip(roots).collect::<Vec<_>>());
    let image = to.ensure("one:1", &[]).await.unwrap();
    assert_eq!(to.config(&image).await.unwrap().chain_id, one.chain);
}

#[tokio::test]
async fn of_an_index_the_part_for_this_board_goes_along_and_other_boards_are_told() {
    let Some(here) = PrivateContainerd::start().await else { return };
    let Some(there) = PrivateContainerd::start().await else { return };
    let Some(registry) = Registry::start(Access::Everyone).await else { return };
    let (from, mut to) = (images(&here, &[&registry]), images(&there, &[]));
    let (ours, theirs) = (Sample::here("ours"), Sample::new("s390x", "theirs"));
    let platform = format!("linux/{}", architecture());
    let index = Sample::index(&[("linux/s390x", &theirs), (&platform, &ours)]);
    registry.push("both", "1", &index).await;
    let reference = format!("{}/both:1", registry.host);
    let pulled = from.pull_by_hand(&reference, None).await.unwrap();
    assert_eq!((pulled.digest, pulled.imported), (index.root.digest, false));

    let pinned = format!("{}/both@{}", registry.host, index.root.digest);
    let export = from.export(&[reference.clone(), pinned]).await.unwrap();
    let path = write(export, here.dir().join("out.tar")).await.unwrap();
    let imported = to.import(&path).await.unwrap();
    assert_eq!(
        imported.iter().map(|image| image.digest).collect::<Vec<_>>(),
        [index.root.digest; 2]
    );
    // Known now without its registry, and said so.
    let again = to.pull_by_hand(&reference, None).await.unwrap();
    assert!(again.imported, "{again:?}");

    to.board =
        std::sync::Arc::new(crate::containerd::images::platform::Board::of("s390x", "s390x"));
    assert_reason(to.import(&path).await, Reason::ImagePlatformMismatch, &["linux/s390x"]);
}

#[tokio::test]
async fn what_is_not_whole_is_not_exported() {
    let Some(here) = PrivateContainerd::start().await else { return };
    let images = images(&here, &[]);
    let sample = Sample::here("torn");
    import(&images, here.dir(), &sample, &["registry.test/torn:1"]).await;
    let none = images.export(&["registry.test/none:1".to_owned()]).await;
    assert_reason(none, Reason::ImageNotFound, &["registry.test/none:1", "images ls"]);
    let bad = images.export(&["A B".to_owned()]).await;
    assert_reason(bad, Reason::InvalidValue, &["A B"]);

    let layer = sample.blobs[0].0.digest;
    let blobs = here.dir().join("root/io.containerd.content.v1.content/blobs/sha256");
    let blob = blobs.join(layer.hex());
    let bytes = std::fs::read(&blob).unwrap();
    let mut spoilt = bytes.clone();
    spoilt[600] ^= 1;
    std::fs::write(&blob, &spoilt).unwrap();
    let export = images.export(&["registry.test/torn:1".to_owned()]).await.unwrap();
    let written = write(export, here.dir().join("out.tar")).await;
    assert_reason(written, Reason::ImageCorrupt, &[&layer.to_string(), "other content"]);
    std::fs::write(&blob, bytes).unwrap();

    let digest = layer.to_string();
    ctr(&here, &["content", "rm", &digest]);
    let gone = images.export(&["registry.test/torn:1".to_owned()]).await;
    assert_reason(gone, Reason::ImageCorrupt, &[&digest, "is missing on this board"]);
}

#[tokio::test]
async fn other_tools_read_an_export() {
    let Some(here) = PrivateContainerd::start().await else { return };
    let Some(there) = PrivateContainerd::start().await else { return };
    let from = images(&here, &[]);
    let sample = Sample::here("read");
    import(&from, here.dir(), &sample, &["registry.test/read:1"]).await;
    let export = from.export(&["registry.test/read:1".to_owned()]).await.unwrap();
    let path = write(export, here.dir().join("out.tar")).await.unwrap();
    for kind in ["oci-archive", "docker-archive"] {
        let source = format!("{kind}:{}:registry.test/read:1", path.display());
        match Command::new("skopeo").args(["inspect", "--config", &source]).output() {
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                assert!(output.status.success() && text.contains("diff_ids"), "{kind} {output:?}");
            }
            Err(error) => println!("skipped: skopeo: {error}"),
        }
    }
    ctr(&there, &["images", "import", &path.display().to_string()]);
    let listed = ctr(&there, &["images", "list"]);
    assert!(listed.contains("registry.test/read:1"), "{listed}");
    assert!(listed.contains(&sample.root.digest.to_string()), "{listed}");
}
