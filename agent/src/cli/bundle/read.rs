//! A bundle is looked through from its first byte to its last before anything of it is used: every file has the name,
//! length and sum that the list says, and there is none beside these.
//!
//! It is never whole in memory, and nothing of it is written to a disk here.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::format::{MANIFEST, Manifest, Part, VERSION, Versioned, is_safe};
use crate::cli::error::CliError;

/// Files in one bundle: far more apps than a board runs.
const MOST_PARTS: usize = 1024;
/// Bytes of the list.
const LARGEST_MANIFEST: u64 = 1 << 20;
/// Bytes of a document, as the agent takes them.
const LARGEST_DOCUMENT: u64 = 256 << 10;
/// Bytes read at once.
const PIECE: usize = 256 << 10;

/// How a gzip file begins.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// A bundle that was found whole.
#[derive(Debug)]
pub(in crate::cli) struct Bundle {
    path: PathBuf,
    file: File,
    /// Documents, in their order.
    pub(in crate::cli) documents: Vec<Placed>,
    /// Archives of images.
    pub(in crate::cli) images: Vec<Placed>,
}

/// A file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Placed {
    /// Its name.
    pub(in crate::cli) path: String,
    /// What it holds.
    pub(in crate::cli) names: Vec<String>,
    /// Where its bytes begin in the bundle.
    pub(in crate::cli) offset: u64,
    /// How many there are.
    pub(in crate::cli) size: u64,
    sha256: String,
}

/// A file as it was found.
struct Found {
    offset: u64,
    size: u64,
    sha256: String,
    manifest: Option<Vec<u8>>,
}

/// Whether it is a tar, and so no document.
pub(in crate::cli) fn is_tar(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Ok(false);
    }
    let mut head = Vec::new();
    (&mut file).take(512).read_to_end(&mut head)?;
    Ok(looks_like_tar(&head))
}

/// The same of the first bytes.
pub(in crate::cli) fn looks_like_tar(head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar") || head.starts_with(&GZIP)
}

impl Bundle {
    /// Looks it through. `passed` is told how many bytes were, of how many.
    pub(in crate::cli) fn open(
        path: &Path,
        mut passed: impl FnMut(u64, u64),
    ) -> Result<Self, CliError> {
        let unreadable = |source| CliError::Read { path: path.to_owned(), source };
        let damaged = |why: String| CliError::Bundle { path: path.to_owned(), why };
        let file = File::open(path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        let found = look_through(&file, |so_far| passed(so_far, length)).map_err(damaged)?;
        let Some(list) = found.get(MANIFEST).and_then(|found| found.manifest.as_ref()) else {
            return Err(damaged(format!("it ends too early: {MANIFEST} is missing")));
        };
        let manifest = parse(list).map_err(damaged)?;
        let place = |parts: Vec<Part>| {
            parts.into_iter().map(|part| placed(part, &found)).collect::<Result<Vec<_>, _>>()
        };
        let listed = manifest.documents.len() + manifest.images.len() + 1;
        let documents = place(manifest.documents).map_err(damaged)?;
        let images = place(manifest.images).map_err(damaged)?;
        // Every file that is listed is there, so with as many on both sides none is beside the list, or listed twice.
        if listed != found.len() {
            return Err(damaged(format!("{} files, and {listed} are listed", found.len())));
        }
        if let Some(large) = documents.iter().find(|document| LARGEST_DOCUMENT < document.size) {
            return Err(damaged(format!("{} is larger than a document may be", large.path)));
        }
        Ok(Self { path: path.to_owned(), file, documents, images })
    }

    /// The bytes of a document.
    pub(in crate::cli) fn read(&mut self, document: &Placed) -> Result<Vec<u8>, CliError> {
        let unreadable = |source| CliError::Read { path: self.path.clone(), source };
        self.file.seek(SeekFrom::Start(document.offset)).map_err(unreadable)?;
        let mut bytes = Vec::new();
        (&mut self.file).take(document.size).read_to_end(&mut bytes).map_err(unreadable)?;
        if hex::encode(Sha256::digest(&bytes)) != document.sha256 {
            let why = format!("{} has changed while it was read", document.path);
            return Err(CliError::Bundle { path: self.path.clone(), why });
        }
        Ok(bytes)
    }

    /// The bundle, to be read from where an archive begins.
    pub(in crate::cli) fn at(&self, archive: &Placed) -> Result<File, CliError> {
        let unreadable = |source| CliError::Read { path: self.path.clone(), source };
        let mut file = self.file.try_clone().map_err(unreadable)?;
        file.seek(SeekFrom::Start(archive.offset)).map_err(unreadable)?;
        Ok(file)
    }
}

/// Every file of the tar with its sum. The error is why it is no bundle, or a damaged one.
fn look_through(
    file: &File,
    mut passed: impl FnMut(u64),
) -> Result<BTreeMap<String, Found>, String> {
    let mut head = [0; 2];
    let mut packed = file;
    if packed.read_exact(&mut head).is_ok() && head == GZIP {
        return Err("it is gzipped".to_owned());
    }
    packed.rewind().map_err(|error| error.to_string())?;
    let broken = |error: io::Error| format!("it is damaged or ends too early: {error}");
    let mut found = BTreeMap::new();
    for entry in tar::Archive::new(file).entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if !is_safe(&path) {
            return Err(if found.is_empty() {
                "it is a tar, and no bundle".to_owned()
            } else {
                format!("{path:?} is no name for a file of a bundle")
            });
        }
        if !entry.header().entry_type().is_file() {
            return Err(format!("{path} is no plain file"));
        }
        if MOST_PARTS <= found.len() {
            return Err(format!("it has more than {MOST_PARTS} files"));
        }
        let (offset, size) = (entry.raw_file_position(), entry.size());
        let keep = path == MANIFEST;
        if keep && LARGEST_MANIFEST < size {
            return Err(format!("{MANIFEST} is larger than {LARGEST_MANIFEST} bytes"));
        }
        let (mut sum, mut list, mut came) = (Sha256::new(), Vec::new(), 0);
        let mut piece = vec![0; PIECE];
        loop {
            let read = entry.read(&mut piece).map_err(broken)?;
            let Some(bytes) = piece.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
            sum.update(bytes);
            came += read as u64;
            if keep {
                list.extend_from_slice(bytes);
            }
            passed(offset + came);
        }
        if came != size {
            return Err(format!("it ends too early: {came} of {size} bytes of {path}"));
        }
        let sha256 = hex::encode(sum.finalize());
        let manifest = keep.then_some(list);
        if found.insert(path.clone(), Found { offset, size, sha256, manifest }).is_some() {
            return Err(format!("{path} is there twice"));
        }
    }
    Ok(found)
}

fn parse(list: &[u8]) -> Result<Manifest, String> {
    let wrong = |error: serde_json::Error| format!("{MANIFEST}: {error}");
    let Versioned { version } = serde_json::from_slice(list).map_err(wrong)?;
    if version != VERSION {
        return Err(format!("it is of version {version}, and this program reads {VERSION}"));
    }
    serde_json::from_slice(list).map_err(wrong)
}

/// A file of the list, as it lies in the tar.
fn placed(part: Part, found: &BTreeMap<String, Found>) -> Result<Placed, String> {
    let Part { path, sha256, size, names } = part;
    match found.get(&path) {
        None => Err(format!("{path} is listed and missing")),
        Some(_) if path == MANIFEST => Err(format!("{MANIFEST} lists itself")),
        Some(there) if there.size != size => Err(format!("{path} has another length than listed")),
        Some(there) if there.sha256 != sha256 => Err(format!("{path} has another sum than listed")),
        Some(there) => Ok(Placed { path, names, offset: there.offset, size, sha256 }),
    }
}
