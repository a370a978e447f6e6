//! The question of a query, read from its bytes.
//!
//! Read by hand and not by the codec, because a forwarder must pass on what it does not know: new record types, new
//! flags, odd options. Nothing here trusts a length, follows a pointer, or goes back.

/// Header of every message.
const HEADER: usize = 12;

/// A name is 255 bytes at most, so it has at most this many labels.
const MAX_LABELS: usize = 128;

/// What a client without EDNS takes by UDP.
const PLAIN_UDP: usize = 512;

/// The most that is sent by UDP whatever the client takes: it passes every network without fragments.
const MAX_UDP: usize = 1232;

/// The record type of EDNS.
const OPT: u16 = 41;

/// A query with one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) id: u16,
    /// The name in lower case, where it is made of letters, digits, dashes and underscores only, as all of ours are.
    pub(super) name: Option<String>,
    /// The labels as the client wrote them, because a reply must repeat them.
    pub(super) labels: Vec<Vec<u8>>,
    pub(super) kind: u16,
    pub(super) class: u16,
    pub(super) recursion_desired: bool,
    /// Where the question ends.
    pub(super) end: usize,
    /// The size that the client takes by UDP, where it speaks EDNS.
    pub(super) edns: Option<u16>,
}

/// What came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Incoming {
    /// A question to answer or pass on.
    Query(Query),
    /// A query that deserves no more than an error.
    Bad {
        /// Its number.
        id: u16,
        /// What is wrong.
        code: u8,
    },
    /// Not even a query: answering it could make two servers answer each other for ever.
    Noise,
}

/// The reply code for what is not understood.
pub(super) const FORMAT_ERROR: u8 = 1;
/// The reply code for other requests than queries.
pub(super) const NOT_IMPLEMENTED: u8 = 4;

impl Incoming {
    /// Reads a message.
    pub(super) fn read(message: &[u8]) -> Self {
        let [a, b, flags, _, counts @ ..] = message else { return Self::Noise };
        if message.len() < HEADER || flags & 0x80 != 0 {
            return Self::Noise;
        }
        let id = u16::from_be_bytes([*a, *b]);
        if flags & 0x78 != 0 {
            return Self::Bad { id, code: NOT_IMPLEMENTED };
        }
        if counts[..2] != [0, 1] {
            return Self::Bad { id, code: FORMAT_ERROR };
        }
        let query = Query::read(id, message);
        query.map_or(Self::Bad { id, code: FORMAT_ERROR }, Self::Query)
    }
}

impl Query {
    fn read(id: u16, message: &[u8]) -> Option<Self> {
        let mut cursor = Cursor { message, at: HEADER };
        let labels = cursor.labels()?;
        let (kind, class) = (cursor.number()?, cursor.number()?);
        let end = cursor.at;
        let records: u32 = (6..HEADER)
            .step_by(2)
            .map(|at| u32::from(u16::from_be_bytes([message[at], message[at + 1]])))
            .sum();
        Some(Self {
            id,
            name: name(&labels),
            labels,
            kind,
            class,
            recursion_desired: message[2] & 1 != 0,
            end,
            edns: cursor.edns(records),
        })
    }

    /// The most that may be sent in reply by UDP.
    pub(super) fn udp_limit(&self) -> usize {
        usize::from(self.edns.unwrap_or_default()).clamp(PLAIN_UDP, MAX_UDP)
    }
}

/// A name of plain labels, in lower case.
fn name(labels: &[Vec<u8>]) -> Option<String> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
    if labels.is_empty() || !labels.iter().flatten().all(plain) {
        return None;
    }
    let text = String::from_utf8(labels.join(&b'.')).ok()?;
    Some(text.to_ascii_lowercase())
}

/// Reads forward, never back.
struct Cursor<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.message.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A name without pointers: there is nothing before the question that one could point to.
    fn labels(&mut self) -> Option<Vec<Vec<u8>>> {
        let (start, mut labels) = (self.at, Vec::new());
        while labels.len() < MAX_LABELS && self.at - start < 255 {
            match self.take(1)?[0] {
                0 => return Some(labels),
                length @ 1..=63 => labels.push(self.take(usize::from(length))?.to_vec()),
                64.. => return None,
            }
        }
        None
    }

    /// Steps over a name that may end in a pointer.
    fn skip_name(&mut self) -> Option<()> {
        loop {
            match self.take(1)?[0] {
                0 => return Some(()),
                length @ 1..=63 => drop(self.take(usize::from(length))?),
                64.. => return self.take(1).map(drop),
            }
        }
    }

    /// Looks through `records` for the one that says how much the client takes.
    fn edns(&mut self, records: u32) -> Option<u16> {
        for _ in 0..records {
            self.skip_name()?;
            let (kind, class) = (self.number()?, self.number()?);
            if kind == OPT {
                return Some(class);
            }
            self.take(4)?;
            let length = self.number()?;
            self.take(usize::from(length))?;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const QUERY: &[u8] =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01\x03Web\x03lab\x00\x00\x01\x00\x01\
                           \x00\x00\x29\x10\x00\x00\x00\x00\x00\x00\x00";

    #[test]
    fn a_query_is_read_with_its_case_and_what_its_client_takes() {
        let Incoming::Query(query) = Incoming::read(QUERY) else { panic!("not a query") };
        assert_eq!(query.name.as_deref(), Some("web.lab"));
        assert_eq!(query.labels, [b"Web", b"lab"]);
        assert_eq!((query.id, query.kind, query.class, query.end), (0x1234, 1, 1, 25));
        assert_eq!((query.edns, query.udp_limit()), (Some(4096), MAX_UDP));
    }

    #[test]
    fn what_is_no_query_gets_an_error_or_silence() {
        let with = |at: usize, byte: u8| {
            let mut message = QUERY.to_vec();
            message[at] = byte;
            Incoming::read(&message)
        };
        assert_eq!(Incoming::read(&QUERY[..11]), Incoming::Noise);
        assert_eq!(with(2, 0x80), Incoming::Noise, "a reply");
        assert_eq!(with(2, 0x28), Incoming::Bad { id: 0x1234, code: NOT_IMPLEMENTED });
        assert_eq!(with(5, 2), Incoming::Bad { id: 0x1234, code: FORMAT_ERROR });
        assert_eq!(with(12, 0xc0), Incoming::Bad { id: 0x1234, code: FORMAT_ERROR }, "a pointer");
        assert_eq!(with(12, 63), Incoming::Bad { id: 0x1234, code: FORMAT_ERROR }, "too long");
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(message in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Incoming::read(&message);
        }

        #[test]
        fn a_damaged_query_never_panics(at in 0..QUERY.len(), byte: u8, length in 0..=QUERY.len()) {
            let mut message = QUERY.to_vec();
            message[at] = byte;
            let _ = Incoming::read(&message[..length]);
        }
    }
}
