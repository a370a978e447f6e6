//! `skerry doctor`: looks at the board, and says what to do.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use skerry_proto::v1;
use tokio::{task, time};

use super::args::{DoctorArgs, Format};
use super::client::{Agent, brief, connect};
use super::error::CliError;
use super::output::Console;
use super::table::Table;
use crate::clock::Clock;
use crate::config::Config;
use crate::doctor::{Board, Check, Finding, Level, Piece, checks, examine, pack};
use crate::report::{Chain, nearest};

/// What the agent may take to tell one thing for a bundle, which is made without it where it hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was written, for programs.
#[derive(Debug, Serialize)]
struct Written {
    bundle: String,
    files: usize,
    bytes: usize,
}

/// Looks at this board, and fails where a check does.
pub(super) async fn run(
    console: &mut Console,
    output: Format,
    socket: &Path,
    args: DoctorArgs,
) -> Result<(), CliError> {
    let DoctorArgs { config: path, only, bundle } = args;
    let wanted = wanted(&only)?;
    let mut config = Config::load(&path).map_err(|error| Chain(&error).to_string());
    if let Ok(config) = &mut config {
        config.use_kept_boot_file();
    }
    let board = Arc::new(Board::here(config, Clock::default().system()));
    let findings = examine(&board, wanted).await;
    if let Some(file) = bundle {
        let told = told(socket).await;
        let packed = task::spawn_blocking(move || pack(&board, &path, &findings, told)).await;
        let packed = packed.map_err(|error| CliError::Write {
            path: file.clone(),
            source: std::io::Error::other(error),
        })?;
        let written = packed.and_then(|bundle| {
            // Never over something that is there, and for nobody else to read.
            let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file)?;
            to.write_all(&bundle.bytes)?;
            let name = file.display().to_string();
            Ok(Written { bundle: name, files: bundle.files, bytes: bundle.bytes.len() })
        });
        let written = written.map_err(|source| CliError::Write { path: file, source })?;
        return console.answer(output, &written, |Written { bundle, files, bytes }| {
            format!(
                "{bundle} has {files} files in {bytes} bytes; look into it before you pass it on\n"
            )
        });
    }
    console.answer(output, &findings, |findings| table(findings))?;
    let failed = findings.iter().filter(|finding| finding.level == Level::Fail).count();
    if failed == 0 { Ok(()) } else { Err(CliError::Unwell(failed)) }
}

/// The checks that were asked for; all, where none was.
fn wanted(only: &[String]) -> Result<Vec<Check>, CliError> {
    if only.is_empty() {
        return Ok(checks().collect());
    }
    let find = |name: &String| {
        checks().find(|check| check.name() == name).ok_or_else(|| {
            let near = nearest(name, checks().map(Check::name));
            let message = format!("there is no check {name:?}");
            CliError::Typed { message, hint: near.map(|near| format!("did you mean {near}?")) }
        })
    };
    only.iter().map(find).collect()
}

/// What the agent tells of itself and its apps; where it does not, why not.
async fn told(socket: &Path) -> Vec<Piece> {
    let mut agent = match within(connect(socket)).await {
        Ok(agent) => agent,
        Err(why) => return vec![Piece::new("agent/none.txt", format!("{why}\n"))],
    };
    let mut pieces = Vec::new();
    let answers = [
        ("device", within(device(&mut agent)).await),
        ("apps", within(apps(&mut agent)).await),
        ("environments", within(environments(&mut agent)).await),
        ("images", within(images(&mut agent)).await),
        ("events", within(events(&mut agent)).await),
    ];
    for (name, answer) in answers {
        pieces.push(match answer {
            Ok(text) => Piece::new(format!("agent/{name}.json"), text),
            Err(why) => Piece::new(format!("agent/{name}.txt"), format!("{why}\n")),
        });
    }
    pieces
}

async fn within<T>(asked: impl Future<Output = Result<T, CliError>>) -> Result<T, String> {
    match time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer.map_err(|error| Chain(&error).to_string()),
        Err(_) => Err(format!("the agent does not answer within {} seconds", PATIENCE.as_secs())),
    }
}

async fn device(agent: &mut Agent) -> Result<String, CliError> {
    json(&agent.device(brief(v1::DeviceRequest {})).await?.into_inner())
}

async fn apps(agent: &mut Agent) -> Result<String, CliError> {
    json(&agent.apps(brief(v1::AppsRequest {})).await?.into_inner())
}

async fn environments(agent: &mut Agent) -> Result<String, CliError> {
    json(&agent.environments(brief(v1::EnvironmentsRequest {})).await?.into_inner())
}

async fn images(agent: &mut Agent) -> Result<String, CliError> {
    json(&agent.images(brief(v1::ImagesRequest {})).await?.into_inner())
}

async fn events(agent: &mut Agent) -> Result<String, CliError> {
    let mut stream = agent.events(brief(v1::EventsRequest { follow: false })).await?.into_inner();
    let mut events = Vec::new();
    while let Some(event) = stream.message().await? {
        events.push(event);
    }
    json(&events)
}

fn json<T: Serialize>(answer: &T) -> Result<String, CliError> {
    serde_json::to_string_pretty(answer)
        .map_err(|error| CliError::Format { format: "JSON", why: error.to_string() })
}

/// A line for each check, and below it what to do for those that are not as they should be.
fn table(findings: &[Finding]) -> String {
    let mut rows = Table::new(["LEVEL", "TOPIC", "CHECK", "FOUND"]);
    for Finding { check, topic, level, found, .. } in findings {
        rows.row([level.to_string(), topic.to_string(), (*check).to_owned(), found.clone()]);
    }
    let rows = rows.render();
    let mut lines = rows.lines();
    let mut text = format!("{}\n", lines.next().unwrap_or_default());
    for (line, finding) in lines.zip(findings) {
        text.extend([line, "\n"]);
        if !finding.fix.is_empty() {
            text.extend(["        fix: ", &finding.fix, "\n"]);
        }
    }
    text
}
