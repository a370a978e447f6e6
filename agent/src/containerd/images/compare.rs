//! A layer's files beside the tar they came from: the same, or cut?
//!
//! Compared is what a power cut takes: which files there are, their length, their bytes, where links lead. Two entries
//! of one name in a tar differ from what lies on the disk, and so count as cut: that costs one more unpacking.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::{Component, Path, PathBuf};

use bytes::{Buf as _, Bytes};
use flate2::bufread::MultiGzDecoder;
use tar::Entry;
use tokio::sync::mpsc;

/// Bytes compared at once.
const PIECE: usize = 64 << 10;
/// What a name begins with that takes a file of a lower layer away.
const WHITEOUT: &str = ".wh.";
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// What came of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Compared {
    /// All of it is there.
    Same,
    /// This is not as it was.
    Differs(String),
}

/// Whether every file of the layer lies in `dir` as the tar has it. Blocks.
pub(super) fn compare(blob: impl Read, dir: &Path, place: Place) -> Compared {
    match of_any_kind(blob, dir, place) {
        Ok(compared) => compared,
        Err(error) => Compared::Differs(error.to_string()),
    }
}

/// Where a layer lies in its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// There is nothing below that could be taken away.
    Ground,
    /// Upon others.
    Above,
}

fn of_any_kind(blob: impl Read, dir: &Path, place: Place) -> io::Result<Compared> {
    let mut blob = BufReader::with_capacity(PIECE, blob);
    let head = blob.fill_buf()?;
    if head.starts_with(ZSTD) {
        return Ok(Compared::Differs("it is compressed by zstd, and not looked into".to_owned()));
    }
    if head.starts_with(GZIP) {
        return of_tar(MultiGzDecoder::new(blob), dir, place);
    }
    of_tar(blob, dir, place)
}

fn of_tar(tar: impl Read, dir: &Path, place: Place) -> io::Result<Compared> {
    let mut archive = tar::Archive::new(tar);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.into_owned();
        if let Err(error) = is_there(&mut entry, &name, dir, place) {
            return Ok(Compared::Differs(format!("{}: {error}", name.display())));
        }
    }
    Ok(Compared::Same)
}

fn is_there(
    entry: &mut Entry<'_, impl Read>,
    name: &Path,
    dir: &Path,
    place: Place,
) -> io::Result<()> {
    let Some(path) = within(dir, name) else { return Err(wrong("leads out of the layer")) };
    let last = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if let Some(taken) = last.strip_prefix(WHITEOUT) {
        // What is said of a folder as a whole is no file of its own.
        let a_file = !taken.starts_with(WHITEOUT) && place == Place::Above;
        return if a_file {
            fs::symlink_metadata(path.with_file_name(taken)).map(drop)
        } else {
            Ok(())
        };
    }
    let there = fs::symlink_metadata(&path)?;
    let kind = entry.header().entry_type();
    if kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse() {
        if !there.is_file() {
            return Err(wrong("is no file"));
        }
        if there.len() != entry.size() {
            return Err(wrong(&format!("has {} bytes of {}", there.len(), entry.size())));
        }
        return same_bytes(entry, &path);
    }
    if kind.is_dir() && !there.is_dir() {
        return Err(wrong("is no folder"));
    }
    if kind.is_symlink() && fs::read_link(&path)? != entry.link_name()?.unwrap_or_default() {
        return Err(wrong("leads elsewhere"));
    }
    // Of a link, the file that it names is compared; of a device there is nothing to compare.
    Ok(())
}

/// The place of an entry in the folder, without any way out of it.
fn within(dir: &Path, name: &Path) -> Option<PathBuf> {
    let mut path = dir.to_owned();
    for part in name.components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::RootDir | Component::CurDir => (),
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

fn same_bytes(entry: &mut impl Read, path: &Path) -> io::Result<()> {
    let mut file = BufReader::with_capacity(PIECE, File::open(path)?);
    let mut wanted = vec![0; PIECE];
    loop {
        let length = entry.read(&mut wanted)?;
        if length == 0 {
            return Ok(());
        }
        let mut rest = wanted.get(..length).unwrap_or_default();
        while !rest.is_empty() {
            let here = file.fill_buf()?;
            let same = here.len().min(rest.len());
            if same == 0 || here.get(..same) != rest.get(..same) {
                return Err(wrong("has other bytes"));
            }
            rest = rest.get(same..).unwrap_or_default();
            file.consume(same);
        }
    }
}

fn wrong(why: &str) -> io::Error {
    io::Error::other(why.to_owned())
}

/// Bytes that come by a channel, to be read where blocking is allowed. Its end is the end of them.
#[derive(Debug)]
pub(super) struct Arriving {
    pieces: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Arriving {
    pub(super) fn new(pieces: mpsc::Receiver<Bytes>) -> Self {
        Self { pieces, piece: Bytes::new() }
    }
}

impl Read for Arriving {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let length = self.piece.len().min(into.len());
        self.piece.copy_to_slice(into.get_mut(..length).unwrap_or_default());
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::symlink;

    use tar::EntryType;

    use super::*;

    fn tar() -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        let mut add = |kind, name: &str, bytes: &[u8]| {
            header.set_entry_type(kind);
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, name, bytes).unwrap();
        };
        add(EntryType::Directory, "bin/", b"");
        add(EntryType::Regular, "bin/tool", &[7; 10_000]);
        add(EntryType::Regular, "bin/.wh.gone", b"");
        add(EntryType::Regular, "bin/.wh..wh..opq", b"");
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, "bin/sh", "/bin/tool").unwrap();
        tar.into_inner().unwrap()
    }

    fn unpacked() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        fs::write(dir.path().join("bin/tool"), [7; 10_000]).unwrap();
        fs::write(dir.path().join("bin/gone"), []).unwrap();
        symlink("/bin/tool", dir.path().join("bin/sh")).unwrap();
        dir
    }

    #[track_caller]
    fn check(harm: impl FnOnce(&Path), why: &str) {
        let dir = unpacked();
        assert_eq!(compare(&*tar(), dir.path(), Place::Above), Compared::Same);
        harm(&dir.path().join("bin"));
        assert_eq!(compare(&*tar(), dir.path(), Place::Above), Compared::Differs(why.to_owned()));
    }

    #[test]
    fn what_a_cut_takes_is_seen() {
        let gone = "No such file or directory (os error 2)";
        check(|bin| fs::write(bin.join("tool"), b"").unwrap(), "bin/tool: has 0 bytes of 10000");
        check(|bin| fs::write(bin.join("tool"), [0; 10_000]).unwrap(), "bin/tool: has other bytes");
        check(|bin| fs::remove_file(bin.join("tool")).unwrap(), &format!("bin/tool: {gone}"));
        check(|bin| fs::remove_file(bin.join("gone")).unwrap(), &format!("bin/.wh.gone: {gone}"));
        check(|bin| fs::remove_file(bin.join("sh")).unwrap(), &format!("bin/sh: {gone}"));
        let last = |bin: &Path| {
            let mut bytes = vec![7; 10_000];
            bytes[9_999] = 0;
            fs::write(bin.join("tool"), bytes).unwrap();
        };
        check(last, "bin/tool: has other bytes");
    }

    #[test]
    fn a_compressed_layer_is_looked_into_but_for_zstd() {
        let dir = unpacked();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&tar()).unwrap();
        let gzip = gzip.finish().unwrap();
        assert_eq!(compare(&*gzip, dir.path(), Place::Above), Compared::Same);
        let half = &gzip[..gzip.len() / 2];
        assert!(matches!(compare(half, dir.path(), Place::Above), Compared::Differs(_)));
        assert!(matches!(compare(ZSTD, dir.path(), Place::Above), Compared::Differs(_)));
    }

    #[test]
    fn the_lowest_layer_has_nothing_to_take_away() {
        let dir = unpacked();
        fs::remove_file(dir.path().join("bin/gone")).unwrap();
        assert_eq!(compare(&*tar(), dir.path(), Place::Ground), Compared::Same);
    }
}
