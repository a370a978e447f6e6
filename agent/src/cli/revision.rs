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
    let idle = matches!(command, RevisionCommand::Deactivate { .. });
    let (verb, revision, suffix, done) = match command {
        RevisionCommand::Activate { revision } => ("activate", revision, None, "activated"),
        RevisionCommand::Deactivate { revision } => ("deactivate", revision, None, "deactivated"),
        RevisionCommand::Restart { revision } => ("restart", revision, None, "is being restarted"),
        RevisionCommand::Copy { revision, suffix } => ("copy", revision, suffix, "made, a copy of"),
    };
    let (verb, suffix) = (verb.to_owned(), suffix.unwrap_or_default());
    let request = v1::RevisionRequest { revision: revision.clone(), verb, suffix };
    let weight = if idle { weight_of(agent, &revision).await } else { 0 };
    let reply = agent.revision(brief(request)).await?.into_inner();
    let of = if reply.revision == revision { String::new() } else { format!(" {revision:?}") };
    console
        .answer(output, &reply, |reply| format!("revision {:?} {done}{of}\n", reply.revision))?;
    if 0 < weight {
        let app = app_of(&revision);
        console.say(&format!("hint: {weight} % of the traffic was on it: skerry traffic {app}\n"));
    }
    Ok(())
}

/// How much of its app's traffic a revision has: a person who stops it may not know.
async fn weight_of(agent: &mut Agent, revision: &str) -> u32 {
    let request = v1::AppRequest { app: app_of(revision).to_owned() };
    let Ok(app) = agent.app(brief(request)).await else { return 0 };
    let revisions = app.into_inner().revisions;
    let found = revisions.iter().find(|status| status.name == revision);
    found.map_or(0, |status| status.traffic_weight)
}

fn app_of(revision: &str) -> &str {
    revision.split("--").next().unwrap_or_default()
}
