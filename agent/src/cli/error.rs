//! What a person reads when a command fails, and the exit code that a script sees.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use domain::document::Finding;
use domain::reason::{Reason, UnknownReason};
use prost::Message as _;
use skerry_proto::v1;
use tonic::{Code, Status};

use crate::report::Hint;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// Nobody answers.
    #[error("cannot reach the agent at {}", socket.display())]
    Unreachable {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Something answers, and it does not speak the agent's language.
    #[error("no agent answers at {}", socket.display())]
    NotAnAgent {
        socket: PathBuf,
        #[source]
        source: tonic::transport::Error,
    },
    /// The agent said no, and why.
    #[error("{}", findings(&.0.findings))]
    Refused(v1::Refused),
    /// The call broke.
    #[error("{}", .0.message())]
    Call(Box<Status>),
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// It is no bundle, or not whole.
    #[error("{} cannot be applied: {why}", path.display())]
    Bundle { path: PathBuf, why: String },
    /// A person at the terminal, or the system, has seen enough.
    #[error("interrupted: {0}")]
    Interrupted(String),
    /// A value is expected, and a person sits at the keyboard.
    #[error("the value is read from the standard input, which is a terminal")]
    Terminal,
    /// The standard input holds no value.
    #[error("the standard input is no value: {0}")]
    NoValue(&'static str),
    /// The text is no public key.
    #[error("{0:?} is no public key of a device")]
    NoPublicKey(String),
    /// The document has errors; they were printed.
    #[error("{} is not a document that the agent would take", .0.display())]
    Invalid(PathBuf),
    /// The doctor's checks found something; it was printed.
    #[error("{0} {checks} failed", checks = if *.0 == 1 { "check" } else { "checks" })]
    Unwell(usize),
    /// The old agent is there, or is there again.
    #[error("the agent is not replaced: {why}")]
    NotUpgraded { why: String, hint: Option<String> },
    /// `apply --wait` saw it fail.
    #[error("{app} is not as asked for: {why}")]
    Failed { app: String, why: String },
    /// What was typed means nothing, or two things.
    #[error("{message}")]
    Typed { message: String, hint: Option<String> },
    /// The word is no reason.
    #[error(transparent)]
    NoReason(#[from] UnknownReason),
    /// The answer could not be printed.
    #[error("cannot print the answer")]
    Print(#[source] io::Error),
    /// The answer has no such shape.
    #[error("cannot write the answer as {format}: {why}")]
    Format { format: &'static str, why: String },
    /// The system gave no runtime.
    #[error("cannot start")]
    Runtime(#[source] io::Error),
}

impl CliError {
    /// The reader of a pipe has seen enough: no failure, and nobody to tell.
    pub(super) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Print(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl CliError {
    /// A document of a bundle has errors, each told by where it stands.
    pub(super) fn refused(place: &str, findings: &[Finding]) -> Self {
        let findings = findings.iter().map(|finding| v1::Finding {
            path: format!("{place}: {}", finding.path).trim_end_matches([':', ' ']).to_owned(),
            reason: finding.reason.word().to_owned(),
            message: finding.message.clone(),
        });
        Self::Refused(v1::Refused { findings: findings.collect(), hint: String::new() })
    }
}

impl From<Status> for CliError {
    fn from(status: Status) -> Self {
        match v1::Refused::decode(status.details()) {
            Ok(refused) if !refused.findings.is_empty() => Self::Refused(refused),
            Ok(_) | Err(_) => Self::Call(Box::new(status)),
        }
    }
}

/// One finding stands in the line; several stand below it.
fn findings(findings: &[v1::Finding]) -> String {
    if let [one] = findings {
        return finding(one);
    }
    let mut text = format!("refused, for {} reasons", findings.len());
    for one in findings {
        write!(text, "\n  {}", finding(one)).expect("a string takes all text");
    }
    text
}

/// `path: message (Reason)`, in one line: messages quote documents, registries and containers.
pub(super) fn finding(finding: &v1::Finding) -> String {
    let text = match finding.path.as_str() {
        "" => format!("{} ({})", finding.message, finding.reason),
        path => format!("{path}: {} ({})", finding.message, finding.reason),
    };
    text.replace(char::is_control, " ")
}

impl Hint for CliError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Unreachable { socket, source } => Some(unreachable_hint(socket, source)),
            Self::NotAnAgent { .. } => Some("check --socket".to_owned()),
            Self::Refused(refused) => refused_hint(refused),
            Self::Call(status) => call_hint(status.code()),
            Self::Failed { app, .. } => Some(format!("skerry explain {app}")),
            Self::Typed { hint, .. } | Self::NotUpgraded { hint, .. } => hint.clone(),
            Self::NoReason(UnknownReason(word)) => nearest_reason(word),
            Self::Terminal | Self::NoValue(_) => {
                Some("pipe it in, such as: skerry secret set APP NAME < FILE".to_owned())
            }
            Self::NoPublicKey(_) => Some("take publicKey of the device's status".to_owned()),
            Self::Write { source, .. } if source.kind() == io::ErrorKind::AlreadyExists => {
                Some("give another name: what is there is kept".to_owned())
            }
            Self::Bundle { path, .. } => Some(format!(
                "nothing was changed; copy or make it again, and archives of images are for: skerry images import {}",
                path.display()
            )),
            Self::Read { .. }
            | Self::Write { .. }
            | Self::Interrupted(_)
            | Self::Invalid(_)
            | Self::Unwell(_)
            | Self::Print(_)
            | Self::Format { .. }
            | Self::Runtime(_) => None,
        }
    }
}

fn unreachable_hint(socket: &Path, error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::PermissionDenied {
        return "join the group skerry, or use sudo".to_owned();
    }
    match socket.to_str() {
        Some("/run/skerry/agent.sock") => {
            "is skerry.service running? systemctl status skerry".to_owned()
        }
        Some(_) | None => "is the agent running, and is --socket its socket?".to_owned(),
    }
}

/// What the agent said, else the fix of the first reason.
fn refused_hint(refused: &v1::Refused) -> Option<String> {
    if !refused.hint.is_empty() {
        return Some(refused.hint.clone());
    }
    let reason: Reason = refused.findings.first()?.reason.parse().ok()?;
    Some(reason.fix().trim_end_matches('.').to_owned())
}

fn call_hint(code: Code) -> Option<String> {
    match code {
        Code::Unimplemented => {
            Some("the agent is older than this command; restart it after an update".to_owned())
        }
        Code::DeadlineExceeded => Some("see journalctl -u skerry for what holds it up".to_owned()),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => None,
    }
}

fn nearest_reason(word: &str) -> Option<String> {
    let lower = word.to_lowercase();
    Reason::ALL
        .iter()
        .map(|reason| (strsim::damerau_levenshtein(&lower, &reason.word().to_lowercase()), reason))
        .min()
        .filter(|(distance, reason)| *distance <= reason.word().len() / 2)
        .map(|(_, reason)| format!("did you mean {reason}?"))
        .or_else(|| Some("skerry explain lists them".to_owned()))
}
