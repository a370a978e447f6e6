//! Documents that others wrote, where they are at hand.

use std::path::PathBuf;

use crate::document::{Finding, parse};

/// The folder with the samples, if there is one.
fn folder() -> Option<PathBuf> {
    let beside = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared"));
    let shared = std::env::var_os("SKERRY_SHARED").map_or_else(beside, PathBuf::from);
    let folder = shared.join("aca/samples");
    if !folder.is_dir() {
        println!("skipped: {} is not there", folder.display());
        return None;
    }
    Some(folder)
}

fn show(findings: &[Finding]) {
    for finding in findings {
        println!(
            "   {} {:?} {} {}",
            finding.path, finding.position, finding.reason, finding.message
        );
    }
}

#[test]
fn look() {
    let Some(folder) = folder() else { return };
    let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    names.sort();
    for name in names {
        println!("== {}", name.display());
        let parsed = parse(&std::fs::read(name).unwrap());
        match parsed.document {
            Ok(_) => println!("ok"),
            Err(errors) => show(&errors),
        }
        println!(" warnings");
        show(&parsed.warnings);
    }
}
