//! From bytes to a document: size, text, shape, and where in an ARM template the document lies.

use super::app::Document;
use super::app_reader;
use super::environment;
use super::fields::Fields;
use super::findings::{Expressions, Finding, Findings};
use super::node::{Node, Value};
use super::support::Place;
use crate::reason::Reason;

/// The largest document. ACA's own examples have 3 KB, the longest real one at hand has 10.
pub const MAX_DOCUMENT_BYTES: usize = 256 * 1024;

/// What became of the bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// The document, or all errors that refuse it (20 at most).
    pub document: Result<Document, Vec<Finding>>,
    /// What is accepted and has no effect, or another one than in Azure.
    pub warnings: Vec<Finding>,
}

/// Reads a document of any kind, as YAML or JSON; one that does not say which is an app or a job.
pub fn parse(bytes: &[u8]) -> Parsed {
    parse_usual(bytes, false)
}

/// The same; one that does not say what it is is an environment.
pub fn parse_environment(bytes: &[u8]) -> Parsed {
    parse_usual(bytes, true)
}

fn parse_usual(bytes: &[u8], environment: bool) -> Parsed {
    match read(bytes) {
        Ok(node) => document(&node, environment),
        Err(error) => Parsed { document: Err(vec![error]), warnings: Vec::new() },
    }
}

/// The tree of `bytes`. NUL bytes are no part of it, as for `az`.
pub(super) fn read(bytes: &[u8]) -> Result<Node, Finding> {
    if MAX_DOCUMENT_BYTES < bytes.len() {
        let message = format!("{} bytes; {MAX_DOCUMENT_BYTES} are allowed", bytes.len());
        return Err(whole(Reason::DocumentTooLarge, message));
    }
    let bytes: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != 0).collect();
    match std::str::from_utf8(&bytes) {
        Ok(text) => Node::read(text.trim_start_matches('\u{feff}')),
        Err(error) => {
            let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let lines = before.split(|byte| *byte == b'\n');
            let column = lines.clone().next_back().map_or(0, <[u8]>::len);
            let (line, column) = (to_u64(lines.count()), to_u64(column + 1));
            let message = format!("line {line}, column {column}: the text is not UTF-8");
            let position = Some((line, column));
            Err(Finding { position, ..whole(Reason::InvalidSyntax, message) })
        }
    }
}

fn to_u64(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn whole(reason: Reason, message: String) -> Finding {
    Finding { path: String::new(), reason, message, position: None }
}

/// What a tree says; one that does not say what it is is an environment, or an app or a job.
pub(super) fn document(node: &Node, environment: bool) -> Parsed {
    let found = Findings::default();
    let place = unwrap(node, &found);
    let read = place.and_then(|(path, node)| {
        let top = Fields::of(node, path, Place::Document, &found)?;
        if environment::is_environment(&top, environment) {
            return Some(Document::Environment(Box::new(environment::read(top))));
        }
        Some(app_reader::read(top))
    });
    let refused = found.refused();
    let (errors, warnings) = found.into_lists();
    let document = match read {
        Some(document) if !refused => Ok(document),
        Some(_) | None => Err(errors),
    };
    Parsed { document, warnings }
}

/// Where the document lies: at the top, or in an ARM template as its one app or job, or else its one environment.
fn unwrap<'a>(node: &'a Node, found: &Findings) -> Option<(String, &'a Node)> {
    let top = || Some((String::new(), node));
    let Value::Map(entries) = &node.value else { return top() };
    let find = |key: &str| entries.iter().find(|(name, _)| name == key).map(|(_, node)| node);
    let (Some(resources), None) = (find("resources"), find("properties")) else { return top() };
    let candidates: Vec<(String, &Node)> = match &resources.value {
        Value::List(items) => items
            .iter()
            .enumerate()
            .map(|(index, item)| (format!("resources[{index}]"), item))
            .collect(),
        Value::Map(entries) => {
            entries.iter().map(|(name, item)| (format!("resources.{name}"), item)).collect()
        }
        Value::Null | Value::Scalar(_) => Vec::new(),
    };
    found.expressions.set(Expressions::Arm);
    let (mut documents, others): (Vec<_>, Vec<_>) = candidates
        .into_iter()
        .partition(|(_, item)| is_of(item, &[app_reader::APP, app_reader::JOB]));
    if documents.is_empty() {
        documents = others;
        documents.retain(|(_, item)| is_of(item, &[environment::ENVIRONMENT]));
    }
    let mut documents = documents.into_iter();
    match (documents.next(), documents.count()) {
        (Some(only), 0) => Some(only),
        (first, others) => {
            let number = usize::from(first.is_some()) + others;
            let message =
                format!("a template must hold exactly one app or job, and this one holds {number}");
            found.error("resources", resources.at, Reason::InvalidValue, message);
            None
        }
    }
}

fn is_of(node: &Node, types: &[&str]) -> bool {
    let Value::Map(entries) = &node.value else { return false };
    entries.iter().any(|(key, node)| match &node.value {
        Value::Scalar(kind) => {
            key == "type" && types.iter().any(|one| kind.eq_ignore_ascii_case(one))
        }
        Value::Null | Value::List(_) | Value::Map(_) => false,
    })
}
