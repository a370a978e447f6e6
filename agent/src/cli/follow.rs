//! Commands that last: logs, events, waiting for an app, sending an archive.

use std::io;
use std::path::Path;
use std::time::Duration;

use futures_util::stream;
use skerry_proto::v1;
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use tokio::sync::{oneshot, watch};
use tonic::Request;

use super::args::{Format, LogsArgs};
use super::client::Agent;
use super::error::{CliError, finding};
use super::output::Console;
use super::show::{reason_of, size};

/// Parts of an archive: large enough that the number of messages does not matter, small enough to wait in memory.
const PART: usize = 256 << 10;

/// An import takes as long as its archive.
const IMPORT_DEADLINE: Duration = Duration::from_mins(31);

/// Prints log lines as they come. A change of writer is said beside them, so that the lines themselves stay as written.
pub(super) async fn logs(
    agent: &mut Agent,
    console: &mut Console,
    format: Format,
    args: LogsArgs,
) -> Result<(), CliError> {
    let request = v1::LogsRequest {
        app: args.app,
        revision: args.revision.unwrap_or_default(),
        replica: args.replica.unwrap_or_default(),
        container: args.container.unwrap_or_default(),
        tail: args.tail,
        follow: args.follow,
    };
    let mut lines = agent.logs(request).await?.into_inner();
    let mut writer: Option<(String, String)> = None;
    while let Some(line) = lines.message().await? {
        let of_line = (line.replica.clone(), line.container.clone());
        if format == Format::Table && writer.as_ref().is_some_and(|writer| *writer != of_line) {
            console.say(&format!("==> {} {} <==\n", line.replica, line.container));
        }
        writer = Some(of_line);
        console.item(format, &line, |line| {
            if args.timestamps {
                format!("{} {}\n", line.time, line.line)
            } else {
                format!("{}\n", line.line)
            }
        })?;
    }
    if writer.is_none() {
        console.say("no lines\n");
    }
    Ok(())
}

/// Prints events as they come.
pub(super) async fn events(
    agent: &mut Agent,
    console: &mut Console,
    format: Format,
    follow: bool,
) -> Result<(), CliError> {
    let mut events = agent.events(v1::EventsRequest { follow }).await?.into_inner();
    while let Some(event) = events.message().await? {
        console.item(format, &event, event_line)?;
    }
    Ok(())
}

/// The narrowest subject that the event names; columns are as wide as most of their words.
fn event_line(event: &v1::Event) -> String {
    let subjects = [&event.replica, &event.revision, &event.app];
    let subject = subjects.into_iter().find(|name| !name.is_empty()).map_or("-", String::as_str);
    let v1::Event { time, reason, message, .. } = event;
    format!("{}\n", format!("{time}   {reason:<20}   {subject:<24}   {message}").trim_end())
}

/// Follows an app until it runs with its newest revision ready, or has failed. Nothing is concluded from the status of
/// the document before, whose digest is `stale`.
pub(super) async fn settled(
    agent: &mut Agent,
    console: &mut Console,
    app: &str,
    stale: Option<&str>,
) -> Result<(), CliError> {
    let mut states = agent.watch(v1::AppRequest { app: app.to_owned() }).await?.into_inner();
    while let Some(state) = states.message().await? {
        match outcome(&state, stale) {
            Outcome::Settled(how) => {
                console.end_progress();
                return console.print(&format!("app {app:?} {how}\n"));
            }
            Outcome::Failed(why) => {
                return Err(CliError::Failed { app: app.to_owned(), why });
            }
            Outcome::Open(progress) => console.progress(&progress),
        }
    }
    Err(CliError::Failed { app: app.to_owned(), why: "it is no longer there".to_owned() })
}

/// How far an app has come.
enum Outcome {
    Settled(&'static str),
    Failed(String),
    Open(String),
}

fn outcome(app: &v1::AppStatus, stale: Option<&str>) -> Outcome {
    if stale == Some(app.digest.as_str()) {
        return Outcome::Open(format!("{}: accepted", app.app));
    }
    if let Some(error) = app.error.as_ref().filter(|error| !error.reason.is_empty()) {
        return Outcome::Failed(finding(error));
    }
    let Some(newest) = app.revisions.first() else {
        return Outcome::Open(format!("{}: {}", app.app, app.running_status));
    };
    let details = match (reason_of(app), newest.details.as_str()) {
        ("", _) => newest.running_state.clone(),
        (reason, "") => reason.to_owned(),
        (reason, details) => format!("{reason}: {details}"),
    };
    if newest.phase == "RolledBack" || newest.provisioning_state == "Failed" {
        return Outcome::Failed(details);
    }
    let ready = app.latest_ready_revision_name == newest.name;
    match app.running_status.as_str() {
        // An app that is stopped by its owner is as asked for; waiting longer changes nothing.
        "Stopped" => Outcome::Settled("is stopped"),
        "Running" | "Ready" if ready => Outcome::Settled("runs"),
        _ => Outcome::Open(format!("{}: {}: {details}", newest.name, newest.phase)),
    }
}

/// Sends an archive in parts and answers with the names that it brought.
pub(super) async fn import(
    agent: &mut Agent,
    console: &mut Console,
    path: &Path,
) -> Result<Vec<String>, CliError> {
    let unreadable = |source| CliError::Read { path: path.to_owned(), source };
    let file = File::open(path).await.map_err(unreadable)?;
    send(agent, console, path, file, None).await
}

/// The same from an open file: `size` bytes of it, or all that come.
pub(super) async fn send(
    agent: &mut Agent,
    console: &mut Console,
    path: &Path,
    file: File,
    size: Option<u64>,
) -> Result<Vec<String>, CliError> {
    let unreadable = |source| CliError::Read { path: path.to_owned(), source };
    let length = match size {
        Some(size) => size,
        None => file.metadata().await.map_err(unreadable)?.len(),
    };
    let (sent, mut progress) = watch::channel(0_u64);
    let (failed, failure) = oneshot::channel();
    let file = file.take(size.unwrap_or(u64::MAX));
    let parts = stream::unfold((file, sent, failed), move |(mut file, sent, failed)| async move {
        let mut part = Vec::with_capacity(PART);
        match (&mut file).take(PART as u64).read_to_end(&mut part).await {
            Ok(0) if size.is_none_or(|size| size == *sent.borrow()) => None,
            Ok(1..) => {
                sent.send_modify(|sent| *sent += part.len() as u64);
                Some((v1::ImagesImportRequest { part }, (file, sent, failed)))
            }
            outcome => {
                // An end here would look like the archive's; the call is given up instead.
                let early = io::Error::from(io::ErrorKind::UnexpectedEof);
                drop(failed.send(outcome.err().unwrap_or(early)));
                std::future::pending().await
            }
        }
    });
    // A file that was read to its end has no failure to wait for.
    let failure = async {
        match failure.await {
            Ok(error) => error,
            Err(_) => std::future::pending().await,
        }
    };
    let mut failure = std::pin::pin!(failure);
    let mut request = Request::new(parts);
    request.set_timeout(IMPORT_DEADLINE);
    let mut answer = std::pin::pin!(agent.images_import(request));
    let reply = loop {
        tokio::select! {
            reply = &mut answer => break reply,
            error = &mut failure => return Err(unreadable(error)),
            Ok(()) = progress.changed() => {
                let sent = *progress.borrow_and_update();
                console.progress(&bar(path, sent, length));
            }
        }
    };
    console.end_progress();
    Ok(reply?.into_inner().names)
}

/// `images.tar  [########            ]  40 %  12.0 MiB`
fn bar(path: &Path, sent: u64, length: u64) -> String {
    const WIDTH: usize = 20;
    let percent = (sent * 100).checked_div(length).unwrap_or(100).min(100);
    let full = usize::try_from(percent).unwrap_or(100) * WIDTH / 100;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    format!("{name}  [{:<WIDTH$}]  {percent} %  {}", "#".repeat(full), size(sent))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(status: &str, phase: &str) -> v1::AppStatus {
        let revision = v1::RevisionStatus {
            name: "hello--0000002".to_owned(),
            phase: phase.to_owned(),
            running_state: "Processing".to_owned(),
            ..v1::RevisionStatus::default()
        };
        v1::AppStatus {
            app: "hello".to_owned(),
            running_status: status.to_owned(),
            latest_ready_revision_name: "hello--0000001".to_owned(),
            revisions: vec![revision],
            error: Some(v1::Finding::default()),
            ..v1::AppStatus::default()
        }
    }

    #[track_caller]
    fn check(state: &v1::AppStatus, expected: &str) {
        let found = match outcome(state, Some("sha256:old")) {
            Outcome::Settled(how) => format!("settled: {how}"),
            Outcome::Failed(why) => format!("failed: {why}"),
            Outcome::Open(progress) => format!("open: {progress}"),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn an_app_runs_only_once_its_newest_revision_was_ready() {
        let mut state = app("Running", "Starting");
        check(&state, "open: hello--0000002: Starting: Processing");
        state.latest_ready_revision_name = "hello--0000002".to_owned();
        check(&state, "settled: runs");
        state.digest = "sha256:old".to_owned();
        check(&state, "open: hello: accepted");
    }

    #[test]
    fn a_rolled_back_revision_has_failed_though_the_app_runs() {
        let mut state = app("Running", "RolledBack");
        state.revisions[0].reason = "DeadlineExceeded".to_owned();
        check(&state, "failed: DeadlineExceeded");
    }

    #[test]
    fn a_refused_document_has_failed() {
        let mut state = app("Running", "Committed");
        let (reason, message) = ("GenerationConflict".to_owned(), "12 is in force".to_owned());
        state.error = Some(v1::Finding { path: String::new(), reason, message });
        check(&state, "failed: 12 is in force (GenerationConflict)");
    }

    #[test]
    fn the_bar_fills_up() {
        assert_eq!(bar(Path::new("/a/b.tar"), 0, 0), "b.tar  [####################]  100 %  0 B");
        let half = "b.tar  [##########          ]  50 %  1.0 MiB";
        assert_eq!(bar(Path::new("b.tar"), 1 << 20, 2 << 20), half);
    }
}
