//! Names. Holding one proves that the check was made, so nothing downstream makes it again.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// Why a text is not the name that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {what} name: {rule}")]
pub struct InvalidName {
    /// What was to be named: `app`, `revision suffix` …
    pub what: &'static str,
    /// The text that was given.
    pub text: String,
    /// The rule it breaks, as a sentence.
    pub rule: &'static str,
}

macro_rules! text_newtype {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        // Order and equality are those of the text, so that a map of names can be asked with a text.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

/// The name of an app or job: a DNS label of at most 32 characters, because it becomes one.
///
/// ACA: starts with a lower-case letter, ends alphanumeric, no `--`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppName(String);
text_newtype!(AppName);

impl FromStr for AppName {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let starts_with_letter = text.starts_with(|c: char| c.is_ascii_lowercase());
        if starts_with_letter && is_label(text) && text.len() <= 32 && !text.contains("--") {
            return Ok(Self(text.to_owned()));
        }
        let rule = "1 to 32 characters, a-z, 0-9 and single dashes, first a letter, last no dash";
        Err(InvalidName { what: "app", text: text.to_owned(), rule })
    }
}

/// The name of an environment: one network, one DNS zone. A DNS label of at most 60 characters (ACA's own bound).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnvironmentName(String);
text_newtype!(EnvironmentName);

impl Default for EnvironmentName {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl EnvironmentName {
    /// The name of this environment's bridge: `sk-` and the name, or 4 characters of it, a dash and 7 of a hash
    /// where that would be longer than the 15 characters an interface name may have.
    pub fn bridge(&self) -> String {
        if self.0.len() <= 12 {
            return format!("sk-{}", self.0);
        }
        format!("sk-{}-{}", &self.0[..4], short_hash(&self.0, 7))
    }
}

impl FromStr for EnvironmentName {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if is_label(text) && text.len() <= 60 {
            return Ok(Self(text.to_owned()));
        }
        let rule = "1 to 60 characters, a-z, 0-9 and dashes, no dash first or last";
        Err(InvalidName { what: "environment", text: text.to_owned(), rule })
    }
}

/// What follows the two dashes in a revision's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RevisionSuffix(String);
text_newtype!(RevisionSuffix);

impl RevisionSuffix {
    /// The suffix of the `n`th revision of an app that gives none: `0000001` and so on.
    pub fn counted(n: u64) -> Self {
        Self(format!("{n:07}"))
    }
}

impl FromStr for RevisionSuffix {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if is_label(text) && text.len() <= 64 && !text.contains("--") {
            return Ok(Self(text.to_owned()));
        }
        let rule = "1 to 64 characters, a-z, 0-9 and single dashes, no dash first or last";
        Err(InvalidName { what: "revision suffix", text: text.to_owned(), rule })
    }
}

/// `<app>--<suffix>`, one DNS label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RevisionName(String);
text_newtype!(RevisionName);

impl RevisionName {
    /// Joins the two; refuses what would not fit a DNS label (63).
    pub fn new(app: &AppName, suffix: &RevisionSuffix) -> Result<Self, InvalidName> {
        format!("{app}--{suffix}").parse()
    }

    /// The part after the two dashes.
    pub fn suffix(&self) -> &str {
        self.0.split_once("--").map_or("", |(_, suffix)| suffix)
    }
}

impl FromStr for RevisionName {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let whole = text.split_once("--").is_some_and(|(app, suffix)| {
            app.parse::<AppName>().is_ok() && suffix.parse::<RevisionSuffix>().is_ok()
        });
        if whole && text.len() <= 63 {
            return Ok(Self(text.to_owned()));
        }
        let rule = "an app's name, two dashes and a suffix, 63 characters at most";
        Err(InvalidName { what: "revision", text: text.to_owned(), rule })
    }
}

/// `<revision>-<5 characters>`. Never used twice: a successor has a name of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaName(String);
text_newtype!(ReplicaName);

impl ReplicaName {
    /// A replica of `revision`, told from its siblings by `ticket` (any number that was not used before).
    pub fn new(revision: &RevisionName, ticket: u64) -> Self {
        Self(format!("{revision}-{}", short_hash(&format!("{revision}/{ticket}"), 5)))
    }

    /// Characters that stand for this replica where names must be short: 12 of a hash.
    pub fn short(&self) -> String {
        short_hash(&self.0, 12)
    }
}

impl FromStr for ReplicaName {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let whole = text.rsplit_once('-').is_some_and(|(revision, ticket)| {
            revision.parse::<RevisionName>().is_ok() && is_label(ticket) && ticket.len() == 5
        });
        if whole {
            return Ok(Self(text.to_owned()));
        }
        let rule = "a revision's name, a dash and 5 characters";
        Err(InvalidName { what: "replica", text: text.to_owned(), rule })
    }
}

/// Lower-case letters, digits and dashes, no dash at either end; length is the caller's.
fn is_label(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty() && text.chars().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// The first `n` characters of a hash of `text`, in letters and digits that cannot be mistaken for one another.
fn short_hash(text: &str, n: usize) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    Sha256::digest(text.as_bytes())
        .iter()
        .take(n)
        .map(|byte| char::from(ALPHABET[usize::from(byte % 32)]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_names_follow_acas_rule() {
        for good in ["a", "hello", "a1", "my-app-2"] {
            assert!(good.parse::<AppName>().is_ok(), "{good}");
        }
        let long = "a".repeat(33);
        for bad in ["", "1a", "-a", "a-", "a--b", "A", "a.b", "ä", long.as_str()] {
            assert!(bad.parse::<AppName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_long_environment_gets_a_bridge_name_that_fits() {
        let long: EnvironmentName = "production-europe-west".parse().unwrap();
        assert_eq!(long.bridge().len(), 15);
        assert!(long.bridge().starts_with("sk-prod-"));
        assert_eq!(EnvironmentName::default().bridge(), "sk-default");
    }

    #[test]
    fn a_replica_name_reads_back() {
        let app: AppName = "hello".parse().unwrap();
        let revision = RevisionName::new(&app, &RevisionSuffix::counted(2)).unwrap();
        let replica = ReplicaName::new(&revision, 7);
        assert_eq!(replica.as_str().parse::<ReplicaName>().unwrap(), replica);
        assert_eq!(revision.suffix(), "0000002");
        assert_ne!(replica, ReplicaName::new(&revision, 8));
    }
}
