//! The commands, one function or one arm each.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::CommandFactory as _;
use skerry_proto::v1;
use tokio::task;

use super::apply::Manner;
use super::args::{Args, Command, Format};
use super::check::check;
use super::client::{Agent, brief, connect};
use super::error::CliError;
use super::output::Console;
use super::{
    apply, bundle, doctor, explain, follow, images, revision, secret, show, traffic, upgrade,
};

/// One byte more than a document may have, so that the agent refuses what is too large, and memory holds no more.
const LONGEST_DOCUMENT: u64 = (256 << 10) + 1;

/// Does what the command line says.
pub(super) async fn run(args: Args, console: &mut Console) -> Result<(), CliError> {
    let Args { socket, output, command } = args;
    let output = output.format();
    match command {
        // The daemon is not run from here: `start` has handed it on.
        Command::Agent(_) => Ok(()),
        Command::Apply { file, force, wait } => {
            apply::run(console, output, &socket, file, Manner { force, wait }).await
        }
        Command::Bundle(args) => bundle::run(console, &socket, args).await,
        Command::Check { file } => check_file(console, output, file).await,
        Command::Completions { shell } => completions(console, shell),
        Command::Doctor(args) => doctor::run(console, output, &socket, args).await,
        Command::Explain { what } => explain::explain(console, output, &socket, what).await,
        Command::Upgrade { file, patience } => {
            upgrade::upgrade(console, file, Duration::from_secs(patience)).await
        }
        Command::Guard => upgrade::guard(console),
        Command::Secret { command } => secret::run(console, output, &socket, command).await,
        command @ (Command::Delete { .. }
        | Command::Apps
        | Command::Show { .. }
        | Command::Revisions { .. }
        | Command::Replicas { .. }
        | Command::Revision { .. }
        | Command::Traffic(_)
        | Command::Logs(_)
        | Command::Events { .. }
        | Command::Environments
        | Command::Images { .. }
        | Command::Start { .. }
        | Command::Stop { .. }
        | Command::Scale { .. }
        | Command::Status) => {
            let mut agent = connect(&socket).await?;
            ask(&mut agent, console, output, command).await
        }
    }
}

/// The commands that need an agent.
async fn ask(
    agent: &mut Agent,
    console: &mut Console,
    output: Format,
    command: Command,
) -> Result<(), CliError> {
    match command {
        Command::Delete { app, force } => {
            agent.delete(brief(v1::DeleteRequest { app: app.clone(), force })).await?;
            console.print(&format!("app {app:?} removed\n"))
        }
        Command::Apps => {
            let reply = agent.apps(brief(v1::AppsRequest {})).await?.into_inner();
            let now = console.now;
            console.answer(output, &reply.apps, |apps| show::apps(apps, now))
        }
        Command::Show { app } => {
            let now = console.now;
            let app = status(agent, app).await?;
            console.answer(output, &app, |app| show::tree(app, now))
        }
        Command::Revisions { app } => {
            let revisions = status(agent, app).await?.revisions;
            console.answer(output, &revisions, |revisions| show::revisions(revisions))
        }
        Command::Replicas { app } => {
            let replicas = status(agent, app).await?.revisions;
            let replicas: Vec<_> = replicas.into_iter().flat_map(|r| r.replica_list).collect();
            console.answer(output, &replicas, |replicas| show::replicas(replicas))
        }
        Command::Revision { command } => revision::revision(agent, console, output, command).await,
        Command::Traffic(args) => traffic::traffic(agent, console, output, args).await,
        Command::Logs(args) => follow::logs(agent, console, output, args).await,
        Command::Events { follow } => follow::events(agent, console, output, follow).await,
        Command::Environments => {
            let reply = agent.environments(brief(v1::EnvironmentsRequest {})).await?.into_inner();
            let now = console.now;
            console.answer(output, &reply.environments, |all| show::environments(all, now))
        }
        Command::Images { command } => images::run(agent, console, output, command).await,
        Command::Start { app } => run_app(agent, console, app, true).await,
        Command::Stop { app } => run_app(agent, console, app, false).await,
        Command::Scale { app, min, max, replicas, clear, to_zero } => {
            let (min_replicas, max_replicas) = (min, max);
            let app_name = app.clone();
            let request =
                v1::ScaleRequest { app, min_replicas, max_replicas, replicas, clear, to_zero };
            agent.scale(brief(request)).await?;
            if to_zero {
                let text = format!("app {app_name:?} goes to zero; a request brings it back\n");
                return console.print(&text);
            }
            let done = if clear { "cleared" } else { "set" };
            console.print(&format!("scale target of app {app_name:?} {done}\n"))
        }
        Command::Status => {
            let reply = agent.device(brief(v1::DeviceRequest {})).await?.into_inner();
            console.answer(output, &reply, show::device)
        }
        Command::Agent(_)
        | Command::Apply { .. }
        | Command::Bundle(_)
        | Command::Check { .. }
        | Command::Completions { .. }
        | Command::Doctor { .. }
        | Command::Guard
        | Command::Upgrade { .. }
        | Command::Explain { .. }
        | Command::Secret { .. } => Ok(()),
    }
}

async fn status(agent: &mut Agent, app: String) -> Result<v1::AppStatus, CliError> {
    Ok(agent.app(brief(v1::AppRequest { app })).await?.into_inner())
}

async fn check_file(console: &mut Console, output: Format, file: PathBuf) -> Result<(), CliError> {
    let report = check(&read(file.clone()).await?);
    console.answer(output, &report, |report| format!("{}\n", report.to_string().trim_end()))?;
    if report.ok() { Ok(()) } else { Err(CliError::Invalid(file)) }
}

async fn run_app(
    agent: &mut Agent,
    console: &mut Console,
    app: String,
    start: bool,
) -> Result<(), CliError> {
    agent.run(brief(v1::RunRequest { app: app.clone(), start })).await?;
    console.print(&format!("app {app:?} {}\n", if start { "started" } else { "stopped" }))
}

fn completions(console: &mut Console, shell: clap_complete::Shell) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "skerry", &mut script);
    console.print(&String::from_utf8_lossy(&script))
}

/// The bytes of a document; `-` is the standard input.
pub(super) async fn read(path: PathBuf) -> Result<Vec<u8>, CliError> {
    let from = path.clone();
    let reading = task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        if from == Path::new("-") {
            std::io::stdin().lock().take(LONGEST_DOCUMENT).read_to_end(&mut bytes)?;
        } else {
            std::fs::File::open(from)?.take(LONGEST_DOCUMENT).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    });
    let read = reading.await.unwrap_or_else(|panic| Err(std::io::Error::other(panic)));
    read.map_err(|source| CliError::Read { path, source })
}
