//! The reader of one mapping: asks for keys by name and type, and at the end says which keys nobody asked for.
//!
//! A key that breaks a rule becomes an error and reads as not given, so that the reading goes on and finds the others.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::findings::{Expressions, Findings, nearest, placeholder_hint, quoted};
use super::node::{Node, Position, Value};
use super::rules;
use super::support::{self, Place};
use crate::reason::Reason;

/// One mapping of the document.
pub(super) struct Fields<'a> {
    pub(super) path: String,
    pub(super) at: Position,
    pub(super) found: &'a Findings,
    place: Place,
    entries: &'a [(String, Node)],
    asked: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// `node` as a mapping; where it is something else, an error.
    pub(super) fn of(
        node: &'a Node,
        path: String,
        place: Place,
        found: &'a Findings,
    ) -> Option<Self> {
        match &node.value {
            Value::Map(entries) => {
                Some(Self { path, at: node.at, found, place, entries, asked: Vec::new() })
            }
            Value::Null | Value::Scalar(_) | Value::List(_) => {
                wrong_shape(found, path, node, "a mapping");
                None
            }
        }
    }

    /// A mapping without a key, for what is not given.
    pub(super) fn none(path: String, place: Place, found: &'a Findings) -> Self {
        Self { path, at: None, found, place, entries: &[], asked: Vec::new() }
    }

    /// The path of `key`.
    pub(super) fn at(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The value of `key`, unless it is null, which is not given.
    pub(super) fn take(&mut self, key: &'static str) -> Option<&'a Node> {
        self.asked.push(key);
        let entry = self.entries.iter().find(|(name, _)| name == key);
        entry.map(|(_, node)| node).filter(|node| node.value != Value::Null)
    }

    /// Whether `key` is given, and not null.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(name, node)| name == key && node.value != Value::Null)
    }

    /// The text of `key` as it was written, without judging it.
    pub(super) fn peek(&self, key: &str) -> Option<&'a str> {
        let entry = self.entries.iter().find(|(name, _)| name == key);
        entry.and_then(|(_, node)| match &node.value {
            Value::Scalar(text) => Some(text.as_str()),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        })
    }

    /// Where the value of `key` stands; where the mapping stands if it is not given.
    pub(super) fn position(&self, key: &str) -> Position {
        let entry = self.entries.iter().find(|(name, _)| name == key);
        entry.map_or(self.at, |(_, node)| node.at)
    }

    /// An error about `key`.
    pub(super) fn error(&self, key: &str, reason: Reason, message: impl Into<String>) {
        self.found.error(self.at(key), self.position(key), reason, message);
    }

    /// A warning about `key`.
    pub(super) fn warning(&self, key: &str, reason: Reason, message: impl Into<String>) {
        self.found.warning(self.at(key), self.position(key), reason, message);
    }

    /// A warning that `key` uses `feature`, if this release does not act on it.
    pub(super) fn later(&self, feature: &'static str, key: &str) {
        self.found.later(feature, self.at(key), self.position(key));
    }

    /// An error that `key` is required.
    pub(super) fn missing(&self, key: &str, what: &str) {
        self.error(key, Reason::MissingValue, format!("{key} is required: {what}"));
    }

    /// A text; numbers and truth values count as what was written.
    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        let node = self.take(key)?;
        scalar(self.found, self.at(key), node, "a text")
    }

    /// A text that no finding quotes.
    pub(super) fn secret(&mut self, key: &'static str) -> Option<String> {
        let node = self.take(key)?;
        literal(self.found, self.at(key), node, "a text", |_| "this".to_owned())
    }

    /// A text; the empty one, which the server prints for what is not set, counts as not given.
    pub(super) fn name(&mut self, key: &'static str) -> Option<String> {
        self.text(key).filter(|text| !text.is_empty())
    }

    /// A text that becomes a type with a rule of its own.
    pub(super) fn parsed<T>(&mut self, key: &'static str) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        let text = self.name(key)?;
        text.parse()
            .map_err(|error: T::Err| {
                self.error(
                    key,
                    Reason::InvalidValue,
                    format!("{error}{}", placeholder_hint(&text)),
                );
            })
            .ok()
    }

    /// A text that keeps `rule`.
    pub(super) fn ruled(
        &mut self,
        key: &'static str,
        rule: fn(&str) -> Result<(), &'static str>,
    ) -> Option<String> {
        let text = self.name(key)?;
        match rule(&text) {
            Ok(()) => Some(text),
            Err(broken) => {
                let message = format!(
                    "{} is not valid here: {broken}{}",
                    quoted(&text),
                    placeholder_hint(&text)
                );
                self.error(key, Reason::InvalidValue, message);
                None
            }
        }
    }

    /// A truth value.
    pub(super) fn flag(&mut self, key: &'static str) -> Option<bool> {
        let node = self.take(key)?;
        let text = scalar(self.found, self.at(key), node, "true or false")?;
        let flag = rules::truth(&text);
        if flag.is_none() {
            let message = format!("expected true or false, found {}", quoted(&text));
            self.error(key, Reason::InvalidType, message);
        }
        flag
    }

    /// A whole number in `range`.
    pub(super) fn whole(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let node = self.take(key)?;
        let text = scalar(self.found, self.at(key), node, "a whole number")?;
        let Some(number) = rules::whole(&text) else {
            let message = format!("expected a whole number, found {}", quoted(&text));
            self.error(key, Reason::InvalidType, message);
            return None;
        };
        let in_range = u64::try_from(number).ok().filter(|number| range.contains(number));
        if in_range.is_none() {
            let (low, high) = (*range.start(), *range.end());
            let rule = match high {
                _ if low == high => format!("must be {low}"),
                // The bound is that of the type, and nobody's rule.
                _ if u64::from(u32::MAX) <= high => format!("must be {low} or more"),
                _ => format!("must lie between {low} and {high}"),
            };
            let message = format!("{rule}, found {}", quoted(&text));
            self.error(key, Reason::InvalidValue, message);
        }
        in_range
    }

    /// A whole number in `range`.
    pub(super) fn count(&mut self, key: &'static str, range: RangeInclusive<u32>) -> Option<u32> {
        let wide = u64::from(*range.start())..=u64::from(*range.end());
        self.whole(key, wide).and_then(|number| u32::try_from(number).ok())
    }

    /// A port; `lowest` is 0 where that means that none is given.
    pub(super) fn port(&mut self, key: &'static str, lowest: u16) -> Option<u16> {
        self.whole(key, u64::from(lowest)..=65535).and_then(|port| u16::try_from(port).ok())
    }

    /// One of `choices`, in any case.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let text = self.name(key)?;
        let chosen = choices.iter().find(|(word, _)| word.eq_ignore_ascii_case(&text));
        if chosen.is_none() {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            let message = format!("must be one of {}, found {}", words.join(", "), quoted(&text));
            self.error(key, Reason::InvalidValue, message);
        }
        chosen.map(|(_, value)| *value)
    }

    /// The items of a list, each with its path; a missing list is an empty one.
    pub(super) fn list(&mut self, key: &'static str) -> Vec<(String, &'a Node)> {
        let Some(node) = self.take(key) else { return Vec::new() };
        let path = self.at(key);
        match &node.value {
            Value::List(items) => items
                .iter()
                .enumerate()
                .map(|(index, item)| (format!("{path}[{index}]"), item))
                .collect(),
            Value::Null | Value::Scalar(_) | Value::Map(_) => {
                wrong_shape(self.found, path, node, "a list");
                Vec::new()
            }
        }
    }

    /// The mappings of a list.
    pub(super) fn each(&mut self, key: &'static str, place: Place) -> Vec<Self> {
        let found = self.found;
        let items = self.list(key);
        items.into_iter().filter_map(|(path, node)| Fields::of(node, path, place, found)).collect()
    }

    /// The texts of a list.
    pub(super) fn texts(&mut self, key: &'static str) -> Vec<String> {
        let found = self.found;
        let items = self.list(key);
        items.into_iter().filter_map(|(path, node)| scalar(found, path, node, "a text")).collect()
    }

    /// The mapping under `key`.
    pub(super) fn inner(&mut self, key: &'static str, place: Place) -> Option<Self> {
        let node = self.take(key)?;
        Fields::of(node, self.at(key), place, self.found)
    }

    /// A mapping of the user's own keys to texts.
    pub(super) fn pairs(&mut self, key: &'static str) -> BTreeMap<String, String> {
        let Some(inner) = self.inner(key, Place::Free) else { return BTreeMap::new() };
        let given = inner.entries.iter().filter(|(_, node)| node.value != Value::Null);
        given
            .filter_map(|(name, node)| {
                scalar(self.found, inner.at(name), node, "a text").map(|text| (name.clone(), text))
            })
            .collect()
    }

    /// The entries, where the keys are the user's own.
    pub(super) fn entries(&self) -> &'a [(String, Node)] {
        self.entries
    }

    /// Counts `key` as asked for, where it was read by other means.
    pub(super) fn asked(&mut self, key: &'static str) {
        self.asked.push(key);
    }

    /// Warns of every key that was given and that nobody asked for.
    pub(super) fn close(self) {
        #[cfg(test)]
        super::tests::aca::note(self.place, &self.path, &self.asked);
        for (key, node) in self.entries {
            if node.value == Value::Null || self.asked.contains(&key.as_str()) {
                continue;
            }
            let empty = match &node.value {
                Value::Null => true,
                Value::Scalar(text) => text.is_empty(),
                Value::List(items) => items.is_empty(),
                Value::Map(entries) => entries.is_empty(),
            };
            match support::standing(self.place, key) {
                Some(_) if empty => (),
                Some((reason, message)) => self.warning(key, reason, message),
                None => self.warning(key, Reason::UnknownKey, self.unknown(key)),
            }
        }
    }

    fn unknown(&self, key: &str) -> String {
        let known = self.asked.iter().copied().chain(support::keys(self.place));
        let shown = quoted(key);
        // Comparing words is dear, and nobody would read the answer.
        let near = if self.found.crowded() { None } else { nearest(key, known) };
        match near {
            Some(known) => format!("{shown} is not a key of the schema; did you mean {known:?}?"),
            None => format!("{shown} is not a key of the schema"),
        }
    }
}

/// The text of a scalar, without an expression left in it.
pub(super) fn scalar(found: &Findings, path: String, node: &Node, what: &str) -> Option<String> {
    literal(found, path, node, what, quoted)
}

fn literal(
    found: &Findings,
    path: String,
    node: &Node,
    what: &str,
    shown: fn(&str) -> String,
) -> Option<String> {
    let Value::Scalar(text) = &node.value else {
        wrong_shape(found, path, node, what);
        return None;
    };
    let meaning = found.expressions.get();
    if meaning == Expressions::Arm && text.starts_with("[[") {
        return Some(text[1..].to_owned());
    }
    if rules::is_expression(text, meaning) {
        let message = format!(
            "{} is an expression of an ARM template; its value is needed here",
            shown(text)
        );
        found.error(path, node.at, Reason::UnresolvedExpression, message);
        return None;
    }
    Some(text.clone())
}

/// The value itself is not quoted: it may hold a secret.
fn wrong_shape(found: &Findings, path: String, node: &Node, wanted: &str) {
    let message = format!("expected {wanted}, found {}", node.shape());
    found.error(path, node.at, Reason::InvalidType, message);
}
