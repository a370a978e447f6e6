//! The files of one container: appended to, rotated by size, never larger than the bound.
//!
//! What cannot be written is dropped and counted: a full disk must stop neither the container nor the sink.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;

use super::read::Stream;
use super::{Order, now};

/// The open file and what was lost.
pub(super) struct Sink {
    order: Order,
    file: Option<Appended>,
    dropped: u64,
    why: String,
}

struct Appended {
    file: File,
    bytes: u64,
}

impl Sink {
    /// Opens the file. Where that fails it is tried again with each write.
    pub(super) fn open(order: &Order) -> Self {
        let mut sink = Self { order: order.clone(), file: None, dropped: 0, why: String::new() };
        if let Err(error) = sink.ready(0) {
            sink.why = error.to_string();
        }
        sink
    }

    /// Appends `count` records, or counts them as dropped.
    pub(super) fn write(&mut self, records: &[u8], count: u64) {
        if 0 < self.dropped && !self.confess() {
            self.dropped += count;
            return;
        }
        if let Err(error) = self.append(records) {
            self.dropped += count;
            self.why = error.to_string();
        }
    }

    /// Says what was dropped, if that can be written by now.
    fn confess(&mut self) -> bool {
        let (dropped, why, stream) = (self.dropped, &self.why, Stream::Stderr.word());
        let record = format!("{} {stream} skerry: {dropped} lines were dropped: {why}\n", now());
        let said = self.append(record.as_bytes()).is_ok();
        if said {
            self.dropped = 0;
        }
        said
    }

    fn append(&mut self, records: &[u8]) -> io::Result<()> {
        let bytes = records.len() as u64;
        self.ready(bytes)?;
        let Some(open) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
        if let Err(error) = open.file.write_all(records) {
            // Half a record would be read as one.
            let _ = open.file.set_len(open.bytes);
            return Err(error);
        }
        open.bytes += bytes;
        Ok(())
    }

    /// Makes the current file open and able to take `bytes` more.
    fn ready(&mut self, bytes: u64) -> io::Result<()> {
        let full = self.order.max_file_bytes;
        if self.file.as_ref().is_some_and(|open| 0 < open.bytes && full < open.bytes + bytes) {
            self.file = None;
            self.rotate()?;
        }
        if self.file.is_none() {
            self.file = Some(self.appended()?);
        }
        Ok(())
    }

    fn rotate(&self) -> io::Result<()> {
        let older = self.order.max_files.max(1) - 1;
        for n in (1..older).rev() {
            absent_is_fine(fs::rename(self.rotated(n), self.rotated(n + 1)))?;
        }
        match older {
            0 => absent_is_fine(fs::remove_file(&self.order.path)),
            _ => absent_is_fine(fs::rename(&self.order.path, self.rotated(1))),
        }
    }

    fn rotated(&self, n: u32) -> PathBuf {
        super::place::rotated(&self.order.path, n)
    }

    fn appended(&self) -> io::Result<Appended> {
        if let Some(folder) = self.order.path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file =
            OpenOptions::new().create(true).append(true).read(true).open(&self.order.path)?;
        let mut bytes = file.metadata()?.len();
        if 0 < bytes {
            // An earlier sink may have been cut short in a record: it must not run into ours.
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != [b'\n'] {
                file.write_all(b"\n")?;
                bytes += 1;
            }
        }
        Ok(Appended { file, bytes })
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
