//! `skerry apply`: a document, or a bundle of documents with their images.
//!
//! ```text
//!   bundle ─▶ every sum ─▶ every document ─▶ images ─▶ environments ─▶ apps and jobs
//!             checked      checked           imported  applied
//! ```
//!
//! Until the first image is imported, a bundle has changed nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use domain::intake::{AnyParsed, take_any_apart};
use domain::model::Digest;
use skerry_proto::v1;
use tokio::fs::File;

use super::args::Format;
use super::bundle::{Bundle, Placed, is_tar, looks_like_tar};
use super::client::{Agent, brief, connect};
use super::commands::read;
use super::error::{CliError, finding};
use super::follow;
use super::output::Console;
use super::show::size;

/// How it is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    pub(super) force: bool,
    pub(super) wait: bool,
}

/// Applies what the file holds. What is wrong with a file is said before what is wrong with the agent.
pub(super) async fn run(
    console: &mut Console,
    output: Format,
    socket: &Path,
    file: PathBuf,
    manner: Manner,
) -> Result<(), CliError> {
    let is_stdin = file == Path::new("-");
    if !is_stdin && is_tar(&file).is_ok_and(|tar| tar) {
        return bundle(console, output, socket, &file, manner).await;
    }
    let document = read(file.clone()).await?;
    if is_stdin && looks_like_tar(&document) {
        let message = "a bundle is read twice, and the standard input only once".to_owned();
        let hint = Some("give it as a file: skerry apply -f bundle.tar".to_owned());
        return Err(CliError::Typed { message, hint });
    }
    let mut agent = connect(socket).await?;
    let before = before(&mut agent, manner).await?;
    let applied = apply(&mut agent, console, output, document, manner).await?;
    settle(&mut agent, console, &before, &[applied], manner).await
}

async fn bundle(
    console: &mut Console,
    output: Format,
    socket: &Path,
    path: &Path,
    manner: Manner,
) -> Result<(), CliError> {
    let mut bundle = Bundle::open(path, |so_far, length| {
        console.progress(&format!("checking  {} of {}", size(so_far), size(length)));
    })?;
    console.end_progress();
    let documents = documents(&mut bundle, path)?;
    let (images, count) = (bundle.images.clone(), documents.len());
    console.say(&format!("checked: {} and {}\n", counted(count, "document"), archives(&images)));
    let mut agent = connect(socket).await?;
    for archive in images {
        let file = File::from_std(bundle.at(&archive)?);
        let named = Path::new(&archive.path);
        for name in follow::send(&mut agent, console, named, file, Some(archive.size)).await? {
            console.say(&format!("image {name} imported\n"));
        }
    }
    let before = before(&mut agent, manner).await?;
    let mut applied = Vec::new();
    for document in documents {
        applied.push(apply(&mut agent, console, output, document, manner).await?);
    }
    settle(&mut agent, console, &before, &applied, manner).await
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn archives(images: &[Placed]) -> String {
    counted(images.iter().map(|archive| archive.names.len()).sum(), "image")
}

/// The documents, each found good, those of environments first.
fn documents(bundle: &mut Bundle, path: &Path) -> Result<Vec<Vec<u8>>, CliError> {
    let (mut environments, mut workloads) = (Vec::new(), Vec::new());
    for document in bundle.documents.clone() {
        let bytes = bundle.read(&document)?;
        match take_any_apart(&bytes) {
            Ok(AnyParsed::Environment(_)) => environments.push(bytes),
            Ok(AnyParsed::Workload(_)) => workloads.push(bytes),
            Err(findings) => {
                let place = format!("{}: {}", path.display(), document.path);
                return Err(CliError::refused(&place, &findings));
            }
        }
    }
    environments.append(&mut workloads);
    Ok(environments)
}

/// A document that the agent took.
struct Applied {
    reply: v1::ApplyReply,
    digest: String,
}

async fn apply(
    agent: &mut Agent,
    console: &mut Console,
    output: Format,
    document: Vec<u8>,
    manner: Manner,
) -> Result<Applied, CliError> {
    let digest = Digest::of(&document).to_string();
    let request = v1::ApplyRequest { document, force: manner.force };
    let reply = agent.apply(brief(request)).await?.into_inner();
    if output == Format::Table {
        for warning in &reply.warnings {
            console.say(&format!("warning: {}\n", finding(warning)));
        }
    }
    console.answer(output, &reply, |reply| {
        let what = if reply.changed { "accepted" } else { "unchanged" };
        format!("{} {:?} {what}\n", reply.kind, reply.name)
    })?;
    Ok(Applied { reply, digest })
}

/// The digest of every app's document, where somebody waits for new ones.
async fn before(agent: &mut Agent, manner: Manner) -> Result<BTreeMap<String, String>, CliError> {
    if !manner.wait {
        return Ok(BTreeMap::new());
    }
    let reply = agent.apps(brief(v1::AppsRequest {})).await?.into_inner();
    Ok(reply.apps.into_iter().map(|app| (app.app, app.digest)).collect())
}

/// Waits until all of them run, where that is asked for.
async fn settle(
    agent: &mut Agent,
    console: &mut Console,
    before: &BTreeMap<String, String>,
    applied: &[Applied],
    manner: Manner,
) -> Result<(), CliError> {
    let waited_for = applied.iter().filter(|applied| applied.reply.kind != "environment");
    for Applied { reply, digest } in waited_for.filter(|_| manner.wait) {
        let stale = before.get(&reply.name).filter(|before| reply.changed && *before != digest);
        follow::settled(agent, console, &reply.name, stale.map(String::as_str)).await?;
    }
    Ok(())
}
