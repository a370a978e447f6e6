//! `skerry explain`: a reason's meaning, or what is wrong with an app.

use std::path::Path;

use domain::reason::Reason;
use serde::Serialize;
use skerry_proto::v1;
use tonic::Code;

use super::args::Format;
use super::client::{brief, connect};
use super::error::CliError;
use super::output::Console;
use super::show::advice;

/// A reason, as it is printed.
#[derive(Debug, Serialize)]
struct Explained {
    reason: &'static str,
    sentence: &'static str,
    fix: &'static str,
}

impl From<Reason> for Explained {
    fn from(reason: Reason) -> Self {
        Self { reason: reason.word(), sentence: reason.sentence(), fix: reason.fix() }
    }
}

/// Explains `what`. Reasons need no agent, and are told from apps by their first letter: a capital, as apps never have.
pub(super) async fn explain(
    console: &mut Console,
    output: Format,
    socket: &Path,
    what: Option<String>,
) -> Result<(), CliError> {
    let Some(what) = what else {
        let all: Vec<Explained> = Reason::ALL.iter().copied().map(Explained::from).collect();
        return console.answer(output, &all, |all| {
            let lines = all
                .iter()
                .flat_map(|one| [one.reason, "\n    ", one.sentence, "\n    ", one.fix, "\n"]);
            lines.collect()
        });
    };
    if what.starts_with(|c: char| c.is_ascii_uppercase()) {
        return explain_reason(console, output, what.parse::<Reason>()?);
    }
    let mut agent = connect(socket).await?;
    match agent.explain(brief(v1::ExplainRequest { app: what.clone() })).await {
        Ok(reply) => console.answer(output, &reply.into_inner(), explanation),
        Err(status) => {
            // No app is called so; perhaps a reason is, typed without its capitals.
            let meant = Reason::ALL.iter().find(|reason| reason.word().eq_ignore_ascii_case(&what));
            let meant = meant.filter(|_| status.code() == Code::NotFound);
            meant.map_or(Err(status.into()), |reason| explain_reason(console, output, *reason))
        }
    }
}

fn explain_reason(console: &mut Console, output: Format, reason: Reason) -> Result<(), CliError> {
    console.answer(output, &Explained::from(reason), |reason| {
        format!("{}\n{}\n", reason.sentence, reason.fix)
    })
}

fn explanation(reply: &v1::ExplainReply) -> String {
    let mut lines = vec![reply.summary.clone()];
    for why in &reply.whys {
        let v1::Why { subject, reason, sentence, details, fix } = why;
        let says_more = !details.is_empty() && details != sentence;
        let details = if says_more { format!(" ({details})") } else { String::new() };
        lines.push(format!("{subject}: {reason}: {sentence}{details}"));
        let app = subject.split([' ']).next().unwrap_or(subject);
        let app = app.split("--").next().unwrap_or(app);
        lines.extend(advice(fix, app).map(|fix| format!("hint: {fix}")));
    }
    let printable = |line: &String| line.replace(char::is_control, " ") + "\n";
    lines.iter().map(printable).collect()
}
