//! Bundles that are whole, and all the ways in which they are not.

use std::fs;
use std::path::PathBuf;

use expect_test::{Expect, expect};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::report::Report;

/// The files of a bundle, its list among them.
fn files(parts: &[(&str, &[u8])], version: u32) -> Vec<(String, Vec<u8>)> {
    let list = |folder: &str| -> Vec<Value> {
        let of = parts.iter().filter(|(path, _)| path.contains(folder));
        of.map(|(path, bytes)| {
            let sum = hex::encode(Sha256::digest(bytes));
            json!({ "path": path, "sha256": sum, "size": bytes.len(), "names": [] })
        })
        .collect()
    };
    let (documents, images) = (list("/documents/"), list("/images/"));
    let manifest = json!({ "version": version, "documents": documents, "images": images });
    let mut files: Vec<(String, Vec<u8>)> =
        parts.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec())).collect();
    files.push((MANIFEST.to_owned(), manifest.to_string().into_bytes()));
    files
}

fn tar(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (path, content) in files {
        bytes.extend(header(path, content.len() as u64).unwrap());
        bytes.extend(content);
        bytes.extend(vec![0; padding(content.len() as u64)]);
    }
    bytes.extend([0; 1024]);
    bytes
}

const PARTS: [(&str, &[u8]); 2] = [
    ("skerry-bundle/documents/01-app-hello.yaml", b"name: hello"),
    ("skerry-bundle/images/01.tar", &[7; 2000]),
];

struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn put(&self, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join("b.tar");
        fs::write(&path, bytes).unwrap();
        path
    }

    #[track_caller]
    fn check(&self, bytes: &[u8], expected: &Expect) {
        let error = Bundle::open(&self.put(bytes), |_, _| ()).unwrap_err();
        let text = format!("{}\n", Report(&error));
        expected.assert_eq(&text.replace(&*self.0.path().to_string_lossy(), "DIR"));
    }
}

#[test]
fn a_whole_bundle_is_opened_and_read_in_parts() {
    let desk = Desk::new();
    let path = desk.put(&tar(&files(&PARTS, 1)));
    assert!(is_tar(&path).unwrap());
    let mut told = 0;
    let mut bundle = Bundle::open(&path, |so_far, _| told = so_far).unwrap();
    assert!(3000 < told, "{told}");
    let (document, image) = (bundle.documents[0].clone(), bundle.images[0].clone());
    assert_eq!(bundle.read(&document).unwrap(), b"name: hello");
    let mut archive = Vec::new();
    bundle.at(&image).unwrap().take(image.size).read_to_end(&mut archive).unwrap();
    assert_eq!(archive, [7; 2000]);
    fs::write(&path, b"name: hello").unwrap();
    assert!(!is_tar(&path).unwrap());
}

#[test]
fn a_bundle_that_ends_anywhere_else_is_refused() {
    let desk = Desk::new();
    let whole = tar(&files(&PARTS, 1));
    let list = whole.len() - 1024 - 512;
    for end in (600..=list).step_by(100) {
        let error = Bundle::open(&desk.put(&whole[..end]), |_, _| ()).unwrap_err();
        let text = Report(&error).to_string();
        assert!(text.contains("ends too early"), "{end}: {text}");
    }
}

#[test]
fn a_bit_that_flipped_is_found_wherever_it_is() {
    let desk = Desk::new();
    let whole = tar(&files(&PARTS, 1));
    let mut missed = Vec::new();
    for place in (0..whole.len() - 1024).step_by(37) {
        let mut spoilt = whole.clone();
        spoilt[place] ^= 4;
        if Bundle::open(&desk.put(&spoilt), |_, _| ()).is_ok() {
            missed.push(place);
        }
    }
    // What fills a file up to a whole block, and the list's remarks, mean nothing.
    let means = |place: &usize| {
        let padding = [512 + 11..1024, 1536 + 2000..1536 + 2048];
        let list = 1536 + 2048 + 512;
        padding.iter().all(|range| !range.contains(place)) && *place < list
    };
    missed.retain(means);
    assert!(missed.is_empty(), "{missed:?}");
}

#[test]
fn what_a_bundle_should_not_have_is_told() {
    let desk = Desk::new();
    let archive = vec![("oci-layout".to_owned(), b"{}".to_vec())];
    desk.check(
        &tar(&archive),
        &expect![[r#"
            error: DIR/b.tar cannot be applied: it is a tar, and no bundle
            hint: nothing was changed; copy or make it again, and archives of images are for: skerry images import DIR/b.tar
        "#]],
    );
    desk.check(
        &tar(&files(&PARTS, 2)),
        &expect![[r#"
            error: DIR/b.tar cannot be applied: it is of version 2, and this program reads 1
            hint: nothing was changed; copy or make it again, and archives of images are for: skerry images import DIR/b.tar
        "#]],
    );
    let why = |bytes: &[u8]| {
        let error = Bundle::open(&desk.put(bytes), |_, _| ()).unwrap_err();
        let CliError::Bundle { why, .. } = error else { panic!("{error}") };
        why
    };
    let mut more = files(&PARTS, 1);
    more.insert(0, ("skerry-bundle/more".to_owned(), Vec::new()));
    assert_eq!(why(&tar(&more)), "4 files, and 3 are listed");
    let mut twice = files(&PARTS, 1);
    twice.insert(0, twice[0].clone());
    assert_eq!(why(&tar(&twice)), "skerry-bundle/documents/01-app-hello.yaml is there twice");
    let mut missing = files(&PARTS, 1);
    missing.remove(1);
    assert_eq!(why(&tar(&missing)), "skerry-bundle/images/01.tar is listed and missing");
    let mut other = files(&PARTS, 1);
    other[0].1[0] = b'N';
    assert!(why(&tar(&other)).ends_with("hello.yaml has another sum than listed"));
    let blank = vec![b' '; 300_000];
    let large = [("skerry-bundle/documents/01.yaml", &blank[..])];
    assert!(why(&tar(&files(&large, 1))).ends_with("is larger than a document may be"));
    let same = [("skerry-bundle/documents/01.yaml", &b"a"[..]); 2];
    let mut listed_twice = files(&same, 1);
    listed_twice.remove(0);
    assert_eq!(why(&tar(&listed_twice)), "2 files, and 3 are listed");
    assert_eq!(why(&[0x1f, 0x8b, 0, 0]), "it is gzipped");
}

#[test]
fn links_and_names_that_lead_elsewhere_are_refused() {
    let desk = Desk::new();
    let mut files = files(&PARTS, 1);
    let list = files.pop().unwrap();
    let kinds = [
        (tar::EntryType::Symlink, "skerry-bundle/x", "no plain file"),
        (tar::EntryType::Link, "skerry-bundle/x", "no plain file"),
        (tar::EntryType::Directory, "skerry-bundle/x", "no plain file"),
        (tar::EntryType::Regular, "skerry-bundle/../../etc/x", "no name for a file"),
        (tar::EntryType::Regular, "/etc/x", "no name for a file"),
        (tar::EntryType::Symlink, "../x", "no name for a file"),
    ];
    for (kind, name, words) in kinds {
        let mut bytes = tar(&files);
        bytes.truncate(bytes.len() - 1024);
        let mut header = tar::Header::new_gnu();
        // The name as it is: the library would refuse some of these.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(0);
        header.as_gnu_mut().unwrap().linkname[..11].copy_from_slice(b"/etc/shadow");
        header.set_cksum();
        bytes.extend(header.as_bytes());
        bytes.extend(tar(std::slice::from_ref(&list)));
        let error = Bundle::open(&desk.put(&bytes), |_, _| ()).unwrap_err();
        assert!(error.to_string().contains(words), "{name}: {error}");
    }
}
