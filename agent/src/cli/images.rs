//! `skerry images`: what is on the board, and images in and out of it.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use skerry_proto::v1;
use tokio::signal::unix::{SignalKind, signal};
use tonic::Streaming;

use super::args::{Format, ImagesCommand, Output};
use super::client::{Agent, brief};
use super::error::CliError;
use super::output::Console;
use super::show::{self, size};
use super::whole_file::WholeFile;
use super::{follow, secret};

/// Steps of a transfer that are told where no person watches.
const MILESTONES: u64 = 10;

/// Does one of them; none is `ls`.
pub(super) async fn run(
    agent: &mut Agent,
    console: &mut Console,
    format: Format,
    command: Option<ImagesCommand>,
) -> Result<(), CliError> {
    match command {
        None | Some(ImagesCommand::Ls) => {
            let images = agent.images(brief(v1::ImagesRequest {})).await?.into_inner().images;
            let now = console.now;
            console.answer(format, &images, |images| show::images(images, now))
        }
        Some(ImagesCommand::Import { files }) => import(agent, console, &files).await,
        Some(ImagesCommand::Pull { reference, username }) => {
            let password = match username {
                Some(_) => secret::read().await?.0,
                None => String::new(),
            };
            let username = username.unwrap_or_default();
            let request = v1::ImagesPullRequest { reference, username, password };
            pull(agent, console, format, request).await
        }
        Some(ImagesCommand::Export { references, output: Output::File(file) }) => {
            export(agent, console, references, &file).await
        }
        // Its `-o` gives nothing but files.
        Some(ImagesCommand::Export { output: Output::Format(_), .. }) => Ok(()),
    }
}

async fn import(
    agent: &mut Agent,
    console: &mut Console,
    files: &[PathBuf],
) -> Result<(), CliError> {
    for file in files {
        for name in follow::import(agent, console, file).await? {
            console.print(&format!("{name}\n"))?;
        }
    }
    Ok(())
}

/// Follows a pull to its end. Interrupted, it ends, and what came is kept.
async fn pull(
    agent: &mut Agent,
    console: &mut Console,
    format: Format,
    request: v1::ImagesPullRequest,
) -> Result<(), CliError> {
    let reference = request.reference.clone();
    let kept = || {
        let hint = format!("what came is kept: skerry images pull {reference} goes on from there");
        CliError::Interrupted(hint)
    };
    let work = async {
        let mut news = agent.images_pull(brief(request)).await?.into_inner();
        let mut milestones = Milestones::default();
        while let Some(reply) = news.message().await? {
            if !reply.digest.is_empty() {
                console.end_progress();
                return Ok(reply);
            }
            let line = format!("{reference}: {}", reply.progress);
            console.progress(&line);
            if milestones.pass(reply.bytes_done, reply.bytes) {
                console.milestone(&line);
            }
        }
        Err(kept())
    };
    let came = or_interrupted(work, kept).await?;
    if format == Format::Table && !came.warning.is_empty() {
        console.say(&format!("warning: {}\n", came.warning));
    }
    console.answer(format, &came, |came| format!("{}@{}\n", came.name, came.digest))
}

/// Writes an archive, whole or not at all.
async fn export(
    agent: &mut Agent,
    console: &mut Console,
    references: Vec<String>,
    file: &Path,
) -> Result<(), CliError> {
    let mut target = Target::open(file)?;
    let work = async {
        let mut parts = Parts::ask(agent, references).await?;
        while let Some(part) = parts.next(console).await? {
            target.write(console, &part)?;
        }
        console.end_progress();
        target.close(console)?;
        Ok(parts.names)
    };
    let names = or_interrupted(work, || {
        CliError::Interrupted(format!("{} is not written", file.display()))
    });
    for name in names.await? {
        console.say(&format!("{name}\n"));
    }
    Ok(())
}

/// Where an archive goes: a file, or the standard output.
#[derive(Debug)]
pub(super) enum Target {
    File(WholeFile),
    Out,
}

impl Target {
    /// Opens it. Nobody wants an archive on a terminal.
    pub(super) fn open(file: &Path) -> Result<Self, CliError> {
        if file != Path::new("-") {
            return WholeFile::create(file).map(Self::File);
        }
        if io::stdout().is_terminal() {
            let message = "the standard output is a terminal".to_owned();
            return Err(CliError::Typed { message, hint: Some("name a file by -o".to_owned()) });
        }
        Ok(Self::Out)
    }

    /// The next bytes.
    pub(super) fn write(&mut self, console: &mut Console, bytes: &[u8]) -> Result<(), CliError> {
        match self {
            Self::File(file) => file.write(bytes),
            Self::Out => console.out.write_all(bytes).map_err(CliError::Print),
        }
    }

    /// It is whole.
    pub(super) fn close(self, console: &mut Console) -> Result<(), CliError> {
        match self {
            Self::File(file) => file.keep(),
            Self::Out => console.out.flush().map_err(CliError::Print),
        }
    }
}

/// An archive as it comes from the agent.
pub(super) struct Parts {
    replies: Streaming<v1::ImagesExportReply>,
    /// What is in it.
    pub(super) names: Vec<String>,
    /// Its bytes.
    pub(super) size: u64,
    came: u64,
    milestones: Milestones,
}

impl Parts {
    pub(super) async fn ask(agent: &mut Agent, references: Vec<String>) -> Result<Self, CliError> {
        let request = v1::ImagesExportRequest { references };
        let mut replies = agent.images_export(brief(request)).await?.into_inner();
        let head = replies.message().await?.unwrap_or_default();
        let (names, size) = (head.names, head.size_bytes);
        Ok(Self { replies, names, size, came: 0, milestones: Milestones::default() })
    }

    /// The next part; none is the end. An agent that stops ends it early, which is an error.
    pub(super) async fn next(
        &mut self,
        console: &mut Console,
    ) -> Result<Option<Vec<u8>>, CliError> {
        match self.replies.message().await? {
            Some(reply) => {
                self.came += reply.part.len() as u64;
                let line = format!("{} of {}", size(self.came), size(self.size));
                console.progress(&line);
                if self.milestones.pass(self.came, self.size) {
                    console.milestone(&line);
                }
                Ok(Some(reply.part))
            }
            None if self.came == self.size => Ok(None),
            None => Err(CliError::Interrupted("the agent stopped in the middle".to_owned())),
        }
    }
}

/// Which steps of a transfer were told.
#[derive(Debug, Default)]
struct Milestones(u64);

impl Milestones {
    /// Whether another step is passed.
    fn pass(&mut self, done: u64, all: u64) -> bool {
        let step = done.saturating_mul(MILESTONES).checked_div(all).unwrap_or(MILESTONES);
        let passed = self.0 < step;
        self.0 = self.0.max(step);
        passed
    }
}

/// Does the work, unless somebody says that it should end.
pub(super) async fn or_interrupted<T>(
    work: impl Future<Output = Result<T, CliError>>,
    interrupted: impl FnOnce() -> CliError,
) -> Result<T, CliError> {
    let asked = |kind| signal(kind).map_err(CliError::Runtime);
    let mut interrupt = asked(SignalKind::interrupt())?;
    let mut terminate = asked(SignalKind::terminate())?;
    tokio::select! {
        done = work => done,
        _ = interrupt.recv() => Err(interrupted()),
        _ = terminate.recv() => Err(interrupted()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_steps_are_told_each_once() {
        let mut milestones = Milestones::default();
        let told = (0..=1000).filter(|done| milestones.pass(*done, 1000)).count();
        assert_eq!(told, 10);
        assert!(Milestones::default().pass(0, 0), "nothing to fetch is all of it");
    }
}
