//! Documents as people write them, and what they are told.

pub(super) mod aca;
mod environment;
mod errors;
mod guide;
mod intake;
mod mangled;
mod round_trip;
mod rules;
mod samples;
mod warnings;
mod withheld;

use expect_test::Expect;

use super::{AppDocument, Document, Finding, parse};

/// A document with a container, to which tests add what they are about.
const SMALL: &str = "
name: hello
properties:
  configuration:
    ingress: {targetPort: 80}
  template:
    containers:
      - {name: main, image: hello:1}
";

/// The app in `text`, which must be one.
#[track_caller]
fn app(text: &str) -> AppDocument {
    match parse(text.as_bytes()).document {
        Ok(Document::App(app)) => *app,
        Ok(Document::Job(_)) => panic!("this is a job"),
        Ok(Document::Environment(_)) => panic!("this is an environment"),
        Err(errors) => panic!("refused:\n{}", lines(&errors)),
    }
}

/// The errors of `text`, which must be refused.
#[track_caller]
fn errors(text: &str) -> String {
    match parse(text.as_bytes()).document {
        Ok(_) => panic!("accepted"),
        Err(errors) => lines(&errors),
    }
}

/// The errors of the small document with `from` replaced.
#[track_caller]
fn broken(from: &str, to: &str, expected: &Expect) {
    assert!(SMALL.contains(from), "{from} is not in the document");
    expected.assert_eq(&errors(&SMALL.replace(from, to)));
}

/// The warnings of `text`.
fn warnings(text: &str) -> String {
    lines(&parse(text.as_bytes()).warnings)
}

/// One finding a line, as a person may read it.
fn lines(findings: &[Finding]) -> String {
    let line = |finding: &Finding| {
        let place =
            finding.position.map_or("-".to_owned(), |(line, column)| format!("{line}:{column}"));
        format!("{place} {} {}: {}\n", finding.path, finding.reason, finding.message)
    };
    findings.iter().map(line).collect()
}

/// What `line` makes of each number below `many`, in a row.
fn numbered(many: usize, line: impl Fn(usize) -> String) -> String {
    let lines: Vec<String> = (0..many).map(line).collect();
    lines.concat()
}
