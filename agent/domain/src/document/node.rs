//! The document as a tree that still knows how every scalar was written and where it stood.
//!
//! YAML turns `1.10` into a number and `on` into a truth value; the schema decides whether that was meant, so a scalar
//! stays text here. JSON is read as the YAML that it is.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::NonFiniteFloatPolicy;
use serde_saphyr::{Options, Spanned};

use super::findings::{Finding, quoted};
use super::parse::MAX_DOCUMENT_BYTES;
use crate::reason::Reason;

/// ACA's deepest path has 11 steps, and an ARM template lies around it with two more.
const MAX_DEPTH: usize = 32;
/// The longest list of variables that fits into 256 KiB has some 25,000 values.
const MAX_NODES: usize = 50_000;
/// Keys of one mapping; only tags and the metadata of scale rules are the user's own.
const MAX_KEYS: usize = 1_000;
/// Aliases are a convenience of people, who repeat a block a few times.
const MAX_ALIASES: usize = 1_000;
/// What all aliases together may repeat; a bomb stops here.
const MAX_REPEATED: usize = 20_000;
/// Text that a document may come to: the aliases of one that people wrote repeat little of it.
const MAX_TEXT_BYTES: usize = 4 * MAX_DOCUMENT_BYTES;

/// Line and column, where they are known.
pub(super) type Position = Option<(u64, u64)>;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) at: Position,
}

/// A value without a type beyond its shape.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// Not set.
    Null,
    /// As it was written, without its quotes.
    Scalar(String),
    List(Vec<Node>),
    /// In order, without repetition.
    Map(Vec<(String, Node)>),
}

impl Node {
    /// Reads YAML or JSON.
    pub(super) fn read(text: &str) -> Result<Self, Finding> {
        let read: Result<Spanned<Raw>, _> = serde_saphyr::from_str_with_options(text, options());
        read.map(|raw| settle(raw, text))
            .map_err(|error| syntax_error(error.without_snippet(), text))
    }

    /// Reads JSON that this program wrote itself: of any size, without positions.
    pub(super) fn read_json(text: &str) -> Result<Self, Finding> {
        serde_json::from_str(text).map(json).map_err(|error| Finding {
            path: String::new(),
            reason: Reason::InvalidSyntax,
            message: error.to_string(),
            position: None,
        })
    }

    /// Where the value at the end of these keys stands, or the last on the way there that is given.
    pub(super) fn position_of(&self, keys: &[&str]) -> Position {
        let inner = match (&self.value, keys) {
            (Value::Map(entries), [key, rest @ ..]) => {
                let entry = entries.iter().find(|(name, _)| name == key);
                entry.and_then(|(_, node)| node.position_of(rest))
            }
            (_, _) => None,
        };
        inner.or(self.at)
    }

    /// What it is, for messages.
    pub(super) fn shape(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Scalar(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

fn json(value: serde_json::Value) -> Node {
    use serde_json::Value as Json;
    let value = match value {
        Json::Null => Value::Null,
        Json::Bool(flag) => Value::Scalar(flag.to_string()),
        Json::Number(number) => Value::Scalar(number.to_string()),
        Json::String(text) => Value::Scalar(text),
        Json::Array(items) => Value::List(items.into_iter().map(json).collect()),
        Json::Object(map) => {
            Value::Map(map.into_iter().map(|(key, value)| (key, json(value))).collect())
        }
    };
    Node { value, at: None }
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_events: 2 * MAX_NODES,
            max_aliases: MAX_ALIASES,
            max_anchors: MAX_ALIASES,
            max_documents: 1,
            max_merge_keys: MAX_KEYS,
            max_total_scalar_bytes: MAX_TEXT_BYTES,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_REPEATED,
            max_replay_stack_depth: MAX_DEPTH,
        },
        with_snippet: false,
        strict_booleans: true,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
    }
}

/// What the parser's words mean to someone who does not know the parser.
const IN_OTHER_WORDS: &[(&str, &str)] = &[
    ("Documents {", "a second document begins here; send one at a time"),
    ("Depth {", "more than 32 levels, one inside the other"),
    ("recursion limit", "more than 32 levels, one inside the other"),
    ("alias replay", "the aliases repeat more than a document may hold"),
    ("Alias", "there are more aliases than a document may hold"),
    ("Anchors {", "there are more anchors than a document may hold"),
    ("MergeKeys {", "there are more merge keys than a document may hold"),
    ("ScalarBytes {", "its aliases, written out, have more than 1 MiB of text"),
    ("Nodes {", "there are more values than a document may hold"),
    ("Events {", "there are more values than a document may hold"),
    ("budget breached", "there is more than a document may hold"),
    ("recursive references", "an alias is part of what it stands for"),
];

fn syntax_error(error: &serde_saphyr::Error, text: &str) -> Finding {
    let position = error.location().map(|at| (at.line(), at.column()));
    let words = error.to_string();
    let message = if let serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } = error {
        format!("the key {} is given twice", quoted(key))
    } else if let Some((_, sentence)) =
        IN_OTHER_WORDS.iter().find(|(needle, _)| words.contains(needle))
    {
        (*sentence).to_owned()
    } else {
        parser_error(&words, position, text)
    };
    let message = match position {
        Some((line, column)) => format!("line {line}, column {column}: {message}"),
        None => message,
    };
    let too_large = words.contains("ScalarBytes {");
    let reason = if too_large { Reason::DocumentTooLarge } else { Reason::InvalidSyntax };
    Finding { path: String::new(), reason, message, position }
}

/// The parser's own words without the place, which stands elsewhere, and what probably helps.
fn parser_error(words: &str, position: Position, text: &str) -> String {
    let words = words.lines().next().unwrap_or_default();
    let Some((line, column)) = position else { return words.to_owned() };
    let place = format!("line {line}, column {column}");
    let words = words.replace(&format!(" at {place}"), "").replace(&format!("{place}: "), "");
    let lines: Vec<&str> = text.lines().collect();
    let wrong = usize::try_from(line).ok().and_then(|line| line.checked_sub(1));
    let Some(wrong) = wrong.filter(|wrong| *wrong < lines.len()) else { return words };
    let block = match block_start(&lines, wrong) {
        start if start == wrong => String::new(),
        start => format!(", in the block that begins at line {}", start + 1),
    };
    let value = lines[wrong].split_once(": ").map_or("", |(_, value)| value.trim_start());
    let goes_on = |close| value.split_once(close).is_some_and(|(_, rest)| !rest.trim().is_empty());
    let hint = match value.chars().next() {
        Some('{') if !goes_on('}') => String::new(),
        Some('[') if !goes_on(']') => String::new(),
        Some(first @ ('{' | '[' | '*' | '&' | '@' | '%' | '`' | '!')) => {
            format!("; a text that starts with {first} needs quotes")
        }
        Some(_) | None => String::new(),
    };
    format!("{words}{block}{hint}")
}

/// The line where the mapping that holds line `wrong` begins: what people look for when a key is out of place.
fn block_start(lines: &[&str], wrong: usize) -> usize {
    let indent = |line: &str| line.find(|c| c != ' ' && c != '-').unwrap_or(0);
    let depth = indent(lines[wrong]);
    let mut start = wrong;
    for (index, line) in lines.iter().enumerate().take(wrong + 1).rev() {
        if line.trim().is_empty() {
            continue;
        }
        if indent(line) < depth {
            break;
        }
        if indent(line) == depth {
            start = index;
            if line.trim_start().starts_with("- ") {
                break;
            }
        }
    }
    start
}

/// What the parser hands over. A scalar that it took for a number or a truth value is read again from the text.
enum Raw {
    Null,
    Text(String),
    Typed(String),
    List(Vec<Spanned<Self>>),
    Map(Vec<(String, Spanned<Self>)>),
}

/// Puts the text of the document in the place of what the parser made of it.
fn settle(raw: Spanned<Raw>, text: &str) -> Node {
    let place = raw.defined;
    let written = || {
        let span = place.span();
        let start = usize::try_from(span.byte_offset()?).ok()?;
        let end = start.checked_add(usize::try_from(span.byte_len()?).ok()?)?;
        text.get(start..end).map(str::trim).filter(|text| !text.is_empty())
    };
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Text(text) => Value::Scalar(text),
        Raw::Typed(value) => Value::Scalar(written().map_or(value, str::to_owned)),
        Raw::List(items) => Value::List(items.into_iter().map(|item| settle(item, text)).collect()),
        Raw::Map(entries) => {
            Value::Map(entries.into_iter().map(|(key, node)| (key, settle(node, text))).collect())
        }
    };
    let at = (place.line() != 0).then(|| (place.line(), place.column()));
    Node { value, at }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML or JSON")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            if items.len() == MAX_NODES {
                return Err(A::Error::custom("a list has too many values"));
            }
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            if entries.len() == MAX_KEYS {
                return Err(A::Error::custom("a mapping has more than 1000 keys"));
            }
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}
