//! `skerry secret`: values come from the standard input, never from the command line, where others could read them; and
//! none is ever printed, but sealed.

use std::io::{self, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use domain::replica::Secret;
use skerry_proto::v1;
use tokio::task;

use super::args::{Format, SecretCommand};
use super::client::{Agent, brief, connect};
use super::error::CliError;
use super::output::Console;
use super::show;
use crate::keys;
use crate::report::nearest;

/// One byte more than the agent takes, so that it refuses what is too large.
const LONGEST_VALUE: u64 = (256 << 10) + 2;

/// Does what the command line says.
pub(super) async fn run(
    console: &mut Console,
    output: Format,
    socket: &Path,
    command: SecretCommand,
) -> Result<(), CliError> {
    match command {
        SecretCommand::Set { app, name } => {
            let value = read().await?;
            let mut agent = connect(socket).await?;
            change(&mut agent, &app, &name, Some(value)).await?;
            console.print(&format!("secret {name:?} of app {app:?} set\n"))?;
            hint(&mut agent, console, app, &name).await;
            Ok(())
        }
        SecretCommand::Rm { app, name } => {
            let mut agent = connect(socket).await?;
            change(&mut agent, &app, &name, None).await?;
            console.print(&format!("secret {name:?} of app {app:?} removed\n"))?;
            hint(&mut agent, console, app, &name).await;
            Ok(())
        }
        SecretCommand::Ls { app } => {
            let mut agent = connect(socket).await?;
            let reply = agent.secrets(brief(v1::SecretsRequest { app })).await?.into_inner();
            console.answer(output, &reply.secrets, |secrets| show::secrets(secrets))
        }
        SecretCommand::Seal { public_key } => {
            let value = read().await?;
            let public = match public_key {
                Some(key) => key,
                None => own_key(&mut connect(socket).await?).await?,
            };
            let sealed = keys::seal(&public, &value).ok_or(CliError::NoPublicKey(public))?;
            console.print(&format!("{sealed}\n"))
        }
    }
}

async fn change(
    agent: &mut Agent,
    app: &str,
    name: &str,
    value: Option<Secret>,
) -> Result<(), CliError> {
    let value = value.map(|value| value.0);
    let request = v1::SecretRequest { app: app.to_owned(), name: name.to_owned(), value };
    agent.secret(brief(request)).await?;
    Ok(())
}

/// ACA's rule: what runs keeps the value that it started with. Where nothing runs, there is nothing to say, and a secret
/// that the document does not list reaches nothing.
async fn hint(agent: &mut Agent, console: &mut Console, app: String, name: &str) {
    let request = v1::SecretsRequest { app: app.clone() };
    let Ok(reply) = agent.secrets(brief(request)).await else { return };
    let secrets = reply.into_inner().secrets;
    let listed = secrets.iter().filter(|secret| secret.listed);
    if !listed.clone().any(|secret| secret.name == name) {
        let near = nearest(name, listed.map(|secret| secret.name.as_str()));
        let near = near.map(|near| format!(", which lists {near:?}")).unwrap_or_default();
        console.say(&format!("hint: {name:?} is not listed by the document of {app:?}{near}\n"));
        return;
    }
    let Ok(status) = agent.app(brief(v1::AppRequest { app })).await else { return };
    let revisions = status.into_inner().revisions;
    for revision in revisions.iter().filter(|revision| 0 < revision.replicas) {
        console.say(&format!(
            "hint: replicas that run keep what they started with: skerry revision restart {}\n",
            revision.name
        ));
    }
}

async fn own_key(agent: &mut Agent) -> Result<String, CliError> {
    let reply = agent.device(brief(v1::DeviceRequest {})).await?.into_inner();
    Ok(reply.status.unwrap_or_default().public_key)
}

/// The value that the standard input gives.
pub(super) async fn read() -> Result<Secret, CliError> {
    if io::stdin().is_terminal() {
        return Err(CliError::Terminal);
    }
    let reading = task::spawn_blocking(|| {
        let mut bytes = Vec::new();
        io::stdin().lock().take(LONGEST_VALUE).read_to_end(&mut bytes).map(|_| bytes)
    });
    let read = reading.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
    value_of(read.map_err(|source| CliError::Read { path: PathBuf::from("-"), source })?)
}

/// Tools that print a value end it with a line end, which is no part of it.
fn value_of(bytes: Vec<u8>) -> Result<Secret, CliError> {
    let text = String::from_utf8(bytes).map_err(|_| CliError::NoValue("it is not UTF-8"))?;
    let value = text.strip_suffix('\n').unwrap_or(&text);
    let value = value.strip_suffix('\r').filter(|_| text.ends_with('\n')).unwrap_or(value);
    if value.is_empty() {
        return Err(CliError::NoValue("it is empty"));
    }
    Ok(Secret(value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(given: &[u8], value: Option<&str>) {
        assert_eq!(value_of(given.to_vec()).ok(), value.map(|value| Secret(value.to_owned())));
    }

    #[test]
    fn one_line_end_is_no_part_of_a_value() {
        check(b"hunter2\n", Some("hunter2"));
        check(b"hunter2\r\n", Some("hunter2"));
        check(b"hunter2\n\n", Some("hunter2\n"));
        check(b" hunter 2", Some(" hunter 2"));
        check(b"hunter2\r", Some("hunter2\r"));
        check(b"\n", None);
        check(b"", None);
        check(b"\xff", None);
    }
}
