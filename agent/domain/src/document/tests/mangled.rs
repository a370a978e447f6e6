//! Whatever the bytes, there is an answer, and it comes soon.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::{SMALL, numbered};
use crate::document::{MAX_DOCUMENT_BYTES, Parsed, parse};

/// What a document may take at most.
const SOON: Duration = Duration::from_secs(1);

/// A document with something of everything.
const FULL: &str = include_str!("full.yaml");

/// Reads `bytes` on a small stack, as a worker thread has it, and fails if that takes too long.
#[track_caller]
fn soon(bytes: Vec<u8>) -> Parsed {
    let (send, receive) = mpsc::channel();
    let reader = thread::Builder::new().stack_size(2 << 20);
    reader.spawn(move || send.send(parse(&bytes))).unwrap();
    receive.recv_timeout(SOON).expect("an answer in time, without a panic")
}

#[test]
fn the_full_document_is_accepted() {
    let parsed = soon(FULL.as_bytes().to_vec());
    assert!(parsed.document.is_ok(), "{:?}", parsed.document);
}

#[test]
fn bombs_are_refused_soon() {
    let level = |(name, last)| format!("{name}: &{name} [{}]\n", format!("*{last},").repeat(8));
    let levels: Vec<String> = ('b'..='z').zip('a'..='y').map(level).collect();
    let aliases = format!("a: &a [x,x,x,x,x,x,x,x]\n{}", levels.concat());
    let fill = |unit: &str| unit.repeat(MAX_DOCUMENT_BYTES / unit.len());
    let bombs = [
        aliases,
        "a: &a {b: *a}".to_owned(),
        fill("["),
        fill("{a: "),
        fill("- "),
        fill("? "),
        fill("!!x "),
        fill("&a "),
        fill("*a "),
        fill("\""),
        fill("a: \n"),
        fill("---\n"),
        fill("\n "),
        fill("#"),
        fill("{}"),
        format!("name: {}", fill("9").split_off(100)),
        format!("template: {{containers: [{}]}}", fill("{name: a,image: b},").split_off(190)),
        format!(
            "template: {{containers: [{{name: a, image: b, env: [{}]}}]}}",
            fill("{name: a},").split_off(200)
        ),
        numbered(20_000, |n| format!("k{n}: 1\n")),
        numbered(10_000, |n| format!("<<: {{k{n}: 1}}\n")),
    ];
    for bomb in bombs {
        let start: String = bomb.chars().take(40).collect();
        let parsed = soon(bomb.into_bytes());
        assert!(parsed.document.is_err(), "{start}");
    }
}

#[test]
fn a_document_as_large_as_may_be_is_read_soon() {
    let variables: String = numbered(4_000, |n| format!("{{name: VARIABLE_{n}, value: {n}.10}}, "));
    let parsed =
        soon(SMALL.replace("hello:1", &format!("hello:1, env: [{variables}]")).into_bytes());
    assert!(parsed.document.is_ok());
}

/// A change of the text of a document.
#[derive(Debug, Clone)]
enum Change {
    Byte(prop::sample::Index, u8),
    Cut(prop::sample::Index, usize),
    Insert(prop::sample::Index, &'static str),
    Copy(prop::sample::Index, prop::sample::Index, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let snippets = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ": ",
        "- ",
        "\n",
        "\n  ",
        "\t",
        "'",
        "\"",
        "&a ",
        "*a",
        "!!binary ",
        "|",
        ">",
        "#",
        "null",
        "~",
        "-1",
        "1e400",
        "99999999999999999999",
        "0.1",
        "..",
        "\u{0}",
        "é",
        "\u{2028}",
        "<<: ",
        "? ",
        "---\n",
        "[concat('a')]",
    ]);
    prop_oneof![
        (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        (any::<prop::sample::Index>(), 1..40_usize).prop_map(|(at, many)| Change::Cut(at, many)),
        (any::<prop::sample::Index>(), snippets).prop_map(|(at, text)| Change::Insert(at, text)),
        (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1..200_usize)
            .prop_map(|(from, to, many)| Change::Copy(from, to, many)),
    ]
}

fn apply(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        if bytes.is_empty() {
            break;
        }
        let length = bytes.len();
        match change {
            Change::Byte(at, byte) => bytes[at.index(length)] = *byte,
            Change::Cut(at, many) => {
                let start = at.index(length);
                bytes.drain(start..(start + many).min(length));
            }
            Change::Insert(at, text) => {
                let at = at.index(length);
                bytes.splice(at..at, text.bytes());
            }
            Change::Copy(from, to, many) => {
                let start = from.index(length);
                let piece = bytes[start..(start + many).min(length)].to_vec();
                let to = to.index(length);
                bytes.splice(to..to, piece);
            }
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_mangled_document_gets_an_answer(changes in prop::collection::vec(change(), 1..12)) {
        let parsed = soon(apply(FULL.as_bytes().to_vec(), &changes));
        prop_assert!(parsed.document.map_err(|errors| errors.is_empty()) != Err(true));
    }

    #[test]
    fn noise_gets_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        soon(bytes);
    }
}
