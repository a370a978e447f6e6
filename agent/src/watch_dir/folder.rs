//! The folder as it stands: every document in it, read and named.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use domain::model::Digest;

/// More documents than a board has apps: the folder is another one than was meant.
pub(super) const MOST_FILES: usize = 128;

/// One byte more than a document may have, so that the loop refuses what is too large, and memory holds no more.
const LONGEST_DOCUMENT: u64 = (256 << 10) + 1;

/// What a document's file name ends with.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// Stands before the names of environments, which an app may have too.
pub(super) const ENVIRONMENTS: &str = "environments/";

/// The documents in the folder, by path.
#[derive(Debug, Default)]
pub(super) struct Folder {
    pub(super) files: BTreeMap<PathBuf, Content>,
    /// There were more than are listed.
    pub(super) overfull: bool,
}

/// What stands in a file.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// It was read; the name is there if it says one.
    Document { payload: Bytes, digest: Digest, name: Option<String> },
    /// It is there and cannot be read.
    Unreadable(String),
}

impl Content {
    pub(super) fn of(payload: Vec<u8>) -> Self {
        let name = name(&payload);
        Self::Document { digest: Digest::of(&payload), payload: payload.into(), name }
    }
}

/// Why nothing is known of the folder.
#[derive(Debug)]
pub(super) enum FolderError {
    /// It is not there.
    Missing,
    /// It is there and cannot be read.
    Unreadable(io::Error),
}

/// Reads the folder.
pub(super) fn read(dir: &Path) -> Result<Folder, FolderError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(FolderError::Missing),
        Err(error) => return Err(FolderError::Unreadable(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(FolderError::Unreadable)?.path();
        if is_document(&path) {
            paths.push(path);
        }
    }
    paths.sort();
    let overfull = MOST_FILES < paths.len();
    paths.truncate(MOST_FILES);
    let files =
        paths.into_iter().filter_map(|path| read_file(&path).map(|content| (path, content)));
    Ok(Folder { files: files.collect(), overfull })
}

/// By its name. What begins with a dot is an editor's.
fn is_document(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let extension = path.extension().and_then(|extension| extension.to_str());
    !hidden && extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
}

/// `None` if it is gone by now, or was never a file.
fn read_file(path: &Path) -> Option<Content> {
    let read = || -> io::Result<Option<Content>> {
        // Asked first: opening a pipe would wait for its writer.
        if !fs::metadata(path)?.is_file() {
            return Ok(None);
        }
        let mut payload = Vec::new();
        File::open(path)?.take(LONGEST_DOCUMENT).read_to_end(&mut payload)?;
        Ok(Some(Content::of(payload)))
    };
    match read() {
        Ok(content) => content,
        // A link that leads nowhere is there all the same.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => None,
        Err(error) => Some(Content::Unreadable(io::Error::to_string(&error))),
    }
}

/// The name that a document gives itself, as far as that can be told without judging the rest.
fn name(payload: &[u8]) -> Option<String> {
    let document: serde_json::Value = serde_saphyr::from_slice(payload).ok()?;
    let name = document.get("name")?.as_str()?;
    let kind = document.get("type").and_then(serde_json::Value::as_str).unwrap_or_default();
    let environment = kind.eq_ignore_ascii_case("Microsoft.App/managedEnvironments");
    Some(if environment { format!("{ENVIRONMENTS}{name}") } else { name.to_owned() })
}
