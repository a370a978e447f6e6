//! Image archives: tar files, plain or gzipped, that are read at any place and never whole.
//!
//! Everything here blocks; callers come from a blocking thread.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Component, Path};

use bytes::Bytes;
use domain::model::Digest;
use flate2::read::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

/// Files in one archive: an image of 500 layers has three for each in the oldest form.
const MAX_ENTRIES: usize = 8192;
/// Links followed from one name.
const MAX_LINKS: usize = 8;
/// Bytes read at once.
const PIECE: usize = 256 << 10;
/// Bytes at the end that tell one archive from another: what names its images stands there, or the sum of gzip.
const TAIL: u64 = 64 << 10;

/// Where a file's bytes are in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// An archive that has been looked through once.
#[derive(Debug)]
pub(super) struct Archive {
    source: Source,
    files: BTreeMap<String, Extent>,
    links: BTreeMap<String, String>,
}

impl Archive {
    /// Looks through the archive. One that ends too early is an error.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut source = Source::open(path)?;
        let (mut files, mut links) = (BTreeMap::new(), BTreeMap::new());
        let length = match &source {
            Source::Plain(file) => file.metadata()?.len(),
            Source::Gzip { .. } => u64::MAX,
        };
        let mut note = |noted: Noted| -> io::Result<()> {
            match noted {
                Noted::File(_, extent) if length < extent.offset.saturating_add(extent.size) => {
                    return Err(early_end());
                }
                Noted::File(name, extent) => drop(files.insert(name, extent)),
                Noted::Link(name, target) => drop(links.insert(name, target)),
                Noted::Other => (),
            }
            if MAX_ENTRIES < files.len() + links.len() {
                return Err(io::Error::other(format!("more than {MAX_ENTRIES} files")));
            }
            Ok(())
        };
        match &mut source {
            Source::Plain(file) => {
                for entry in tar::Archive::new(file).entries_with_seek()? {
                    note(Noted::of(&entry?)?)?;
                }
            }
            Source::Gzip { reader, .. } => {
                for entry in tar::Archive::new(reader).entries()? {
                    note(Noted::of(&entry?)?)?;
                }
            }
        }
        source.rewind()?;
        Ok(Self { source, files, links })
    }

    /// Where the file of this name is; links are followed.
    pub(super) fn find(&self, name: &str) -> Option<Extent> {
        let mut name = name;
        for _ in 0..MAX_LINKS {
            match (self.files.get(name), self.links.get(name)) {
                (Some(extent), _) => return Some(*extent),
                (None, Some(target)) => name = target,
                (None, None) => return None,
            }
        }
        None
    }

    /// The whole of a small file.
    pub(super) fn read(&mut self, extent: Extent, limit: u64) -> io::Result<Vec<u8>> {
        if limit < extent.size {
            return Err(io::Error::other(format!("a file is larger than {limit} bytes")));
        }
        let mut bytes = Vec::new();
        self.stream(extent, |piece| {
            bytes.extend_from_slice(&piece);
            Flow::Go
        })?;
        Ok(bytes)
    }

    /// Hands the bytes on piece by piece, as long as they are wanted.
    pub(super) fn stream(
        &mut self,
        extent: Extent,
        mut wanted: impl FnMut(Bytes) -> Flow,
    ) -> io::Result<()> {
        self.source.seek(extent.offset)?;
        let mut left = extent.size;
        while left != 0 {
            let length = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let mut piece = vec![0; length];
            self.source.read_exact(&mut piece)?;
            left -= length as u64;
            if wanted(piece.into()) == Flow::Stop {
                break;
            }
        }
        Ok(())
    }

    /// The digest of a file, and whether it is gzipped.
    pub(super) fn digest(&mut self, extent: Extent) -> io::Result<(Digest, Packing)> {
        let (mut sum, mut head) = (Sha256::new(), Vec::new());
        self.stream(extent, |piece| {
            if head.is_empty() {
                head.extend_from_slice(piece.get(..2).unwrap_or_default());
            }
            sum.update(&piece);
            Flow::Go
        })?;
        let text = format!("sha256:{}", hex::encode(sum.finalize()));
        let digest =
            text.parse().map_err(|error: domain::model::InvalidDigest| io::Error::other(error))?;
        Ok((digest, if head == GZIP { Packing::Gzip } else { Packing::Plain }))
    }
}

/// An entry, as far as it matters.
enum Noted {
    File(String, Extent),
    Link(String, String),
    Other,
}

impl Noted {
    fn of<R: Read>(entry: &tar::Entry<'_, R>) -> io::Result<Self> {
        let name = clean(&entry.path()?);
        let kind = entry.header().entry_type();
        let target = entry.link_name()?;
        Ok(match target {
            Some(target) if kind.is_symlink() => {
                let folder = Path::new(&name).parent().unwrap_or(Path::new(""));
                Self::Link(name.clone(), clean(&folder.join(target)))
            }
            Some(target) if kind.is_hard_link() => Self::Link(name, clean(&target)),
            Some(_) | None if kind.is_file() => {
                let extent = Extent { offset: entry.raw_file_position(), size: entry.size() };
                Self::File(name, extent)
            }
            Some(_) | None => Self::Other,
        })
    }
}

fn early_end() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends too early")
}

/// Whether more is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Go,
    Stop,
}

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
}

/// How a gzip file begins.
const GZIP: [u8; 2] = [0x1f, 0x8b];

enum Source {
    Plain(File),
    /// `position` counts the bytes that were unpacked. Going back means to begin again, so callers go forward.
    Gzip {
        reader: Box<MultiGzDecoder<BufReader<File>>>,
        position: u64,
    },
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Gzip { .. } => "Gzip",
        })
    }
}

impl Source {
    fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut head = [0; 2];
        let is_gzip = file.read_exact(&mut head).is_ok() && head == GZIP;
        file.rewind()?;
        if !is_gzip {
            return Ok(Self::Plain(file));
        }
        let reader = Box::new(MultiGzDecoder::new(BufReader::new(file)));
        Ok(Self::Gzip { reader, position: 0 })
    }

    fn rewind(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(file) => file.rewind(),
            Self::Gzip { reader, position } => {
                let mut file = reader.get_ref().get_ref().try_clone()?;
                file.rewind()?;
                **reader = MultiGzDecoder::new(BufReader::new(file));
                *position = 0;
                Ok(())
            }
        }
    }

    fn seek(&mut self, to: u64) -> io::Result<()> {
        if let Self::Plain(file) = self {
            return file.seek(SeekFrom::Start(to)).map(drop);
        }
        if to < self.position() {
            self.rewind()?;
        }
        let ahead = to - self.position();
        let skipped = io::copy(&mut self.take(ahead), &mut io::sink())?;
        if skipped < ahead {
            return Err(early_end());
        }
        Ok(())
    }

    fn position(&self) -> u64 {
        match self {
            Self::Plain(_) => 0,
            Self::Gzip { position, .. } => *position,
        }
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(buffer),
            Self::Gzip { reader, position } => {
                let length = reader.read(buffer)?;
                *position += length as u64;
                Ok(length)
            }
        }
    }
}

/// Tells this state of the file from any other: inode, size, time, and a digest of its end. The latter because an
/// update of a read-only system may keep all of the former.
pub(super) fn stamp(path: &Path) -> io::Result<String> {
    use std::os::unix::fs::MetadataExt as _;
    let mut file = File::open(path)?;
    let facts = file.metadata()?;
    file.seek(SeekFrom::Start(facts.len().saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail)?;
    let sum = Digest::of(&tail).hex();
    let (inode, size) = (facts.ino(), facts.size());
    let (seconds, nanos) = (facts.mtime(), facts.mtime_nsec());
    Ok(format!("{inode}-{size}-{seconds}.{nanos:09}-{}", &sum[..16]))
}

/// A name in an archive without `./`, `..` and doubled slashes.
fn clean(path: &Path) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.extend(part.to_str()),
            Component::ParentDir => drop(parts.pop()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => (),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path) {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        for (name, content) in [("./a/layer.tar", "first"), ("c.json", "third")] {
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        let links = [
            (tar::EntryType::Symlink, "b/layer.tar", "../a/layer.tar"),
            (tar::EntryType::Link, "d.json", "c.json"),
            (tar::EntryType::Symlink, "round", "round"),
            (tar::EntryType::Symlink, "out", "../../etc/passwd"),
        ];
        for (kind, name, target) in links {
            header.set_entry_type(kind);
            header.set_size(0);
            tar.append_link(&mut header, name, target).unwrap();
        }
        let bytes = tar.into_inner().unwrap();
        if path.extension().is_some_and(|extension| extension == "gz") {
            let file = File::create(path).unwrap();
            let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
            io::Write::write_all(&mut gzip, &bytes).unwrap();
            gzip.finish().unwrap();
        } else {
            std::fs::write(path, bytes).unwrap();
        }
    }

    #[test]
    fn files_are_found_through_links_and_read_in_any_order() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.tar", "a.tar.gz"] {
            let path = dir.path().join(name);
            write(&path);
            let mut archive = Archive::open(&path).unwrap();
            let wanted = ["d.json", "a/layer.tar", "c.json", "b/layer.tar"];
            for (name, content) in wanted.into_iter().zip(["third", "first", "third", "first"]) {
                let extent = archive.find(name).unwrap();
                assert_eq!(archive.read(extent, 100).unwrap(), content.as_bytes(), "{name}");
                assert!(archive.read(extent, 4).is_err());
            }
            assert_eq!((archive.find("round"), archive.find("out")), (None, None));
        }
    }
}
