//! Refusals as gRPC statuses: the text in the message, the findings and the hint in the details.

use domain::document::Finding;
use domain::reason::Reason;
use domain::replica::Trouble;
use domain::status::Statuses;
use prost::Message;
use skerry_proto::v1;
use tonic::{Code, Status};

use crate::inbox::Refusal;
use crate::report::nearest;
use crate::wire;

/// Findings that a status carries: it travels in a header, and clients take headers of 16 KiB.
const MOST_FINDINGS: usize = 16;

/// Characters of a finding's message that a status carries, for the same reason.
const LONGEST_MESSAGE: usize = 300;

/// What the loop refused.
pub(super) fn refused(refusal: &Refusal, hint: String) -> Status {
    let reason = refusal.findings.first().map(|finding| finding.reason);
    let findings: Vec<v1::Finding> = refusal.findings.iter().map(wire::finding).collect();
    status(reason.map_or(Code::InvalidArgument, code), findings, hint)
}

/// What an adapter could not do.
pub(super) fn troubled(trouble: &Trouble) -> Status {
    status(code(trouble.reason), vec![wire::trouble(trouble)], String::new())
}

/// There is no such app; the nearest name is the hint.
pub(super) fn unknown_app(name: &str, statuses: &Statuses) -> Status {
    let finding = Finding {
        path: String::new(),
        reason: Reason::UnknownApp,
        message: format!("there is no app {name:?}"),
        position: None,
    };
    status(Code::NotFound, vec![wire::finding(&finding)], nearest_app(name, statuses))
}

/// The app that was meant, perhaps.
pub(super) fn nearest_app(name: &str, statuses: &Statuses) -> String {
    // The name of a revision begins with its app's.
    let name = name.split_once("--").map_or(name, |(app, _)| app);
    did_you_mean(nearest(name, statuses.apps.keys().map(String::as_str)))
}

/// The revision that was meant, perhaps.
pub(super) fn nearest_revision(name: &str, statuses: &Statuses) -> String {
    let revisions = statuses.apps.values().flat_map(|app| &app.revisions);
    did_you_mean(nearest(name, revisions.map(|revision| revision.name.as_str())))
}

fn did_you_mean(near: Option<&str>) -> String {
    near.map(|near| format!("did you mean {near:?}?")).unwrap_or_default()
}

fn status(code: Code, mut findings: Vec<v1::Finding>, hint: String) -> Status {
    let more = findings.len().saturating_sub(MOST_FINDINGS);
    findings.truncate(MOST_FINDINGS);
    for finding in &mut findings {
        finding.message = finding.message.chars().take(LONGEST_MESSAGE).collect();
    }
    if let (1.., Some(last)) = (more, findings.last_mut()) {
        last.message = format!("{} (and {more} more)", last.message);
    }
    let message = findings.first().map_or_else(
        || "refused".to_owned(),
        |finding| format!("{}: {}", finding.reason, finding.message),
    );
    let details = v1::Refused { findings, hint }.encode_to_vec();
    Status::with_details(code, message, details.into())
}

/// The code, for programs that do not know the reasons. Most reasons are about the document.
fn code(reason: Reason) -> Code {
    CODES.iter().find(|(of, _)| *of == reason).map_or(Code::InvalidArgument, |(_, code)| *code)
}

/// Reasons whose code says more than `InvalidArgument`.
const CODES: &[(Reason, Code)] = &[
    (Reason::UnknownApp, Code::NotFound),
    (Reason::UnknownSecret, Code::NotFound),
    (Reason::UnknownRevision, Code::NotFound),
    (Reason::RevisionInactive, Code::FailedPrecondition),
    (Reason::WrongMode, Code::FailedPrecondition),
    (Reason::TemplateRefused, Code::FailedPrecondition),
    (Reason::ImageNotFound, Code::NotFound),
    (Reason::OwnedByOtherSource, Code::FailedPrecondition),
    (Reason::GenerationConflict, Code::FailedPrecondition),
    (Reason::ImageNoSpace, Code::ResourceExhausted),
    (Reason::StorageFull, Code::ResourceExhausted),
    (Reason::StorageFailed, Code::Internal),
    (Reason::ContainerdFailed, Code::Internal),
    (Reason::ImageCorrupt, Code::Internal),
    (Reason::ImageUntrusted, Code::FailedPrecondition),
    (Reason::ContainerdUnavailable, Code::Unavailable),
    (Reason::RegistryUnreachable, Code::Unavailable),
    (Reason::ContainerdForbidden, Code::PermissionDenied),
    (Reason::NotRoot, Code::PermissionDenied),
];
