//! Bytes of a stream into records. Holds at most one unfinished line.

use super::read::Stream;

/// A longer text is cut: one runaway line must cost no more memory than this.
const MAX_TEXT_BYTES: usize = 16 << 10;

/// Records are handed on in batches of about this size, so that each batch fits the file it goes to.
const BATCH_BYTES: usize = 32 << 10;

/// Cuts one stream into records.
pub(super) struct Lines {
    stream: Stream,
    unfinished: Vec<u8>,
    batch: Vec<u8>,
    count: u64,
}

impl Lines {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, unfinished: Vec::new(), batch: Vec::new(), count: 0 }
    }

    /// Takes what was read at `time` and hands on the records that are complete, with their number.
    pub(super) fn feed(&mut self, chunk: &[u8], time: &str, mut emit: impl FnMut(&[u8], u64)) {
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            let (mut text, ended) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                Some(_) | None => (piece, false),
            };
            while MAX_TEXT_BYTES < self.unfinished.len() + text.len() {
                let (head, rest) = text.split_at(MAX_TEXT_BYTES - self.unfinished.len());
                self.record(head, time, "+", &mut emit);
                text = rest;
            }
            if ended {
                self.record(text, time, "", &mut emit);
            } else {
                self.unfinished.extend_from_slice(text);
            }
        }
        self.hand_on(&mut emit);
    }

    /// The stream has ended: a last line without a line feed is a line too.
    pub(super) fn finish(&mut self, time: &str, mut emit: impl FnMut(&[u8], u64)) {
        if !self.unfinished.is_empty() {
            self.record(b"", time, "", &mut emit);
        }
        self.hand_on(&mut emit);
    }

    fn record(&mut self, tail: &[u8], time: &str, mark: &str, emit: &mut impl FnMut(&[u8], u64)) {
        let head = [time, " ", self.stream.word(), mark, " "];
        for part in head {
            self.batch.extend_from_slice(part.as_bytes());
        }
        self.batch.append(&mut self.unfinished);
        self.batch.extend_from_slice(tail);
        self.batch.push(b'\n');
        self.count += 1;
        if BATCH_BYTES <= self.batch.len() {
            self.hand_on(emit);
        }
    }

    fn hand_on(&mut self, emit: &mut impl FnMut(&[u8], u64)) {
        if 0 < self.count {
            emit(&self.batch, self.count);
        }
        self.batch.clear();
        self.count = 0;
    }
}
