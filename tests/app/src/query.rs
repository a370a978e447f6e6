//! The query part of a URL.

use std::str::FromStr;

/// `a=1&b=x%20y`
#[derive(Debug)]
pub(crate) struct Query<'a>(pub(crate) &'a str);

impl Query<'_> {
    /// The decoded value of `key`; empty if it is not given.
    pub(crate) fn text(&self, key: &str) -> String {
        self.0
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(name, _)| *name == key)
            .map(|(_, value)| decode(value))
            .unwrap_or_default()
    }

    /// The value of `key` as a number; `default` if it is not one.
    pub(crate) fn number<T: FromStr>(&self, key: &str, default: T) -> T {
        self.text(key).parse().unwrap_or(default)
    }
}

fn decode(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let escaped = match (first, tail) {
            (b'%', [high, low, ..]) => hex(*high, *low),
            _ => None,
        };
        match (first, escaped) {
            (_, Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            (b'+', None) => bytes.push(b' '),
            (other, None) => bytes.push(*other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? * 16 + digit(low)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_broken_escapes_stand_as_they_are() {
        let query = Query("a=1&name=x%20y+z&odd=%zz%4&");
        assert_eq!(query.number("a", 0), 1);
        assert_eq!(query.text("name"), "x y z");
        assert_eq!(query.text("odd"), "%zz%4");
        assert_eq!(query.text("missing"), "");
    }
}
