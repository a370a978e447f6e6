//! Takes secrets out of text: those that are known, in every shape they are written in, and whatever looks like one.
//!
//! It rather takes too much than too little: a supporter misses a word, and nobody gets a password.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use super::looks;

/// What stands where something was taken out.
pub(super) const WIPED: &str = "***";

/// A known secret below this length is taken out where it is a word of its own, or nothing would be left of the text.
const SHORT: usize = 4;

/// Characters that base64 must have of a secret before a text is taken for it.
const CORE: usize = 5;

/// Knows secrets.
#[derive(Debug, Default)]
pub(super) struct Wiper {
    /// As they are written, longest first.
    plain: Vec<String>,
    /// Parts of base64 that stand for one of them, wherever in the encoded bytes it begins.
    encoded: Vec<String>,
    /// Words that are one of them, encoded.
    words: Vec<String>,
}

impl Wiper {
    pub(super) fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        let mut known = Self::default();
        for secret in secrets {
            let trimmed = secret.trim();
            if trimmed.is_empty() {
                continue;
            }
            known.learn(trimmed);
            // A key of several lines comes apart in a log.
            for line in trimmed.lines().map(str::trim).filter(|line| 16 <= line.len()) {
                known.learn(line);
            }
        }
        known.plain.sort_by_key(|word| std::cmp::Reverse(word.len()));
        known.plain.dedup();
        known
    }

    fn learn(&mut self, secret: &str) {
        let quoted = serde_json::Value::from(secret).to_string();
        let quoted = quoted.trim_matches('"').to_owned();
        let twice = serde_json::Value::from(quoted.as_str()).to_string();
        self.plain.extend([secret.to_owned(), twice.trim_matches('"').to_owned(), quoted]);
        self.words.extend([
            hex::encode(secret),
            STANDARD_NO_PAD.encode(secret),
            URL_SAFE_NO_PAD.encode(secret),
        ]);
        for before in 0..3 {
            let core = core(secret, before);
            let safe = core.replace('+', "-").replace('/', "_");
            self.encoded.extend([core, safe].into_iter().filter(|core| CORE <= core.len()));
        }
    }

    /// The text without them.
    pub(super) fn wipe(&self, text: &str) -> String {
        let mut text = looks::without_private_keys(text);
        for secret in &self.plain {
            text = replace(&text, secret, secret.len() < SHORT);
        }
        for core in &self.encoded {
            text = around(&text, core, is_base64);
        }
        for word in &self.words {
            text = replace(&text, word, true);
        }
        let text = self.without_percents(&text);
        text.split_inclusive('\n').map(looks::without_what_looks_like_secrets).collect()
    }

    /// Words with per cent signs that say a secret once they are decoded.
    fn without_percents(&self, text: &str) -> String {
        let is_end = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>');
        let clean = |word: &str| {
            let end = word.trim_end_matches(is_end).len();
            let (word, after) = word.split_at(end);
            let decoded = decoded(word);
            let spaced = decoded.replace('+', " ");
            let says = |secret: &String| {
                decoded.contains(secret.as_str()) || spaced.contains(secret.as_str())
            };
            let wiped = word.contains('%') && self.plain.iter().any(says);
            format!("{}{after}", if wiped { WIPED } else { word })
        };
        text.split_inclusive(is_end).map(clean).collect()
    }
}

/// What base64 makes of a secret that begins `before` bytes into a group of three, without the characters that its
/// neighbours have a part in.
fn core(secret: &str, before: usize) -> String {
    let mut bytes = vec![0; before];
    bytes.extend_from_slice(secret.as_bytes());
    let text = STANDARD_NO_PAD.encode(&bytes);
    let begin = [0, 2, 3][before];
    let end = if bytes.len().is_multiple_of(3) { text.len() } else { text.len() - 1 };
    text.get(begin..end).unwrap_or_default().to_owned()
}

fn is_base64(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '-' | '_' | '=')
}

/// Replaces `what`; where it is a word of its own alone, if `whole`.
fn replace(text: &str, what: &str, whole: bool) -> String {
    if !text.contains(what) {
        return text.to_owned();
    }
    if !whole {
        return text.replace(what, WIPED);
    }
    let mut clean = String::with_capacity(text.len());
    let mut done = 0;
    for (at, _) in text.match_indices(what) {
        let end = at + what.len();
        let inside = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        if at < done || inside(text[..at].chars().next_back()) || inside(text[end..].chars().next())
        {
            continue;
        }
        clean.extend([&text[done..at], WIPED]);
        done = end;
    }
    clean.push_str(&text[done..]);
    clean
}

/// Replaces `what` with all that `belongs` around it.
fn around(text: &str, what: &str, belongs: fn(char) -> bool) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut done = 0;
    for (at, _) in text.match_indices(what) {
        if at < done {
            continue;
        }
        let begin = text[..at].trim_end_matches(belongs).len().max(done);
        let rest = &text[at..];
        let end = at + rest.find(|c| !belongs(c)).unwrap_or(rest.len());
        clean.extend([&text[done..begin], WIPED]);
        done = end;
    }
    clean.push_str(&text[done..]);
    clean
}

/// `%41` as `A`.
pub(super) fn decoded(word: &str) -> String {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|_| byte == b'%');
        let value = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match value.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(value) => {
                bytes.push(value);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
