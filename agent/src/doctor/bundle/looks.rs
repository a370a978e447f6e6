//! What looks like a secret, whoever wrote it: private keys, passwords in URLs, values of keys that are called so, tokens.

use super::wipe::WIPED;

/// A key whose name has one of these has a secret.
const NAMES: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "token",
    "apikey",
    "api_key",
    "api-key",
    "authorization",
    "credential",
    "connectionstring",
    "connection_string",
    "accountkey",
    "account_key",
    "accesskey",
    "access_key",
    "privatekey",
    "private_key",
    "sharedaccess",
    "cookie",
];

/// The same, where it is the whole name.
const WHOLE_NAMES: &[&str] = &["auth", "pass", "sig", "psk", "pin"];

/// Names that end so say where a secret is, or what it is called, and not what it says.
const PLACES: &[&str] = &["file", "path", "ref", "dir", "name", "url", "server"];

/// Keys whose value is the rest of the line.
const LONG_NAMES: &[&str] = &["authorization", "cookie"];

/// How a word begins that is a token.
const TOKENS: &[&str] = &[
    "eyJ",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "dckr_pat_",
    "xoxb-",
    "xoxp-",
    "AKIA",
    "sk_live_",
    "AGE-SECRET-KEY-",
];
/// Shorter ones are words.
const SHORTEST_TOKEN: usize = 12;

/// The text without any private key in PEM.
pub(super) fn without_private_keys(text: &str) -> String {
    const BEGIN: &str = "-----BEGIN ";
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(BEGIN) {
        let (before, block) = rest.split_at(at);
        clean.push_str(before);
        let label = block[BEGIN.len()..].split("-----").next().unwrap_or_default();
        if !label.ends_with("PRIVATE KEY") {
            clean.push_str(BEGIN);
            rest = &block[BEGIN.len()..];
            continue;
        }
        clean.push_str(WIPED);
        // One that does not end goes to the end.
        let end = format!("-----END {label}-----");
        rest = block.find(&end).map_or("", |at| &block[at + end.len()..]);
    }
    clean.push_str(rest);
    clean
}

/// A line without the rest.
pub(super) fn without_what_looks_like_secrets(line: &str) -> String {
    let line = without_logins(line);
    let line = without_named_values(&line);
    without_tokens(&line)
}

/// What stands between `://` and `@` of each URL.
fn without_logins(line: &str) -> String {
    let mut clean = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        clean.push_str(before);
        rest = match login(after) {
            Some(login) => {
                clean.push_str(WIPED);
                &after[login.len()..]
            }
            None => after,
        };
    }
    clean.push_str(rest);
    clean
}

/// The user and the password at the beginning of what follows `://`.
pub(super) fn login(after: &str) -> Option<&str> {
    let is_end = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '<' | '>' | '\\');
    let url = after.split(is_end).next().unwrap_or_default();
    let host = url.split(['/', '?', '#']).next().unwrap_or_default();
    if let Some((login, _)) = host.rsplit_once('@') {
        return Some(login);
    }
    // A password with a slash in it, which should have been written in another way: the port is no number.
    let port = host.split_once(':').map(|(_, port)| port)?;
    let odd = !port.chars().all(|c| c.is_ascii_digit()) && !host.starts_with('[');
    url.rsplit_once('@').map(|(login, _)| login).filter(|_| odd)
}

/// Whether a key of this name has a secret.
pub(super) fn is_secret_name(name: &str) -> bool {
    let name = name.to_lowercase();
    let last = name.rsplit(['.', '-', '_']).next().unwrap_or_default();
    let names_a_place = PLACES.iter().any(|place| last.ends_with(place));
    !names_a_place && (NAMES.iter().any(|word| name.contains(word)) || WHOLE_NAMES.contains(&last))
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

/// `password: …`, `"token":"…"`, `SECRET=…`, `Authorization: …`
fn without_named_values(line: &str) -> String {
    let mut clean = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find(is_name) {
        let (before, from_name) = rest.split_at(at);
        clean.push_str(before);
        let length = from_name.find(|c| !is_name(c)).unwrap_or(from_name.len());
        let (name, after) = from_name.split_at(length);
        clean.push_str(name);
        rest = after;
        if !is_secret_name(name) {
            continue;
        }
        let Some((sign, value)) = sign(after) else { continue };
        let taken = value_length(
            value,
            LONG_NAMES.iter().any(|long| name.to_lowercase().ends_with(long)),
            sign,
        );
        clean.push_str(sign);
        if 0 < taken {
            clean.push_str(WIPED);
        }
        rest = &value[taken..];
    }
    clean.push_str(rest);
    clean
}

/// What stands between a name and its value, quotes included, and what comes then; none where no value follows.
fn sign(after: &str) -> Option<(&str, &str)> {
    let quotes = |c: char| matches!(c, '"' | '\'' | '\\');
    let at = after.len() - after.trim_start_matches(quotes).trim_start_matches([' ', '\t']).len();
    let after_sign = after[at..].strip_prefix([':', '='])?;
    let value = after_sign.trim_start_matches(['>', ' ', '\t']).trim_start_matches('\\');
    let value = value.strip_prefix(['"', '\'']).unwrap_or(value);
    let value_at = after.len() - value.len();
    // A list or a block has its own names.
    (!value.starts_with(['[', '{', '|'])).then(|| after.split_at(value_at))
}

/// How long the value is: to its quote, else to the end of a word or, for some, of the line.
fn value_length(value: &str, long: bool, sign: &str) -> usize {
    let quote = sign.chars().next_back().filter(|c| matches!(c, '"' | '\''));
    let Some(quote) = quote else {
        let is_end = |c: char| {
            c == '\n'
                || !long
                    && (c.is_whitespace()
                        || matches!(c, ',' | ';' | '&' | '"' | '\'' | ')' | '}' | ']'))
        };
        return value.find(is_end).unwrap_or(value.len());
    };
    // Within a quoted text, quotes are written as `\"`, and those of the value as `\\\"`.
    let depth = sign.chars().rev().skip(1).take_while(|c| *c == '\\').count();
    let mut slashes = 0;
    for (at, c) in value.char_indices() {
        if c == quote && slashes <= depth {
            return at - slashes;
        }
        slashes = if c == '\\' { slashes + 1 } else { 0 };
    }
    value.trim_end_matches('\n').len()
}

/// `Bearer …`, and words that are tokens by their beginning.
fn without_tokens(line: &str) -> String {
    let is_part =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '+' | '/' | '=' | '~');
    let mut clean = String::with_capacity(line.len());
    let (mut rest, mut announced) = (line, false);
    while let Some(at) = rest.find(is_part) {
        let (before, from_word) = rest.split_at(at);
        clean.push_str(before);
        let length = from_word.find(|c| !is_part(c)).unwrap_or(from_word.len());
        let (word, after) = from_word.split_at(length);
        let is_token = TOKENS.iter().any(|token| {
            word.split(['=', '/'])
                .any(|part| part.starts_with(token) && SHORTEST_TOKEN <= part.len())
        });
        let wiped = is_token || announced && 8 <= word.len();
        clean.push_str(if wiped { WIPED } else { word });
        announced = matches!(word.to_lowercase().as_str(), "bearer" | "basic");
        rest = after;
    }
    clean.push_str(rest);
    clean
}
