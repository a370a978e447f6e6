//! Archives of every kind, whole and broken.

use std::fs;

use domain::reason::Reason;
use serde_json::json;

use super::fixture::{OCI_LAYER, Sample, architecture, archive, assert_reason, images};
use crate::containerd::images::ImportedImage;
use crate::containerd::testing::{PrivateContainerd, blobs};

const NAME: &str = "io.containerd.image.name";
const REF: &str = "org.opencontainers.image.ref.name";

#[tokio::test]
async fn an_oci_archive_is_imported_and_used_without_asking_a_registry() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let images = images(&containerd, &[]);
    let sample = Sample::here("one");
    let files = sample.oci_files(&json!({ NAME: "docker.io/library/hello:1", REF: "other:2" }));
    let path = archive(containerd.dir(), "a.tar", &files);
    let imported = images.import(&path).await.unwrap();
    let name = "docker.io/library/hello:1".to_owned();
    let digest = sample.root.digest;
    assert_eq!(imported, [ImportedImage { name: name.clone(), digest, unchanged: false }]);

    // Docker Hub cannot be reached from here, so an answer shows that it was not asked.
    let image = images.ensure("hello:1", &[]).await.unwrap();
    assert_eq!((image.name.as_str(), image.digest), (name.as_str(), digest));
    assert_eq!(image.warning, None);
    let pinned = images.ensure(&format!("hello@{digest}"), &[]).await.unwrap();
    assert_eq!(pinned.digest, digest);

    let config = images.config(&image).await.unwrap();
    assert_eq!(config.chain_id, sample.chain);
    assert_eq!((config.env, config.cmd), (vec!["A=b".to_owned()], vec!["/hello".to_owned()]));
    assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("7:8", "/w"));
    assert_eq!((config.stop_signal.as_str(), config.entrypoint.len()), ("SIGINT", 0));

    let listed = images.list().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].name.as_str(), listed[0].imported), (name.as_str(), true));
    assert_eq!(listed[0].platform, format!("linux/{}", architecture()));
    assert!(700_000 < listed[0].size);
}

#[tokio::test]
async fn what_docker_saved_is_imported_under_each_of_its_tags() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let images = images(&containerd, &[]);
    let sample = Sample::here("docker");
    for (file, tags) in [("a.tar", ["hello:1", "me/hello:x"]), ("b.tar.gz", ["gz:1", "gz:2"])] {
        let path = archive(containerd.dir(), file, &sample.docker_files(&tags));
        let imported = images.import(&path).await.unwrap();
        assert_eq!(imported.len(), 2, "{file}");
        assert_eq!(imported[0].digest, imported[1].digest);
        for tag in tags {
            let image = images.ensure(tag, &[]).await.unwrap();
            assert_eq!(images.config(&image).await.unwrap().chain_id, sample.chain);
        }
    }
    let (layer, _) = sample.blob(OCI_LAYER);
    assert!(blobs(&containerd.connection()).await.contains(&layer.digest.to_string()));
}

#[tokio::test]
async fn the_name_is_the_annotation_else_a_full_reference_else_the_tags_of_docker() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let images = images(&containerd, &[]);
    let sample = Sample::here("names");
    let full =
        archive(containerd.dir(), "a.tar", &sample.oci_files(&json!({ REF: "ghcr.io/a/b:1" })));
    assert_eq!(images.import(&full).await.unwrap()[0].name, "ghcr.io/a/b:1");

    let mut both = sample.oci_files(&json!({ REF: "latest" }));
    let docker = sample.docker_files(&["hello:both"]);
    both.extend(docker.into_iter().filter(|(name, _)| name == "manifest.json"));
    let both = archive(containerd.dir(), "b.tar", &both);
    assert_eq!(images.import(&both).await.unwrap()[0].name, "docker.io/library/hello:both");

    let none = archive(containerd.dir(), "c.tar", &sample.oci_files(&json!({ REF: "latest" })));
    assert_reason(images.import(&none).await, Reason::ImageCorrupt, &["names no image", "c.tar"]);
}

#[tokio::test]
async fn preloaded_archives_are_imported_once_and_again_when_they_change() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let images = images(&containerd, &[]);
    let dir = containerd.dir().join("preload");
    assert!(images.preload(&dir).await.is_empty());
    fs::create_dir(&dir).unwrap();
    let name = json!({ NAME: "docker.io/library/hello:1" });
    let (old, new) = (Sample::here("old!"), Sample::here("new!"));
    let path = archive(&dir, "b.tar", &old.oci_files(&name));
    archive(&dir, "a.tgz", &new.docker_files(&["other:1"]));
    fs::write(dir.join("c.tar"), b"no archive").unwrap();
    fs::write(dir.join("readme"), b"").unwrap();

    let outcomes = images.preload(&dir).await;
    let files: Vec<_> = outcomes.iter().map(|(path, _)| path.file_name().unwrap()).collect();
    assert_eq!(files, ["a.tgz", "b.tar", "c.tar"]);
    assert!(outcomes[0].1.as_ref().unwrap().iter().all(|image| !image.unchanged));
    assert_eq!(outcomes[1].1.as_ref().unwrap()[0].digest, old.root.digest);
    assert_eq!(outcomes[2].1.as_ref().unwrap_err().trouble().reason, Reason::ImageCorrupt);

    let again = images.preload(&dir).await;
    assert!(again[0].1.as_ref().unwrap().iter().all(|image| image.unchanged));
    assert!(again[1].1.as_ref().unwrap().iter().all(|image| image.unchanged));

    // As long as the old one and as old as it, as files of a read-only system are.
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    let before = images.ensure("hello:1", &[]).await.unwrap();
    archive(&dir, "b.tar", &new.oci_files(&name));
    fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    let changed = images.preload(&dir).await;
    assert!(!changed[1].1.as_ref().unwrap()[0].unchanged);
    let image = images.ensure("hello:1", &[]).await.unwrap();
    assert_eq!(image.digest, new.root.digest);
    // A revision that runs the old bits can still start replicas.
    images.forget(&before);
    assert_eq!(images.config(&before).await.unwrap().chain_id, old.chain);
}

#[tokio::test]
async fn an_archive_for_another_board_is_refused_by_name_and_leaves_nothing() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let images = images(&containerd, &[]);
    let foreign = Sample::new("s390x", "far");
    let name = json!({ NAME: "docker.io/library/far:1" });
    let path = archive(containerd.dir(), "a.tar", &foreign.oci_files(&name));
    let words = ["far:1", "linux/s390x", architecture()];
    assert_reason(images.import(&path).await, Reason::ImagePlatformMismatch, &words);
    let path = archive(containerd.dir(), "b.tar", &foreign.docker_files(&["far:1"]));
    assert_reason(images.import(&path).await, Reason::ImagePlatformMismatch, &words);
    let index = Sample::index(&[("linux/s390x", &foreign), ("linux/arm/v5", &foreign)]);
    let path = archive(containerd.dir(), "c.tar", &index.oci_files(&name));
    let words = ["linux/s390x, linux/arm/v5", architecture()];
    assert_reason(images.import(&path).await, Reason::ImagePlatformMismatch, &words);
    assert!(blobs(&containerd.connection()).await.is_empty());
    assert!(images.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_truncated_archive_is_refused_and_leaves_nothing() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let images = images(&containerd, &[]);
    let sample = Sample::here("short");
    let mut files = sample.oci_files(&json!({ NAME: "docker.io/library/hello:1" }));
    // The index first, as some tools write it, so that only the length of the last layer tells.
    files.reverse();
    let last = files.last().unwrap().1.len();
    let after_last = last.next_multiple_of(512) - last + 1024;
    for file in ["half.tar", "half.tar.gz", "one-byte-less.tar"] {
        let path = archive(containerd.dir(), file, &files);
        let bytes = fs::read(&path).unwrap();
        let kept =
            if file.starts_with("half") { bytes.len() / 2 } else { bytes.len() - after_last - 1 };
        fs::write(&path, &bytes[..kept]).unwrap();
        assert_reason(images.import(&path).await, Reason::ImageCorrupt, &[file]);
    }
    assert!(blobs(&containerd.connection()).await.is_empty());
    assert!(images.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_damaged_blob_is_refused_and_leaves_nothing() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let images = images(&containerd, &[]);
    let sample = Sample::here("damaged");
    // The upper of two, so that something came before it.
    let (layer, _) = &sample.blobs[1];
    let mut files = sample.oci_files(&json!({ NAME: "docker.io/library/hello:1" }));
    let damaged = files.iter_mut().find(|(name, _)| name.contains(&layer.digest.hex())).unwrap();
    damaged.1[513] ^= 1;
    let path = archive(containerd.dir(), "a.tar", &files);
    let words = [layer.digest.to_string()];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    assert_reason(images.import(&path).await, Reason::ImageCorrupt, &words);
    assert!(blobs(&containerd.connection()).await.is_empty());

    // The same archive in good order is then taken.
    let whole = sample.oci_files(&json!({ NAME: "docker.io/library/hello:1" }));
    let path = archive(containerd.dir(), "b.tar.gz", &whole);
    assert_eq!(images.import(&path).await.unwrap()[0].digest, sample.root.digest);
}

#[tokio::test]
async fn the_archives_of_other_tools_are_taken() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let images = images(&containerd, &[]);
    let sample = Sample::here("tools");
    let dir = containerd.dir();
    let name = json!({ NAME: "docker.io/library/hello:1" });
    let ours = archive(dir, "ours.tar", &sample.oci_files(&name));
    images.import(&ours).await.unwrap();
    let (ours, dir, socket) =
        (ours.display(), dir.display(), containerd.socket().display().to_string());
    let calls = [
        format!("skopeo copy oci-archive:{ours} docker-archive:{dir}/skopeo-docker.tar:hello:2"),
        format!(
            "skopeo copy oci-archive:{ours} oci-archive:{dir}/skopeo-oci.tar:quay.io/a/hello:3"
        ),
        format!(
            "ctr --address {socket} -n skerry images export {dir}/ctr.tar docker.io/library/hello:1"
        ),
    ];
    let names = ["docker.io/library/hello:2", "quay.io/a/hello:3", "docker.io/library/hello:1"];
    let files = ["skopeo-docker.tar", "skopeo-oci.tar", "ctr.tar"];
    for ((call, name), file) in calls.iter().zip(names).zip(files) {
        let words: Vec<&str> = call.split(' ').collect();
        match std::process::Command::new(words[0]).args(&words[1..]).output() {
            Ok(output) => assert!(output.status.success(), "{call}: {output:?}"),
            Err(error) => {
                println!("skipped: {}: {error}", words[0]);
                continue;
            }
        }
        let imported = images.import(&containerd.dir().join(file)).await.unwrap();
        assert_eq!(imported[0].name, name, "{file}");
        let image = images.ensure(name, &[]).await.unwrap();
        assert_eq!(images.config(&image).await.unwrap().chain_id, sample.chain);
    }
}
