//! A document without the values of its secrets: the form that is kept.
//!
//! It is made of the tree, not of the text, so a value is found however it was written: behind an alias, as JSON, at the
//! top level or below `properties`, inside an ARM template. What stands in an entry of `secrets` under a key that is
//! none of the schema's may be a value under a misspelled name, and is not kept either.

use serde_json::{Map, Value as Json};

use super::findings::Finding;
use super::node::{Node, Value};
use super::parse::{MAX_DOCUMENT_BYTES, Parsed, document, read};
use crate::reason::Reason;

/// The largest form that is kept. Aliases are written out in it, so it may be larger than what came in.
const MAX_KEPT_BYTES: usize = 4 * MAX_DOCUMENT_BYTES;

/// The key that secrets stand under, in a configuration and in a volume.
const SECRETS: &str = "secrets";

/// What an entry of `secrets` is kept with.
const KEPT: &[&str] = &["name", "keyVaultUrl", "identity", "secretRef", "path"];

/// What stands for something that is not kept. The key stays, so that it is warned of again.
const STARS: &str = "***";

/// A document without the values of its secrets.
#[derive(Debug, Clone, PartialEq)]
pub struct Withheld {
    /// As JSON, to be read by [`parse_withheld`].
    pub payload: Vec<u8>,
    /// What it says.
    pub parsed: Parsed,
}

/// The document without the values of its secrets; none where it has none, and is kept as it came.
pub fn withhold(payload: &[u8]) -> Result<Option<Withheld>, Finding> {
    if !may_hold_secrets(payload) {
        return Ok(None);
    }
    let node = read(payload)?;
    let mut pen = Pen { found: false, bytes: 0 };
    let json = pen.write(&node, false);
    if !pen.found {
        return Ok(None);
    }
    let payload = json.to_string().into_bytes();
    if MAX_KEPT_BYTES < payload.len().max(pen.bytes) {
        let message = format!("its aliases, written out, have more than {MAX_KEPT_BYTES} bytes");
        let (path, position) = (String::new(), None);
        return Err(Finding { path, reason: Reason::DocumentTooLarge, message, position });
    }
    let parsed = parse_withheld(&payload);
    Ok(Some(Withheld { payload, parsed }))
}

/// Reads what [`withhold`] wrote.
pub fn parse_withheld(payload: &[u8]) -> Parsed {
    match Node::read_json(&String::from_utf8_lossy(payload)) {
        Ok(node) => document(&node, false),
        Err(error) => Parsed { document: Err(vec![error]), warnings: Vec::new() },
    }
}

/// Most documents hold none, and need not be read twice. What is spelled by an escape, or torn by a NUL, may be the key.
fn may_hold_secrets(payload: &[u8]) -> bool {
    let spelled = |word: &[u8]| word.eq_ignore_ascii_case(SECRETS.as_bytes());
    payload.windows(SECRETS.len()).any(spelled)
        || payload.iter().any(|byte| [b'\\', 0].contains(byte))
}

struct Pen {
    /// Something was left out.
    found: bool,
    /// Of texts so far; beyond the bound nothing more is copied.
    bytes: usize,
}

impl Pen {
    /// `entry`: the node is an entry of `secrets`, or holds them.
    fn write(&mut self, node: &Node, entry: bool) -> Json {
        match &node.value {
            Value::Null => Json::Null,
            Value::Scalar(text) => {
                self.bytes = self.bytes.saturating_add(text.len());
                // What is too large is refused, so that it need not be whole.
                let whole = self.bytes <= MAX_KEPT_BYTES;
                Json::String(if whole { text.clone() } else { STARS.to_owned() })
            }
            Value::List(items) => items.iter().map(|item| self.write(item, entry)).collect(),
            Value::Map(entries) => {
                let mut map = Map::new();
                for (key, node) in entries {
                    if let Some(value) = self.write_under(key, node, entry) {
                        map.insert(key.clone(), value);
                    }
                }
                Json::Object(map)
            }
        }
    }

    fn write_under(&mut self, key: &str, node: &Node, entry: bool) -> Option<Json> {
        if !entry || node.value == Value::Null || KEPT.contains(&key) {
            return Some(self.write(node, entry || key.eq_ignore_ascii_case(SECRETS)));
        }
        self.found = true;
        (key != "value").then(|| STARS.into())
    }
}
