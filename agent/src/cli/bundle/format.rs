//! What a bundle looks like: a tar whose files all lie below one folder, and last the list of them with their sums.
//!
//! ```text
//!   skerry-bundle/documents/01-app-hello.yaml
//!   skerry-bundle/images/01.tar                 an archive of images each
//!   skerry-bundle/manifest.json                 {"version": 1, "documents": [..], "images": [..]}
//! ```
//!
//! The list comes last, so that a bundle can be written in one go, and one that was cut short has none.

use serde::{Deserialize, Serialize};

/// Where all of it lies.
pub(super) const ROOT: &str = "skerry-bundle/";
/// The list.
pub(super) const MANIFEST: &str = "skerry-bundle/manifest.json";
/// The form that this program writes, and the only one that it reads.
pub(super) const VERSION: u32 = 1;
/// What tar counts in.
pub(super) const BLOCK: usize = 512;

/// The list of what is in a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    /// The form of the bundle.
    pub(super) version: u32,
    /// In the order in which they are applied, but for environments, which come first.
    #[serde(default)]
    pub(super) documents: Vec<Part>,
    /// Archives of images.
    #[serde(default)]
    pub(super) images: Vec<Part>,
}

/// One file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Part {
    /// Its name in the tar.
    pub(super) path: String,
    /// Of its bytes, 64 digits.
    pub(super) sha256: String,
    /// Its bytes.
    pub(super) size: u64,
    /// The app, job or environment of a document; the images of an archive.
    #[serde(default)]
    pub(super) names: Vec<String>,
}

/// Only the version, for bundles of which nothing else is known.
#[derive(Debug, Deserialize)]
pub(super) struct Versioned {
    pub(super) version: u32,
}

/// Whether a file may have this name: below the folder, in plain words, and nowhere else on any system.
pub(super) fn is_safe(path: &str) -> bool {
    let plain = |word: &str| {
        !word.is_empty()
            && !word.starts_with('.')
            && word.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    path.strip_prefix(ROOT).is_some_and(|rest| rest.split('/').all(plain))
}

/// Bytes that fill a file of this length up to what tar counts in.
pub(super) fn padding(length: u64) -> usize {
    usize::try_from(length.next_multiple_of(BLOCK as u64) - length).unwrap_or_default()
}

/// What stands before a file. The same file gives the same header: no time and no owner go in.
pub(super) fn header(path: &str, size: u64) -> std::io::Result<Vec<u8>> {
    let mut header = tar::Header::new_gnu();
    header.set_path(path)?;
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    Ok(header.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_below_the_folder() {
        for good in ["skerry-bundle/manifest.json", "skerry-bundle/images/01.tar"] {
            assert!(is_safe(good), "{good}");
        }
        let bad = [
            "",
            "manifest.json",
            "/skerry-bundle/a",
            "skerry-bundle",
            "skerry-bundle/",
            "skerry-bundle//a",
            "skerry-bundle/../a",
            "skerry-bundle/a/..",
            "skerry-bundle/./a",
            "skerry-bundle/.a",
            "skerry-bundle/a\\b",
            "skerry-bundle/a b",
            "skerry-bundle/a\n",
            "../skerry-bundle/a",
        ];
        for bad in bad {
            assert!(!is_safe(bad), "{bad:?}");
        }
    }
}
