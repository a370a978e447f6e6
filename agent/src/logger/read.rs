//! Reading what sinks wrote: the last lines of any number of containers, in the order of time.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use domain::model::AppName;

use super::place::{folders, rotated};
use super::rfc3339;

/// More lines are not kept in memory at once; a person who wants more reads the files.
const MAX_TAIL_LINES: usize = 10_000;

/// A file that is being rotated is looked for so often.
const ROTATION_TRIES: u32 = 100;

/// Files are read backwards in blocks of this size.
const BLOCK_BYTES: u64 = 64 << 10;

/// One record of a log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogLine {
    /// RFC 3339 with nanoseconds, UTC; sorts as text.
    pub time: String,
    /// Where it was written to.
    pub stream: Stream,
    /// By which replica.
    pub replica: String,
    /// By which of its containers.
    pub container: String,
    /// What was written, without the line feed.
    pub text: String,
}

/// A stream of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stream {
    /// `stdout`
    Stdout,
    /// `stderr`
    Stderr,
}

impl Stream {
    /// The word in a record.
    pub fn word(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The log of one container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogSource {
    /// The replica's name.
    pub replica: String,
    /// The container's name.
    pub container: String,
    /// The current file.
    pub path: PathBuf,
}

/// Every log there is of an app, of stopped replicas too.
pub fn sources(log_dir: &Path, app: &AppName) -> Vec<LogSource> {
    let revisions = folders(&log_dir.join(app.as_str()));
    let replicas = revisions.iter().flat_map(|(_, revision)| folders(revision));
    replicas.flat_map(|(replica, folder)| of_replica(&replica, &folder)).collect()
}

fn of_replica(replica: &str, folder: &Path) -> Vec<LogSource> {
    let mut found: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|file| {
            let name = file.file_name().into_string().ok()?;
            // In the moment in which it is rotated there is no current one.
            let container = name.strip_suffix(".log").or_else(|| name.strip_suffix(".log.1"))?;
            let path = folder.join(format!("{container}.log"));
            Some(LogSource { replica: replica.to_owned(), container: container.to_owned(), path })
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

/// The last `count` lines of all sources together, oldest first.
pub fn tail(sources: &[LogSource], count: usize) -> Vec<LogLine> {
    let all = sources.iter().flat_map(|source| {
        // The next one comes in the same breath as the last one goes.
        let open = || File::open(&source.path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let current = (0..ROTATION_TRIES).find_map(|_| open().ok());
        match current {
            Some((length, file)) => last_of_source(source, file, length, count),
            None => Vec::new(),
        }
    });
    last_of_all(all.collect(), count)
}

/// The texts of the last `count` lines of the log at `path`, oldest first, of those that were written at `since` or
/// later.
pub fn written_since(path: PathBuf, since: SystemTime, count: usize) -> Vec<String> {
    let source = LogSource { replica: String::new(), container: String::new(), path };
    let since = rfc3339(since);
    let lines = tail(&[source], count).into_iter().filter(|line| since <= line.time);
    lines.map(|line| line.text).collect()
}

/// Sorts by time and keeps the last `count`.
pub(super) fn last_of_all(mut lines: Vec<LogLine>, count: usize) -> Vec<LogLine> {
    lines.sort_by(|one, other| one.time.cmp(&other.time));
    let surplus = lines.len().saturating_sub(count.min(MAX_TAIL_LINES));
    lines.split_off(surplus)
}

/// The last lines of one source: of the first `length` bytes of its current file, then of the older ones.
pub(super) fn last_of_source(
    source: &LogSource,
    mut current: File,
    length: u64,
    count: usize,
) -> Vec<LogLine> {
    let count = count.min(MAX_TAIL_LINES);
    let mut found = last_lines(&mut current, length, count).unwrap_or_default();
    for n in 1.. {
        let older = rotated(&source.path, n);
        let Ok(mut file) = File::open(older) else { break };
        let missing = count.saturating_sub(found.len());
        if missing == 0 {
            break;
        }
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        let mut before = last_lines(&mut file, length, missing).unwrap_or_default();
        before.append(&mut found);
        found = before;
    }
    found.iter().filter_map(|line| parsed(source, line)).collect()
}

/// The last `count` whole lines of the first `length` bytes.
fn last_lines(file: &mut File, length: u64, count: usize) -> io::Result<Vec<Vec<u8>>> {
    let mut start = length;
    let mut bytes = Vec::new();
    let mut ends = 0;
    // One line feed more than lines: the one before the first of them.
    while 0 < start && ends <= count {
        let block = start.min(BLOCK_BYTES);
        start -= block;
        let mut head = vec![0; usize::try_from(block).unwrap_or_default()];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut head)?;
        ends += head.split(|byte| *byte == b'\n').count() - 1;
        head.append(&mut bytes);
        bytes = head;
    }
    let mut lines: Vec<Vec<u8>> = bytes
        .split_inclusive(|byte| *byte == b'\n')
        .filter_map(|line| line.strip_suffix(b"\n"))
        .map(<[u8]>::to_vec)
        .collect();
    let surplus = lines.len().saturating_sub(count);
    Ok(lines.split_off(surplus))
}

/// A record, if it is one: what a crash or a full disk cut short is left out.
pub(super) fn parsed(source: &LogSource, line: &[u8]) -> Option<LogLine> {
    let line = String::from_utf8_lossy(line);
    let (time, rest) = line.split_once(' ')?;
    let (stream, text) = rest.split_once(' ')?;
    let stream = match stream.trim_end_matches('+') {
        "stdout" => Stream::Stdout,
        "stderr" => Stream::Stderr,
        _ => return None,
    };
    Some(LogLine {
        time: time.to_owned(),
        stream,
        replica: source.replica.clone(),
        container: source.container.clone(),
        text: text.to_owned(),
    })
}
