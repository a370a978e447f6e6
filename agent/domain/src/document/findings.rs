//! What is found while a document is read: errors, which refuse it, and warnings, which go into the status.
//!
//! Both lists are bounded, because they travel in one MQTT message with the rest of the status.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use super::node::Position;
use super::support;
use crate::reason::Reason;

/// More would not help the person who corrects the document from top to bottom.
const MAX_ERRORS: usize = 20;
/// A dump of a large app has some thirty; the rest would crowd the status.
const MAX_WARNINGS: usize = 100;
/// Characters of a value that a message quotes.
const MAX_QUOTED: usize = 80;

/// Something found in a document: an error that refuses it, or a warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where: `properties.template.containers[0].image`; empty for the whole document.
    pub path: String,
    /// What kind.
    pub reason: Reason,
    /// The rule and the value, for people.
    pub message: String,
    /// Line and column in the text that was given, both from 1, where they are known.
    pub position: Option<(u64, u64)>,
}

/// What a text in brackets means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Expressions {
    /// An expression if it looks like one, because a template may have been cut up by hand.
    #[default]
    Guess,
    /// The document lies in an ARM template: always an expression, and `[[` is a bracket.
    Arm,
    /// Itself.
    Literal,
}

/// The findings so far, and what the whole document is known to say that a part of it needs.
#[derive(Debug, Default)]
pub(super) struct Findings {
    errors: RefCell<Vec<Finding>>,
    warnings: RefCell<Vec<Finding>>,
    unlisted: Cell<usize>,
    /// The secrets that the document lists; nothing where references cannot be checked.
    pub(super) secrets: RefCell<Option<BTreeSet<String>>>,
    /// What `[…]` means.
    pub(super) expressions: Cell<Expressions>,
}

impl Findings {
    /// The document is refused.
    pub(super) fn error(
        &self,
        path: impl Into<String>,
        at: Position,
        reason: Reason,
        message: impl Into<String>,
    ) {
        let mut errors = self.errors.borrow_mut();
        if errors.len() < MAX_ERRORS {
            let (path, message) = (path.into(), message.into());
            errors.push(Finding { path, reason, message, position: at });
        }
    }

    /// The document is accepted, and this is said about it. One key is warned about once.
    pub(super) fn warning(
        &self,
        path: impl Into<String>,
        at: Position,
        reason: Reason,
        message: impl Into<String>,
    ) {
        let warning = Finding { path: path.into(), reason, message: message.into(), position: at };
        let mut warnings = self.warnings.borrow_mut();
        if warnings.iter().any(|known| known.path == warning.path && known.reason == reason) {
            return;
        }
        if warnings.len() < MAX_WARNINGS {
            warnings.push(warning);
        } else {
            self.unlisted.set(self.unlisted.get() + 1);
        }
    }

    /// A warning that this release does not act on `feature`, unless by now it does.
    pub(super) fn later(&self, feature: &'static str, path: impl Into<String>, at: Position) {
        if let Some(message) = support::not_yet(feature) {
            self.warning(path, at, Reason::NotYetSupported, message);
        }
    }

    /// Refuses a reference to a secret that the document does not list.
    pub(super) fn check_secret(&self, path: &str, at: Position, name: &str) {
        let secrets = self.secrets.borrow();
        let Some(listed) = secrets.as_ref().filter(|listed| !listed.contains(name)) else {
            return;
        };
        let hint = nearest(name, listed.iter().map(String::as_str)).map_or_else(
            || placeholder_hint(name).to_owned(),
            |known| format!("; did you mean {known:?}?"),
        );
        let message = format!("no secret named {} is listed{hint}", quoted(name));
        self.error(path, at, Reason::SecretRefNotFound, message);
    }

    /// Whether another warning would only be counted.
    pub(super) fn crowded(&self) -> bool {
        MAX_WARNINGS <= self.warnings.borrow().len()
    }

    /// Whether the document is refused.
    pub(super) fn refused(&self) -> bool {
        !self.errors.borrow().is_empty()
    }

    /// Errors and warnings, from the top of the document to its end.
    pub(super) fn into_lists(self) -> (Vec<Finding>, Vec<Finding>) {
        let (mut errors, mut warnings) = (self.errors.into_inner(), self.warnings.into_inner());
        for findings in [&mut errors, &mut warnings] {
            findings.sort_by_key(|finding| finding.position.unwrap_or((u64::MAX, 0)));
        }
        if let (unlisted @ 1.., Some(last)) = (self.unlisted.get(), warnings.last_mut()) {
            last.message = format!("{} (and {unlisted} more warnings)", last.message);
        }
        (errors, warnings)
    }
}

/// A value as a message shows it.
pub(super) fn quoted(text: &str) -> String {
    if text.chars().nth(MAX_QUOTED).is_none() {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(MAX_QUOTED).collect();
    format!("{start:?}…")
}

/// What to add to a message about `text`, if it was left for someone to fill in.
pub(super) fn placeholder_hint(text: &str) -> &'static str {
    let between = |open: char, close: char| {
        text.split_once(open).is_some_and(|(_, rest)| rest.trim_start_matches(open).contains(close))
    };
    let left = between('<', '>') || between('{', '}') || between('$', '$');
    if left || text.to_ascii_uppercase().contains("PLACEHOLDER") {
        "; this looks like a placeholder that was not filled in"
    } else {
        ""
    }
}

/// The known word that `text` was probably meant to be.
pub(super) fn nearest<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Comparing is quadratic, and no key is that long.
    if MAX_QUOTED < text.len() {
        return None;
    }
    let lower = text.to_lowercase();
    known
        .map(|word| (strsim::damerau_levenshtein(&lower, &word.to_lowercase()), word))
        .filter(|(distance, word)| *distance <= (word.len() / 3).clamp(1, 3))
        .min()
        .map(|(_, word)| word)
}
