//! `skerry check FILE`: says what the agent would make of a document, without an agent.
//!
//! It reads nothing and prints nothing by itself: bytes in, a report out.

use std::fmt;

use domain::document::{Document, Finding, parse};
use serde::Serialize;

/// What was found in a document. Its `Display` is for people, its serialised form for programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    errors: Vec<Found>,
    warnings: Vec<Found>,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Found {
    path: String,
    reason: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<u64>,
}

/// Looks at a document.
pub fn check(bytes: &[u8]) -> CheckReport {
    let parsed = parse(bytes);
    let (kind, name, errors) = match parsed.document {
        Ok(Document::App(app)) => (Some("app"), app.name.map(|name| name.to_string()), Vec::new()),
        Ok(Document::Job(job)) => (Some("job"), job.name.map(|name| name.to_string()), Vec::new()),
        Ok(Document::Environment(environment)) => {
            (Some("environment"), environment.name.map(|name| name.to_string()), Vec::new())
        }
        Err(errors) => (None, None, errors),
    };
    let found = |findings: Vec<Finding>| findings.into_iter().map(Found::from).collect();
    CheckReport {
        ok: kind.is_some(),
        kind,
        name,
        errors: found(errors),
        warnings: found(parsed.warnings),
    }
}

impl CheckReport {
    /// The agent would accept the document: exit code 0, else 1.
    pub fn ok(&self) -> bool {
        self.ok
    }
}

impl From<Finding> for Found {
    fn from(finding: Finding) -> Self {
        let (line, column) = finding.position.unzip();
        Self {
            path: finding.path,
            reason: finding.reason.word(),
            message: finding.message,
            line,
            column,
        }
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.errors {
            error.show(f, "error")?;
        }
        for warning in &self.warnings {
            warning.show(f, "warning")?;
        }
        if !self.errors.is_empty() || !self.warnings.is_empty() {
            writeln!(f)?;
        }
        self.verdict(f)
    }
}

impl CheckReport {
    fn verdict(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.kind, &self.name) {
            (Some(kind), Some(name)) => write!(f, "ok: the {kind} {name} would be accepted")?,
            (Some(kind), None) => {
                write!(f, "ok: the {kind} would be accepted under the name it is sent to")?;
            }
            (None, _) => write!(f, "refused: {}", count(self.errors.len(), "error"))?,
        }
        match self.warnings.len() {
            0 => Ok(()),
            warnings => write!(f, ", {}", count(warnings, "warning")),
        }
    }
}

impl Found {
    fn show(&self, f: &mut fmt::Formatter<'_>, kind: &str) -> fmt::Result {
        write!(f, "{kind}[{}]", self.reason)?;
        // The message of an error of syntax begins with the line already.
        if let (Some(line), false) = (self.line, self.path.is_empty()) {
            write!(f, " line {line}")?;
        }
        if !self.path.is_empty() {
            write!(f, " {}", self.path)?;
        }
        writeln!(f, "\n    {}", self.message)
    }
}

fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_refused_document_is_shown_with_its_lines_and_paths() {
        let report =
            check(b"name: Hello\nlocation: here\ntemplate:\n  containers:\n    - {name: a}\n");
        assert!(!report.ok());
        expect![[r#"
            error[InvalidValue] line 1 name
                "Hello" is not a valid app name: 1 to 32 characters, a-z, 0-9 and single dashes, first a letter, last no dash
            error[MissingValue] line 5 template.containers[0].image
                image is required: the image that the container runs
            warning[NoMeaningHere] line 2 location
                has a meaning in Azure only: an app is where its board is
            warning[NothingWakes] line 4 template.scale.minReplicas
                at 0 the app is stopped after a while and stays so: it has neither ingress nor a rule that could wake it; 1 keeps it running

            refused: 2 errors, 2 warnings"#]].assert_eq(&report.to_string());
        expect![[r#"
            {
              "ok": false,
              "errors": [
                {
                  "path": "name",
                  "reason": "InvalidValue",
                  "message": "\"Hello\" is not a valid app name: 1 to 32 characters, a-z, 0-9 and single dashes, first a letter, last no dash",
                  "line": 1,
                  "column": 7
                },
                {
                  "path": "template.containers[0].image",
                  "reason": "MissingValue",
                  "message": "image is required: the image that the container runs",
                  "line": 5,
                  "column": 7
                }
              ],
              "warnings": [
                {
                  "path": "location",
                  "reason": "NoMeaningHere",
                  "message": "has a meaning in Azure only: an app is where its board is",
                  "line": 2,
                  "column": 11
                },
                {
                  "path": "template.scale.minReplicas",
                  "reason": "NothingWakes",
                  "message": "at 0 the app is stopped after a while and stays so: it has neither ingress nor a rule that could wake it; 1 keeps it running",
                  "line": 4,
                  "column": 3
                }
              ]
            }"#]].assert_eq(&serde_json::to_string_pretty(&report).unwrap());
    }

    #[test]
    fn a_syntax_error_names_its_line_once() {
        expect![[r#"
            error[InvalidSyntax]
                line 2, column 4: mapping values are not allowed in this context

            refused: 1 error"#]]
        .assert_eq(&check(b"name: hello\n  x: [\n").to_string());
    }

    #[test]
    fn an_accepted_document_is_named() {
        let report = check(b"name: hello\ntemplate: {containers: [{name: a, image: b}]}\n");
        assert!(report.ok());
        expect![[r#"
            warning[NothingWakes] line 2 template.scale.minReplicas
                at 0 the app is stopped after a while and stays so: it has neither ingress nor a rule that could wake it; 1 keeps it running

            ok: the app hello would be accepted, 1 warning"#]].assert_eq(&report.to_string());
        let nameless = check(b"skerry: {absent: true, force: true}\n");
        expect!["ok: the app would be accepted under the name it is sent to"]
            .assert_eq(&nameless.to_string());
    }
}
