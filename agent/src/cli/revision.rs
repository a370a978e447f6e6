//! `skerry revision`: what a person does to one revision.

use skerry_proto::v1;

use super::args::{Format, RevisionCommand};
use super::client::{Agent, brief};
use super::error::CliError;
use super::output::Console;

/// Does it, and says which revision came of it.
pub(super) async fn revision(
    agent: &mut Agent,
    console: &mut Console,
    output: Format,
    command: RevisionCommand,
) -> Result<(), CliError> {
    let (verb, revision, suffix, done) = match command {
        RevisionCommand::Activate { revision } => ("activate", revision, None, "activated"),
        RevisionCommand::Deactivate { revision } => ("deactivate", revision, None, "deactivated"),
        RevisionCommand::Restart { revision } => ("restart", revision, None, "is being restarted"),
        RevisionCommand::Copy { revision, suffix } => ("copy", revision, suffix, "made, a copy of"),
    };
    let (verb, suffix) = (verb.to_owned(), suffix.unwrap_or_default());
    let request = v1::RevisionRequest { revision: revision.clone(), verb, suffix };
    let reply = agent.revision(brief(request)).await?.into_inner();
    let of = if reply.revision == revision { String::new() } else { format!(" {revision:?}") };
    console.answer(output, &reply, |reply| format!("revision {:?} {done}{of}\n", reply.revision))
}
