//! `skerry traffic`: what its arguments mean, and the split as a table.
//!
//! ```text
//!   latest=80   0000001=20   hello--0000001=20   blue=20     a number: a weight, for the latest, a revision, a label
//!   blue=0000001   blue=hello--0000001                       a revision: the label names it from now on
//!   blue=                                                    nothing: the label goes
//! ```
//!
//! What the others get, and what is refused, is the agent's to say; here only names are found.

use std::collections::BTreeMap;
use std::str::FromStr;

use skerry_proto::v1;

use super::args::{Format, TrafficArgs};
use super::client::{Agent, brief};
use super::error::CliError;
use super::output::Console;
use super::table::Table;
use crate::report::nearest;

/// The word that stands for the newest revision that is ready.
const LATEST: &str = "latest";

/// More digits are a revision's number: a weight is 100 at most.
const LONGEST_WEIGHT: usize = 3;

/// One argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    left: String,
    right: String,
}

/// The argument is no change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a change is REVISION=WEIGHT, latest=WEIGHT, LABEL=WEIGHT, LABEL=REVISION or LABEL=")]
pub(super) struct NoChange;

impl FromStr for Change {
    type Err = NoChange;
    fn from_str(text: &str) -> Result<Self, NoChange> {
        let (left, right) = text.split_once('=').ok_or(NoChange)?;
        if left.is_empty() || right.contains('=') {
            return Err(NoChange);
        }
        Ok(Self { left: left.to_owned(), right: right.to_owned() })
    }
}

/// Shows the split, or changes it and shows what came of it.
pub(super) async fn traffic(
    agent: &mut Agent,
    console: &mut Console,
    output: Format,
    args: TrafficArgs,
) -> Result<(), CliError> {
    let app = agent.app(brief(v1::AppRequest { app: args.app })).await?.into_inner();
    let shown = v1::TrafficRequest { app: app.app.clone(), ..Default::default() };
    let mut reply = agent.traffic(brief(shown)).await?.into_inner();
    if !args.changes.is_empty() {
        let request = Names::of(&app, &reply).request(&args.changes)?;
        reply = agent.traffic(brief(request)).await?.into_inner();
    }
    console.answer(output, &reply, |reply| table(reply, &app))
}

/// The names that an argument may mean.
struct Names<'a> {
    app: &'a str,
    revisions: Vec<&'a str>,
    labels: BTreeMap<String, &'a str>,
}

impl<'a> Names<'a> {
    /// A status tells the labels that lead somewhere, the split those of inactive revisions too.
    fn of(app: &'a v1::AppStatus, shown: &'a v1::TrafficReply) -> Self {
        let revisions = app.revisions.iter();
        let leading = revisions.clone().flat_map(|revision| {
            revision.labels.iter().map(|label| (label.to_lowercase(), revision.name.as_str()))
        });
        let labelled = shown.weights.iter().filter(|entry| !entry.label.is_empty());
        let labels = labelled
            .map(|entry| (entry.label.to_lowercase(), entry.revision.as_str()))
            .chain(leading);
        Self {
            app: &app.app,
            revisions: revisions.map(|revision| revision.name.as_str()).collect(),
            labels: labels.collect(),
        }
    }

    /// What the arguments ask for, all together. A label that one of them sets may be given a weight by another.
    fn request(mut self, changes: &'a [Change]) -> Result<v1::TrafficRequest, CliError> {
        let (weights, labels): (Vec<_>, Vec<_>) = changes
            .iter()
            .map(|change| (change, weight(&change.right)))
            .partition(|two| two.1.is_some());
        let mut request = v1::TrafficRequest { app: self.app.to_owned(), ..Default::default() };
        for (change, _) in labels {
            let label = self.label(change)?;
            if change.right.is_empty() && !self.labels.contains_key(&label.label) {
                let labels = self.labels.keys().map(String::as_str);
                return Err(self.unknown(&change.left, "a label", labels));
            }
            if change.right.is_empty() {
                self.labels.remove(&label.label);
            } else {
                self.labels.insert(label.label.clone(), &change.right);
            }
            request.labels.push(label);
        }
        for (change, number) in weights {
            let weight = number.unwrap_or_default();
            request.weights.push(v1::Weight { weight, ..self.target(&change.left)? });
        }
        Ok(request)
    }

    fn label(&self, change: &Change) -> Result<v1::Label, CliError> {
        if change.left == LATEST && self.revision(&change.right).is_err() {
            let message = format!("{:?} is no weight", change.right);
            let hint = Some("a weight is a number from 0 to 100".to_owned());
            return Err(CliError::Typed { message, hint });
        }
        if change.left == LATEST {
            return Err(CliError::Typed {
                message: "latest is no label: it follows the newest revision that is ready"
                    .to_owned(),
                hint: Some(
                    "give it a weight, such as latest=100, or the label another name".to_owned(),
                ),
            });
        }
        let revision = match change.right.as_str() {
            "" => String::new(),
            right => self.revision(right)?.to_owned(),
        };
        Ok(v1::Label { label: change.left.to_lowercase(), revision })
    }

    /// A revision by its name or its suffix.
    fn revision<'b>(&self, text: &'b str) -> Result<&'b str, CliError>
    where
        'a: 'b,
    {
        // A status tells of the newest only: whether there is one of this name is for the agent to say.
        if text.contains("--") {
            return self.own(text).map(|()| text);
        }
        self.by_suffix(text).ok_or_else(|| {
            let suffixes = self.revisions.iter().map(|name| suffix(name));
            self.unknown(text, "a revision", suffixes)
        })
    }

    fn target(&self, left: &str) -> Result<v1::Weight, CliError> {
        let label = left.to_lowercase();
        let labelled = self.labels.get(&label);
        match (self.by_suffix(left), labelled) {
            _ if left == LATEST => Ok(v1::Weight { latest: true, ..Default::default() }),
            _ if left.contains("--") => {
                self.own(left)?;
                Ok(v1::Weight { revision: left.to_owned(), ..Default::default() })
            }
            (Some(revision), Some(other)) if revision != *other && suffix(revision) != *other => {
                Err(CliError::Typed {
                    message: format!("{left} is the suffix of {revision} and the label of {other}"),
                    hint: Some(format!(
                        "give the weight to {revision} or to {other} by its whole name"
                    )),
                })
            }
            (_, Some(_)) => Ok(v1::Weight { label, ..Default::default() }),
            (Some(revision), None) => {
                Ok(v1::Weight { revision: revision.to_owned(), ..Default::default() })
            }
            (None, None) => {
                let suffixes = self.revisions.iter().map(|name| suffix(name));
                let words = suffixes.chain(self.labels.keys().map(String::as_str)).chain([LATEST]);
                Err(self.unknown(left, "a revision or label", words))
            }
        }
    }

    fn by_suffix(&self, text: &str) -> Option<&'a str> {
        self.revisions.iter().copied().find(|name| suffix(name) == text)
    }

    /// Refuses the name of another app's revision.
    fn own(&self, name: &str) -> Result<(), CliError> {
        match name.split_once("--") {
            Some((app, _)) if app == self.app => Ok(()),
            Some(_) | None => Err(self.unknown(name, "a revision", self.revisions.iter().copied())),
        }
    }

    fn unknown<'n>(
        &self,
        text: &str,
        what: &str,
        known: impl Iterator<Item = &'n str>,
    ) -> CliError {
        let hint = nearest(text, known).map_or_else(
            || format!("see skerry revisions {}; a weight is a number from 0 to 100", self.app),
            |near| format!("did you mean {near}?"),
        );
        let message = format!("{text:?} is not {what} of {}", self.app);
        CliError::Typed { message, hint: Some(hint) }
    }
}

/// A weight, as a person writes one. `0000001` is none: it is a revision's number.
fn weight(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = text == "0" || !text.starts_with('0');
    (digits && plain && text.len() <= LONGEST_WEIGHT).then(|| text.parse().ok()).flatten()
}

fn suffix(revision: &str) -> &str {
    revision.split_once("--").map_or(revision, |(_, suffix)| suffix)
}

/// The split: who gets how much, and under which host name it can be looked at alone.
fn table(reply: &v1::TrafficReply, app: &v1::AppStatus) -> String {
    let mut table = Table::new(["REVISION", "WEIGHT", "LABEL", "READY", "HOST"]);
    for entry in &reply.weights {
        let name = if entry.latest { &app.latest_ready_revision_name } else { &entry.revision };
        let revision = match (entry.latest, name.as_str()) {
            (true, "") => LATEST.to_owned(),
            (true, name) => format!("{LATEST} ({name})"),
            (false, name) => name.to_owned(),
        };
        let status = app.revisions.iter().find(|revision| revision.name == *name);
        let ready = status.map(|status| format!("{}/{}", status.ready_replicas, status.replicas));
        table.row([
            revision,
            format!("{} %", entry.weight),
            entry.label.clone(),
            ready.unwrap_or_default(),
            host(entry, app),
        ]);
    }
    table.render()
}

/// `hello---blue.default.pi-1.internal`; nothing without ingress.
fn host(entry: &v1::Weight, app: &v1::AppStatus) -> String {
    let Some(suffix) = app.fqdn.strip_prefix(&app.app).filter(|suffix| !suffix.is_empty()) else {
        return String::new();
    };
    match (entry.label.as_str(), entry.revision.as_str()) {
        ("", "") => app.fqdn.clone(),
        ("", revision) => format!("{revision}{suffix}"),
        (label, _) => format!("{}---{label}{suffix}", app.app),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Report;

    fn app() -> v1::AppStatus {
        let revision = |name: &str, labels: &[&str]| v1::RevisionStatus {
            name: format!("hello--{name}"),
            labels: labels.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        let revisions = vec![
            revision("0000002", &[]),
            revision("0000001", &["blue"]),
            revision("green", &["v1"]),
            revision("v1", &["old"]),
            revision("old", &[]),
        ];
        v1::AppStatus { app: "hello".to_owned(), revisions, ..Default::default() }
    }

    fn split() -> v1::TrafficReply {
        let asleep = v1::Weight {
            label: "asleep".to_owned(),
            revision: "hello--0000001".to_owned(),
            ..Default::default()
        };
        v1::TrafficReply { weights: vec![asleep] }
    }

    /// The weights, then the labels; or what a person reads.
    #[track_caller]
    fn check(line: &str, expected: &str) {
        let changes: Vec<Change> =
            line.split_whitespace().map(|change| change.parse().unwrap()).collect();
        let text = match Names::of(&app(), &split()).request(&changes) {
            Ok(request) => {
                let weights = request.weights.iter().map(|weight| {
                    let label = if weight.label.is_empty() { "" } else { "@" };
                    let latest = if weight.latest { "latest" } else { "" };
                    format!("{latest}{}{label}{}={}", weight.revision, weight.label, weight.weight)
                });
                let labels = request
                    .labels
                    .iter()
                    .map(|label| format!("{}->{}", label.label, label.revision));
                weights.chain(labels).collect::<Vec<_>>().join(" ")
            }
            Err(error) => Report(&error).to_string(),
        };
        assert_eq!(text, expected, "{line}");
    }

    #[test]
    fn a_number_is_a_weight_and_a_revision_moves_a_label() {
        check("", "");
        check("latest=80 0000001=20", "latest=80 hello--0000001=20");
        check("hello--0000001=20 blue=0", "hello--0000001=20 @blue=0");
        check("blue=0000002", "blue->hello--0000002");
        check("blue=hello--green Canary=green", "blue->hello--green canary->hello--green");
        check("blue=", "blue->");
        check("asleep= blue=10", "@blue=10 asleep->");
        check("asleep=10", "@asleep=10");
        check("hello--gone=0", "hello--gone=0");
        check("0000002=150", "hello--0000002=150");
    }

    #[test]
    fn a_label_that_is_set_may_be_given_a_weight_in_the_same_breath() {
        check("canary=20 canary=0000002 latest=80", "@canary=20 latest=80 canary->hello--0000002");
        check("Canary=20 CANARY=0000002", "@canary=20 canary->hello--0000002");
    }

    #[test]
    fn what_is_meant_twice_is_asked_back() {
        check(
            "v1=20",
            "error: v1 is the suffix of hello--v1 and the label of hello--green\n\
             hint: give the weight to hello--v1 or to hello--green by its whole name",
        );
        check(
            "old=20",
            "error: old is the suffix of hello--old and the label of hello--v1\n\
             hint: give the weight to hello--old or to hello--v1 by its whole name",
        );
        check("v1=v1 v1=20", "@v1=20 v1->hello--v1");
    }

    #[test]
    fn a_slip_is_answered_with_its_neighbour() {
        check(
            "greem=20",
            "error: \"greem\" is not a revision or label of hello\nhint: did you mean green?",
        );
        check(
            "lastest=20",
            "error: \"lastest\" is not a revision or label of hello\nhint: did you mean latest?",
        );
        check(
            "blue=0000003",
            "error: \"0000003\" is not a revision of hello\nhint: did you mean 0000001?",
        );
        check(
            "helo--0000001=20",
            "error: \"helo--0000001\" is not a revision of hello\nhint: did you mean hello--0000001?",
        );
        check(
            "blue= blue=20",
            "error: \"blue\" is not a revision or label of hello\nhint: see skerry revisions hello; a weight is a number from 0 to 100",
        );
        check(
            "blue=50%",
            "error: \"50%\" is not a revision of hello\n\
             hint: see skerry revisions hello; a weight is a number from 0 to 100",
        );
        check("bleu=", "error: \"bleu\" is not a label of hello\nhint: did you mean blue?");
        check("latest=-1", "error: \"-1\" is no weight\nhint: a weight is a number from 0 to 100");
        check(
            "latest=green",
            "error: latest is no label: it follows the newest revision that is ready\n\
             hint: give it a weight, such as latest=100, or the label another name",
        );
    }

    #[test]
    fn an_argument_without_two_sides_is_no_change() {
        for wrong in ["", "20", "=20", "a=b=c"] {
            assert_eq!(wrong.parse::<Change>(), Err(NoChange), "{wrong}");
        }
    }
}
