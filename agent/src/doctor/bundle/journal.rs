//! What the agent said lately, out of the system's log: text files, or the journal's own, which are read here because no
//! program is started for it.
//!
//! ```text
//!   header │ object │ object │ …      an object: type, flags, size, then what it has; each begins at a multiple of 8
//!            data: NAME=VALUE          entry: when, and where its data are
//! ```
//!
//! The layout is that of <https://systemd.io/JOURNAL_FILE_FORMAT>. Objects are walked in the order in which they were
//! written, so that a file whose end is missing tells what there is.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use domain::model::WallTime;

use crate::clock::rfc3339;
use crate::doctor::Board;

/// Lines that are kept, the latest.
const MOST_LINES: usize = 2000;

/// Of a text file, its end.
const TAIL: u64 = 2 << 20;

/// Objects of one journal that are looked at: more than a file of the usual size has.
const MOST_OBJECTS: usize = 2_000_000;

/// Of one message. Longer ones are stored compressed, and left out.
const LONGEST: u64 = 4096;

/// Where systemd keeps journals, and others text.
const JOURNALS: &[&str] = &["/var/log/journal", "/run/log/journal"];
const TEXTS: &[&str] = &["/var/log/syslog", "/var/log/messages", "/var/log/daemon.log"];

/// What the journal notes of everything that the agent says.
const OURS: &[u8] = b"_SYSTEMD_UNIT=skerry.service";
const MESSAGE: &[u8] = b"MESSAGE=";

/// The latest lines, oldest first.
pub(super) fn recent(board: &Board) -> String {
    let mut lines: Vec<(u64, String)> = Vec::new();
    for dir in JOURNALS.iter().map(Path::new) {
        for machine in board.names(dir) {
            let path = dir.join(machine).join("system.journal");
            if let Ok(file) = File::open(board.place(path)) {
                lines.extend(Journal { file }.ours().unwrap_or_default());
            }
        }
    }
    lines.sort_by_key(|(micros, _)| *micros);
    let dated = lines.into_iter().map(|(micros, line)| {
        format!("{} {line}", rfc3339(WallTime(Duration::from_micros(micros))))
    });
    let mut lines: VecDeque<String> = dated.collect();
    if lines.is_empty() {
        lines.extend(TEXTS.iter().flat_map(|path| ours_of(board, path)));
    }
    while MOST_LINES < lines.len() {
        lines.pop_front();
    }
    if lines.is_empty() {
        return "no file of the system's log tells of the agent; see journalctl --unit skerry\n"
            .to_owned();
    }
    lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
}

/// The lines at the end of a text file that name the agent.
fn ours_of(board: &Board, path: &str) -> Vec<String> {
    let mut tail = Vec::new();
    let read = File::open(board.place(path)).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        file.take(TAIL).read_to_end(&mut tail)
    });
    if read.is_err() {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&tail);
    text.lines().filter(|line| line.contains("skerry")).map(str::to_owned).collect()
}

/// A journal file.
struct Journal {
    file: File,
}

/// An object's kind, size and place.
struct Object {
    kind: u8,
    compressed: bool,
    at: u64,
    size: u64,
}

/// Kinds of objects.
const DATA: u8 = 1;
const ENTRY: u8 = 3;

/// Bits that say that an object is compressed; and of the header, that places are written in four bytes.
const COMPRESSED: u8 = 0b111;
const COMPACT: u32 = 1 << 4;

impl Journal {
    /// What the agent said: microseconds since 1970, and the message.
    fn ours(&self) -> Option<Vec<(u64, String)>> {
        let mut head = [0; 144];
        self.file.read_exact_at(&mut head, 0).ok()?;
        if !head.starts_with(b"LPKSHHRH") {
            return None;
        }
        let compact = u32::from_le_bytes(head[12..16].try_into().ok()?) & COMPACT != 0;
        let (mut at, last) = (number(&head, 88)?, number(&head, 136)?);
        let ours = data_begins(compact) + OURS.len() as u64;
        let mut unit = None;
        let mut entries = VecDeque::new();
        for _ in 0..MOST_OBJECTS {
            let Some(object) = self.object(at).filter(|_| at <= last) else { break };
            if unit.is_none()
                && object.size == ours
                && self.text(&object, compact).as_deref() == Some(OURS)
            {
                unit = Some(at);
            } else if let (ENTRY, Some(unit)) = (object.kind, unit)
                && let Some((micros, data)) = self.entry(&object, compact)
                && data.contains(&unit)
            {
                entries.push_back((micros, data));
                if MOST_LINES < entries.len() {
                    entries.pop_front();
                }
            }
            let end = at.checked_add(object.size).and_then(|end| end.checked_next_multiple_of(8));
            let Some(next) = end else { break };
            at = next;
        }
        let line = |(micros, data): (u64, Vec<u64>)| {
            let mut texts = data.into_iter().filter_map(|at| self.text(&self.object(at)?, compact));
            let message = texts.find_map(|text| text.strip_prefix(MESSAGE).map(<[u8]>::to_vec))?;
            Some((micros, String::from_utf8_lossy(&message).replace('\n', " ")))
        };
        Some(entries.into_iter().filter_map(line).collect())
    }

    fn object(&self, at: u64) -> Option<Object> {
        let mut head = [0; 16];
        self.file.read_exact_at(&mut head, at).ok()?;
        let size = number(&head, 8)?;
        let object = Object { kind: head[0], compressed: head[1] & COMPRESSED != 0, at, size };
        // The smallest there is has its head alone; a walk in place would never end.
        (16 <= size).then_some(object)
    }

    /// `NAME=VALUE`, where it is short and not compressed.
    fn text(&self, object: &Object, compact: bool) -> Option<Vec<u8>> {
        if object.kind != DATA || object.compressed {
            return None;
        }
        let begin = data_begins(compact);
        let length = object.size.checked_sub(begin).filter(|length| *length <= LONGEST)?;
        let mut text = vec![0; usize::try_from(length).ok()?];
        self.file.read_exact_at(&mut text, object.at.checked_add(begin)?).ok()?;
        Some(text)
    }

    /// When it was said, and the places of what belongs to it.
    fn entry(&self, object: &Object, compact: bool) -> Option<(u64, Vec<u64>)> {
        let length = usize::try_from(object.size.min(LONGEST)).ok()?;
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, object.at).ok()?;
        let items = bytes.get(64..)?;
        let places = if compact {
            let place = |item: &[u8]| Some(u64::from(u32::from_le_bytes(item.try_into().ok()?)));
            items.chunks_exact(4).filter_map(place).collect()
        } else {
            items.chunks_exact(16).filter_map(|item| number(item, 0)).collect()
        };
        Some((number(&bytes, 24)?, places))
    }
}

/// Where the text of a data object begins.
fn data_begins(compact: bool) -> u64 {
    if compact { 72 } else { 64 }
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
